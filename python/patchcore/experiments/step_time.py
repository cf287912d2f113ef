"""Turns a budget in hours into steps: measures the time of a step of each combination of values, before the start."""

from __future__ import annotations

import math
from collections.abc import Sequence

from patchcore.config import Plan, resolve_config
from patchcore.errors import ConfigError
from patchcore.experiments.protocol import Point, with_patch_size
from patchcore.study import Study

__all__ = ["of_equal_time"]

_MEASURED = 10


def of_equal_time(
    study: Study, plan: Plan, points: Sequence[Point], settings: Sequence[str], *, hours: float
) -> tuple[Point, ...]:
    """Return the points with as many steps as fit into the time, validations not counted.

    Args:
        study: The study. Cases that are not prepared yet are prepared first.
        plan: The plan of the experiment.
        points: The points.
        settings: ``section.key=value`` of all points.
        hours: Time of each training [h].

    Raises:
        ConfigError: The number of hours is not positive, or ``train.steps`` is an axis.
        MissingExtraError: torch is not installed.
    """
    if not hours > 0:
        raise ConfigError(f"--hours {hours:g}", expected="a number above 0")
    if any(text.startswith("train.steps=") for point in points for text in point.settings):
        raise ConfigError("--budget hours sets the number of steps, so train.steps cannot be an axis")
    measured: dict[tuple[object, ...], float] = {}
    timed = []
    for point in points:
        key = (tuple(sorted(point.values.items())), point.patch_size)
        if key not in measured:
            measured[key] = _step_s(study, plan, point, settings)
        step_s = measured[key]
        steps = max(1, round(3600 * hours / step_s))
        own_settings = (*point.settings, f"train.steps={steps}")
        timed.append(point.model_copy(update={"steps": steps, "step_s": step_s, "settings": own_settings}))
    return tuple(timed)


def _step_s(study: Study, plan: Plan, point: Point, settings: Sequence[str]) -> float:
    """Return the time of a step [s]; of a flexible network, the mean over its sizes by their shares."""
    from patchcore.training.profiling import profile_step

    texts = [*settings, *point.settings]
    sizes = point.patch_sizes or (point.patch_size,)
    shares = resolve_config(settings=texts).model.patch_size_shares or (1.0,) * len(sizes)
    if point.patch_sizes:  # each size is timed by itself: a few steps of sizes that are drawn say little
        texts += ["model.patch_sizes=[]", "model.patch_size_shares=[]", "model.base_patch_size=null"]
    times = [
        share * profile_step(study, settings=texts, steps=_MEASURED, plan=with_patch_size(plan, size, "")).trained_s
        for share, size in zip(shares, sizes, strict=True)
    ]
    return math.fsum(times) / math.fsum(shares)
