"""``patchcore plan``: choose the patch size that fits the measured lesions, and explain the choice."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchcore.cli.progress import counted
from patchcore.cli.values import hu_range as read_hu_range
from patchcore.cli.values import int_list, int_triple
from patchcore.cli.values import regions as read_regions
from patchcore.cli.values import spacing as read_spacing

if TYPE_CHECKING:
    pass

__all__ = ["plan"]


def plan(
    study: Annotated[Path, typer.Argument(help="Folder of the study, made with patchcore analyze.")],
    spacing: Annotated[
        str | None,
        typer.Option(
            help="Training spacing a,b,c along the RAS+ axes [mm]; median: of the cases; fine: so that cases with thin "
            "slices keep them [default: median]."
        ),
    ] = None,
    candidates: Annotated[str, typer.Option(help="Patch sizes to choose from, edge lengths [voxels].")] = "8,12,16,24",
    rule: Annotated[
        str,
        typer.Option(
            help="Rule for the patch size: mean-volume, median, geometric-mean, extent, mean-volume-mm (cube in mm) or "
            "learned (best in a sweep or a flexible training)."
        ),
    ] = "mean-volume",
    window: Annotated[
        str | None,
        typer.Option(help="Window size a,b,c, or one number for all axes [voxels] [default: 96 or 48 per axis]."),
    ] = None,
    hu_range: Annotated[
        str | None,
        typer.Option(
            help="Intensity clip LOW,HIGH [HU], or a preset such as liver or lung. Negative: --hu-range=-200,300."
        ),
    ] = None,
    lesion_label: Annotated[
        list[str] | None,
        typer.Option(help="Label to plan for, by number or name; may be repeated, with one plan per label."),
    ] = None,
    joint: Annotated[
        bool, typer.Option("--joint", help="With several labels: train all of them with one patch size.")
    ] = False,
    like: Annotated[
        Path | None, typer.Option(help="Study to copy the patch size, spacing, window and HU range from.")
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(help="Labels that the network learns together, e.g. 1,2 [default: only the lesion label]."),
    ] = None,
    region: Annotated[
        list[str] | None,
        typer.Option(
            help="Labels evaluated together as one region, outer region first: --region liver=1,2 --region tumour=2."
        ),
    ] = None,
    sensitivity: Annotated[
        bool,
        typer.Option(
            "--sensitivity", help="Show how the choice changes with spacing, connectivity, excluded cases and more."
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Random seed of the bootstrap.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Choose the ViT patch size that fits the lesions of a study.

    Writes plan.json and a figure into the study.
    """
    from patchcore.datasets.plan import plan_patch_size
    from patchcore.study import Study
    from patchcore.views.plan_text import plan_summary

    opened = Study(study)
    made = plan_patch_size(
        opened,
        spacing=read_spacing(spacing),
        candidates=int_list(candidates, "--candidates"),
        rule=rule,
        window_size=None if window is None else int_triple(window, "--window"),
        hu_range=None if hu_range is None else read_hu_range(hu_range),
        lesion_label=lesion_label or None,
        joint=joint,
        like=like,
        classes=None if classes is None else int_list(classes, "--classes"),
        regions=read_regions(region) if region else None,
        seed=seed,
    )
    if sensitivity:
        from patchcore.datasets.sensitivity import plan_sensitivity

        with counted("Measuring again") as show:
            made = plan_sensitivity(opened, progress=show)
    figure = opened.figures_dir / "plan.png"
    if as_json:
        typer.echo(made.model_dump_json(indent=2))
        return
    typer.echo(plan_summary(made))
    typer.echo(f"\nWritten: {opened.plan_path}")
    typer.echo(
        f"         {figure}"
        if figure.exists()
        else "No figure: matplotlib is not installed (pip install 'patchcore[figures]')"
    )
