"""Check headers: plausible spacing for a CT, a consistent header, image and label map in the same position.

If image and label map have the same wrong spacing, only a plausibility check can detect it: 20 cases of LiTS (volumes
28 to 47) have an identity affine and 1 mm spacing on 512 × 512 slices.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from patchcore.affines import MAX_CORNER_SHIFT, corner_shift, spacing_of
from patchcore.datasets.checks.pair import check_pair
from patchcore.errors import DataError
from patchcore.study.cases import Finding
from patchcore.study.checks import finding, finding_of
from patchcore.types import Affine, IntTriple, Triple
from patchcore.volumes.types import VolumeHeader

__all__ = ["header_findings", "spacing_findings"]

# The two axes with the smaller spacing count as in-plane. Spacing reaches 5 mm in volumes thinned out for screening.
_IN_PLANE_MM, _SLICE_MM = (0.1, 5.0), (0.1, 15.0)
# The longest side of a crop around a small nodule is 20 mm; that of a whole-body scan is 2 m.
_SHORTEST_MM, _LONGEST_MM = 10.0, 2500.0
CT_SIZED = 256
_MAX_SHEAR_DEGREES = 0.1
_MAX_SPACING_DIFFERENCE = 1e-3


def header_findings(image: VolumeHeader | None, label: VolumeHeader, *, case_id: str) -> list[Finding]:
    """Check the headers of a case.

    Args:
        image: Header of the CT; None for a case that has only a label map.
        label: Header of the label map.
        case_id: The case; named in remedies.

    Returns:
        The findings; empty if there are none. Geometry is checked for the image if there is one, else the label map.
    """
    found: list[Finding] = []
    grid = label if image is None else image
    if image is not None:
        try:
            check_pair(image, label, case_id=case_id)
        except DataError as error:
            found.append(finding_of(error))
    found += spacing_findings(grid.shape, grid.affine)
    found += _shear(grid.affine)
    found += _raw_findings(grid)
    found += [finding("dicom-note", note) for header in (image, label) if header is not None for note in header.notes]
    if min(grid.shape) == 1:
        found.append(finding("few-slices", f"shape {grid.shape}: one axis has a single voxel"))
    return found


def spacing_findings(shape: IntTriple, affine: Affine) -> list[Finding]:
    """Check whether a grid is plausible for a CT.

    Args:
        shape: Voxels per axis.
        affine: Voxel → world mm, shape (4, 4).

    Returns:
        ``identity-affine``, ``unit-spacing``, ``spacing``, ``extent`` and ``unplaced`` findings that apply.

    Example:
        >>> [item.check for item in spacing_findings((512, 512, 75), np.eye(4))]
        ['identity-affine']
        >>> spacing_findings((512, 512, 75), np.diag([-0.7, -0.7, 5.0, 1.0]))
        []
    """
    found = []
    spacing = spacing_of(affine)
    unit = bool(np.allclose(spacing, 1.0, rtol=0, atol=1e-6))
    unmoved = bool(np.allclose(np.abs(affine), np.eye(4), rtol=0, atol=1e-6))
    if sum(count >= CT_SIZED for count in shape) >= 2 and unit:
        size = " × ".join(str(count) for count in shape)
        if unmoved:
            found.append(finding("identity-affine", f"identity affine and spacing 1 × 1 × 1 mm on {size} voxels"))
        else:
            found.append(finding("unit-spacing", f"spacing 1 × 1 × 1 mm on {size} voxels"))
    elif unmoved:
        found.append(finding("unplaced", "the affine is the identity: position and spacing were never set"))
    fine, middle, coarse = sorted(spacing)
    (low, high), (slice_low, slice_high) = _IN_PLANE_MM, _SLICE_MM
    if fine < low or middle > high or not slice_low <= coarse <= slice_high:
        found.append(
            finding(
                "spacing",
                f"spacing {_mm(spacing)}: a CT has {low:g} … {high:g} mm in-plane "
                f"and {slice_low:g} … {slice_high:g} mm between slices",
            )
        )
    sides = [count * step for count, step in zip(shape, spacing, strict=True)]
    if max(sides) < _SHORTEST_MM:
        found.append(finding("extent", f"the longest side is {max(sides):.3g} mm long, with spacing {_mm(spacing)}"))
    elif max(sides) > _LONGEST_MM:
        found.append(
            finding("extent", f"the longest side is {max(sides) / 1000:.3g} m long, with spacing {_mm(spacing)}")
        )
    return found


def _shear(affine: Affine) -> list[Finding]:
    axes = affine[:3, :3] / spacing_of(affine)
    # The cosine between two axes is the sine of their deviation from 90°.
    tilt = max(abs(float(axes[:, a] @ axes[:, b])) for a, b in combinations(range(3), 2))
    degrees = float(np.degrees(np.arcsin(min(tilt, 1.0))))
    if degrees <= _MAX_SHEAR_DEGREES:
        return []
    return [
        finding(
            "sheared-affine",
            f"the angle between two axes differs from 90° by {degrees:.2g}°, as with a tilted gantry: "
            "volumes in mm³ are correct, lengths and resampled images are not",
        )
    ]


def _raw_findings(header: VolumeHeader) -> list[Finding]:
    """Check that sform, qform and pixdim of a NIfTI header agree on spacing and position."""
    if header.pixdim is None:
        return []
    found = []
    sform, qform = header.sform, header.qform
    if sform is None and qform is None:
        if not bool(np.allclose(np.abs(header.affine), np.eye(4), rtol=0, atol=1e-6)):
            found.append(finding("unplaced", "neither sform nor qform is set: position and orientation are unknown"))
        return found
    spacings = {"pixdim": header.pixdim}
    if sform is not None:
        # A qform has no spacing of its own: it uses pixdim.
        spacings["sform"] = spacing_of(sform)
    ratio = max(_apart(spacings[a], spacings[b]) for a in spacings for b in spacings)
    if ratio > _MAX_SPACING_DIFFERENCE:
        differing = ", ".join(f"{name} {_mm(value)}" for name, value in reversed(spacings.items()))
        found.append(finding("header-spacing", f"spacings in the header differ: {differing}"))
    elif sform is not None and qform is not None:
        shift = corner_shift(sform, qform, header.shape)
        if shift > MAX_CORNER_SHIFT:
            found.append(
                finding("header-place", f"sform and qform place the volume {shift:.3g} voxels apart; the sform is used")
            )
    return found


def _apart(spacing: Sequence[float], other: Sequence[float]) -> float:
    return max(abs(a - b) / max(min(a, b), 1e-12) for a, b in zip(spacing, other, strict=True))


def _mm(spacing: Triple) -> str:
    return " × ".join(f"{value:.4g}" for value in spacing) + " mm"
