"""``patchcore predict RUN INPUT -o OUT``: label maps for new scans."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchcore.types import ExitCode

if TYPE_CHECKING:
    from patchcore.inference.predict import Prediction

__all__ = ["predict"]


def predict(
    run: Annotated[Path, typer.Argument(help="The run folder.")],
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="A CT as NIfTI, or a folder of them.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Label map to write; for a folder a folder.")],
    checkpoint: Annotated[str | None, typer.Option(help="best or last; default: best.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda; default: the run's.")] = None,
    mirror: Annotated[
        bool | None, typer.Option("--mirror/--no-mirror", help="Average over mirrored windows; default: the run's.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace label maps that are there.")] = False,
) -> None:
    """Segment scans with a trained run: label maps on the scans' own grid, with the data set's label values.

    A scan of a folder that cannot be used is told and left out; the exit code is then 3.
    """
    from patchcore.inference.predict import predict as run_prediction
    from patchcore.runs import resolve_run

    def tell(prediction: Prediction, number: int, total: int) -> None:
        if prediction.error is not None:
            typer.echo(f"[{number}/{total}] {prediction.source.name}: left out: {prediction.error}", err=True)
            return
        volumes = ", ".join(f"label {k}: {v / 1000:.3g} mL" for k, v in prediction.volume_mm3.items())
        typer.echo(f"[{number}/{total}] {prediction.path}  {volumes}")

    predictions = run_prediction(
        resolve_run(None, str(run)),
        source,
        out,
        checkpoint=checkpoint,
        device=device,
        mirror=mirror,
        overwrite=overwrite,
        on_file=tell,
    )
    if any(prediction.error for prediction in predictions):
        raise typer.Exit(ExitCode.QUARANTINED)
