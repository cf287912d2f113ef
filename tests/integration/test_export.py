"""Exported models: they predict what the run predicts, and a file that is not one is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

import patchcore as pc
from commands import patchcore
from patchcore.errors import CheckpointError, ConfigError, DataError, SchemaVersionError
from patchcore.inference.export import export_model, read_model
from patchcore.inference.predict import predict
from patchcore.study import Study

MakeRun = Callable[..., Path]
RunAttempt = Callable[..., int]


@pytest.fixture
def trained(make_run: MakeRun, run_attempt: RunAttempt) -> Path:
    run = make_run("train.steps=2", "optim.ema=0.5")
    assert run_attempt(run) == 0
    return run


def parts(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewrite(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def test_an_exported_model_predicts_what_its_run_predicts(trained: Path, tiny_study: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.zip"
    exported = patchcore("export", trained, "-o", model)
    assert exported.returncode == 0, exported.stderr
    assert sorted(parts(model)) == ["README.md", "config.json", "model.json", "plan.json", "weights.safetensors"]
    assert b"Trained on 4 cases; 2 others were used for selection." in parts(model)["README.md"]
    scan = sorted((Study(tiny_study).dataset_root / "images").iterdir())[0]
    predict(trained, scan, tmp_path / "run.nii.gz", device="cpu")
    moved = model.rename(tmp_path / "elsewhere.zip")  # the file needs neither run nor study
    shutil.rmtree(trained)
    shown = patchcore("predict", moved, scan, "-o", tmp_path / "model.nii.gz", "--device", "cpu")
    assert shown.returncode == 0, shown.stderr
    first, second = (np.asanyarray(nibabel.load(tmp_path / name).dataobj) for name in ("run.nii.gz", "model.nii.gz"))
    np.testing.assert_array_equal(first, second)
    with pytest.raises(ConfigError, match="one checkpoint"):
        predict(moved, scan, tmp_path / "x.nii.gz", checkpoint="last")


def test_equal_models_are_equal_files_and_nothing_is_replaced_unasked(trained: Path, tmp_path: Path) -> None:
    first = pc.export_model(trained, tmp_path / "a.zip")
    second = pc.export_model(trained, tmp_path / "b.zip")
    left, right = parts(first), parts(second)
    # The time of the export is the only difference.
    times = [json.loads(one.pop("model.json")) for one in (left, right)]
    assert left == right
    assert {name for name in times[0] if times[0][name] != times[1][name]} <= {"created"}
    with pytest.raises(DataError, match="already exists"):
        export_model(trained, first)
    export_model(trained, first, overwrite=True)
    with pytest.raises(ConfigError, match=r"ends in \.zip"):
        export_model(trained, tmp_path / "model.pt")
    assert list(tmp_path.glob(".*")) == []


def test_a_file_that_is_not_the_exported_one_is_refused(trained: Path, tmp_path: Path) -> None:
    good = export_model(trained, tmp_path / "model.zip")
    members = parts(good)
    bad = tmp_path / "bad.zip"
    # Any changed byte of the weights.
    content = bytearray(good.read_bytes())
    content[len(content) // 2] ^= 1
    bad.write_bytes(bytes(content))
    with pytest.raises(CheckpointError):
        read_model(bad)
    for name in ("weights.safetensors", "plan.json", "config.json"):
        rewrite(bad, members | {name: members[name][:-1] + b"x"})
        with pytest.raises(CheckpointError, match=f"{name} has changed"):
            read_model(bad)
        rewrite(bad, {key: value for key, value in members.items() if key != name})
        with pytest.raises(CheckpointError, match=f"has no {name}"):
            read_model(bad)
    facts = json.loads(members["model.json"])
    for changed, error, words in (
        (facts | {"schema_version": 99}, SchemaVersionError, "newer patchcore"),
        (facts | {"format": "other"}, CheckpointError, "not a model that patchcore exported"),
        (facts | {"files": []}, CheckpointError, "not a model that patchcore exported"),
        (facts | {"files": {}}, CheckpointError, "has changed"),
    ):
        rewrite(bad, members | {"model.json": json.dumps(changed).encode()})
        with pytest.raises(error, match=words):
            read_model(bad)
    for config in (b"[" * 200_000, b"3"):
        hashes = facts | {"files": facts["files"] | {"config.json": {"sha256": hashlib.sha256(config).hexdigest()}}}
        rewrite(bad, members | {"model.json": json.dumps(hashes).encode(), "config.json": config})
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_model(bad)
    rewrite(bad, members | {"model.json": json.dumps(facts | {"step": "x"}).encode()})
    with pytest.raises(CheckpointError, match="not a model that patchcore exported"):
        read_model(bad)
    # A member that would be much larger than the file.
    rewrite(bad, members | {"model.json": b" " * (8 << 20)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="not stored as patchcore stores it"):
        read_model(bad)
    for nonsense in (b"", b"no zip", good.read_bytes()[:5000]):
        bad.write_bytes(nonsense)
        with pytest.raises(CheckpointError, match="is not an exported model"):
            read_model(bad)
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), tmp_path / "scan.nii")
    refused = patchcore("predict", bad, tmp_path / "scan.nii", "-o", tmp_path / "out.nii")
    assert refused.returncode == 1
    assert "is not an exported model" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_code_of_the_user_is_never_named_in_a_file(trained: Path, tmp_path: Path) -> None:
    import hashlib

    members = parts(export_model(trained, tmp_path / "model.zip"))
    config = json.loads(members["config.json"])
    config["model"]["network"] = "os:system"
    members["config.json"] = json.dumps(config).encode()
    facts = json.loads(members["model.json"])
    facts["files"]["config.json"]["sha256"] = hashlib.sha256(members["config.json"]).hexdigest()
    members["model.json"] = json.dumps(facts).encode()
    rewrite(tmp_path / "own.zip", members)
    with pytest.raises(ConfigError, match="code of your own"):
        read_model(tmp_path / "own.zip")
