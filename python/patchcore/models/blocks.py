"""The convolutional blocks of UNETR, with MONAI's parameter names.

They equal MONAI's blocks with ``norm_name="instance"``, initial weights of a seed included. The instance norm is
:class:`patchcore.models.norm.ChannelsLastInstanceNorm`, which adds the residual and activates, too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from patchcore.models.flexible import FlexibleTransposed, Kernels
from patchcore.models.norm import ChannelsLastInstanceNorm
from patchcore.types import IntTriple

__all__ = ["Classifier", "Decoder", "Encoder", "ProjectionUp", "Residual"]

_SLOPE = 0.01
"""Slope of the leaky ReLU for negative values."""


class _Conv(nn.Sequential):
    """A convolution under the name ``conv``, at stride 1; the size stays."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, bias: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, kernel, padding=kernel // 2, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, out_channels, ·, ·, ·) of (B, in_channels, ·, ·, ·) of the same size."""
        conv = self.conv
        if x.is_cpu and conv.kernel_size == (1, 1, 1):
            # torch computes it channels-first on one thread: two copies, and one more in the layer that follows.
            return F.linear(x.permute(0, 2, 3, 4, 1), conv.weight.flatten(1), conv.bias).permute(0, 4, 1, 2, 3)
        if _is_slow(x) and conv.kernel_size == (3, 3, 3):
            return _as_two(x, conv)
        out: Tensor = conv(x)
        return out


def _is_slow(x: Tensor) -> bool:
    """Return whether torch would compute a convolution of 3³ with its slow code, and :func:`_as_two` can help.

    On a CPU, torch leaves a single window to a code that takes ten times as long as oneDNN's, unless the product of its
    channels and of its first two edges exceeds 20480.
    """
    return bool(
        x.is_cpu
        and x.dtype == torch.float32
        and x.shape[0] == 1
        and x.shape[2] % 2 == 0
        and x.shape[1] * x.shape[2] * x.shape[3] <= 20_480
    )


def _as_two(x: Tensor, conv: nn.Conv3d) -> Tensor:
    """Return the convolution of one window by one of 3³, computed as that of its two halves, one voxel larger each."""
    half = x.shape[2] // 2
    padded = F.pad(x, (0, 0, 0, 0, 1, 1))
    both = torch.cat([padded[:, :, : half + 2], padded[:, :, half:]])
    out = F.conv3d(both, conv.weight, conv.bias, padding=(0, 1, 1))
    # In channels-last memory, the halves lie one behind the other: this is a view.
    return out.permute(0, 2, 3, 4, 1).reshape(1, *x.shape[2:], -1).permute(0, 4, 1, 2, 3)


class _Transposed(nn.Sequential):
    """A transposed convolution under the name ``conv``. Kernel and stride are equal: each voxel becomes a block."""

    def __init__(self, in_channels: int, out_channels: int, factors: IntTriple) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose3d(in_channels, out_channels, factors, stride=factors, bias=False)


def _up(in_channels: int, out_channels: int, factors: Sequence[IntTriple], kernels: Kernels) -> nn.Module:
    """Return an up-sampling by one factor, or by any of several."""
    if len(set(factors)) == 1:
        return _Transposed(in_channels, out_channels, factors[0])
    return FlexibleTransposed(in_channels, out_channels, factors, kernels=kernels)


class Residual(nn.Module):
    """Two convolutions of 3³ and a residual connection; a convolution of 1³ in it if the number of channels changes."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = _Conv(in_channels, out_channels, 3)
        self.conv2 = _Conv(out_channels, out_channels, 3)
        self.norm1 = ChannelsLastInstanceNorm(slope=_SLOPE)
        self.norm2 = ChannelsLastInstanceNorm(slope=_SLOPE)
        self.widens = in_channels != out_channels
        if self.widens:
            self.conv3 = _Conv(in_channels, out_channels, 1)
            self.norm3 = ChannelsLastInstanceNorm()

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, out_channels, ·, ·, ·) of (B, in_channels, ·, ·, ·) of the same size."""
        out = self.conv2(self.norm1(self.conv1(x)))
        activated: Tensor = self.norm2(out, self.norm3(self.conv3(x)) if self.widens else x)
        return activated


class Encoder(nn.Module):
    """The first skip connection: the image at full resolution (MONAI's ``UnetrBasicBlock``).

    Args:
        in_channels: Number of channels of the image.
        out_channels: Number of channels of the skip connection.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.layer = Residual(in_channels, out_channels)

    def forward(self, image: Tensor) -> Tensor:
        """Return (B, out_channels, X, Y, Z) of (B, in_channels, X, Y, Z)."""
        out: Tensor = self.layer(image)
        return out


class ProjectionUp(nn.Module):
    """Up-samples tokens to a skip connection: MONAI's ``UnetrPrUpBlock`` with a different kernel at each stage.

    Args:
        in_channels: Width of a token.
        out_channels: Number of channels of the skip connection.
        factors: For each stage its up-sampling factors per axis: one, or that of each patch size of a flexible network.
        kernels: Whether a kernel serves one factor (``own``) or all factors of its stage (``shared``).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        factors: Sequence[Sequence[IntTriple]],
        kernels: Kernels = "own",
    ) -> None:
        super().__init__()
        self.transp_conv_init = _up(in_channels, out_channels, factors[0], kernels)
        self.blocks = nn.ModuleList(
            nn.Sequential(_up(out_channels, out_channels, f, kernels), Residual(out_channels, out_channels))
            for f in factors[1:]
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, out_channels, ·, ·, ·), larger by all factors, of (B, in_channels, t₁, t₂, t₃)."""
        x = self.transp_conv_init(x)
        for block in self.blocks:
            x = block(x)
        return x


class Decoder(nn.Module):
    """Up-samples by one factor, joins the skip connection, and ends with a residual block (``UnetrUpBlock``).

    Args:
        in_channels: Number of channels of the coarser stage.
        out_channels: Number of channels of this stage, and of the skip connection.
        factors: Up-sampling factor per axis: one, or that of each patch size of a flexible network.
        kernels: As for :class:`ProjectionUp`.
    """

    def __init__(
        self, in_channels: int, out_channels: int, factors: Sequence[IntTriple], kernels: Kernels = "own"
    ) -> None:
        super().__init__()
        self.transp_conv = _up(in_channels, out_channels, factors, kernels)
        self.conv_block = Residual(2 * out_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Return (B, out_channels, ·, ·, ·) of the coarser stage ``x`` and a skip connection of the output's size."""
        out: Tensor = self.conv_block(torch.cat((self.transp_conv(x), skip), dim=1))
        return out


class Classifier(nn.Module):
    """Logits of each voxel: a convolution of 1³ with bias (``UnetOutBlock``).

    Args:
        in_channels: Number of channels.
        out_channels: Number of classes, including background.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = _Conv(in_channels, out_channels, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, out_channels, X, Y, Z) of (B, in_channels, X, Y, Z)."""
        out: Tensor = self.conv(x)
        return out
