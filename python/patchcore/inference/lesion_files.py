"""Writes the lesions of a predicted scan as CSV and JSON."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from patchcore.files import write_atomic, write_json_atomic
from patchcore.lesions.size_bins import SIZE_BIN_NAMES, size_bin
from patchcore.lesions.table import Lesions

__all__ = ["lesion_rows", "write_lesions"]


def lesion_rows(lesions: Lesions) -> list[dict[str, Any]]:
    """Return one row per lesion, the largest first: volume, diameters, size bin, centre in world mm (RAS+).

    Example:
        >>> import numpy as np
        >>> from patchcore.lesions.measure import measure_lesions
        >>> mask = np.zeros((8, 8, 8), np.uint8)
        >>> mask[1:3, 1:3, 1:3] = 1
        >>> [row] = lesion_rows(measure_lesions(mask, spacing=(1, 1, 2)))
        >>> row["volume_mm3"], row["centroid_mm"]
        (16.0, [1.5, 1.5, 3.0])
    """
    rows = [
        {
            "lesion": 0,
            "volume_mm3": float(lesions.volume_mm3[number]),
            "equivalent_diameter_mm": float(lesions.equivalent_diameter_mm[number]),
            "longest_axial_diameter_mm": float(lesions.longest_axial_diameter_mm[number]),
            "size_bin": SIZE_BIN_NAMES[size_bin(float(lesions.volume_mm3[number]))],
            "voxel_count": int(lesions.voxel_count[number]),
            "touches_border": bool(lesions.touches_border[number]),
            "centroid_mm": lesions.centroid_mm[number].tolist(),
        }
        for number in range(len(lesions))
    ]
    rows.sort(key=lambda row: -row["volume_mm3"])
    for number, row in enumerate(rows, 1):
        row["lesion"] = number
    return rows


def write_lesions(lesions: Lesions, stem: Path) -> None:
    """Write ``STEM.csv`` and ``STEM.json``, each completely or not at all.

    Raises:
        OSError: A file cannot be written.
    """
    rows = lesion_rows(lesions)
    facts = {"schema_version": 1, "connectivity": lesions.connectivity, "min_volume_mm3": lesions.min_volume_mm3}
    write_json_atomic(stem.with_name(stem.name + ".json"), facts | {"lesions": rows})
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    plain = [
        "lesion", "volume_mm3", "equivalent_diameter_mm", "longest_axial_diameter_mm", "size_bin", "voxel_count",
        "touches_border",
    ]  # fmt: skip
    writer.writerow([*plain, "centroid_x_mm", "centroid_y_mm", "centroid_z_mm"])
    writer.writerows([*(row[name] for name in plain), *row["centroid_mm"]] for row in rows)
    write_atomic(stem.with_name(stem.name + ".csv"), out.getvalue())
