"""Validation during a training: results of other ranks are merged; only scheduled validations of all cases choose."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from patchcore.config import resolve_config
from patchcore.metrics import LesionMatch, VoxelCounts
from patchcore.training import selection
from patchcore.training.progress import Progress, case_set_id
from patchcore.training.selection import spread, validate
from patchcore.training.validate import ValidationResult


def target(classes: tuple[int, ...] = (3, 5)) -> Any:
    indices = {number: (number,) for number in range(1, len(classes) + 1)}
    return SimpleNamespace(
        classes=classes, lesion_label=5, evaluated_indices=indices, min_volume_mm3=0.0, patch_size=(8, 8, 8)
    )


def result(**cases: tuple[float, float]) -> ValidationResult:
    """A result with the given DSC of both classes for each case; NaN: neither predicted nor labelled."""
    made = ValidationResult.empty(target())
    for name, values in cases.items():
        counts = {
            number: VoxelCounts() if math.isnan(dsc) else VoxelCounts(round(100 * dsc), 100, 100)
            for number, dsc in enumerate(values, 1)
        }
        made.counts.add_counts(name, counts)
        made.bins[name] = 1 if name != "c" else None
        made.lesions[name] = LesionMatch((33.0, 5.0), (0.5, 0.0), (20.0,), (1.0,))
    return made


def test_a_result_survives_the_way_between_ranks() -> None:
    first, second = result(a=(0.5, 0.25)), result(b=(0.75, math.nan), c=(1.0, 0.5))
    merged = result(a=(0.5, 0.25))
    merged.merge(json.loads(json.dumps(second.to_json())))
    whole = result(a=(0.5, 0.25), b=(0.75, math.nan), c=(1.0, 0.5))
    assert merged.counts.per_case().keys() == whole.counts.per_case().keys()
    assert merged.bins == whole.bins == {"a": 1, "b": 1, "c": None}
    assert merged.lesions == whole.lesions
    assert merged.metrics() == pytest.approx(whole.metrics(), nan_ok=True)
    # Classes first: (0.5 + 0.75 + 1) / 3 and (0.25 + 0.5) / 2.
    assert merged.mean() == pytest.approx((0.75 + 0.375) / 2)
    assert merged.metrics()["val/dsc_mean"] == merged.mean()
    assert first.mean() == pytest.approx(0.375)


class Ranks:
    """Rank 0 of two ranks; the other one has validated its share."""

    world, rank, first = 2, 0, True

    def __init__(self, other: ValidationResult, records: list[dict[str, Any]]) -> None:
        self._other = {"cases": [other.to_json()], "records": records}

    def agree(self, *values: Any) -> tuple[Any, ...]:
        return values

    def is_called_off(self, what: str) -> bool:
        return False

    def collect(self, records: Any, look: Any) -> list[Any]:
        return [records, json.loads(json.dumps(self._other))]


class Writer:
    def __init__(self) -> None:
        self.cases: list[Any] = []
        self.validations: list[Any] = []

    def case(self, validation_id: str, record: Any, *, step: int, epoch: int) -> None:
        self.cases.append((validation_id, record["case_id"], step, epoch))

    def validation(
        self, step: int, epoch: int, name: str, values: Any, *, n_cases: int, subset: str, counts: bool
    ) -> None:
        assert counts is not subset.endswith(", on request")
        self.validations.append((step, epoch, name, values, n_cases, subset))


class Lab:
    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *settings: str, cases: int = 2) -> None:
        names = [f"case{number}" for number in range(cases)]
        self.saved: list[str] = []
        self.asked: list[Any] = []
        self.own: dict[str, tuple[float, float]] = {}
        self.other: dict[str, tuple[float, float]] = {}
        self.writer, self.progress = Writer(), Progress(step=7)
        self.done: list[Any] = []
        self.control = SimpleNamespace(
            look_or_leave=lambda: None, done=lambda *verbs, detail: self.done.append((verbs, detail))
        )
        lab = self

        class Training:
            config = resolve_config(settings=list(settings))
            target = target()
            placement = evaluated = None
            run = tmp_path
            steps_per_epoch = 3
            validation = tuple(SimpleNamespace(case_id=name) for name in names)
            board = SimpleNamespace(scalars=lambda step, values: None)

            @property
            def ranks(self) -> Ranks:
                return Ranks(result(**lab.other), [{"case_id": name} for name in lab.other])

            def save(self, which: str, progress: Progress, writer: Any) -> None:
                lab.saved.append(which)

        def validate_cases(
            network: Any, cases: Any, *_: Any, indices: Any, on_case: Any, **__: Any
        ) -> ValidationResult:
            lab.asked.append(list(indices))
            for name in lab.own:
                on_case({"case_id": name})
            return result(**lab.own)

        monkeypatch.setattr(selection, "validate_cases", validate_cases)
        self.training: Any = Training()

    def validate(self, mean: float, *, whole: bool = True, counts: bool = True) -> None:
        """Validate with this DSC for both classes of both cases, of which the other rank has one."""
        self.own, self.other = {"case0": (mean, mean)}, {"case1": (mean, mean)}
        writer: Any = self.writer
        control: Any = self.control
        validate(self.training, self.progress, writer, control, whole=whole, counts=counts)


def test_cases_of_every_rank_are_recorded_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab(tmp_path, monkeypatch)
    lab.validate(0.5)
    assert lab.asked == [[0]]
    assert lab.writer.cases == [("0000007", "case0", 7, 2), ("0000007", "case1", 7, 2)]
    [(step, epoch, name, values, n_cases, subset)] = lab.writer.validations
    assert (step, epoch, name, n_cases, subset) == (7, 2, "0000007", 2, "all")
    assert values["val/dsc_mean"] == pytest.approx(0.5)
    assert lab.done[0][1] == "mean DSC 0.5000 after step 7"


def test_the_best_is_kept_and_patience_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab, progress = Lab(tmp_path, monkeypatch), None
    expected = []
    for step, mean, stale, saved in ((3, 0.5, 0, 1), (6, 0.4, 1, 1), (9, 0.5, 2, 1), (12, 0.6, 0, 2), (15, 0.1, 1, 2)):
        progress = lab.progress
        progress.step = step
        lab.validate(mean)
        expected.append(mean)
        assert (progress.stale, len(lab.saved)) == (stale, saved), step
        assert (progress.validated_step, progress.whole_step) == (step, step)
        assert progress.validations == len(expected)
        assert progress.best is not None
        assert progress.best.dsc_mean == pytest.approx(max(expected))
        assert progress.best.case_set == case_set_id(["case0", "case1"])
    assert progress is not None
    assert progress.best is not None
    assert progress.best.step == 12
    assert set(lab.saved) == {"best"}
    # A validation that is repeated after a resume is not counted twice.
    lab.validate(0.1)
    assert (progress.stale, progress.validations) == (1, 5)


def test_a_mean_that_is_not_defined_is_the_worst(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab(tmp_path, monkeypatch)
    lab.validate(math.nan)
    assert lab.progress.best is not None
    assert lab.progress.best.dsc_mean == -1.0
    lab.progress.step = 8
    lab.validate(0.0)
    assert lab.progress.best.step == 8


def test_a_validation_on_request_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab(tmp_path, monkeypatch)
    lab.validate(0.5)
    before = lab.progress.to_state()
    lab.progress.step = 8
    lab.validate(0.9, counts=False)
    after = lab.progress.to_state()
    assert {name for name in before if before[name] != after[name]} <= {"step", "case_s"}
    assert lab.saved == ["best"]
    assert lab.writer.validations[-1][-1] == "all, on request"


def test_a_subset_never_chooses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab(tmp_path, monkeypatch, "validation.max_cases=2", "validation.whole_every=3", cases=6)
    for step in range(1, 7):
        lab.progress.step = step
        lab.validate(0.1 * step, whole=False)
    subsets = [record[-1] for record in lab.writer.validations]
    assert subsets == ["fixed 2 of 6", "fixed 2 of 6", "all"] * 2
    assert [record[4] for record in lab.writer.validations] == [2, 2, 6] * 2
    assert lab.asked == [[0], [0], [0, 2, 4]] * 2
    assert len(lab.saved) == 2
    assert lab.progress.whole_step == lab.progress.validated_step == 6
    assert (lab.progress.validations, lab.progress.stale) == (6, 0)
    # At the end, all cases are validated in any case.
    lab.progress.step = 7
    lab.validate(0.1, whole=True)
    assert lab.writer.validations[-1][-1] == "all"
    assert lab.progress.stale == 1


def test_spread() -> None:
    assert spread(10, 3) == [0, 3, 6]
    assert spread(4, 0) == spread(4, 4) == spread(4, 9) == [0, 1, 2, 3]
    assert spread(5, 1) == [0]
    assert np.diff(spread(100, 7)).max() - np.diff(spread(100, 7)).min() <= 1


def test_the_time_of_a_case_is_that_of_all_ranks_over_all_cases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 6))
    monkeypatch.setattr(selection.time, "monotonic", lambda: float(next(clock)))
    lab = Lab(tmp_path, monkeypatch, cases=1)
    lab.validate(0.5)
    assert lab.progress.case_s == 6.0
    lab = Lab(tmp_path, monkeypatch, cases=3)
    lab.validate(0.5)
    assert lab.progress.case_s == 2.0


def test_cases_that_just_fit_into_the_time_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 30.0] * 3)
    monkeypatch.setattr(selection.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(selection, "predict_volume", lambda *_, **__: None)
    network = SimpleNamespace(training=True, eval=lambda: None, train=lambda _: None)
    case = SimpleNamespace(shape=(2, 2, 2), image=lambda: None)

    def affordable(minutes: float) -> int:
        training: Any = SimpleNamespace(
            config=resolve_config(settings=[f"validation.max_minutes={minutes}"]), validation=[case] * 4,
            evaluated=network, target=None, placement=None, ranks=SimpleNamespace(world=1),
        )  # fmt: skip
        return selection._affordable(training, SimpleNamespace(look=None))  # type: ignore[arg-type]

    assert affordable(1.5) == 3  # 30 s a case: three cases take the 90 s exactly
    assert affordable(1.4) == 2
    assert affordable(0.999) == 1  # a minute has 60 s
