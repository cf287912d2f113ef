"""``patchcore evaluate STUDY [RUN]``: DSC of a run, beside what needs no training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchcore.types import ExitCode

if TYPE_CHECKING:
    from rich.console import Console

    from patchcore.metrics.results import Evaluation

__all__ = ["evaluate"]


def evaluate(
    study: Annotated[Path, typer.Argument(help="The study.")],
    run: Annotated[str | None, typer.Argument(help="Run folder or id; default: the newest finished.")] = None,
    fold: Annotated[int | None, typer.Option(help="Fold to evaluate; default: the run's own.")] = None,
    cases: Annotated[list[str] | None, typer.Option(help="A case to evaluate instead; may be repeated.")] = None,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="The cases that the data set keeps for testing instead.")
    ] = False,
    checkpoint: Annotated[str | None, typer.Option(help="best or last; default: best.")] = None,
    organ_label: Annotated[
        int | None, typer.Option(help="Compare with the best fixed HU threshold within this organ.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda; default: the run's.")] = None,
    mirror: Annotated[
        bool | None, typer.Option("--mirror/--no-mirror", help="Average over mirrored windows; default: the run's.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print evaluation.json.")] = False,
) -> None:
    """Compare a run's predictions with the label maps, each on its own grid; writes a report into the study."""
    from rich.console import Console

    from patchcore.evaluation.evaluate import evaluate as run_evaluation

    def tell(case_id: str, dsc: float, number: int, total: int) -> None:
        typer.echo(f"[{number}/{total}] {case_id}: DSC {_number(dsc)}", err=True)

    evaluation = run_evaluation(
        study,
        run,
        fold=fold,
        case_ids=cases,
        held_out=held_out,
        checkpoint=checkpoint,
        organ_label=organ_label,
        device=device,
        mirror=mirror,
        on_case=tell,
    )
    if as_json:
        typer.echo((evaluation.folder / "evaluation.json").read_text(encoding="utf-8"), nl=False)
    else:
        _show(evaluation, Console(markup=False, highlight=False))
    if evaluation.failed:
        raise typer.Exit(ExitCode.QUARANTINED)


def _show(evaluation: Evaluation, console: Console) -> None:
    from rich.table import Table

    from patchcore.lesions.size_bins import SIZE_BIN_NAMES

    threshold = evaluation.threshold
    # Over the table, not its title: a title is folded to the width of the table.
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
    undefined = f", {evaluation.undefined} without any left out" if evaluation.undefined else ""
    by_class = evaluation.dsc_by_class
    told = ", ".join(f"label {label} {_number(value)}" for label, value in by_class.items())
    told = f" ({told})" if len(by_class) > 1 else ""
    lines = [
        f"mean DSC {_number(evaluation.mean_dsc)}{told} (n = {evaluation.n}{undefined}), "
        f"global {_number(evaluation.global_dsc)}; on each case's own grid",
        *(
            f"  largest lesion {size.name}: mean DSC {_number(size.mean_dsc)} (n = {size.n})"
            for size in evaluation.bins
            if size.n
        ),
        f"lesions found (at least one voxel): {lesions.found}/{lesions.lesions}, recall {_number(lesions.recall)} "
        f"({', '.join(by_size)}); of {lesions.predicted} predicted {lesions.predicted - lesions.true} false, "
        f"precision {_number(lesions.precision)}",
        f"centre ball of {evaluation.ball.volume_mm3 / 1000:.3g} mL, untrained: "
        f"mean DSC {_number(evaluation.ball.mean)} (n = {evaluation.ball.n})",
    ]
    if threshold is not None:
        lines.append(
            f"best fixed threshold within the organ ({threshold.side} {threshold.threshold:g} HU): "
            f"mean DSC {_number(threshold.mean)} (n = {threshold.n})"
        )
    lines += [f"left out: {case_id}: {why}" for case_id, why in evaluation.failed]
    lines.append(f"written: {evaluation.folder}")
    for line in lines:
        console.print(line, soft_wrap=True)


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"
