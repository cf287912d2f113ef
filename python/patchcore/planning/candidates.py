"""What a patch size costs: tokens in a window, and the transformer's arithmetic that follows from them.

The numbers are of the UNETR encoder as published (Hatamizadeh et al., arXiv 2103.10504): 12 layers, 768
wide, MLP 3072. One multiply-add counts as two FLOP. With N tokens of width d, MLP width m and L layers

    self-attention (scores and weighted sums)   L · 4 N² d
    its projections (query, key, value, out)    L · 8 N d²
    MLP                                         L · 4 N d m
    patch embedding                             2 N d · patch voxels

Only the first grows with the square of the tokens; it is what makes small patches dear.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from patchcore.errors import PatchSizeError
from patchcore.types import IntTriple

__all__ = [
    "DEFAULT_CANDIDATES",
    "EncoderCost",
    "check_candidates",
    "encoder_cost",
    "legal_patch_sizes",
    "token_count",
    "wider_candidate",
]

DEFAULT_CANDIDATES = (8, 12, 16, 24)
"""The patch sizes of the paper's experiments."""

_LAYERS, _WIDTH, _MLP = 12, 768, 3072
_OFFERED = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48)


@dataclass(frozen=True)
class EncoderCost:
    """Cost of one forward pass of the UNETR-base encoder over one window.

    Attributes:
        tokens: patches in the window.
        attention_gflop: self-attention proper, all layers, 1e9 FLOP.
        encoder_gflop: the whole encoder with its patch embedding, 1e9 FLOP.
    """

    tokens: int
    attention_gflop: float
    encoder_gflop: float

    @property
    def attention_share(self) -> float:
        """Share of self-attention in the encoder's arithmetic, in [0, 1]."""
        return self.attention_gflop / self.encoder_gflop


def token_count(window_size: IntTriple, patch_size: IntTriple) -> int:
    """Return the number of patches in a window.

    Raises:
        PatchSizeError: A patch edge does not divide the window along its axis.

    Example:
        >>> token_count((96, 96, 96), (16, 16, 16))
        216
    """
    if any(w % p for w, p in zip(window_size, patch_size, strict=True)):
        raise PatchSizeError(
            f"patch size {patch_size} does not divide window size {window_size}",
            found=patch_size,
            expected=window_size,
        )
    return math.prod(w // p for w, p in zip(window_size, patch_size, strict=True))


def encoder_cost(window_size: IntTriple, patch_size: IntTriple) -> EncoderCost:
    """Return tokens and arithmetic of one forward pass of the UNETR-base encoder, one input channel.

    Raises:
        PatchSizeError: A patch edge does not divide the window along its axis.

    Example:
        >>> round(encoder_cost((96, 96, 96), (8, 8, 8)).attention_share, 2)
        0.27
    """
    n = token_count(window_size, patch_size)
    attention = _LAYERS * 4 * n * n * _WIDTH
    rest = _LAYERS * (8 * n * _WIDTH**2 + 4 * n * _WIDTH * _MLP) + 2 * n * _WIDTH * math.prod(patch_size)
    return EncoderCost(n, attention / 1e9, (attention + rest) / 1e9)


def legal_patch_sizes(largest: int = 64) -> tuple[int, ...]:
    """Return every patch edge from 2 to `largest` that four up-sampling stages of 1, 2, 3 or 4 can undo.

    Example:
        >>> legal_patch_sizes(16)
        (2, 3, 4, 6, 8, 9, 12, 16)
    """
    edges = {1}
    for _ in range(4):
        edges = {edge * factor for edge in edges for factor in (1, 2, 3, 4)}
    return tuple(sorted(edge for edge in edges if 2 <= edge <= largest))


def check_candidates(candidates: Sequence[int]) -> tuple[int, ...]:
    """Return the candidates sorted, without repeats.

    Raises:
        PatchSizeError: No candidate at all, or one that the network cannot have; the nearest legal ones are
            named.
    """
    legal = legal_patch_sizes(256)
    for p in candidates:
        if p not in legal:
            below = [e for e in legal if e < p][-1:]
            above = [e for e in legal if e > p][:1]
            near = " and ".join(str(e) for e in below + above)
            raise PatchSizeError(
                f"candidate patch size {p} cannot be undone by four up-sampling stages of 1, 2, 3 or 4",
                found=p,
                expected=legal,
                remedy=f"the nearest legal: {near}",
            )
    if not candidates:
        raise PatchSizeError("no candidate patch size", remedy="name some, e.g. --candidates 8,12,16,24")
    return tuple(sorted(set(candidates)))


def wider_candidate(edge: float, candidates: Sequence[int]) -> int | None:
    """Return the edge dividing 96 that would beat every candidate for p* = `edge`, or None where none would.

    Example:
        >>> wider_candidate(36.7, (8, 12, 16, 24)), wider_candidate(25.0, (8, 12, 16, 24))
        (32, None)
    """
    best = min((*candidates, *_OFFERED), key=lambda p: abs(math.log(p / edge)))
    return None if best in candidates else best
