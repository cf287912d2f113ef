"""Each case once on the training grid, in the study's ``store.zarr``.

    STUDY/store.zarr/<key>/<case_id>/   image/      int16 HU, canonical axes, the plan's spacing
                                        label/      uint8 class indices: 0 background, i the plan's classes[i - 1]
                                        spans.npy   int32 (spans, 5): lesion, origin x y z, length
                                        class_spans.npy  likewise, of the other classes: class index, origin, length
                                        lesions.csv each lesion's size and place on this grid
                                        zarr.json   geometry, counts, size, time and hash of the sources, as attributes

``image`` and ``label`` are Zarr v3 arrays that zarr-python and tensorstore open. The key names what the plan decides
(spacing, classes, lesions, how to resample and crop). NIfTI files are read plane by plane and written shard by shard,
so that memory does not grow with the volume; a DICOM series is held. A source that has changed since is brought anew.
A case is written under a temporary name, synced and renamed when whole, so a killed preparation is continued by the
next and two at a time do not meet. Everything here can be deleted at any time.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from patchcore.config.explain import explain
from patchcore.config.plan import StorePlan, TargetPlan
from patchcore.datasets.preload import load_readers
from patchcore.errors import ConfigError, DataError, EmptyClassError, PatchcoreError, PlanError
from patchcore.files import write_json_atomic
from patchcore.memory import MemoryBudget, anonymous_bytes, available_bytes
from patchcore.store.facts import read_failed
from patchcore.store.groups import STORE_SCHEMA, store_folder, write_groups
from patchcore.store.prepare_case import BASE_BYTES, StoreWriteError, prepare_case
from patchcore.store.prepared_case import PreparedCase
from patchcore.study import CaseRecord, Study
from patchcore.threads import checked_threads, core_count, for_each
from patchcore.types import PathLike

__all__ = [
    "FailedCase",
    "Preparation",
    "PreparedCase",
    "check_classes",
    "class_indices",
    "prepare",
    "prepare_cases",
]

# No case takes as long to write.
_LEFT_S = 24 * 3600


@dataclass(frozen=True)
class FailedCase:
    """A case that could not be brought to the training grid, and why."""

    case_id: str
    error: Exception


@dataclass(frozen=True)
class Preparation:
    """What came of preparing: `cases` in the order asked for, without the `failed` ones."""

    cases: tuple[PreparedCase, ...]
    failed: tuple[FailedCase, ...]


def class_indices(label: npt.NDArray[Any], classes: Sequence[int]) -> npt.NDArray[np.uint8]:
    """Number the labels to learn from 1 in the order of `classes`; every other label is background.

    Example:
        >>> class_indices(np.array([0, 2, 1, 7]), (2,)).tolist()
        [0, 1, 0, 0]
    """
    out = np.zeros(label.shape, dtype=np.uint8)
    for index, value in enumerate(classes, 1):
        out[label == value] = index
    return out


def prepare(
    source: Study | PathLike,
    *,
    crop_to: int | None = None,
    crop_margin_mm: float | None = None,
    kernel: Literal["cubic", "linear"] | None = None,
    antialias: bool | None = None,
    max_memory_bytes: int | None = None,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Preparation:
    """Bring every accepted case of a study to its plan's training grid, into ``STUDY/store.zarr``.

    Unchanged cases are kept as they are. Interrupted or killed at any instant, it leaves whole cases only, and the next
    call goes on with the others. How to resample and crop is written into ``plan.json``, for training and evaluation
    read the same store.

    Args:
        source: The study, or its path.
        crop_to: Keep only what surrounds this label (an organ's); a case without it is kept whole. 0: keep all again.
        crop_margin_mm: How far around it, mm.
        kernel: Of the image: ``cubic`` B-spline or ``linear``.
        antialias: Whether axes that become coarser are blurred first.
        max_memory_bytes: Memory that this process may take; default: half of what is available.
        workers: Cases worked on at once; default: the machine's cores, at most 8, and as memory allows.
        on_progress: Called with (done, of how many) after each case, in the calling thread.

    Returns:
        The cases that are there, and those that failed: one bad case never stops the others.

    Raises:
        StudyError: There is no study, or it has no plan.
        PlanError: The plan is another data set's: its lesion label is in none of the cases.
        LockedError: Another preparation of this study is at work.
        ConfigError: A margin or kernel that cannot be, or less than one worker.
        DataError: Not one case could be prepared; the first one's error is told. Or nobody has the organ's label.
        OSError: The store cannot be written.

    Example:
        >>> import patchcore as pc  # doctest: +SKIP
        >>> pc.prepare("study/").cases[0].image_array.shape  # doctest: +SKIP
        (341, 341, 160)
    """
    study = source if isinstance(source, Study) else Study(source)
    wanted = {"crop_to": crop_to, "crop_margin_mm": crop_margin_mm, "kernel": kernel, "antialias": antialias}
    with study.lock("prepare"):
        target = _with_store_plan(study, {key: value for key, value in wanted.items() if value is not None})
        _sweep(store_folder(study, target))
        return prepare_cases(
            study,
            target,
            study.accepted(),
            max_memory_bytes=max_memory_bytes,
            workers=workers,
            on_progress=on_progress,
        )


def _with_store_plan(study: Study, changes: dict[str, Any]) -> TargetPlan:
    """Return the plan's target, with what the user wants otherwise written into the plan."""
    plan = study.plan()
    if not changes:
        return plan.target
    if changes.get("crop_to") == 0:
        changes["crop_to"] = None
    organ = changes.get("crop_to")
    labels = sorted({label for record in study.accepted() for label in record.labels})
    if organ is not None and organ not in labels:
        raise DataError(
            f"label {organ} is in none of the accepted cases", found=labels, remedy="crop to one of the labels found"
        )
    targets = []
    for target in plan.targets:
        try:
            store = StorePlan.model_validate(target.store.model_dump() | changes)
        except ValidationError as error:
            raise ConfigError(explain(error, StorePlan), remedy="see patchcore prepare --help") from None
        targets.append(target.model_copy(update={"store": store}))
    changed = plan.model_copy(update={"targets": tuple(targets)})
    if changed != plan:
        study.write_plan(changed)
    return changed.target


def _sweep(root: Path) -> None:
    """Remove what preparations that were killed long ago have left half-written; a training may be at work here now."""
    for left in root.glob(".*.tmp"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _LEFT_S:
                shutil.rmtree(left, ignore_errors=True)


def prepare_cases(
    study: Study,
    target: TargetPlan,
    records: Sequence[CaseRecord],
    *,
    max_memory_bytes: int | None = None,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Preparation:
    """Bring cases to the training grid, where they are not there already.

    Args:
        study: The study.
        target: The plan's target: spacing, classes and what counts as a lesion.
        records: The cases.
        max_memory_bytes: Memory that this process may take; default: half of what is available.
        workers: Threads; default: the machine's cores, at most 8. Cases wait while there is no memory for them.
        on_progress: Called with (done, all) after each case, in the calling thread; what it raises ends the work.

    Returns:
        The cases that are there, and those that failed: one bad case never stops the others.

    Raises:
        PlanError: The plan's lesion label is in none of the cases.
        DataError: Not one case could be prepared; the first one's error is told.
        OSError: The store cannot be written.
    """
    labels = sorted({label for record in records for label in record.labels})
    if labels and target.lesion_label not in labels:
        raise PlanError(
            f"the plan is for label {target.lesion_label}, the cases hold {labels}: it is another data set's",
            path=study.plan_path,
            found=labels,
            remedy="make one with patchcore plan STUDY",
        )
    load_readers(volume for record in records for volume in record.volumes)
    root = store_folder(study, target)
    root.mkdir(parents=True, exist_ok=True)
    write_groups(root, target)
    found: dict[str, PreparedCase] = {}
    failed: dict[str, Exception] = {}
    threads = min(8, core_count()) if workers is None else checked_threads(workers, name="workers")
    budget = _budget(max_memory_bytes)

    def prepare_one(record: CaseRecord) -> PreparedCase | Exception:
        try:
            return prepare_case(root, target, record, budget)
        except StoreWriteError:
            raise
        except (PatchcoreError, OSError, MemoryError) as error:
            return error

    def done(index: int, outcome: PreparedCase | Exception) -> None:
        case_id = records[index].case_id
        if isinstance(outcome, Exception):
            failed[case_id] = outcome
        else:
            found[case_id] = outcome
        if on_progress is not None:
            on_progress(len(found) + len(failed), len(records))

    try:
        for_each(prepare_one, records, threads=threads, name="prepare", done=done, at_end=budget.close)
    except StoreWriteError as error:
        raise error.cause from None
    _write_failed(root, {record.case_id for record in records}, failed)
    if not found:
        first = next(iter(failed.values()), None)
        raise DataError(
            f"none of {len(records)} cases can be used" + (f"; the first: {first}" if first else ""),
            path=study.path,
            remedy="run patchcore analyze again and see what it says of each case",
        )
    return Preparation(
        cases=tuple(found[record.case_id] for record in records if record.case_id in found),
        failed=tuple(FailedCase(case_id, failed[case_id]) for case_id in sorted(failed)),
    )


def _write_failed(root: Path, tried: set[str], failed: dict[str, Exception]) -> None:
    """Keep which cases could not be brought there, and why, for ``inspect``."""
    path = root / "failed.json"
    before = read_failed(root)
    known = {case_id: reason for case_id, reason in before.items() if case_id not in tried}
    known |= {case_id: str(failed[case_id]) for case_id in failed}
    if known != before:
        write_json_atomic(path, {"schema_version": STORE_SCHEMA, "cases": dict(sorted(known.items()))})


def _budget(max_memory_bytes: int | None) -> MemoryBudget:
    taken = anonymous_bytes()
    allowed = taken + available_bytes() // 2 if max_memory_bytes is None else max_memory_bytes
    if allowed - taken <= BASE_BYTES:
        raise DataError(
            f"{allowed / 2**20:,.0f} MiB of memory are too little: {taken / 2**20:,.0f} MiB are taken already",
            found=allowed,
            remedy="allow at least 256 MiB",
        )
    return MemoryBudget(allowed - taken)


def check_classes(cases: Sequence[PreparedCase], target: TargetPlan) -> None:
    """Refuse to learn a class that no case holds.

    Raises:
        EmptyClassError: One of the plan's classes has no voxel in any of the cases.
    """
    for index, value in enumerate(target.classes):
        if not any(case.class_voxels[index] for case in cases):
            raise EmptyClassError(
                f"class {value} has no voxel in any of the {len(cases)} training cases",
                found=0,
                remedy="correct classes in plan.json, choose the lesion label with patchcore plan, or use another fold",
            )
