"""Each case once on the training grid, in the study's ``cache`` folder.

    STUDY/cache/<key>/<case_id>/   image.npy   int16 HU, canonical axes, the plan's spacing
                                   label.npy   uint8 class indices: 0 background, i the plan's classes[i - 1]
                                   spans.npy   int32 (spans, 5): lesion, origin x y z, length
                                   meta.json   geometry, counts, size and time of the sources

The key names what the plan decides (spacing, classes, lesions); a source that has changed since is brought anew. A
case's folder is written under a temporary name and renamed when whole, so a killed preparation is continued by the
next and two at a time do not meet. Everything here can be deleted at any time. Torch-free.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from patchcore.config.plan import TargetPlan
from patchcore.engine.geometry import Grid, resample_labels
from patchcore.errors import CorruptFileError, DataError, EmptyClassError, PatchcoreError
from patchcore.study import CaseRecord, Study
from patchcore.types import IntTriple, Triple
from patchcore.volumetry import LesionSpans, lesion_spans

__all__ = ["CachedCase", "FailedCase", "Preparation", "check_classes", "class_indices", "prepare_cases"]

_VERSION = 1
_INT16 = np.iinfo(np.int16)
_AIR_HU = -1024.0


@dataclass(frozen=True)
class CachedCase:
    """A case on the training grid.

    Attributes:
        case_id: The case.
        patient: Its patient.
        path: Its folder in the cache.
        shape: Voxels, canonical axes.
        spacing: mm per voxel, canonical axes.
        class_voxels: Voxels of each class, background left out.
        lesion_voxels: Voxels of each lesion, in the order of the spans.
        span_axis: The axis that the spans lie along.
    """

    case_id: str
    patient: str
    path: Path
    shape: IntTriple
    spacing: Triple
    class_voxels: tuple[int, ...]
    lesion_voxels: tuple[int, ...]
    span_axis: int

    @property
    def voxel_mm3(self) -> float:
        """Volume of a training voxel."""
        return self.spacing[0] * self.spacing[1] * self.spacing[2]

    @property
    def image_bytes(self) -> int:
        """Memory of image and label together."""
        return 3 * self.shape[0] * self.shape[1] * self.shape[2]

    def image(self) -> npt.NDArray[np.int16]:
        """Read the CT: int16 HU of shape `shape`."""
        image: npt.NDArray[np.int16] = self._read("image.npy", np.int16, self.shape)
        return image

    def label(self) -> npt.NDArray[np.uint8]:
        """Read the class indices: uint8 of shape `shape`."""
        label: npt.NDArray[np.uint8] = self._read("label.npy", np.uint8, self.shape)
        return label

    def spans(self) -> LesionSpans:
        """Read the lesions as spans on the training grid."""
        table = self._read("spans.npy", np.int32, None)
        return LesionSpans(
            lesion=table[:, 0],
            origin=table[:, 1:4],
            length=table[:, 4],
            axis=self.span_axis,
            voxel_count=np.asarray(self.lesion_voxels, dtype=np.int64),
        )

    def _read(self, name: str, dtype: Any, shape: IntTriple | None) -> npt.NDArray[Any]:
        path = self.path / name
        try:
            array: npt.NDArray[Any] = np.load(path, allow_pickle=False)
        except (ValueError, EOFError) as error:
            found: Any = error
        else:
            found = f"{array.dtype} {array.shape}"
            if array.dtype == dtype and (array.shape == shape or shape is None):
                return array
        raise CorruptFileError(
            f"damaged cache ({found})",
            case_id=self.case_id,
            path=path,
            remedy=f"delete {self.path}; it is made anew when it is missing",
        )


@dataclass(frozen=True)
class FailedCase:
    """A case that could not be brought to the training grid, and why."""

    case_id: str
    error: Exception


@dataclass(frozen=True)
class Preparation:
    """What came of preparing: `cases` in the order asked for, without the `failed` ones."""

    cases: tuple[CachedCase, ...]
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


def prepare_cases(
    study: Study,
    target: TargetPlan,
    records: Sequence[CaseRecord],
    *,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Preparation:
    """Bring cases to the training grid, where they are not there already.

    Args:
        study: The study.
        target: The plan's target: spacing, classes and what counts as a lesion.
        records: The cases.
        workers: Threads; default: the machine's cores, at most 8. Each holds one scan in memory.
        on_progress: Called with (done, all) after each case, in the calling thread; what it raises ends the work.

    Returns:
        The cases that are there, and those that failed: one bad case never stops the others.

    Raises:
        DataError: Not one case could be prepared; the first one's error is told.
        OSError: The cache cannot be written.
    """
    root = study.path / "cache" / _key(target)
    root.mkdir(parents=True, exist_ok=True)
    found: dict[str, CachedCase] = {}
    failed: dict[str, Exception] = {}
    pool = ThreadPoolExecutor(workers or min(8, len(os.sched_getaffinity(0))), thread_name_prefix="prepare")
    try:
        futures = {pool.submit(_prepare_case, root, target, record): record.case_id for record in records}
        for done, future in enumerate(as_completed(futures), 1):
            case_id = futures[future]
            try:
                found[case_id] = future.result()
            except _CacheWriteError as error:
                raise error.cause from None
            except (PatchcoreError, OSError, MemoryError) as error:
                failed[case_id] = error
            if on_progress is not None:
                on_progress(done, len(futures))
    finally:
        pool.shutdown(cancel_futures=True)
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


def check_classes(cases: Sequence[CachedCase], target: TargetPlan) -> None:
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


class _CacheWriteError(Exception):
    """The cache cannot be written: no matter of one case."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.cause = cause


def _key(target: TargetPlan) -> str:
    decided = {
        "version": _VERSION,
        "spacing": target.spacing,
        "classes": target.classes,
        "lesion_label": target.lesion_label,
        "connectivity": target.connectivity,
        "min_volume_mm3": target.min_volume_mm3,
    }
    return hashlib.sha256(json.dumps(decided).encode()).hexdigest()[:16]


def _stamps(record: CaseRecord) -> list[list[int]]:
    from patchcore.data.reading import volume_files

    if record.image is None:
        raise DataError(
            "has a label map but no image", case_id=record.case_id, remedy="add its CT, or exclude the case"
        )
    stats = [part.stat() for path in (record.image, record.label) for part in volume_files(path)]
    return [[stat.st_size, stat.st_mtime_ns] for stat in stats]


def _prepare_case(root: Path, target: TargetPlan, record: CaseRecord) -> CachedCase:
    folder = root / record.case_id
    stamps = _stamps(record)
    affine = [list(row) for row in record.affine]
    meta = _read_meta(folder)
    if meta is None or meta["sources"] != stamps or meta.get("affine") != affine:
        arrays, meta = _bring(record, target)
        # A corrected spacing moves the voxels without touching the files.
        meta |= {"sources": stamps, "affine": affine}
        try:
            _write(folder, arrays, meta)
        except OSError as error:
            raise _CacheWriteError(error) from error
    return CachedCase(
        case_id=record.case_id,
        patient=record.patient,
        path=folder,
        shape=tuple(meta["shape"]),
        spacing=tuple(meta["spacing"]),
        class_voxels=tuple(meta["class_voxels"]),
        lesion_voxels=tuple(meta["lesion_voxels"]),
        span_axis=meta["span_axis"],
    )


def _read_meta(folder: Path) -> dict[str, Any] | None:
    try:
        meta: dict[str, Any] = json.loads((folder / "meta.json").read_bytes())
    except (OSError, ValueError):
        return None
    return meta


def _bring(record: CaseRecord, target: TargetPlan) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """Read one case and bring it to the training grid; returns its arrays and what is known of them."""
    from patchcore.data.reading import read_case_image, read_case_label

    scan = read_case_image(record)
    grid = Grid.of(_shape(scan.array), scan.affine, target.spacing)
    resampled = np.nan_to_num(grid.resample(scan.array), copy=False, nan=_AIR_HU)
    image = np.rint(resampled.clip(_INT16.min, _INT16.max, out=resampled), out=resampled).astype(np.int16)
    del scan, resampled
    stored = read_case_label(record).array
    if stored.shape != grid.stored_shape:
        raise DataError(
            f"label shape {stored.shape} does not match image {grid.stored_shape}",
            case_id=record.case_id,
            remedy=f"re-export the pair or exclude the case with --exclude {record.case_id}",
        )
    indices = class_indices(grid.canonical(stored), target.classes)
    label = resample_labels(indices, grid.ratio, grid.shape, classes=len(target.classes))
    lesion_class = target.classes.index(target.lesion_label) + 1
    spans = lesion_spans(label, labels=[lesion_class], connectivity=target.connectivity)
    table = np.column_stack([spans.lesion, spans.origin, spans.length]).astype(np.int32)
    table, voxels = _without_specks(table, spans.voxel_count, target)
    counts = np.bincount(label.ravel(), minlength=len(target.classes) + 1)[1:]
    meta = {
        "shape": list(grid.shape),
        "spacing": list(grid.spacing),
        "affine": grid.affine.tolist(),
        "class_voxels": counts.tolist(),
        "lesion_voxels": voxels,
        "span_axis": int(spans.axis),
    }
    return {"image": image, "label": label, "spans": table}, meta


def _without_specks(
    table: npt.NDArray[np.int32], voxels: npt.NDArray[np.int64], target: TargetPlan
) -> tuple[npt.NDArray[np.int32], list[int]]:
    """Leave out components below the plan's smallest lesion, and number the rest from 0."""
    a, b, c = target.spacing
    kept = np.asarray(voxels) * (a * b * c) >= target.min_volume_mm3
    number = np.cumsum(kept) - 1
    table = table[kept[table[:, 0]]] if len(table) else table
    table[:, 0] = number[table[:, 0]]
    return np.ascontiguousarray(table), np.asarray(voxels)[kept].tolist()


def _shape(array: npt.NDArray[Any]) -> IntTriple:
    return (int(array.shape[0]), int(array.shape[1]), int(array.shape[2]))


def _write(folder: Path, arrays: Mapping[str, npt.NDArray[Any]], meta: Mapping[str, Any]) -> None:
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.mkdir()
        for name, array in arrays.items():
            with (temporary / f"{name}.npy").open("wb") as handle:
                np.save(handle, array, allow_pickle=False)
                handle.flush()
                os.fsync(handle.fileno())
        with (temporary / "meta.json").open("w", encoding="utf-8") as text:
            json.dump(meta, text)
            text.flush()
            os.fsync(text.fileno())
        if folder.exists():
            outdated = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.old.tmp")
            folder.rename(outdated)
            shutil.rmtree(outdated, ignore_errors=True)
        # Somebody else may have brought the same case meanwhile: theirs is as good.
        with suppress(FileExistsError):
            try:
                temporary.rename(folder)
            except OSError as error:
                if not (folder / "meta.json").exists():
                    raise
                raise FileExistsError from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
