"""A tokenizer of convolutions, in stages of stride 2 or 3 with residual blocks between them.

The product of the strides is the patch size.

The linear patch embedding sees a patch as one list of voxels. Here a token is computed in steps, each of which halves
or thirds the resolution, so that edges and texture within a patch reach the transformer. The idea is that of Primus V2
(arXiv 2503.01835), in a form of our own: the number of channels doubles from stage to stage up to the width of a token,
and the norms stay above the resolution of the tokens, where a window may have a single one.
"""

from __future__ import annotations

from torch import Tensor, nn

from patchcore.models.blocks import Residual
from patchcore.types import IntTriple

__all__ = ["ResidualTokenizer", "stage_strides"]


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
            kernel = tuple(1 if step == 1 else 3 for step in stride)
            # A kernel of 3 voxels at stride 3 covers its patch; at stride 2 it also reaches one voxel into another.
            padding = tuple(1 if step == 2 else 0 for step in stride)
            down = nn.Conv3d(before, out, kernel, stride=stride, padding=padding)  # type: ignore[arg-type]
            block = Residual(out, out) if stage < len(strides) - 1 else nn.Identity()
            self.stages.append(nn.Sequential(down, block))

    def forward(self, image: Tensor) -> Tensor:
        """Return (B, width, t₁, t₂, t₃) of windows (B, channels, X, Y, Z)."""
        for stage in self.stages:
            image = stage(image)
        return image
