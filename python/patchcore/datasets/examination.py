"""The work on one case: check it, measure its lesions, count HU. Runs in a thread, touches nothing shared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from patchcore.datasets.checks import decide, finding, finding_of, header_findings, image_findings, label_findings
from patchcore.datasets.checks.content import image_sha256, lesions_sha256
from patchcore.datasets.hu import DILATION_MM, dilate_mm, hu_histogram
from patchcore.datasets.layouts import CaseFiles
from patchcore.datasets.measures import COLUMNS, CaseHu, CaseMeasures, stamp_of
from patchcore.lesions.measure import label_components, measure_lesions
from patchcore.study.cases import CaseRecord, FileStamp, Finding
from patchcore.types import BoolArray, Triple
from patchcore.volumes.dicom.sources import is_index
from patchcore.volumes.nifti import (
    VolumeHeader,
    file_sha256,
    read_case_image,
    read_case_label,
    read_header,
    volume_files,
)

__all__ = ["Settings", "measure_image", "measure_label", "new_record", "with_findings"]

_TRIES = 2


@dataclass(frozen=True)
class Settings:
    """What decides how lesions are counted, and what the user has decided about findings.

    Attributes:
        connectivity: 6, 18 or 26.
        min_volume_mm3: Smaller components are no lesions.
        declared: Names of the labels that the data set declares; empty where it declares none.
        spacing: Given spacings by case or pattern, mm per stored axis.
        accept: Accepted findings, ``CASE:CHECK``.
        command: The command that takes decisions, for remedies.
    """

    connectivity: int = 26
    min_volume_mm3: float = 0.0
    declared: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))
    spacing: Mapping[str, Triple] = field(default_factory=lambda: MappingProxyType({}))
    accept: frozenset[str] = frozenset()
    command: str = "patchcore analyze DATASET STUDY"


def new_record(files: CaseFiles, patient: str, settings: Settings, *, excluded: bool = False) -> CaseRecord:
    """Return what is known of a case before any of its files is opened.

    A case with a problem is quarantined already; so is one whose files cannot be reached.
    """
    record = CaseRecord(
        case_id=files.case_id,
        patient=patient,
        image=files.image,
        label=files.label,
        status="accepted",
        split=files.split,
        columns=dict(files.columns),
    )
    if excluded:
        return record.model_copy(update={"status": "excluded", "reason": "excluded by --exclude"})
    if files.problem is not None:
        return with_findings(record, [finding("files", files.problem, remedy=files.remedy)], settings)
    try:
        label_stamp = _stamp(files.label)
        image_stamp = None if files.image is None else _stamp(files.image)
    except Exception as error:
        return with_findings(record, [finding_of(error)], settings)
    return record.model_copy(update={"label_stamp": label_stamp, "image_stamp": image_stamp})


def with_findings(record: CaseRecord, found: list[Finding], settings: Settings) -> CaseRecord:
    """Return the record with more findings, and the status that follows from all of them and the user's decisions."""
    fresh = [item for item in found if item not in record.findings]
    record = record.model_copy(update={"findings": (*record.findings, *fresh)})
    return decide(record, spacing=settings.spacing, accept=settings.accept, command=settings.command)


def measure_label(record: CaseRecord, settings: Settings) -> CaseMeasures:
    """Check a case's headers against each other and measure the lesions of every label.

    Returns:
        The measures, without HU. A faulty case comes back quarantined and one whose geometry awaits a decision held,
        both without lesions, with the geometry of whatever header could be read.

    Raises:
        KeyboardInterrupt: The user wants to stop.
    """
    nothing = CaseMeasures(record, settings.connectivity, settings.min_volume_mm3, {name: [] for name in COLUMNS})
    found: list[Finding] = []
    image = _attempt(found, lambda: None if record.image is None else read_header(record.image))
    label = _attempt(found, lambda: read_header(record.label))
    if label is not None and (image is not None or record.image is None):
        found += header_findings(image, label, case_id=record.case_id)
    grid = label if image is None else image
    if grid is not None:
        record = _with_geometry(record, grid)
    record = with_findings(record, found, settings)
    if record.status not in ("accepted", "test"):
        return replace(nothing, record=record)
    found = []
    measured = _attempt(found, lambda: _measure(record, settings, found))
    if measured is None:
        return replace(nothing, record=with_findings(record, found, settings))
    # A finding of the label's values may still quarantine the case; its lesions then do not count.
    measured = replace(measured, record=with_findings(measured.record, found, settings))
    return measured if measured.record.status in ("accepted", "test") else replace(nothing, record=measured.record)


def _measure(record: CaseRecord, settings: Settings, found: list[Finding]) -> CaseMeasures | None:
    """Measure the label map of a case between two looks at its file, once more where it changed meanwhile."""
    for attempt in range(_TRIES):
        before = _stamp(record.label)
        notes: list[str] = []
        segments: list[dict[str, Any]] = []
        if is_index(record.label):
            from patchcore.datasets.dicom.measure import measure_segments

            by_segment = measure_segments(
                record.label,
                connectivity=settings.connectivity,
                min_volume_mm3=settings.min_volume_mm3,
                affine=record.affine_array,
            )
            lesions, speck_count = by_segment.lesions, by_segment.speck_count
            segments, notes = by_segment.segments, by_segment.disagreements
            content = ""
        else:
            table = measure_lesions(
                record.label,
                connectivity=settings.connectivity,
                min_volume_mm3=settings.min_volume_mm3,
                affine=record.affine_array,
            )
            lesions = {name: np.asarray(getattr(table, name)).tolist() for name in COLUMNS}
            speck_count, content = int(table.speck_count), lesions_sha256(table)
        sha256 = file_sha256(record.label)
        if _stamp(record.label) == before:
            break
        if attempt + 1 == _TRIES:
            found.append(_changed(record.label))
            return None
    labels = tuple(sorted({int(value) for value in lesions["label"]}))
    # Where all components are specks, labels are there though no lesion is.
    if labels or not speck_count:
        found += label_findings(labels, settings.declared, case_id=record.case_id)
    found += [finding("dicom-note", note) for note in notes]
    stamp = before.model_copy(update={"sha256": sha256, "content_sha256": content})
    return CaseMeasures(
        record=record.model_copy(update={"labels": labels, "label_stamp": stamp}),
        connectivity=settings.connectivity,
        min_volume_mm3=settings.min_volume_mm3,
        lesions=lesions,
        speck_count=speck_count,
        segments=segments,
    )


def measure_image(measures: CaseMeasures, lesion_label: int, settings: Settings) -> CaseMeasures:
    """Read a case's image to its last byte, check that it is a CT, and count HU in and around its lesions.

    Returns:
        The measures with HU; quarantined where the image turns out faulty.
    """
    found: list[Finding] = []
    done: CaseMeasures = _attempt(found, lambda: _count_hu(measures, lesion_label, found)) or measures
    return replace(done, record=with_findings(done.record, found, settings)) if found else done


def _count_hu(measures: CaseMeasures, lesion_label: int, found: list[Finding]) -> CaseMeasures | None:
    record = measures.record
    assert record.image is not None
    before = _stamp(record.image)
    image = read_case_image(record)
    sha256 = file_sha256(record.image)
    if _stamp(record.image) != before:
        found.append(_changed(record.image))
        return None
    found += image_findings(image.array, case_id=record.case_id, stored_dtype=image.stored_dtype)
    if any(item.level == "error" for item in found):
        return None
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
    stamp = before.model_copy(update={"sha256": sha256, "content_sha256": image_sha256(image.array)})
    return replace(measures, record=record.model_copy(update={"image_stamp": stamp}), hu=hu)


def _lesion_mask(measures: CaseMeasures, lesion_label: int) -> BoolArray:
    """Return where the lesions are; specks, which do not count as lesions, are left out."""
    label_map = read_case_label(measures.record)
    mask: BoolArray = label_map.array == lesion_label
    if measures.speck_count:
        components = label_components(mask, connectivity=measures.connectivity)
        voxel_mm3 = abs(float(np.linalg.det(label_map.affine[:3, :3])))
        keep = np.bincount(components.ravel()) * voxel_mm3 >= measures.min_volume_mm3
        keep[0] = False
        mask = keep[components]
    return mask


def _attempt(found: list[Finding], work: Callable[[], Any]) -> Any:
    try:
        return work()
    except Exception as error:
        # Whatever a file makes a reader do, it is a finding of this case and leaves the others alone.
        found.append(finding_of(error))
        return None


def _changed(path: Path) -> Finding:
    return finding("changed", f"{path.parent.name}/{path.name} changed while it was read")


def _with_geometry(record: CaseRecord, header: VolumeHeader) -> CaseRecord:
    update = {
        "shape": header.shape,
        "spacing": header.spacing,
        "given_spacing": None,
        "affine": tuple(tuple(float(value) for value in row) for row in header.affine),
        "orientation": header.orientation,
    }
    return record.model_copy(update=update)


def _stamp(path: Path) -> FileStamp:
    return stamp_of(volume_files(path))
