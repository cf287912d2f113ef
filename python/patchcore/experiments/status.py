"""What an experiment has reached: the state, the run and the score of every point."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from patchcore.experiments.dispatch import failures_of
from patchcore.experiments.executors import is_worked_on
from patchcore.experiments.folder import ExperimentFolder, Place
from patchcore.experiments.protocol import Point
from patchcore.runs import RunState, whole_view
from patchcore.runs.events import dsc_by_patch
from patchcore.runs.listing import summarize

__all__ = ["COLUMNS", "ExperimentStatus", "PointStatus", "experiment_status"]


@dataclass(frozen=True)
class PointStatus:
    """One point and what it has reached.

    Attributes:
        point: The point.
        state: ``waiting``; ``evaluating``; ``interrupted`` until it is continued; ``failed`` or ``stopped`` if it is
            not started again by itself; else the state of its run.
        reason: Why it has failed or stopped; None otherwise.
        run_id: Id of its run; None before it starts.
        step: Last step of the run.
        dsc: Mean DSC of the best validation on all validation cases, on the training grid; None if there is none.
        best_step: Step of this validation.
        n: Number of cases of this validation.
        attempts: Number of attempts of the run.
        failures: Number of failures.
        dsc_by_patch: Of a flexible network: patch size → mean DSC in the same validation.
    """

    point: Point
    state: str
    reason: str | None = None
    run_id: str | None = None
    step: int = 0
    dsc: float | None = None
    best_step: int | None = None
    n: int | None = None
    attempts: int = 0
    failures: int = 0
    dsc_by_patch: Mapping[str, float] = field(default_factory=dict)

    def to_row(self) -> dict[str, Any]:
        """Return the values of :data:`COLUMNS`."""
        own = asdict(self)
        of_point = self.point.model_dump(mode="json")
        sizes = self.point.patch_sizes or (self.point.patch_size,)
        found = {
            "patch_size": ",".join("x".join(map(str, size)) for size in sizes),
            **{key: of_point[key] for key in ("point_id", "seed", "fold", "steps")},
        }
        return {column: found[column] if column in found else own[column] for column in COLUMNS}


COLUMNS = (
    "point_id", "patch_size", "seed", "fold", "steps", "state", "step", "dsc", "best_step", "n", "attempts",
    "failures", "run_id", "reason",
)  # fmt: skip
"""Columns of the table of points."""


@dataclass(frozen=True)
class ExperimentStatus:
    """An experiment and its points.

    Attributes:
        name: Name of the experiment.
        path: Its folder.
        points: Its points, in the order of the protocol.
        worked_on: Whether a process of this host works on it, or tasks are in the queue.
        stopping: Whether its end was requested.
    """

    name: str
    path: Path
    points: tuple[PointStatus, ...]
    worked_on: bool
    stopping: bool

    @property
    def finished(self) -> int:
        """Number of finished points."""
        return sum(point.state == "finished" for point in self.points)

    def to_json(self) -> dict[str, Any]:
        """Return the experiment as JSON values."""
        return {
            "name": self.name,
            "path": str(self.path),
            "worked_on": self.worked_on,
            "stopping": self.stopping,
            "points": [
                point.to_row() | {"values": point.point.values, "dsc_by_patch": dict(point.dsc_by_patch)}
                for point in self.points
            ],
        }


def experiment_status(folder: ExperimentFolder, *, quick: bool = False) -> ExperimentStatus:
    """Read what an experiment has reached. The truth about a point is its run folder.

    Args:
        folder: The experiment.
        quick: Do not read events: step and number of cases of the best validation are then missing.

    Raises:
        OSError: The folder cannot be read.
    """
    points = []
    places = folder.places()
    for point_id, (place, entry) in places.items():
        point = folder.points[point_id]
        run = folder.run_of(point_id, entry) if entry.get("run") or place is not Place.OPEN else None
        if run is None:
            state = {Place.OPEN: "waiting", Place.CLAIMED: "starting"}.get(place, "failed")
            reason = _reason(folder, point, places)
            if place is Place.DONE:
                reason = "its run does not exist any more: patchcore experiments retry … --point trains it again"
            points.append(PointStatus(point, state, reason))
            continue
        summary = summarize(run)
        best = None if quick else whole_view(run).best_validation
        state = summary.state.state.value
        if place is Place.OPEN:
            state = "waiting"
        elif place is Place.CLAIMED and state == RunState.FINISHED.value:
            state = "evaluating"
        elif place is Place.CLAIMED and summary.state.state.is_over:
            state = "interrupted"
        elif place is Place.ENDED:
            state = "stopped" if str(entry.get("reason", "")).startswith("stopped") else "failed"
        points.append(
            PointStatus(
                point,
                state,
                _reason(folder, point, places),
                summary.run_id,
                summary.step,
                summary.best_dsc_mean if best is None else best.dsc_mean,
                None if best is None else best.step,
                None if best is None else best.n_cases,
                summary.attempts,
                failures_of(run).count,
                {} if best is None else dsc_by_patch(best.values),
            )
        )
    worked_on, stopping = is_worked_on(folder), folder.stop_file.exists()
    return ExperimentStatus(folder.protocol.name, folder.path, tuple(points), worked_on, stopping)


def _reason(folder: ExperimentFolder, point: Point, places: dict[str, tuple[Place, dict[str, Any]]]) -> str | None:
    """Return why a point has ended, or why it cannot start."""
    place, entry = places[point.point_id]
    if place is Place.ENDED:
        return str(entry.get("reason", ""))
    if place is Place.OPEN and point.after is not None and places[point.after][0] is Place.ENDED:
        how = "was stopped" if str(places[point.after][1].get("reason", "")).startswith("stopped") else "has failed"
        return f"needs {point.after}, which {how}"
    if place is Place.OPEN and point.after is not None and places[point.after][0] is Place.CLAIMED:
        owner = next((name for name, claimed in folder.owners().items() if point.after in claimed), "somebody")
        return f"waits for {point.after}, which {owner} works on"
    return None
