"""Results of points without trainings, for tests of reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from patchcore.experiments.protocol import Point, Protocol
from patchcore.experiments.results import CaseResult, LesionResult, PointResult, rise_at_end
from tiny_plan import tiny_plan


def point(patch: int = 8, seed: int = 0, fold: int = 0, **changes: Any) -> Point:
    values: dict[str, Any] = {
        "point_id": f"patch{patch}_seed{seed}_fold{fold}",
        "values": {"patch_size": str(patch)},
        "patch_size": (patch,) * 3,
        "settings": (),
        "seed": seed,
        "fold": fold,
        "steps": 100,
        "gflop_per_window": 1.0,
    }
    return Point(**(values | changes))


def result(
    of: Point,
    scores: Mapping[str, float | Sequence[float]],
    *,
    role: str = "used for selection",
    lesions: Sequence[LesionResult] = (),
    curve: tuple[tuple[int, float], ...] = ((40, 0.3), (80, 0.5), (100, 0.5)),
    **changes: Any,
) -> PointResult:
    """Return a result; `scores` maps case ids to the DSC of class 1, or of classes 1, 2 …"""
    cases = []
    for case_id, values in scores.items():
        listed = [values] if isinstance(values, int | float) else list(values)
        by_class = {str(label): float(value) for label, value in enumerate(listed, 1)}
        cases.append(CaseResult(case_id, case_id.partition("-")[0], role, by_class, 2))
    facts: dict[str, Any] = {
        "added": 0,
        "run_id": f"run-{of.point_id}",
        "run": Path("runs") / of.point_id,
        "steps": of.steps,
        "best_step": 80,
        "rise": rise_at_end(curve, of.steps),
        "step_s": 0.1,
        "hours": 0.5,
        "memory_mib": 100.0,
        "pflop": 2.0,
        "host": "host",
        "device": "CPU",
        "attempts": 1,
        "versions": {"torch": "2"},
        "contours": None,
        "problem": "",
    }
    return PointResult(point=of, curve=curve, cases=tuple(cases), lesions=tuple(lesions), **(facts | changes))


def lesion(case_id: str, number: int, diameter_mm: float, dsc: float) -> LesionResult:
    size = "< 5 mm" if diameter_mm < 5 else "5–10 mm" if diameter_mm < 10 else "10–20 mm"
    return LesionResult(case_id, number, diameter_mm**3, diameter_mm, size, dsc, dsc > 0, (0.0, 0.0, float(number)))


def protocol(points: Sequence[Point], **changes: Any) -> Protocol:
    values: dict[str, Any] = {
        "name": "sizes",
        "created": "2026-01-01T00:00:00Z",
        "user": "a@b",
        "patchcore": "0",
        "over": {"patch_size": ("4", "8")},
        "seeds": (0,),
        "folds": (0,),
        "budget": "steps",
        "settings": ("train.steps=100",),
        "failures_allowed": 2,
        "keep_checkpoints": False,
        "plan": tiny_plan(),
        "points": tuple(points),
    }
    return Protocol(**(values | changes))
