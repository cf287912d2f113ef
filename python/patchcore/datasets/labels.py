"""How labels are read and measured: several labels as one class, instance maps, masks of 0 and 255, ignored voxels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from patchcore.datasets.checks import finding
from patchcore.datasets.checks.decisions import COMMAND
from patchcore.lesions.measure import measure_lesions
from patchcore.lesions.table import Lesions
from patchcore.study.cases import CaseRecord, Finding, relabelled
from patchcore.types import Affine, Triple
from patchcore.volumes.dicom.notes import Note
from patchcore.volumes.nifti import NEARLY_INTEGRAL
from patchcore.volumes.volume import DicomVolume, Volume

__all__ = ["MeasuredLabels", "Settings", "measure_labels", "read_labels"]


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
    ignore_label: int | None = None,
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
        ignore_label: Label that is not measured, with `instances` or in DICOM; :func:`read_labels` drops it elsewhere.

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
            ignore_label=ignore_label,
        )
        return MeasuredLabels(found.lesions, found.segments, found.notes)
    if instances:
        return _measure_instances(
            volume, connectivity=connectivity, min_volume_mm3=min_volume_mm3, affine=affine, ignore_label=ignore_label
        )
    source: Any = volume.path
    if relabel:
        stored = volume.label_map()
        source, affine = relabelled(stored.array, relabel), stored.affine if affine is None else affine
    lesions = measure_lesions(source, connectivity=connectivity, min_volume_mm3=min_volume_mm3, affine=affine)
    return MeasuredLabels(lesions)


def _measure_instances(
    volume: Volume, *, connectivity: int, min_volume_mm3: float, affine: Affine | None, ignore_label: int | None
) -> MeasuredLabels:
    """Measure each stored label as one lesion of label 1; the segments say which lesion has which stored label."""
    settings: dict[str, Any] = {"connectivity": connectivity, "affine": affine}
    lesions = measure_lesions(volume.path, instances=True, min_volume_mm3=min_volume_mm3, **settings)
    if ignore_label is not None:
        lesions = lesions.rows(lesions.label != ignore_label)
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


def read_labels(
    measured: MeasuredLabels, record: CaseRecord, settings: Settings
) -> tuple[Lesions, CaseRecord, list[Finding]]:
    """Return the lesions with the labels that are used, the record with how labels are read, and findings about it."""
    lesions = measured.lesions
    found = []
    if lesions.rounded:
        message = f"labels are not exact integers; they are rounded, by at most {NEARLY_INTEGRAL:g}"
        found.append(finding("label-rounded", message))
    relabel, instances = settings.relabel, settings.instances
    if settings.ignore_label is not None and not instances:
        lesions = lesions.rows(lesions.label != settings.ignore_label)
    present = set(lesions.label.tolist())
    if instances:
        stored = [int(segment["segment"]) for segment in measured.segments]
        relabel = tuple((label, 1) for label in stored if label != 1)
    elif present == {255} and set(settings.declared) <= {0, 1} and not settings.keep_255:
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
        "declared": tuple(sorted(settings.declared)),
    }
    return lesions, record.model_copy(update=update), found


def _like_instances(lesions: Lesions) -> bool:
    """Return whether labels count from 1 without a gap, at least to 3, and each has exactly one component."""
    return len(lesions) >= 3 and sorted(lesions.label.tolist()) == list(range(1, len(lesions) + 1))
