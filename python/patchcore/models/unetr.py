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

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from patchcore.config.cost import LAYERS, check_window, patch_triple, token_grid, upsampling_factors, window_triple
from patchcore.config.patches import Tokenizer
from patchcore.errors import ConfigError, PatchSizeError, ShapeMismatchError
from patchcore.models.blocks import Classifier, Decoder, Encoder, ProjectionUp
from patchcore.models.flexible import AtSize, FlexibleEmbedding, FlexiblePatchEmbedding, FlexibleTransposed, Kernels
from patchcore.models.vit import ViT
from patchcore.models.weights import resample_kernel
from patchcore.types import IntTriple

__all__ = ["UNETR", "at_each_size", "flexible_sizes", "freeze_unused", "trainable_parameters"]

_SKIPS = (3, 6, 9)
"""Transformer blocks, counted from 0. Their outputs feed encoder2, encoder3 and encoder4."""
_EMBEDDING = "vit.patch_embedding"
_UP_SAMPLINGS = (
    *((f"encoder{number}.transp_conv_init", 0) for number in (2, 3, 4)),
    *(("encoder2.blocks.0.0", 1), ("encoder2.blocks.1.0", 2), ("encoder3.blocks.0.0", 1)),
    *((f"decoder{number}.transp_conv", 5 - number) for number in (5, 4, 3, 2)),
)
"""Names of the up-samplings, each with its stage."""


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
        patch_sizes: Patch sizes of a *flexible* network, which can be set to any of them with :meth:`use`; it begins
            with ``patch_size``, which is one of them. None: only ``patch_size``.
        base_patch_size: In a flexible network: patch size of the stored positions, and of a shared embedding
            [default: ``patch_size``].
        embedding: In a flexible network: ``own``, ``transposed`` or ``pseudo-inverse``; see
            :mod:`patchcore.models.flexible`.
        kernels: In a flexible network: ``own`` or ``shared`` up-sampling kernels.
        tokenizer: ``linear``: a patch becomes a token by one convolution; ``residual``: by stages of convolutions;
            ``pyramid``: by stages that start from ``encoder1`` and are added to the skip connections, see
            :mod:`patchcore.models.tokenizer`.

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
        >>> sizes = {"hidden_size": 48, "mlp_dim": 96, "num_heads": 4, "feature_size": 4}
        >>> flexible = UNETR(1, 2, 48, 12, patch_sizes=[8, 12, 24], **sizes)
        >>> flexible.use(8).token_grid, flexible.use(24).token_grid
        ((6, 6, 6), (2, 2, 2))
        >>> flexible.fixed(24).patch_size
        (24, 24, 24)
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
        patch_sizes: Sequence[int | Sequence[int]] | None = None,
        base_patch_size: int | Sequence[int] | None = None,
        embedding: FlexibleEmbedding = "own",
        kernels: Kernels = "own",
        tokenizer: Tokenizer = "linear",
    ) -> None:
        super().__init__()
        check_window(window_size, patch_size)
        if tokenizer != "linear" and embedding != "own":
            raise ConfigError(
                f"a {tokenizer} tokenizer cannot be resampled to another patch size: embedding is {embedding}",
                remedy="use embedding own",
            )
        sizes = tuple(dict.fromkeys(map(patch_triple, patch_sizes or (patch_size,))))
        for size in sizes:
            check_window(window_size, size)
        base = patch_triple(patch_size if base_patch_size is None else base_patch_size)
        check_window(window_size, base)
        if patch_triple(patch_size) not in sizes:
            raise PatchSizeError(
                f"patch size {patch_triple(patch_size)} is not among the patch sizes {sizes}",
                found=patch_size,
                expected=sizes,
                remedy="add it to them",
            )
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
        self.patch_sizes = sizes
        self.token_grid = token_grid(window_size, patch_size)
        self._widths: dict[str, Any] = {
            "hidden_size": hidden_size,
            "mlp_dim": mlp_dim,
            "num_heads": num_heads,
            "feature_size": feature_size,
            "dropout": dropout,
            "qkv_bias": qkv_bias,
            "deep_supervision": deep_supervision,
            "tokenizer": tokenizer,
        }
        # For each stage the factor of every size.
        up = list(zip(*(upsampling_factors(size) for size in sizes), strict=True))
        h, f = hidden_size, feature_size

        self.vit = ViT(
            f if tokenizer == "pyramid" else in_channels,
            self.window_size,
            self.patch_size,
            hidden_size=h,
            mlp_dim=mlp_dim,
            num_layers=LAYERS,
            num_heads=num_heads,
            dropout=dropout,
            qkv_bias=qkv_bias,
            sizes=sizes,
            base=base,
            embedding=embedding,
            tokenizer=tokenizer,
            feature_size=feature_size,
        )
        freeze_unused(self.vit)
        self.encoder1 = Encoder(in_channels, f)
        self.encoder2 = ProjectionUp(h, 2 * f, up[:3], kernels)
        self.encoder3 = ProjectionUp(h, 4 * f, up[:2], kernels)
        self.encoder4 = ProjectionUp(h, 8 * f, up[:1], kernels)
        self.decoder5 = Decoder(h, 8 * f, up[0], kernels)
        self.decoder4 = Decoder(8 * f, 4 * f, up[1], kernels)
        self.decoder3 = Decoder(4 * f, 2 * f, up[2], kernels)
        self.decoder2 = Decoder(2 * f, f, up[3], kernels)
        self.out = Classifier(f, out_channels)
        # Finest first. Without deep supervision, the state dict equals MONAI's.
        self.supervision = nn.ModuleList(
            Classifier(width, out_channels) for width in ((2 * f, 4 * f) if deep_supervision else ())
        )

        if self.is_flexible:
            self.use(self.patch_size)

    @property
    def is_flexible(self) -> bool:
        """Whether the network has several patch sizes."""
        return len(self.patch_sizes) > 1

    def use(self, patch_size: int | Sequence[int]) -> UNETR:
        """Set the patch size of the next calls, and return this network.

        Raises:
            PatchSizeError: The network does not have this patch size.
        """
        size = patch_triple(patch_size)
        if size not in self.patch_sizes:
            raise PatchSizeError(
                f"this network has no patch size {size}",
                found=size,
                expected=self.patch_sizes,
                remedy=f"use one of {', '.join(map(str, self.patch_sizes))}",
            )
        self.patch_size, self.token_grid = size, token_grid(self.window_size, size)
        if self.is_flexible:
            self._embedding.size = size
            for _, module, stage in self._stages():
                module.factor = upsampling_factors(size)[stage]
        return self

    def fixed(self, patch_size: int | Sequence[int]) -> UNETR:
        """Return a network of one of the patch sizes that gives the same output, with copies of the weights.

        Raises:
            PatchSizeError: The network does not have this patch size.
        """
        before = self.patch_size
        size = self.use(patch_size).patch_size
        self.use(before)
        network = UNETR(self.in_channels, self.out_channels, self.window_size, size, **self._widths)
        network.load_state_dict(self.fixed_state(size))
        return network.to(next(self.parameters()).device).train(self.training)

    def fixed_state(self, size: IntTriple) -> dict[str, Tensor]:
        """Return the state dict of the fixed network of one of the patch sizes; its tensors are shared or computed."""
        if not self.is_flexible:
            return self.state_dict()
        stages = self._stages()
        own = (f"{_EMBEDDING}.", *(f"{name}." for name, _, _ in stages))
        state = {name: value for name, value in self.state_dict().items() if not name.startswith(own)}
        with torch.no_grad():
            for name, value in self._embedding.state_of(size).items():
                state[f"{_EMBEDDING}.patch_embeddings.{name}"] = value.detach()
            state[f"{_EMBEDDING}.position_embeddings"] = self._embedding.positions(size).detach()
            for name, module, stage in stages:
                state[f"{name}.conv.weight"] = module.kernel(upsampling_factors(size)[stage]).detach()
        return state

    def load_fixed(self, size: IntTriple, state: Mapping[str, Tensor], *, all_parts: bool) -> None:
        """Take over weights of a fixed network of one of the patch sizes.

        Args:
            size: The patch size.
            state: The state dict of the fixed network; what it lacks stays as it is.
            all_parts: Whether also the parts that all sizes share are taken over; else only those of this size alone.
        """
        embedding, stages = self._embedding, self._stages()
        differing = (f"{_EMBEDDING}.", *(f"{name}." for name, _, _ in stages))
        with torch.no_grad():
            if all_parts:
                own = self.state_dict()
                for name, value in state.items():
                    if name in own and not name.startswith(differing):
                        own[name].copy_(value)
                if f"{_EMBEDDING}.position_embeddings" in state:
                    embedding.take_positions(state[f"{_EMBEDDING}.position_embeddings"], size)
            if embedding.maps is None:
                for name, value in embedding.state_of(size).items():
                    if (given := state.get(f"{_EMBEDDING}.patch_embeddings.{name}")) is not None:
                        value.copy_(given)
            elif all_parts:
                embedding.take_kernel(state, f"{_EMBEDDING}.patch_embeddings")
            for name, module, stage in stages:
                kernel = state.get(f"{name}.conv.weight")
                if kernel is None:
                    continue
                if module.maps is None:
                    module.stored(upsampling_factors(size)[stage]).copy_(kernel)
                elif all_parts:
                    module.stored(module.largest).copy_(resample_kernel(kernel, module.largest))

    def take_equal(self, other: UNETR, *, prefixes: tuple[str, ...] = ("",)) -> None:
        """Copy the weights of another flexible network that have the same name and shape here.

        Args:
            other: The other network.
            prefixes: Beginnings of the names to copy [default: all].
        """
        positions = f"{_EMBEDDING}.position_embeddings"
        own = self.state_dict()
        with torch.no_grad():
            for name, value in other.state_dict().items():
                if name not in own or own[name].shape != value.shape or not name.startswith(prefixes):
                    continue
                if name == positions and self._embedding.base_grid != other._embedding.base_grid:
                    continue
                own[name].copy_(value)

    def _stages(self) -> list[tuple[str, Any, int]]:
        """Return the up-samplings that differ between patch sizes: name, module and stage."""
        named = [(name, self.get_submodule(name), stage) for name, stage in _UP_SAMPLINGS]
        return [one for one in named if isinstance(one[1], FlexibleTransposed)]

    @property
    def _embedding(self) -> FlexiblePatchEmbedding:
        embedding = self.vit.patch_embedding
        assert isinstance(embedding, FlexiblePatchEmbedding)
        return embedding

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
        finest = self.encoder1(image)
        last, blocks, features = self.vit(finest if self._widths["tokenizer"] == "pyramid" else image)
        encoders = (self.encoder2, self.encoder3, self.encoder4)
        skips = [encoder(self._grid(blocks[i])) for encoder, i in zip(encoders, _SKIPS, strict=True)]
        for number, feature in enumerate(features):
            skips[number] = skips[number] + feature
        x = self.decoder5(self._grid(last), skips[2])
        coarse = self.decoder4(x, skips[1])
        fine = self.decoder3(coarse, skips[0])
        logits: Tensor = self.out(self.decoder2(fine, finest))
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


def flexible_sizes(network: nn.Module) -> tuple[IntTriple, ...]:
    """Return the patch sizes of a flexible network; an empty tuple for any other network."""
    return network.patch_sizes if isinstance(network, UNETR) and network.is_flexible else ()


def at_each_size(network: nn.Module, first: IntTriple | None = None) -> dict[IntTriple, nn.Module]:
    """Return a flexible network at each of its patch sizes, `first` at the beginning; nothing for any other one."""
    sizes = sorted(flexible_sizes(network), key=lambda size: size != first)
    return {size: AtSize(network, size) for size in sizes}
