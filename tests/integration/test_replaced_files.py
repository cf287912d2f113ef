"""Files that vanish or are replaced between listing and opening, and a tiny /dev/shm: work goes on, or says why not."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import patchcore as pc
from patchcore.datasets import examination
from patchcore.files import read_json
from patchcore.phantoms.make import make_phantoms
from patchcore.runs.paths import read_object
from patchcore.volumes.volume import NiftiFile


def phantoms_in(folder: Path) -> Path:
    make_phantoms(folder / "data", cases=3, preset="large", shape=(40, 40, 20), spacing=(3.0, 3.0, 6.0))
    return folder / "data"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return phantoms_in(tmp_path)


@pytest.fixture
def on_disk() -> Iterator[Path]:
    """A folder that is not in /dev/shm, where the others may be."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="patchcore-") as folder:
        yield Path(folder)


def failing(work: Callable[..., Any], code: int, times: int) -> Callable[..., Any]:
    """Return a function that fails `times` times as if its file was replaced, then works."""
    left = [times]

    def tried(*arguments: Any, **named: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise OSError(code, os.strerror(code), "somewhere")
        return work(*arguments, **named)

    return tried


@pytest.mark.parametrize("code", [errno.ESTALE, errno.ENOENT])
@pytest.mark.parametrize(
    ("place", "name"), [(examination, "measure_labels"), (NiftiFile, "header"), (NiftiFile, "examine_ct")]
)
def test_a_file_that_is_replaced_while_it_is_opened_is_opened_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, place: Any, name: str
) -> None:
    monkeypatch.setattr(place, name, failing(getattr(place, name), code, 1))
    study = pc.analyze(data, tmp_path / "study", threads=1)
    assert [record.status for record in study.cases()] == ["accepted"] * 3


@pytest.mark.parametrize("code", [errno.ESTALE, errno.ENOENT, errno.EIO])
def test_a_file_that_stays_away_quarantines_its_case_only(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(examination, "measure_labels", failing(examination.measure_labels, code, 2))
    study = pc.analyze(data, tmp_path / "study", threads=1)
    statuses = sorted(record.status for record in study.cases())
    # An input/output error is not tried again, so that it costs two cases.
    assert statuses == (["accepted", *["quarantined"] * 2] if code == errno.EIO else ["accepted"] * 2 + ["quarantined"])
    reason = next(record.reason for record in study.cases() if record.status == "quarantined")
    assert os.strerror(code) in str(reason)


def test_files_that_vanish_after_the_listing_are_named(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = pc.find_cases

    def and_lose(*arguments: Any, **named: Any) -> Any:
        found = find(*arguments, **named)
        found.cases[0].label.path.unlink()
        image = found.cases[1].image
        assert image is not None
        image.path.unlink()
        return found

    monkeypatch.setattr("patchcore.datasets.analyze.find_cases", and_lose)
    study = pc.analyze(data, tmp_path / "study")
    assert [record.status for record in study.cases()] == ["quarantined", "quarantined", "accepted"]
    assert all("No such file" in str(record.reason) for record in study.cases()[:2])


def test_a_record_that_is_replaced_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "status.json"
    path.write_text(json.dumps({"schema_version": 1, "a": 1}), encoding="utf-8")
    monkeypatch.setattr(Path, "read_bytes", failing(Path.read_bytes, errno.ESTALE, 2))
    assert read_object(path) == {"schema_version": 1, "a": 1}
    monkeypatch.setattr(Path, "read_bytes", failing(Path.read_bytes, errno.ESTALE, 2))
    assert read_json(path, schema=1)["a"] == 1


def test_training_on_two_ranks_needs_no_shared_memory(on_disk: Path) -> None:
    """Containers often have 64 MB of /dev/shm, or 1 MB; nothing of patchcore uses it."""
    unshare = shutil.which("unshare")
    small = ["-m", "sh", "-c", 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"', "sh"]
    if unshare is None or subprocess.run([unshare, *small, "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small /dev/shm")
    pc.analyze(phantoms_in(on_disk), on_disk / "study")
    pc.plan_patch_size(on_disk / "study", window_size=16, spacing=(6.0, 6.0, 12.0))
    settings = ("train.steps=2", "model.hidden_size=24", "model.num_heads=2", "train.ranks=2", "train.folds=3")
    options = [part for setting in settings for part in ("--set", setting)]
    train = [sys.executable, "-m", "patchcore", "train", str(on_disk / "study"), "--foreground", *options]
    done = subprocess.run(
        [unshare, *small, *train],
        check=False,
        capture_output=True,
        encoding="utf-8",
        timeout=280,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
