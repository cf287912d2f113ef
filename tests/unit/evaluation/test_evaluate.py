"""Parts of an evaluation: which run and cases are chosen, what is passed on, how cases fall into size bins."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from patchcore.config.postprocess import Gain, Postprocess
from patchcore.errors import DataError, RunError
from patchcore.evaluation import cases as cases_module
from patchcore.evaluation.cases import chosen_cases, held_out_cases, newest_finished
from patchcore.evaluation.evaluate import _bins, _post_notes, _threshold
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


def test_the_threshold_baseline_looks_inside_organ_and_lesions() -> None:
    image = np.full((6, 6, 6), 10, np.int16)
    label = np.zeros((6, 6, 6), np.uint8)
    label[1:5, 1:5, 1:5] = 1
    label[2:4, 2:4, 2:4] = 2
    image[label == 2] = 80
    image[0] = 80  # outside the organ, as bright as the lesion
    record: Any = SimpleNamespace(
        labels=(1, 2), read_image=lambda: SimpleNamespace(array=image), read_label=lambda: SimpleNamespace(array=label)
    )
    target = tiny_target(classes=2)
    found = _threshold([record], target, 1)
    assert found.mean == 1.0
    assert (found.threshold, found.side) == (10, "above")
    # It is enough that one case has the organ.
    without: Any = SimpleNamespace(
        labels=(2,),
        read_image=lambda: SimpleNamespace(array=image),
        read_label=lambda: SimpleNamespace(array=np.where(label == 1, 0, label)),
    )
    assert _threshold([without, record], target, 1).threshold == 10
    with pytest.raises(DataError, match="no case contains organ label 7"):
        _threshold([record], target, 7)


def test_the_report_says_which_scores_a_tuning_flatters() -> None:
    gain = Gain(before=0.4, after=0.6, gain=0.2, low=0.1, high=0.3, patients=12)
    post = Postprocess(weights_sha256="", objective="dsc", min_volume_mm3=20, gain=gain, cases=("a",))
    rows: Any = [(SimpleNamespace(case_id=name), None, None) for name in ("a", "b")]
    predictor: Any = SimpleNamespace(post=post)
    first, second = _post_notes(predictor, rows)
    assert first == "post-processing: lesions of at least 20 mm³"
    assert "chosen on 1 of these cases" in second
    assert "counts as 1) 0.600 instead of 0.400" in second
    assert "[0.100, 0.300], 12 patients" in second
    assert len(_post_notes(predictor, rows[1:])) == 1
    predictor.post = post.model_copy(update={"gain": None})
    assert len(_post_notes(predictor, rows)) == 1
    predictor.post = None
    assert _post_notes(predictor, rows) == ()


def test_named_cases_have_a_folder_of_their_own() -> None:
    records = [SimpleNamespace(case_id=name, usable=True, accepted=True) for name in ("a", "b", "c")]
    study: Any = SimpleNamespace(cases=lambda: records, cases_path=Path("cases.jsonl"))
    seen: Any = SimpleNamespace(role=lambda _record, _study: Role.NEW)
    chosen = chosen_cases(study, Any, Any, seen, None, ["c", "a", "c"])  # type: ignore[arg-type]
    assert [record.case_id for record in chosen.records] == ["a", "c"]
    # The first eight digits of the hash of the sorted ids.
    assert (chosen.name, chosen.named) == ("cases-" + hashlib.sha256(b"a\nc").hexdigest()[:8], True)
    with pytest.raises(DataError, match="not among the accepted and the test cases: x, y"):
        chosen_cases(study, Any, Any, seen, None, ["x", "a", "y"])  # type: ignore[arg-type]
