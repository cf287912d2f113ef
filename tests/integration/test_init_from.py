"""Trainings initialised with other weights: from another patch size, frozen for a while, resumed, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from patchcore.errors import ConfigError, SchemaVersionError
from patchcore.models import UNETR
from patchcore.runs import RunReader
from patchcore.study import Study
from patchcore.training.init_from import _differences, _of_run

MakeRun = Callable[..., Path]
RunAttempt = Callable[..., int]
Losses = Callable[[Path], dict[int, float]]


def weights(run: Path, which: str = "last") -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / which / "model.safetensors")


@pytest.fixture
def source(make_run: MakeRun, run_attempt: RunAttempt) -> Path:
    run = make_run()
    assert run_attempt(run) == 0
    return run


def test_across_patch_sizes(
    tiny_study: Path, source: Path, make_run: MakeRun, run_attempt: RunAttempt, losses: Losses
) -> None:
    study = Study(tiny_study)
    plan = json.loads(study.plan_path.read_text(encoding="utf-8"))
    plan["targets"][0]["patch_size"] = [4, 4, 4]
    study.plan_path.write_text(json.dumps(plan))
    run, scratch, broken = make_run(f"init.source={source.name}"), make_run(), make_run(f"init.source={source}")
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert (record["kind"], record["parent"]) == ("fine-tune", source.name)
    assert run_attempt(run) == run_attempt(scratch) == 0
    assert losses(run) != losses(scratch)
    report = json.loads((run / "init_report.json").read_text(encoding="utf-8"))
    by_name = {tensor["name"]: tensor for tensor in report["tensors"]}
    assert by_name["vit.patch_embedding.patch_embeddings.weight"]["action"] == "resampled"
    assert by_name["decoder2.conv_block.conv1.conv.weight"]["action"] == "kept"
    assert report["differences"] == ["patch size 8 × 8 × 8 in the source, 4 × 4 × 4 in this plan"]
    assert any("different preprocessing: patch size" in alert.message for alert in RunReader(run).poll().alerts)
    # A resume continues with the run's own weights, not with the source's.
    assert run_attempt(broken, 1, train={"steps": 3}) == 0
    (broken / "init_report.json").unlink()
    assert run_attempt(broken, 2) == 0
    assert not (broken / "init_report.json").exists()
    assert losses(broken)[1] == losses(run)[1]


def test_a_lesion_of_another_number_is_not_a_other_class(tiny_study: Path) -> None:
    target = Study(tiny_study).plan().target
    other = target.model_copy(update={"classes": (2,), "lesion_label": 2})
    assert _differences(other, target) == []
    (difference,) = _differences(target.model_copy(update={"classes": (1, 2)}), target)
    assert "output channels follow the order of the classes" in difference


def test_a_frozen_transformer_stays_as_it_was(source: Path, make_run: MakeRun, run_attempt: RunAttempt) -> None:
    run = make_run(f"init.source={source}", "init.freeze_epochs=1", "train.steps=3")
    assert run_attempt(run) == 0
    before, after = weights(source, "best"), weights(run)
    for name, value in before.items():
        if name.startswith("vit."):
            assert torch.equal(after[name], value), name
    assert not torch.equal(after["decoder2.transp_conv.conv.weight"], before["decoder2.transp_conv.conv.weight"])
    assert run_attempt(run, 2, train={"steps": 6}) == 0
    thawed = weights(run)
    assert not torch.equal(thawed["vit.norm.weight"], before["vit.norm.weight"])


def test_the_encoder_of_a_file(source: Path, make_run: MakeRun, run_attempt: RunAttempt, tmp_path: Path) -> None:
    torch.save({"state_dict": weights(source)}, tmp_path / "foreign.pt")
    run = make_run(f"init.source={tmp_path / 'foreign.pt'}", "init.part=encoder", "train.steps=1")
    assert run_attempt(run) == 0
    report = json.loads((run / "init_report.json").read_text(encoding="utf-8"))
    assert report["differences"] is None
    assert {tensor["action"] for tensor in report["tensors"]} == {"kept", "re-made"}


def test_a_file_of_several_patch_sizes_is_refused(make_run: MakeRun, run_attempt: RunAttempt, tmp_path: Path) -> None:
    network = UNETR(1, 2, 16, 8, hidden_size=24, mlp_dim=24, num_heads=2, feature_size=4, patch_sizes=[4, 8])
    save_file(network.state_dict(), tmp_path / "several.safetensors")
    run = make_run(f"init.source={tmp_path / 'several.safetensors'}")
    assert run_attempt(run) == 1
    message = RunReader(run).poll().alerts[-1]
    assert "several patch sizes" in message.message
    assert "name the folder of its run" in str(message.remedy)


def test_weights_that_do_not_fit(source: Path, make_run: MakeRun, run_attempt: RunAttempt, tmp_path: Path) -> None:
    for name in ("nowhere", str(tmp_path / "gone.pt")):
        with pytest.raises(ConfigError, match="neither a run nor a file"):
            make_run(f"init.source={name}")
    run = make_run(f"init.source={source}", "model.hidden_size=96", "model.mlp_dim=192")
    assert run_attempt(run) == 1
    message = RunReader(run).poll().alerts[-1]
    assert "has shape" in message.message
    assert "model.preset" in str(message.remedy)


def test_a_spacing_counts_as_different_from_a_thousandth_on(tiny_study: Path) -> None:
    target = Study(tiny_study).plan().target
    a, b, c = target.spacing
    assert _differences(target.model_copy(update={"spacing": (a, b, c * 1.0009)}), target) == []
    (difference,) = _differences(target.model_copy(update={"spacing": (a, b, c * 1.0015)}), target)
    assert difference.startswith("spacing")


def test_a_run_of_a_newer_version_gives_no_weights(
    source: Path, make_run: MakeRun, run_attempt: RunAttempt, tmp_path: Path
) -> None:
    record = json.loads((source / "run.json").read_text(encoding="utf-8"))
    (source / "run.json").chmod(0o644)
    (source / "run.json").write_text(json.dumps(record | {"schema_version": 2}), encoding="utf-8")
    with pytest.raises(SchemaVersionError):
        _of_run(source)
