"""Tokenizers of convolutions, in stages of some stride with residual blocks between them.

The product of the strides is the patch size.

The linear patch embedding sees a patch as one list of voxels. Here a token is computed in steps, each of which halves
or thirds the resolution, so that edges and texture within a patch reach the transformer. The idea is that of Primus V2
(arXiv 2503.01835), in a form of our own: the number of channels doubles from stage to stage up to the width of a token,
and the norms stay above the resolution of the tokens, where a window may have a single one.

The *pyramid* has the strides of the up-sampling stages, in reverse. It starts from the features at full resolution, and
each of its stages also feeds the skip connection of its resolution. The image then reaches every decoder stage in the
way it does in a U-Net, and the transformer sees what all of it has in common.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from patchcore.config.patches import Tokenizer, stage_strides, upsampling_factors
from patchcore.models.blocks import Residual
from patchcore.types import IntTriple

__all__ = ["PyramidTokenizer", "ResidualTokenizer", "make_tokenizer"]


def make_tokenizer(kind: Tokenizer, channels: int, width: int, patch_size: IntTriple, feature_size: int) -> nn.Module:
    """Return what computes a token from a patch.

    Args:
        kind: Kind of the tokenizer.
        channels: Number of channels of its input.
        width: Width of a token.
        patch_size: Edges of a patch, voxels.
        feature_size: Number of channels at full resolution of the network.
    """
    if kind == "linear":
        return nn.Conv3d(channels, width, patch_size, stride=patch_size)
    if kind == "residual":
        return ResidualTokenizer(channels, width, patch_size, feature_size)
    return PyramidTokenizer(channels, width, patch_size, feature_size)


def _down(channels: int, width: int, stride: IntTriple) -> nn.Conv3d:
    """Return a convolution that reduces the resolution by the stride."""
    # A kernel of 3 voxels at stride 3, or 4 at stride 4, covers its patch; at stride 2 it also reaches one voxel
    # into another.
    kernel = tuple(3 if step == 2 else step for step in stride)
    padding = tuple(1 if step == 2 else 0 for step in stride)
    return nn.Conv3d(channels, width, kernel, stride=stride, padding=padding)  # type: ignore[arg-type]


class ResidualTokenizer(nn.Module):
    """Computes one token per patch.

    Args:
        channels: Number of channels of the image.
        width: Width of a token.
        patch_size: Edges of a patch, voxels: products of 2 and 3.
        feature_size: Half of the number of channels after the first stage.
    """

    def __init__(self, channels: int, width: int, patch_size: IntTriple, feature_size: int) -> None:
        super().__init__()
        strides = stage_strides(patch_size)
        widths = [min(width, feature_size * 2 ** (stage + 1)) for stage in range(len(strides) - 1)] + [width]
        self.stages = nn.ModuleList()
        for stage, (stride, out) in enumerate(zip(strides, widths, strict=True)):
            before = channels if stage == 0 else widths[stage - 1]
            down = _down(before, out, stride)
            block = Residual(out, out) if stage < len(strides) - 1 else nn.Identity()
            self.stages.append(nn.Sequential(down, block))

    def forward(self, image: Tensor) -> Tensor:
        """Return (B, width, t₁, t₂, t₃) of windows (B, channels, X, Y, Z)."""
        for stage in self.stages:
            image = stage(image)
        return image


class PyramidTokenizer(nn.Module):
    """Computes one token per patch, and features for the skip connections.

    Args:
        channels: Number of channels of its input.
        width: Width of a token.
        patch_size: Edges of a patch, voxels.
        feature_size: Number of channels at full resolution; the stages have 2, 4 and 8 times as many.
    """

    def __init__(self, channels: int, width: int, patch_size: IntTriple, feature_size: int) -> None:
        super().__init__()
        deepest, *others = upsampling_factors(patch_size)
        self.stages = nn.ModuleList()
        for number, stride in enumerate(reversed(others), 1):
            if math.prod(stride) == 1:
                # Small patches need fewer stages: the tokens have this resolution already.
                break
            out = feature_size * 2**number
            self.stages.append(nn.Sequential(_down(channels, out, stride), Residual(out, out)))
            channels = out
        self.token = _down(channels, width, deepest)

    def forward(self, x: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """Return tokens and features of windows.

        Args:
            x: (B, channels, X, Y, Z).

        Returns:
            (B, width, t₁, t₂, t₃), and the features of at most three stages, finest first: (B, 2f, ·, ·, ·),
            (B, 4f, ·, ·, ·), (B, 8f, ·, ·, ·) with the feature size f.
        """
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return self.token(x), features
