"""Examines a CT in one pass: extreme values, an even sample, a hash of the voxels, HU in and around lesions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from patchcore import _core
from patchcore.lesions.measure import LesionSpans, named_errors
from patchcore.types import IntTriple, PathLike, Triple
from patchcore.volumes.types import CtExamination, HuHistogram

__all__ = ["DILATION_MM", "HIGHEST_HU", "LOWEST_HU", "examine_ct_array", "examine_ct_file"]

DILATION_MM = 10.0
"""HU are counted within this distance around a lesion, mm."""

# Scanners pad with values down to -3024; metal reaches beyond 20000 in extended-range reconstructions.
LOWEST_HU, HIGHEST_HU = -3100, 32767
"""Values below or above these limits are counted: a CT has almost none."""

_SAMPLE = 1 << 21


def examine_ct_file(path: PathLike, spans: LesionSpans | None, spacing: Triple) -> CtExamination:
    """Examine a CT in a NIfTI file, plane by plane; the file is read to its last byte.

    Args:
        path: ``.nii``, ``.nii.gz``, or the ``.hdr`` of a pair.
        spans: The lesions as spans along the first axis. None: no HU are counted.
        spacing: mm per voxel, stored axis order; used for the distance around lesions.

    Raises:
        DataError: See :func:`patchcore.volumes.volume.read_image`.
        OSError: The file cannot be opened or read.
    """
    path = Path(path)
    with named_errors(path):
        found = _core.examine_ct_file(path, **_arguments(spans, spacing))
    header = found["header"]
    return _examination(found, tuple(header["shape"]), np.dtype(header["dtype"]))


def examine_ct_array(
    array: npt.NDArray[Any],
    spans: LesionSpans | None = None,
    spacing: Triple = (1.0, 1.0, 1.0),
) -> CtExamination:
    """Examine a CT in memory.

    Args:
        array: HU, shape (i, j, k). Types other than int16 are examined as float32.
        spans: See :func:`examine_ct_file`.
        spacing: See :func:`examine_ct_file`.

    Example:
        >>> found = examine_ct_array(np.arange(-1000, 1000).reshape(10, 10, 20))
        >>> found.low, found.high, found.voxel_count
        (-1000.0, 999.0, 2000)
    """
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.asfortranarray(array, dtype=np.int16 if array.dtype == np.int16 else np.float32)
    return _examination(_core.examine_ct_array(values, **_arguments(spans, spacing)), values.shape, array.dtype)


def _arguments(spans: LesionSpans | None, spacing: Triple) -> dict[str, Any]:
    if spans is not None and len(spans.length) and spans.axis != 0:
        raise ValueError(f"spans lie along axis {spans.axis}, expected axis 0")
    return {
        "origin": np.empty((0, 3), np.int32) if spans is None else spans.origin,
        "length": np.empty(0, np.int32) if spans is None else spans.length,
        "spacing": spacing,
        "radius_mm": DILATION_MM,
        "lowest": float(LOWEST_HU),
        "highest": float(HIGHEST_HU),
        "sample": _SAMPLE,
    }


def _examination(found: dict[str, Any], shape: tuple[int, ...], stored_dtype: np.dtype[Any]) -> CtExamination:
    triple: IntTriple = (shape[0], shape[1], shape[2])
    return CtExamination(
        shape=triple,
        stored_dtype=stored_dtype,
        low=found["low"],
        high=found["high"],
        not_finite=found["not_finite"],
        below=found["below"],
        above=found["above"],
        sample=found["sample"],
        content_hash=found["hash"].hex(),
        scan_hash=f"{found['scan']:016x}-{'x'.join(map(str, sorted(triple)))}",
        within=HuHistogram(*found["within"]),
        around=HuHistogram(*found["around"]),
    )
