"""UNETR at any patch size.

Shape legend:
    B  batch              X, Y, Z  window, voxels    p  patch edge per axis    t  tokens per axis, window / p
    T  tokens, t₁·t₂·t₃   h  hidden size             f  feature size           s₁ … s₄  up-sampling factors

    image (B, C, X, Y, Z)
      ├─ encoder1 ──────────────────────────────────► (B,  f, X, Y, Z)      ─► decoder2
      └─ vit: 12 blocks of (B, T, h)
           ├─ block  4 ─ encoder2, up by s₁, s₂, s₃ ► (B, 2f, t·s₁·s₂·s₃)   ─► decoder3
           ├─ block  7 ─ encoder3, up by s₁, s₂ ────► (B, 4f, t·s₁·s₂)      ─► decoder4
           ├─ block 10 ─ encoder4, up by s₁ ────────► (B, 8f, t·s₁)         ─► decoder5
           └─ block 12, norm ───────────────────────► (B,  h, t)            ─► decoder5

    A decoder stage up-samples by its own factor (decoder5 by s₁, decoder2 by s₄), concatenates its skip connection and
    ends with a residual block. Per axis s₁·s₂·s₃·s₄ = p; see :mod:`patchcore.config.cost`.

Source: Hatamizadeh et al., "UNETR: Transformers for 3D Medical Image Segmentation", WACV 2022 (arXiv 2103.10504). The
paper and MONAI build it only for p = 16. For p = 16 this network equals MONAI's: same parameter names, same output.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from patchcore.config.cost import LAYERS, check_window, patch_triple, token_grid, upsampling_factors, window_triple
from patchcore.errors import ConfigError, ShapeMismatchError
from patchcore.models.blocks import Classifier, Decoder, Encoder, ProjectionUp
from patchcore.models.vit import ViT

__all__ = ["UNETR", "freeze_unused", "trainable_parameters"]

_SKIPS = (3, 6, 9)
"""Transformer blocks, counted from 0. Their outputs feed encoder2, encoder3 and encoder4."""


class UNETR(nn.Module):
    """A vision transformer over patches of any legal size, with a convolutional decoder.

    The patch size changes only the token grid, the embedding kernel and the up-sampling kernels. On the CPU,
    activations are channels-last in memory, whatever the memory format of the weights.

    Args:
        in_channels: Number of channels of the image.
        out_channels: Number of classes, including background.
        window_size: Edge of the input window, voxels; one number, or one per axis.
        patch_size: Edge of a patch, voxels; one number, or one per axis. Must divide ``window_size``.
        hidden_size: Width of a token.
        mlp_dim: Hidden width of a transformer MLP.
        num_heads: Number of attention heads; must divide ``hidden_size``.
        feature_size: Number of channels at full resolution.
        dropout: Dropout rate in the transformer during training.
        qkv_bias: Whether queries, keys and values have a bias.
        deep_supervision: During training, also return logits of the two decoder stages before the last.

    Raises:
        PatchSizeError: The patch size is not a product of four factors from 1 to 4, or does not divide the window. The
            message names legal sizes.
        ConfigError: ``num_heads`` does not divide ``hidden_size``, ``dropout`` lies outside [0, 1), or a
            width is not positive.

    Example:
        >>> import torch
        >>> model = UNETR(1, 2, 48, 12, hidden_size=48, mlp_dim=96, num_heads=4, feature_size=4)
        >>> model(torch.zeros(1, 1, 48, 48, 48)).shape
        torch.Size([1, 2, 48, 48, 48])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        window_size: int | Sequence[int],
        patch_size: int | Sequence[int],
        *,
        hidden_size: int = 768,
        mlp_dim: int = 3072,
        num_heads: int = 12,
        feature_size: int = 16,
        dropout: float = 0.0,
        qkv_bias: bool = False,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        check_window(window_size, patch_size)
        widths = {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "hidden_size": hidden_size,
            "mlp_dim": mlp_dim,
            "num_heads": num_heads,
            "feature_size": feature_size,
        }
        for name, width in widths.items():
            if width < 1:
                raise ConfigError(f"{name} {width} must be at least 1", found=width)
        if hidden_size % num_heads:
            raise ConfigError(f"num_heads {num_heads} does not divide hidden_size {hidden_size}")
        if not 0 <= dropout < 1:
            raise ConfigError(f"dropout {dropout} must lie in [0, 1)", found=dropout)

        self.in_channels = in_channels
        self.out_channels = out_channels
        self.window_size = window_triple(window_size)
        self.patch_size = patch_triple(patch_size)
        self.token_grid = token_grid(window_size, patch_size)
        up = upsampling_factors(patch_size)
        h, f = hidden_size, feature_size

        self.vit = ViT(
            in_channels,
            self.window_size,
            self.patch_size,
            hidden_size=h,
            mlp_dim=mlp_dim,
            num_layers=LAYERS,
            num_heads=num_heads,
            dropout=dropout,
            qkv_bias=qkv_bias,
        )
        freeze_unused(self.vit)
        self.encoder1 = Encoder(in_channels, f)
        self.encoder2 = ProjectionUp(h, 2 * f, up[:3])
        self.encoder3 = ProjectionUp(h, 4 * f, up[:2])
        self.encoder4 = ProjectionUp(h, 8 * f, up[:1])
        self.decoder5 = Decoder(h, 8 * f, up[0])
        self.decoder4 = Decoder(8 * f, 4 * f, up[1])
        self.decoder3 = Decoder(4 * f, 2 * f, up[2])
        self.decoder2 = Decoder(2 * f, f, up[3])
        self.out = Classifier(f, out_channels)
        # Finest first. Without deep supervision, the state dict equals MONAI's.
        self.supervision = nn.ModuleList(
            Classifier(width, out_channels) for width in ((2 * f, 4 * f) if deep_supervision else ())
        )

    def _grid(self, tokens: Tensor) -> Tensor:
        """Reshape (B, T, h) tokens to (B, h, t₁, t₂, t₃): a view, channels-last in memory."""
        return tokens.reshape(tokens.shape[0], *self.token_grid, tokens.shape[2]).permute(0, 4, 1, 2, 3)

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Segment windows.

        Args:
            image: (B, in_channels, X, Y, Z) with X, Y, Z = ``window_size``, floating point, scaled
                intensities.

        Returns:
            Logits (B, out_channels, X, Y, Z). With deep supervision during training: a tuple of these logits and the
            logits of two coarser stages, each (B, out_channels, ·, ·, ·).

        Raises:
            ShapeMismatchError: The image has a different shape.
        """
        expected = (self.in_channels, *self.window_size)
        if image.ndim != 5 or tuple(image.shape[1:]) != expected:
            raise ShapeMismatchError(
                f"image has shape {tuple(image.shape)}, this network expects (batch, {', '.join(map(str, expected))})",
                found=tuple(image.shape),
                expected=expected,
            )
        last, blocks = self.vit(image)
        skips = [self._grid(blocks[i]) for i in _SKIPS]
        x = self.decoder5(self._grid(last), self.encoder4(skips[2]))
        coarse = self.decoder4(x, self.encoder3(skips[1]))
        fine = self.decoder3(coarse, self.encoder2(skips[0]))
        logits: Tensor = self.out(self.decoder2(fine, self.encoder1(image)))
        if self.training and len(self.supervision):
            return logits, self.supervision[0](fine), self.supervision[1](coarse)
        return logits


def freeze_unused(vit: nn.Module) -> None:
    """Freeze weights that a forward pass of MONAI's ViT never uses; distributed training would wait for gradients."""
    for block in vit.get_submodule("blocks").children():
        block.norm_cross_attn.requires_grad_(False)


def trainable_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Return the parameters for an optimiser: the parameters that need a gradient, in the order of the state dict.

    Args:
        network: Any module.
    """
    return [parameter for parameter in network.parameters() if parameter.requires_grad]
