"""Prepares one case: crops and resamples it, writes its arrays and lesions, and renames it when it is complete."""

from __future__ import annotations

import math
import os
import secrets
import shlex
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from patchcore.affines import voxel_volume_mm3
from patchcore.config.plan import TargetPlan
from patchcore.errors import DataError, LockedError, NoLocksError, PatchcoreError
from patchcore.files import DISK_ERRORS, write_json_atomic
from patchcore.lesions.measure import measure_lesions
from patchcore.locks import FileLock
from patchcore.memory import MemoryBudget
from patchcore.resampling.grid import Grid
from patchcore.store.case import Placed, Source
from patchcore.store.facts import read_attributes, write_spans, write_table
from patchcore.store.groups import STORE_SCHEMA
from patchcore.store.layout import group_metadata
from patchcore.store.prepared_case import PreparedCase
from patchcore.study import CaseRecord
from patchcore.threads import core_count
from patchcore.types import IntTriple
from patchcore.volumes.volume import Volume

__all__ = ["StoreWriteError", "prepare_case"]

# Memory of a case in addition to its planes and slabs, and memory kept for Python.
_BASE_BYTES = 48 << 20
_NAMING_S = 60.0
_naming_thread = threading.Lock()
_MEMORY_REMEDY = "raise --max-memory; a DICOM series needs less after patchcore import"


class StoreWriteError(Exception):
    """The store cannot be written. This concerns all cases, not a single one."""

    def __init__(self, cause: OSError, folder: Path) -> None:
        super().__init__(str(cause))
        plain = cause.errno is not None and cause.filename is None
        self.cause = OSError(cause.errno, cause.strerror, str(folder)) if plain else cause


def prepare_case(root: Path, target: TargetPlan, record: CaseRecord, budget: MemoryBudget) -> PreparedCase:
    """Prepare a case, unless it is already in the store and its sources are unchanged.

    Args:
        root: Folder of the plan's group in the store.
        target: The plan's target.
        record: The case.
        budget: Memory budget, shared by all threads.

    Raises:
        StoreWriteError: The store cannot be written.
        DataError: The case has no image, its files do not match, or one of them is damaged.
        OSError: A file cannot be read.
        MemoryError: The case does not fit into the budget.
    """
    folder = root / record.case_id
    record.required_image()
    known = record.sources()
    meta = _read_meta(folder)
    if meta is None or not _same_sources(meta, known):
        meta = _write(folder, target, record, known, budget)
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
        version=meta["version"],
    )


def _same_sources(meta: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    same = all(meta.get(name) == other.get(name) for name in ("sources", "affine"))
    # Stores that were made before labels could be renamed do not say so.
    return same and (meta.get("relabel") or []) == (other.get("relabel") or [])


def _write(
    folder: Path, target: TargetPlan, record: CaseRecord, known: dict[str, Any], budget: MemoryBudget
) -> dict[str, Any]:
    """Write a case under a temporary name and rename it when it is complete. Return its attributes."""
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    try:
        try:
            temporary.mkdir()
        except OSError as error:
            raise StoreWriteError(error, folder) from error
        meta = _fill(temporary, target, record, budget) | known
        meta |= {"content_hashes": _hashes(record, known["sources"]), "version": secrets.token_hex(8)}
        try:
            write_json_atomic(temporary / "zarr.json", group_metadata({"patchcore": meta}))
            return _give_name(temporary, folder, meta)
        except OSError as error:
            raise StoreWriteError(error, folder) from error
    except OSError as error:
        if error.errno in DISK_ERRORS:
            raise StoreWriteError(error, folder) from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _give_name(temporary: Path, folder: Path, meta: dict[str, Any]) -> dict[str, Any]:
    """Give a complete case its name, and return the attributes of the case that has the name now.

    The outdated case is only renamed: a training that began with it can read it on. `prepare` removes it a day later.
    """
    with _naming(folder.parent.parent):
        return _replace(temporary, folder, meta)


@contextmanager
def _naming(store: Path) -> Iterator[None]:
    """Let one process at a time give a case its name: of two that start together, one must not replace the other's.

    Each waits a few milliseconds. After a minute, or on a file system without locks, it goes on.
    """
    lock, until = FileLock(store / ".naming.lock"), time.monotonic() + _NAMING_S
    with _naming_thread:
        held = False
        with suppress(NoLocksError):
            while not held and time.monotonic() < until:
                try:
                    lock.acquire()
                    held = True
                except LockedError:
                    time.sleep(0.002)
        try:
            yield
        finally:
            if held:
                lock.release()


def _replace(temporary: Path, folder: Path, meta: dict[str, Any]) -> dict[str, Any]:
    found = _read_meta(folder)
    if found is not None and _same_sources(found, meta):
        # Another process has prepared the same case meanwhile and may already read it. Keep that one.
        return found
    outdated = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.old.tmp")
    moved = False
    with suppress(FileNotFoundError):
        folder.rename(outdated)
        os.utime(outdated)
        moved = True
    try:
        temporary.rename(folder)
    except OSError:
        # Another process was faster and has created the folder.
        found = _read_meta(folder)
        if found is not None and _same_sources(found, meta):
            return found
        if moved:
            with suppress(OSError):
                outdated.rename(folder)
        raise
    return meta


def _fill(folder: Path, target: TargetPlan, record: CaseRecord, budget: MemoryBudget) -> dict[str, Any]:
    """Write the arrays and lesions of a case into a folder, and return its attributes."""
    image = record.required_image()
    shape, label_shape = image.header().shape, record.label.header().shape
    if label_shape != shape:
        raise DataError(
            f"label shape {label_shape} does not match image {shape}",
            case_id=record.case_id,
            remedy=f"export both files again, or exclude the case with --exclude {shlex.quote(record.case_id)}",
        )
    grid = Grid.of(shape, record.affine_array, target.spacing)
    threads = core_count()
    # Bytes for a DICOM series, which is read whole and converted. NIfTI is streamed, also if compressed.
    series = 8 * math.prod(shape)
    with budget.hold(series * (not record.is_label_streamed) + _BASE_BYTES, record.case_id, remedy=_MEMORY_REMEDY):
        crop = _crop(record, target, grid)
    placed = Placed(grid, *crop.box, kernel=target.store.kernel, antialias=target.store.antialias)
    needed = series * (not (image.is_streamed and record.is_label_streamed)) + _BASE_BYTES
    if not image.is_streamed:
        needed += 16 * threads * (shape[0] * shape[1] + math.prod(placed.shape[:2])) + (192 << 20)
    else:
        with _named(record, image):
            while (
                planes := placed.needed_bytes(image.path, len(target.stored_classes), threads)
            ) + needed > budget.total:
                if threads == 1:
                    break
                threads //= 2
        needed += planes
    with budget.hold(needed, record.case_id, remedy=_MEMORY_REMEDY):
        with _named(record, image):
            source: Source = image.path if image.is_streamed else record.read_image().array
            placed.write_image(source, folder / "image", threads=threads)
            del source
        with _named(record, record.label):
            source = _label_source(record)
            labels = placed.write_labels(
                source,
                folder / "label",
                classes=target.stored_classes,
                lesion_label=target.lesion_label,
                connectivity=target.connectivity,
                voxel_mm3=voxel_volume_mm3(record.affine_array),
                min_volume_mm3=target.min_volume_mm3,
                threads=threads,
            )
            del source
    spans = labels.spans
    table = np.column_stack([spans.lesion, spans.origin, spans.length]).astype(np.int32)
    table, voxels = _without_specks(table, spans.voxel_count, labels.is_lesion)
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.asarray(placed.start)
    write_spans(folder, table, voxels, spans.axis, voxel_volume_mm3(affine))
    # Voxels that are ignored are no class that windows are drawn around.
    learned = labels.other_classes[:, 0] <= len(target.classes)
    write_table(folder / "class_spans.npy", np.ascontiguousarray(labels.other_classes[learned]))
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
        "class_voxels": list(labels.class_voxels[: len(target.classes)]),
        "lesion_voxels": voxels.tolist(),
        "span_axis": int(spans.axis),
        "kept_lesions": labels.kept_lesions,
    }


@contextmanager
def _named(record: CaseRecord, volume: Volume) -> Iterator[None]:
    """Add the case and the file to an error that does not name them."""
    try:
        yield
    except PatchcoreError as error:
        error.case_id = error.case_id or record.case_id
        error.path = error.path or str(volume.path)
        raise
    except OSError as error:
        if error.errno in DISK_ERRORS or error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(volume.path)) from None


@dataclass(frozen=True)
class _Crop:
    """The kept part of a training grid (first voxel, voxel after the last), and the number of lesions it cuts."""

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


def _label_source(record: CaseRecord) -> Source:
    return record.label.path if record.is_label_streamed else record.read_label().array


def _hashes(record: CaseRecord, stamps: list[list[int]]) -> list[str]:
    """Return the content hashes of image and label map from analyze; empty strings if the files have changed since."""
    known = [stamp for stamp in (record.image_stamp, record.label_stamp) if stamp is not None]
    # A volume of several files has one stamp: the sum of the sizes and the newest time.
    sizes, times = sum(size for size, _ in stamps), {time for _, time in stamps}
    unchanged = sum(stamp.size for stamp in known) == sizes and all(stamp.mtime_ns in times for stamp in known)
    pair = (record.image_stamp, record.label_stamp)
    return ["" if stamp is None or not unchanged else stamp.content_hash for stamp in pair]


def _read_meta(folder: Path) -> dict[str, Any] | None:
    meta = read_attributes(folder)
    return meta if meta.get("schema_version") == STORE_SCHEMA else None


def _without_specks(
    table: npt.NDArray[np.int32], voxels: npt.NDArray[np.int64], is_lesion: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Remove components that are specks of the label map, and number the others from 0."""
    number = np.cumsum(is_lesion) - 1
    table = table[is_lesion[table[:, 0]]] if len(table) else table
    table[:, 0] = number[table[:, 0]]
    return np.ascontiguousarray(table), np.asarray(voxels)[is_lesion]
