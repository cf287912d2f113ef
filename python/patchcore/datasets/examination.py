"""Examine one case: check its files, measure its lesions, count HU.

All functions run in threads and change no shared state. A faulty file never raises an error: it becomes a finding of
its case.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from patchcore.affines import voxel_volume_mm3
from patchcore.datasets.checks import decide, finding, finding_of, header_findings, image_findings, label_findings
from patchcore.datasets.checks.content import lesions_hash
from patchcore.datasets.labels import Settings, measure_labels, read_labels
from patchcore.datasets.measures import CaseHu, CaseMeasures, stamp_of
from patchcore.lesions.measure import LesionSpans
from patchcore.lesions.table import no_lesions
from patchcore.study.cases import CaseRecord, Finding
from patchcore.study.layout import CaseFiles
from patchcore.volumes.types import CtExamination
from patchcore.volumes.volume import Volume

__all__ = [
    "about_lesions",
    "check_case",
    "examine_image",
    "examine_label",
    "new_record",
    "with_findings",
]

_Result = TypeVar("_Result")

_TRIES = 2
# Wait this long for a file that was replaced while it was opened.
_REPLACED_S = 0.05


def new_record(
    files: CaseFiles, patient: str, settings: Settings, *, excluded: bool = False, stamped: bool = True
) -> CaseRecord:
    """Return the record of a case before any of its files is opened.

    A case with a problem is already quarantined here. With `stamped`, size and time of its files are recorded, and a
    case with files that cannot be reached is quarantined too.
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
    if not stamped:
        return record
    try:
        label_stamp = stamp_of(files.label.files())
        image_stamp = None if files.image is None else stamp_of(files.image.files())
    except Exception as error:
        return with_findings(record, [finding_of(error)], settings)
    return record.model_copy(update={"label_stamp": label_stamp, "image_stamp": image_stamp})


def with_findings(record: CaseRecord, found: Sequence[Finding], settings: Settings) -> CaseRecord:
    """Return the record with added findings, and with the status that follows from all findings and decisions."""
    fresh = [item for item in found if item not in record.findings]
    record = record.model_copy(update={"findings": (*record.findings, *fresh)})
    return decide(record, spacing=settings.spacing, accept=settings.accept, command=settings.command)


def about_lesions(record: CaseRecord, lesion_label: int, settings: Settings) -> CaseRecord:
    """Return the record with the findings that are an error because they concern the lesions.

    A segment that leaves the CT is only a warning for an organ or the couch; a lesion that leaves it is measured wrong.
    """
    outside = [item for item in record.findings if item.check == "roi-outside" and item.label == lesion_label]
    if not outside:
        return record
    found = [finding("lesion-outside", item.message, label=lesion_label) for item in outside]
    rest = tuple(item for item in record.findings if item not in outside)
    return with_findings(record.model_copy(update={"findings": rest}), found, settings)


def examine_label(record: CaseRecord, settings: Settings) -> CaseMeasures:
    """Compare the headers of a case and measure the lesions of every label.

    Returns:
        The measures, without HU. A faulty case is returned as quarantined. A case with geometry that waits for a
        decision is returned as held. Both have no lesions, and the geometry of the header that could be read.
    """
    record, found, _ = _examine_headers(record)
    record = with_findings(record, found, settings)
    nothing = CaseMeasures(
        record, no_lesions(connectivity=settings.connectivity, min_volume_mm3=settings.min_volume_mm3)
    )
    if not record.usable:
        return nothing
    found = []
    measured = _attempt(found, lambda: _measure(record, settings, found))
    if measured is None:
        return nothing.with_record(with_findings(record, found, settings))
    # A finding about the label values may still quarantine the case; its lesions then do not count.
    examined = with_findings(measured.record, found, settings)
    return measured.with_record(examined) if examined.usable else nothing.with_record(examined)


def examine_image(measures: CaseMeasures, lesion_label: int, settings: Settings) -> CaseMeasures:
    """Read the whole image of a case, check that it is a CT, and count HU in and around its lesions.

    Returns:
        The measures with HU; the case is quarantined if its image is faulty.
    """
    found: list[Finding] = []
    record = measures.record
    examined = _attempt(
        found, lambda: _examine_voxels(record, found, spans=lambda: _lesion_spans(measures, lesion_label))
    )
    done = measures
    if examined is not None and not any(item.level == "error" for item in found):
        image, record = examined
        done = replace(measures, record=record, hu=CaseHu(lesion_label, image.around, image.within))
    return done.with_record(with_findings(done.record, found, settings)) if found else done


def check_case(record: CaseRecord, settings: Settings) -> CaseRecord:
    """Check every file of a case completely, even after earlier checks failed; no decision is applied."""
    record, found, readable = _examine_headers(record)
    image, label = readable
    if label:
        measured = _attempt(found, lambda: _measure(record, settings, found))
        record = record if measured is None else measured.record
    if image:
        examined = _attempt(found, lambda: _examine_voxels(record, found))
        record = record if examined is None else examined[1]
    # Headers and measuring both report the notes of a DICOM label.
    return record.model_copy(update={"findings": tuple(dict.fromkeys((*record.findings, *found)))})


def _examine_headers(record: CaseRecord) -> tuple[CaseRecord, list[Finding], tuple[bool, bool]]:
    """Read and compare the headers of a case.

    Returns:
        The record with its geometry; the findings; whether the headers of image and label map could be read.
    """
    found: list[Finding] = []
    image = None if record.image is None else _attempt(found, record.image.header)
    label = _attempt(found, record.label.header)
    if label is not None and (image is not None or record.image is None):
        found += header_findings(image, label, case_id=record.case_id)
    grid = label if image is None else image
    if grid is not None:
        record = record.with_geometry(grid)
    return record, found, (image is not None, label is not None)


def _measure(record: CaseRecord, settings: Settings, found: list[Finding]) -> CaseMeasures | None:
    """Measure the label map of a case; measure it once more if its files changed in the meantime."""
    for attempt in range(_TRIES):
        before = stamp_of(record.label.files())
        measured = measure_labels(
            record.label,
            connectivity=settings.connectivity,
            min_volume_mm3=settings.min_volume_mm3,
            affine=record.affine_array,
            relabel=settings.relabel,
            instances=settings.instances,
            ignore_label=settings.ignore_label,
        )
        sha256 = record.label.sha256()
        if stamp_of(record.label.files()) == before:
            break
        if attempt + 1 == _TRIES:
            found.append(_changed(record.label))
            return None
    lesions, record, more = read_labels(measured, record, settings)
    found += more
    labels = tuple(sorted(set(lesions.label.tolist())))
    # If all components are specks, the map has labels although it has no lesion.
    if labels or not lesions.speck_count:
        found += label_findings(labels, settings.declared)
    found += [finding(note.check, note.text, label=note.label) for note in measured.notes]
    stamp = before.model_copy(update={"sha256": sha256, "content_hash": lesions_hash(lesions)})
    return CaseMeasures(
        record=record.model_copy(update={"labels": labels, "label_stamp": stamp}),
        lesions=lesions,
        segments=measured.segments,
    )


def _examine_voxels(
    record: CaseRecord, found: list[Finding], *, spans: Callable[[], LesionSpans] | None = None
) -> tuple[CtExamination, CaseRecord] | None:
    """Examine the image of a case; None if its files changed while they were read."""
    volume = record.required_image()
    before = stamp_of(volume.files())
    image = volume.examine_ct(None if spans is None else spans(), record.spacing)
    if stamp_of(volume.files()) != before:
        found.append(_changed(volume))
        return None
    found += image_findings(image)
    stamp = before.model_copy(update={"content_hash": image.content_hash, "scan_hash": image.scan_hash})
    return image, record.model_copy(update={"image_stamp": stamp})


def _lesion_spans(measures: CaseMeasures, lesion_label: int) -> LesionSpans:
    """Return the voxels of the lesions; specks are excluded because they do not count as lesions."""
    lesions, record = measures.lesions, measures.record
    spans = record.label_spans(lesion_label, connectivity=lesions.connectivity)
    return spans.kept(spans.voxel_count * voxel_volume_mm3(record.affine_array) >= lesions.min_volume_mm3)


def _attempt(found: list[Finding], work: Callable[[], _Result]) -> _Result | None:
    try:
        return _reopened(work)
    except Exception as error:
        # Any error while reading is a finding of this case and must not affect other cases.
        found.append(finding_of(error))
        return None


def _reopened(work: Callable[[], _Result]) -> _Result:
    """Do the work; do it once more if a file was replaced while it was opened.

    A file that is replaced by renaming is missing for a moment on some network file systems (ENOENT), or its handle is
    stale (ESTALE). If it stays so, the error is raised.
    """
    try:
        return work()
    except OSError as error:
        if error.errno not in (errno.ESTALE, errno.ENOENT):
            raise
    time.sleep(_REPLACED_S)
    return work()


def _changed(volume: Volume) -> Finding:
    path = volume.path
    return finding("changed", f"{path.parent.name}/{path.name} changed while it was read")
