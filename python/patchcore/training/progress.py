"""Tracks the progress of a training, which a checkpoint keeps in ``state.json``."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from patchcore.config.run import RunConfig
from patchcore.errors import ConfigError

__all__ = ["Best", "Progress", "case_set_id", "short_epoch", "steps_in", "steps_per_epoch", "total_steps"]

_PLANNED_SHARE = 0.95


@dataclass(frozen=True)
class Best:
    """The best validation so far, among validations on one identical set of cases."""

    dsc_mean: float
    step: int
    case_set: str


@dataclass
class Progress:
    """Counters that a resume continues from.

    Attributes:
        step: Optimiser steps done.
        validated_step: Last step with a complete validation; an interrupted validation is repeated.
        whole_step: Last step with a validation of all cases.
        case_s: Time per case in the last validation [s].
        seconds: Time spent in the loop over all attempts [s].
        best: The best validation.
        stale: Number of consecutive validations of all cases since the best one.
        validations: Number of scheduled validations so far.
        subset: Number of cases in the fixed subset that fits into the time limit; 0: not yet known.
        epoch_steps: Steps per epoch, as the first attempt computed them; 0: not yet known.
        lesions_drawn: Lesions that a window was drawn for so far, as (case, lesion).
        lesions_seen: Lesions with a voxel in a window so far, as (case, lesion).
    """

    step: int = 0
    validated_step: int = 0
    whole_step: int = 0
    case_s: float = 0.0
    seconds: float = 0.0
    best: Best | None = None
    stale: int = 0
    validations: int = 0
    subset: int = 0
    epoch_steps: int = 0
    lesions_drawn: set[tuple[int, int]] = field(default_factory=set)
    lesions_seen: set[tuple[int, int]] = field(default_factory=set)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Progress:
        """Return the progress stored in a checkpoint's state."""
        best = state.get("best")
        return cls(
            step=int(state["step"]),
            validated_step=int(state.get("validated_step", 0)),
            whole_step=int(state.get("whole_step", 0)),
            case_s=float(state.get("case_s", 0.0)),
            seconds=float(state.get("seconds", 0.0)),
            best=Best(**best) if best else None,
            stale=int(state.get("stale", 0)),
            validations=int(state.get("validations", 0)),
            subset=int(state.get("subset", 0)),
            epoch_steps=int(state.get("epoch_steps", 0)),
            lesions_drawn={(case, lesion) for case, lesion in state.get("lesions_drawn", ())},
            lesions_seen={(case, lesion) for case, lesion in state.get("lesions_seen", ())},
        )

    def to_state(self) -> dict[str, Any]:
        """Return the progress as values for a checkpoint's state."""
        lesions = {"lesions_drawn": sorted(self.lesions_drawn), "lesions_seen": sorted(self.lesions_seen)}
        return asdict(self) | lesions

    def improves(self, dsc_mean: float, case_set: str) -> bool:
        """Whether a validation is better than the best on the same cases. On other cases it becomes the new best.

        A NaN mean counts as the worst value, so that a run with NaN means only also has a best checkpoint.
        """
        if self.best is None or self.best.case_set != case_set:
            return True
        return (-1.0 if math.isnan(dsc_mean) else dsc_mean) > self.best.dsc_mean


def total_steps(config: RunConfig, epoch_steps: int) -> int:
    """Return the number of steps of a training: from ``train.epochs`` if it is set, else ``train.steps``."""
    return config.train.epochs * epoch_steps or config.train.steps


def steps_per_epoch(config: RunConfig, case_count: int) -> int:
    """Return the steps per epoch: as configured, else enough for one window per case, at least 50.

    A training of `train.steps` has at most 50 such epochs: each ends with a validation of whole volumes and a
    checkpoint, which together would otherwise take longer than the steps.
    """
    share = 0 if config.train.epochs else math.ceil(config.train.steps / 50)
    return max(short_epoch(config, case_count), 0 if config.train.steps_per_epoch else share)


def short_epoch(config: RunConfig, case_count: int) -> int:
    """Return the steps per epoch of runs that began before long trainings had longer epochs."""
    return config.train.steps_per_epoch or max(50, math.ceil(case_count / config.train.batch_size))


def steps_in(
    config: RunConfig,
    minutes: float,
    *,
    step_s: float,
    validation_s: float,
    training_cases: int,
    validation_cases: int,
) -> int:
    """Return how many steps fit into 95 % of a time, together with their validations.

    A machine is not always equally fast, and the schedule of the learning rate should reach its end in time.

    Args:
        config: The settings. Their number of steps or epochs does not matter.
        minutes: The time [min].
        step_s: Time of a step [s].
        validation_s: Time of a validation of all cases [s].
        training_cases: Number of training cases.
        validation_cases: Number of validation cases.

    Raises:
        ConfigError: Not even one step and the last validation fit.

    Example:
        >>> steps_in(RunConfig(), 60, step_s=0.5, validation_s=10, training_cases=80, validation_cases=20)
        5838
    """
    check, count = config.validation, max(1, validation_cases)
    part_s = min(validation_s * (check.max_cases or count) / count, 60 * check.max_minutes or math.inf, validation_s)
    usual_s = part_s + (validation_s - part_s) / check.whole_every

    def taken_s(steps: int) -> float:
        timed = config.train.model_copy(update={"steps": steps, "epochs": 0})
        every = steps_per_epoch(config.model_copy(update={"train": timed}), training_cases) * check.every_epochs
        return steps * step_s + (math.ceil(steps / every) - 1) * usual_s + validation_s  # the last is of all cases

    seconds = _PLANNED_SHARE * 60 * minutes
    # One validation more or fewer makes the time jump, so it does not rise with every step.
    fitting, most = 0, math.floor(seconds / step_s)
    for steps in range(max(1, most // 1000), most + 1, max(1, most // 1000)):
        if taken_s(steps) <= seconds:
            fitting = steps
    if not fitting:
        raise ConfigError(
            f"{minutes:g} minutes are too short: a step takes {step_s:.2g} s, and the validation of "
            f"{validation_cases} cases at the end {validation_s:.0f} s",
            remedy="give more time, or the number of steps",
        )
    return fitting


def case_set_id(case_ids: Sequence[str]) -> str:
    """Return a short name of a set of cases. Only validations on the identical set are comparable."""
    return f"{len(case_ids)}-{hashlib.sha256(chr(10).join(sorted(case_ids)).encode()).hexdigest()[:8]}"
