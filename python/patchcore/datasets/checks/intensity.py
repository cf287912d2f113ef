"""Checks of a CT's values: are they Hounsfield units.

Tolerant on purpose: crops without air, padding below −1024 HU, metal, clipped ranges pass as errors go. Extremes are
taken over all voxels, shares over an even sample of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from patchcore.study.cases import Finding
from patchcore.study.checks import finding
from patchcore.types import Float64Array

__all__ = ["image_findings"]

_SAMPLE = 1 << 21
_CT_SIZED = 256
# Scanners pad with values down to -3024; metal reaches beyond 20000 in extended-range reconstructions.
_LOWEST_HU, _HIGHEST_HU = -3100, 32767
_OUTLIER_SHARE = 0.01
# Soft tissue lies at -150 to 250 HU; where the intercept of -1024 was forgotten, that much higher.
_SHIFTED_TISSUE = (850.0, 1350.0)
# Air is the lowest that a CT measures; what lies lower is padding (one or two values) or wrongly scaled.
_BELOW_AIR = -1300.0
_BELOW_AIR_SHARE = 0.05


def image_findings(
    array: npt.NDArray[Any], *, case_id: str = "", stored_dtype: np.dtype[Any] | None = None
) -> list[Finding]:
    """Check that an image holds plausible Hounsfield units.

    Args:
        array: Voxels in HU, shape (i, j, k), any real dtype.
        case_id: Named in remedies.
        stored_dtype: The type in the file, where it differs from the array's.

    Returns:
        At most one of the ``hu-…`` and ``not-ct`` findings; empty for a CT.

    Example:
        >>> image_findings(np.arange(-1000, 1000).reshape(10, 10, 20))
        []
        >>> image_findings(np.linspace(0, 1, 200).reshape(10, 10, 2))[0].check
        'hu-normalised'
    """
    found = _find(array, array.dtype if stored_dtype is None else stored_dtype)
    if found is None:
        return []
    check, message = found
    result = finding(check, message)
    if result.level == "error" and case_id:
        result = result.model_copy(update={"remedy": f"{result.remedy}, or exclude the case with --exclude {case_id}"})
    return [result]


def _find(array: npt.NDArray[Any], dtype: np.dtype[Any]) -> tuple[str, str] | None:
    low, high = float(array.min()), float(array.max())
    span = f"values lie in {low:g} … {high:g}"
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = int(array.size - np.isfinite(array).sum())
        return "hu-not-finite", f"{bad} voxel{' is' if bad == 1 else 's are'} NaN or infinite"
    if low == high:
        return "hu-constant", f"all voxels have the value {low:g}"
    if dtype.itemsize == 1 or (low == 0 and high == 255):
        return "hu-8-bit", f"{span}, as in an 8-bit picture"
    sample = _sample(array)
    fractional = bool((sample != np.rint(sample)).any())
    if (low >= -1 and high <= 1) or (fractional and high - low < 30):
        return "hu-normalised", f"{span}, as in a normalised image"
    if not fractional and low >= 0 and high - low < 30:
        return "not-ct", f"{span}, as in a label map"
    return _scale(array, sample, low, high)


def _scale(array: npt.NDArray[Any], sample: Float64Array, low: float, high: float) -> tuple[str, str] | None:
    """Tell shifted and scaled HU from true ones."""
    span = f"values lie in {low:g} … {high:g}"
    outliers = 0
    if low < _LOWEST_HU:
        outliers += int(np.count_nonzero(array < _LOWEST_HU))
    if high > _HIGHEST_HU:
        outliers += int(np.count_nonzero(array > _HIGHEST_HU))
    if outliers > _OUTLIER_SHARE * array.size:
        share = outliers / array.size
        return "hu-scale", f"{share:.0%} of the voxels lie beyond {_LOWEST_HU} … {_HIGHEST_HU} HU"
    shifted = _shifted(sample, low, high)
    if shifted is not None:
        return "hu-offset", shifted
    if low >= 0 and high - low > 500:
        return "not-ct", f"{span}: a CT has air or fat below 0 HU"
    below = sample[sample < _BELOW_AIR]
    if below.size > _BELOW_AIR_SHARE * sample.size:
        _, counts = np.unique(np.rint(below), return_counts=True)
        spread = below.size - int(np.sort(counts)[-2:].sum())
        if spread > _BELOW_AIR_SHARE * sample.size:
            return "hu-scale", f"{spread / sample.size:.0%} of the voxels lie below air, and are no padding"
    if low > -500 and sum(count >= _CT_SIZED for count in array.shape) >= 2:
        return "hu-no-air", f"{span}: whole slices of a CT have air at -1000 HU"
    return None


def _shifted(sample: Float64Array, low: float, high: float) -> str | None:
    """Say how HU are shifted by 1024, None where they are not."""
    if low < -1500 and float(np.percentile(sample, 99.5)) < -500:
        return "hardly a voxel lies above -500 HU, air lies near -2048: 1024 was subtracted twice; add 1024"
    # Padding may be negative while all that was measured is not.
    measured = sample[sample > -1100]
    if high < 900 or measured.size == 0 or np.count_nonzero(measured < -50) > 0.001 * measured.size:
        return None
    solid = measured[(measured > 300) & (measured < 3000)]
    if solid.size < 0.02 * measured.size:
        return None
    counts, edges = np.histogram(solid, bins=54, range=(300, 3000))
    mode = float(edges[int(counts.argmax())]) + 25
    if not _SHIFTED_TISSUE[0] <= mode <= _SHIFTED_TISSUE[1]:
        return None
    return f"nothing measured lies below 0 and soft tissue near {mode:.0f}: the intercept -1024 is missing"


def _sample(array: npt.NDArray[Any]) -> Float64Array:
    """Return evenly drawn voxels, at most some two million, without a copy of the whole."""
    flat = array.reshape(-1, order="F") if array.flags.f_contiguous else array.reshape(-1)
    step = max(1, flat.size // _SAMPLE)
    # An odd step meets every row, whatever its length.
    return flat[:: step | 1].astype(np.float64)
