"""The vision transformer of UNETR: patch embedding, positions and blocks, with MONAI's parameter names.

It equals ``monai.networks.nets.ViT`` with ``proj_type="conv"``, initial weights of a seed included. MONAI's is not used
for two reasons: ``import monai`` takes longer than all other imports of a training, and the patch size is a part that
patchcore changes.

Source: Dosovitskiy et al., "An Image is Worth 16x16 Words" (arXiv 2010.11929).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from patchcore.config.patches import Tokenizer
from patchcore.models.attention import SelfAttention
from patchcore.models.flexible import FlexibleEmbedding, FlexiblePatchEmbedding, embed
from patchcore.models.tokenizer import make_tokenizer
from patchcore.types import IntTriple

__all__ = ["ViT"]

_POSITION_STD = 0.02
_POSITION_LIMIT = 2.0


def _draw_positions(positions: Tensor) -> None:
    """Draw positions that are normally distributed, by the inverse of the distribution function, as in MONAI."""
    with torch.no_grad():
        normal = positions.uniform_(-1, 1).erfinv_()
        normal.mul_(_POSITION_STD * math.sqrt(2)).clamp_(-_POSITION_LIMIT, _POSITION_LIMIT)


class _PatchEmbedding(nn.Module):
    """One token per patch, by default a convolution with the patch as kernel and stride, plus a learned position."""

    def __init__(self, embed: nn.Module, tokens: int, width: int, dropout: float) -> None:
        super().__init__()
        self.patch_embeddings = embed
        self.position_embeddings = nn.Parameter(torch.zeros(1, tokens, width))
        self.dropout = nn.Dropout(dropout)
        _draw_positions(self.position_embeddings)

    def forward(self, image: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        return embed(self.patch_embeddings, image, self.position_embeddings, self.dropout)


class _MLP(nn.Module):
    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width)
        self.fn = nn.GELU()
        self.drop1 = nn.Dropout(dropout)
        self.drop2 = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.drop2(self.linear2(self.drop1(self.fn(self.linear1(x)))))
        return out


class _Block(nn.Module):
    """Self-attention and an MLP, each after a layer norm and with a residual connection."""

    def __init__(self, width: int, mlp_dim: int, heads: int, dropout: float, *, qkv_bias: bool) -> None:
        super().__init__()
        self.mlp = _MLP(width, mlp_dim, dropout)
        self.norm1 = nn.LayerNorm(width)
        out_proj, qkv = nn.Linear(width, width), nn.Linear(width, 3 * width, bias=qkv_bias)
        self.attn = SelfAttention(qkv, out_proj, num_heads=heads, dropout=dropout)
        self.norm2 = nn.LayerNorm(width)
        # Unused. MONAI's block has it, so MONAI's weights load, and weights from here load in MONAI.
        self.norm_cross_attn = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class ViT(nn.Module):
    """A transformer over the patches of a window.

    Args:
        in_channels: Number of channels of the image.
        window_size: Edges of the window, voxels.
        patch_size: Edges of a patch, voxels; they divide ``window_size``.
        hidden_size: Width of a token.
        mlp_dim: Hidden width of an MLP.
        num_layers: Number of blocks.
        num_heads: Number of attention heads; divides ``hidden_size``.
        dropout: Dropout rate in training.
        qkv_bias: Whether queries, keys and values have a bias.
        sizes: Patch sizes of a flexible network; none or one: only ``patch_size``.
        base: With several sizes: that of the stored positions, and of a shared embedding [default: ``patch_size``].
        embedding: With several sizes: see :mod:`patchcore.models.flexible`.
        tokenizer: Kind of the tokenizer.
        feature_size: Feature size of tokenizers of several stages, see :mod:`patchcore.models.tokenizer`.

    Example:
        >>> import torch
        >>> vit = ViT(1, (8, 8, 8), (4, 4, 4), hidden_size=12, mlp_dim=24, num_layers=2, num_heads=2)
        >>> last, blocks, _ = vit(torch.zeros(1, 1, 8, 8, 8))
        >>> last.shape, len(blocks)
        (torch.Size([1, 8, 12]), 2)
    """

    def __init__(
        self,
        in_channels: int,
        window_size: IntTriple,
        patch_size: IntTriple,
        *,
        hidden_size: int,
        mlp_dim: int,
        num_layers: int,
        num_heads: int,
        dropout: float = 0.0,
        qkv_bias: bool = False,
        sizes: Sequence[IntTriple] = (),
        base: IntTriple | None = None,
        embedding: FlexibleEmbedding = "own",
        tokenizer: Tokenizer = "linear",
        feature_size: int = 16,
    ) -> None:
        super().__init__()
        tokens = math.prod(w // p for w, p in zip(window_size, patch_size, strict=True))
        make = partial(make_tokenizer, tokenizer, in_channels, hidden_size, feature_size=feature_size)
        self.patch_embedding: nn.Module
        if len(sizes) > 1:
            self.patch_embedding = FlexiblePatchEmbedding(
                in_channels,
                window_size,
                sizes,
                base or patch_size,
                width=hidden_size,
                dropout=dropout,
                embedding=embedding,
                own={size: make(size) for size in sizes} if embedding == "own" else {},
            )
            _draw_positions(self.patch_embedding.position_embeddings)
        else:
            self.patch_embedding = _PatchEmbedding(make(patch_size), tokens, hidden_size, dropout)
        self.blocks = nn.ModuleList(
            _Block(hidden_size, mlp_dim, num_heads, dropout, qkv_bias=qkv_bias) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(hidden_size)

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor], Sequence[Tensor]]:
        """Compute the tokens of windows.

        Args:
            image: (B, in_channels, X, Y, Z) with X, Y, Z = ``window_size``, floating point.

        Returns:
            (B, T, hidden_size) after the last block and a layer norm, the (B, T, hidden_size) of every block, and the
            features that a pyramid has for the skip connections; other tokenizers have none.
        """
        x, features = self.patch_embedding(image)
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        return self.norm(x), outputs, features
