"""Instance norm on a GPU, in channels-last memory: two kernels forward, two backward, each voxel read twice.

torch has no such kernel: ``F.instance_norm`` copies its input to channels-first and back, and its kernels take half of
a UNETR training step on an H100 (20 of 40 ms). The kernels here are limited only by memory bandwidth. The first voxel
of each channel is subtracted before summing, so a large offset does not cost precision.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["triton_instance_norm"]

_ELEMENTS = 4096
"""Number of elements in the block that a program holds at once."""
_PROGRAMS = 512
_MOST_SPLITS = 256


@triton.jit
def _sum_kernel(
    x_pointer, g_pointer, statistics_pointer, sums_pointer, voxels, channels, rows, splits,
    BACKWARD: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
) -> None:  # fmt: skip
    """Sum a part of one sample's voxels per channel: x and x², or g and g times the normalised x."""
    split, sample = tl.program_id(0), tl.program_id(1)
    c = tl.arange(0, BLOCK_C)
    kept = c < channels
    first = sample.to(tl.int64) * voxels * channels
    if BACKWARD:
        mean = tl.load(statistics_pointer + sample * 2 * channels + c, mask=kept, other=0.0)
        scale = tl.load(statistics_pointer + (sample * 2 + 1) * channels + c, mask=kept, other=0.0)
    else:
        mean = tl.load(x_pointer + first + c, mask=kept, other=0.0).to(tl.float32)
        scale = mean * 0.0 + 1.0
    one = tl.zeros((BLOCK_C,), tl.float32)
    two = tl.zeros((BLOCK_C,), tl.float32)
    for start in range(0, rows, BLOCK_N):
        n = split * rows + start + tl.arange(0, BLOCK_N)
        mask = (n < voxels)[:, None] & kept[None, :]
        offset = first + n.to(tl.int64)[:, None] * channels + c[None, :]
        x = tl.load(x_pointer + offset, mask=mask, other=0.0).to(tl.float32)
        x = tl.where(mask, (x - mean[None, :]) * scale[None, :], 0.0)
        if BACKWARD:
            g = tl.load(g_pointer + offset, mask=mask, other=0.0).to(tl.float32)
            one += tl.sum(g, axis=0)
            two += tl.sum(g * x, axis=0)
        else:
            one += tl.sum(x, axis=0)
            two += tl.sum(x * x, axis=0)
    place = sums_pointer + (sample * splits + split) * 2 * channels + c
    tl.store(place, one, mask=kept)
    tl.store(place + channels, two, mask=kept)


@triton.jit
def _apply_kernel(
    x_pointer, g_pointer, statistics_pointer, sums_pointer, out_pointer, voxels, channels, splits, eps,
    BACKWARD: tl.constexpr, SPLITS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
) -> None:  # fmt: skip
    """Add the sums of all parts and normalise a block of voxels with them, or compute its gradient."""
    block, sample = tl.program_id(0), tl.program_id(1)
    c = tl.arange(0, BLOCK_C)
    kept = c < channels
    first = sample.to(tl.int64) * voxels * channels
    s = tl.arange(0, SPLITS)
    mask = (s < splits)[:, None] & kept[None, :]
    share = sums_pointer + (sample * splits + s)[:, None] * 2 * channels + c[None, :]
    one = tl.sum(tl.load(share, mask=mask, other=0.0), axis=0) / voxels
    two = tl.sum(tl.load(share + channels, mask=mask, other=0.0), axis=0) / voxels
    statistics = statistics_pointer + sample * 2 * channels + c
    if BACKWARD:
        mean = tl.load(statistics, mask=kept, other=0.0)
        scale = tl.load(statistics + channels, mask=kept, other=0.0)
    else:
        mean = tl.load(x_pointer + first + c, mask=kept, other=0.0).to(tl.float32) + one
        scale = 1.0 / tl.sqrt(tl.maximum(two - one * one, 0.0) + eps)
        if block == 0:
            tl.store(statistics, mean, mask=kept)
            tl.store(statistics + channels, scale, mask=kept)
    n = block * BLOCK_N + tl.arange(0, BLOCK_N)
    mask = (n < voxels)[:, None] & kept[None, :]
    offset = first + n.to(tl.int64)[:, None] * channels + c[None, :]
    x = tl.load(x_pointer + offset, mask=mask, other=0.0).to(tl.float32)
    out = (x - mean[None, :]) * scale[None, :]
    if BACKWARD:
        g = tl.load(g_pointer + offset, mask=mask, other=0.0).to(tl.float32)
        out = (g - one[None, :] - out * two[None, :]) * scale[None, :]
    tl.store(out_pointer + offset, out.to(out_pointer.dtype.element_ty), mask=mask)


def _run(x: Tensor, g: Tensor, statistics: Tensor, out: Tensor, eps: float, *, backward: bool) -> None:
    samples, channels = x.shape[:2]
    voxels = x.shape[2] * x.shape[3] * x.shape[4]
    block_c = triton.next_power_of_2(channels)
    block_n = max(1, _ELEMENTS // block_c)
    blocks = triton.cdiv(voxels, block_n)
    splits = min(blocks, _MOST_SPLITS, max(1, _PROGRAMS // samples))
    rows = triton.cdiv(blocks, splits) * block_n
    splits = triton.cdiv(voxels, rows)
    sums = torch.empty((samples, splits, 2, channels), device=x.device, dtype=torch.float32)
    _sum_kernel[(splits, samples)](
        x, g, statistics, sums, voxels, channels, rows, splits, BACKWARD=backward, BLOCK_N=block_n, BLOCK_C=block_c
    )
    _apply_kernel[(blocks, samples)](
        x, g, statistics, sums, out, voxels, channels, splits, eps,
        BACKWARD=backward, SPLITS=triton.next_power_of_2(splits), BLOCK_N=block_n, BLOCK_C=block_c,
    )  # fmt: skip


class _TritonInstanceNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        out = torch.empty_like(x, memory_format=torch.channels_last_3d)
        statistics = torch.empty((x.shape[0], 2, x.shape[1]), device=x.device, dtype=torch.float32)
        _run(x, x, statistics, out, eps, backward=False)
        ctx.save_for_backward(x, statistics)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        x, statistics = ctx.saved_tensors
        g = gradients[0].contiguous(memory_format=torch.channels_last_3d)
        out = torch.empty_like(x, memory_format=torch.channels_last_3d)
        _run(x, g, statistics, out, 0.0, backward=True)
        return out, None


def triton_instance_norm(x: Tensor, eps: float) -> Tensor:
    """Normalise every channel of every sample. The result is channels-last.

    Args:
        x: (B, C, X, Y, Z), float32, float16 or bfloat16; copied if it is not channels-last.
        eps: Added to the variance.
    """
    x = x.contiguous(memory_format=torch.channels_last_3d)
    return _TritonInstanceNorm.apply(x, eps)  # type: ignore[no-any-return]
