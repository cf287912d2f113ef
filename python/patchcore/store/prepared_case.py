"""A prepared case in the store: its geometry, its lesions and its voxels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from patchcore.affines import voxel_volume_mm3
from patchcore.errors import CorruptFileError, DataError
from patchcore.lesions.measure import LesionSpans
from patchcore.store import StoredArray
from patchcore.store.facts import read_attributes, read_table
from patchcore.types import Affine, IntTriple, Triple

__all__ = ["PreparedCase"]


@dataclass(frozen=True)
class PreparedCase:
    """A case on the training grid.

    Attributes:
        case_id: Id of the case.
        patient: Id of the patient.
        path: Folder of the case in the store.
        shape: Size [voxels], canonical axes.
        spacing: mm per voxel, canonical axes.
        class_voxels: Number of voxels of each class, without background.
        lesion_voxels: Number of voxels of each lesion, in the order of the spans.
        span_axis: The axis along which the spans lie.
        kept_lesions: Number of lesions that resampling would have removed and that were kept as one voxel.
        crop_start: Index of the first kept voxel in the whole training grid.
        cropped: Whether only a part of the training grid was kept.
        cut_lesions: Number of lesions that are not completely inside the kept part.
        affine: Voxel index → world mm (RAS+), float64 (4, 4).
        version: Names this preparation of the case. Arrays and spans of another preparation are refused.
    """

    case_id: str
    patient: str
    path: Path
    shape: IntTriple
    spacing: Triple
    class_voxels: tuple[int, ...]
    lesion_voxels: tuple[int, ...]
    span_axis: int
    kept_lesions: int = 0
    crop_start: IntTriple = (0, 0, 0)
    cropped: bool = False
    cut_lesions: int = 0
    affine: Affine = field(default_factory=lambda: np.eye(4), compare=False)
    version: str = field(default="", compare=False)

    def __getstate__(self) -> dict[str, Any]:
        # Arrays are opened again where the case is used, and their version is checked again.
        opened = ("image_array", "label_array")
        return {name: value for name, value in self.__dict__.items() if name not in opened}

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel [mm³]; of a sheared grid, less than the product of the spacings."""
        return voxel_volume_mm3(self.affine)

    @property
    def image_bytes(self) -> int:
        """Memory of image and label together [bytes]."""
        return 3 * self.shape[0] * self.shape[1] * self.shape[2]

    @cached_property
    def image_array(self) -> StoredArray:
        """The CT, open for windows: int16 HU of shape `shape`."""
        return self._open("image", np.int16)

    @cached_property
    def label_array(self) -> StoredArray:
        """The class indices, open for windows: uint8 of shape `shape`."""
        return self._open("label", np.uint8)

    def image(self) -> npt.NDArray[np.int16]:
        """Read the CT: int16 HU of shape `shape`."""
        with self._case_named():
            return self.image_array.read()

    def label(self) -> npt.NDArray[np.uint8]:
        """Read the class indices: uint8 of shape `shape`."""
        with self._case_named():
            return self.label_array.read()

    def spans(self) -> LesionSpans:
        """Read the lesions as spans on the training grid."""
        table = self._table("spans.npy")
        return LesionSpans(
            lesion=table[:, 0],
            origin=table[:, 1:4],
            length=table[:, 4],
            axis=self.span_axis,
            voxel_count=np.asarray(self.lesion_voxels, dtype=np.int64),
        )

    def class_spans(self, class_index: int) -> LesionSpans:
        """Read all voxels of another class than the lesion class, e.g. an organ, as spans with the number 0."""
        table = self._table("class_spans.npy")
        table = table[table[:, 0] == class_index]
        return LesionSpans(
            lesion=np.zeros(len(table), np.int32),
            origin=table[:, 1:4],
            length=table[:, 4],
            axis=self.span_axis,
            voxel_count=np.asarray([int(table[:, 4].sum())] if len(table) else [], dtype=np.int64),
        )

    def _table(self, name: str) -> npt.NDArray[np.int32]:
        path = self.path / name
        try:
            table = read_table(path)
        except CorruptFileError as error:
            raise self.damaged(path, error.message) from None
        except FileNotFoundError as error:
            raise self.damaged(path, error) from None
        self._check_version()
        return table

    def _check_version(self) -> None:
        """Compare the version in the folder with this one. Call it after a file was opened by its path."""
        found = read_attributes(self.path).get("version", "")
        if found != self.version:
            raise CorruptFileError(
                "the case was prepared again, or deleted, while it was in use",
                case_id=self.case_id,
                path=self.path,
                found=found,
                expected=self.version,
                remedy="run the command again: it then uses the new version of the case",
            )

    def _open(self, name: str, dtype: Any) -> StoredArray:
        try:
            array = StoredArray(self.path / name)
        except (DataError, FileNotFoundError) as error:
            raise self.damaged(self.path / name, error) from None
        if array.dtype != dtype or array.shape != self.shape:
            raise self.damaged(
                self.path / name, f"{array.dtype} {array.shape}, expected {np.dtype(dtype)} {self.shape}"
            )
        if lack := array.missing():
            raise self.damaged(self.path / name, lack)
        self._check_version()
        return array

    @contextmanager
    def _case_named(self) -> Iterator[None]:
        try:
            yield
        except CorruptFileError as error:
            if error.case_id is not None:
                raise
            raise self.damaged(self.path, error.message) from None

    def damaged(self, path: Path, found: object) -> CorruptFileError:
        """Return an error for a damaged file of this case, with the remedy."""
        return CorruptFileError(
            f"damaged store ({found})",
            case_id=self.case_id,
            path=path,
            remedy=f"delete {self.path}; the next prepare, train or evaluate creates it again",
        )
