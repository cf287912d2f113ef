"""Record of one case in a study: its files, header values, findings and status."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from patchcore.errors import DataError
from patchcore.lesions.measure import LesionSpans, lesion_spans
from patchcore.types import Affine, AnyArray, IntTriple, Triple
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
    "relabelled",
    "to_canonical",
]

T = TypeVar("T")


def relabelled(array: AnyArray, pairs: Sequence[tuple[int, int]]) -> AnyArray:
    """Return a label map with labels renamed, in the same memory order; without pairs, the array itself.

    Args:
        array: Integer labels, shape (i, j, k).
        pairs: Stored label, label to use. All pairs apply at once.

    Example:
        >>> relabelled(np.array([[[1, 2, 3, 255]]], np.uint8), [(3, 2), (255, 1)]).tolist()
        [[[1, 2, 2, 1]]]
    """
    if not pairs:
        return array
    renamed = array.copy(order="K")
    for stored, used in pairs:
        renamed[array == stored] = used
    return renamed


CaseStatus = Literal["accepted", "test", "held", "quarantined", "excluded"]
"""Used for training; kept for testing; geometry must be corrected or accepted; faulty; excluded by the user."""
FindingLevel = Literal["error", "geometry", "warning"]
"""Quarantines the case; holds the case until the user corrects or accepts the geometry; is only reported."""
Row = tuple[float, float, float, float]

NO_AFFINE: tuple[Row, Row, Row, Row] = ((0.0,) * 4, (0.0,) * 4, (0.0,) * 4, (0.0,) * 4)

# Letter of an orientation code → index of the world axis.
_WORLD_AXIS = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileStamp(_Model):
    """Values that show whether a file or its content has changed."""

    size: int = Field(ge=0, description="bytes")
    mtime_ns: int = Field(description="modification time, ns since 1970")
    parts: str = Field(default="", description="hash of sizes and times, for a volume of several files")
    sha256: str = Field(default="", description="hash of the bytes of a label map; empty if it was not read to the end")
    content_hash: str = Field(
        default="", description="hash of the voxels, independent of compression and header; empty if not known"
    )
    scan_hash: str = Field(
        default="", description="hash of an image's HU in any order: recognises a scan in any orientation and file type"
    )

    def same_files(self, other: FileStamp) -> bool:
        """Return whether the files are unchanged; the content is not compared."""
        return (self.size, self.mtime_ns, self.parts) == (other.size, other.mtime_ns, other.parts)

    @model_validator(mode="before")
    @classmethod
    def _without_old_hash(cls, data: Any) -> Any:
        """Drop the hash of older studies: it was computed differently, so it cannot be compared."""
        return {k: v for k, v in data.items() if k != "content_sha256"} if isinstance(data, dict) else data


class Finding(_Model):
    """One problem that a check found in a case."""

    check: str = Field(description="name of the check, as in --accept CASE:CHECK")
    level: FindingLevel
    message: str = Field(description="what was found, without a final full stop")
    remedy: str = Field(default="", description="what can be done about it")
    decided: bool = Field(default=False, description="the user has accepted or corrected this finding")
    label: int | None = Field(default=None, description="label that it concerns; null: the whole case")


class CaseRecord(_Model):
    """One line of ``cases.jsonl``.

    Shape, spacing, affine and orientation are in stored array order. They come from the image, or from the label map
    of a label-only case. If the header cannot be read, the numbers are zero and the orientation is empty; such a case
    is never accepted.

    Example:
        >>> record = CaseRecord(case_id="a_1", patient="a_1", image=None, label="a_1.nii", status="accepted",
        ...                     shape=(40, 30, 10), spacing=(1, 2, 5), orientation="SLP")
        >>> record.canonical_axes, record.canonical_shape, record.canonical_spacing
        ((1, 2, 0), (30, 10, 40), (2.0, 5.0, 1.0))
    """

    case_id: str
    patient: str
    image: VolumeField | None = Field(description="CT in HU; null if there is no image")
    label: VolumeField = Field(description="label map; for a case without a label map, the expected path")
    status: CaseStatus
    split: str = Field(
        default="", description="train, validation or test; empty if the data set does not specify it; test: kept out"
    )
    columns: dict[str, str] = Field(default_factory=dict, description="other columns of the manifest")
    findings: tuple[Finding, ...] = Field(default=(), description="findings of all checks, most serious first")
    reason: str | None = Field(default=None, description="why the case is not accepted")
    remedy: str | None = Field(default=None, description="how to make the case usable")
    shape: IntTriple = (0, 0, 0)
    spacing: Triple = Field(default=(0.0, 0.0, 0.0), description="mm per voxel: column norms of the affine")
    given_spacing: Triple | None = Field(
        default=None, description="spacing from --spacing CASE=… that replaces the header's; the affine is scaled to it"
    )
    affine: tuple[Row, Row, Row, Row] = Field(default=NO_AFFINE, description="voxel index → world mm (RAS+)")
    orientation: str = Field(default="", description="closest direction of each axis: LPS, RAS …")
    labels: tuple[int, ...] = Field(default=(), description="non-zero labels in the label map, ascending")
    relabel: tuple[tuple[int, int], ...] = Field(
        default=(), description="labels that are read as another label: stored label, label used"
    )
    instances: bool = Field(default=False, description="whether each stored label is one lesion (--instances)")
    ignore_label: int | None = Field(
        default=None, description="label whose voxels count in no measure, no loss and no metric; null if there is none"
    )
    declared: tuple[int, ...] = Field(default=(), description="labels that the data set declared when it was measured")
    label_rule: str = Field(default="", description="how labels were read: merged, instances; empty: as stored")
    image_stamp: FileStamp | None = None
    label_stamp: FileStamp | None = None

    @property
    def accepted(self) -> bool:
        """Whether the case may be measured, prepared and trained on."""
        return self.status == "accepted"

    @property
    def usable(self) -> bool:
        """Whether the case is accepted or kept for testing."""
        return self.status in ("accepted", "test")

    @property
    def affine_array(self) -> Affine:
        """Return the affine as a float64 array, shape (4, 4)."""
        return np.asarray(self.affine, dtype=np.float64)

    @property
    def volumes(self) -> tuple[Volume, ...]:
        """Image (if there is one) and label map."""
        return (self.label,) if self.image is None else (self.image, self.label)

    def required_image(self) -> Volume:
        """Return the image, for callers that need one.

        Raises:
            DataError: The case has no image.
        """
        if self.image is None:
            raise DataError(
                "has a label map but no image", case_id=self.case_id, remedy="add its CT, or exclude the case"
            )
        return self.image

    def sources(self) -> dict[str, Any]:
        """Return what decides the voxels of the case, as JSON values; results of other values are outdated.

        These are size and time of each file, the affine (a corrected spacing changes the case but not its files), and
        the renamed labels.

        Raises:
            OSError: A file is missing.
        """
        stats = [path.stat() for volume in self.volumes for path in volume.files()]
        return {
            "sources": [[stat.st_size, stat.st_mtime_ns] for stat in stats],
            "affine": [list(row) for row in self.affine],
            "relabel": [list(pair) for pair in self.relabel],
        }

    def read_image(self) -> CtImage:
        """Read the CT of the case, with the affine of the case.

        This affine differs from that of the file if the user has corrected the spacing.

        Raises:
            DataError: The case has no image. For other reasons see :func:`patchcore.volumes.volume.read_image`.
            OSError: A file cannot be opened or read.
        """
        return replace(self.required_image().image(), affine=self.affine_array, spacing=self.spacing)

    def read_label(self) -> LabelMap:
        """Read the label map of the case, with the affine of the case and its labels renamed by `relabel`.

        Raises:
            DataError: See :func:`patchcore.volumes.volume.read_label`.
            OSError: A file cannot be opened or read.
        """
        stored = self.label.label_map()
        array = relabelled(stored.array, self.relabel)
        return replace(stored, array=array, affine=self.affine_array, spacing=self.spacing)

    @property
    def is_label_streamed(self) -> bool:
        """Whether the Rust core can read the label map from its file; if not, the whole map is read first."""
        return self.label.is_streamed and not self.relabel

    def label_spans(self, label: int, *, connectivity: int) -> LesionSpans:
        """Return the voxels of the lesions of a label as spans.

        Raises:
            DataError: See :func:`patchcore.volumes.volume.read_label`.
            OSError: A file cannot be opened or read.
        """
        if self.instances:
            stored = sorted({1, *(label for label, _ in self.relabel)} - {self.ignore_label})
            return lesion_spans(self.label.path, labels=stored, connectivity=connectivity, instances=True)
        if self.relabel:
            return lesion_spans(self.read_label().array, labels=[label], connectivity=connectivity)
        return self.label.spans(label, connectivity=connectivity)

    def with_geometry(self, header: VolumeHeader) -> CaseRecord:
        """Return the record with the shape, spacing, affine and orientation of a header."""
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
        """Stored axes closest to world x, y and z: the permutation into canonical order."""
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
    """Return the stored axes closest to world x, y, z for an orientation code such as ``"LPS"``.

    An empty code (unknown orientation) gives the identity.
    """
    if not orientation:
        return (0, 1, 2)
    world = [_WORLD_AXIS[letter] for letter in orientation]
    return (world.index(0), world.index(1), world.index(2))


def to_canonical(values: tuple[T, T, T], axes: IntTriple) -> tuple[T, T, T]:
    """Permute a per-axis triple from stored order into canonical order."""
    return (values[axes[0]], values[axes[1]], values[axes[2]])


def patients_on_both_sides(records: Iterable[CaseRecord]) -> list[str]:
    """Return, sorted, the patients with both training and test cases. They make test results too optimistic."""
    sides: dict[str, set[str]] = {"accepted": set(), "test": set()}
    for record in records:
        if record.status in sides:
            sides[record.status].add(record.patient)
    return sorted(sides["accepted"] & sides["test"])
