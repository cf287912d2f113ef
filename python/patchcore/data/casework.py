"""The work on one case: check it, measure its lesions, count HU. Runs in a thread, touches nothing shared."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from patchcore.data.checks import check_ct, check_pair
from patchcore.data.hu import DILATION_MM, dilate_mm, hu_histogram
from patchcore.data.layouts import CaseFiles
from patchcore.data.measures import COLUMNS, CaseHu, CaseMeasures, stamp_of
from patchcore.data.reading import (
    VolumeHeader,
    file_sha256,
    read_header,
    read_image,
    read_label,
    volume_files,
)
from patchcore.errors import DataError
from patchcore.study.cases import CaseRecord, FileStamp
from patchcore.types import BoolArray
from patchcore.volumetry import label_components, measure_lesions

__all__ = ["Settings", "as_quarantined", "measure_image", "measure_label", "new_record"]


@dataclass(frozen=True)
class Settings:
    """What decides how lesions are counted."""

    connectivity: int = 26
    min_volume_mm3: float = 0.0


def new_record(files: CaseFiles, patient: str, *, excluded: bool = False) -> CaseRecord:
    """Return what is known of a case before any of its files is opened.

    A case with a problem is quarantined already; so is one whose files cannot be reached.
    """
    record = CaseRecord(case_id=files.case_id, patient=patient, image=files.image, label=files.label, status="accepted")
    if excluded:
        update = {"status": "excluded", "reason": "excluded by --exclude"}
        return record.model_copy(update=update)
    if files.problem is not None:
        update = {"status": "quarantined", "reason": files.problem, "remedy": files.remedy or ""}
        return record.model_copy(update=update)
    try:
        label_stamp = _stamp(files.label)
        image_stamp = None if files.image is None else _stamp(files.image)
    except OSError as error:
        return as_quarantined(record, error)
    return record.model_copy(update={"label_stamp": label_stamp, "image_stamp": image_stamp})


def as_quarantined(record: CaseRecord, error: Exception) -> CaseRecord:
    """Return the record with the reason why the case cannot be used, and what to do about it."""
    exclude = f"exclude the case with --exclude {record.case_id}"
    if isinstance(error, DataError):
        reason, remedy = error.message, error.remedy
        if error.path is not None:
            reason = f"{Path(error.path).parent.name}/{Path(error.path).name}: {reason}"
    elif isinstance(error, MemoryError):
        reason, remedy = "does not fit into memory", None
    else:
        reason, remedy = str(error), "make the file readable"
    if remedy is None:
        remedy = f"replace the file, or {exclude}"
    elif "--exclude" not in remedy:
        remedy = f"{remedy}, or {exclude}"
    return record.model_copy(update={"status": "quarantined", "reason": reason, "remedy": remedy})


def measure_label(record: CaseRecord, settings: Settings) -> CaseMeasures:
    """Check a case's headers against each other and measure the lesions of every label.

    Returns:
        The measures, without HU. A faulty case comes back quarantined, without lesions, with the geometry of
        whatever header could be read.

    Raises:
        KeyboardInterrupt: The user wants to stop.
    """
    nothing = CaseMeasures(record, settings.connectivity, settings.min_volume_mm3, {name: [] for name in COLUMNS})
    try:
        image = None if record.image is None else read_header(record.image)
        if image is not None:
            record = _with_geometry(record, image)
        label = read_header(record.label)
        if image is None:
            record = _with_geometry(record, label)
        else:
            check_pair(image, label, case_id=record.case_id)
        lesions = measure_lesions(
            label.path, connectivity=settings.connectivity, min_volume_mm3=settings.min_volume_mm3
        )
        stamp = _stamp(record.label, sha256=file_sha256(record.label))
    except (DataError, OSError, MemoryError) as error:
        return replace(nothing, record=as_quarantined(record, error))
    labels = tuple(int(value) for value in np.unique(lesions.label))
    return replace(
        nothing,
        record=record.model_copy(update={"labels": labels, "label_stamp": stamp}),
        lesions={name: np.asarray(getattr(lesions, name)).tolist() for name in COLUMNS},
        speck_count=int(lesions.speck_count),
    )


def measure_image(measures: CaseMeasures, lesion_label: int) -> CaseMeasures:
    """Read a case's image to its last byte, check that it is a CT, and count HU in and around its lesions.

    Returns:
        The measures with HU; quarantined where the image turns out faulty.
    """
    record = measures.record
    assert record.image is not None
    try:
        image = read_image(record.image)
        check_ct(image.array, case_id=record.case_id, stored_dtype=image.stored_dtype)
        rows = [row for row, label in enumerate(measures.lesions["label"]) if label == lesion_label]
        boxes = []
        for row in rows:
            start, stop = measures.lesions["bbox_start"][row], measures.lesions["bbox_stop"][row]
            boxes.append(tuple(slice(a, b) for a, b in zip(start, stop, strict=True)))
        if boxes:
            mask = _lesion_mask(measures, lesion_label)
            around = dilate_mm(mask, boxes, image.spacing, DILATION_MM)
            hu = CaseHu(lesion_label, hu_histogram(image.array[around]), hu_histogram(image.array[mask]))
        else:
            empty = hu_histogram(image.array[:0])
            hu = CaseHu(lesion_label, empty, empty)
        stamp = _stamp(record.image, sha256=file_sha256(record.image))
    except (DataError, OSError, MemoryError) as error:
        return replace(measures, record=as_quarantined(record, error))
    return replace(measures, record=record.model_copy(update={"image_stamp": stamp}), hu=hu)


def _lesion_mask(measures: CaseMeasures, lesion_label: int) -> BoolArray:
    """Return where the lesions are; specks, which do not count as lesions, are left out."""
    label_map = read_label(measures.record.label)
    mask: BoolArray = label_map.array == lesion_label
    if measures.speck_count:
        components = label_components(mask, connectivity=measures.connectivity)
        voxel_mm3 = abs(float(np.linalg.det(label_map.affine[:3, :3])))
        keep = np.bincount(components.ravel()) * voxel_mm3 >= measures.min_volume_mm3
        keep[0] = False
        mask = keep[components]
    return mask


def _with_geometry(record: CaseRecord, header: VolumeHeader) -> CaseRecord:
    update = {
        "shape": header.shape,
        "spacing": header.spacing,
        "affine": tuple(tuple(float(value) for value in row) for row in header.affine),
        "orientation": header.orientation,
    }
    return record.model_copy(update=update)


def _stamp(path: Path, *, sha256: str = "") -> FileStamp:
    return stamp_of(volume_files(path), sha256=sha256)
