"""Turns a budget in hours into steps: measures the time of a step of each combination of values, before the start."""

from __future__ import annotations

import math
from collections.abc import Sequence

from patchcore.config import Plan
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
    from patchcore.training.profiling import profile_step

    if not 0 < hours < math.inf:
        raise ConfigError(f"--hours {hours:g}", expected="a finite number above 0")
    if any(text.startswith("train.steps=") for point in points for text in point.settings):
        raise ConfigError("--budget hours sets the number of steps, so train.steps cannot be an axis")
    measured: dict[tuple[object, ...], float] = {}
    timed = []
    for point in points:
        key = (tuple(sorted(point.values.items())), point.patch_size)
        if key not in measured:
            measured[key] = profile_step(
                study,
                settings=[*settings, *point.settings],
                steps=_MEASURED,
                plan=with_patch_size(plan, point.patch_size, ""),
            ).trained_s
        step_s = measured[key]
        steps = max(1, round(3600 * hours / step_s))
        own_settings = (*point.settings, f"train.steps={steps}")
        timed.append(point.model_copy(update={"steps": steps, "step_s": step_s, "settings": own_settings}))
    return tuple(timed)
