"""The fingerprint: what was measured of a data set. Written by ``analyze``, read by the planner.

Everything that concerns the whole cohort is in closest-canonical RAS+ axis order, lengths in mm, volumes in
mm³.
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

FINGERPRINT_SCHEMA = 2

PERCENTILES = (1, 5, 10, 25, 75, 90, 95, 99)
"""Percentiles of every distribution here but HU; the median has its own name."""


_SENTENCES = ("layout_reason", "grouping", "lesion_label_reason", "segments_note")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class VolumeSummary(_Model):
    """A distribution of volumes, mm³: of lesions, or of all lesions of a case or a patient together."""

    mean_mm3: float
    median_mm3: float
    geometric_mean_mm3: float
    std_mm3: float
    min_mm3: float
    max_mm3: float
    percentiles_mm3: dict[str, float] = Field(description="by percentile: 1, 5, 10, 25, 75, 90, 95, 99")


class CountSummary(_Model):
    """A distribution of lesions counted per case or per patient."""

    mean: float
    median: float
    min: int
    max: int
    percentiles: dict[str, float] = Field(description="by percentile: 1, 5, 10, 25, 75, 90, 95, 99")


class Burden(_Model):
    """Lesion volume and lesion count of every case, or every patient, that has at least one lesion of a label.

    Cases and patients without one are not in it: a mean burden is one of those affected. How many there are
    follows from the cohort's ``case_count`` and ``patient_count``. A patient's burden is the sum over his or her
    cases.
    """

    names: tuple[str, ...] = Field(description="case ids or patients, ascending")
    volumes_mm3: tuple[float, ...] = Field(description="total lesion volume of each")
    lesion_counts: tuple[int, ...] = Field(description="lesions of each")
    volume: VolumeSummary
    lesions: CountSummary


class LabelFingerprint(_Model):
    """All lesions (components) of one label over the accepted cases."""

    label: int
    name: str
    lesion_count: int
    case_count: int = Field(description="cases that have at least one")
    patient_count: int = Field(description="patients that have at least one")
    volume: VolumeSummary | None = Field(description="null where there is no lesion")
    border_share: float = Field(ge=0, le=1, description="share of lesions that touch the volume's border")
    size_bins: tuple[int, int, int, int] = Field(
        description="lesions of an equivalent diameter < 5, 5–10, 10–20, ≥ 20 mm"
    )
    median_extent_mm: Triple = Field(description="median size of a lesion's bounding box per canonical axis")
    burden_per_case: Burden | None = Field(default=None, description="null where there is no lesion")
    burden_per_patient: Burden | None = Field(default=None, description="null where there is no lesion")


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
    lesions: tuple[LesionFingerprint, ...] = Field(description="of every label, in stored order")

    def volumes_mm3(self, label: int) -> list[float]:
        """Return the volumes of the lesions of one label, mm³."""
        return [lesion.volume_mm3 for lesion in self.lesions if lesion.label == label]


class AxisSummary(_Model):
    """A distribution of a per-axis quantity over the accepted cases, canonical axes."""

    median: Triple
    mean: Triple
    min: Triple
    max: Triple
    percentiles: dict[str, Triple] = Field(
        default_factory=dict, description="per axis, by percentile: 1, 5, 10, 25, 75, 90, 95, 99"
    )


class HuSummary(_Model):
    """A distribution of HU, exact: from integer histograms over all voxels of all accepted cases."""

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
    around: HuSummary = Field(description="lesions dilated by dilation_mm, the lesions included")
    within: HuSummary = Field(description="lesions alone")

    @property
    def p0_5(self) -> float:
        """0.5 percentile of HU within the dilated lesions."""
        return self.around.percentiles["0.5"]

    @property
    def p99_5(self) -> float:
        """99.5 percentile of HU within the dilated lesions."""
        return self.around.percentiles["99.5"]


class Fingerprint(_Model, HtmlView):
    """``fingerprint.json``: the accepted cases; those kept for testing are only counted."""

    schema_version: Literal[2] = 2
    fingerprint_hash: str = Field(default="", description="sha256 of all the rest; the same data, the same hash")
    dataset: str = Field(description="name of the data set's folder")
    layout: str = Field(description="recognised layout")
    layout_reason: str
    grouping: str = Field(description="how cases were grouped into patients")
    connectivity: Literal[6, 18, 26]
    min_volume_mm3: float = Field(ge=0)
    lesion_label: int | None = Field(description="the label that is planned for; null where it could not be told")
    lesion_label_reason: str
    case_count: int = Field(description="accepted cases")
    test_count: int = Field(default=0, description="cases kept for testing; nothing here is measured on them")
    held_count: int = Field(default=0, description="cases whose geometry awaits a decision; not measured either")
    quarantined_count: int
    patient_count: int = Field(description="patients of the accepted cases")
    speck_count: int = Field(description="components below min_volume_mm3, not counted as lesions")
    labels: tuple[LabelFingerprint, ...]
    spacing: AxisSummary | None = Field(description="mm per voxel; null where no case was accepted")
    shape: AxisSummary | None = Field(description="voxels; null where no case was accepted")
    extent_mm: AxisSummary | None = Field(description="shape times spacing; null where no case was accepted")
    hu: HuFingerprint | None = Field(description="null for label-only data sets and where there is no lesion")
    segments_note: str = Field(
        default="", description="where segments of a DICOM SEG and connected components disagree; else empty"
    )
    cases: tuple[CaseFingerprint, ...]

    def label(self, label: int) -> LabelFingerprint | None:
        """Return what was measured of one label, None where no accepted case has it."""
        return next((item for item in self.labels if item.label == label), None)

    def with_hash(self) -> Fingerprint:
        """Return the same fingerprint with `fingerprint_hash` filled in.

        The hash is of what was measured; sentences about it are left out, so that rewording them changes no hash.
        """
        content = self.model_dump_json(exclude={"fingerprint_hash", *_SENTENCES})
        return self.model_copy(update={"fingerprint_hash": hashlib.sha256(content.encode()).hexdigest()})


def read_fingerprint(path: Path) -> Fingerprint:
    """Read ``fingerprint.json``.

    Raises:
        StudyError: It is missing or not a fingerprint.
        SchemaVersionError: A newer patchcore wrote it, or an older one that measured less.
    """
    remedy = "measure the data set with patchcore analyze"
    try:
        data: Any = read_json(path, schema=FINGERPRINT_SCHEMA)
    except FileNotFoundError:
        raise StudyError("the study has no fingerprint yet", path=path, remedy=remedy) from None
    version = data["schema_version"]
    if version < FINGERPRINT_SCHEMA:
        raise SchemaVersionError(
            f"schema version {version} is of an older patchcore; this one needs {FINGERPRINT_SCHEMA}",
            path=path,
            found=version,
            expected=FINGERPRINT_SCHEMA,
            remedy="measure again with patchcore analyze",
        )
    try:
        fingerprint = Fingerprint.model_validate(data)
    except ValidationError as error:
        raise StudyError(f"no fingerprint: {explain(error, Fingerprint)}", path=path, remedy=remedy) from None
    if fingerprint.with_hash().fingerprint_hash != fingerprint.fingerprint_hash:
        raise StudyError("was changed since it was measured: its hash is another", path=path, remedy=remedy)
    return fingerprint


def write_fingerprint(path: Path, fingerprint: Fingerprint) -> Fingerprint:
    """Write ``fingerprint.json`` whole or not at all, and return it with its hash."""
    hashed = fingerprint.with_hash()
    # Written by pydantic and not by json: many lesions make it large, and this is ten times as fast.
    write_atomic(path, hashed.model_dump_json(indent=2) + "\n")
    return hashed
