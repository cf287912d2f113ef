"""Legal patch sizes of a UNETR, and the up-sampling factors of each. Needs neither torch nor NumPy.

Four stages up-sample by 1, 2, 3 or 4 each, so a patch edge must be a product of four such factors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

from patchcore.errors import PatchSizeError, WindowError
from patchcore.types import IntTriple

__all__ = [
    "SHORT_AXIS",
    "STAGES",
    "Tokenizer",
    "axis_factors",
    "fitting_edge",
    "legal_patch_sizes",
    "patch_triple",
    "size_text",
    "stage_strides",
    "upsampling_factors",
    "window_triple",
]

Tokenizer: TypeAlias = Literal["linear", "residual", "pyramid"]
"""How a patch becomes a token: by one convolution, or by stages. A ``pyramid`` feeds the skip connections, too."""

STAGES = 4
SHORT_AXIS = 48
"""An axis with fewer voxels in the median case is short: a window that covers it would be mostly padding."""
_LARGEST_FACTOR = 4
_LARGEST_PATCH = _LARGEST_FACTOR**STAGES


def _feasible(edge: int, stages: int) -> bool:
    """Whether an edge is a product of ``stages`` factors of 1, 2, 3 or 4."""
    if stages == 0:
        return edge == 1
    return any(edge % f == 0 and _feasible(edge // f, stages - 1) for f in range(1, _LARGEST_FACTOR + 1))


def legal_patch_sizes(up_to: int = _LARGEST_PATCH) -> tuple[int, ...]:
    """Return the legal patch edges in ascending order: the products of four factors from 1 to 4.

    Args:
        up_to: Largest edge to list, voxels.

    Example:
        >>> legal_patch_sizes(24)
        (1, 2, 3, 4, 6, 8, 9, 12, 16, 18, 24)
    """
    return tuple(p for p in range(1, min(up_to, _LARGEST_PATCH) + 1) if _feasible(p, STAGES))


def axis_factors(patch_edge: int) -> tuple[int, ...]:
    """Return the up-sampling factors of one axis, deepest stage first; their product is the patch edge.

    The factors are chosen from the finest stage to the deepest. Each stage takes the smallest factor of 2, 3 and 4
    for which the deeper stages can still produce the rest of the edge. Stages that are not needed, the deepest ones,
    get factor 1.

    Args:
        patch_edge: Edge of a patch along this axis, voxels.

    Raises:
        PatchSizeError: The edge is not a product of four factors from 1 to 4. The nearest legal edges are named.

    Example:
        >>> axis_factors(24), axis_factors(12)
        ((3, 2, 2, 2), (1, 3, 2, 2))
    """
    if patch_edge < 1 or not _feasible(patch_edge, STAGES):
        legal = legal_patch_sizes()
        below = [p for p in legal if p < patch_edge][-1:]
        above = [p for p in legal if p > patch_edge][:1]
        raise PatchSizeError(
            f"patch size {patch_edge} is not a product of four up-sampling factors from 1 to {_LARGEST_FACTOR}",
            found=patch_edge,
            expected=tuple(below + above),
            remedy=f"use {' or '.join(map(str, below + above))}",
        )
    factors: list[int] = []
    rest = patch_edge
    for deeper in reversed(range(STAGES)):
        factor = (
            1
            if rest == 1
            else next(f for f in range(2, _LARGEST_FACTOR + 1) if rest % f == 0 and _feasible(rest // f, deeper))
        )
        factors.append(factor)
        rest //= factor
    return tuple(reversed(factors))


def upsampling_factors(patch_size: int | Sequence[int]) -> tuple[IntTriple, IntTriple, IntTriple, IntTriple]:
    """Return the factors of the four up-sampling stages per axis, deepest first.

    An axis with a smaller patch than the largest axis takes its factors at the deepest stages at which the largest
    axis is up-sampled too. If a patch is isotropic in mm, voxels then stay nearly isotropic at every stage.

    Args:
        patch_size: Edge of a patch, voxels; one number, or one per axis.

    Raises:
        PatchSizeError: The edge of an axis is not a product of four factors from 1 to 4.

    Example:
        >>> upsampling_factors((16, 16, 4))
        ((2, 2, 2), (2, 2, 2), (2, 2, 1), (2, 2, 1))
    """
    patch = patch_triple(patch_size)
    largest = axis_factors(max(patch))
    first = next((stage for stage, factor in enumerate(largest) if factor > 1), 0)
    axes = []
    for edge in patch:
        if edge == max(patch):
            axes.append(largest)
            continue
        factors = [f for f in axis_factors(edge) if f > 1]
        lead = min(first, STAGES - len(factors))
        axes.append(tuple([1] * lead + factors + [1] * (STAGES - lead - len(factors))))
    a, b, c, d = ((axes[0][s], axes[1][s], axes[2][s]) for s in range(STAGES))
    return a, b, c, d


def _triple(value: int | Sequence[int], what: str, error: type[WindowError]) -> IntTriple:
    edges = (value, value, value) if isinstance(value, int) else tuple(value)
    if len(edges) != 3 or any(int(e) != e or e < 1 for e in edges):
        raise error(f"{what} {value!r} is not a positive whole number or three of them", found=value)
    return int(edges[0]), int(edges[1]), int(edges[2])


def fitting_edge(extent: int, edges: Sequence[int]) -> int:
    """Return the smallest edge of a window that covers an extent and that all patch edges divide, in voxels.

    Example:
        >>> fitting_edge(10, [8]), fitting_edge(10, [8, 12]), fitting_edge(10, [24])
        (16, 24, 24)
    """
    unit = math.lcm(*edges)
    return max(1, math.ceil(extent / unit)) * unit


def patch_triple(patch_size: int | Sequence[int]) -> IntTriple:
    """Return a patch size per axis, voxels.

    Raises:
        PatchSizeError: The value is not one or three positive whole numbers.
    """
    return _triple(patch_size, "patch_size", PatchSizeError)


def window_triple(window_size: int | Sequence[int]) -> IntTriple:
    """Return a window size per axis, voxels.

    Raises:
        WindowError: The value is not one or three positive whole numbers.
    """
    return _triple(window_size, "window_size", WindowError)


def stage_strides(patch_size: IntTriple) -> list[IntTriple]:
    """Return the strides of the stages per axis, first stage first; along each axis their product is the patch edge.

    An axis with fewer stages joins late: it has the coarser voxels, so they become nearly cubes first.

    Example:
        >>> stage_strides((12, 12, 12))
        [(2, 2, 2), (2, 2, 2), (3, 3, 3)]
        >>> stage_strides((16, 16, 4))
        [(2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2)]
    """
    factors = []
    for edge in patch_size:
        own, rest = [], edge
        for factor in (2, 3):
            while rest % factor == 0:
                own.append(factor)
                rest //= factor
        factors.append(own)
    stages = max(1, *map(len, factors))
    a, b, c = ([1] * (stages - len(own)) + own for own in factors)
    return list(zip(a, b, c, strict=True))


def size_text(size: Sequence[int]) -> str:
    """Return a patch size as people write it.

    Example:
        >>> size_text((8, 8, 8)), size_text((8, 8, 4))
        ('8', '8x8x4')
    """
    return "x".join(map(str, size if len(set(size)) > 1 else size[:1]))
