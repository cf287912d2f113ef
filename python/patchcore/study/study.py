"""The study folder: contains everything that patchcore creates from one data set.

``study.json`` (schema, version, data set root, id), ``cases.jsonl``, ``decisions.json``, ``fingerprint.json``,
``lesions.csv``, ``plan.json``, ``folds.json``, ``figures/``, ``runs/``, ``reports/``, ``locks/``.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
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
from patchcore.version import package_version

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
        path: Folder that ``patchcore analyze`` created.

    Raises:
        StudyError: There is no study at `path`.
        SchemaVersionError: A newer patchcore created it.

    Example:
        >>> import tempfile
        >>> study = Study.create(Path(tempfile.mkdtemp()) / "study", "dataset")
        >>> study.accepted()
        []
    """

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path).absolute()
        remedy = "create one with patchcore analyze DATASET STUDY"
        if not self.path.exists():
            raise StudyError("no such study", path=self.path, remedy=remedy)
        try:
            data = read_json(self.path / "study.json", schema=STUDY_SCHEMA)
        except (FileNotFoundError, NotADirectoryError):
            raise StudyError("not a study: it has no study.json", path=self.path, remedy=remedy) from None
        self.dataset_root = Path(str(data.get("dataset_root", "")))
        # Studies of older versions have no id. Their path and their time of creation tell them apart.
        before = hashlib.sha256(f"{self.path.resolve()} {data.get('created')}".encode()).hexdigest()[:16]
        self.study_id = str(data.get("study_id") or before)

    def keep_id(self) -> None:
        """Write down the id of a study of an older version, so that it stays when the study is moved."""
        path = self.path / "study.json"
        if not (data := read_json(path, schema=STUDY_SCHEMA)).get("study_id"):
            write_json_atomic(path, data | {"study_id": self.study_id})

    @classmethod
    def open(cls, path: PathLike) -> Study:
        """Open an existing study; the same as ``Study(path)``."""
        return cls(path)

    @classmethod
    def create(cls, path: PathLike, dataset_root: PathLike) -> Study:
        """Create a study for a data set, or open the existing study.

        Raises:
            StudyError: `path` is a file, is not writable, contains other files, or belongs to another data set.
        """
        path, root = Path(path).absolute(), Path(dataset_root).resolve()
        if (path / "study.json").exists():
            study = cls(path)
            if study.dataset_root != root and not study.cases_path.exists():
                # The first analysis failed and left only the path of its data set.
                study._check_writable()
                _describe(path, root)
                return cls(path)
            if study.dataset_root != root:
                raise StudyError(
                    f"the study was made from {study.dataset_root}, not from {root}",
                    path=path,
                    remedy="use another study folder; if the data set was moved, correct dataset_root in study.json",
                )
            study._check_writable()
            return study
        if path.exists() and not path.is_dir():
            raise StudyError("is a file, not a folder", path=path, remedy="use another study folder")
        if path.is_dir() and any(not item.name.startswith(".") for item in path.iterdir()):
            raise StudyError(
                "the folder is not empty and not a study", path=path, remedy="use a new or an empty folder"
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
            # Written before the subfolders, so that another process sees either an empty folder or a study.
            _describe(path, root)
            for name in ("runs", "reports", "locks"):
                (path / name).mkdir(exist_ok=True)
        except OSError as error:
            raise StudyError(
                f"the study folder cannot be written ({error.strerror or error})",
                path=path,
                remedy="use a folder that you may write to, on a disk with free space",
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
        """The folder of figures; it is created with the first figure."""
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
        """Return all cases in case_id order, including quarantined cases; empty before the first analysis.

        Raises:
            StudyError: ``cases.jsonl`` contains a line that is not a valid case.
        """
        if not self.cases_path.exists():
            return []
        records = []
        for number, line in enumerate(json_lines(self.cases_path), 1):
            try:
                record = CaseRecord.model_validate_json(line)
            except ValidationError as error:
                raise StudyError(
                    f"line {number} is not a valid case: {explain(error, CaseRecord)}",
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
        raise StudyError(
            f"the study has no case {case_id}", path=self.path, remedy="use a case_id listed in cases.jsonl"
        )

    def write_cases(self, records: Iterable[CaseRecord]) -> None:
        """Write ``cases.jsonl`` atomically, in case_id order. Paths inside the data set are stored relative to it."""
        ordered = sorted(records, key=lambda item: item.case_id)
        lines = [_at(record, self._relative).model_dump_json() for record in ordered]
        write_atomic(self.cases_path, "".join(line + "\n" for line in lines))

    def decisions(self) -> dict[str, Any]:
        """Return the user's decisions from earlier analyses (lesion label, exclusions …); empty for a new study.

        Raises:
            StudyError: ``decisions.json`` is not valid, for example after an edit.
        """
        path = self.path / "decisions.json"
        if not path.exists():
            return {}
        data = dict(read_json(path, schema=DECISIONS_SCHEMA))
        del data["schema_version"]
        return checked_decisions(path, data)

    def write_decisions(self, decisions: Mapping[str, Any]) -> None:
        """Write ``decisions.json`` atomically."""
        write_json_atomic(self.path / "decisions.json", {"schema_version": DECISIONS_SCHEMA, **decisions})

    def fingerprint(self) -> Fingerprint:
        """Read ``fingerprint.json``.

        Raises:
            StudyError: There is no fingerprint yet, no case was accepted, or the file is not valid.
        """
        return read_fingerprint(self.fingerprint_path)

    def write_fingerprint(self, fingerprint: Fingerprint) -> Fingerprint:
        """Write ``fingerprint.json`` atomically and return the fingerprint with its hash."""
        return write_fingerprint(self.fingerprint_path, fingerprint)

    def plan(self) -> Plan:
        """Read and validate ``plan.json``.

        Raises:
            StudyError: There is no plan yet.
            PlanError: The plan is not valid, for example after an edit.
        """
        if not self.plan_path.exists():
            raise StudyError("the study has no plan yet", path=self.path, remedy="create one with patchcore plan STUDY")
        return read_plan(self.plan_path)

    def outdated_plan(self) -> str | None:
        """Return a warning if the plan is based on an older measurement than the study's last one, otherwise None.

        Raises:
            StudyError: There is no plan or no fingerprint yet.
            PlanError: The plan is not valid, for example after an edit.
        """
        if self.plan().fingerprint_hash == self.fingerprint().fingerprint_hash:
            return None
        return (
            "plan.json is not based on the study's last measurement; if this is not intended, run patchcore plan STUDY "
            "again"
        )

    def write_plan(self, plan: Plan) -> None:
        """Write ``plan.json`` atomically."""
        write_json_atomic(self.plan_path, plan.model_dump(mode="json"))

    def folds(self, k: int = 5, seed: int = 0) -> list[list[str]]:
        """Return the case ids of each of `k` folds, and save them in ``folds.json``.

        Folds are grouped by patient and stratified by the patients' lesion volume.

        All folds are kept: the same `k`, `seed` and accepted cases always give the same folds, even after a new
        analysis or plan. If the accepted cases change, new folds are made.

        Raises:
            DataError: There are fewer patients than folds.
            LockedError: Another process holds the lock of ``folds.json``.
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
        # Several trainings may start at the same time: keep the folds that another one has just written.
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
        # In schema version 1 the whole file is a single division.
        divisions: list[dict[str, Any]] = data["divisions"] if data.get("schema_version", 1) > 1 else [data]
        return divisions

    def _burdens(self, records: Sequence[CaseRecord]) -> list[float] | None:
        """Return the lesion volume of each case, mm³: of the planned label, or of all labels if there is no plan."""
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
        """Hold the study's lock `name` (``analyze``, ``prepare`` …) for the block; wait for it up to `wait_s`.

        Raises:
            LockedError: Another process or thread holds the lock.
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
            # The index files of DICOM volumes are in the study and move with it.
            return Path(_IN_STUDY, path.relative_to(self.path))
        return path.relative_to(self.dataset_root) if path.is_relative_to(self.dataset_root) else path

    def _placed(self, path: Path) -> Path:
        """Return the absolute path for a path stored by :meth:`_relative`."""
        if path.parts[:1] == (_IN_STUDY,):
            return self.path.joinpath(*path.parts[1:])
        return self.dataset_root / path

    def _check_writable(self) -> None:
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise StudyError(
                "the study folder is not writable",
                path=self.path,
                remedy="use a folder that you may write to",
            )


def _at(record: CaseRecord, place: Callable[[Path], Path]) -> CaseRecord:
    """Return the record with all file paths replaced by `place`."""
    image = None if record.image is None else record.image.moved(place(record.image.path))
    return record.model_copy(update={"image": image, "label": record.label.moved(place(record.label.path))})


def _describe(path: Path, root: Path) -> None:
    """Write ``study.json``: schema, version, creation time and data set."""
    write_json_atomic(
        path / "study.json",
        {
            "schema_version": STUDY_SCHEMA,
            "patchcore_version": package_version(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "dataset_root": str(root),
            "study_id": secrets.token_hex(8),
        },
    )
