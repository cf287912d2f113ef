"""``patchcore predict RUN INPUT -o OUT``: predict label maps for new scans."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchcore.types import ExitCode

if TYPE_CHECKING:
    from patchcore.inference.predict import Prediction

__all__ = ["predict"]


def predict(
    run: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of the run, or an exported model (.zip).")],
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="CT as a NIfTI file, or a folder of such files.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Label map to write; a folder if INPUT is a folder.")],
    checkpoint: Annotated[str | None, typer.Option(help="Checkpoint to use: best or last [default: best].")] = None,
    device: Annotated[str | None, typer.Option(help="Device: auto, cpu or cuda [default: device of the run].")] = None,
    mirror: Annotated[
        bool | None,
        typer.Option(
            "--mirror/--no-mirror", help="Average predictions over mirrored windows [default: as in the run]."
        ),
    ] = None,
    tables: Annotated[
        bool,
        typer.Option("--tables", help="Also write the lesions of each scan as CSV and JSON, beside the label map."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing label maps.")] = False,
) -> None:
    """Segment scans with a trained run.

    Each label map has the grid of its scan and the label values of the data set. If INPUT is a folder, scans that
    cannot be used are reported and skipped; the exit code is then 3.
    """
    from patchcore.inference.export import is_exported, read_model
    from patchcore.inference.predict import crop_note
    from patchcore.inference.predict import predict as run_prediction
    from patchcore.runs import resolve_run
    from patchcore.runs.setup import read_setup

    def report(prediction: Prediction, number: int, total: int) -> None:
        if prediction.error is not None:
            typer.echo(f"[{number}/{total}] {prediction.source.name}: skipped: {prediction.error}", err=True)
            return
        volumes = ", ".join(f"label {k}: {v / 1000:.3g} mL" for k, v in prediction.volume_mm3.items())
        typer.echo(f"[{number}/{total}] {prediction.path}  {volumes}")

    exported = is_exported(run)
    folder = run if exported else resolve_run(None, str(run))
    target = (read_model(folder) if exported else read_setup(folder)).plan.target
    if note := crop_note(target):
        typer.echo(f"note: {note}", err=True)
    predictions = run_prediction(
        folder,
        source,
        out,
        checkpoint=checkpoint,
        device=device,
        mirror=mirror,
        overwrite=overwrite,
        tables=tables,
        on_file=report,
    )
    if any(prediction.error for prediction in predictions):
        raise typer.Exit(ExitCode.QUARANTINED)
