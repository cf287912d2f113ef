"""``patchcore score TRUTH PREDICTION``: score label maps of any tool against each other."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchcore.cli.options import PatientRegex
from patchcore.cli.values import float_list, int_list, name_list, regions
from patchcore.types import ExitCode

if TYPE_CHECKING:
    from rich.console import Console

    from patchcore.metrics.score_files import Scores
    from patchcore.metrics.statistics import MeanEstimate

__all__ = ["score"]


def score(
    truth: Annotated[Path, typer.Argument(help="Label map (NIfTI), or folder of label maps.")],
    prediction: Annotated[Path, typer.Argument(help="Label map predicted by any tool, or folder of them.")],
    lesion_label: Annotated[
        str | None,
        typer.Option(help="Label of the lesions; several, as in 2,3, are one class [default: the only label]."),
    ] = None,
    region: Annotated[
        list[str] | None,
        typer.Option(help="Labels scored together as one class: --region liver=1,2; may be repeated."),
    ] = None,
    ignore_label: Annotated[
        int | None, typer.Option(help="Voxels with this true label count neither as labelled nor as predicted.")
    ] = None,
    surface: Annotated[str, typer.Option(help="Surface conventions, of mesh, surfel and voxel, or none.")] = "mesh",
    tolerance: Annotated[str, typer.Option(help="Tolerances of the normalised surface distance [mm].")] = "1,2",
    lesions: Annotated[
        str,
        typer.Option(
            help="Lesion modes, of overlap, panoptica, panoptica-many, lits, cc, autopet and brats:CHALLENGE-YEAR."
        ),
    ] = "overlap,panoptica,cc",
    connectivity: Annotated[
        int | None, typer.Option(help="Connectivity of lesions: 6, 18 or 26 [default: that of each mode].")
    ] = None,
    min_volume_mm3: Annotated[float, typer.Option(help="Smaller components do not exist, on both sides [mm³].")] = 0.0,
    instances: Annotated[
        bool, typer.Option("--instances", help="Each number in the label maps is one lesion, as in instance maps.")
    ] = False,
    resample: Annotated[
        bool,
        typer.Option(
            "--resample", help="Take the nearest voxel of predictions on another grid; without it they are errors."
        ),
    ] = False,
    patient_regex: PatientRegex = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Folder for score.json, cases.csv, lesions.csv, predicted.csv and matches.csv."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print score.json instead of the table.")] = False,
) -> None:
    """Score predictions of any tool against label maps: overlap, surfaces and lesions, with intervals.

    Two files are one case; two folders are matched by name. No study and no torch are needed.
    """
    from rich.console import Console

    from patchcore.cli.progress import counted
    from patchcore.datasets.patients import group_patients
    from patchcore.metrics.score_files import score as score_files

    with counted("Scoring") as show:
        scores = score_files(
            truth,
            prediction,
            lesion_labels=None if lesion_label is None else int_list(lesion_label, "--lesion-label"),
            regions=regions(region) if region else None,
            ignore_label=ignore_label,
            conventions=() if surface == "none" else name_list(surface),
            tolerances_mm=float_list(tolerance, "--tolerance"),
            modes=() if lesions == "none" else name_list(lesions),
            connectivity=connectivity,
            min_volume_mm3=min_volume_mm3,
            instances=instances,
            resample=resample,
            patients_of=lambda case_ids: group_patients(case_ids, regex=patient_regex).patients,
            on_progress=show,
        )
    if output is not None:
        scores.write(output)
    if as_json:
        typer.echo(json.dumps(scores.to_json(), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        _show(scores, Console(markup=False, highlight=False), output)
    if scores.failed:
        raise typer.Exit(ExitCode.QUARANTINED)


def _show(scores: Scores, console: Console, output: Path | None) -> None:
    from rich.table import Table

    settings = scores.settings
    lesion = settings.lesion_class
    convention = settings.conventions[0] if settings.conventions else None
    tolerances = settings.tolerances_mm if convention else ()
    table = Table()
    table.add_column("case", overflow="fold")
    headings = [*(f"DSC {name}" for name in settings.classes), "found", "false"]
    headings += ["HD95 mm", *(f"NSD {mm:g} mm" for mm in tolerances)] if convention else []
    for heading in headings:
        table.add_column(heading, justify="right")
    for case in scores.cases:
        row = [case.case_id, *(_number(case.classes[name].counts.dsc) for name in settings.classes)]
        row += [f"{sum(r.found for r in case.lesions)}/{len(case.lesions)}"]
        row += [str(sum(not r.true for r in case.predicted))]
        if convention:
            values = case.classes[lesion].surface[convention]
            row += [_number(values.hd95_mm, 2), *(_number(values.nsd[mm]) for mm in tolerances)]
        table.add_row(*row)
    console.print(table)
    lines = [f"mean DSC of class {name}: {_estimate(scores.mean_dsc(name))}; "
             f"global DSC {_number(scores.global_dsc(name))}" for name in settings.classes]  # fmt: skip
    if len(settings.classes) > 1:
        lines.append(f"mean DSC over classes: {_estimate(scores.mean_dsc())}")
    if convention:
        lines.append(
            f"class {lesion}, convention {convention}: HD95 "
            f"{_estimate(scores.mean_surface(convention, 'hd95_mm'), 2)} mm, ASSD "
            f"{_estimate(scores.mean_surface(convention, 'assd_mm'), 2)} mm"
        )
        lines += [
            f"  NSD within {mm:g} mm: {_estimate(scores.mean_nsd(convention, mm))}" for mm in settings.tolerances_mm
        ]
    for size in scores.by_size():
        if size.lesions or size.predicted:
            lines.append(
                f"lesions {size.size_bin}: recall {_number(size.recall)} ({size.found}/{size.lesions}), precision "
                f"{_number(size.precision)} ({size.true}/{size.predicted}), mean DSC {_number(size.dsc)}"
            )
    for names, where in ((scores.only_truth, "no prediction"), (scores.only_prediction, "no label map")):
        if names:
            listed = ", ".join(names[:10]) + (" …" if len(names) > 10 else "")
            lines.append(f"{len(names)} without a match ({where}): {listed}")
    lines += [f"note: {note}" for note in scores.notes]
    lines += [f"not scored: {case_id}: {reason}" for case_id, reason in scores.failed]
    lines.append(
        "[low, high]: 95 % interval, bootstrap over patients. A case in which a class is neither labelled nor "
        "predicted has no DSC; a case in which one mask is empty has no distance."
    )
    if output is not None:
        lines.append(f"Written: {output}")
    for line in lines:
        console.print(line, soft_wrap=True)


def _number(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"


def _estimate(found: MeanEstimate, digits: int = 3) -> str:
    if not found.n:
        return "– (n = 0)"
    excluded = f"; {found.excluded} excluded" if found.excluded else ""
    return f"{found.mean:.{digits}f}{found.brackets(f'.{digits}f')} (n = {found.n}{excluded})"
