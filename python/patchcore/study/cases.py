"""One case of a study: where its files are, what their headers say, and whether it may be used."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from patchcore.errors import DataError
from patchcore.types import Affine, IntTriple, Triple
from patchcore.volumes.types import CtImage, LabelMap, VolumeHeader
from patchcore.volumes.volume import Volume, VolumeField

__all__ = [
    "NO_AFFINE",
    "CaseRecord",
    "CaseStatus",
    "FileStamp",
    "Finding",
    "FindingLevel",
    "canonical_axes",
    "patients_on_both_sides",
    "to_canonical",
]

T = TypeVar("T")
CaseStatus = Literal["accepted", "test", "held", "quarantined", "excluded"]
"""Fit for use; kept for testing; its geometry awaits a decision; found faulty; left out on request."""
FindingLevel = Literal["error", "geometry", "warning"]
"""Quarantines the case; holds it until the user has decided; is only told."""
Row = tuple[float, float, float, float]

NO_AFFINE: tuple[Row, Row, Row, Row] = ((0.0,) * 4, (0.0,) * 4, (0.0,) * 4, (0.0,) * 4)

# The letter of an orientation code → the world axis it lies along.
_WORLD_AXIS = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileStamp(_Model):
    """What tells a changed file from an unchanged one, and its content."""

    size: int = Field(ge=0, description="bytes")
    mtime_ns: int = Field(description="modification time, ns since 1970")
    sha256: str = Field(default="", description="of a label map's bytes; empty if it was not read to the end")
    content_hash: str = Field(
        default="", description="of the voxels, whatever the file's compression and header; empty if not known"
    )


class Finding(_Model):
    """What a check has found in one case."""

    check: str = Field(description="the check's name, as in --accept CASE:CHECK")
    level: FindingLevel
    message: str = Field(description="what was found, without a final full stop")
    remedy: str = Field(default="", description="what can be done about it")
    decided: bool = Field(default=False, description="the user has accepted it, or corrected what it complains of")


class CaseRecord(_Model):
    """One line of ``cases.jsonl``.

    Shape, spacing, affine and orientation are in stored array order and come from the image, or from the
    label map of a label-only case. Where a header could not be read they are all zeros and the orientation is
    empty: such a case is never accepted.

    Example:
        >>> record = CaseRecord(case_id="a_1", patient="a_1", image=None, label="a_1.nii", status="accepted",
        ...                     shape=(40, 30, 10), spacing=(1, 2, 5), orientation="SLP")
        >>> record.canonical_axes, record.canonical_shape, record.canonical_spacing
        ((1, 2, 0), (30, 10, 40), (2.0, 5.0, 1.0))
    """

    case_id: str
    patient: str
    image: VolumeField | None = Field(description="CT in HU; null where there is none")
    label: VolumeField = Field(description="label map; for a case without one, where it was looked for")
    status: CaseStatus
    split: str = Field(default="", description="train, test, or empty where the data set does not say")
    columns: dict[str, str] = Field(default_factory=dict, description="other columns of the manifest")
    findings: tuple[Finding, ...] = Field(default=(), description="of every check, most serious first")
    reason: str | None = Field(default=None, description="why it is not accepted")
    remedy: str | None = Field(default=None, description="what can be done about it")
    shape: IntTriple = (0, 0, 0)
    spacing: Triple = Field(default=(0.0, 0.0, 0.0), description="mm per voxel: column norms of the affine")
    given_spacing: Triple | None = Field(
        default=None, description="what --spacing CASE=… put in the place of the header's; the affine is scaled to it"
    )
    affine: tuple[Row, Row, Row, Row] = Field(default=NO_AFFINE, description="voxel index → world mm (RAS+)")
    orientation: str = Field(default="", description="where each axis points, closest: LPS, RAS …")
    labels: tuple[int, ...] = Field(default=(), description="non-zero labels in the label map, ascending")
    image_stamp: FileStamp | None = None
    label_stamp: FileStamp | None = None

    @property
    def accepted(self) -> bool:
        """Whether the case may be measured, prepared and trained on."""
        return self.status == "accepted"

    @property
    def usable(self) -> bool:
        """Whether the case is accepted, or kept for testing."""
        return self.status in ("accepted", "test")

    @property
    def affine_array(self) -> Affine:
        """Return the affine as a float64 array, shape (4, 4)."""
        return np.asarray(self.affine, dtype=np.float64)

    @property
    def volumes(self) -> tuple[Volume, ...]:
        """Image, if there is one, and label map."""
        return (self.label,) if self.image is None else (self.image, self.label)

    def required_image(self) -> Volume:
        """Return the image of a case that cannot be used without one.

        Raises:
            DataError: The case has no image.
        """
        if self.image is None:
            raise DataError(
                "has a label map but no image", case_id=self.case_id, remedy="add its CT, or exclude the case"
            )
        return self.image

    def read_image(self) -> CtImage:
        """Read the case's CT, placed by the case's own affine.

        That affine differs from the file's if the user has corrected a spacing.

        Raises:
            DataError: The case has no image, or see :func:`patchcore.volumes.volume.read_image`.
            OSError: A file cannot be opened or read.
        """
        return replace(self.required_image().image(), affine=self.affine_array, spacing=self.spacing)

    def read_label(self) -> LabelMap:
        """Read the case's label map, placed by the case's own affine.

        Raises:
            DataError: See :func:`patchcore.volumes.volume.read_label`.
            OSError: A file cannot be opened or read.
        """
        return replace(self.label.label_map(), affine=self.affine_array, spacing=self.spacing)

    def with_geometry(self, header: VolumeHeader) -> CaseRecord:
        """Return the record with shape, spacing, affine and orientation of a header."""
        update = {
            "shape": header.shape,
            "spacing": header.spacing,
            "given_spacing": None,
            "affine": tuple(tuple(float(value) for value in row) for row in header.affine),
            "orientation": header.orientation,
        }
        return self.model_copy(update=update)

    @property
    def canonical_axes(self) -> IntTriple:
        """Stored axes that lie closest to world x, y and z: the permutation into canonical order."""
        return canonical_axes(self.orientation)

    @property
    def canonical_shape(self) -> IntTriple:
        """Voxels along the closest-canonical axes."""
        return to_canonical(self.shape, self.canonical_axes)

    @property
    def canonical_spacing(self) -> Triple:
        """Spacing along the closest-canonical axes, mm."""
        return to_canonical(self.spacing, self.canonical_axes)


def canonical_axes(orientation: str) -> IntTriple:
    """Return the stored axes nearest to world x, y, z for an orientation code such as ``"LPS"``.

    An empty code (nothing known) is the identity.
    """
    if not orientation:
        return (0, 1, 2)
    world = [_WORLD_AXIS[letter] for letter in orientation]
    return (world.index(0), world.index(1), world.index(2))


def to_canonical(values: tuple[T, T, T], axes: IntTriple) -> tuple[T, T, T]:
    """Permute a per-axis triple from stored order into canonical order."""
    return (values[axes[0]], values[axes[1]], values[axes[2]])


def patients_on_both_sides(records: Iterable[CaseRecord]) -> list[str]:
    """Return, sorted, the patients who have cases to train on and cases kept for testing: a test would flatter."""
    sides: dict[str, set[str]] = {"accepted": set(), "test": set()}
    for record in records:
        if record.status in sides:
            sides[record.status].add(record.patient)
    return sorted(sides["accepted"] & sides["test"])
