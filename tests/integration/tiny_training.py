"""Shared by several integration tests: the settings of a training that takes seconds, and its data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

TINY = (
    "model.preset=tiny",
    "train.steps=6",
    "train.steps_per_epoch=3",
    "train.batch_size=2",
    "train.folds=3",
    "train.threads=1",
    "optim.warmup_steps=1",
    "model.dropout=0.1",
    "train.tensorboard=false",
)

# Plain gradient descent: a step is the gradient times a constant, so rounding noise stays small. AdamW divides each
# gradient by its own size, which turns noise in gradients near zero into full steps.
PLAIN_SGD = (
    "optim.optimizer=sgd",
    "optim.momentum=0",
    "optim.weight_decay=0",
    "optim.clip_norm=1e9",
    "model.dropout=0",
    "train.batch_size=4",
)

# Largest relative rounding error of a float32 sum of the terms of one step, in any order: n additions times
# the unit roundoff (Higham, "Accuracy and Stability of Numerical Algorithms", section 4.2); n is windows × voxels.
ROUNDING = 4 * 16**3 * 2.0**-24


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


def begin_attempt(run: Path, number: int, **overrides: Any) -> None:
    """Create the attempt folder and ``start.json``, as a supervisor does before it starts a trainer."""
    folder = run / "attempts" / str(number)
    folder.mkdir(parents=True)
    (folder / "start.json").write_text(json.dumps({"schema_version": 1, "attempt": number, "overrides": overrides}))
