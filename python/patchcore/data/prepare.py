"""Each case once on the training grid, in the study's ``store.zarr``.

    STUDY/store.zarr/<key>/<case_id>/   image/      int16 HU, canonical axes, the plan's spacing
                                        label/      uint8 class indices: 0 background, i the plan's classes[i - 1]
                                        spans.npy   int32 (spans, 5): lesion, origin x y z, length
                                        zarr.json   geometry, counts, size, time and hash of the sources, as attributes

``image`` and ``label`` are Zarr v3 arrays that zarr-python and tensorstore open. The key names what the plan decides
(spacing, classes, lesions); a source that has changed since is brought anew. A case is written under a temporary
name, synced and renamed when whole, so a killed preparation is continued by the next and two at a time do not meet.
Everything here can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from patchcore.config.plan import TargetPlan
from patchcore.data.dicom.sources import is_index
from patchcore.data.lost_lesions import keep_lost_lesions
from patchcore.data.preload import load_readers
from patchcore.errors import CorruptFileError, DataError, EmptyClassError, PatchcoreError
from patchcore.files import write_json_atomic
from patchcore.grid import Grid
from patchcore.store import StoredArray, read_label_windows, read_windows, write_array
from patchcore.store.layout import group_metadata
from patchcore.study import CaseRecord, Study
from patchcore.types import IntTriple, PathLike, Triple
from patchcore.volumetry import LesionSpans, lesion_spans

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

STORE_SCHEMA = 1
_AIR_HU = -1024
# No case takes as long to write.
_LEFT_S = 24 * 3600


@dataclass(frozen=True)
class PreparedCase:
    """A case on the training grid.

    Attributes:
        case_id: The case.
        patient: Its patient.
        path: Its folder in the store.
        shape: Voxels, canonical axes.
        spacing: mm per voxel, canonical axes.
        class_voxels: Voxels of each class, background left out.
        lesion_voxels: Voxels of each lesion, in the order of the spans.
        span_axis: The axis that the spans lie along.
        kept_lesions: Lesions that would have vanished on the training grid and were kept as one voxel.
    """

    case_id: str
    patient: str
    path: Path
    shape: IntTriple
    spacing: Triple
    class_voxels: tuple[int, ...]
    lesion_voxels: tuple[int, ...]
    span_axis: int
    kept_lesions: int = 0

    @property
    def voxel_mm3(self) -> float:
        """Volume of a training voxel."""
        return self.spacing[0] * self.spacing[1] * self.spacing[2]

    @property
    def image_bytes(self) -> int:
        """Memory of image and label together."""
        return 3 * self.shape[0] * self.shape[1] * self.shape[2]

    @cached_property
    def image_array(self) -> StoredArray:
        """The CT, open for windows: int16 HU of shape `shape`."""
        return self._open("image", np.int16)

    @cached_property
    def label_array(self) -> StoredArray:
        """The class indices, open for windows: uint8 of shape `shape`."""
        return self._open("label", np.uint8)

    def read_window(
        self,
        corner: npt.NDArray[np.int64],
        window_size: IntTriple,
        *,
        hu_range: tuple[float, float],
        image_out: npt.NDArray[np.float32],
        label_out: npt.NDArray[np.uint8],
    ) -> None:
        """Read one window, on the calling thread.

        Args:
            corner: Its first voxel on the training grid, (1, 3); may lie outside.
            window_size: Voxels per axis.
            hu_range: Clipped to and scaled to [0, 1]; what lies outside is 0, and label 0.
            image_out: float32 (1, x, y, z), C order, to be filled.
            label_out: uint8 of the same shape.

        Raises:
            CorruptFileError: A chunk is damaged; the case is named.
        """
        with self._case_named():
            read_windows([self.image_array], corner, window_size, hu_range=hu_range, out=image_out, threads=1)
            read_label_windows([self.label_array], corner, window_size, out=label_out, threads=1)

    def image(self) -> npt.NDArray[np.int16]:
        """Read the CT: int16 HU of shape `shape`."""
        with self._case_named():
            return self.image_array.read()

    def label(self) -> npt.NDArray[np.uint8]:
        """Read the class indices: uint8 of shape `shape`."""
        with self._case_named():
            return self.label_array.read()

    def spans(self) -> LesionSpans:
        """Read the lesions as spans on the training grid."""
        path = self.path / "spans.npy"
        try:
            table: npt.NDArray[np.int32] = np.load(path, allow_pickle=False)
        except (ValueError, EOFError, FileNotFoundError) as error:
            raise self._damaged(path, error) from None
        if table.dtype != np.int32 or table.ndim != 2 or table.shape[1] != 5:
            raise self._damaged(path, f"{table.dtype} {table.shape}")
        return LesionSpans(
            lesion=table[:, 0],
            origin=table[:, 1:4],
            length=table[:, 4],
            axis=self.span_axis,
            voxel_count=np.asarray(self.lesion_voxels, dtype=np.int64),
        )

    def _open(self, name: str, dtype: Any) -> StoredArray:
        try:
            array = StoredArray(self.path / name)
        except (DataError, FileNotFoundError) as error:
            raise self._damaged(self.path / name, error) from None
        if array.dtype != dtype or array.shape != self.shape:
            raise self._damaged(self.path / name, f"{array.dtype} {array.shape}")
        return array

    @contextmanager
    def _case_named(self) -> Iterator[None]:
        try:
            yield
        except CorruptFileError as error:
            if error.case_id is not None:
                raise
            raise self._damaged(self.path, error.message) from None

    def _damaged(self, path: Path, found: object) -> CorruptFileError:
        return CorruptFileError(
            f"damaged store ({found})",
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
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Preparation:
    """Bring every accepted case of a study to its plan's training grid, into ``STUDY/store.zarr``.

    Unchanged cases are kept as they are. Interrupted or killed at any instant, it leaves whole cases only, and the next
    call goes on with the others.

    Args:
        source: The study, or its path.
        workers: Cases worked on at once; default: the machine's cores, at most 8. Each holds one scan in memory.
        on_progress: Called with (done, of how many) after each case, in the calling thread.

    Returns:
        The cases that are there, and those that failed: one bad case never stops the others.

    Raises:
        StudyError: There is no study, or it has no plan.
        LockedError: Another preparation of this study is at work.
        DataError: Not one case could be prepared; the first one's error is told.
        OSError: The store cannot be written.

    Example:
        >>> import patchcore as pc  # doctest: +SKIP
        >>> pc.prepare("study/").cases[0].image_array.shape  # doctest: +SKIP
        (341, 341, 160)
    """
    study = source if isinstance(source, Study) else Study(source)
    target = study.plan().target
    with study.lock("prepare"):
        _sweep(store_folder(study, target))
        return prepare_cases(study, target, study.accepted(), workers=workers, on_progress=on_progress)


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
        OSError: The store cannot be written.
    """
    load_readers(images=True, dicom=any(is_index(record.label) for record in records))
    root = store_folder(study, target)
    root.mkdir(parents=True, exist_ok=True)
    _write_groups(root, target)
    found: dict[str, PreparedCase] = {}
    failed: dict[str, Exception] = {}
    pool = ThreadPoolExecutor(workers or min(8, len(os.sched_getaffinity(0))), thread_name_prefix="prepare")
    try:
        futures = {pool.submit(_prepare_case, root, target, record): record.case_id for record in records}
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

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.cause = cause


def _decided(target: TargetPlan) -> dict[str, Any]:
    return {
        "schema_version": STORE_SCHEMA,
        "spacing": target.spacing,
        "classes": target.classes,
        "lesion_label": target.lesion_label,
        "connectivity": target.connectivity,
        "min_volume_mm3": target.min_volume_mm3,
    }


def _key(target: TargetPlan) -> str:
    return hashlib.sha256(json.dumps(_decided(target)).encode()).hexdigest()[:16]


def _write_groups(root: Path, target: TargetPlan) -> None:
    """Make the folders above the cases Zarr groups, so that the store opens as one hierarchy."""
    for folder, attributes in ((root.parent, {"schema_version": STORE_SCHEMA}), (root, _decided(target))):
        if not (folder / "zarr.json").exists():
            write_json_atomic(folder / "zarr.json", group_metadata({"patchcore": attributes}))


def _stamps(record: CaseRecord) -> list[list[int]]:
    from patchcore.data.reading import volume_files

    if record.image is None:
        raise DataError(
            "has a label map but no image", case_id=record.case_id, remedy="add its CT, or exclude the case"
        )
    stats = [part.stat() for path in (record.image, record.label) for part in volume_files(path)]
    return [[stat.st_size, stat.st_mtime_ns] for stat in stats]


def _prepare_case(root: Path, target: TargetPlan, record: CaseRecord) -> PreparedCase:
    folder = root / record.case_id
    stamps = _stamps(record)
    affine = [list(row) for row in record.affine]
    meta = _read_meta(folder)
    if meta is None or meta["sources"] != stamps or meta.get("affine") != affine:
        brought = _bring(record, target)
        # A corrected spacing moves the voxels without touching the files.
        meta = brought.meta | {"sources": stamps, "affine": affine, "sha256": _hashes(record)}
        try:
            _write(folder, brought, meta)
        except OSError as error:
            raise _StoreWriteError(error) from error
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
    )


def _hashes(record: CaseRecord) -> list[str]:
    stamps = (record.image_stamp, record.label_stamp)
    return ["" if stamp is None else stamp.sha256 for stamp in stamps]


def _read_meta(folder: Path) -> dict[str, Any] | None:
    try:
        meta: dict[str, Any] = json.loads((folder / "zarr.json").read_bytes())["attributes"]["patchcore"]
        return meta if meta["schema_version"] == STORE_SCHEMA else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True)
class _Brought:
    """A case on the training grid, before it is written."""

    image: npt.NDArray[np.int16]
    label: npt.NDArray[np.uint8]
    spans: npt.NDArray[np.int32]
    meta: dict[str, Any]


def _bring(record: CaseRecord, target: TargetPlan) -> _Brought:
    """Read one case and bring it to the training grid."""
    from patchcore.data.reading import read_case_image, read_case_label

    scan = read_case_image(record)
    grid = Grid.of(_shape(scan.array), scan.affine, target.spacing)
    image = grid.resample(scan.array)
    del scan
    stored = read_case_label(record).array
    if stored.shape != grid.stored_shape:
        raise DataError(
            f"label shape {stored.shape} does not match image {grid.stored_shape}",
            case_id=record.case_id,
            remedy=f"re-export the pair or exclude the case with --exclude {record.case_id}",
        )
    indices = class_indices(stored, target.classes)
    label = grid.resample_labels(indices)
    lesion_class = target.classes.index(target.lesion_label) + 1
    kept = keep_lost_lesions(label, grid.canonical(indices), lesion_class, grid.ratio, connectivity=target.connectivity)
    spans = lesion_spans(label, labels=[lesion_class], connectivity=target.connectivity)
    table = np.column_stack([spans.lesion, spans.origin, spans.length]).astype(np.int32)
    table, voxels = _without_specks(table, spans.voxel_count, target)
    counts = np.bincount(label.ravel("K"), minlength=len(target.classes) + 1)[1:]
    meta = {
        "schema_version": STORE_SCHEMA,
        "patient": record.patient,
        "shape": list(grid.shape),
        "spacing": list(grid.spacing),
        "grid_affine": grid.affine.tolist(),
        "stored_shape": list(grid.stored_shape),
        "class_voxels": counts.tolist(),
        "lesion_voxels": voxels,
        "span_axis": int(spans.axis),
        "kept_lesions": kept,
    }
    return _Brought(image, label, table, meta)


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


def _write(folder: Path, brought: _Brought, meta: Mapping[str, Any]) -> None:
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.mkdir()
        write_array(temporary / "image", brought.image, fill=_AIR_HU)
        write_array(temporary / "label", brought.label)
        with (temporary / "spans.npy").open("wb") as handle:
            np.save(handle, brought.spans, allow_pickle=False)
            handle.flush()
            os.fsync(handle.fileno())
        write_json_atomic(temporary / "zarr.json", group_metadata({"patchcore": dict(meta)}))
        if folder.exists():
            outdated = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.old.tmp")
            folder.rename(outdated)
            shutil.rmtree(outdated, ignore_errors=True)
        # Somebody else may have brought the same case meanwhile: theirs is as good.
        with suppress(FileExistsError):
            try:
                temporary.rename(folder)
            except OSError as error:
                if not (folder / "zarr.json").exists():
                    raise
                raise FileExistsError from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
