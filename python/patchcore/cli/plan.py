"""``patchcore plan``: which patch size fits the lesions that were measured, and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchcore.cli.progress import counted
from patchcore.cli.values import hu_range as read_hu_range
from patchcore.cli.values import int_list, int_triple, triple
from patchcore.errors import ConfigError

if TYPE_CHECKING:
    pass

__all__ = ["plan"]


def plan(
    study: Annotated[Path, typer.Argument(help="study that patchcore analyze has measured")],
    spacing: Annotated[
        str | None, typer.Option(help="training spacing a,b,c in mm, RAS+ axes; default: the cases' median")
    ] = None,
    candidates: Annotated[str, typer.Option(help="patch edges to choose among, voxels")] = "8,12,16,24",
    rule: Annotated[str, typer.Option(help="mean-volume, median, geometric-mean or extent")] = "mean-volume",
    window: Annotated[
        str | None,
        typer.Option(help="fix the window, a,b,c or one number, voxels; default: 96 or 48 per axis"),
    ] = None,
    hu_range: Annotated[
        str | None, typer.Option(help="intensity clip --hu-range=LOW,HIGH, or a preset such as liver or lung")
    ] = None,
    lesion_label: Annotated[
        list[str] | None, typer.Option(help="label to plan for, by number or name; may be repeated: one plan each")
    ] = None,
    joint: Annotated[bool, typer.Option("--joint", help="with several labels: train one patch size for all")] = False,
    like: Annotated[
        Path | None, typer.Option(help="study whose patch size, spacing, window and HU range are taken over")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="labels to learn together, e.g. 1,2; default: the lesion label alone")
    ] = None,
    region: Annotated[
        list[str] | None,
        typer.Option(help="labels judged as one thing, whole things first: --region liver=1,2 --region tumour=2"),
    ] = None,
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="how the choice moves with spacing, connectivity, left-out cases …")
    ] = False,
    seed: Annotated[int, typer.Option(help="of the bootstrap")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print the plan as JSON")] = False,
) -> None:
    """Choose the ViT patch size for a study's lesions; writes plan.json and a figure into the study."""
    from patchcore.datasets.plan import plan_patch_size
    from patchcore.study import Study
    from patchcore.views.plan_text import plan_summary

    opened = Study(study)
    made = plan_patch_size(
        opened,
        spacing=None if spacing is None else triple(spacing, "--spacing"),
        candidates=int_list(candidates, "--candidates"),
        rule=rule,
        window_size=None if window is None else int_triple(window, "--window"),
        hu_range=None if hu_range is None else read_hu_range(hu_range),
        lesion_label=lesion_label or None,
        joint=joint,
        like=like,
        classes=None if classes is None else int_list(classes, "--classes"),
        regions=_regions(region) if region else None,
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
    typer.echo(f"         {figure}" if figure.exists() else "No figure: it needs pip install 'patchcore[figures]'")


def _region(text: str) -> tuple[str, tuple[int, ...]]:
    name, equals, labels = text.partition("=")
    if not (name and equals):
        raise ConfigError(f"--region {text!r} is none", found=text, remedy="write --region liver=1,2")
    return name, tuple(int_list(labels, "--region"))


def _regions(texts: list[str]) -> dict[str, tuple[int, ...]]:
    found = list(map(_region, texts))
    if len({name for name, _ in found}) < len(found):
        raise ConfigError("--region names one twice", found=[name for name, _ in found], remedy="name each once")
    return dict(found)
