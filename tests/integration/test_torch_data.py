"""Windows for a user's own PyTorch loop: the loader and the data set, on a study of phantoms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import patchcore as pc
from patchcore.errors import ConfigError, StudyError

WINDOW = (16, 16, 16)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("torch")
    pc.make_phantoms(root / "data", preset="small", cases=4, seed=3, shape=(48, 48, 32))
    pc.analyze(root / "data", root / "study")
    pc.plan_patch_size(root / "study")
    return root / "study"


def images(batches: Any) -> list[torch.Tensor]:
    return [batch["image"].clone() for batch in batches]


def test_batches_of_image_label_and_meta(study: Path) -> None:
    with pc.WindowLoader(study, steps=5, window_size=WINDOW, augment=pc.AugmentConfig()) as loader:
        batches = list(loader)
        assert len(loader) == len(batches) == 5
        assert 0 <= loader.waited_share <= 1
    for step, batch in enumerate(batches):
        assert batch["image"].shape == (2, 1, *WINDOW)
        assert batch["label"].shape == (2, *WINDOW)
        assert batch["meta"]["step"] == step
        assert len(batch["meta"]["case_id"]) == len(batch["meta"]["kind"]) == 2
        assert set(batch["meta"]["kind"]) <= {"lesion", "anywhere"}


def test_a_resume_and_ranks_and_threads_see_the_same_windows(study: Path) -> None:
    def read(**given: Any) -> list[torch.Tensor]:
        with pc.WindowLoader(study, steps=6, window_size=WINDOW, augment=pc.AugmentConfig(), **given) as loader:
            return images(loader)

    whole = read()
    for a, b in zip(whole[4:], read(start=4), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(whole, read(threads=3), strict=True):
        assert torch.equal(a, b)
    for rank in range(2):
        for a, b in zip(whole, read(rank=rank, world_size=2), strict=True):
            assert torch.equal(a[rank : rank + 1], b)


def test_a_fold_is_held_out(study: Path) -> None:
    seen = set()
    with pc.WindowLoader(study, steps=40, window_size=WINDOW, fold=1, folds=2) as loader:
        assert len(loader.cases) == 2
        for batch in loader:
            seen |= set(batch["meta"]["case_id"])
    assert seen == {case.case_id for case in loader.cases}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int16"])
def test_other_dtypes(study: Path, dtype: Any) -> None:
    with pc.WindowLoader(study, steps=2, window_size=WINDOW, dtype=dtype) as loader:
        for batch in loader:
            assert batch["image"].dtype == getattr(torch, dtype)
    with pc.WindowLoader(study, steps=1, window_size=WINDOW) as loader:
        plain = next(iter(loader))["image"]
    if dtype != "int16":
        with pc.WindowLoader(study, steps=1, window_size=WINDOW, dtype=dtype) as loader:
            assert torch.equal(next(iter(loader))["image"], plain.to(getattr(torch, dtype)))


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_the_data_set_in_workers_gives_the_loaders_windows(study: Path, context: str) -> None:
    dataset = pc.WindowDataset(study, length=8, window_size=WINDOW)
    # The data set's threads and cache exist before a worker is forked.
    expected = [dataset[index]["image"] for index in range(8)]
    with pc.WindowLoader(study, steps=4, window_size=WINDOW) as loader:
        for step, batch in enumerate(images(loader)):
            assert torch.equal(batch, torch.stack(expected[2 * step : 2 * step + 2]))
    workers = DataLoader(dataset, batch_size=2, num_workers=2, multiprocessing_context=context, timeout=60)
    for step, batch in enumerate(workers):
        assert torch.equal(batch["image"], torch.stack(expected[2 * step : 2 * step + 2]))
        assert batch["augmentation"].shape[0] == 2
    with pytest.raises(IndexError):
        dataset[8]
    assert np.array_equal(dataset[-1]["corner"], dataset[7]["corner"])


def test_what_cannot_be_is_reported(study: Path, tmp_path: Path) -> None:
    with pytest.raises(StudyError):
        pc.WindowLoader(tmp_path / "none", steps=1)
    with pytest.raises(ConfigError, match="fold 5 of 5 does not exist"):
        pc.WindowLoader(study, steps=1, fold=5)
    with pytest.raises(ConfigError, match="int16"):
        pc.WindowLoader(study, steps=1, dtype="int16", augment=pc.AugmentConfig())
