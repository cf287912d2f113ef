"""The table of lesions: one row per lesion, as columns of NumPy arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from patchcore.affines import spacing_of
from patchcore.types import Affine, BoolArray, Float64Array, Int64Array, IntTriple, Triple

__all__ = ["LESION_COLUMNS", "Lesions", "join_lesions", "lesions_from_json", "lesions_to_json", "no_lesions"]


@dataclass(frozen=True, eq=False)
class Lesions:
    """One row per lesion, ordered by smallest C-order voxel index; axes are the array's axes (i, j, k).

    Attributes:
        label: Label of each lesion, shape (N,).
        voxel_count: Number of voxels, shape (N,).
        volume_mm3: Number of voxels times the volume of one voxel, shape (N,).
        bbox_start: First voxel index of the bounding box, shape (N, 3).
        bbox_stop: One past the last voxel index of the bounding box, shape (N, 3).
        centroid_voxel: Mean voxel index, shape (N, 3).
        centroid_mm: Mean world position (RAS+), shape (N, 3).
        extent_mm: Edge length of the bounding box (whole voxels) along each array axis, shape (N, 3).
        equivalent_diameter_mm: Diameter of a ball with the same volume, shape (N,).
        longest_axial_diameter_mm: Largest distance between voxel centres within one axial slice, shape (N,).
        touches_border: Whether a voxel lies at the border of the array, shape (N,).
        shape: Number of voxels of the label map along each axis.
        spacing: mm per voxel along each axis.
        affine: Voxel index → world mm, shape (4, 4).
        connectivity: 6, 18 or 26.
        min_volume_mm3: Components smaller than this were dropped.
        speck_count: Number of dropped components.
        speck_voxel_count: Number of voxels of the dropped components.
        rounded: Whether a label was not exactly an integer and was rounded, by at most 0.001.
    """

    label: Int64Array
    voxel_count: Int64Array
    volume_mm3: Float64Array
    bbox_start: Int64Array
    bbox_stop: Int64Array
    centroid_voxel: Float64Array
    centroid_mm: Float64Array
    extent_mm: Float64Array
    equivalent_diameter_mm: Float64Array
    longest_axial_diameter_mm: Float64Array
    touches_border: BoolArray
    shape: IntTriple
    spacing: Triple
    affine: Affine
    connectivity: int
    min_volume_mm3: float
    speck_count: int
    speck_voxel_count: int
    rounded: bool = False

    def __len__(self) -> int:
        return len(self.label)

    def rows(self, chosen: BoolArray | Int64Array) -> Lesions:
        """Return the chosen lesions.

        Args:
            chosen: A mask, shape (N,), or indices, shape (M,).
        """
        columns: dict[str, Any] = {name: getattr(self, name)[chosen] for name in LESION_COLUMNS}
        return replace(self, **columns)

    def __repr__(self) -> str:
        total = float(self.volume_mm3.sum()) / 1000
        return f"Lesions({len(self)} lesions, {total:.3g} mL, connectivity={self.connectivity})"


LESION_COLUMNS = (
    "label", "voxel_count", "volume_mm3", "equivalent_diameter_mm", "longest_axial_diameter_mm", "extent_mm",
    "centroid_voxel", "centroid_mm", "touches_border", "bbox_start", "bbox_stop",
)  # fmt: skip
"""Attributes of :class:`Lesions` with one entry per lesion."""


def join_lesions(parts: Sequence[Lesions]) -> Lesions:
    """Join several tables of lesions on the same grid, in the order of the tables.

    Args:
        parts: At least one table; shape, affine, connectivity and minimum volume are taken from the first.
    """
    columns: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in LESION_COLUMNS}
    return replace(
        parts[0],
        **columns,
        speck_count=sum(part.speck_count for part in parts),
        speck_voxel_count=sum(part.speck_voxel_count for part in parts),
    )


def no_lesions(
    shape: IntTriple = (0, 0, 0), affine: Affine | None = None, *, connectivity: int = 26, min_volume_mm3: float = 0.0
) -> Lesions:
    """Return a table without lesions."""
    matrix = np.eye(4) if affine is None else affine
    columns: dict[str, Any] = {
        name: np.zeros((0, 3) if name in _TRIPLES else 0, dtype=_COLUMN_DTYPES.get(name, np.float64))
        for name in LESION_COLUMNS
    }
    return Lesions(
        **columns,
        shape=shape,
        spacing=spacing_of(matrix),
        affine=matrix,
        connectivity=connectivity,
        min_volume_mm3=min_volume_mm3,
        speck_count=0,
        speck_voxel_count=0,
    )


_TRIPLES = frozenset({"extent_mm", "centroid_voxel", "centroid_mm", "bbox_start", "bbox_stop"})


_COLUMN_DTYPES: dict[str, type[np.generic]] = {
    "label": np.int64,
    "voxel_count": np.int64,
    "bbox_start": np.int64,
    "bbox_stop": np.int64,
    "touches_border": np.bool_,
}


def lesions_to_json(lesions: Lesions) -> dict[str, list[Any]]:
    """Return the columns of a table as nested lists."""
    return {name: getattr(lesions, name).tolist() for name in LESION_COLUMNS}


def lesions_from_json(columns: Mapping[str, Sequence[Any]], like: Lesions) -> Lesions:
    """Return the table of lesions from the lists of :func:`lesions_to_json`.

    Args:
        columns: One nested list per column.
        like: Table from which grid, connectivity, minimum volume and specks are copied.

    Raises:
        KeyError: A column is missing.
        ValueError: The entries of a column have the wrong type or the wrong number.
    """
    count = len(columns["label"])
    arrays: dict[str, Any] = {}
    for name in LESION_COLUMNS:
        shape = (count, 3) if name in _TRIPLES else (count,)
        arrays[name] = np.asarray(columns[name], dtype=_COLUMN_DTYPES.get(name, np.float64)).reshape(shape)
    return replace(like, **arrays)
