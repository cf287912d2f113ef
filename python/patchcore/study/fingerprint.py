"""The fingerprint: all measurements of a data set. ``analyze`` writes it and the planner reads it.

All values use closest-canonical RAS+ axis order. Lengths are in mm, volumes in mm³.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from patchcore.config.explain import explain
from patchcore.errors import SchemaVersionError, StudyError
from patchcore.files import read_json, write_atomic
from patchcore.notebook import HtmlView
from patchcore.types import IntTriple, Triple

__all__ = [
    "FINGERPRINT_SCHEMA",
    "PERCENTILES",
    "AxisSummary",
    "Burden",
    "CaseFingerprint",
    "CountSummary",
    "Fingerprint",
    "HuFingerprint",
    "HuSummary",
    "LabelFingerprint",
    "LesionFingerprint",
    "VolumeSummary",
    "read_fingerprint",
    "write_fingerprint",
]

FINGERPRINT_SCHEMA = 3

PERCENTILES = (1, 5, 10, 25, 75, 90, 95, 99)
"""Percentiles of all distributions except HU. The median is a separate field."""


_SENTENCES = ("layout_reason", "grouping", "lesion_label_reason", "segments_note")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class VolumeSummary(_Model):
    """Distribution of volumes, mm³: per lesion, or the total lesion volume per case or per patient."""

    mean_mm3: float
    median_mm3: float
    geometric_mean_mm3: float
    std_mm3: float
    min_mm3: float
    max_mm3: float
    percentiles_mm3: dict[str, float] = Field(description="by percentile: 1, 5, 10, 25, 75, 90, 95, 99")


class CountSummary(_Model):
    """Distribution of the number of lesions per case or per patient."""

    mean: float
    median: float
    min: int
    max: int
    percentiles: dict[str, float] = Field(description="by percentile: 1, 5, 10, 25, 75, 90, 95, 99")


class Burden(_Model):
    """Lesion volume and lesion count of every case, or every patient, with at least one lesion of a label.

    Cases and patients without a lesion are not included, so a mean burden refers only to affected cases or patients.
    The cohort's ``case_count`` and ``patient_count`` give the totals. The burden of a patient is the sum over all cases
    of the patient.
    """

    names: tuple[str, ...] = Field(description="case ids or patients, ascending")
    volumes_mm3: tuple[float, ...] = Field(description="total lesion volume of each case or patient, mm³")
    lesion_counts: tuple[int, ...] = Field(description="number of lesions of each case or patient")
    volume: VolumeSummary
    lesions: CountSummary


class LabelFingerprint(_Model):
    """All lesions (components) of one label over the accepted cases."""

    label: int
    name: str
    lesion_count: int
    case_count: int = Field(description="cases with at least one lesion")
    patient_count: int = Field(description="patients with at least one lesion")
    volume: VolumeSummary | None = Field(description="null if there is no lesion")
    border_share: float = Field(ge=0, le=1, description="share of lesions that touch the border of the volume")
    size_bins: tuple[int, int, int, int] = Field(
        description="number of lesions with an equivalent diameter of < 5, 5–10, 10–20, ≥ 20 mm"
    )
    median_extent_mm: Triple = Field(description="median size of a lesion's bounding box per canonical axis")
    burden_per_case: Burden | None = Field(default=None, description="null if there is no lesion")
    burden_per_patient: Burden | None = Field(default=None, description="null if there is no lesion")


class LesionFingerprint(_Model):
    """One lesion, as the planner needs it."""

    label: int
    volume_mm3: float
    extent_mm: Triple = Field(description="size of the bounding box per canonical axis")


class CaseFingerprint(_Model):
    """One accepted case."""

    case_id: str
    patient: str
    spacing: Triple = Field(description="mm per voxel, canonical axes")
    shape: IntTriple = Field(description="voxels, canonical axes")
    lesions: tuple[LesionFingerprint, ...] = Field(description="lesions of all labels, in stored order")

    def volumes_mm3(self, label: int) -> list[float]:
        """Return the volumes of the lesions of one label, mm³."""
        return [lesion.volume_mm3 for lesion in self.lesions if lesion.label == label]


class AxisSummary(_Model):
    """Distribution of a per-axis quantity over the accepted cases, canonical axes."""

    median: Triple
    mean: Triple
    min: Triple
    max: Triple
    percentiles: dict[str, Triple] = Field(
        default_factory=dict, description="per axis, by percentile: 1, 5, 10, 25, 75, 90, 95, 99"
    )


class HuSummary(_Model):
    """Exact distribution of HU, from integer histograms over all voxels of all accepted cases."""

    voxel_count: int
    mean: float
    std: float
    min: float
    max: float
    percentiles: dict[str, float] = Field(description="by percentile: 0.5, 5, 25, 50, 75, 95, 99.5")


class HuFingerprint(_Model):
    """HU in and around the lesions of one label."""

    label: int
    dilation_mm: float
    around: HuSummary = Field(description="HU in the lesions dilated by dilation_mm, including the lesions")
    within: HuSummary = Field(description="HU in the lesions only")

    @property
    def p0_5(self) -> float:
        """0.5 percentile of HU within the dilated lesions."""
        return self.around.percentiles["0.5"]

    @property
    def p99_5(self) -> float:
        """99.5 percentile of HU within the dilated lesions."""
        return self.around.percentiles["99.5"]


class Fingerprint(_Model, HtmlView):
    """``fingerprint.json``: measurements of the accepted cases. Cases kept for testing are only counted."""

    schema_version: Literal[3] = 3
    fingerprint_hash: str = Field(
        default="", description="sha256 of the measurements; the same data give the same hash"
    )
    dataset: str = Field(description="name of the data set's folder")
    layout: str = Field(description="recognised layout")
    layout_reason: str
    grouping: str = Field(description="how cases were grouped into patients")
    connectivity: Literal[6, 18, 26]
    min_volume_mm3: float = Field(ge=0)
    lesion_label: int | None = Field(description="label to plan for; null if it is not clear")
    lesion_label_reason: str
    case_count: int = Field(description="accepted cases")
    test_count: int = Field(default=0, description="cases kept for testing; they do not count in any other number")
    held_count: int = Field(
        default=0, description="cases with geometry that must be corrected or accepted; they are not measured"
    )
    quarantined_count: int
    patient_count: int = Field(description="patients of the accepted cases")
    speck_count: int = Field(description="components below min_volume_mm3, not counted as lesions")
    labels: tuple[LabelFingerprint, ...]
    spacing: AxisSummary | None = Field(description="mm per voxel; null if no case was accepted")
    shape: AxisSummary | None = Field(description="voxels; null if no case was accepted")
    extent_mm: AxisSummary | None = Field(description="shape times spacing, mm; null if no case was accepted")
    hu: HuFingerprint | None = Field(description="null for label-only data sets and if there is no lesion")
    segments_note: str = Field(
        default="",
        description="differences between DICOM SEG segments and connected components; empty if there are none",
    )
    cases: tuple[CaseFingerprint, ...]

    def label(self, label: int) -> LabelFingerprint | None:
        """Return the measurements of one label; None if no accepted case has the label."""
        return next((item for item in self.labels if item.label == label), None)

    def with_hash(self) -> Fingerprint:
        """Return the same fingerprint with `fingerprint_hash` filled in.

        The hash covers the measurements but not the sentences about them, so rewording a sentence keeps the hash.
        """
        content = self.model_dump_json(exclude={"fingerprint_hash", *_SENTENCES})
        return self.model_copy(update={"fingerprint_hash": hashlib.sha256(content.encode()).hexdigest()})


def read_fingerprint(path: Path) -> Fingerprint:
    """Read ``fingerprint.json``.

    Raises:
        StudyError: The file is missing, not a valid fingerprint, or was changed after measuring.
        SchemaVersionError: A newer patchcore wrote it, or an older one with fewer measurements.
    """
    remedy = "measure the data set with patchcore analyze"
    try:
        data: Any = read_json(path, schema=FINGERPRINT_SCHEMA)
    except FileNotFoundError:
        raise StudyError("the study has no fingerprint yet", path=path, remedy=remedy) from None
    version = data["schema_version"]
    if version < FINGERPRINT_SCHEMA:
        raise SchemaVersionError(
            f"schema version {version} comes from an older patchcore; this version needs {FINGERPRINT_SCHEMA}",
            path=path,
            found=version,
            expected=FINGERPRINT_SCHEMA,
            remedy="measure again with patchcore analyze",
        )
    try:
        fingerprint = Fingerprint.model_validate(data)
    except ValidationError as error:
        raise StudyError(f"not a valid fingerprint: {explain(error, Fingerprint)}", path=path, remedy=remedy) from None
    if fingerprint.with_hash().fingerprint_hash != fingerprint.fingerprint_hash:
        raise StudyError("was changed after it was measured: its hash does not match", path=path, remedy=remedy)
    return fingerprint


def write_fingerprint(path: Path, fingerprint: Fingerprint) -> Fingerprint:
    """Write ``fingerprint.json`` atomically and return the fingerprint with its hash."""
    hashed = fingerprint.with_hash()
    # pydantic is ten times as fast as json; with many lesions the file is large.
    write_atomic(path, hashed.model_dump_json(indent=2) + "\n")
    return hashed
