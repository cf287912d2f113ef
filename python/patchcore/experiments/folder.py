"""The folder of an experiment: its protocol, and one entry per point, which is claimed by a rename.

    STUDY/experiments/NAME/
      experiment.json          the protocol; never changed
      open/POINT.json          points that wait for a dispatcher
      claimed/OWNER/POINT.json points that somebody works on: the dispatcher of a host, or a task of a cluster
      done/POINT.json          points with a finished run
      ended/POINT.json         points that are not started again by themselves: failed, or stopped by a user
      dispatchers/HOST.lock    held by the dispatcher of a host    HOST.log    its output
      extensions/NUMBER.json   points that were added later
      stop                     while it exists, dispatchers stop their runs and end

A rename succeeds for one process only, so two dispatchers never work on one point. What a point has reached is in its
run folder; an entry only names the run. A run names its experiment and point: a dispatcher that was killed after it
created a run, and before it wrote the entry, leaves no second run behind.

An entry is ``{"run": …, "reason": …, "set_aside": […]}``: the name of its run, why it has ended, and the earlier runs
of a point that a user has started over.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from patchcore.errors import ConfigError, RunError
from patchcore.experiments.protocol import Extension, Point, Protocol, read_extension, read_protocol
from patchcore.files import write_json_atomic
from patchcore.locks import FileLock, check_locks
from patchcore.runs.paths import RunPaths, read_object
from patchcore.study import Study
from patchcore.types import PathLike

__all__ = ["ExperimentFolder", "Place", "dispatcher_lock", "list_experiments", "resolve_experiment"]


class Place(StrEnum):
    """Where the entry of a point is."""

    OPEN = "open"
    CLAIMED = "claimed"
    DONE = "done"
    ENDED = "ended"


class ExperimentFolder:
    """An experiment on disk.

    Args:
        path: The folder.
        owner: Name under which this process claims points [default: the name of the host].

    Attributes:
        points: Point id → point, in the order of the protocol, then of its extensions.
        extensions: What was added later, in order of time.

    Raises:
        RunError: It is not the folder of an experiment, or is damaged.
        SchemaVersionError: A newer patchcore wrote it.
    """

    def __init__(self, path: PathLike, owner: str | None = None) -> None:
        self.path = Path(path)
        self.owner = owner or socket.gethostname()
        self.protocol = read_protocol(self.path / "experiment.json")
        self.extensions = tuple(map(read_extension, sorted((self.path / "extensions").glob("*.json"))))
        everything = (self.protocol.points, *(extension.points for extension in self.extensions))
        self.points = {point.point_id: point for points in everything for point in points}
        self._found: dict[str, Path] = {}

    @classmethod
    def create(cls, study: Path, protocol: Protocol) -> ExperimentFolder:
        """Write an experiment, completely or not at all; return the existing one if its protocol is the same.

        Raises:
            ConfigError: An experiment of this name has another protocol.
            OSError: The study cannot be written.
        """
        folder = study / "experiments" / protocol.name
        if folder.exists():
            found = cls(folder)
            differs = [
                key for key, value in protocol.what_decides().items() if found.protocol.what_decides()[key] != value
            ]
            if differs:
                raise ConfigError(
                    f"the experiment {protocol.name} exists with another protocol (different: {', '.join(differs)})",
                    path=folder,
                    remedy=f"to continue it: patchcore experiments retry {study} {protocol.name}; "
                    "for another protocol, give another --name",
                )
            return found
        folder.parent.mkdir(exist_ok=True)
        check_locks(folder.parent)
        unfinished = folder.with_name(f".{protocol.name}.{os.getpid()}.tmp")
        try:
            for place in Place:
                (unfinished / place).mkdir(parents=True)
            (unfinished / "dispatchers").mkdir()
            for point in protocol.points:
                write_json_atomic(unfinished / Place.OPEN / f"{point.point_id}.json", {})
            write_json_atomic(unfinished / "experiment.json", protocol.model_dump(mode="json"))
            (unfinished / "experiment.json").chmod(0o444)
            unfinished.rename(folder)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        return cls(folder)

    @property
    def study(self) -> Path:
        """The study that the experiment belongs to."""
        return self.path.absolute().parent.parent

    def study_of(self, point: Point) -> Path:
        """Return the study that a point is trained on.

        Raises:
            RunError: Another study lies in its place, because one of them was moved.
            StudyError: Nothing lies in its place.
        """
        if not point.study:
            return self.study
        other = self.protocol.studies[point.study]
        path = (self.study.resolve() / other.path).resolve()
        if point.study not in self._found:
            found = Study(path)
            if found.study_id != other.study_id:
                raise RunError(
                    f"the study {point.study} of the experiment was moved: another study is in its place",
                    path=path,
                    remedy="move it back, or start the experiment again under another name",
                )
            self._found[point.study] = path
        return self._found[point.study]

    def extend(self, extension: Extension) -> None:
        """Add points. The files are written so that an interruption adds all of them or none.

        Raises:
            ConfigError: Somebody else has extended the experiment in the meantime.
            LockedError: Somebody else does it at this moment.
            OSError: The folder cannot be written.
        """
        folder = self.path / "extensions"
        folder.mkdir(exist_ok=True)
        with FileLock(folder / "lock", what="the extension of the experiment"):
            if len(list(folder.glob("*.json"))) != len(self.extensions):
                raise ConfigError(
                    "the experiment was extended by somebody else just now", path=self.path, remedy="try again"
                )
            for point in extension.points:  # an entry without a point is not looked at
                write_json_atomic(self._entry(Place.OPEN, point.point_id), {})
            number = len(self.extensions) + 1
            write_json_atomic(folder / f"{number:04}.json", extension.model_dump(mode="json"))
        self.extensions = (*self.extensions, extension)
        self.points |= {point.point_id: point for point in extension.points}

    @property
    def stop_file(self) -> Path:
        """While this file exists, dispatchers stop their runs and end."""
        return self.path / "stop"

    def places(self) -> dict[str, tuple[Place, dict[str, Any]]]:
        """Return the place and the entry of every point, in the order of the protocol.

        An entry that is being moved just now counts as claimed.
        """
        found: dict[str, tuple[Place, dict[str, Any]]] = {}
        for point_id in self.points:
            for place in Place:
                entry = read_object(self._entry(place, point_id))
                if entry is not None:
                    found[point_id] = (place, entry)
                    break
            else:
                found[point_id] = (Place.CLAIMED, {})
        return found

    def own_claims(self) -> dict[str, dict[str, Any]]:
        """Return the entries of the points that this owner has claimed, in the order of the protocol."""
        folder = self.path / Place.CLAIMED / self.owner
        found = {point_id: read_object(folder / f"{point_id}.json") for point_id in self.points}
        return {point_id: entry for point_id, entry in found.items() if entry is not None}

    def owners(self) -> dict[str, list[str]]:
        """Return who has claimed points, and which."""
        folders = sorted((self.path / Place.CLAIMED).iterdir())
        found = {folder.name: [path.stem for path in sorted(folder.glob("*.json"))] for folder in folders}
        return {owner: points for owner, points in found.items() if points}

    def claim(self, last: Collection[Mapping[str, str]] = ()) -> Point | None:
        """Take the first open point that waits for no other point; None if there is none.

        Args:
            last: Values of the points that are taken after all others.
        """
        for point in sorted(self.points.values(), key=lambda point: point.values in last):
            if self.is_ready(point) and self.move(point.point_id, Place.OPEN, Place.CLAIMED):
                return point
        return None

    def is_ready(self, point: Point) -> bool:
        """Return whether the point that this one needs is finished."""
        return point.after is None or self._entry(Place.DONE, point.after).exists()

    def waits_for_somebody(self) -> bool:
        """Return whether an open point needs a point that somebody works on."""
        places = {point_id: place for point_id, (place, _) in self.places().items()}
        return any(
            point.after is not None and places[point_id] is Place.OPEN and places[point.after] is Place.CLAIMED
            for point_id, point in self.points.items()
        )

    def give_up_claim(self, owner: str, point_id: str) -> bool:
        """Open a point again that an owner has claimed who exists no longer. Return whether this process did it."""
        try:
            (self.path / Place.CLAIMED / owner / f"{point_id}.json").rename(self._entry(Place.OPEN, point_id))
        except FileNotFoundError:
            return False
        return True

    def check_names(self, point_ids: Sequence[str]) -> None:
        """Check that the experiment has points.

        Raises:
            RunError: It does not have one of them.
        """
        if strange := [point_id for point_id in point_ids if point_id not in self.points]:
            raise RunError(
                f"the experiment has no point {strange[0]}",
                path=self.path,
                remedy=f"choose from {', '.join(self.points)}",
            )

    def start_over(self, point_id: str) -> None:
        """Open a point that is done or has ended, for a run of its own from the first step; its old run stays.

        Raises:
            RunError: The experiment has no such point, or somebody works on it.
        """
        self.check_names([point_id])
        place, entry = self.places()[point_id]
        run = self.run_of(point_id, entry)
        aside = [*entry.get("set_aside", []), *([] if run is None else [run.name])]
        if place is Place.CLAIMED or not self.reopen(point_id, place, run=None, forgiven=None, set_aside=aside):
            owner = next((name for name, points in self.owners().items() if point_id in points), "somebody")
            raise RunError(
                f"{owner} works on the point {point_id}",
                path=self.path,
                remedy=f"stop the experiment first; if {owner} does not exist any more, use --take-over {owner}",
            )

    def reopen(self, point_id: str, place: Place, **facts: Any) -> bool:
        """Open a point with other facts in its entry. Return False if somebody else has taken it in the meantime.

        The entry is changed while it is claimed: nobody else can take it then.
        """
        if not self.move(point_id, place, Place.CLAIMED):
            return False
        self.note(point_id, Place.CLAIMED, reason=None, **facts)
        return self.move(point_id, Place.CLAIMED, Place.OPEN)

    def take_over(self, owner: str) -> list[str]:
        """Open all points of an owner that does not exist any more, and return them.

        Raises:
            RunError: Nobody of this name has claimed a point.
        """
        points = self.owners().get(owner, [])
        if not points:
            names = ", ".join(self.owners()) or "nobody"
            raise RunError(f"{owner!r} has claimed no point", path=self.path, remedy=f"points are claimed by: {names}")
        return [point_id for point_id in points if self.give_up_claim(owner, point_id)]

    def move(self, point_id: str, origin: Place, to: Place, **facts: Any) -> bool:
        """Move the entry of a point, if it is where it is expected, and add facts to it.

        A claim is one of this owner.

        Returns:
            Whether this process has moved it.
        """
        target = self.path / to / f"{point_id}.json"
        if to is Place.CLAIMED:
            target = target.parent / self.owner / target.name
            target.parent.mkdir(exist_ok=True)
        try:
            self._entry(origin, point_id).rename(target)
        except FileNotFoundError:
            return False
        if facts:
            self.note(point_id, to, **facts)
        return True

    def note(self, point_id: str, place: Place, **facts: Any) -> None:
        """Add facts to the entry of a point."""
        path = self._entry(place, point_id)
        write_json_atomic(path, (read_object(path) or {}) | facts)

    def run_of(self, point_id: str, entry: dict[str, Any]) -> Path | None:
        """Return the run folder of a point; None if it has none yet."""
        name, runs = entry.get("run"), self.study_of(self.points[point_id]) / "runs"
        if isinstance(name, str) and (runs / name / "run.json").exists():
            return runs / name
        mine = self.record_of(point_id)
        for run in _newest_first(runs):
            if (
                run.name not in entry.get("set_aside", ())
                and (read_object(RunPaths(run).run_json) or {}).get("experiment") == mine
            ):
                return run
        return None

    def record_of(self, point_id: str) -> dict[str, str]:
        """Return what a run records of its experiment and point.

        The time tells it from an experiment of the same name that was deleted.
        """
        record = {"name": self.protocol.name, "point": point_id, "created": self.protocol.created}
        if not self.points[point_id].study:
            return record
        # In another study, an experiment of a third one may have the same name.
        return record | {"study": Study(self.study).study_id}

    def _entry(self, place: Place, point_id: str) -> Path:
        name = f"{point_id}.json"
        if place is not Place.CLAIMED:
            return self.path / place / name
        claims = [folder / name for folder in (self.path / place).iterdir()]
        return next((claim for claim in claims if claim.exists()), self.path / place / self.owner / name)


def dispatcher_lock(experiment: PathLike, host: str) -> Path:
    """Return the file that the dispatcher of a host locks while it works on an experiment."""
    return Path(experiment) / "dispatchers" / f"{host}.lock"


def list_experiments(study: PathLike) -> list[ExperimentFolder]:
    """Return the experiments of a study that can be read, by name."""
    folder = Path(study) / "experiments"
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    found = []
    for name in names:
        if not name.startswith(".") and (folder / name / "experiment.json").exists():
            found.append(ExperimentFolder(folder / name))
    return found


def _newest_first(runs: Path) -> Iterator[Path]:
    try:
        names = sorted((path.name for path in runs.iterdir() if not path.name.startswith(".")), reverse=True)
    except FileNotFoundError:
        return
    yield from (runs / name for name in names)


def resolve_experiment(study: PathLike | None, experiment: PathLike) -> ExperimentFolder:
    """Return an experiment by its folder, or by its name within a study.

    Raises:
        RunError: There is none.
    """
    path = Path(experiment)
    if study is None or (path / "experiment.json").exists():
        return ExperimentFolder(path)
    named = Path(study) / "experiments" / path
    if not (named / "experiment.json").exists():
        names = [found.protocol.name for found in list_experiments(study)]
        raise RunError(
            f"the study has no experiment {str(experiment)!r}",
            path=Path(study),
            remedy=f"choose one of {', '.join(names)}" if names else "start one with patchcore sweep",
        )
    return ExperimentFolder(named)
