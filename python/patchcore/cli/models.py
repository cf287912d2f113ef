"""``patchcore models``: what a UNETR of each patch size weighs and costs."""

from __future__ import annotations

from typing import Annotated

import typer

from patchcore.errors import ConfigError

__all__ = ["models"]


def models(
    window: Annotated[
        str, typer.Option("--window", help="Window edge in voxels: one number, or three with commas.")
    ] = "96",
    patch_size: Annotated[
        list[str] | None,
        typer.Option("--patch-size", help="Patch edge, once per row: one number, or three with commas."),
    ] = None,
    preset: Annotated[str, typer.Option("--preset", help="Sizes of the network: tiny, small or base.")] = "base",
) -> None:
    """Show tokens, parameters and cost of UNETR per patch size. FLOP are of one window's forward pass."""
    from rich.console import Console
    from rich.table import Table

    from patchcore.config.run import MODEL_PRESETS
    from patchcore.models.layout import network_cost, upsampling_factors

    if preset not in MODEL_PRESETS:
        raise ConfigError(
            f"--preset {preset!r} is unknown",
            found=preset,
            expected=tuple(MODEL_PRESETS),
            remedy=f"use one of {', '.join(MODEL_PRESETS)}",
        )
    sizes = MODEL_PRESETS[preset]
    window_size = _edges(window, "--window")
    table = Table(title=f"UNETR, preset {preset}, window {_times(window_size)}")
    for heading in ("patch", "up-sampling", "tokens", "parameters", "GFLOP", "of it attention"):
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
        )
        table.add_row(
            _times(patch),
            " · ".join(_times(stage) for stage in upsampling_factors(patch)),
            f"{cost.tokens:,}",
            f"{cost.parameters / 1e6:.1f} M",
            f"{cost.flop / 1e9:.1f}",
            f"{cost.attention_flop / cost.flop:.1%}",
        )
    Console().print(table)


def _edges(text: str, option: str) -> tuple[int, int, int]:
    try:
        edges = [int(part) for part in text.split(",")]
    except ValueError:
        edges = []
    if len(edges) == 1:
        edges *= 3
    if len(edges) != 3 or min(edges) < 1:
        raise ConfigError(f"{option} {text!r} is no size", found=text, remedy=f"write {option} 16 or {option} 16,16,4")
    return edges[0], edges[1], edges[2]


def _times(edges: tuple[int, int, int]) -> str:
    """One number for a cube, else all three."""
    return str(edges[0]) if len(set(edges)) == 1 else "×".join(map(str, edges))
