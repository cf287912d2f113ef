"""Comparison of runs: on common cases only, with paired differences; an error if that is not possible."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import patchcore as pc
from patchcore.errors import StudyError
from patchcore.files import write_json_atomic
from patchcore.study import Study


def evaluated(study: Path, name: str, patch: int, dsc: dict[str, float | None]) -> None:
    run = study / "runs" / name
    run.mkdir(parents=True)
    plan = {"targets": [{"patch_size": [patch] * 3}]}
    write_json_atomic(run / "run.json", {"schema_version": 1, "kind": "train", "created": "", "plan": plan})
    cases = [{"case_id": case, "dsc": value, "ball_dsc": 0.25} for case, value in dsc.items()]
    report = {"schema_version": 1, "checkpoint_step": 7, "role": "used for selection", "cases": cases}
    (study / "reports" / name).mkdir(parents=True)
    write_json_atomic(study / "reports" / name / "evaluation.json", report)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study"
    Study.create(path, tmp_path)
    return path


def test_runs_are_compared_on_common_cases(study: Path) -> None:
    evaluated(study, "20260101T000000-a-000001", 16, {"x": 0.5, "y": 0.7, "only here": 1.0})
    evaluated(study, "20260102T000000-b-000002", 8, {"x": 0.8, "y": 0.8})
    evaluated(study, "20260103T000000-c-000003", 12, {"x": None, "y": 0.1})
    found = pc.compare(study)
    assert found.case_ids == ("x", "y")
    assert found.excluded == ("only here",)
    assert found.ball_dsc == 0.25
    assert [score.patch_size for score in found.scores] == [(8, 8, 8), (16, 16, 16), (12, 12, 12)]
    best, first, worst = found.scores
    assert (best.mean_dsc, best.difference) == (pytest.approx(0.8), pytest.approx(0.2))
    assert first.mean_dsc == pytest.approx(0.6)
    assert math.isnan(first.difference)
    assert (worst.n, worst.difference) == (1, pytest.approx(-0.6))


def test_what_cannot_be_compared_is_refused(study: Path) -> None:
    with pytest.raises(StudyError, match="no run was evaluated"):
        pc.compare(study)
    evaluated(study, "20260101T000000-a-000001", 16, {"x": 0.5})
    evaluated(study, "20260102T000000-b-000002", 8, {"y": 0.8})
    with pytest.raises(StudyError, match="no evaluated case in common"):
        pc.compare(study)
    (study / "reports" / "20260102T000000-b-000002" / "evaluation.json").unlink()
    with pytest.raises(StudyError, match="was not evaluated"):
        pc.compare(study, ["a-000001", "b-000002"])
