"""``patchcore models``: show the size and cost of a UNETR for each patch size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, get_args

import typer

from patchcore.cli.values import int_triple, triple
from patchcore.config.patches import Tokenizer
from patchcore.errors import ConfigError
from patchcore.types import IntTriple, Triple

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["models"]


def models(
    window: Annotated[
        str, typer.Option("--window", help="Window size a,b,c, or one number for all axes [voxels].")
    ] = "96",
    patch_size: Annotated[
        list[str] | None,
        typer.Option(
            "--patch-size",
            help="Patch size a,b,c, or one number for all axes [voxels]; may be repeated [default: 8, 12, 16, 24].",
        ),
    ] = None,
    preset: Annotated[str, typer.Option("--preset", help="Size of the network: tiny, small or base.")] = "base",
    tokenizer: Annotated[
        str, typer.Option("--tokenizer", help="How a patch becomes a token: linear, residual or pyramid.")
    ] = "linear",
    networks: Annotated[
        bool, typer.Option("--networks", help="Show a table of all networks (values of model.network) instead.")
    ] = False,
    spacing: Annotated[
        str, typer.Option("--spacing", help="Spacing a,b,c [mm], for networks that pool coarse axes later.")
    ] = "1,1,1",
) -> None:
    """Show the size and cost of UNETR per patch size.

    With --networks: parameters and activations of all networks instead.

    GFLOP is the forward pass of one window; attention is its share of these FLOP. Activations is the memory that one
    window keeps for the backward pass in float32, and in brackets the same with model.checkpointing. bfloat16 needs
    about half of it.
    """
    from rich.console import Console
    from rich.table import Table

    from patchcore.config.cost import network_cost, upsampling_factors
    from patchcore.config.run import MODEL_PRESETS

    if preset not in MODEL_PRESETS:
        raise ConfigError(
            f"--preset {preset!r} is unknown",
            found=preset,
            expected=tuple(MODEL_PRESETS),
            remedy=f"use one of {', '.join(MODEL_PRESETS)}",
        )
    kinds: tuple[Tokenizer, ...] = get_args(Tokenizer)
    kind = next((one for one in kinds if one == tokenizer), None)
    if kind is None:
        raise ConfigError(
            f"--tokenizer {tokenizer!r} is unknown", found=tokenizer, remedy=f"use one of {', '.join(kinds)}"
        )
    if networks and kind != "linear":
        raise ConfigError("--tokenizer cannot be combined with --networks", remedy="give only one of them")
    sizes = MODEL_PRESETS[preset]
    window_size = _edges(window, "--window")
    if networks:
        Console().print(_networks(window_size, preset, patch_size or ["16"], spacing))
        return
    title = f"UNETR, preset {preset}, window {_times(window_size)}"
    table = Table(title=title if kind == "linear" else f"{title}, {kind} tokenizer")
    for heading in ("patch", "up-sampling", "tokens", "weights", "GFLOP", "attention", "activations"):
        table.add_column(heading, justify="right")
    for text in patch_size or ["8", "12", "16", "24"]:
        patch = _edges(text, "--patch-size")
        cost = network_cost(
            window_size,
            patch,
            hidden_size=sizes["hidden_size"],
            mlp_dim=sizes["mlp_dim"],
            num_heads=sizes["num_heads"],
            feature_size=sizes["feature_size"],
            tokenizer=kind,
        )
        table.add_row(
            _times(patch),
            "·".join(_times(stage) for stage in upsampling_factors(patch)),
            f"{cost.tokens:,}",
            f"{cost.parameters / 1e6:.1f} M",
            f"{cost.flop / 1e9:.1f}",
            f"{cost.attention_share:.1%}",
            _activations("unetr", preset, window_size, patch, (1.0, 1.0, 1.0), kind)[1],
        )
    Console().print(table)


def _networks(window_size: IntTriple, preset: str, patch_sizes: list[str], spacing: str) -> Table:
    from rich.table import Table

    from patchcore.models.registry import NETWORKS

    patch = _edges(patch_sizes[0], "--patch-size")
    mm = _spacing(spacing)
    table = Table(title=f"Networks, preset {preset}, window {_times(window_size)}, UNETR's patch {_times(patch)}")
    for heading in ("model.network", "description", "parameters", "activations"):
        table.add_column(heading, justify="left" if heading[0] in "md" else "right")
    for kind in NETWORKS.values():
        table.add_row(kind.name, kind.title, *_activations(kind.name, preset, window_size, patch, mm))
    return table


def _activations(
    network: str,
    preset: str,
    window_size: IntTriple,
    patch: IntTriple,
    spacing: Triple,
    tokenizer: Tokenizer = "linear",
) -> tuple[str, str]:
    """Return parameters and activation memory as text, or the reason why this network cannot be built."""
    from patchcore.config import resolve_config
    from patchcore.errors import PatchcoreError

    try:
        from patchcore.models.footprint import footprint
    except ModuleNotFoundError:
        return "", "needs torch"
    found = []
    for saving in (False, True):
        settings = [
            f"model.preset={preset}", f"model.network={network}", f"model.tokenizer={tokenizer}",
            f"model.checkpointing={str(saving).lower()}",
        ]  # fmt: skip
        config = resolve_config(settings=settings).model
        try:
            found.append(footprint(config, out_channels=2, window_size=window_size, patch_size=patch, spacing=spacing))
        except PatchcoreError as error:
            return "—", str(error).partition(",")[0]
    plain, saving_one = (f"{(item.activation_bytes + item.again_bytes) / 2**30:.2f}" for item in found)
    return f"{found[0].parameters / 1e6:.1f} M", f"{plain} ({saving_one}) GiB"


def _spacing(text: str) -> Triple:
    found = triple(text, "--spacing")
    if not all(0 < mm < 1000 for mm in found):
        raise ConfigError(
            f"--spacing {text!r} is not a valid spacing", found=text, remedy="write e.g. --spacing 0.8,0.8,2.5"
        )
    return found


def _edges(text: str, option: str) -> IntTriple:
    edges = int_triple(text, option)
    if min(edges) < 1:
        raise ConfigError(
            f"{option} {text!r} is not a valid size", found=text, remedy=f"write {option} 16 or {option} 16,16,4"
        )
    return edges


def _times(edges: tuple[int, int, int]) -> str:
    """Return one number for a cube, otherwise all three."""
    return str(edges[0]) if len(set(edges)) == 1 else "×".join(map(str, edges))
