"""``patchcore prepare``: resample every case once to the training grid and store it in the study."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from patchcore.cli.experiment_start import RayAddress, Sbatch
from patchcore.cli.progress import counted
from patchcore.cli.shares import OnExecutor, ShareOption, Shares, on_cluster
from patchcore.errors import ConfigError, StudyError
from patchcore.memory import byte_count
from patchcore.types import ExitCode

__all__ = ["prepare"]


def prepare(
    study: Annotated[Path, typer.Argument(help="Folder of the study; it must have a plan.")],
    crop_to: Annotated[
        int | None, typer.Option(help="Label of an organ: crop each case around it; 0: do not crop any more.")
    ] = None,
    crop_margin: Annotated[float | None, typer.Option(help="Margin around the organ [mm] [default: 20].")] = None,
    kernel: Annotated[
        str | None, typer.Option(help="Interpolation of the image: cubic (B-spline) or linear [default: cubic].")
    ] = None,
    antialias: Annotated[
        bool | None, typer.Option(help="Blur an axis before it is resampled to a coarser spacing [default: antialias].")
    ] = None,
    max_memory: Annotated[
        str | None, typer.Option(help="Memory limit, e.g. 4GiB [default: half of the available memory].")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Number of cases processed in parallel, as memory allows [default: all cores, at most 8].", min=1
        ),
    ] = None,
    share: ShareOption = None,
    executor: OnExecutor = None,
    shares: Shares = None,
    sbatch: Sbatch = None,
    ray_address: RayAddress = None,
) -> None:
    """Resample every accepted case and write it to STUDY/store.zarr.

    The training spacing comes from the plan. Cases that are already in the store are kept. The settings for resampling
    and cropping are saved in plan.json, because training and evaluation read the same store and prepare missing cases.

    After Ctrl-C the store contains only complete cases; the same command continues. The exit code is 3 if a case could
    not be prepared.

    With --executor slurm or ray the tasks of a cluster share the cases; this command waits for them, and does what they
    leave. The study must be on a file system that all hosts share.
    """
    from patchcore.store.inspection import stored_bytes
    from patchcore.store.prepare import prepare as prepare_study
    from patchcore.study import Study

    if kernel not in (None, "cubic", "linear"):
        raise ConfigError(
            f"--kernel {kernel!r} is unknown",
            expected="cubic or linear",
            remedy="use --kernel cubic or --kernel linear",
        )
    with suppress(StudyError):
        if warning := Study(study).outdated_plan():
            typer.echo(f"Warning: {warning}", err=True)
    on_cluster(study, executor=executor, shares=shares, sbatch=sbatch, ray_address=ray_address, share=share)
    with counted("Preparing") as show:
        done = prepare_study(
            study,
            crop_to=crop_to,
            crop_margin_mm=crop_margin,
            kernel=kernel,  # type: ignore[arg-type]  # checked above
            antialias=antialias,
            max_memory_bytes=None if max_memory is None else byte_count(max_memory, "--max-memory"),
            workers=workers,
            share=share,
            on_progress=show,
        )
    if not done.cases and not done.failed:
        typer.echo(f"share {share}: no case")
        return
    size = sum(stored_bytes(case.path) for case in done.cases)
    raw = sum(case.image_bytes for case in done.cases)
    where = done.cases[0].path.parent
    cases = _counted(len(done.cases), "case")
    typer.echo(f"{cases} in {where}: {size / 1e6:,.1f} MB, raw {raw / 1e6:,.1f} MB")
    cropped = sum(case.cropped for case in done.cases)
    if cropped:
        rest = "" if cropped == len(done.cases) else "; the other cases do not have this label and are not cropped"
        typer.echo(f"  {cropped} of {len(done.cases)} cases cropped around the organ{rest}")
    for case in done.cases:
        if case.kept_lesions:
            kept = _counted(case.kept_lesions, "lesion")
            typer.echo(f"  {case.case_id}: {kept} too small for the training grid, kept as one voxel each")
        if case.cut_lesions:
            typer.echo(f"  {case.case_id}: {_counted(case.cut_lesions, 'lesion')} not completely inside the crop")
    for failed in done.failed:
        typer.echo(f"  skipped: {failed.case_id}: {failed.error}")
    if done.failed:
        raise typer.Exit(ExitCode.QUARANTINED)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
