"""``patchcore evaluate STUDY [RUN …]``: report the DSC of runs and of baselines that need no training."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchcore.cli.options import CheckpointName, Device, Mirror, UsePostprocess
from patchcore.types import ExitCode

if TYPE_CHECKING:
    from rich.console import Console

    from patchcore.metrics.results import Evaluation

__all__ = ["evaluate"]


def evaluate(
    study: Annotated[Path, typer.Argument(help="Folder of the study.")],
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN]...",
            help="Run folders or run ids; several are shown side by side [default: newest finished].",
        ),
    ] = None,
    fold: Annotated[int | None, typer.Option(help="Fold to evaluate [default: validation fold of the run].")] = None,
    cases: Annotated[
        list[str] | None, typer.Option(help="Evaluate this case instead of a fold; may be repeated.")
    ] = None,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Evaluate the test cases of the data set instead of a fold.")
    ] = False,
    checkpoint: CheckpointName = None,
    organ_label: Annotated[
        int | None, typer.Option(help="Label of the organ: compare with the best fixed HU threshold inside it.")
    ] = None,
    device: Device = None,
    mirror: Mirror = None,
    patch_size: Annotated[
        str | None,
        typer.Option(
            "--patch-size",
            help="Of a flexible network: as for patchcore predict; or each: at each of its sizes, side by side "
            "[default: the plan's].",
        ),
    ] = None,
    post: UsePostprocess = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print evaluation.json instead of the table.")] = False,
) -> None:
    """Compare the predictions of runs with the label maps.

    Each case is evaluated on its own grid. The reports are written into the study. For differences between runs with
    intervals and tests, see patchcore compare.
    """
    from rich.console import Console

    from patchcore.evaluation.cases import sizes_of_run
    from patchcore.evaluation.evaluate import evaluate as run_evaluation

    def report(case_id: str, dsc: float, number: int, total: int) -> None:
        typer.echo(f"[{number}/{total}] {case_id}: DSC {_number(dsc)}", err=True)

    evaluations = [
        run_evaluation(
            study,
            run,
            fold=fold,
            case_ids=cases,
            held_out=held_out,
            checkpoint=checkpoint,
            organ_label=organ_label,
            device=device,
            mirror=mirror,
            patch_size=size,
            post=post,
            on_case=report,
        )
        for run in runs or (None,)
        for size in (sizes_of_run(study, run) if patch_size == "each" else (patch_size,))
    ]
    console = Console(markup=False, highlight=False)
    if as_json:
        texts = [(one.folder / "evaluation.json").read_text(encoding="utf-8") for one in evaluations]
        typer.echo(texts[0] if len(texts) == 1 else "[" + ",\n".join(texts) + "]\n", nl=False)
    elif len(evaluations) == 1:
        _show(evaluations[0], console)
    else:
        _side_by_side(evaluations, console)
    if any(one.failed for one in evaluations):
        raise typer.Exit(ExitCode.QUARANTINED)


def _side_by_side(evaluations: Sequence[Evaluation], console: Console) -> None:
    """Show one column per run, and write the same as CSV into the folder of the first report."""
    import csv
    import io

    from rich.table import Table

    from patchcore.files import write_atomic

    rows = _rows_of(evaluations)
    table = Table()
    table.add_column("")
    for one in evaluations:
        table.add_column(one.folder.name, overflow="fold", justify="right")
    for name, values in rows:
        table.add_row(name, *values)
    console.print(table)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["", *(one.folder.name for one in evaluations)])
    writer.writerows([name, *values] for name, values in rows)
    path = evaluations[0].folder / "side-by-side.csv"
    write_atomic(path, text.getvalue())
    if _same_cases(evaluations) == "no":
        common = len(set.intersection(*({case.case_id for case in one.cases} for one in evaluations)))
        console.print(
            f"note: the runs were evaluated on different cases, of which {common} are common, so the columns cannot be "
            "compared; compare the runs with patchcore compare, or name cases with --cases",
            soft_wrap=True,
        )
    for one in evaluations:
        for sentence in one.notes:
            console.print(f"note: {one.folder.name}: {sentence}", soft_wrap=True)
        for case_id, why in one.failed:
            console.print(f"skipped: {one.folder.name}: {case_id}: {why}", soft_wrap=True)
        console.print(f"report: {one.folder}", soft_wrap=True)
    console.print(f"written: {path}", soft_wrap=True)


def _rows_of(evaluations: Sequence[Evaluation]) -> list[tuple[str, list[str]]]:
    """Return the rows that compare runs: name and one text per run."""
    from patchcore.lesions.size_bins import SIZE_BIN_NAMES

    def row(name: str, text: Callable[[Evaluation], str]) -> tuple[str, list[str]]:
        return name, [text(one) for one in evaluations]

    def share(part: int, whole: int) -> str:
        return f"{_number(part / whole)} ({part}/{whole})" if whole else "–"

    labels = sorted({label for one in evaluations for label in one.dsc_by_class})
    rows = [
        row("cases", lambda one: f"{len(one.cases)}, {one.role}"),
        ("same cases in all columns", [_same_cases(evaluations)] * len(evaluations)),
        row("checkpoint step", lambda one: str(one.checkpoint_step)),
        row("mean DSC", lambda one: f"{_number(one.mean_dsc)}{one.scores.mean_dsc().brackets()}"),
        row("global DSC", lambda one: _number(one.global_dsc)),
    ]
    if len(labels) > 1:
        for label in labels:
            rows.append(row(f"DSC of label {label}", partial(_dsc_of, label=label)))
    rows += [
        row("HD95 [mm], mesh", lambda one: f"{one.scores.mean_surface('mesh', 'hd95_mm').mean:.2f}"),
        row("NSD within 1 mm", lambda one: _number(one.scores.mean_nsd("mesh", 1.0).mean)),
        row("lesions found", lambda one: share(one.lesions.found, one.lesions.lesions)),
    ]
    for number, name in enumerate(SIZE_BIN_NAMES):
        if any(one.lesion_bins[number].lesions for one in evaluations):
            rows.append(
                (
                    f"  {name}",
                    [share(one.lesion_bins[number].found, one.lesion_bins[number].lesions) for one in evaluations],
                )
            )
    rows += [
        row("predicted lesions that are true", lambda one: share(one.lesions.true, one.lesions.predicted)),
        row("mean sensitivity (FROC)", lambda one: _number(one.froc.mean)),
        row("baseline: centre ball", lambda one: _number(one.ball.mean)),
    ]
    if any(one.threshold for one in evaluations):
        rows.append(row("baseline: HU threshold", lambda one: _number(one.threshold.mean) if one.threshold else "–"))
    return rows


def _same_cases(evaluations: Sequence[Evaluation]) -> str:
    sets = [{case.case_id for case in one.cases} for one in evaluations]
    return "yes" if all(cases == sets[0] for cases in sets) else "no"


def _dsc_of(evaluation: Evaluation, *, label: int) -> str:
    return _number(evaluation.dsc_by_class.get(label, math.nan))


def _show(evaluation: Evaluation, console: Console) -> None:
    from rich.table import Table

    from patchcore.lesions.size_bins import SIZE_BIN_NAMES

    threshold = evaluation.threshold
    # Not as the table's title, which would be wrapped to the width of the table.
    console.print(f"{evaluation.run_id}, step {evaluation.checkpoint_step}: cases {evaluation.role}", soft_wrap=True)
    table = Table()
    table.add_column("case", overflow="fold")
    headings = ["found", "false", "mL", "pred. mL", "DSC", "ball", *(["threshold"] if threshold else [])]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for case in evaluation.cases:
        row = [
            case.case_id,
            f"{case.lesions_found}/{case.lesion_count}",
            str(case.false_positives),
            f"{case.volume_mm3 / 1000:.3f}",
            f"{case.predicted_mm3 / 1000:.3f}",
            _number(case.lesion_dsc),
            _number(case.ball_dsc),
        ]
        if case.threshold_dsc is not None:
            row.append(_number(case.threshold_dsc))
        table.add_row(*row)
    console.print(table)
    lesions = evaluation.lesions
    by_size = [
        f"{name}: {score.found}/{score.lesions}"
        for name, score in zip(SIZE_BIN_NAMES, evaluation.lesion_bins, strict=True)
        if score.lesions
    ]
    without = "1 case" if evaluation.undefined == 1 else f"{evaluation.undefined} cases"
    undefined = f"; {without} without lesion and prediction excluded" if evaluation.undefined else ""
    by_class = evaluation.dsc_by_class
    per_class = ", ".join(
        f"label {label} {_number(value)}, n = {evaluation.n_by_class[label]}" for label, value in by_class.items()
    )
    per_class = f" ({per_class})" if len(by_class) > 1 else ""
    interval = evaluation.scores.mean_dsc().brackets()
    lines = [
        f"mean DSC {_number(evaluation.mean_dsc)}{interval}{per_class} (n = {evaluation.n}{undefined}), "
        f"global DSC {_number(evaluation.global_dsc)}; each case on its own grid",
        *(
            f"  cases with largest lesion {size.name}: mean DSC {_number(size.mean_dsc)} (n = {size.n})"
            for size in evaluation.bins
            if size.n
        ),
        f"lesions found (at least one voxel): {lesions.found}/{lesions.lesions}, recall {_number(lesions.recall)} "
        f"({', '.join(by_size)}); {lesions.predicted} predicted, {lesions.predicted - lesions.true} of them false, "
        f"precision {_number(lesions.precision)}",
        _froc(evaluation),
        _surfaces(evaluation),
        f"baseline without training (centre ball of {evaluation.ball.volume_mm3 / 1000:.3g} mL): "
        f"mean DSC {_number(evaluation.ball.mean)} (n = {evaluation.ball.n})",
    ]
    if threshold is not None:
        lines.append(
            f"best fixed threshold inside the organ ({threshold.side} {threshold.threshold:g} HU): "
            f"mean DSC {_number(threshold.mean)} (n = {threshold.n})"
        )
    roles = Counter(case.role for case in evaluation.cases)
    if len(roles) > 1:
        lines.append("the cases differ in role: " + ", ".join(f"{count} {role}" for role, count in roles.items()))
    lines += [f"note: {sentence}" for sentence in evaluation.notes]
    lines += [f"skipped: {case_id}: {why}" for case_id, why in evaluation.failed]
    lines.append(f"written: {evaluation.folder}")
    for line in lines:
        console.print(line, soft_wrap=True)


def _froc(evaluation: Evaluation) -> str:
    at = ", ".join(f"{_number(share)} at {rate}" for rate, share in evaluation.froc.at.items())
    return (
        f"share of lesions found at so many false candidates per case (FROC, without post-processing): {at}; mean "
        f"{_number(evaluation.froc.mean)}"
    )


def _surfaces(evaluation: Evaluation) -> str:
    scores = evaluation.scores
    hd95, nsd = scores.mean_surface("mesh", "hd95_mm"), scores.mean_nsd("mesh", 1.0)
    if not hd95.n:
        return "surfaces of the lesions: no case in which lesions are both labelled and predicted"
    return (
        f"surfaces of the lesions (convention mesh): HD95 {hd95.mean:.2f} mm (n = {hd95.n}), NSD within 1 mm "
        f"{_number(nsd.mean)} (n = {nsd.n})"
    )


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"
