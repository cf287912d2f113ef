"""``patchcore prepare`` and ``inspect`` as a user runs them: complete, repeated, killed, damaged, and in parallel."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import patchcore as pc
from commands import patchcore
from patchcore.errors import LockedError, StudyError
from patchcore.phantoms import make_phantoms
from patchcore.study import Study


@pytest.fixture
def study(tmp_path: Path) -> Path:
    make_phantoms(tmp_path / "data", cases=4, preset="large", shape=(72, 72, 40), spacing=(2.0, 2.0, 4.0))
    pc.analyze(tmp_path / "data", tmp_path / "study")
    pc.plan_patch_size(tmp_path / "study", spacing=(3.0, 3.0, 4.0))
    return tmp_path / "study"


def test_cases_are_prepared_inspected_and_found_again(study: Path) -> None:
    done = patchcore("prepare", study)
    assert done.returncode == 0, done.stderr
    assert "4 cases in" in done.stdout
    assert "4 of 4" in done.stderr
    before = {path: path.stat().st_mtime_ns for path in (study / "store.zarr").rglob("*") if path.is_file()}
    assert patchcore("prepare", study).returncode == 0
    assert before == {path: path.stat().st_mtime_ns for path in (study / "store.zarr").rglob("*") if path.is_file()}
    looked = patchcore("inspect", study, "--json")
    assert looked.returncode == 0, looked.stderr
    [group] = json.loads(looked.stdout)
    assert group["spacing"] == [3.0, 3.0, 4.0]
    assert [case["problem"] for case in group["cases"]] == [None] * 4
    assert all(len(case["shape"]) == 3 and min(case["shape"]) > 20 for case in group["cases"])


def test_damage_is_reported_and_mended(study: Path) -> None:
    case = pc.prepare(study).cases[1]
    shard = case.path / "image" / "c" / "0" / "0" / "0"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    looked = patchcore("inspect", study)
    assert looked.returncode == 1
    assert f"{case.case_id}: DAMAGED" in looked.stdout
    assert "1 damaged" in looked.stdout
    subprocess.run(["rm", "-r", str(case.path)], check=True)
    assert patchcore("prepare", study).returncode == 0
    assert patchcore("inspect", study).returncode == 0


def test_a_case_that_fails_is_excluded_and_reported(study: Path) -> None:
    record = Study(study).accepted()[2]
    assert record.image is not None
    record.image.path.write_bytes(record.image.path.read_bytes()[:2000])
    done = patchcore("prepare", study)
    assert done.returncode == 3
    assert f"skipped: {record.case_id}" in done.stdout
    assert "3 cases in" in done.stdout


def test_what_cannot_be_prepared_is_refused(study: Path, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no such study"):
        pc.prepare(tmp_path / "nothing")
    looked = patchcore("inspect", study)
    assert (looked.returncode, looked.stdout) == (2, "")
    assert "patchcore prepare" in looked.stderr
    with Study(study).lock("prepare"), pytest.raises(LockedError):
        pc.prepare(study)
    (study / "plan.json").unlink()
    with pytest.raises(StudyError, match="no plan"):
        pc.prepare(study)


def _interrupted(study: Path, after_s: float, how: int) -> int:
    process = subprocess.Popen(
        [sys.executable, "-m", "patchcore", "prepare", str(study)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )
    if how is signal.SIGINT:
        # Ctrl-C while Python itself still starts is not for the command to answer. The command makes the store.
        deadline = time.monotonic() + 60
        while process.poll() is None and not (study / "store.zarr").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
    time.sleep(after_s)
    process.send_signal(how)
    return process.wait(timeout=60)


def _check_whole(study: Path) -> dict[str, Any]:
    """Check that every case under its final name is intact; return the attributes of each."""
    found: dict[str, Any] = {}
    for root in (study / "store.zarr").glob("*/"):
        for case in root.glob("[!.]*/"):
            for name in ("image", "label"):
                pc.StoredArray(case / name).verify()
            found[case.name] = json.loads((case / "zarr.json").read_bytes())["attributes"]["patchcore"]
            assert np.load(case / "spans.npy").shape[1] == 5
    return found


def _kill_often(study: Path, count: int) -> None:
    rng = random.Random(5)
    finished: dict[str, Any] = {}
    for number in range(count):
        if number % 10 == 9:
            # Start from an empty store again, so that kills hit every stage.
            subprocess.run(["rm", "-r", str(study / "store.zarr")], check=True)
            finished = {}
        _interrupted(study, rng.uniform(0.3, 1.6), signal.SIGKILL)
        if not (study / "store.zarr").exists():
            continue
        now = _check_whole(study)
        assert finished.keys() <= now.keys()
        finished = now
    assert patchcore("prepare", study).returncode == 0
    assert len(_check_whole(study)) == 4


def test_kills_lose_no_finished_case_and_leave_nothing_half_written(study: Path) -> None:
    _kill_often(study, 6)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_fifty_kills(study: Path) -> None:
    _kill_often(study, 50)


def test_ctrl_c_ends_with_its_exit_code(study: Path) -> None:
    for after_s in (0.0, 0.3):
        shutil.rmtree(study / "store.zarr", ignore_errors=True)
        assert _interrupted(study, after_s, signal.SIGINT) in (0, 130, -signal.SIGINT)
        _check_whole(study)
    assert patchcore("prepare", study).returncode == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_study_is_reported(study: Path) -> None:
    study.chmod(0o500)
    try:
        done = patchcore("prepare", study)
    finally:
        study.chmod(0o700)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
