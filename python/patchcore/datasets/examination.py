"""Examine one case: check its files, measure its lesions, count HU.

All functions run in threads and change no shared state. A faulty file never raises an error: it becomes a finding of
its case.
"""

from __future__ import annotations

import errno
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np

from patchcore.affines import voxel_volume_mm3
from patchcore.datasets.checks import decide, finding, finding_of, header_findings, image_findings, label_findings
from patchcore.datasets.checks.content import lesions_hash
from patchcore.datasets.checks.decisions import COMMAND
from patchcore.datasets.measures import CaseHu, CaseMeasures, stamp_of
from patchcore.lesions.measure import LesionSpans, measure_lesions
from patchcore.lesions.table import Lesions, no_lesions
from patchcore.study.cases import CaseRecord, Finding, relabelled
from patchcore.study.layout import CaseFiles
from patchcore.types import Affine, Triple
from patchcore.volumes.dicom.notes import Note
from patchcore.volumes.nifti import NEARLY_INTEGRAL
from patchcore.volumes.types import CtExamination
from patchcore.volumes.volume import DicomVolume, NiftiFile, Volume

__all__ = [
    "MeasuredLabels",
    "Settings",
    "about_lesions",
    "check_case",
    "examine_image",
    "examine_label",
    "measure_labels",
    "new_record",
    "with_findings",
]

_Result = TypeVar("_Result")

_TRIES = 2
# Wait this long for a file that was replaced while it was opened.
_REPLACED_S = 0.05


@dataclass(frozen=True)
class Settings:
    """How lesions are counted, and the user's decisions about findings.

    Attributes:
        connectivity: 6, 18 or 26.
        min_volume_mm3: Components smaller than this are not lesions, in mm³.
        declared: Names of the labels that the data set declares; empty if it declares none.
        spacing: Spacings given by the user, by case or pattern, mm per stored axis.
        accept: Accepted findings, ``CASE:CHECK``.
        command: Command that takes decisions; used in remedies.
        relabel: Labels that are read as another label: (stored label, label used).
        instances: Whether each stored label is one lesion.
        keep_255: Whether a mask of 0 and 255 keeps its label, because the user named it.
        ignore_label: Label whose voxels count in no measure, no loss and no metric; None if there is none.
    """

    connectivity: int = 26
    min_volume_mm3: float = 0.0
    declared: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))
    spacing: Mapping[str, Triple] = field(default_factory=lambda: MappingProxyType({}))
    accept: frozenset[str] = frozenset()
    command: str = COMMAND
    relabel: tuple[tuple[int, int], ...] = ()
    instances: bool = False
    keep_255: bool = False
    ignore_label: int | None = None

    @property
    def label_rule(self) -> str:
        """Text that changes with the way in which labels are read."""
        parts = [f"{stored}={used}" for stored, used in self.relabel]
        parts += ["instances"] * self.instances + ["keep 255"] * self.keep_255
        parts += [] if self.ignore_label is None else [f"ignore {self.ignore_label}"]
        return ", ".join(parts)


@dataclass(frozen=True)
class MeasuredLabels:
    """Lesions of a label map, with its DICOM segments and notes about them; both are empty for NIfTI."""

    lesions: Lesions
    segments: tuple[dict[str, Any], ...] = ()
    notes: tuple[Note, ...] = ()


def measure_labels(
    volume: Volume,
    *,
    connectivity: int = 26,
    min_volume_mm3: float = 0.0,
    affine: Affine | None = None,
    relabel: Sequence[tuple[int, int]] = (),
    instances: bool = False,
) -> MeasuredLabels:
    """Measure the lesions of every label of a label map.

    Args:
        volume: The label map.
        connectivity: 6, 18 or 26.
        min_volume_mm3: Components smaller than this are not lesions, in mm³.
        affine: Voxel index → world mm, shape (4, 4); used instead of the file's affine.
        relabel: Labels that are read as another label: (stored label, label used).
        instances: Each stored label of a NIfTI file is one lesion of label 1, wherever its voxels lie; the segments
            keep the stored labels. `relabel` is then not used.

    Raises:
        DataError: A file is damaged, or its labels are not integers.
        OSError: A file cannot be read.
    """
    if isinstance(volume, DicomVolume):
        from patchcore.datasets.dicom.measure import measure_segments

        found = measure_segments(
            volume.path,
            connectivity=connectivity,
            min_volume_mm3=min_volume_mm3,
            affine=affine,
            relabel=relabel,
        )
        return MeasuredLabels(found.lesions, found.segments, found.notes)
    if instances:
        return _measure_instances(volume, connectivity=connectivity, min_volume_mm3=min_volume_mm3, affine=affine)
    source: Any = volume.path
    if relabel:
        stored = volume.label_map()
        source, affine = relabelled(stored.array, relabel), stored.affine if affine is None else affine
    lesions = measure_lesions(source, connectivity=connectivity, min_volume_mm3=min_volume_mm3, affine=affine)
    return MeasuredLabels(lesions)


def _measure_instances(
    volume: Volume, *, connectivity: int, min_volume_mm3: float, affine: Affine | None
) -> MeasuredLabels:
    """Measure each stored label as one lesion of label 1; the segments say which lesion has which stored label."""
    settings: dict[str, Any] = {"connectivity": connectivity, "affine": affine}
    lesions = measure_lesions(volume.path, instances=True, min_volume_mm3=min_volume_mm3, **settings)
    components = Counter(measure_lesions(volume.path, **settings).label.tolist())
    segments = tuple(
        {
            "segment": label,
            "name": f"instance {label}",
            "label": 1,
            "label_name": "lesion",
            "voxel_count": voxel_count,
            "volume_mm3": volume_mm3,
            "components": components[label],
            "lesions": [row],
        }
        for row, (label, voxel_count, volume_mm3) in enumerate(
            zip(lesions.label.tolist(), lesions.voxel_count.tolist(), lesions.volume_mm3.tolist(), strict=True)
        )
    )
    return MeasuredLabels(replace(lesions, label=np.ones_like(lesions.label)), segments)


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
    first = record.image
    image = None if first is None else _attempt(found, lambda: _reopened(first.header))
    label = _attempt(found, lambda: _reopened(record.label.header))
    if label is not None and (image is not None or record.image is None):
        found += header_findings(image, label, case_id=record.case_id)
    grid = label if image is None else image
    if grid is not None:
        record = record.with_geometry(grid)
    return record, found, (image is not None, label is not None)


def _measure(record: CaseRecord, settings: Settings, found: list[Finding]) -> CaseMeasures | None:
    """Measure the label map of a case; measure it once more if its files changed in the meantime."""
    for attempt in range(_TRIES):
        before = _reopened(lambda: stamp_of(record.label.files()))
        measured = _reopened(
            lambda: measure_labels(
                record.label,
                connectivity=settings.connectivity,
                min_volume_mm3=settings.min_volume_mm3,
                affine=record.affine_array,
                relabel=settings.relabel,
                instances=settings.instances,
            )
        )
        sha256 = record.label.sha256()
        if stamp_of(record.label.files()) == before:
            break
        if attempt + 1 == _TRIES:
            found.append(_changed(record.label))
            return None
    lesions, record, more = _read_labels(measured, record, settings)
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


def _read_labels(
    measured: MeasuredLabels, record: CaseRecord, settings: Settings
) -> tuple[Lesions, CaseRecord, list[Finding]]:
    """Return the lesions with the labels that are used, the record with how labels are read, and findings about it."""
    lesions = measured.lesions
    found = []
    if lesions.rounded:
        message = f"labels are not exact integers; they are rounded, by at most {NEARLY_INTEGRAL:g}"
        found.append(finding("label-rounded", message))
    relabel, instances = settings.relabel, settings.instances and isinstance(record.label, NiftiFile)
    if settings.ignore_label is not None:
        lesions = lesions.rows(lesions.label != settings.ignore_label)
    present = set(lesions.label.tolist())
    if instances:
        stored = [int(segment["segment"]) for segment in measured.segments]
        relabel = tuple((label, 1) for label in stored if label != 1)
    elif present == {255} and 255 not in settings.declared and not settings.keep_255:
        lesions, relabel = replace(lesions, label=np.ones_like(lesions.label)), ((255, 1),)
        found.append(finding("label-255", "the label map has the values 0 and 255; 255 is read as 1"))
    elif not measured.segments and not settings.declared and _like_instances(lesions):
        message = f"labels 1 to {len(lesions)} have one component each: every lesion may have a number of its own"
        found.append(finding("label-instances", message))
    update = {
        "relabel": relabel,
        "instances": instances,
        "ignore_label": settings.ignore_label,
        "label_rule": settings.label_rule,
    }
    return lesions, record.model_copy(update=update), found


def _like_instances(lesions: Lesions) -> bool:
    """Return whether labels count from 1 without a gap, at least to 3, and each has exactly one component."""
    return len(lesions) >= 3 and sorted(lesions.label.tolist()) == list(range(1, len(lesions) + 1))


def _examine_voxels(
    record: CaseRecord, found: list[Finding], *, spans: Callable[[], LesionSpans] | None = None
) -> tuple[CtExamination, CaseRecord] | None:
    """Examine the image of a case; None if its files changed while they were read."""
    volume = record.required_image()
    before = _reopened(lambda: stamp_of(volume.files()))
    image = _reopened(lambda: volume.examine_ct(None if spans is None else spans(), record.spacing))
    if stamp_of(volume.files()) != before:
        found.append(_changed(volume))
        return None
    found += image_findings(image)
    stamp = before.model_copy(update={"content_hash": image.content_hash})
    return image, record.model_copy(update={"image_stamp": stamp})


def _lesion_spans(measures: CaseMeasures, lesion_label: int) -> LesionSpans:
    """Return the voxels of the lesions; specks are excluded because they do not count as lesions."""
    lesions, record = measures.lesions, measures.record
    spans = record.label_spans(lesion_label, connectivity=lesions.connectivity)
    return spans.kept(spans.voxel_count * voxel_volume_mm3(record.affine_array) >= lesions.min_volume_mm3)


def _attempt(found: list[Finding], work: Callable[[], _Result]) -> _Result | None:
    try:
        return work()
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
