"""Candidate patch sizes: the default list, the check that they are legal, and an offer to widen the list."""

from __future__ import annotations

from collections.abc import Sequence

from patchcore.config.patches import legal_patch_sizes
from patchcore.errors import PatchSizeError
from patchcore.planning.rules import log_distance

__all__ = [
    "DEFAULT_CANDIDATES",
    "check_candidates",
    "wider_candidate",
]

DEFAULT_CANDIDATES = (8, 12, 16, 24)
"""The patch sizes of the paper's experiments."""

_OFFERED = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48)


def check_candidates(candidates: Sequence[int]) -> tuple[int, ...]:
    """Return the candidates, sorted and without repeats.

    Raises:
        PatchSizeError: There is no candidate, or the network cannot have one of them. The message names the nearest
            legal sizes.
    """
    # An edge of 1 is not offered: it would make every voxel a token.
    legal = legal_patch_sizes()[1:]
    for p in candidates:
        if p not in legal:
            below = [e for e in legal if e < p][-1:]
            above = [e for e in legal if e > p][:1]
            near = " and ".join(str(e) for e in below + above)
            raise PatchSizeError(
                f"candidate patch size {p} is not a product of four up-sampling factors of 1, 2, 3 or 4",
                found=p,
                expected=legal,
                remedy=f"use the nearest legal sizes: {near}",
            )
    if not candidates:
        raise PatchSizeError("no candidate patch size", remedy="name candidates, e.g. --candidates 8,12,16,24")
    return tuple(sorted(set(candidates)))


def wider_candidate(edge: float, candidates: Sequence[int]) -> int | None:
    """Return the divisor of 96 that is nearer to p* = `edge` than every candidate, or None if there is none.

    Example:
        >>> wider_candidate(36.7, (8, 12, 16, 24)), wider_candidate(25.0, (8, 12, 16, 24))
        (32, None)
    """
    best = min((*candidates, *_OFFERED), key=lambda p: log_distance(p, edge))
    return None if best in candidates else best
