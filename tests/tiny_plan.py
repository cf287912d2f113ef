"""Plans for tests, of any window and spacing."""

from __future__ import annotations

from functools import cache
from typing import Any

from patchcore.config.plan import Plan, RegionPlan, TargetPlan
from patchcore.planning import CaseSample, LesionSample, plan_from_samples


@cache
def _base() -> TargetPlan:
    cases, lesions = [CaseSample("a", "a", (1, 1, 1), (64, 64, 64))], [LesionSample("a", 1, 500.0, (8, 8, 8))]
    return plan_from_samples(cases, lesions, lesion_label=1, hu_range="liver", resamples=20).target


def tiny_target(
    *,
    classes: int = 2,
    spacing: Any = (1.0, 1.0, 1.0),
    window: Any = (8, 8, 8),
    regions: bool = False,
    **changes: Any,
) -> TargetPlan:
    """Return a plan whose last class is the lesion. The sizes need not be legal: nothing is trained."""
    values: dict[str, Any] = {
        "classes": tuple(range(1, classes + 1)),
        "lesion_label": classes,
        "spacing": spacing,
        "window_size": window,
        "hu_range": (-200.0, 300.0),
    }
    if regions:
        both = (RegionPlan(name="organ", labels=(1, 2)), RegionPlan(name="lesion", labels=(2,)))
        values["regions"] = both
    return _base().model_copy(update=values | changes)


def tiny_plan(*, patch: Any = (8, 8, 8), window: Any = (16, 16, 16)) -> Plan:
    """Return a plan with one target, of a legal patch size and window."""
    return Plan(fingerprint_hash="0" * 64, targets=(tiny_target(window=window, patch_size=patch),))
