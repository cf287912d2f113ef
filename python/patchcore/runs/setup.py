"""Reads the set-up of a run: its configuration with the overrides of an attempt, its plan, its study and its split."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from patchcore.config import Plan, RunConfig, resolve_config
from patchcore.errors import DataError, RunError
from patchcore.files import read_json
from patchcore.study import Study

__all__ = ["RunSetup", "RunSplit", "divide_cases", "read_setup", "read_split", "run_study"]


@dataclass(frozen=True)
class RunSetup:
    """Configuration and plan of a run."""

    config: RunConfig
    plan: Plan


def read_setup(run: Path, overrides: Mapping[str, Any] | None = None) -> RunSetup:
    """Read configuration and plan of a run.

    Args:
        run: The run folder.
        overrides: Changes of the configuration for an attempt: a nested mapping, or dotted keys.

    Raises:
        RunError: The folder is not a run folder.
        ConfigError: An override is not valid.
        DataError: The configuration or the plan in ``run.json`` cannot be read.
    """
    try:
        record = read_json(run / "run.json", schema=1)
    except FileNotFoundError:
        raise RunError("not a run folder (it has no run.json)", path=run) from None
    settings = [f"{key}={json.dumps(value)}" for key, value in _dotted(overrides or {}).items()]
    try:
        # Older runs divided their study by the seed of the training.
        train = record["config"].setdefault("train", {})
        train.setdefault("fold_seed", record["config"].get("seed", 0))
        config = resolve_config(settings=settings, base=record["config"])
        return RunSetup(config=config, plan=Plan.model_validate_json(json.dumps(record["plan"])))
    except (KeyError, TypeError, AttributeError, ValidationError) as error:
        raise DataError(
            f"configuration or plan cannot be read ({type(error).__name__}: {str(error).splitlines()[0]})",
            path=run / "run.json",
            remedy="read the run with the patchcore that created it, or restore the file from a backup",
        ) from None


def _dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _dotted(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def run_study(run: Path) -> Study:
    """Return the study that contains a run.

    Raises:
        StudyError: The run folder is not inside a study.
    """
    return Study(run.absolute().parent.parent)


@dataclass(frozen=True)
class RunSplit:
    """The cases that a run trains on, and the cases that it validates on."""

    train: tuple[str, ...]
    validation: tuple[str, ...]


def divide_cases(study: Study, config: RunConfig) -> RunSplit:
    """Split the currently accepted cases of a study as a configuration requires.

    Raises:
        DataError: The study has fewer patients than folds.
    """
    validating = set(study.folds(config.train.folds, config.train.fold_seed)[config.train.fold])
    ids = [record.case_id for record in study.accepted()]
    return RunSplit(tuple(i for i in ids if i not in validating), tuple(i for i in ids if i in validating))


def read_split(run: Path) -> RunSplit | None:
    """Return the recorded split of a run, or None if the run has no ``split.json`` because it has not started."""
    try:
        found = read_json(run / "split.json", schema=1)
    except FileNotFoundError:
        return None
    return RunSplit(tuple(found["train"]), tuple(found["validation"]))
