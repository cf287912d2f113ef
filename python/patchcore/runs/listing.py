"""Lists the runs of a study and finds a run by its id or path."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from patchcore.errors import RunError, StudyError
from patchcore.runs.paths import RunPaths, read_object
from patchcore.runs.records import RunState, RunSummary, StateReport
from patchcore.runs.state import StateWatcher
from patchcore.runs.values import as_count, as_number, as_text
from patchcore.types import PathLike

__all__ = ["list_runs", "resolve_run", "summarize"]


def list_runs(study: PathLike) -> list[RunSummary]:
    """Return the runs of a study, newest first. The list is empty if the study has no runs.

    Raises:
        OSError: The folder cannot be read.
    """
    runs = Path(study) / "runs"
    try:
        folders = sorted((path for path in runs.iterdir() if not path.name.startswith(".")), reverse=True)
    except FileNotFoundError:
        return []
    return [summarize(folder) for folder in folders if RunPaths(folder).run_json.exists()]


def summarize(run: PathLike) -> RunSummary:
    """Return the summary of a run. The events of the run are not read."""
    paths = RunPaths(run)
    try:
        record = paths.require()
        state = StateWatcher(run).look()
    except (RunError, OSError) as error:
        state = StateReport(RunState.FAILED, str(error))
        return RunSummary(paths.root.name, paths.root, "unreadable", "", state)
    status = read_object(paths.status) or {}
    best, patch_size = status.get("best"), _patch_size(record.get("plan"))
    eta_s = status.get("eta_s") if state.state.is_live else None
    return RunSummary(
        run_id=paths.root.name,
        path=paths.root,
        kind=str(record.get("kind", "")),
        created=str(record.get("created", "")),
        state=state,
        step=as_count(status.get("step")) or 0,
        total_steps=as_count(status.get("total_steps")),
        epoch=as_count(status.get("epoch")),
        eta_s=as_number(eta_s),
        best_dsc_mean=as_number(best.get("dsc_mean")) if isinstance(best, dict) else None,
        attempts=paths.newest_attempt() or 0,
        parent=as_text(record.get("parent")),
        patch_size=patch_size,
    )


def resolve_run(study: PathLike | None, run: PathLike) -> Path:
    """Return the folder of a run.

    Args:
        study: The study to search; None if `run` is a path.
        run: A run folder. With a study also: a run id, a unique part of a run id, or ``latest``.

    Raises:
        StudyError: No run matches, or several runs match.
    """
    path = Path(run)
    if RunPaths(path).run_json.exists():
        return path
    if study is None:
        raise StudyError(
            "not a run folder (it has no run.json)", path=path, remedy="give a run folder, or also give the study"
        )
    runs = Path(study) / "runs"
    try:
        ids = sorted(path.name for path in runs.iterdir() if RunPaths(path).run_json.exists())
    except FileNotFoundError:
        ids = []
    wanted = os.fspath(run)
    if wanted == "latest" and ids:
        return runs / ids[-1]
    found = [name for name in ids if name == wanted] or [name for name in ids if wanted and wanted in name]
    if len(found) == 1:
        return runs / found[0]
    if found:
        several = ", ".join(found[:10])
        raise StudyError(
            f"{wanted!r} matches several runs: {several}", path=runs, remedy="give a longer part of the id"
        )
    remedy = f"choose one of {', '.join(ids[-10:])}" if ids else "the study has no runs yet; start a training first"
    raise StudyError(f"there is no run {wanted!r}", path=runs, remedy=remedy)


def _patch_size(plan: Any) -> tuple[int, ...] | None:
    """Return the patch size of a plan. The plan holds either the fields of one target or a list of targets."""
    if isinstance(plan, dict) and isinstance(plan.get("targets"), list) and plan["targets"]:
        plan = plan["targets"][0]
    sizes = plan.get("patch_size") if isinstance(plan, dict) else None
    if isinstance(sizes, list | tuple) and all(isinstance(size, int) for size in sizes):
        return tuple(sizes)
    return None
