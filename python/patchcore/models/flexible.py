"""The parts of a UNETR that serve several patch sizes: its embedding, its positions and its up-sampling kernels.

Everything else of a UNETR has the same shape at every patch size, so one network can be trained for all of them: each
step has one size, drawn at random. Transformer, skip connections and decoder blocks are then shared.

The *patch embedding* is either one kernel per size (``own``), or one kernel at a base size that is brought to the
size of the step by a linear map, through which the gradient flows: ``transposed`` keeps ⟨x, w⟩ when a patch is
averaged, ``pseudo-inverse`` is FlexiViT's way (Beyer et al., CVPR 2023, arXiv 2212.08013). *Positions* are stored on
the token grid of the base size and interpolated. *Up-sampling kernels* exist once per stage and factor (``own``), or
once per stage, at its largest factor, averaged for smaller ones (``shared``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from patchcore.models.weights import area_matrix, embedding_matrix, resample_embedding, resample_positions
from patchcore.types import Float64Array, IntTriple

__all__ = [
    "AtSize",
    "ByClass",
    "FlexibleEmbedding",
    "FlexiblePatchEmbedding",
    "FlexibleTransposed",
    "Kernels",
    "draw_size",
    "embed",
    "size_name",
]

_SIZES = 0x51ED  # keeps the draws of patch sizes apart from other draws of a seed

FlexibleEmbedding: TypeAlias = Literal["own", "transposed", "pseudo-inverse"]
Kernels: TypeAlias = Literal["own", "shared"]


def size_name(size: Sequence[int]) -> str:
    """Return the name of a size in a state dict.

    Example:
        >>> size_name((8, 8, 4))
        '8x8x4'
    """
    return "x".join(map(str, size))


class _Maps(nn.Module):
    """Matrices along the three axes that bring a kernel from its base size to each of some sizes."""

    def __init__(self, matrices: Mapping[IntTriple, Sequence[Float64Array]]) -> None:
        super().__init__()
        for size, along in matrices.items():
            for axis, matrix in enumerate(along):
                # Not part of the state dict: they follow from the sizes.
                self.register_buffer(f"m{size_name(size)}_{axis}", torch.from_numpy(matrix).float(), persistent=False)

    def forward(self, kernel: Tensor, size: IntTriple) -> Tensor:
        a, b, c = (self.get_buffer(f"m{size_name(size)}_{axis}") for axis in range(3))
        return torch.einsum("oixyz,ax,by,cz->oiabc", kernel, a, b, c)


def embed(
    tokenize: Callable[[Tensor], Any], image: Tensor, positions: Tensor, dropout: nn.Module
) -> tuple[Tensor, Sequence[Tensor]]:
    """Compute tokens and add their positions.

    Args:
        tokenize: A tokenizer; see :mod:`patchcore.models.tokenizer`.
        image: Windows (B, channels, X, Y, Z).
        positions: Positions (1, tokens, width).
        dropout: What follows.

    Returns:
        Tokens (B, tokens, width), and the features of a pyramid for the skip connections; other tokenizers have none.
    """
    found = tokenize(image)
    tokens, features = found if isinstance(found, tuple) else (found, ())
    out: Tensor = dropout(tokens.flatten(2).transpose(-1, -2) + positions)
    return out, features


class FlexiblePatchEmbedding(nn.Module):
    """One token per patch, at any of some patch sizes, plus its interpolated position.

    Args:
        channels: Number of channels of the image.
        window_size: Edges of the window, voxels.
        sizes: Patch sizes; they divide the window.
        base: Patch size of the stored kernel and positions.
        width: Width of a token.
        dropout: Dropout rate.
        embedding: ``own``, ``transposed`` or ``pseudo-inverse``.
        own: With ``own``: the tokenizer of each size.
    """

    def __init__(
        self,
        channels: int,
        window_size: IntTriple,
        sizes: Sequence[IntTriple],
        base: IntTriple,
        *,
        width: int,
        dropout: float,
        embedding: FlexibleEmbedding,
        own: Mapping[IntTriple, nn.Module],
    ) -> None:
        super().__init__()
        self.size = base
        self._grids = {size: _grid(window_size, size) for size in {*sizes, base}}
        self.base = base
        self._method: Literal["transposed", "pseudo-inverse"] = "transposed" if embedding == "own" else embedding
        self.maps: _Maps | None = None
        if embedding == "own":
            self.patch_embeddings: nn.Module = nn.ModuleDict({size_name(size): own[size] for size in sizes})
        else:
            self.patch_embeddings = nn.Conv3d(channels, width, base, stride=base)
            self.maps = _Maps(
                {
                    size: [embedding_matrix(a, b, embedding) for a, b in zip(base, size, strict=True)]
                    for size in sizes
                    if size != base
                }
            )
        self.position_embeddings = nn.Parameter(torch.zeros(1, int(np.prod(self._grids[base])), width))
        self.dropout = nn.Dropout(dropout)

    def state_of(self, size: IntTriple) -> dict[str, Tensor]:
        """Return the state dict of the tokenizer of a size. With ``own`` its tensors are the network's own."""
        if self.maps is None:
            return self.patch_embeddings.get_submodule(size_name(size)).state_dict()
        weight, bias = self.patch_embeddings.get_parameter("weight"), self.patch_embeddings.get_parameter("bias")
        return {"weight": weight if size == self.base else self.maps(weight, size), "bias": bias}

    def take_kernel(self, state: Mapping[str, Tensor], prefix: str) -> None:
        """Store the kernel of a fixed network of any size, brought to the base size; what it lacks stays as it is."""
        if f"{prefix}.weight" in state:
            kernel, _ = resample_embedding(state[f"{prefix}.weight"], self.base, self._method)
            self.patch_embeddings.get_parameter("weight").copy_(kernel)
        if f"{prefix}.bias" in state:
            self.patch_embeddings.get_parameter("bias").copy_(state[f"{prefix}.bias"])

    @property
    def base_grid(self) -> IntTriple:
        """Tokens per axis at the base size."""
        return self._grids[self.base]

    def positions(self, size: IntTriple) -> Tensor:
        """Return the positions (1, tokens, width) of a size."""
        return resample_positions(self.position_embeddings, self._grids[self.base], self._grids[size])

    def take_positions(self, positions: Tensor, size: IntTriple) -> None:
        """Store the positions of a size."""
        self.position_embeddings.copy_(resample_positions(positions, self._grids[size], self._grids[self.base]))

    def forward(self, image: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """Return what :func:`embed` returns, at the size in use."""
        tokenize: Callable[[Tensor], Any]
        if self.maps is None:
            tokenize = self.patch_embeddings.get_submodule(size_name(self.size))
        else:
            kernel = self.state_of(self.size)
            tokenize = partial(functional.conv3d, weight=kernel["weight"], bias=kernel["bias"], stride=self.size)
        return embed(tokenize, image, self.positions(self.size), self.dropout)


class FlexibleTransposed(nn.Module):
    """A transposed convolution with equal kernel and stride, which has a kernel for each of some factors.

    Args:
        in_channels: Number of channels in.
        out_channels: Number of channels out.
        factors: The factors per axis.
        kernels: ``own`` or ``shared``.
    """

    def __init__(self, in_channels: int, out_channels: int, factors: Iterable[IntTriple], *, kernels: Kernels) -> None:
        super().__init__()
        distinct = sorted(set(factors))
        self.factor = self.largest = distinct[-1]
        self.maps: _Maps | None = None
        if kernels == "own":
            self.conv: nn.Module = nn.ModuleDict(
                {
                    size_name(factor): nn.ConvTranspose3d(in_channels, out_channels, factor, stride=factor, bias=False)
                    for factor in distinct
                }
            )
            return
        self.largest = largest = (max(f[0] for f in distinct), max(f[1] for f in distinct), max(f[2] for f in distinct))
        self.conv = nn.ConvTranspose3d(in_channels, out_channels, largest, stride=largest, bias=False)
        self.maps = _Maps(
            {factor: [area_matrix(new, old) for old, new in zip(largest, factor, strict=True)] for factor in distinct}
        )

    def stored(self, factor: IntTriple) -> nn.Parameter:
        """Return the parameter that holds the kernel of a factor, or of all factors."""
        return self.conv.get_parameter("weight" if self.maps is not None else f"{size_name(factor)}.weight")

    def kernel(self, factor: IntTriple) -> Tensor:
        """Return the kernel (in, out, *factor)."""
        if self.maps is None:
            return self.stored(factor)
        shared: Tensor = self.maps(self.stored(factor), factor)
        return shared

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, out_channels, ·, ·, ·), larger by the factor in use."""
        return functional.conv_transpose3d(x, self.kernel(self.factor), stride=self.factor)


def _grid(window: IntTriple, size: IntTriple) -> IntTriple:
    return window[0] // size[0], window[1] // size[1], window[2] // size[2]


class AtSize(nn.Module):
    """A flexible network at one of its patch sizes; the weights are those of the network.

    Args:
        network: A flexible UNETR.
        size: The patch size.
    """

    def __init__(self, network: Any, size: IntTriple) -> None:
        super().__init__()
        self.network, self.size = network, size

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits of windows."""
        found: Tensor = self.network.use(self.size)(image)
        return found


class ByClass(nn.Module):
    """A flexible network that reads each class at a patch size of its own.

    The probability of a class is that at its size, the probability of the background the mean over the sizes; both are
    then divided by their sum.

    Args:
        network: A flexible UNETR.
        sizes: The patch size of each class, without the background.
    """

    def __init__(self, network: Any, sizes: Sequence[IntTriple]) -> None:
        super().__init__()
        self.network, self.sizes = network, tuple(sizes)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logarithms of the probabilities of windows, which are logits too."""
        at = {size: self.network.use(size)(image).float().softmax(1) for size in dict.fromkeys(self.sizes)}
        background = torch.stack([found[:, 0] for found in at.values()]).mean(0)
        classes = [at[size][:, number] for number, size in enumerate(self.sizes, 1)]
        together = torch.stack([background, *classes], dim=1)
        return (together / together.sum(1, keepdim=True)).clamp_min(1e-12).log()


def draw_size(sizes: Sequence[IntTriple], shares: Sequence[float], seed: int, step: int) -> IntTriple:
    """Return the patch size of a training step: it depends on seed and step alone, so a resume draws the same.

    Args:
        sizes: The patch sizes.
        shares: Share of the steps of each; empty: equal shares.
        seed: Seed of the training.
        step: Number of the step, from 0.

    Example:
        >>> [draw_size([(8, 8, 8), (16, 16, 16)], [], 0, step)[0] for step in range(6)]
        [8, 16, 16, 8, 8, 16]
    """
    weights = np.asarray(shares or [1.0] * len(sizes), dtype=np.float64)
    drawn = np.random.default_rng([_SIZES, seed, step]).choice(len(sizes), p=weights / weights.sum())
    return sizes[int(drawn)]
