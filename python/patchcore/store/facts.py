"""Reads and writes the data beside the arrays of a store: attributes, lesions, reasons of failures."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from patchcore.errors import CorruptFileError

__all__ = [
    "read_attributes",
    "read_failed",
    "read_table",
    "write_spans",
    "write_table",
]

_TABLE = ("lesion", "voxel_count", "volume_mm3", "equivalent_diameter_mm")


def read_attributes(folder: Path) -> dict[str, Any]:
    """Return patchcore's attributes in the ``zarr.json`` of a group; empty if the file is missing or damaged."""
    try:
        found: dict[str, Any] = json.loads((folder / "zarr.json").read_bytes())["attributes"]["patchcore"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def read_failed(folder: Path) -> dict[str, str]:
    """Return case id → reason for cases that could not be prepared; empty if the file is missing or damaged."""
    try:
        found = json.loads((folder / "failed.json").read_bytes())["cases"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {str(case_id): str(reason) for case_id, reason in found.items()} if isinstance(found, dict) else {}


def read_table(path: Path) -> npt.NDArray[np.int32]:
    """Read spans, int32 (spans, 5).

    Raises:
        CorruptFileError: The file is damaged, or does not contain spans.
        OSError: The file cannot be read.
    """
    try:
        table: npt.NDArray[np.int32] = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise CorruptFileError(f"{error}", path=path) from None
    if table.dtype != np.int32 or table.ndim != 2 or table.shape[1] != 5:
        raise CorruptFileError(f"table of {table.dtype} {table.shape} is not int32 (spans, 5)", path=path)
    return table


def write_table(path: Path, table: npt.NDArray[np.int32]) -> None:
    """Write spans, int32 (spans, 5), and sync the file to disk."""
    with path.open("wb") as handle:
        np.save(handle, table, allow_pickle=False)
        handle.flush()
        os.fsync(handle.fileno())


def write_spans(
    folder: Path, table: npt.NDArray[np.int32], voxels: npt.NDArray[np.int64], axis: int, voxel_mm3: float
) -> None:
    """Write the lesions of a case to ``spans.npy`` and ``lesions.csv``.

    Args:
        folder: Folder of the case.
        table: The spans, int32 (spans, 5): lesion, origin x y z, length; sorted by lesion.
        voxels: Number of voxels of each lesion.
        axis: The axis along which the spans lie.
        voxel_mm3: Volume of a voxel [mm³].
    """
    write_table(folder / "spans.npy", table)
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    names = [f"{name}_{letter}" for name in ("bbox_start", "bbox_stop", "centroid_voxel") for letter in "xyz"]
    writer.writerow([*_TABLE, *names])
    starts = np.searchsorted(table[:, 0], np.arange(len(voxels)))
    stops = np.append(starts[1:], len(table)) if len(voxels) else starts
    for lesion, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        origin, length = table[start:stop, 1:4].astype(np.int64), table[start:stop, 4].astype(np.int64)
        last = origin.copy()
        last[:, axis] += length - 1
        centroid = ((origin + last) / 2 * length[:, None]).sum(axis=0) / length.sum()
        volume = int(voxels[lesion]) * voxel_mm3
        diameter = (6 * volume / math.pi) ** (1 / 3)
        box = [*origin.min(axis=0).tolist(), *(last.max(axis=0) + 1).tolist(), *centroid.round(3).tolist()]
        writer.writerow([lesion, int(voxels[lesion]), round(volume, 6), round(diameter, 6), *box])
    with (folder / "lesions.csv").open("w", encoding="utf-8") as text:
        text.write(rows.getvalue())
        text.flush()
        os.fsync(text.fileno())
