"""``patchcore profile STUDY``: measure the time and memory of a training step."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["profile"]


def profile(
    study: Annotated[Path, typer.Argument(help="Folder of the study; it must have a plan and be prepared.")],
    config: Annotated[Path | None, typer.Option(help="TOML file with settings.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting, as section.key=value; may be repeated.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Size of the network: tiny, small or base.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Settings to start from: plain, or lesions, which were tuned on small lesions.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Number of windows per step.")] = None,
    steps: Annotated[
        int,
        typer.Option(
            min=1, help="Number of steps to measure, after three to warm up; of a flexible network, at each size."
        ),
    ] = 5,
    out: Annotated[
        Path | None, typer.Option(help="File for a trace that chrome://tracing or Perfetto can open.")
    ] = None,
    validated: Annotated[
        int,
        typer.Option("--validate", min=0, help="Number of validation cases to predict, for the time of a validation."),
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the measurements as JSON.")] = False,
) -> None:
    """Run a few training steps and show where the time goes.

    No weights are saved. Each part is timed separately and waits for the GPU at its end, so the parts add up to
    slightly more than one step.
    """
    from rich.console import Console
    from rich.table import Table

    from patchcore.files import finite
    from patchcore.models.device import keep_memory
    from patchcore.training.launch import settings_of
    from patchcore.training.profiling import profile_step

    options = settings_of({"recipe": recipe, "model.preset": preset, "train.batch_size": batch_size})
    # The trainer does the same.
    keep_memory()
    found = profile_step(
        study, settings=[*(settings or []), *options], toml=config, steps=steps, trace=out, validated=validated
    )
    if as_json:
        typer.echo(json.dumps(finite(asdict(found)), indent=2))
        return
    console = Console(markup=False, highlight=False)
    for warning in found.warnings:
        typer.echo(f"warning: {warning}", err=True)
    compiled = ", compiled" if found.compiled else ""
    console.print(
        f"One step on {found.device}: {1000 * found.step_s:.1f} ms, {found.windows} windows{compiled}", soft_wrap=True
    )
    table = Table()
    for heading in ("part", "ms", "share"):
        table.add_column(heading, justify="left" if heading == "part" else "right")
    for name, seconds in found.parts.items():
        table.add_row(name, f"{1000 * seconds:.1f}", f"{seconds / sum(found.parts.values()):.1%}")
    console.print(table)
    operations = Table(title="Operations, forward and backward")
    for heading in ("operation", "ms per step", "calls"):
        operations.add_column(heading, justify="left" if heading == "operation" else "right")
    for name, seconds, calls in found.operations:
        operations.add_row(name, f"{1000 * seconds:.1f}", f"{calls:g}")
    console.print(operations)
    peak = "" if found.peak_bytes is None else f"peak memory {found.peak_bytes / 2**30:.2f} GiB; "
    kept = found.expected_bytes
    expected = "" if kept is None else f"estimate from the tensors that autograd keeps {kept / 2**30:.2f} GiB; "
    console.print(
        f"{peak}{expected}{found.windows / found.trained_s:.1f} windows per second in a training",
        soft_wrap=True,
    )
    if found.validation is not None:
        console.print(
            f"validation of the {found.validation.cases} cases of the fold: about {found.validation.seconds:.1f} s",
            soft_wrap=True,
        )
    if out is not None:
        console.print(f"written: {out}", soft_wrap=True)
