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

import errno
import hashlib
import json
import math
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from patchcore.config.plan import StorePlan, TargetPlan, explain
from patchcore.datasets.preload import load_readers
from patchcore.errors import ConfigError, DataError, EmptyClassError, PatchcoreError, PlanError
from patchcore.files import write_json_atomic
from patchcore.lesions.measure import measure_lesions
from patchcore.memory import MemoryBudget, anonymous_bytes, available_bytes
from patchcore.resampling.grid import Grid
from patchcore.store.case import Placed, Source
from patchcore.store.facts import read_attributes, read_failed, write_spans, write_table
from patchcore.store.layout import group_metadata
from patchcore.store.prepared_case import PreparedCase
from patchcore.study import CaseRecord, Study
from patchcore.types import IntTriple, PathLike
from patchcore.volumes.dicom.sources import is_index

__all__ = [
    "FailedCase",
    "Preparation",
    "PreparedCase",
    "check_classes",
    "class_indices",
    "prepare",
    "prepare_cases",
    "store_folder",
]

STORE_SCHEMA = 2
# What only the folder that is written to can raise; anything else is the matter of a source.
_STORE_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})
# What a case always takes beside its planes and slabs, and what is left to Python.
_BASE_BYTES = 48 << 20
_MEMORY_REMEDY = "raise --max-memory, or convert DICOM with patchcore import first"
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
            raise ConfigError(explain(error), remedy="see patchcore prepare --help") from None
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
    load_readers(images=True, dicom=any(is_index(record.label) for record in records))
    root = store_folder(study, target)
    root.mkdir(parents=True, exist_ok=True)
    _write_groups(root, target)
    found: dict[str, PreparedCase] = {}
    failed: dict[str, Exception] = {}
    if workers is not None and workers < 1:
        raise ConfigError(f"{workers} workers", expected="1 or more", remedy="leave it out")
    budget = _budget(max_memory_bytes)
    pool = ThreadPoolExecutor(workers or min(8, len(os.sched_getaffinity(0))), thread_name_prefix="prepare")
    try:
        futures = {pool.submit(_prepare_case, root, target, record, budget): record.case_id for record in records}
        for done, future in enumerate(as_completed(futures), 1):
            case_id = futures[future]
            try:
                found[case_id] = future.result()
            except _StoreWriteError as error:
                raise error.cause from None
            except (PatchcoreError, OSError, MemoryError) as error:
                failed[case_id] = error
            if on_progress is not None:
                on_progress(done, len(futures))
    finally:
        budget.close()
        pool.shutdown(cancel_futures=True)
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
    if allowed - taken <= _BASE_BYTES:
        raise DataError(
            f"{allowed / 2**20:,.0f} MiB of memory are too little: {taken / 2**20:,.0f} MiB are taken already",
            found=allowed,
            remedy="allow at least 256 MiB",
        )
    return MemoryBudget(allowed - taken)


def store_folder(study: Study, target: TargetPlan) -> Path:
    """Return the folder of the store that belongs to a plan, whether it is there or not."""
    return study.path / "store.zarr" / _key(target)


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


class _StoreWriteError(Exception):
    """The store cannot be written: no matter of one case."""

    def __init__(self, cause: OSError, folder: Path) -> None:
        super().__init__(str(cause))
        plain = cause.errno is not None and cause.filename is None
        self.cause = OSError(cause.errno, cause.strerror, str(folder)) if plain else cause


def _decided(target: TargetPlan) -> dict[str, Any]:
    return {
        "schema_version": STORE_SCHEMA,
        "spacing": target.spacing,
        "classes": target.classes,
        "lesion_label": target.lesion_label,
        "connectivity": target.connectivity,
        "min_volume_mm3": target.min_volume_mm3,
        "store": target.store.model_dump(mode="json"),
    }


def _key(target: TargetPlan) -> str:
    return hashlib.sha256(json.dumps(_decided(target)).encode()).hexdigest()[:16]


def _write_groups(root: Path, target: TargetPlan) -> None:
    """Make the folders above the cases Zarr groups, so that the store opens as one hierarchy."""
    for folder, attributes in ((root.parent, {"schema_version": STORE_SCHEMA}), (root, _decided(target))):
        if not (folder / "zarr.json").exists():
            write_json_atomic(folder / "zarr.json", group_metadata({"patchcore": attributes}))


def _stamps(record: CaseRecord) -> list[list[int]]:
    from patchcore.volumes.nifti import volume_files

    if record.image is None:
        raise DataError(
            "has a label map but no image", case_id=record.case_id, remedy="add its CT, or exclude the case"
        )
    stats = [part.stat() for path in (record.image, record.label) for part in volume_files(path)]
    return [[stat.st_size, stat.st_mtime_ns] for stat in stats]


def _prepare_case(root: Path, target: TargetPlan, record: CaseRecord, budget: MemoryBudget) -> PreparedCase:
    folder = root / record.case_id
    stamps = _stamps(record)
    affine = [list(row) for row in record.affine]
    meta = _read_meta(folder)
    # A corrected spacing moves the voxels without touching the files.
    if meta is None or not _same_sources(meta, {"sources": stamps, "affine": affine}):
        meta = _write(folder, target, record, {"sources": stamps, "affine": affine}, budget)
    return PreparedCase(
        case_id=record.case_id,
        patient=record.patient,
        path=folder,
        shape=tuple(meta["shape"]),
        spacing=tuple(meta["spacing"]),
        class_voxels=tuple(meta["class_voxels"]),
        lesion_voxels=tuple(meta["lesion_voxels"]),
        span_axis=meta["span_axis"],
        kept_lesions=meta["kept_lesions"],
        crop_start=tuple(meta["crop_start"]),
        cropped=meta["cropped"],
        affine=np.asarray(meta["grid_affine"], dtype=np.float64),
        cut_lesions=meta["cut_lesions"],
    )


def _same_sources(meta: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(meta.get(name) == other.get(name) for name in ("sources", "affine"))


def _write(
    folder: Path, target: TargetPlan, record: CaseRecord, known: dict[str, Any], budget: MemoryBudget
) -> dict[str, Any]:
    """Write a case under a temporary name, and give it its own when it is whole. Returns its attributes."""
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    try:
        try:
            temporary.mkdir()
        except OSError as error:
            raise _StoreWriteError(error, folder) from error
        meta = _fill(temporary, target, record, budget) | known | {"sha256": _hashes(record, known["sources"])}
        try:
            write_json_atomic(temporary / "zarr.json", group_metadata({"patchcore": meta}))
            _give_name(temporary, folder, meta)
        except OSError as error:
            raise _StoreWriteError(error, folder) from error
        return meta
    except OSError as error:
        if error.errno in _STORE_ERRORS:
            raise _StoreWriteError(error, folder) from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _give_name(temporary: Path, folder: Path, meta: Mapping[str, Any]) -> None:
    found = _read_meta(folder)
    if found is not None and _same_sources(found, meta):
        # Somebody else has brought the same case meanwhile, and may read it by now: theirs is as good.
        return
    with suppress(FileNotFoundError):
        outdated = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.old.tmp")
        folder.rename(outdated)
        shutil.rmtree(outdated, ignore_errors=True)
    try:
        temporary.rename(folder)
    except OSError:
        # Another was a moment faster.
        if not (folder / "zarr.json").exists():
            raise


def _fill(folder: Path, target: TargetPlan, record: CaseRecord, budget: MemoryBudget) -> dict[str, Any]:
    """Write a case's arrays and lesions into a folder, and return what is to be said of them."""
    from patchcore.volumes.nifti import read_header

    assert record.image is not None
    shape = read_header(record.image).shape
    label_shape = read_header(record.label).shape
    if label_shape != shape:
        raise DataError(
            f"label shape {label_shape} does not match image {shape}",
            case_id=record.case_id,
            remedy=f"re-export the pair or exclude the case with --exclude {record.case_id}",
        )
    grid = Grid.of(shape, record.affine_array, target.spacing)
    threads = len(os.sched_getaffinity(0))
    # A DICOM series is read whole, with room to convert it; a compressed NIfTI is streamed.
    series = 8 * math.prod(shape)
    with budget.hold(series * is_index(record.label) + _BASE_BYTES, record.case_id, remedy=_MEMORY_REMEDY):
        crop = _crop(record, target, grid)
    placed = Placed(grid, *crop.box, kernel=target.store.kernel, antialias=target.store.antialias)
    needed = series * (is_index(record.image) or is_index(record.label)) + _BASE_BYTES
    if is_index(record.image):
        needed += 16 * threads * (shape[0] * shape[1] + math.prod(placed.shape[:2])) + (192 << 20)
    else:
        with _named(record, record.image):
            while (planes := placed.needed_bytes(record.image, len(target.classes), threads)) + needed > budget.total:
                if threads == 1:
                    break
                threads //= 2
        needed += planes
    with budget.hold(needed, record.case_id, remedy=_MEMORY_REMEDY):
        with _named(record, record.image):
            source = _image_source(record)
            placed.write_image(source, folder / "image", threads=threads)
            del source
        with _named(record, record.label):
            source = _label_source(record)
            labels = placed.write_labels(
                source,
                folder / "label",
                classes=target.classes,
                lesion_label=target.lesion_label,
                connectivity=target.connectivity,
                threads=threads,
            )
            del source
    spans = labels.spans
    table = np.column_stack([spans.lesion, spans.origin, spans.length]).astype(np.int32)
    table, voxels = _without_specks(table, spans.voxel_count, target)
    write_spans(folder, table, voxels, spans.axis, target.spacing)
    write_table(folder / "class_spans.npy", labels.other_classes)
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.asarray(placed.start)
    return {
        "schema_version": STORE_SCHEMA,
        "patient": record.patient,
        "shape": list(placed.shape),
        "spacing": list(grid.spacing),
        "grid_affine": affine.tolist(),
        "crop_start": list(placed.start),
        "whole_shape": list(grid.shape),
        "cropped": placed.shape != grid.shape,
        "cut_lesions": crop.cut_lesions,
        "stored_shape": list(grid.stored_shape),
        "class_voxels": list(labels.class_voxels),
        "lesion_voxels": voxels.tolist(),
        "span_axis": int(spans.axis),
        "kept_lesions": labels.kept_lesions,
    }


@contextmanager
def _named(record: CaseRecord, path: Path) -> Iterator[None]:
    """Say of an error which case and file it was met in."""
    try:
        yield
    except PatchcoreError as error:
        error.case_id = error.case_id or record.case_id
        error.path = error.path or str(path)
        raise
    except OSError as error:
        if error.errno in _STORE_ERRORS or error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


@dataclass(frozen=True)
class _Crop:
    """The part of a training grid that is kept: first voxel, voxel after the last; and how many lesions that cuts."""

    box: tuple[IntTriple, IntTriple]
    cut_lesions: int = 0


def _crop(record: CaseRecord, target: TargetPlan, grid: Grid) -> _Crop:
    store = target.store
    whole = _Crop(((0, 0, 0), grid.shape))
    if store.crop_to is None:
        return whole
    source = _label_source(record)
    organ = measure_lesions(source, label=store.crop_to)
    if not len(organ):
        return whole
    low, high = grid.box(organ.bbox_start.min(axis=0), organ.bbox_stop.max(axis=0), store.crop_margin_mm)
    lesions = measure_lesions(source, label=target.lesion_label, connectivity=target.connectivity)
    cut = 0
    for start, stop in zip(lesions.bbox_start, lesions.bbox_stop, strict=True):
        first, last = grid.box(start, stop, 0.0)
        cut += not all(a <= b and c <= d for a, b, c, d in zip(low, first, last, high, strict=True))
    return _Crop((low, high), cut)


def _image_source(record: CaseRecord) -> Source:
    from patchcore.volumes.nifti import read_case_image

    assert record.image is not None
    return read_case_image(record).array if is_index(record.image) else record.image


def _label_source(record: CaseRecord) -> Source:
    from patchcore.volumes.nifti import read_case_label

    return read_case_label(record).array if is_index(record.label) else record.label


def _hashes(record: CaseRecord, stamps: list[list[int]]) -> list[str]:
    """Return the hashes of image and label map as analyze has read them; empty where the files have changed since."""
    known = [stamp for stamp in (record.image_stamp, record.label_stamp) if stamp is not None]
    # A volume of several files has one stamp: their sizes together, and the newest time.
    sizes, times = sum(size for size, _ in stamps), {time for _, time in stamps}
    unchanged = sum(stamp.size for stamp in known) == sizes and all(stamp.mtime_ns in times for stamp in known)
    pair = (record.image_stamp, record.label_stamp)
    return ["" if stamp is None or not unchanged else stamp.sha256 for stamp in pair]


def _read_meta(folder: Path) -> dict[str, Any] | None:
    meta = read_attributes(folder)
    return meta if meta.get("schema_version") == STORE_SCHEMA else None


def _without_specks(
    table: npt.NDArray[np.int32], voxels: npt.NDArray[np.int64], target: TargetPlan
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Leave out components below the plan's smallest lesion, and number the rest from 0."""
    kept = np.asarray(voxels) * math.prod(target.spacing) >= target.min_volume_mm3
    number = np.cumsum(kept) - 1
    table = table[kept[table[:, 0]]] if len(table) else table
    table[:, 0] = number[table[:, 0]]
    return np.ascontiguousarray(table), np.asarray(voxels)[kept]
