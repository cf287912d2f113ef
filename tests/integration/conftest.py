"""A study that trains in seconds, and what starts, runs and reads its runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_training import TINY, begin_attempt, write_balls


@pytest.fixture(scope="session")
def _template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from patchcore.data import analyze
    from patchcore.planning import plan_patch_size

    root = tmp_path_factory.mktemp("tiny")
    study = analyze(write_balls(root / "dataset"), root / "study")
    plan_patch_size(study, candidates=(8,), window_size=(16, 16, 16), hu_range=(-50, 250))
    return root


@pytest.fixture
def tiny_study(_template: Path, tmp_path: Path) -> Path:
    """A study of six small cases with a plan: patch 8, window 16."""
    shutil.copytree(_template / "study", tmp_path / "study")
    return tmp_path / "study"


@pytest.fixture
def torch_settings() -> Iterator[None]:
    """Give torch its process-wide settings back after a trainer has run in this process."""
    import torch

    threads, generator = torch.get_num_threads(), torch.get_rng_state()
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cuda.enable_mem_efficient_sdp(True)
    torch.set_num_threads(threads)
    torch.set_rng_state(generator)


@pytest.fixture
def make_run(tiny_study: Path) -> Callable[..., Path]:
    """Make a run of the tiny study; settings come on top of the tiny ones."""
    from patchcore.engine import create_run

    return lambda *settings: create_run(tiny_study, settings=[*TINY, *settings])


@pytest.fixture
def run_attempt(torch_settings: None) -> Callable[..., int]:
    """Run one attempt in this process and return its exit code."""
    from patchcore.engine.trainer import train_attempt

    def run_one(run: Path, number: int = 1, **overrides: Any) -> int:
        begin_attempt(run, number, **overrides)
        return train_attempt(run, number)

    return run_one


@pytest.fixture
def losses() -> Callable[[Path], dict[int, float]]:
    """Read the training loss by step, as every reader of a run sees it."""
    from patchcore.runs import RunReader

    def read(run: Path) -> dict[int, float]:
        view = RunReader(run).poll()
        assert view.bad_lines == 0
        series = view.series["train/loss"]
        return {int(step): float(value) for step, value in zip(series.steps, series.values, strict=True)}

    return read
