"""Instance norm in channels-last memory.

torch has no channels-last kernel for instance norm: ``nn.InstanceNorm3d`` copies its input to channels-first and back.
This takes a tenth of a UNETR training step on a CPU, and more on a GPU; for GPUs there are separate kernels in
:mod:`patchcore.models.norm_triton`. Here the channels of a voxel stay adjacent in memory: (B, C, X, Y, Z) is read as
(B, X, Y·Z, C), and summed over Y·Z and then over X. Summing in two steps keeps the rounding error of a sum over 10⁵
voxels and more as small as with torch's own kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

__all__ = ["ChannelsLastInstanceNorm"]


_TRITON_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@cache
def _triton() -> Callable[[Tensor, float], Tensor] | None:
    """Return the norm for GPUs; None if triton is not installed or does not support the GPU."""
    try:
        from patchcore.models.norm_triton import triton_instance_norm
    except ImportError:
        return None
    return triton_instance_norm if torch.cuda.get_device_capability() >= (7, 0) else None


def _rows(x: Tensor) -> Tensor:
    """Return (B, C, X, Y, Z) as (B, X, Y·Z, C); a view without a copy if ``x`` is channels-last."""
    b, c, i, j, k = x.shape
    return x.permute(0, 2, 3, 4, 1).reshape(b, i, j * k, c)


def _mean(rows: Tensor) -> Tensor:
    wide = torch.promote_types(rows.dtype, torch.float32)
    return rows.mean(2, keepdim=True, dtype=wide).mean(1, keepdim=True)


class _InstanceNorm(torch.autograd.Function):
    # The activation that follows works in place. Therefore the input is saved instead of the output, and the output is
    # not a view. Statistics are float32 or wider; type promotion then gives the same precision to later results.
    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        rows = _rows(x)
        mean = _mean(rows)
        out = torch.empty_like(x, memory_format=torch.channels_last_3d)
        centred = torch.sub(rows, mean, out=_rows(out)) if x.dtype == mean.dtype else rows - mean
        squares = torch.linalg.vector_norm(centred, dim=2, keepdim=True).square_() / rows.shape[2]
        scale = torch.rsqrt(squares.mean(1, keepdim=True) + eps)
        torch.mul(centred, scale, out=_rows(out))
        ctx.save_for_backward(x, mean, scale)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        x, mean, scale = ctx.saved_tensors
        rows = _rows(gradients[0])
        normed = (_rows(x) - mean).mul_(scale)
        gradient = (rows - _mean(rows)).addcmul_(normed, _mean(normed * rows), value=-1)
        out = torch.empty_like(x, memory_format=torch.channels_last_3d)
        torch.mul(gradient, scale, out=_rows(out))
        return out, None


class ChannelsLastInstanceNorm(nn.Module):
    """Instance norm without weights. Equal to ``nn.InstanceNorm3d``, but fast in channels-last memory.

    Args:
        eps: Added to the variance.
    """

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        # Imported here, because code that torch.compile traces should not import.
        self._on_gpu = _triton() if torch.cuda.is_available() else None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise every channel of every sample to mean 0 and variance 1.

        Args:
            x: (B, C, X, Y, Z), floating point.

        Returns:
            Same shape and dtype.
        """
        if x.is_cpu and x[0, 0].numel() > 1:
            return _InstanceNorm.apply(x, self.eps)  # type: ignore[no-any-return]
        if x.is_cuda and self._on_gpu is not None and x.dtype in _TRITON_DTYPES and x[0, 0].numel() > 1:
            return self._on_gpu(x, self.eps)
        return F.instance_norm(x, eps=self.eps)
