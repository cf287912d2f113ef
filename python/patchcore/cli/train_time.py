"""Turns ``patchcore train --minutes`` into a number of steps."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from patchcore.errors import ConfigError

__all__ = ["settings_for"]

_STEPS, _CASES = 10, 3
_SET_HERE = ("train.steps=", "train.epochs=", "train.max_minutes=")


def settings_for(minutes: float, study: Path, settings: Sequence[str], toml: Path | None) -> list[str]:
    """Measure a step and a validation, and return the settings of a training that takes this long.

    They are measured by ``patchcore profile``, a process of its own: this one only watches the run later, and would
    keep the memory until then.

    Args:
        minutes: Time of the training [min].
        study: The study.
        settings: ``section.key=value`` of the training.
        toml: The TOML file with settings.

    Raises:
        ConfigError: The time is not positive or too short, the number of steps is given as well, or the number of
            ranks is not known.
        typer.Exit: The measurement failed. Its message has been printed.
    """
    from patchcore.config import resolve_config
    from patchcore.training.progress import steps_in

    if not 0 < minutes < math.inf:
        raise ConfigError(f"--minutes {minutes:g}", expected="a finite number above 0")
    for setting in settings:
        if setting.startswith(_SET_HERE):
            raise ConfigError(f"{setting} and a time cannot be used together", remedy="give only one of them")
    config = resolve_config(toml, settings)
    ranks = config.train.ranks
    if not ranks:
        raise ConfigError(
            "the time of a step cannot be measured for train.ranks=0", remedy="give the number of GPUs, e.g. --ranks 2"
        )
    typer.echo("measuring the time of a step; cases that are not prepared yet are prepared first", err=True)
    share = [f"train.batch_size={max(1, config.train.batch_size // ranks)}", "train.ranks=1"] if ranks > 1 else []
    options = [text for setting in (*settings, *share) for text in ("--set", setting)]
    if toml is not None:
        options += ["--config", str(toml)]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "patchcore", "profile", str(study), "--json", "--validate", str(_CASES),
         "--steps", str(_STEPS), *options],
        stdout=subprocess.PIPE, check=False,
    )  # fmt: skip
    if done.returncode:
        raise typer.Exit(done.returncode)
    found = json.loads(done.stdout)
    validation = found["validation"]
    validation_s = validation["seconds"] / ranks
    steps = steps_in(
        config,
        minutes,
        step_s=found["trained_s"],
        validation_s=validation_s,
        training_cases=validation["training_cases"],
        validation_cases=validation["cases"],
    )
    typer.echo(
        f"train.steps={steps}: a step takes {found['trained_s']:.2g} s here, and a validation of all "
        f"{validation['cases']} cases about {validation_s:.1f} s",
        err=True,
    )
    return [f"train.steps={steps}", "train.epochs=0", f"train.max_minutes={minutes:g}"]
