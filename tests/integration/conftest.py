"""A data set that trains in seconds: bright balls in noise, one a case, and a study and plan made of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

TINY = (
    "model.preset=tiny",
    "train.steps=6",
    "train.steps_per_epoch=3",
    "train.batch_size=2",
    "train.folds=3",
    "train.threads=1",
    "optim.warmup_steps=1",
    "model.dropout=0.1",
)


def write_balls(root: Path, *, cases: int = 6, affine: Any = None) -> Path:
    generator = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    grid = np.stack(np.meshgrid(np.arange(24), np.arange(22), np.arange(18), indexing="ij"), axis=-1)
    for number in range(cases):
        centre = generator.uniform(6, 12, size=3)
        label = (((grid - centre) ** 2).sum(-1) < (3 + number % 2) ** 2).astype(np.uint8)
        image = (generator.normal(40, 15, size=label.shape) + 120 * label).astype(np.int16)
        matrix = np.diag([-1.5, -1.5, 2.0, 1.0]) if affine is None else affine
        for folder, array in (("images", image), ("labels", label)):
            nibabel.save(nibabel.Nifti1Image(array, matrix), root / folder / f"case{number:02d}.nii.gz")
    return root


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


def begin_attempt(run: Path, number: int, **overrides: Any) -> None:
    """Do what a supervisor does before it starts a trainer."""
    folder = run / "attempts" / str(number)
    folder.mkdir(parents=True)
    (folder / "start.json").write_text(json.dumps({"schema_version": 1, "attempt": number, "overrides": overrides}))


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
