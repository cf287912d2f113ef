"""How far a training has come: what ``state.json`` of a checkpoint keeps, and what is told of it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from patchcore.config.run import RunConfig

__all__ = ["Best", "Progress", "case_set_id", "steps_per_epoch", "total_steps"]


@dataclass(frozen=True)
class Best:
    """The best validation so far, among those on one identical set of cases."""

    dsc_mean: float
    step: int
    case_set: str


@dataclass
class Progress:
    """Counts that a resume goes on from.

    Attributes:
        step: Optimiser steps done.
        validated_step: The last step whose validation is complete; one cut short is redone.
        whole_step: The last step whose validation was of all cases.
        case_s: Seconds that a case took at the last validation.
        seconds: Time spent in the loop over all attempts.
        best: The best validation.
        stale: Validations of all cases in a row since then.
        validations: Scheduled validations so far.
        subset: Cases of the fixed subset that a limit of time has left; 0: not yet known.
        lesions_drawn: Lesions, as (case, lesion), that a window was drawn for so far.
        lesions_seen: Those that a window showed.
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
    lesions_drawn: set[tuple[int, int]] = field(default_factory=set)
    lesions_seen: set[tuple[int, int]] = field(default_factory=set)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Progress:
        """Return the progress that a checkpoint's state holds."""
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
            lesions_drawn={(case, lesion) for case, lesion in state.get("lesions_drawn", ())},
            lesions_seen={(case, lesion) for case, lesion in state.get("lesions_seen", ())},
        )

    def to_state(self) -> dict[str, Any]:
        """Return what a checkpoint's state is to hold."""
        lesions = {"lesions_drawn": sorted(self.lesions_drawn), "lesions_seen": sorted(self.lesions_seen)}
        return asdict(self) | lesions

    def improves(self, dsc_mean: float, case_set: str) -> bool:
        """Whether a validation is better than the best on the same cases; one on other cases starts over.

        An undefined mean counts as the worst, so that even such a run has a best checkpoint.
        """
        if self.best is None or self.best.case_set != case_set:
            return True
        return (-1.0 if math.isnan(dsc_mean) else dsc_mean) > self.best.dsc_mean


def total_steps(config: RunConfig, epoch_steps: int) -> int:
    """Return the steps of a training: those of its epochs, where they are given."""
    return config.train.epochs * epoch_steps or config.train.steps


def steps_per_epoch(config: RunConfig, case_count: int) -> int:
    """Return the steps of an epoch: as configured, else as many as show each case once, at least 50."""
    return config.train.steps_per_epoch or max(50, math.ceil(case_count / config.train.batch_size))


def case_set_id(case_ids: Sequence[str]) -> str:
    """Return a short name of a set of cases: only validations on one identical set compare."""
    return f"{len(case_ids)}-{hashlib.sha256(chr(10).join(sorted(case_ids)).encode()).hexdigest()[:8]}"
