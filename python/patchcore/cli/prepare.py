"""``patchcore prepare``: every case once on the training grid, in the study's store."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from patchcore.cli.progress import counted
from patchcore.errors import ConfigError, StudyError
from patchcore.memory import byte_count
from patchcore.types import ExitCode

__all__ = ["prepare"]


def prepare(
    study: Annotated[Path, typer.Argument(help="study that has a plan")],
    crop_to: Annotated[
        int | None, typer.Option(help="keep only what surrounds this label, an organ's; 0: keep all again")
    ] = None,
    crop_margin: Annotated[float | None, typer.Option(help="how far around it, mm; default: 20")] = None,
    kernel: Annotated[str | None, typer.Option(help="of the image: cubic (B-spline, the default) or linear")] = None,
    antialias: Annotated[
        bool | None, typer.Option(help="blur an axis that becomes coarser before it is sampled; default: yes")
    ] = None,
    max_memory: Annotated[
        str | None, typer.Option(help="memory this may take, e.g. 4GiB; default: half of what is available")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="cases worked on at once, as memory allows; default: all cores, at most 8", min=1)
    ] = None,
) -> None:
    """Bring every accepted case to the plan's spacing and write it to STUDY/store.zarr; what is there is kept.

    How to resample and crop is written into plan.json: training and evaluation read the same store, and make what is
    missing. Ctrl-C leaves whole cases only; the next call goes on. The exit code is 3 where a case could not be brought
    there.
    """
    from patchcore.store.inspection import stored_bytes
    from patchcore.store.prepare import prepare as prepare_study
    from patchcore.study import Study

    if kernel not in (None, "cubic", "linear"):
        raise ConfigError(f"--kernel {kernel!r}", expected="cubic or linear", remedy="write --kernel linear")
    with suppress(StudyError):
        if warning := Study(study).outdated_plan():
            typer.echo(f"Warning: {warning}", err=True)
    with counted("Preparing") as show:
        done = prepare_study(
            study,
            crop_to=crop_to,
            crop_margin_mm=crop_margin,
            kernel=kernel,  # type: ignore[arg-type]  # looked at above
            antialias=antialias,
            max_memory_bytes=None if max_memory is None else byte_count(max_memory, "--max-memory"),
            workers=workers,
            on_progress=show,
        )
    size = sum(stored_bytes(case.path) for case in done.cases)
    raw = sum(case.image_bytes for case in done.cases)
    where = done.cases[0].path.parent
    cases = _counted(len(done.cases), "case")
    typer.echo(f"{cases} in {where}: {size / 1e6:,.1f} MB, raw {raw / 1e6:,.1f} MB")
    cropped = sum(case.cropped for case in done.cases)
    if cropped:
        rest = "" if cropped == len(done.cases) else "; the others do not have it and are whole"
        typer.echo(f"  {cropped} of {len(done.cases)} cropped to their organ{rest}")
    for case in done.cases:
        if case.kept_lesions:
            kept = _counted(case.kept_lesions, "lesion")
            typer.echo(f"  {case.case_id}: {kept} smaller than the training grid shows, kept as one voxel each")
        if case.cut_lesions:
            typer.echo(f"  {case.case_id}: {_counted(case.cut_lesions, 'lesion')} not wholly within the crop")
    for failed in done.failed:
        typer.echo(f"  left out: {failed.case_id}: {failed.error}")
    if done.failed:
        raise typer.Exit(ExitCode.QUARANTINED)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
