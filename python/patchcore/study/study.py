"""The study folder: everything patchcore makes from one data set, in one place.

``study.json`` (schema, version, data set root), ``cases.jsonl``, ``decisions.json``, ``fingerprint.json``,
``lesions.csv``, ``plan.json``, ``folds.json``, ``figures/``, ``runs/``, ``reports/``, ``locks/``.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from patchcore.config.explain import explain
from patchcore.config.plan import Plan, read_plan
from patchcore.errors import LockedError, StudyError
from patchcore.files import json_lines, read_json, write_atomic, write_json_atomic
from patchcore.locks import FileLock
from patchcore.notebook import HtmlView
from patchcore.study.cases import CaseRecord
from patchcore.study.decisions import checked_decisions
from patchcore.study.fingerprint import Fingerprint, read_fingerprint, write_fingerprint
from patchcore.study.folds import make_folds
from patchcore.types import PathLike

__all__ = ["STUDY_SCHEMA", "Study"]

STUDY_SCHEMA = 1
DECISIONS_SCHEMA = 1
_IN_STUDY = "study:"
FOLDS_SCHEMA = 2
_FOLDS_WAIT_S = 10.0
_LOCK_POLL_S = 0.02


class Study(HtmlView):
    """An existing study folder.

    Args:
        path: The folder that ``patchcore analyze`` made.

    Raises:
        StudyError: There is no study at `path`.
        SchemaVersionError: A newer patchcore made it.

    Example:
        >>> import tempfile
        >>> study = Study.create(Path(tempfile.mkdtemp()) / "study", "dataset")
        >>> study.accepted()
        []
    """

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path).absolute()
        remedy = "make one with patchcore analyze DATASET STUDY"
        if not self.path.exists():
            raise StudyError("no such study", path=self.path, remedy=remedy)
        try:
            data = read_json(self.path / "study.json", schema=STUDY_SCHEMA)
        except (FileNotFoundError, NotADirectoryError):
            raise StudyError("not a study: it has no study.json", path=self.path, remedy=remedy) from None
        self.dataset_root = Path(str(data.get("dataset_root", "")))

    @classmethod
    def open(cls, path: PathLike) -> Study:
        """Open an existing study; the same as ``Study(path)``."""
        return cls(path)

    @classmethod
    def create(cls, path: PathLike, dataset_root: PathLike) -> Study:
        """Make a study for a data set, or open the one that is there.

        Raises:
            StudyError: `path` is a file, not writable, holds other files, or belongs to another data set.
        """
        path, root = Path(path).absolute(), Path(dataset_root).resolve()
        if (path / "study.json").exists():
            study = cls(path)
            if study.dataset_root != root and not study.cases_path.exists():
                # A first analysis that failed has left nothing but the name of its data set.
                study._check_writable()
                _describe(path, root)
                return cls(path)
            if study.dataset_root != root:
                raise StudyError(
                    f"the study was made from {study.dataset_root}, not from {root}",
                    path=path,
                    remedy="name another study folder; if the data moved, correct dataset_root in study.json",
                )
            study._check_writable()
            return study
        if path.exists() and not path.is_dir():
            raise StudyError("is a file, not a folder", path=path, remedy="name another study folder")
        if path.is_dir() and any(not item.name.startswith(".") for item in path.iterdir()):
            raise StudyError(
                "the folder is not empty and is no study", path=path, remedy="name a new or an empty folder"
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
            # Before the folders: what another process meets meanwhile is an empty folder or a study.
            _describe(path, root)
            for name in ("runs", "reports", "locks"):
                (path / name).mkdir(exist_ok=True)
        except OSError as error:
            raise StudyError(
                f"the study folder cannot be written ({error.strerror or error})",
                path=path,
                remedy="name a folder that you may write to, on a disk with room",
            ) from error
        return cls(path)

    def __repr__(self) -> str:
        return f"Study({str(self.path)!r})"

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def plan_path(self) -> Path:
        """``plan.json``, whether it exists or not."""
        return self.path / "plan.json"

    @property
    def fingerprint_path(self) -> Path:
        """``fingerprint.json``, whether it exists or not."""
        return self.path / "fingerprint.json"

    @property
    def cases_path(self) -> Path:
        """``cases.jsonl``, whether it exists or not."""
        return self.path / "cases.jsonl"

    @property
    def lesions_path(self) -> Path:
        """``lesions.csv``, whether it exists or not."""
        return self.path / "lesions.csv"

    @property
    def figures_dir(self) -> Path:
        """The folder of figures; made by whoever draws the first."""
        return self.path / "figures"

    @property
    def runs_dir(self) -> Path:
        """The folder of runs."""
        return self.path / "runs"

    @property
    def reports_dir(self) -> Path:
        """The folder of reports."""
        return self.path / "reports"

    def cases(self) -> list[CaseRecord]:
        """Return every case, quarantined ones included, in case_id order; empty before the first analysis.

        Raises:
            StudyError: ``cases.jsonl`` holds a line that is no case.
        """
        if not self.cases_path.exists():
            return []
        records = []
        for number, line in enumerate(json_lines(self.cases_path), 1):
            try:
                record = CaseRecord.model_validate_json(line)
            except ValidationError as error:
                raise StudyError(
                    f"line {number} is no case: {explain(error, CaseRecord)}",
                    path=self.cases_path,
                    remedy="run patchcore analyze again",
                ) from None
            records.append(_at(record, self._placed))
        return sorted(records, key=lambda record: record.case_id)

    def accepted(self) -> list[CaseRecord]:
        """Return the accepted cases in case_id order."""
        return [record for record in self.cases() if record.accepted]

    def held_out(self) -> list[CaseRecord]:
        """Return the cases that the data set keeps for testing, in case_id order."""
        return [record for record in self.cases() if record.status == "test"]

    def case(self, case_id: str) -> CaseRecord:
        """Return one case.

        Raises:
            StudyError: The study has no such case.
        """
        for record in self.cases():
            if record.case_id == case_id:
                return record
        raise StudyError(f"the study has no case {case_id}", path=self.path, remedy="cases.jsonl lists them")

    def write_cases(self, records: Iterable[CaseRecord]) -> None:
        """Write ``cases.jsonl``, whole or not at all, in case_id order; data set paths become relative."""
        ordered = sorted(records, key=lambda item: item.case_id)
        lines = [_at(record, self._relative).model_dump_json() for record in ordered]
        write_atomic(self.cases_path, "".join(line + "\n" for line in lines))

    def decisions(self) -> dict[str, Any]:
        """Return what the user decided at earlier analyses (lesion label, exclusions …); empty at first.

        Raises:
            StudyError: ``decisions.json`` was edited into something impossible.
        """
        path = self.path / "decisions.json"
        if not path.exists():
            return {}
        data = dict(read_json(path, schema=DECISIONS_SCHEMA))
        del data["schema_version"]
        return checked_decisions(path, data)

    def write_decisions(self, decisions: Mapping[str, Any]) -> None:
        """Write ``decisions.json``, whole or not at all."""
        write_json_atomic(self.path / "decisions.json", {"schema_version": DECISIONS_SCHEMA, **decisions})

    def fingerprint(self) -> Fingerprint:
        """Read what was measured.

        Raises:
            StudyError: Nothing was measured yet, or no case was accepted.
        """
        return read_fingerprint(self.fingerprint_path)

    def write_fingerprint(self, fingerprint: Fingerprint) -> Fingerprint:
        """Write ``fingerprint.json``, whole or not at all, and return it with its hash."""
        return write_fingerprint(self.fingerprint_path, fingerprint)

    def plan(self) -> Plan:
        """Read and validate ``plan.json``.

        Raises:
            StudyError: There is no plan yet.
            PlanError: It was edited into something impossible.
        """
        if not self.plan_path.exists():
            raise StudyError("the study has no plan yet", path=self.path, remedy="make one with patchcore plan STUDY")
        return read_plan(self.plan_path)

    def outdated_plan(self) -> str | None:
        """Say that the plan rests on another measurement than the study's last, in a sentence; None where it does not.

        Raises:
            StudyError: There is no plan, or nothing was measured yet.
            PlanError: It was edited into something impossible.
        """
        if self.plan().fingerprint_hash == self.fingerprint().fingerprint_hash:
            return None
        return (
            "plan.json rests on another measurement than the study's last one; if that is not meant, make it anew with "
            "patchcore plan STUDY"
        )

    def write_plan(self, plan: Plan) -> None:
        """Write ``plan.json``, whole or not at all."""
        write_json_atomic(self.plan_path, plan.model_dump(mode="json"))

    def folds(self, k: int = 5, seed: int = 0) -> list[list[str]]:
        """Return the case ids of each of `k` folds, and keep them in ``folds.json``.

        Folds are grouped by patient and stratified by the patients' lesion volume.

        Every division ever made is kept: the same `k`, `seed` and accepted cases give the same folds, whatever is
        planned or measured anew meanwhile. A cohort that has changed gets new ones.

        Raises:
            DataError: Fewer patients than folds.
            LockedError: Another process keeps ``folds.json`` for itself.
        """
        records = self.accepted()
        text = "\n".join(f"{record.case_id}\t{record.patient}" for record in records)
        cohort = hashlib.sha256(text.encode()).hexdigest()
        key = {"k": k, "seed": seed, "cohort": cohort}

        def kept(divisions: list[dict[str, Any]]) -> list[list[str]] | None:
            found = (one for one in divisions if {name: one.get(name) for name in key} == key)
            return next(([list(map(str, fold)) for fold in one["folds"]] for one in found), None)

        if found := kept(self._divisions()):
            return found
        indices = make_folds([record.patient for record in records], k, seed, burdens=self._burdens(records))
        folds = [[records[index].case_id for index in fold] for fold in indices]
        # Trainings may begin side by side: what another has written meanwhile stays.
        with self.lock("folds", wait_s=_FOLDS_WAIT_S):
            divisions = self._divisions()
            if found := kept(divisions):
                return found
            before = [{name: division[name] for name in (*key, "folds")} for division in divisions]
            made = {"schema_version": FOLDS_SCHEMA, "divisions": [*before, {**key, "folds": folds}]}
            write_json_atomic(self._folds_path, made)
        return folds

    @property
    def _folds_path(self) -> Path:
        return self.path / "folds.json"

    def _divisions(self) -> list[dict[str, Any]]:
        if not self._folds_path.exists():
            return []
        data = read_json(self._folds_path, schema=FOLDS_SCHEMA)
        # The first version kept one division, as the file itself.
        divisions: list[dict[str, Any]] = data["divisions"] if data.get("schema_version", 1) > 1 else [data]
        return divisions

    def _burdens(self, records: Sequence[CaseRecord]) -> list[float] | None:
        """Return the lesion volume of each case, mm³: of the planned label, or of all where there is no plan yet."""
        if not self.fingerprint_path.exists():
            return None
        label = self.plan().target.lesion_label if self.plan_path.exists() else None
        found = {
            case.case_id: sum(lesion.volume_mm3 for lesion in case.lesions if label in (None, lesion.label))
            for case in self.fingerprint().cases
        }
        return [found.get(record.case_id, 0.0) for record in records]

    @contextmanager
    def lock(self, name: str, *, wait_s: float = 0.0) -> Iterator[None]:
        """Hold the study's lock `name` (``analyze``, ``prepare`` …) for the block, waited for as long as told.

        Raises:
            LockedError: Somebody else holds it.
        """
        (self.path / "locks").mkdir(exist_ok=True)
        path, deadline = self.path / "locks" / f"{name}.lock", time.monotonic() + wait_s
        with ExitStack() as held:
            while True:
                try:
                    held.enter_context(FileLock(path, what=f"{name} of study {self.path.name}"))
                    break
                except LockedError:
                    if time.monotonic() >= deadline:
                        raise
                    time.sleep(_LOCK_POLL_S)
            yield

    def _relative(self, path: Path) -> Path:
        path = path.absolute()
        if path.is_relative_to(self.path):
            # Indices of DICOM volumes move with the study.
            return Path(_IN_STUDY, path.relative_to(self.path))
        return path.relative_to(self.dataset_root) if path.is_relative_to(self.dataset_root) else path

    def _placed(self, path: Path) -> Path:
        """Return the path that :meth:`_relative` made a stored one of."""
        if path.parts[:1] == (_IN_STUDY,):
            return self.path.joinpath(*path.parts[1:])
        return self.dataset_root / path

    def _check_writable(self) -> None:
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise StudyError(
                "the study folder is not writable",
                path=self.path,
                remedy="name a folder that you may write to",
            )


def _at(record: CaseRecord, place: Callable[[Path], Path]) -> CaseRecord:
    """Return a record whose files lie where `place` puts them."""
    image = None if record.image is None else record.image.moved(place(record.image.path))
    return record.model_copy(update={"image": image, "label": record.label.moved(place(record.label.path))})


def _describe(path: Path, root: Path) -> None:
    """Write ``study.json``: whose study this is."""
    write_json_atomic(
        path / "study.json",
        {
            "schema_version": STUDY_SCHEMA,
            "patchcore_version": _version(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "dataset_root": str(root),
        },
    )


def _version() -> str:
    try:
        return metadata.version("patchcore")
    except metadata.PackageNotFoundError:
        return "unknown"
