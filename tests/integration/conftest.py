"""Fixtures: a study that trains in seconds, and functions that create, run and read its runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import Lab
from tiny_training import PLAIN_SGD, ROUNDING, TINY, begin_attempt, write_balls

from patchcore.study import Study


@pytest.fixture(scope="session")
def _template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from patchcore.datasets.analyze import analyze
    from patchcore.datasets.plan import plan_patch_size

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
def own_data(tiny_study: Path, tmp_path: Path) -> Study:
    """The tiny study with a data set of its own, which a test may change."""
    shutil.copytree(Study(tiny_study).dataset_root, tmp_path / "dataset")
    described = json.loads((tiny_study / "study.json").read_text())
    (tiny_study / "study.json").write_text(json.dumps(described | {"dataset_root": str(tmp_path / "dataset")}))
    return Study(tiny_study)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """Runs of a fake trainer; processes that a failed test leaves behind are killed."""
    lab = Lab(tmp_path / "study")
    yield lab
    lab.end()


@pytest.fixture
def torch_settings() -> Iterator[None]:
    """Restore torch's process-wide settings after a trainer has run in this process."""
    import torch

    threads, generator = torch.get_num_threads(), torch.get_rng_state()
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cuda.enable_mem_efficient_sdp(True)
    torch.set_num_threads(threads)
    torch.set_rng_state(generator)


@pytest.fixture
def make_run(tiny_study: Path) -> Callable[..., Path]:
    """Create a run of the tiny study; the given settings are added to the tiny settings."""
    from patchcore.training.launch import create_run

    return lambda *settings: create_run(tiny_study, settings=[*TINY, *settings])


@pytest.fixture
def run_attempt(torch_settings: None) -> Callable[..., int]:
    """Run one attempt in this process and return its exit code."""
    from patchcore.training.trainer import train_attempt

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


@pytest.fixture
def gradients_agree(
    make_run: Callable[..., Path], run_attempt: Callable[..., int], losses: Callable[[Path], dict[int, float]]
) -> Callable[..., None]:
    """Assert that the first step of two kinds of run has the same loss and gradient, up to rounding.

    Each run makes one step of gradient descent at learning rate 1, which subtracts the gradient from the weights. A
    third run, at a learning rate of 1e-30, keeps the initial weights. Only the second kind is started by `attempt`.
    """
    import torch
    from safetensors.torch import load_file

    def weights(run: Path) -> dict[str, torch.Tensor]:
        return load_file(run / "checkpoints" / "last" / "model.safetensors")

    def check(one: tuple[str, ...], other: tuple[str, ...], attempt: Callable[[Path], Any] = run_attempt) -> None:
        first_step = (*PLAIN_SGD, "train.steps=1", "train.steps_per_epoch=1")
        start = make_run(*first_step, "optim.lr=1e-30")
        runs = [make_run(*first_step, "optim.lr=1", *settings) for settings in (one, other)]
        assert run_attempt(start) == run_attempt(runs[0]) == 0
        attempt(runs[1])
        first, (ours, theirs) = weights(start), map(weights, runs)
        gradient = torch.cat([(first[name] - ours[name]).flatten() for name in first]).double()
        difference = torch.cat([(theirs[name] - ours[name]).flatten() for name in first]).double()
        assert gradient.norm() > 0.01
        assert difference.norm() <= ROUNDING * gradient.norm()
        assert losses(runs[1])[1] == pytest.approx(losses(runs[0])[1], rel=ROUNDING)

    return check
