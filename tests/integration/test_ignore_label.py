"""Voxels of the label ``ignore`` count in no measure, no loss and no metric."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import patchcore as pc
from patchcore.config.run import TrainConfig
from patchcore.errors import DataError
from patchcore.evaluation.rows import score_case
from patchcore.inference.segment import Segmentation
from patchcore.models.device import place
from patchcore.study.study import Study
from patchcore.training.loss import DiceCrossEntropyLoss, window_voxels
from patchcore.training.validate import validate_cases

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])
SHAPE = (48, 48, 24)


def data_set(root: Path, *, name: str = "ignore") -> dict[str, np.ndarray]:
    maps = {}
    for number in range(3):
        random = np.random.default_rng(number)
        label = np.zeros(SHAPE, np.uint8)
        label[10:18, 10 + number : 20, 6:12] = 1
        label[30:40, 30:40, 12:20] = 2
        # The ignored part touches the lesion.
        label[18:22, 10:20, 6:12] = 2
        hu = random.normal(40, 20, SHAPE).astype(np.int16)
        hu[:4] = -1000
        hu[label == 1] += 60
        maps[f"c{number}"] = label
        for folder, array, suffix in (("imagesTr", hu, "_0000"), ("labelsTr", label, "")):
            (root / folder).mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, AFFINE), root / folder / f"c{number}{suffix}.nii.gz")
    described = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "tumour": 1, name: 2}, "numTraining": 3}
    (root / "dataset.json").write_text(json.dumps(described), encoding="utf-8")
    return maps


@pytest.fixture
def study(tmp_path: Path) -> tuple[Study, dict[str, np.ndarray]]:
    maps = data_set(tmp_path / "data")
    made = pc.analyze(tmp_path / "data", tmp_path / "study")
    pc.plan_patch_size(made, spacing=(1.0, 1.0, 2.0), window_size=24)
    return made, maps


def test_no_measure_knows_the_ignored_voxels(study: tuple[Study, dict[str, np.ndarray]]) -> None:
    made, maps = study
    fingerprint = made.fingerprint()
    assert [item.label for item in fingerprint.labels] == [1]
    assert fingerprint.lesion_label == 1
    for case in fingerprint.cases:
        assert [item.volume_mm3 for item in case.lesions] == [2.0 * int((maps[case.case_id] == 1).sum())]
    assert all(record.ignore_label == 2 and record.labels == (1,) for record in made.cases())
    assert fingerprint.hu is not None
    assert fingerprint.hu.within.voxel_count == sum(int((label == 1).sum()) for label in maps.values())


def test_a_label_that_is_named_by_number_is_ignored(tmp_path: Path) -> None:
    data_set(tmp_path / "data", name="unsure")
    made = pc.analyze(tmp_path / "data", tmp_path / "study", lesion_label=1)
    assert [item.label for item in made.fingerprint().labels] == [1, 2]
    again = pc.analyze(tmp_path / "data", tmp_path / "study", ignore_label=2)
    assert [item.label for item in again.fingerprint().labels] == [1]
    none = pc.analyze(tmp_path / "data", tmp_path / "study", ignore_label=0)
    assert [item.label for item in none.fingerprint().labels] == [1, 2]
    with pytest.raises(DataError, match="--ignore-label 1 is not a label that can be ignored"):
        pc.analyze(tmp_path / "data", tmp_path / "study", ignore_label=1)


def test_the_store_tells_ignored_voxels_from_background(study: tuple[Study, dict[str, np.ndarray]]) -> None:
    made, maps = study
    target = made.plan().targets[0]
    assert (target.classes, target.ignore_label, target.ignored_index) == ((1,), 2, 2)
    for case in pc.prepare(made).cases:
        np.testing.assert_array_equal(case.label(), maps[case.case_id])
        assert case.class_voxels == (int((maps[case.case_id] == 1).sum()),)
        assert len(case.class_spans(1).length) == 0


class Everywhere(nn.Module):
    """A network that finds a lesion in every voxel."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(image.shape[0], 2, *image.shape[2:])
        logits[:, 1] = 5
        return logits


def test_validation_counts_no_ignored_voxel(study: tuple[Study, dict[str, np.ndarray]]) -> None:
    made, maps = study
    prepared = pc.prepare(made)
    result = validate_cases(
        Everywhere(), prepared.cases, made.plan().targets[0], place(TrainConfig(device="cpu", threads=1))
    )
    for case in prepared.cases:
        label = maps[case.case_id]
        lesion, counted = int((label == 1).sum()), int((label != 2).sum())
        (counts,) = (result.counts.counts(case.case_id)[index] for index in (1,))
        assert counts.dsc == pytest.approx(2 * lesion / (lesion + counted))
        # Everything is predicted, so every lesion is found completely.
        assert set(result.lesions[case.case_id].covered_share) <= {1.0}
        assert (result.lesions[case.case_id].found > 0) == (lesion > 0)
        assert math.fsum(result.lesions[case.case_id].predicted_mm3) == pytest.approx(counted * case.voxel_mm3)


def test_evaluation_counts_no_ignored_voxel(study: tuple[Study, dict[str, np.ndarray]]) -> None:
    made, maps = study

    def everywhere(image: Any, _affine: Any, **_options: Any) -> Any:
        ones = np.ones(image.shape, np.uint8)
        return Segmentation(ones, ones * np.uint16(60_000), 1, 0), None

    predictor: Any = SimpleNamespace(target=made.plan().targets[0], segment=everywhere)
    for record in made.accepted():
        row, panel = score_case(predictor, record, ball_mm3=100.0)
        label = maps[record.case_id]
        lesion, counted = int((label == 1).sum()), int((label != 2).sum())
        assert row.predicted_voxels == counted
        assert row.counts[1].dsc == pytest.approx(2 * lesion / (lesion + counted))
        assert (row.candidates.lesions > 0) == (lesion > 0)
        assert len(row.candidates.scores) == 1
        assert panel.label.shape[2] == 1


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), classes=st.integers(1, 3), batch_dice=st.booleans(), share=st.floats(0, 0.9))
def test_the_loss_is_that_of_the_other_voxels(seed: int, classes: int, batch_dice: bool, share: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    ignored = classes + 1
    target = torch.randint(0, classes + 1, (1, 6, 5, 4), generator=generator)
    away = torch.rand(target.shape, generator=generator) < share
    target = torch.where(away, ignored, target)
    logits = torch.randn((1, classes + 1, 6, 5, 4), generator=generator, requires_grad=True)
    loss = DiceCrossEntropyLoss(batch_dice=batch_dice, ignored=ignored)(logits, target)
    loss.backward()
    assert logits.grad is not None
    assert not logits.grad[:, :, away[0]].any()
    left = ~away[0]
    assert left.any()
    alone = DiceCrossEntropyLoss(batch_dice=batch_dice)(logits.detach()[:, :, left], target[:, left])
    assert float(loss.detach()) == pytest.approx(float(alone), rel=1e-5)
    changed = logits.detach().clone()
    changed[:, :, away[0]] += 100 * torch.randn((1, classes + 1, int(away.sum())), generator=generator)
    assert torch.equal(window_voxels(changed, target, ignored), window_voxels(logits, target, ignored))


def test_a_window_of_ignored_voxels_has_no_gradient() -> None:
    logits = torch.randn(2, 2, 4, 4, 4, requires_grad=True)
    loss = DiceCrossEntropyLoss(ignored=2)(logits, torch.full((2, 4, 4, 4), 2))
    loss.backward()
    assert logits.grad is not None
    assert torch.isfinite(loss)
    assert not logits.grad.any()


def test_an_ignored_class_without_its_plan_is_refused() -> None:
    with pytest.raises(DataError, match="target holds class 2"):
        DiceCrossEntropyLoss()(torch.zeros(1, 2, 4, 4, 4), torch.full((1, 4, 4, 4), 2))
