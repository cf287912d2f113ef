"""Set-up and split of a run: its configuration with an attempt's overrides, its plan, its study and its cases."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchcore.config import Plan, RunConfig, resolve_config
from patchcore.errors import RunError
from patchcore.files import read_json
from patchcore.study import Study

__all__ = ["RunSetup", "RunSplit", "divide_cases", "read_setup", "read_split", "run_study"]


@dataclass(frozen=True)
class RunSetup:
    """What a run folder says of its training."""

    config: RunConfig
    plan: Plan


def read_setup(run: Path, overrides: Mapping[str, Any] | None = None) -> RunSetup:
    """Read configuration and plan of a run.

    Args:
        run: The run folder.
        overrides: What an attempt changes: a nested mapping, or dotted keys.

    Raises:
        RunError: This is no run folder.
        ConfigError: An override is impossible.
    """
    try:
        record = read_json(run / "run.json", schema=1)
    except FileNotFoundError:
        raise RunError("no run folder (it has no run.json)", path=run) from None
    settings = [f"{key}={json.dumps(value)}" for key, value in _dotted(overrides or {}).items()]
    config = resolve_config(settings=settings, base=record["config"])
    return RunSetup(config=config, plan=Plan.model_validate_json(json.dumps(record["plan"])))


def _dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _dotted(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def run_study(run: Path) -> Study:
    """Return the study that a run lies in.

    Raises:
        StudyError: It lies in none.
    """
    return Study(run.absolute().parent.parent)


@dataclass(frozen=True)
class RunSplit:
    """Which cases a run trains on, and which it validates on."""

    train: tuple[str, ...]
    validation: tuple[str, ...]


def divide_cases(study: Study, config: RunConfig) -> RunSplit:
    """Return how the study's cases of today are divided for a configuration.

    Raises:
        DataError: Fewer patients than folds.
    """
    validating = set(study.folds(config.train.folds, config.seed)[config.train.fold])
    ids = [record.case_id for record in study.accepted()]
    return RunSplit(tuple(i for i in ids if i not in validating), tuple(i for i in ids if i in validating))


def read_split(run: Path) -> RunSplit | None:
    """Return how a run's cases were divided; None where it has not begun."""
    try:
        found = read_json(run / "split.json", schema=1)
    except FileNotFoundError:
        return None
    return RunSplit(tuple(found["train"]), tuple(found["validation"]))
