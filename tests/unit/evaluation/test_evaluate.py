"""Parts of an evaluation: which run and cases are chosen, what is passed on, how cases fall into size bins."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from patchcore.errors import DataError, RunError
from patchcore.evaluation import cases as cases_module
from patchcore.evaluation.cases import held_out_cases, newest_finished
from patchcore.evaluation.evaluate import _bins
from patchcore.evaluation.rows import score_settings
from patchcore.lesions.size_bins import SIZE_BIN_NAMES
from patchcore.metrics import ScoreSettings
from patchcore.metrics.results import CaseEvaluation
from patchcore.runs import RunState
from patchcore.runs.seen import Role
from tiny_plan import tiny_target


def scored(name: str, dsc: float, size: int | None) -> CaseEvaluation:
    return CaseEvaluation(name, name, "new", dsc, dsc, {1: dsc}, 1.0, 1.0, 1, 1, 0, 1.0, size, 0.0)


def test_a_case_counts_in_the_bin_of_its_largest_lesion() -> None:
    cases = [
        scored("a", 0.5, 0),
        scored("b", 0.9, 0),
        scored("c", math.nan, 0),
        scored("d", 0.2, 3),
        scored("e", 1, None),
    ]
    found = {one.name: (one.mean_dsc, one.n) for one in _bins(cases)}
    assert found[SIZE_BIN_NAMES[0]] == (pytest.approx(0.7), 2)
    assert found[SIZE_BIN_NAMES[3]] == (pytest.approx(0.2), 1)
    assert [found[name][1] for name in SIZE_BIN_NAMES[1:3]] == [0, 0]


def test_what_is_scored_is_that_of_the_plan() -> None:
    target = tiny_target(classes=2, connectivity=6, min_volume_mm3=3.5, regions=True)
    assert score_settings(target) == ScoreSettings(
        classes={"1": (1, 2), "2": (2,)},
        lesion_class="2",
        modes=("overlap", "cc"),
        connectivity=6,
        min_volume_mm3=3.5,
    )


def test_the_newest_finished_training_is_evaluated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def run(name: str, state: RunState, kind: str) -> Any:
        return SimpleNamespace(path=Path(name), state=SimpleNamespace(state=state), kind=kind)

    runs = [
        run("running", RunState.RUNNING, "train"),
        run("profile", RunState.FINISHED, "profile"),
        run("tuned", RunState.FINISHED, "fine-tune"),
        run("older", RunState.FINISHED, "train"),
    ]
    monkeypatch.setattr(cases_module, "list_runs", lambda _path: runs)
    study: Any = SimpleNamespace(path=tmp_path)
    assert newest_finished(study) == Path("tuned")
    runs[2:] = []
    with pytest.raises(RunError, match="no finished training"):
        newest_finished(study)


def test_held_out_cases_that_were_used_are_named_ten_at_most() -> None:
    records = [SimpleNamespace(case_id=f"c{number:02d}", patient=f"p{number}", split="test") for number in range(12)]
    study: Any = SimpleNamespace(held_out=lambda: records, cases=list, cases_path=Path("cases.jsonl"))
    roles = [Role.TRAINING] * 11 + [Role.NEW]
    seen: Any = SimpleNamespace(role=lambda record, _study: roles[records.index(record)])
    with pytest.raises(DataError) as caught:
        held_out_cases(study, seen)
    text = str(caught.value)
    assert "used 11 of the 12 held-out cases" in text
    assert [name in text for name in ("c00", "c09", "c10", "c11")] == [True, True, False, False]
    roles[:] = [Role.NEW] * 12
    chosen = held_out_cases(study, seen)
    assert (chosen.records, chosen.roles, chosen.name, chosen.named) == (
        tuple(records), tuple(roles), "held-out", False,
    )  # fmt: skip
