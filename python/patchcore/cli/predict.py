"""``patchcore predict MODEL INPUT -o OUT``: predict label maps for new scans."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchcore.cli.options import CheckpointName, Device, Mirror, PatchSizes, UsePostprocess
from patchcore.types import ExitCode

if TYPE_CHECKING:
    from patchcore.inference.predict import Prediction

__all__ = ["SegOption", "predict"]


class SegOption(StrEnum):
    """Kinds of DICOM SEG."""

    BINARY = "binary"
    LABELMAP = "labelmap"


def predict(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="MODEL... INPUT",
            help="Model: folder of a run, or an exported model (.zip, .onnx); several are averaged. Then the input: a "
            "CT as NIfTI file, a DICOM series (folder or .zip), or a folder of many.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Label map to write (.dcm: only a SEG); a folder if there are several scans."),
    ],
    checkpoint: CheckpointName = None,
    device: Device = None,
    mirror: Mirror = None,
    patch_size: PatchSizes = None,
    skip_air: Annotated[
        bool, typer.Option("--skip-air", help="Skip windows that contain only air; their share is printed.")
    ] = False,
    post: UsePostprocess = True,
    tables: Annotated[
        bool,
        typer.Option("--tables", help="Also write the lesions of each scan as CSV and JSON, beside the label map."),
    ] = False,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also write the probability of a lesion, NAME.probability.nii.gz.")
    ] = False,
    seg: Annotated[
        SegOption | None,
        typer.Option("--seg", help="Also write a DICOM SEG of a DICOM scan, one segment per lesion: NAME.seg.dcm."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace existing outputs. Without it, a folder goes on where it ended.")
    ] = False,
) -> None:
    """Segment scans with a trained model, or with several averaged.

    Each label map has the grid of its scan and the label values of the data set. If there are several scans, those that
    cannot be used are reported and skipped; the exit code is then 3.
    """
    from patchcore.cli.progress import progress_bars, stderr_console
    from patchcore.inference.opened import is_exported, is_onnx
    from patchcore.inference.predict import predict as run_prediction
    from patchcore.runs import resolve_run

    if len(paths) < 2:
        raise typer.BadParameter("give a model and a scan: patchcore predict MODEL INPUT -o OUT")
    *models, source = paths
    console = stderr_console()

    def report(prediction: Prediction, number: int, total: int) -> None:
        at = f"[{number}/{total}]"
        if prediction.error is not None:
            typer.echo(f"{at} {prediction.name}: skipped: {prediction.error}", err=True)
            return
        for note in prediction.notes:
            typer.echo(f"{at} {prediction.name}: note: {note}", err=True)
        if prediction.resumed:
            typer.echo(f"{at} {prediction.path}  done before")
            return
        parts = [f"label {k}: {v / 1000:.3g} mL" for k, v in prediction.volume_mm3.items()]
        if skip_air:
            parts.append(f"{prediction.air_windows / max(1, prediction.windows):.0%} of the windows are air")
        if str(prediction.removed) != "none":
            parts.append(f"removed lesions: {prediction.removed}")
        where = prediction.path or prediction.name
        typer.echo(f"{at} {where}  {', '.join(parts)}  ({prediction.seconds:.1f} s)")

    chosen = [model if is_exported(model) or is_onnx(model) else resolve_run(None, str(model)) for model in models]
    with progress_bars(console) as show:
        scans_done = 0

        def windows(name: str, done: int, total: int) -> None:
            # Without a terminal, ten lines per scan would hide what matters.
            if console.is_terminal:
                show(f"windows of scan {scans_done + 1}, {name}", done, total)

        def after(prediction: Prediction, number: int, total: int) -> None:
            nonlocal scans_done
            scans_done = number
            report(prediction, number, total)
            if total > 1 and console.is_terminal:
                show("scans", number, total)

        predictions = run_prediction(
            chosen,
            source,
            out,
            checkpoint=checkpoint,
            device=device,
            mirror=mirror,
            patch_size=patch_size,
            skip_air=skip_air,
            post=post,
            overwrite=overwrite,
            tables=tables,
            probabilities=probabilities,
            seg=None if seg is None else ("binary" if seg is SegOption.BINARY else "labelmap"),
            on_file=after,
            progress=windows,
            on_note=lambda note: typer.echo(f"note: {note}", err=True),
        )
    if any(prediction.error for prediction in predictions):
        raise typer.Exit(ExitCode.QUARANTINED)
