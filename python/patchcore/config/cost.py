"""Computes the cost of a UNETR from its sizes: tokens, parameters and FLOP. Needs no torch.

Shape legend:
    p  patch edge per axis (voxels)         w  window edge per axis (voxels)
    t  tokens per axis, w / p               h  hidden size, m  hidden width of a transformer MLP
    f  feature size, the channels at full resolution; decoder stages have 8f, 4f, 2f and f

A FLOP is one multiplication or one addition, so the product of an (a, b) and a (b, c) matrix costs 2abc.
Convolutions, matrix products and attention are counted; norms and activations are not.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from patchcore.config.patches import (
    STAGES,
    Tokenizer,
    axis_factors,
    legal_patch_sizes,
    patch_triple,
    stage_strides,
    upsampling_factors,
    window_triple,
)
from patchcore.errors import ConfigError, PatchSizeError
from patchcore.types import IntTriple

__all__ = [
    "LAYERS",
    "STAGES",
    "NetworkCost",
    "axis_factors",
    "check_window",
    "legal_patch_sizes",
    "network_cost",
    "patch_triple",
    "token_count",
    "token_grid",
    "upsampling_factors",
    "window_triple",
]

LAYERS = 12


def check_window(window_size: int | Sequence[int], patch_size: int | Sequence[int]) -> None:
    """Check that a window is a whole number of patches along every axis, and large enough for instance norm.

    Args:
        window_size: Window edge, voxels; one number, or one per axis.
        patch_size: Patch edge, voxels; one number, or one per axis.

    Raises:
        PatchSizeError: It is not, or the network cannot have a patch edge; the message names legal patch sizes.
    """
    window, patch = window_triple(window_size), patch_triple(patch_size)
    deepest = upsampling_factors(patch)[0]
    for axis, (w, p) in enumerate(zip(window, patch, strict=True)):
        if w % p:
            legal = [q for q in legal_patch_sizes(w) if w % q == 0 and q > 1]
            raise PatchSizeError(
                f"patch_size {p} does not divide window_size {w} along axis {axis}",
                found=p,
                expected=tuple(legal),
                remedy=f"use one of {', '.join(map(str, legal))} or a window that is a multiple of {p}"
                if legal
                else f"use a window that is a multiple of {p}",
            )
    if window == patch and math.prod(deepest) == 1:
        raise PatchSizeError(
            f"window_size {window} is one patch: instance norm has only one voxel at the deepest stage",
            found=patch,
            remedy="use a window of at least two patches, or a smaller patch",
        )


def token_grid(window_size: int | Sequence[int], patch_size: int | Sequence[int]) -> IntTriple:
    """Return the number of tokens along each axis of a window.

    Raises:
        PatchSizeError: The patch size is illegal or does not divide the window.

    Example:
        >>> token_grid(96, 12)
        (8, 8, 8)
    """
    check_window(window_size, patch_size)
    a, b, c = (w // p for w, p in zip(window_triple(window_size), patch_triple(patch_size), strict=True))
    return a, b, c


def token_count(window_size: int | Sequence[int], patch_size: int | Sequence[int]) -> int:
    """Return the number of tokens of a window.

    Raises:
        PatchSizeError: The patch size is illegal or does not divide the window.
    """
    return math.prod(token_grid(window_size, patch_size))


@dataclass(frozen=True)
class NetworkCost:
    """Size and cost of a UNETR with one patch size.

    Attributes:
        patch_size: Patch edge per axis, voxels.
        window_size: Window edge per axis, voxels.
        tokens: Tokens of one window.
        parameters: Number of all weights, including frozen ones: the size of the state dict.
        frozen_parameters: Weights that the forward pass never uses; kept so that the state dict equals MONAI's.
        embedding_flop: FLOP of the patch embedding, or of the tokenizer; one window, forward pass.
        linear_flop: FLOP of the transformer's linear layers.
        attention_flop: FLOP of the products of queries, keys and values.
        convolution_flop: FLOP of the convolutional encoder branches, the decoder and the output layer.
    """

    patch_size: IntTriple
    window_size: IntTriple
    tokens: int
    parameters: int
    frozen_parameters: int
    embedding_flop: int
    linear_flop: int
    attention_flop: int
    convolution_flop: int

    @property
    def flop(self) -> int:
        """FLOP of one window's forward pass."""
        return self.embedding_flop + self.linear_flop + self.attention_flop + self.convolution_flop

    @property
    def attention_share(self) -> float:
        """Share of self-attention (products of queries, keys and values) in the network's FLOP, in [0, 1]."""
        return self.attention_flop / self.flop


@dataclass(frozen=True)
class _Layer:
    weights: int
    flop: int


def _convolution(channels_in: int, channels_out: int, kernel: int, positions: int) -> _Layer:
    weights = channels_in * channels_out * kernel
    return _Layer(weights, 2 * weights * positions)


def _residual_block(channels_in: int, channels_out: int, voxels: int) -> Iterator[_Layer]:
    yield _convolution(channels_in, channels_out, 27, voxels)
    yield _convolution(channels_out, channels_out, 27, voxels)
    if channels_in != channels_out:
        yield _convolution(channels_in, channels_out, 1, voxels)


def _convolutions(
    in_channels: int,
    out_channels: int,
    hidden_size: int,
    feature_size: int,
    patch: IntTriple,
    window: IntTriple,
) -> Iterator[_Layer]:
    """Yield every convolution outside the transformer. A transposed convolution is applied once per input voxel."""
    kernels = [math.prod(factors) for factors in upsampling_factors(patch)]
    voxels = [math.prod(token_grid(window, patch))]
    for kernel in kernels:
        voxels.append(voxels[-1] * kernel)
    widths = [feature_size * 2**s for s in (3, 2, 1, 0)]

    yield from _residual_block(in_channels, feature_size, voxels[4])
    for stage in (2, 1, 0):
        width = widths[stage]
        yield _convolution(hidden_size, width, kernels[0], voxels[0])
        for step in range(1, stage + 1):
            yield _convolution(width, width, kernels[step], voxels[step])
            yield from _residual_block(width, width, voxels[step + 1])
    width_in = hidden_size
    for stage, width in enumerate(widths):
        yield _convolution(width_in, width, kernels[stage], voxels[stage])
        yield from _residual_block(2 * width, width, voxels[stage + 1])
        width_in = width
    output = _convolution(feature_size, out_channels, 1, voxels[4])
    yield _Layer(output.weights + out_channels, output.flop)


def _down(channels_in: int, channels_out: int, stride: IntTriple, positions: int) -> _Layer:
    """Return a convolution that reduces the resolution, with a bias; see :mod:`patchcore.models.tokenizer`."""
    layer = _convolution(channels_in, channels_out, math.prod(3 if step == 2 else step for step in stride), positions)
    return _Layer(layer.weights + channels_out, layer.flop)


def _tokenizer(
    kind: Tokenizer, in_channels: int, hidden_size: int, feature_size: int, patch: IntTriple, window: IntTriple
) -> Iterator[_Layer]:
    """Yield what computes tokens of the image or, in a pyramid, of the features at full resolution."""
    tokens = math.prod(token_grid(window, patch))
    if kind == "linear":
        layer = _convolution(in_channels, hidden_size, math.prod(patch), tokens)
        yield _Layer(layer.weights + hidden_size, layer.flop)
        return
    if kind == "residual":
        *strides, last = stage_strides(patch)
        channels = in_channels
    else:
        last, *others = upsampling_factors(patch)
        strides = list(itertools.takewhile(lambda stride: math.prod(stride) > 1, reversed(others)))
        channels = feature_size
    voxels = math.prod(window)
    for number, stride in enumerate(strides, 1):
        voxels //= math.prod(stride)
        width = feature_size * 2**number
        width = min(width, hidden_size) if kind == "residual" else width
        yield _down(channels, width, stride, voxels)
        yield from _residual_block(width, width, voxels)
        channels = width
    yield _down(channels, hidden_size, last, tokens)


def network_cost(
    window_size: int | Sequence[int],
    patch_size: int | Sequence[int],
    *,
    in_channels: int = 1,
    out_channels: int = 2,
    hidden_size: int = 768,
    mlp_dim: int = 3072,
    num_heads: int = 12,
    feature_size: int = 16,
    qkv_bias: bool = False,
    tokenizer: Tokenizer = "linear",
) -> NetworkCost:
    """Count weights and FLOP of :class:`patchcore.models.UNETR` without building it.

    Args:
        window_size: Window edge, voxels; one number, or one per axis.
        patch_size: Patch edge, voxels; one number, or one per axis.
        in_channels: Channels of the image.
        out_channels: Number of classes, including background.
        hidden_size: Width of a token.
        mlp_dim: Hidden width of a transformer MLP.
        num_heads: Attention heads. They do not change the counts, but must divide ``hidden_size``.
        feature_size: Channels at full resolution.
        qkv_bias: Whether queries, keys and values have a bias.
        tokenizer: How a patch becomes a token.

    Returns:
        The counts. FLOP are for the forward pass of one window.

    Raises:
        PatchSizeError: The patch size is illegal or does not divide the window.
        ConfigError: ``num_heads`` does not divide ``hidden_size``.

    Example:
        >>> cost = network_cost(96, 8)
        >>> cost.tokens, round(cost.attention_share, 3)
        (1728, 0.215)
    """
    if hidden_size % num_heads:
        raise ConfigError(f"num_heads {num_heads} does not divide hidden_size {hidden_size}")
    window, patch = window_triple(window_size), patch_triple(patch_size)
    tokens = token_count(window, patch)
    h, m = hidden_size, mlp_dim
    embedding = list(_tokenizer(tokenizer, in_channels, h, feature_size, patch, window))
    matrices = 4 * h * h + 2 * h * m
    frozen = 2 * h
    biases = h + (m + h) + (3 * h if qkv_bias else 0)
    block = matrices + biases + 4 * h + frozen
    convolutions = list(_convolutions(in_channels, out_channels, h, feature_size, patch, window))
    return NetworkCost(
        patch_size=patch,
        window_size=window,
        tokens=tokens,
        parameters=tokens * h + LAYERS * block + 2 * h + sum(layer.weights for layer in (*embedding, *convolutions)),
        frozen_parameters=LAYERS * frozen,
        embedding_flop=sum(layer.flop for layer in embedding),
        linear_flop=LAYERS * 2 * matrices * tokens,
        attention_flop=LAYERS * 4 * tokens * tokens * h,
        convolution_flop=sum(c.flop for c in convolutions),
    )
