"""What all kinds of experiments have in common: seeds, folds, settings, and how their points are worked on."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from patchcore.config import resolve_config
from patchcore.config.run import RunConfig
from patchcore.errors import ConfigError
from patchcore.experiments.executors import ExecutorName, Where
from patchcore.experiments.local import gpus
from patchcore.experiments.points import settings_of_toml
from patchcore.runs.control import author_name
from patchcore.threads import core_count
from patchcore.types import PathLike
from patchcore.version import package_version

__all__ = ["Common", "Options", "authorship", "check_settings", "resolve_options", "where_of"]


class Options(TypedDict, total=False):
    """Options of every experiment.

    Attributes:
        seeds: Number of seeds (0, 1, …), or the seeds [default: 1].
        folds: Validation folds [default: (0,)].
        settings: ``section.key=value`` of all points.
        toml: A TOML file of settings; `settings` override it.
        name: Name of the experiment [default: its kind and axes].
        slots: Number of trainings side by side; on this machine it sets the CPU threads of each [default: one, or one
            per GPU].
        executor: ``local``, ``slurm`` or ``ray`` [default: local].
        sbatch: Options for sbatch, such as ``("--partition=gpu", "--gres=gpu:1")``.
        lead_s: With Slurm: so long before the time limit a task is asked to stop [s; default: 120].
        ray_address: Address of the Ray cluster.
        failures_allowed: A point that has failed so often is not started again [default: 2].
        keep_checkpoints: Whether a finished point keeps more than its best weights [default: no].
    """

    seeds: int | Sequence[int]
    folds: Sequence[int]
    settings: Sequence[str]
    toml: PathLike | None
    name: str | None
    slots: int | None
    executor: ExecutorName
    sbatch: Sequence[str]
    lead_s: int
    ray_address: str | None
    failures_allowed: int
    keep_checkpoints: bool


@dataclass(frozen=True)
class Common:
    """Resolved options; `config` is the configuration that `settings` give."""

    name: str
    seeds: tuple[int, ...]
    folds: tuple[int, ...]
    settings: tuple[str, ...]
    config: RunConfig
    failures_allowed: int
    keep_checkpoints: bool

    def of_protocol(self) -> dict[str, Any]:
        """Return what every protocol has of the options, and who creates it."""
        own = ("name", "seeds", "folds", "settings", "failures_allowed", "keep_checkpoints")
        return authorship() | {key: getattr(self, key) for key in own}


def resolve_options(options: Options, default_name: str) -> Common:
    """Check options and fill in their defaults.

    Args:
        options: The options.
        default_name: Name of the experiment if the options have none.

    Raises:
        ConfigError: A setting, name, seed, fold or number of failures is impossible.
    """
    seeds = options.get("seeds", 1)
    chosen = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    folds = tuple(options.get("folds", (0,)))
    for what, numbers in (("--seeds", chosen), ("--folds", folds)):
        if not numbers or len(set(numbers)) < len(numbers) or min(numbers) < 0:
            raise ConfigError(f"{what} {', '.join(map(str, numbers))}", expected="different numbers from 0 up")
    name = options.get("name") or default_name
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", name):
        raise ConfigError(
            f"experiment name {name!r}", expected="up to 80 letters, digits, dots, dashes and underscores"
        )
    toml = options.get("toml")
    settings = [*(settings_of_toml(toml) if toml is not None else ()), *options.get("settings", ())]
    config = resolve_config(settings=settings)
    check_settings(config)
    if not config.train.threads and not gpus():
        # The number of threads changes rounding: it must not depend on the machine that a point happens to run on.
        settings.append(f"train.threads={max(1, core_count() // (options.get('slots') or 1))}")
        config = resolve_config(settings=settings)
    failures = options.get("failures_allowed", 2)
    if failures < 1:
        raise ConfigError(f"--failures {failures}", expected="1 or more")
    for fold in folds:
        if fold >= config.train.folds:
            raise ConfigError(f"fold {fold} does not exist", found=fold, expected=f"0 to {config.train.folds - 1}")
    return Common(
        name=name,
        seeds=chosen,
        folds=folds,
        settings=tuple(settings),
        config=config,
        failures_allowed=failures,
        keep_checkpoints=options.get("keep_checkpoints", False),
    )


def check_settings(config: RunConfig) -> None:
    """Check that settings of all trainings leave to the experiment what it sets for each of them.

    Raises:
        ConfigError: They set a seed, a fold, or a number of epochs.
    """
    for setting, given, remedy in (
        (f"seed={config.seed}", config.seed, "use --seeds"),
        (f"train.fold={config.train.fold}", config.train.fold, "use --folds"),
        (f"train.epochs={config.train.epochs}", config.train.epochs, "give a number of steps: --steps"),
    ):
        if given:
            raise ConfigError(f"{setting}: an experiment sets this itself, for each training", remedy=remedy)


def where_of(options: Options) -> Where:
    """Return where the points are worked on.

    Raises:
        ConfigError: The options do not fit together.
    """
    return Where(
        executor=options.get("executor", "local"),
        slots=options.get("slots"),
        options=tuple(options.get("sbatch", ())),
        lead_s=options.get("lead_s", 120),
        address=options.get("ray_address"),
    )


def authorship() -> dict[str, Any]:
    """Return who creates a file of an experiment, when, and with which version."""
    return {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "user": author_name(),
        "patchcore": package_version(),
    }
