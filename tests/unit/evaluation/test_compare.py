"""Comparison of runs: on common cases only, with paired differences; an error if that is not possible."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import patchcore as pc
from commands import patchcore
from patchcore.errors import StudyError
from patchcore.files import write_json_atomic
from patchcore.study import Study

Scores = dict[str, float | dict[int, float | None] | None]


def evaluated(
    study: Path, name: str, patch: int, dsc: Scores, *, role: str = "used for selection", **more: Any
) -> None:
    """Write a run and its report. A number is the DSC of the lesions, label 2."""
    run = study / "runs" / name
    run.mkdir(parents=True)
    plan = {"targets": [{"patch_size": [patch] * 3}]}
    write_json_atomic(run / "run.json", {"schema_version": 1, "kind": "train", "created": "", "plan": plan})
    cases = []
    for case, value in dsc.items():
        by_class = {str(label): one for label, one in (value if isinstance(value, dict) else {2: value}).items()}
        patient = case.partition("_")[0]
        cases.append({"case_id": case, "patient": patient, "role": role, "dsc_by_class": by_class, "ball_dsc": 0.25})
    labels = cases[0]["dsc_by_class"]
    report = {"schema_version": 2, "checkpoint_step": 7, "lesion_label": 2, "dsc_by_class": labels, "cases": cases}
    (study / "reports" / name).mkdir(parents=True)
    write_json_atomic(study / "reports" / name / "evaluation.json", report | more)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study"
    Study.create(path, tmp_path)
    return path


def test_runs_are_compared_on_common_cases(study: Path) -> None:
    evaluated(study, "20260101T000000-a-000001", 16, {"x": 0.5, "y": 0.7, "only here": 1.0})
    evaluated(study, "20260102T000000-b-000002", 8, {"x": 0.8, "y": 0.8})
    evaluated(study, "20260103T000000-c-000003", 12, {"x": 0.0, "y": 0.1})
    found = pc.compare(study)
    assert found.case_ids == ("x", "y")
    assert found.excluded == ("only here",)
    assert found.ball_dsc == 0.25
    assert [score.patch_size for score in found.scores] == [(8, 8, 8), (16, 16, 16), (12, 12, 12)]
    best, first, worst = found.scores
    assert (best.mean_dsc, best.difference) == (pytest.approx(0.8), pytest.approx(0.2))
    assert first.mean_dsc == pytest.approx(0.6)
    assert math.isnan(first.difference)
    assert (worst.n, worst.difference) == (2, pytest.approx(-0.55))
    assert {score.role for score in found.scores} == {"used for selection"}


def test_false_positives_on_cases_without_lesion_count(study: Path) -> None:
    """Without the rule, the difference would be that of case x alone, 0, although the means are 0.8 and 0.267."""
    evaluated(study, "20260101T000000-a-000001", 16, {"x": 0.8, "empty": None, "empty too": None, "never": None})
    evaluated(study, "20260102T000000-b-000002", 8, {"x": 0.8, "empty": 0.0, "empty too": 0.0, "never": None})
    first, second = pc.compare(study, ["a-000001", "b-000002"]).scores
    assert (first.mean_dsc, first.n, first.rewarded) == (pytest.approx(2.8 / 3), 3, 2)
    assert (second.mean_dsc, second.n, second.rewarded) == (pytest.approx(0.8 / 3), 3, 0)
    assert second.difference == pytest.approx(second.mean_dsc - first.mean_dsc)


def test_means_are_over_classes_first(study: Path) -> None:
    """Liver 0.95 in ten cases, tumour 0.4 in five of them."""
    both: Scores = {f"{n}": {1: 0.95, 2: 0.4 if n < 5 else None} for n in range(10)}
    evaluated(study, "20260101T000000-a-000001", 16, both)
    evaluated(study, "20260102T000000-b-000002", 8, both)
    first, second = pc.compare(study).scores
    assert first.mean_dsc == second.mean_dsc == pytest.approx(0.675)
    assert (first.n, first.rewarded) == (5, 0)


def test_runs_of_different_classes_are_compared_by_their_lesions(study: Path) -> None:
    evaluated(study, "20260101T000000-a-000001", 16, {"x": {1: 0.9, 2: 0.4}})
    evaluated(study, "20260102T000000-b-000002", 8, {"x": 0.5})
    found = pc.compare(study)
    assert found.classes == (2,)
    assert [score.mean_dsc for score in found.scores] == [0.5, 0.4]
    evaluated(study, "20260103T000000-c-000003", 8, {"x": 0.5}, lesion_label=3)
    with pytest.raises(StudyError, match="lesions of different labels: 2, 3"):
        pc.compare(study)


def test_cases_that_a_run_has_trained_on_are_left_out(study: Path) -> None:
    evaluated(study, "20260101T000000-a-000001", 16, {"x": 0.5, "y": 0.7})
    evaluated(study, "20260102T000000-b-000002", 8, {"x": 0.9}, role="used for training by an ancestor")
    with pytest.raises(StudyError, match=r"of 1 common cases, all were used for training by one of them"):
        pc.compare(study)
    report = study / "reports" / "20260102T000000-b-000002" / "evaluation.json"
    report.unlink()
    report.parent.rmdir()
    evaluated(study, "20260103T000000-c-000003", 8, {"x": 0.9, "y": 0.8})
    assert pc.compare(study).trained == ()


def test_differences_stand_with_interval_test_and_doubt(study: Path) -> None:
    names = [f"p{number}_{part}" for number in range(10) for part in "ab"]
    base = {name: 0.5 + 0.01 * number for number, name in enumerate(names)}
    evaluated(study, "20260101T000000-a-000001", 16, dict(base))
    evaluated(study, "20260102T000000-b-000002", 8, {n: v + 0.05 + 0.001 * i for i, (n, v) in enumerate(base.items())})
    evaluated(
        study, "20260103T000000-c-000003", 12, {n: v + 0.1 * (-1) ** (i // 2) for i, (n, v) in enumerate(base.items())}
    )
    found = {score.run_id[-1]: score for score in pc.compare(study).scores}
    assert found["1"].against_first == {}
    better, noise = found["2"].against_first[2], found["3"].against_first[2]
    assert better.difference.patients == 10
    assert 0.05 < better.difference.low < better.difference.mean < better.difference.high < 0.07
    assert better.false_order < 1e-6
    assert noise.difference.low < 0 < noise.difference.high
    assert noise.false_order > 0.2
    # Two tests: the smaller p value counts twice.
    assert found["2"].adjusted_p[2] == pytest.approx(2 * better.wilcoxon_p)
    assert found["2"].interval.low < found["2"].mean_dsc < found["2"].interval.high
    shown = patchcore("compare", study)
    assert "label 2, 20260102T000000-b-000002: +0.060 [+0.05" in shown.stdout
    assert "Wilcoxon p = 0.00391 (Holm, all tests together)" in shown.stdout


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
    evaluated(study, "20260103T000000-c-000003", 8, {"x": 0.5}, schema_version=1)
    with pytest.raises(StudyError, match="evaluated by an older patchcore"):
        pc.compare(study)
