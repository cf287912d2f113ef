"""Reads hard points: places that windows are drawn around more often, e.g. false positives of an earlier run."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from patchcore.errors import DataError
from patchcore.store.prepare import PreparedCase
from patchcore.types import PathLike
from patchcore.windows.sampling import HardPoints

__all__ = ["read_hard_points"]

_HARD_COLUMNS = ("case_id", "x_mm", "y_mm", "z_mm", "weight")


def read_hard_points(path: PathLike, cases: Sequence[PreparedCase]) -> HardPoints:
    """Read hard points, which are sampled more often, from a CSV: case_id, x_mm, y_mm, z_mm (world, RAS+), weight.

    Rows of other cases are skipped, for example cases of the validation fold; so are points outside the kept part of a
    cropped case.

    Args:
        path: The CSV file.
        cases: The sampler's cases.

    Raises:
        DataError: A column is missing, a value is not a number, a point is outside its case, or no row lies in a
            training case.
        OSError: The file cannot be read.
    """
    path = Path(path)
    by_id = {case.case_id: number for number, case in enumerate(cases)}
    rows: list[tuple[int, list[int], float]] = []
    matched = 0
    with path.open(newline="", encoding="utf-8-sig") as handle:
        reader = csv.DictReader(handle)
        missing = [name for name in _HARD_COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise DataError(f"missing columns: {', '.join(missing)}", path=path, expected=_HARD_COLUMNS)
        for line, row in enumerate(reader, 2):
            number = by_id.get(row["case_id"])
            if number is None:
                continue
            try:
                place = np.asarray([float(row[name]) for name in _HARD_COLUMNS[1:4]])
                weight = float(row["weight"])
            except (TypeError, ValueError):
                raise DataError(f"line {line}: coordinates and weight must be numbers", path=path, found=row) from None
            matched += 1
            case = cases[number]
            voxel = np.rint(np.linalg.solve(case.affine[:3, :3], place - case.affine[:3, 3]))
            if not (np.isfinite(voxel).all() and (voxel >= 0).all() and (voxel < case.shape).all()):
                if case.cropped and np.isfinite(voxel).all():
                    continue
                raise DataError(
                    f"line {line}: {tuple(place)} mm is outside its case",
                    case_id=case.case_id,
                    path=path,
                    remedy="give world coordinates in mm, RAS+ as in NIfTI",
                )
            rows.append((number, [int(n) for n in voxel], weight))
    if not rows and matched:
        raise DataError(
            f"all {matched} points lie outside the parts of the cases that were kept",
            path=path,
            remedy="prepare the store with a larger --crop-margin, or give other points",
        )
    if not rows:
        raise DataError("contains no training case", path=path, remedy="check the case_id column")
    return HardPoints(
        case=np.asarray([number for number, _, _ in rows]),
        voxel=np.asarray([voxel for _, voxel, _ in rows]),
        weight=np.asarray([weight for _, _, weight in rows]),
    )
