"""Instance norm in channels-last memory, with the residual and the leaky ReLU that follow it.

torch has no channels-last kernel for instance norm: ``nn.InstanceNorm3d`` copies its input to channels-first and back.
And every operation reads and writes all voxels. On a CPU, float32 is therefore normalised, added to and activated by
one function of the core (``norm.rs``), in a third of the time. For GPUs there are kernels in
:mod:`patchcore.models.norm_triton`. All else, and what torch.export traces, is computed by operations of torch: (B, C,
X, Y, Z) is read as (B, X, Y·Z, C), and summed over Y·Z and then over X. Summing in two steps keeps the rounding error
of a sum over 10⁵ voxels and more as small as with torch's own kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from patchcore import _core

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


def _flat(x: Tensor) -> npt.NDArray[np.float32]:
    """Return (B, C, X, Y, Z) as a flat array, the channels of a voxel together; a view if it is channels-last."""
    # A gradient may be one number, expanded.
    array: npt.NDArray[np.float32] = x.detach().permute(0, 2, 3, 4, 1).reshape(-1).contiguous().numpy()
    return array


@torch.library.custom_op(
    "patchcore::instance_norm",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor x, Tensor? residual, float eps, float slope) -> (Tensor, Tensor)",
)
def _core_norm(x: Tensor, residual: Tensor | None, eps: float, slope: float) -> tuple[Tensor, Tensor]:
    """Return leaky(norm(x) + residual), and the statistics for the gradient."""
    out = torch.empty_like(x, memory_format=torch.channels_last_3d)
    statistics = torch.empty(2 * x.shape[0] * x.shape[1])
    _core.instance_norm(
        _flat(x),
        None if residual is None else _flat(residual),
        _flat(out),
        statistics.numpy(),
        samples=x.shape[0],
        channels=x.shape[1],
        eps=eps,
        slope=slope,
        threads=torch.get_num_threads(),
    )
    return out, statistics


@_core_norm.register_fake
def _(x: Tensor, residual: Tensor | None, eps: float, slope: float) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x, memory_format=torch.channels_last_3d), x.new_empty(2 * x.shape[0] * x.shape[1])


@torch.library.custom_op(
    "patchcore::instance_norm_gradient",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor x, Tensor? out, Tensor gradient, Tensor statistics, float slope, bool both) -> (Tensor, Tensor)",
)
def _core_gradient(
    x: Tensor, out: Tensor | None, gradient: Tensor, statistics: Tensor, slope: float, both: bool
) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and of the residual; the latter is empty unless ``both``."""
    of_x = torch.empty_like(x, memory_format=torch.channels_last_3d)
    of_residual = torch.empty_like(of_x) if both else x.new_empty(0)
    _core.instance_norm_gradient(
        _flat(x),
        None if out is None else _flat(out),
        _flat(gradient),
        statistics.numpy(),
        _flat(of_x),
        _flat(of_residual) if both else None,
        samples=x.shape[0],
        channels=x.shape[1],
        slope=slope,
        threads=torch.get_num_threads(),
    )
    return of_x, of_residual


@_core_gradient.register_fake
def _(
    x: Tensor, out: Tensor | None, gradient: Tensor, statistics: Tensor, slope: float, both: bool
) -> tuple[Tensor, Tensor]:
    of_x = torch.empty_like(x, memory_format=torch.channels_last_3d)
    return of_x, torch.empty_like(of_x) if both else x.new_empty(0)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    # The result gives the signs before the activation. It is kept anyway: the next layer needs it.
    x, _, _, ctx.slope = inputs
    out, statistics = output
    ctx.save_for_backward(x, statistics, out if ctx.slope != 1 else None)


def _gradient(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
    x, statistics, out = ctx.saved_tensors
    both = ctx.needs_input_grad[1]
    of_x, of_residual = _core_gradient(x, out, gradient, statistics, ctx.slope, both)
    return of_x, of_residual if both else None, None, None


torch.library.register_autograd(_core_norm, _gradient, setup_context=_keep)


class ChannelsLastInstanceNorm(nn.Module):
    """Instance norm without weights, and what follows it. Fast in channels-last memory.

    Args:
        eps: Added to the variance.
        slope: Slope of the leaky ReLU for negative values; 1 for none.
    """

    def __init__(self, eps: float = 1e-5, *, slope: float = 1.0) -> None:
        super().__init__()
        self.eps = eps
        self.slope = slope
        # Imported here, because code that torch.compile traces should not import.
        self._on_gpu = _triton() if torch.cuda.is_available() else None

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Normalise every channel of every sample to mean 0 and variance 1; add the residual; activate.

        Args:
            x: (B, C, X, Y, Z), floating point.
            residual: Of the same shape and dtype.

        Returns:
            Same shape and dtype.
        """
        out: Tensor
        more_than_one = x[0, 0].numel() > 1
        if (
            x.is_cpu
            and more_than_one
            and x.dtype == torch.float32
            and (residual is None or residual.dtype == x.dtype)
            and not torch.compiler.is_exporting()
        ):
            out, _ = _core_norm(x, residual, self.eps, self.slope)
            return out
        if x.is_cpu and more_than_one:
            out = _InstanceNorm.apply(x, self.eps)
        elif x.is_cuda and self._on_gpu is not None and x.dtype in _TRITON_DTYPES and more_than_one:
            out = self._on_gpu(x, self.eps)
        else:
            out = F.instance_norm(x, eps=self.eps)
        if residual is not None:
            out += residual
        return F.leaky_relu(out, self.slope, inplace=True) if self.slope != 1 else out
