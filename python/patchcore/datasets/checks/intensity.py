"""Check that the values of a CT are Hounsfield units.

The checks are tolerant on purpose: crops without air, padding below −1024 HU, metal and clipped ranges are not errors.
Extreme values come from all voxels, shares from an evenly spaced sample of voxels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from patchcore.datasets.checks.geometry import CT_SIZED
from patchcore.study.cases import Finding
from patchcore.study.checks import finding
from patchcore.volumes.ct import HIGHEST_HU, LOWEST_HU
from patchcore.volumes.types import CtExamination

__all__ = ["image_findings"]

_OUTLIER_SHARE = 0.01
# Soft tissue lies at -150 to 250 HU; without the intercept of -1024, it lies 1024 higher.
_SHIFTED_TISSUE = (850.0, 1350.0)
# Only a scale factor and an intercept take 8-bit values this far below 0: the values are HU in coarse steps.
_SCALED_BELOW = -200.0
# Air is the lowest value that a CT measures; lower values are padding (one or two values) or wrongly scaled.
_BELOW_AIR = -1300.0
_BELOW_AIR_SHARE = 0.05


def image_findings(image: CtExamination) -> list[Finding]:
    """Check that an image holds plausible Hounsfield units.

    Args:
        image: Result of one pass over the voxels of the image.

    Returns:
        At most one of the ``hu-…`` and ``not-ct`` findings; empty for a CT.

    Example:
        >>> from patchcore.volumes.ct import examine_ct_array
        >>> image_findings(examine_ct_array(np.arange(-1000, 1000).reshape(10, 10, 20)))
        []
        >>> image_findings(examine_ct_array(np.linspace(0, 1, 200).reshape(10, 10, 2)))[0].check
        'hu-normalised'
    """
    found = _find(image)
    if found is None:
        return []
    check, message = found
    return [finding(check, message)]


def _find(image: CtExamination) -> tuple[str, str] | None:
    low, high, sample = image.low, image.high, image.sample
    span = f"values lie in {low:g} … {high:g}"
    if image.not_finite:
        bad = image.not_finite
        return "hu-not-finite", f"{bad} voxel{' is' if bad == 1 else 's are'} NaN or infinite"
    if low == high:
        return "hu-constant", f"all voxels have the value {low:g}"
    eight_bit = image.stored_dtype.itemsize == 1
    if (eight_bit and low > _SCALED_BELOW) or (low == 0 and high == 255):
        return "hu-8-bit", f"{span}, as in an 8-bit picture"
    fractional = sample.dtype.kind == "f" and bool((sample != np.rint(sample)).any())
    if (low >= -1 and high <= 1) or (fractional and high - low < 30):
        return "hu-normalised", f"{span}, as in a normalised image"
    if not fractional and low >= 0 and high - low < 30:
        return "not-ct", f"{span}, as in a label map"
    found = _scale(image)
    if found is None and eight_bit:
        steps = np.diff(np.unique(sample))
        step = float(steps.min()) if len(steps) else high - low
        return "hu-coarse", f"{span} in steps of {step:.3g} HU: the CT is stored with 8 bits"
    return found


def _scale(image: CtExamination) -> tuple[str, str] | None:
    """Detect HU that are shifted or scaled."""
    low, high, sample = image.low, image.high, image.sample
    span = f"values lie in {low:g} … {high:g}"
    outliers = image.below + image.above
    if outliers > _OUTLIER_SHARE * image.voxel_count:
        share = outliers / image.voxel_count
        return "hu-scale", f"{share:.0%} of the voxels lie outside {LOWEST_HU} … {HIGHEST_HU} HU"
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
            return "hu-scale", f"{spread / sample.size:.0%} of the voxels lie below air and are not padding"
    if low > -500 and sum(count >= CT_SIZED for count in image.shape) >= 2:
        return "hu-no-air", f"{span}: whole slices of a CT have air at -1000 HU"
    return None


def _shifted(sample: npt.NDArray[Any], low: float, high: float) -> str | None:
    """Describe how HU are shifted by 1024; None if they are not shifted."""
    if low < -1500 and float(np.percentile(sample, 99.5)) < -500:
        return "almost no voxel lies above -500 HU and air lies near -2048 HU: 1024 was subtracted twice; add 1024"
    # Padding may be negative although all measured values are positive.
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
    return f"no measured value lies below 0 and soft tissue lies near {mode:.0f}: the intercept -1024 is missing"
