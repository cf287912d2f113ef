"""``patchcore export RUN -o MODEL.zip|MODEL.onnx``: write the network of a run into one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from patchcore.cli.options import CheckpointName, UsePostprocess

__all__ = ["export"]


def export(
    run: Annotated[Path, typer.Argument(help="Folder of the run.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write: .zip, or .onnx to predict without torch.")],
    checkpoint: CheckpointName = None,
    patch_size: Annotated[
        str | None,
        typer.Option(help="Export the fixed network of this patch size of a flexible network, as 8 or 8x8x4."),
    ] = None,
    post: UsePostprocess = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Write the network of a run into one file: weights, plan, settings, a model card and hashes.

    patchcore predict reads it like a run. An ONNX file holds the network and the plan, and predicts without torch.
    Nothing in the file is executed when it is read.
    """
    from patchcore.inference.export import export_model
    from patchcore.runs import resolve_run

    path = export_model(
        resolve_run(None, run), out, checkpoint=checkpoint, post=post, patch_size=patch_size, overwrite=overwrite
    )
    typer.echo(f"{path}  {path.stat().st_size / 2**20:.1f} MiB")
