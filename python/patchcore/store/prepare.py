"""Prepares a study: resamples each case once to the training grid and writes it into ``store.zarr``.

    STUDY/store.zarr/<key>/<case_id>/   image/      int16 HU, canonical axes, the plan's spacing
                                        label/      uint8 class indices: 0 background, i the plan's classes[i - 1],
                                                    one above the last class: voxels that are ignored
                                        spans.npy   int32 (spans, 5): lesion, origin x y z, length
                                        class_spans.npy  spans of the other classes: class index, origin, length
                                        lesions.csv size and position of each lesion on this grid
                                        zarr.json   geometry, counts, size, time and hash of the sources, as attributes

``image`` and ``label`` are Zarr v3 arrays that zarr-python and tensorstore can open. The key is a hash of the plan's
decisions (spacing, classes, lesions, resampling, cropping). NIfTI files are read plane by plane and written shard by
shard, so memory does not grow with the volume; a DICOM series is read whole. If a source file has changed, its case is
prepared again. A case is written under a temporary name, synced, and renamed when it is complete. So the next call
continues a preparation that was killed, and two preparations at the same time do not disturb each other. The whole
store can be deleted at any time.
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
from patchcore.shares import Share
from patchcore.store.facts import read_failed
from patchcore.store.groups import STORE_SCHEMA, store_folder, write_groups
from patchcore.store.prepare_case import StoreWriteError, prepare_case
from patchcore.store.prepared_case import PreparedCase
from patchcore.study import CaseRecord, Study
from patchcore.threads import checked_threads, core_count, for_each
from patchcore.types import PathLike

__all__ = [
    "FailedCase",
    "Preparation",
    "PreparedCase",
    "check_classes",
    "check_labels",
    "class_indices",
    "prepare",
    "prepare_cases",
]

# Age after which temporary folders are removed [s]. Writing one case never takes that long, and a training that began
# with a case that is outdated now has opened it by then.
_LEFT_S = 24 * 3600


@dataclass(frozen=True)
class FailedCase:
    """A case that could not be prepared, and its error."""

    case_id: str
    error: Exception


@dataclass(frozen=True)
class Preparation:
    """The result of a preparation: the prepared `cases`, in the requested order, and the `failed` cases."""

    cases: tuple[PreparedCase, ...]
    failed: tuple[FailedCase, ...]


def class_indices(label: npt.NDArray[Any], classes: Sequence[int]) -> npt.NDArray[np.uint8]:
    """Map labels to class indices: 1, 2, … in the order of `classes`. All other labels become background, 0.

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
    share: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Preparation:
    """Resample every accepted case of a study to the training grid of its plan, into ``STUDY/store.zarr``.

    Unchanged cases are not prepared again. If the call is interrupted or killed, the store contains only complete
    cases, and the next call continues with the others. The settings for resampling and cropping are written into
    ``plan.json``, because training and evaluation read the same store.

    Args:
        source: The study, or its path.
        crop_to: Keep only the surroundings of this label, e.g. of an organ. A case without the label is kept whole.
            0: keep whole cases again.
        crop_margin_mm: Margin around the label [mm].
        kernel: Resampling kernel of the image: ``cubic`` B-spline or ``linear``.
        antialias: Whether the image is blurred first along axes that become coarser.
        max_memory_bytes: Maximum memory of this process [default: half of the available memory].
        workers: Number of cases prepared in parallel [default: the number of cores, at most 8]. Cases wait
            while memory is short.
        share: ``2/8``: prepare only every eighth case, from the second on. Shares may be prepared at the same time, on
            several hosts.
        on_progress: Called with (cases done, all cases) after each case, in the calling thread.

    Returns:
        The prepared cases and the failed cases. A failed case does not stop the others.

    Raises:
        StudyError: There is no study, or it has no plan.
        PlanError: No case has the plan's lesion label: the plan belongs to another data set.
        LockedError: Another process is preparing this study.
        ConfigError: The margin or kernel is not valid, or `workers` is less than 1.
        DataError: No case could be prepared (the message contains the first error), or no case has the label `crop_to`.
        OSError: The store cannot be written.

    Example:
        >>> import patchcore as pc  # doctest: +SKIP
        >>> pc.prepare("study/").cases[0].image_array.shape  # doctest: +SKIP
        (341, 341, 160)
    """
    study = source if isinstance(source, Study) else Study(source)
    wanted = {"crop_to": crop_to, "crop_margin_mm": crop_margin_mm, "kernel": kernel, "antialias": antialias}
    own = None if share is None else Share.parse(share)
    with study.lock("prepare" if own is None else f"prepare-{own.name}"):
        target = _with_store_plan(study, {key: value for key, value in wanted.items() if value is not None})
        records = study.accepted() if own is None else own.of(study.accepted())
        if own is not None:
            check_labels(study, target, study.accepted())
            if not records:
                return Preparation((), ())
        return prepare_cases(
            study,
            target,
            records,
            is_share=own is not None,
            max_memory_bytes=max_memory_bytes,
            workers=workers,
            on_progress=on_progress,
        )


def _with_store_plan(study: Study, changes: dict[str, Any]) -> TargetPlan:
    """Return the target of the plan. Write the user's changes into the plan first."""
    plan = study.plan()
    if not changes:
        return plan.target
    if changes.get("crop_to") == 0:
        changes["crop_to"] = None
    organ = changes.get("crop_to")
    labels = sorted({label for record in study.accepted() for label in record.labels})
    if organ is not None and organ not in labels:
        raise DataError(
            f"no accepted case has label {organ}; found labels {labels}",
            found=labels,
            remedy="crop to one of these labels",
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
    """Remove old temporary folders: incomplete cases of preparations that were killed, and outdated cases.

    Newer ones stay: a training may be writing or reading them now.
    """
    for left in root.glob(".*.tmp"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _LEFT_S:
                shutil.rmtree(left, ignore_errors=True)


def check_labels(study: Study, target: TargetPlan, records: Sequence[CaseRecord]) -> None:
    """Check that the cases have the plan's lesion label, and that their labels are read as when the plan was made.

    Raises:
        PlanError: They do not.
    """
    labels = sorted({label for record in records for label in record.labels})
    if labels and target.lesion_label not in labels:
        raise PlanError(
            f"the plan is for label {target.lesion_label}, but the cases have labels {labels}: wrong data set",
            path=study.plan_path,
            found=labels,
            remedy="make a plan for this data set with patchcore plan STUDY",
        )
    wanted = (target.label_rule, target.ignore_label)
    for record in records:
        if (record.label_rule, record.ignore_label) != wanted:
            now, then = (
                (rule or "as stored") + ("" if ignored is None else f", label {ignored} ignored")
                for rule, ignored in ((record.label_rule, record.ignore_label), wanted)
            )
            raise PlanError(
                f"the labels of the study are read differently than when the plan was made (now: {now}; then: {then})",
                path=study.plan_path,
                remedy="run patchcore plan and train again, or run patchcore analyze with the labels of that time",
            )


def prepare_cases(
    study: Study,
    target: TargetPlan,
    records: Sequence[CaseRecord],
    *,
    max_memory_bytes: int | None = None,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    is_share: bool = False,
) -> Preparation:
    """Prepare the cases that are not in the store yet.

    Args:
        study: The study.
        target: Target of the plan: spacing, classes and definition of a lesion.
        records: The cases.
        max_memory_bytes: Maximum memory of this process [default: half of the available memory].
        workers: Number of threads [default: the number of cores, at most 8]. Cases wait while memory is short.
        on_progress: Called with (cases done, all cases) after each case, in the calling thread. An exception in it
            stops the preparation.
        is_share: The cases are a share of those of the study, which others prepare at the same time: that none of them
            has a lesion, or could be prepared, says nothing of the study.

    Returns:
        The prepared cases and the failed cases. A failed case does not stop the others.

    Raises:
        PlanError: No case has the plan's lesion label, or labels are read differently than for the plan.
        DataError: No case could be prepared. The message contains the first error.
        OSError: The store cannot be written.
    """
    if not is_share:
        check_labels(study, target, records)
    load_readers(volume for record in records for volume in record.volumes)
    root = store_folder(study, target)
    root.mkdir(parents=True, exist_ok=True)
    write_groups(root, target)
    _sweep(root)
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
    if not is_share:  # the command that ends the preparation records what fails
        _write_failed(root, {record.case_id for record in records}, failed)
    if not found and not is_share:
        first = next(iter(failed.values()), None)
        raise DataError(
            f"none of {len(records)} cases could be prepared" + (f"; first error: {first}" if first else ""),
            path=study.path,
            remedy="run patchcore analyze again and read what it reports for each case",
        )
    return Preparation(
        cases=tuple(found[record.case_id] for record in records if record.case_id in found),
        failed=tuple(FailedCase(case_id, failed[case_id]) for case_id in sorted(failed)),
    )


def _write_failed(root: Path, tried: set[str], failed: dict[str, Exception]) -> None:
    """Record which cases could not be prepared, and why, for ``patchcore inspect``."""
    path = root / "failed.json"
    before = read_failed(root)
    known = {case_id: reason for case_id, reason in before.items() if case_id not in tried}
    known |= {case_id: str(failed[case_id]) for case_id in failed}
    if known != before:
        write_json_atomic(path, {"schema_version": STORE_SCHEMA, "cases": dict(sorted(known.items()))})


def _budget(max_memory_bytes: int | None) -> MemoryBudget:
    taken = anonymous_bytes()
    allowed = taken + available_bytes() // 2 if max_memory_bytes is None else max_memory_bytes
    # Too little is an error only for a case that has to be prepared.
    return MemoryBudget(max(0, allowed - taken), in_use=taken)


def check_classes(cases: Sequence[PreparedCase], target: TargetPlan) -> None:
    """Check that each class occurs in at least one case.

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
