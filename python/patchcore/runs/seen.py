"""Records which cases a run has learned from, and derives from it what a score on a case may claim.

A case can influence weights in four ways: the run trained on it, or chose its checkpoint by it, or a run that the
weights came from (an *ancestor*) did so. ``seen.json`` in the run folder names these cases with patient, study and a
hash of the scan's HU. By the hash, a scan is recognised under another id and in another data set: MSD Task03 consists
of LiTS's scans, and 3D-IRCADb is a part of LiTS. Within a study, another case of the same patient counts as seen, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from patchcore.errors import DataError, PatchcoreError
from patchcore.files import read_json, write_json_atomic
from patchcore.runs.setup import RunSplit, divide_cases, read_setup, read_split, run_study
from patchcore.study import CaseRecord, Study

__all__ = [
    "Ancestor",
    "Role",
    "RunRecord",
    "SeenCase",
    "read_record",
    "record_of",
    "trained_by_ancestors",
    "validation_role",
    "worst_role",
    "write_record",
]

_SCHEMA = 1
_FILE = "seen.json"


class Role(StrEnum):
    """What a run and its ancestors have done with a case. The order is from the worst to the best for a score."""

    TRAINING = "used for training"
    ANCESTOR_TRAINING = "used for training by an ancestor"
    PATIENT = "of a patient used for training"
    SELECTION = "used for selection"
    ANCESTOR_SELECTION = "used for selection by an ancestor"
    SELECTION_PATIENT = "of a patient used for selection"
    NEW = "new to the run"
    HELD_OUT = "held out"
    EXTERNAL = "external"

    @property
    def is_trained(self) -> bool:
        """Whether weights were fitted to this case or to another case of its patient."""
        return self in (Role.TRAINING, Role.ANCESTOR_TRAINING, Role.PATIENT)

    @property
    def is_seen(self) -> bool:
        """Whether the case, or another case of its patient, has influenced the weights or their choice."""
        return self not in (Role.NEW, Role.HELD_OUT, Role.EXTERNAL)


@dataclass(frozen=True)
class SeenCase:
    """A case that a run has learned from. `scan_hash` is empty if the study does not know it."""

    study_id: str
    case_id: str
    patient: str
    scan_hash: str = ""


@dataclass(frozen=True)
class Ancestor:
    """A run that weights came from, with the cases that it trained on and selected its checkpoint by."""

    run_id: str
    trained: tuple[SeenCase, ...]
    selected: tuple[SeenCase, ...]


@dataclass(frozen=True)
class RunRecord:
    """The cases that a run and its ancestors have learned from.

    Attributes:
        study_id: Id of the run's study.
        trained: Cases that the run trains on.
        selected: Cases that the run chooses its checkpoint by.
        ancestors: The runs that the initial weights came from, the nearest first.
        unknown: Sources of weights whose cases are not known, as sentences.
    """

    study_id: str
    trained: tuple[SeenCase, ...]
    selected: tuple[SeenCase, ...]
    ancestors: tuple[Ancestor, ...] = ()
    unknown: tuple[str, ...] = ()
    _index: dict[Role, set[tuple[str, ...]]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ancestors_trained = [case for ancestor in self.ancestors for case in ancestor.trained]
        ancestors_selected = [case for ancestor in self.ancestors for case in ancestor.selected]
        self._index.update(
            {
                Role.TRAINING: _keys(self.trained),
                Role.ANCESTOR_TRAINING: _keys(ancestors_trained),
                Role.PATIENT: _patients([*self.trained, *ancestors_trained]),
                Role.SELECTION: _keys(self.selected),
                Role.ANCESTOR_SELECTION: _keys(ancestors_selected),
                Role.SELECTION_PATIENT: _patients([*self.selected, *ancestors_selected]),
            }
        )

    def role(self, record: CaseRecord, study: Study) -> Role:
        """Return the role of a case of any study in this run."""
        role = self._met(seen_case(record, study))
        if role is not None:
            return role
        if study.study_id != self.study_id:
            return Role.EXTERNAL
        return Role.HELD_OUT if record.status == "test" else Role.NEW

    def validation_roles(self) -> dict[str, Role]:
        """Return the roles of the cases that the run validates on, by case id."""
        return {case.case_id: self._met(case) or Role.SELECTION for case in self.selected}

    def _met(self, case: SeenCase) -> Role | None:
        own = _keys([case]) | _patients([case])
        return next((role for role, known in self._index.items() if not own.isdisjoint(known)), None)

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``seen.json``."""
        fields = {name: value for name, value in asdict(self).items() if not name.startswith("_")}
        return {"schema_version": _SCHEMA, **fields}


def seen_case(record: CaseRecord, study: Study) -> SeenCase:
    """Return the identity of a case of a study."""
    scan_hash = "" if record.image_stamp is None else record.image_stamp.scan_hash
    return SeenCase(study.study_id, record.case_id, record.patient, scan_hash)


def worst_role(roles: Iterable[Role]) -> str:
    """Return the role of several cases as text: the worst one, with "some" if their roles differ.

    Example:
        >>> worst_role([Role.NEW, Role.SELECTION]), worst_role([Role.NEW])
        ('some used for selection', 'new to the run')
    """
    found = set(roles)
    worst = next(role for role in Role if role in found)
    return worst.value if len(found) == 1 else f"some {worst.value}"


def validation_role(run: Path) -> str:
    """Return the worst role of a run's validation cases as text; empty if the run has no readable record of it."""
    try:
        roles = read_record(run).validation_roles().values()
        return worst_role(roles) if roles else ""
    except (PatchcoreError, OSError):
        return ""


def record_of(study: Study, split: RunSplit, source: str) -> RunRecord:
    """Make the record of a new run.

    Args:
        study: The study of the run.
        split: The cases of the run.
        source: The run folder or weights file of the initial weights; empty without one.
    """
    by_id = {record.case_id: record for record in study.cases()}

    def seen(case_ids: Iterable[str]) -> tuple[SeenCase, ...]:
        # A case that the study has lost meanwhile keeps its id.
        return tuple(
            seen_case(by_id[case_id], study) if case_id in by_id else SeenCase(study.study_id, case_id, case_id)
            for case_id in case_ids
        )

    ancestors: tuple[Ancestor, ...] = ()
    unknown: tuple[str, ...] = ()
    if source and not Path(source).exists():
        unknown = (f"the weights come from {source}, which no longer exists: which cases it has seen is unknown",)
    elif source and Path(source).is_dir():
        run = Path(source)
        try:
            parent = read_record(run)
        except (PatchcoreError, OSError) as error:
            unknown = (f"the weights come from run {run.name}, which does not say which cases it has seen ({error})",)
        else:
            ancestors = (Ancestor(run.name, parent.trained, parent.selected), *parent.ancestors)
            unknown = parent.unknown
    elif source:
        unknown = (f"the weights come from the file {Path(source).name}, which does not say which cases it has seen",)
    return RunRecord(study.study_id, seen(split.train), seen(split.validation), ancestors, unknown)


def trained_by_ancestors(record: RunRecord, study: Study) -> list[str]:
    """Return the ids of cases that a run selects by although an ancestor trained on them or on their patients."""
    selected = {case.case_id for case in record.selected}
    ancestors = RunRecord(record.study_id, (), (), record.ancestors)
    return [
        case.case_id for case in study.cases() if case.case_id in selected and ancestors.role(case, study).is_trained
    ]


def write_record(run: Path, record: RunRecord) -> None:
    """Write ``seen.json`` of a run."""
    write_json_atomic(run / _FILE, record.to_json())


def read_record(run: Path) -> RunRecord:
    """Return the record of a run. For a run of an older patchcore it is made from the run's split and study.

    Raises:
        StudyError: The run has no record and is not inside a study.
        RunError: The folder is not a run folder.
        DataError: A file is damaged, or the study cannot be divided as the run's configuration says.
    """
    try:
        found = read_json(run / _FILE, schema=_SCHEMA)
    except FileNotFoundError:
        study, config = run_study(run), read_setup(run).config
        # A run that is older than split.json has used the split that the study gives now, or a similar one.
        return record_of(study, read_split(run) or divide_cases(study, config), config.init.source)
    try:
        return RunRecord(
            study_id=str(found["study_id"]),
            trained=_cases(found["trained"]),
            selected=_cases(found["selected"]),
            ancestors=tuple(
                Ancestor(str(one["run_id"]), _cases(one["trained"]), _cases(one["selected"]))
                for one in found["ancestors"]
            ),
            unknown=tuple(map(str, found["unknown"])),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"does not list the cases that the run has seen ({error!r})",
            path=run / _FILE,
            remedy="restore the file from a backup, or delete it: it is then made from split.json",
        ) from None


def _cases(values: Iterable[Mapping[str, Any]]) -> tuple[SeenCase, ...]:
    return tuple(SeenCase(**{name: str(value) for name, value in one.items()}) for one in values)


def _keys(cases: Iterable[SeenCase]) -> set[tuple[str, ...]]:
    """Return what identifies cases: study and id, and the hash of the scan."""
    keys: set[tuple[str, ...]] = set()
    for case in cases:
        keys.add(("case", case.study_id, case.case_id))
        if case.scan_hash:
            keys.add(("scan", case.scan_hash))
    return keys


def _patients(cases: Iterable[SeenCase]) -> set[tuple[str, ...]]:
    """Return patients with their study: two data sets may use one number for different patients."""
    return {("patient", case.study_id, case.patient) for case in cases}
