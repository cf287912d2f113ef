"""Builds networks by name. All have one interface: windows (B, 1, X, Y, Z) in, logits (B, classes, X, Y, Z) out.

``unetr`` is patchcore's own network. The others are published networks from MONAI, for comparison. They use the window
of the plan and ignore its patch size, except MONAI's UNETR, which always has patch size 16. Users name their own
network as ``module:callable``. The trainer must be able to import the module; it does not search the working directory.

This file is long because each network is built by one function here.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from patchcore.config.cost import check_window, patch_triple
from patchcore.config.plan import TargetPlan
from patchcore.config.run import ModelConfig
from patchcore.errors import ConfigError, PatchSizeError
from patchcore.types import IntTriple, Triple

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "NETWORKS",
    "NetworkKind",
    "NetworkRequest",
    "build_network",
    "check_network",
    "make_network",
    "network_kind",
    "window_units",
]


@dataclass(frozen=True)
class NetworkRequest:
    """Sizes that a network is built with; see :func:`make_network`."""

    config: ModelConfig
    in_channels: int
    out_channels: int
    window_size: IntTriple
    patch_size: IntTriple
    spacing: Triple


@dataclass(frozen=True, kw_only=True)
class NetworkKind:
    """A network that can be chosen by name.

    Attributes:
        name: Value of ``model.network``.
        title: Description and source.
        build: Function that builds the network.
        multiple: Every edge of the window must be a multiple of this number of voxels.
        least: Minimum number of cubes of edge `multiple` in a window: instance norm needs more than one voxel at the
            deepest stage.
        supervised: Whether it has coarser outputs for ``model.deep_supervision``.
        transformer: Whether it has a transformer that can be loaded and frozen alone.
        patch: Its only patch edge; None: any patch edge, or no patches.
        check: Function that raises if a window and a patch size do not fit; None: they are independent.
    """

    name: str
    title: str
    build: Callable[[NetworkRequest], Any]
    multiple: int = 1
    least: int = 1
    supervised: bool = False
    transformer: bool = False
    patch: int | None = None
    check: Callable[[IntTriple, IntTriple], None] | None = None


def _unetr(asked: NetworkRequest) -> Any:
    from patchcore.models.unetr import UNETR

    config = asked.config
    return UNETR(
        asked.in_channels,
        asked.out_channels,
        asked.window_size,
        asked.patch_size,
        hidden_size=config.hidden_size,
        mlp_dim=config.mlp_dim,
        num_heads=config.num_heads,
        feature_size=config.feature_size,
        dropout=config.dropout,
        deep_supervision=config.deep_supervision,
        patch_sizes=config.patch_sizes or None,
        base_patch_size=config.base_patch_size,
        embedding=config.embedding,
        kernels=config.kernels,
        tokenizer=config.tokenizer,
    )


def _monai_unetr(asked: NetworkRequest) -> Any:
    from monai.networks.nets import UNETR

    from patchcore.models.unetr import freeze_unused

    config = asked.config
    network = UNETR(
        in_channels=asked.in_channels,
        out_channels=asked.out_channels,
        img_size=asked.window_size,
        feature_size=config.feature_size,
        hidden_size=config.hidden_size,
        mlp_dim=config.mlp_dim,
        num_heads=config.num_heads,
        proj_type="conv",
        norm_name="instance",
        dropout_rate=config.dropout,
    )
    freeze_unused(network.vit)
    return network


def _swin_unetr(asked: NetworkRequest) -> Any:
    from monai.networks.nets import SwinUNETR

    # The published width 48 belongs to feature size 16. Multiples of 12 are divisible by the heads (3, 6, 12, 24) of
    # every stage.
    width = 12 * max(1, round(3 * asked.config.feature_size / 12))
    return SwinUNETR(asked.in_channels, asked.out_channels, feature_size=width, drop_rate=asked.config.dropout)


def _segresnet(asked: NetworkRequest) -> Any:
    from monai.networks.nets import SegResNet

    # The published width 32 belongs to feature size 16. Eight groups must divide every width.
    width = 8 * max(1, round(asked.config.feature_size / 4))
    return SegResNet(init_filters=width, in_channels=asked.in_channels, out_channels=asked.out_channels)


def _topology(window: IntTriple, spacing: Triple) -> tuple[list[IntTriple], list[IntTriple]]:
    """Return strides and kernels of all stages by the rules of nnU-Net.

    A stage pools the axes with spacings within a factor of 2 of the finest one, as long as 4 voxels remain. An axis
    gets kernel edge 3 as soon as its spacing is within a factor of 2 of the finest one. nnU-Net enlarges a window that
    cannot be halved this often; here an odd edge ends the pooling of its axis.
    """
    size, mm, kernel = list(window), list(spacing), [1, 1, 1]
    strides: list[IntTriple] = [(1, 1, 1)]
    kernels: list[IntTriple] = []
    while True:
        axes = [axis for axis in range(3) if size[axis] >= 8 and size[axis] % 2 == 0]
        axes = [axis for axis in axes if mm[axis] / min(mm[other] for other in axes) < 2]
        if not axes or (len(axes) == 1 and size[axes[0]] < 12):
            break
        kernel = [3 if edge == 3 or mm[axis] / min(mm) < 2 else 1 for axis, edge in enumerate(kernel)]
        kernels.append((kernel[0], kernel[1], kernel[2]))
        a, b, c = (2 if axis in axes else 1 for axis in range(3))
        strides.append((a, b, c))
        for axis in axes:
            size[axis] //= 2
            mm[axis] *= 2
    kernels.append((3, 3, 3))
    return strides, kernels


def _dynunet(asked: NetworkRequest) -> Any:
    from monai.networks.nets import DynUNet

    config = asked.config
    strides, kernels = _topology(asked.window_size, asked.spacing)
    if len(strides) < 3:
        raise ConfigError(
            f"window {asked.window_size} cannot be halved often enough for a U-Net of three stages",
            remedy="plan a window with edges that are multiples of 16",
        )
    filters = [min(320, 2 * config.feature_size * 2**stage) for stage in range(len(strides))]
    return DynUNet(
        spatial_dims=3,
        in_channels=asked.in_channels,
        out_channels=asked.out_channels,
        kernel_size=kernels,
        strides=strides,
        upsample_kernel_size=strides[1:],
        filters=filters,
        deep_supervision=config.deep_supervision,
        deep_supr_num=max(1, min(2, len(strides) - 2)),
    )


def _mednext(asked: NetworkRequest) -> Any:
    from monai.networks.nets import MedNeXt

    return MedNeXt(
        init_filters=2 * asked.config.feature_size,
        in_channels=asked.in_channels,
        out_channels=asked.out_channels,
        kernel_size=3,
        use_residual_connection=True,
        deep_supervision=asked.config.deep_supervision,
    )


_KINDS = (
    NetworkKind(
        name="unetr",
        title="UNETR at any patch size (arXiv 2103.10504)",
        build=_unetr,
        supervised=True,
        transformer=True,
        check=check_window,
    ),
    NetworkKind(
        name="monai-unetr",
        title="MONAI's UNETR: patch size 16 (arXiv 2103.10504)",
        build=_monai_unetr,
        multiple=16,
        transformer=True,
        patch=16,
    ),
    NetworkKind(
        name="swin-unetr",
        title="MONAI's SwinUNETR (arXiv 2201.01266)",
        build=_swin_unetr,
        multiple=32,
        least=2,
        transformer=True,
    ),
    NetworkKind(name="segresnet", title="MONAI's SegResNet (arXiv 1810.11654)", build=_segresnet, multiple=8),
    NetworkKind(
        name="dynunet",
        title="MONAI's DynUNet: nnU-Net's 3D U-Net (arXiv 1809.10486)",
        build=_dynunet,
        supervised=True,
    ),
    NetworkKind(
        name="mednext",
        title="MONAI's MedNeXt (arXiv 2303.09975)",
        build=_mednext,
        multiple=16,
        least=2,
        supervised=True,
    ),
)
NETWORKS: dict[str, NetworkKind] = {kind.name: kind for kind in _KINDS}


def network_kind(name: str) -> NetworkKind:
    """Return a network by its name, or the user's own network by ``module:callable``.

    Raises:
        ConfigError: The name is unknown, or the module cannot be imported.
    """
    if name in NETWORKS:
        return NETWORKS[name]
    module_name, colon, attribute = name.partition(":")
    if not (colon and module_name and attribute):
        raise ConfigError(
            f"model.network {name!r} is unknown",
            found=name,
            expected=tuple(NETWORKS),
            remedy=f"legal: {', '.join(NETWORKS)}, or module:callable",
        )
    try:
        build = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"model.network {name!r} cannot be imported ({error})",
            found=name,
            remedy="install the module, or add its folder to PYTHONPATH",
        ) from None

    def own(asked: NetworkRequest) -> Any:
        network = build(
            in_channels=asked.in_channels,
            out_channels=asked.out_channels,
            window_size=asked.window_size,
            patch_size=asked.patch_size,
        )
        _check_own(network, name, asked)
        return network

    return NetworkKind(name=name, title="the user's own network", build=own)


def window_units(networks: Iterable[str]) -> list[IntTriple]:
    """Return the edges that a window must be a multiple of for these networks, as sizes for ``Plan.fitting``.

    Raises:
        ConfigError: A name is unknown.
    """
    multiples = sorted({network_kind(name).multiple for name in networks} - {1})
    return [(multiple, multiple, multiple) for multiple in multiples]


def check_network(config: ModelConfig, window_size: IntTriple, patch_size: IntTriple) -> NetworkKind:
    """Return the network that a configuration names, after checks that need no torch.

    Raises:
        ConfigError: The network is unknown, or has no deep supervision.
        PatchSizeError: The network cannot have this patch size or window.
    """
    kind = network_kind(config.network)
    fitting = [math.ceil(edge / kind.multiple) * kind.multiple for edge in window_size]
    if math.prod(fitting) < kind.least * kind.multiple**3:
        fitting[0] = kind.least * kind.multiple
    if fitting != list(window_size):
        raise PatchSizeError(
            f"{kind.name} needs window edges that are multiples of {kind.multiple}"
            f"{f', and at least {kind.least} cubes of that edge' if kind.least > 1 else ''}; found {window_size}",
            found=window_size,
            remedy=f"plan with --window {','.join(map(str, fitting))}",
        )
    if kind.check is not None:
        kind.check(window_size, patch_size)
    sizes = tuple(map(patch_triple, config.patch_sizes))
    for size in sizes if config.base_patch_size is None else (*sizes, patch_triple(config.base_patch_size)):
        check_window(window_size, size)
    if sizes and patch_size not in sizes:
        raise PatchSizeError(
            f"the plan's patch size {patch_size} is not among model.patch_sizes",
            found=patch_size,
            expected=sizes,
            remedy="add it, or plan with --candidates and one of them",
        )
    if kind.patch is not None and patch_size != (kind.patch,) * 3:
        raise PatchSizeError(
            f"{kind.name} has patch size {kind.patch}, the plan has {patch_size}",
            found=patch_size,
            expected=(kind.patch,) * 3,
            remedy=f"plan with --candidates {kind.patch}, or use model.network=unetr",
        )
    if config.deep_supervision and not kind.supervised:
        able = ", ".join(other.name for other in _KINDS if other.supervised)
        raise ConfigError(f"{kind.name} has no outputs for model.deep_supervision", remedy=f"use one of {able}")
    return kind


def make_network(
    config: ModelConfig,
    *,
    out_channels: int,
    window_size: IntTriple,
    patch_size: IntTriple,
    spacing: Triple,
    in_channels: int = 1,
) -> nn.Module:
    """Build the network that a configuration names. Its weights are drawn from torch's random generator.

    Args:
        config: The configuration: ``network`` and its sizes.
        out_channels: Number of classes, including background.
        window_size: Window size, voxels per axis.
        patch_size: Patch size of the plan; only UNETR uses it.
        spacing: mm per voxel, for networks that pool coarse axes later.
        in_channels: Number of channels of the image.

    Raises:
        ConfigError: The network is unknown, has no deep supervision or no checkpointing, or a user's own network does
            not work: it is tested on a window of zeros.
        PatchSizeError: The network cannot have this patch size or window.

    Example:
        >>> tiny = ModelConfig(network="segresnet", feature_size=8)
        >>> network = make_network(tiny, out_channels=2, window_size=(16,) * 3, patch_size=(8,) * 3, spacing=(1.0,) * 3)
        >>> type(network).__name__
        'SegResNet'
    """
    kind = check_network(config, window_size, patch_size)
    network: nn.Module = kind.build(NetworkRequest(config, in_channels, out_channels, window_size, patch_size, spacing))
    if config.checkpointing:
        from patchcore.models.checkpointing import checkpoint_activations

        checkpoint_activations(network, kind.name)
    return network


def _check_own(network: Any, name: str, asked: NetworkRequest) -> None:
    """Check that the object returned by a user's callable is a network with the right output shape."""
    import torch

    if not isinstance(network, torch.nn.Module):
        kind = type(network).__name__
        raise ConfigError(f"{name} returned a {kind}, expected a torch.nn.Module", found=kind)
    window = asked.window_size
    generator = torch.get_rng_state()
    network.eval()
    try:
        with torch.no_grad():
            found = network(torch.zeros(1, asked.in_channels, *window))
    except Exception as error:
        raise ConfigError(f"{name} cannot segment a window of {window} ({type(error).__name__}: {error})") from error
    finally:
        network.train()
        torch.set_rng_state(generator)
    shape = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
    expected = (1, asked.out_channels, *window)
    if shape != expected:
        raise ConfigError(
            f"{name} returned {shape} for a window of {window}, expected {expected}", found=shape, expected=expected
        )


def build_network(target: TargetPlan, config: ModelConfig) -> nn.Module:
    """Build a network for the plan's patch size, window and classes, with random weights from torch's generator.

    Raises:
        PatchSizeError: The network cannot have the plan's patch size or window. The message names legal values.
        ConfigError: The network is unknown, or lacks a requested feature.
    """
    return make_network(
        config,
        out_channels=len(target.classes) + 1,
        window_size=target.window_size,
        patch_size=target.patch_size,
        spacing=target.spacing,
    )
