"""Starts a training on a study. Does not import torch: the network is built in the trainer process."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from patchcore.config import Plan, RunConfig, resolve_config
from patchcore.config.patches import patch_triple, size_text
from patchcore.config.run import check_launched
from patchcore.errors import ConfigError, DataError, EmptyClassError, MissingExtraError, RunError, StudyError
from patchcore.launched import Launched, launched
from patchcore.models.registry import check_network, window_units
from patchcore.runs import RunState, new_run, run_state, start_attempt, supervise_foreground
from patchcore.runs.listing import resolve_run
from patchcore.runs.paths import RunPaths
from patchcore.study import Study
from patchcore.types import PathLike

__all__ = [
    "TrainedRun",
    "check_training",
    "create_run",
    "join_training",
    "plan_for",
    "run_config",
    "settings_of",
    "train",
]

_POLL_S = 0.2


@dataclass(frozen=True)
class TrainedRun:
    """A run that was started.

    Attributes:
        path: The run folder.
        attempt: Number of the started attempt.
        state: State of the run when the call returned.
    """

    path: Path
    attempt: int
    state: RunState

    @property
    def run_id(self) -> str:
        """Name of the run folder."""
        return self.path.name


def settings_of(values: Mapping[str, Any]) -> list[str]:
    """Turn ``section.key`` → value into ``section.key=value`` settings; None values are skipped."""
    return [f"{key}={json.dumps(value)}" for key, value in values.items() if value is not None]


def create_run(
    study: Study | PathLike,
    *,
    settings: Sequence[str] = (),
    toml: PathLike | None = None,
    name: str | None = None,
    argv: Sequence[str] | None = None,
    plan: Plan | None = None,
    experiment: Mapping[str, Any] | None = None,
) -> Path:
    """Check that a study is ready for training and create the run folder. No process is started.

    Args:
        study: The study.
        settings: ``section.key=value``; they override the TOML file.
        toml: A TOML file with the sections of :class:`patchcore.config.RunConfig`.
        name: A few words for the run's folder name; default: ``patch<size>``.
        argv: The command line to record; default: ``sys.argv``.
        plan: The plan of the run; default: the study's ``plan.json``.
        experiment: Name of the experiment that the run belongs to, and id of its point; None: none.

    Returns:
        The run folder.

    Raises:
        StudyError: There is no study, or it has no plan.
        ConfigError: An unknown key or impossible value.
        PatchSizeError: No UNETR exists for the plan's patch size, or the patch size does not divide the window.
        DataError: Too few patients for the folds, a case without an image, no accepted case.
        EmptyClassError: A class of the plan has no lesion in any case.
        MissingExtraError: torch or monai is not installed.
    """
    study = study if isinstance(study, Study) else Study(study)
    config = run_config(study, toml, settings)
    plan = plan_for(plan or study.plan(), config)
    if by := launched():
        check_launched(config.train, by)
    check_training(study, plan, config)
    for module in ("torch", "monai", "einops", "safetensors", "psutil"):
        if find_spec(module) is None:
            raise MissingExtraError(f"training needs {module}", remedy="pip install 'patchcore[train]'")
    source = Path(config.init.source)
    parent = source.name if config.init.source and source.is_dir() else None
    return new_run(
        study.path,
        kind="fine-tune" if config.init.source else "train",
        parent=parent,
        config=config.model_dump(mode="json"),
        plan=plan.model_dump(mode="json"),
        seed=config.seed,
        slug=name or f"patch{size_text(plan.patch_size)}",
        argv=sys.argv if argv is None else argv,
        fingerprint_hash=plan.fingerprint_hash,
        experiment=experiment,
    )


def train(
    study: Study | PathLike,
    *,
    settings: Sequence[str] = (),
    toml: PathLike | None = None,
    name: str | None = None,
    detach: bool = False,
    foreground: bool = False,
) -> TrainedRun:
    """Train a UNETR of the plan's patch size on a study.

    The run belongs to its own supervisor process: it continues if this process ends, detached or not. If a launcher
    (torchrun, srun, Ray Train) has started several processes that all call this function, each is one rank of one
    training: rank 0 creates the run and supervises it, the others take part.

    Args:
        study: A study with a plan.
        settings: ``section.key=value``, e.g. ``["model.preset=small", "train.steps=2000"]``; they override `toml`.
        toml: A TOML file with the sections of :class:`patchcore.config.RunConfig`.
        name: A few words for the run's folder name.
        detach: Return as soon as the run has started.
        foreground: Supervise the run in this process, for batch systems and containers.

    Returns:
        The run and its state: the final state, unless detached.

    Raises:
        PatchcoreError: As for :func:`create_run`; or the run failed.

    Example:
        >>> import patchcore as pc  # doctest: +SKIP
        >>> run = pc.train("study/", settings=["model.preset=small", "train.steps=500"])  # doctest: +SKIP
    """
    by = launched()
    if by and detach:
        raise ConfigError(f"{by.by} waits for its processes, so a training cannot be detached from it")
    if by and by.rank:
        run = join_training(by)
        return TrainedRun(path=run, attempt=RunPaths(run).newest_attempt() or 1, state=run_state(run).state)
    run = create_run(study, settings=settings, toml=toml, name=name)
    if foreground or by:
        supervise_foreground(run)
        attempt = 1
    else:
        attempt = start_attempt(run)
    while not detach and not (report := run_state(run)).state.is_over:
        time.sleep(_POLL_S)
    report = run_state(run)
    if not detach and report.state not in (RunState.FINISHED, RunState.STOPPED, RunState.PAUSED):
        raise RunError(f"the run is {report.label}", path=run, remedy="read attempts/*/stdout.log in the run folder")
    return TrainedRun(path=run, attempt=attempt, state=report.state)


def join_training(by: Launched) -> Path:
    """Take part in the training of rank 0 until it ends, as a rank above 0; return its run folder.

    Raises:
        RunError: Rank 0 cannot be reached, or its run folder does not exist here.
    """
    from patchcore.training.trainer import join_training as join

    print(f"rank {by.rank} of {by.world}: joins rank 0 at {by.address} port {by.port}", file=sys.stderr, flush=True)
    return join(by)


def run_config(study: Study, toml: PathLike | None, settings: Sequence[str]) -> RunConfig:
    """Resolve a run's configuration and make the path of its initial weights absolute.

    Raises:
        ConfigError: An unknown key or impossible value, or the initial weights do not exist.
    """
    config = resolve_config(toml, settings)
    if not config.init.source:
        return config
    source = str(_init_source(study, config.init.source))
    return config.model_copy(update={"init": config.init.model_copy(update={"source": source})})


def _init_source(study: Study, source: str) -> Path:
    """Return the absolute path of the run or file that the initial weights come from.

    Raises:
        ConfigError: There is no such run or file.
    """
    path = Path(source)
    if path.is_file():
        return path.absolute()
    try:
        return resolve_run(study.path, source).absolute()
    except StudyError as error:
        raise ConfigError(
            f"--init-from {source}: neither a run nor a file with weights ({error.message})",
            remedy="give a run of this study, the run folder of another study, or a weights file",
        ) from None


def plan_for(plan: Plan, config: RunConfig) -> Plan:
    """Return the plan of a run: short axes of the window fit all patch sizes, and a network that needs multiples."""
    sizes = [patch_triple(size) for size in config.model.patch_sizes] or [plan.patch_size]
    return plan.fitting([*sizes, *window_units([config.model.network])])


def check_training(study: Study, plan: Plan, config: RunConfig) -> None:
    """Find the problems that would make the trainer fail, before anything is started.

    Raises:
        PatchcoreError: As for :func:`create_run`.
    """
    target = plan.target
    kind = check_network(config.model, target.window_size, target.patch_size)
    if not kind.transformer and (config.init.freeze_epochs or config.init.part == "encoder"):
        raise ConfigError(
            f"{kind.name} has no transformer that could be frozen or loaded alone",
            remedy="remove --freeze-epochs and --encoder-only",
        )
    records = study.accepted()
    if not records:
        raise DataError(
            "no accepted case", path=study.path, remedy="run patchcore analyze and read its report on each case"
        )
    for record in records:
        if record.image is None:
            raise DataError(
                "has a label map but no image", case_id=record.case_id, remedy="add its CT, or exclude the case"
            )
    study.folds(config.train.folds, config.train.fold_seed)
    for value in target.classes:
        if not any(value in record.labels for record in records):
            raise EmptyClassError(
                f"class {value} has no voxel in any of {len(records)} cases",
                path=study.plan_path,
                found=sorted({label for record in records for label in record.labels}),
                remedy="correct classes in plan.json, or choose another lesion label with patchcore plan",
            )
