"""Tests the training loss against MONAI and against its formula in NumPy, and the DSC of windows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.losses import DiceCELoss

from patchcore.errors import DataError, ShapeMismatchError
from patchcore.training.loss import DiceCrossEntropyLoss, outputs_of, supervised_loss, window_dsc, window_voxels


def by_formula(logits: np.ndarray, target: np.ndarray, epsilon: float = 1e-5) -> float:
    losses = []
    for z, t in zip(logits.astype(np.float64), target, strict=True):
        p = np.exp(z - z.max(0))
        p /= p.sum(0)
        y = np.stack([t == c for c in range(len(z))]).astype(np.float64)
        dice = [
            1 - (2 * (a * b).sum() + epsilon) / (a.sum() + b.sum() + epsilon) for a, b in zip(p[1:], y[1:], strict=True)
        ]
        losses.append(np.mean(dice) - np.log((p * y).sum(0)).mean())
    return float(np.mean(losses))


def draw(classes: int, *, empty: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(classes)
    logits = torch.randn(3, classes, 6, 5, 4) * 3
    target = torch.randint(0, classes, (3, 6, 5, 4))
    if empty:
        target[1] = 0
    return logits, target


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("empty", [False, True])
def test_equals_the_formula_and_monai(classes: int, empty: bool) -> None:
    logits, target = draw(classes, empty=empty)
    ours = logits.clone().requires_grad_()
    loss = DiceCrossEntropyLoss()(ours, target)
    assert loss.item() == pytest.approx(by_formula(logits.numpy(), target.numpy()), rel=1e-5)

    theirs = logits.clone().requires_grad_()
    monai_loss = DiceCELoss(include_background=False, softmax=True, to_onehot_y=True, smooth_nr=1e-5, smooth_dr=1e-5)(
        theirs, target[:, None]
    )
    torch.testing.assert_close(loss, monai_loss, rtol=1e-5, atol=1e-6)
    loss.backward()
    monai_loss.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-7)


def test_the_mean_over_ranks_is_the_loss_of_the_global_batch() -> None:
    logits, target = draw(3, empty=True)
    loss = DiceCrossEntropyLoss()
    parts = torch.stack([loss(logits[i : i + 1], target[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(parts.mean(), loss(logits, target))


def test_half_precision_logits_are_summed_in_float32() -> None:
    logits, target = draw(2)
    logits = logits.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = DiceCrossEntropyLoss()(logits, target.to(torch.uint8))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, DiceCrossEntropyLoss()(logits.float(), target), rtol=1e-6, atol=0)


def test_extremes_are_finite() -> None:
    target = torch.ones(1, 4, 4, 4, dtype=torch.uint8)
    logits = torch.zeros(1, 2, 4, 4, 4)
    logits[:, 1] = 200
    assert float(DiceCrossEntropyLoss()(logits, target)) == pytest.approx(0, abs=1e-6)
    wrong = (-logits).requires_grad_()
    loss = DiceCrossEntropyLoss()(wrong, target)
    loss.backward()
    assert loss.item() == pytest.approx(201, rel=1e-4)
    assert torch.isfinite(wrong.grad).all()


def test_an_absent_class_still_costs_its_probability() -> None:
    logits = torch.zeros(1, 2, 4, 4, 4)
    logits[:, 1, 0, 0, 0] = 5
    target = torch.zeros(1, 4, 4, 4, dtype=torch.int64)
    assert float(DiceCrossEntropyLoss()(logits, target)) > 1


def test_what_does_not_belong_together_is_refused() -> None:
    loss = DiceCrossEntropyLoss()
    with pytest.raises(ShapeMismatchError, match=r"\(2, 4, 4, 4\)"):
        loss(torch.zeros(2, 2, 4, 4, 4), torch.zeros(2, 1, 4, 4, 4))
    with pytest.raises(ShapeMismatchError, match="two channels"):
        loss(torch.zeros(2, 1, 4, 4, 4), torch.zeros(2, 4, 4, 4))
    with pytest.raises(DataError, match="class 2, but the network has 2"):
        loss(torch.zeros(1, 2, 4, 4, 4), torch.full((1, 4, 4, 4), 2))


def test_window_dsc() -> None:
    target = torch.tensor([[[[0, 1, 1, 2]]]])
    prediction = torch.tensor([[[[1, 1, 0, 2]]]])
    logits = torch.nn.functional.one_hot(prediction, 3).movedim(-1, 1).float()

    def found(target: torch.Tensor, logits: torch.Tensor = logits) -> float:
        return window_dsc(*window_voxels(logits, target).tolist())

    assert found(target) == pytest.approx(2 * 2 / (3 + 3))
    assert found(prediction) == 1.0
    nothing = torch.zeros_like(target)
    assert found(nothing) == 0.0
    assert math.isnan(found(nothing, torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1, 1).expand(1, 3, 1, 1, 4)))


@pytest.mark.parametrize("classes", [2, 4])
def test_batch_dice_equals_monais(classes: int) -> None:
    logits, target = draw(classes, empty=True)
    theirs = DiceCELoss(
        include_background=False, softmax=True, to_onehot_y=True, smooth_nr=1e-5, smooth_dr=1e-5, batch=True
    )
    torch.testing.assert_close(
        DiceCrossEntropyLoss(batch_dice=True)(logits, target), theirs(logits, target[:, None]), rtol=1e-5, atol=1e-6
    )


def test_deep_supervision_weighs_by_halves_and_takes_the_middle_voxel() -> None:
    torch.manual_seed(0)
    target = torch.randint(0, 2, (1, 8, 8, 4))
    fine, coarse = torch.randn(1, 2, 8, 8, 4), torch.randn(1, 2, 4, 4, 4)
    loss = DiceCrossEntropyLoss()
    found = supervised_loss(loss, [fine, coarse], target)
    expected = 2 / 3 * loss(fine, target) + 1 / 3 * loss(coarse, target[:, 1::2, 1::2])
    torch.testing.assert_close(found, expected)
    assert torch.equal(supervised_loss(loss, [fine], target), loss(fine, target))
    third = supervised_loss(loss, [fine, torch.randn(1, 2, 1, 1, 1)], target)
    assert torch.isfinite(third)


def test_outputs_come_as_a_list_however_they_are_given() -> None:
    one = torch.zeros(2, 3, 4, 4, 4)
    assert [tuple(t.shape) for t in outputs_of(one)] == [(2, 3, 4, 4, 4)]
    assert [tuple(t.shape) for t in outputs_of((one, one[..., :2]))] == [(2, 3, 4, 4, 4), (2, 3, 4, 4, 2)]
    assert [tuple(t.shape) for t in outputs_of(torch.zeros(2, 5, 3, 4, 4, 4))] == [(2, 3, 4, 4, 4)] * 5


def test_dice_of_regions_is_of_summed_probabilities() -> None:
    logits, target = draw(3)
    loss = DiceCrossEntropyLoss(regions=[(1, 2), (2,)])(logits, target)
    p = torch.softmax(logits.double(), 1)
    expected = []
    for sample in range(len(logits)):
        dice = []
        for members in ([1, 2], [2]):
            a = p[sample, members].sum(0)
            b = sum((target[sample] == member).double() for member in members)
            dice.append(1 - (2 * (a * b).sum() + 1e-5) / (a.sum() + b.sum() + 1e-5))  # type: ignore[union-attr]
        entropy = -p[sample].gather(0, target[sample][None]).log().mean()
        expected.append(sum(dice) / 2 + entropy)
    assert loss.item() == pytest.approx(float(torch.stack(expected).mean()), rel=1e-5)
    plain = DiceCrossEntropyLoss()(logits, target)
    torch.testing.assert_close(DiceCrossEntropyLoss(regions=[(1,), (2,)])(logits, target), plain)


def test_regions_are_painted_alike_on_either_grid() -> None:
    from patchcore.inference.geometry import class_map, label_on_grid
    from patchcore.resampling.grid import Grid

    generator = np.random.default_rng(0)
    raw = generator.random((3, 5, 6, 7)).astype(np.float32)
    probabilities = raw / raw.sum(0)
    regions = {1: (1, 2), 2: (2,)}
    painted = class_map(probabilities, regions)
    expected = np.where(probabilities[2] > 0.5, 2, np.where(probabilities[1:].sum(0) > 0.5, 1, 0))
    np.testing.assert_array_equal(painted, expected)
    grid = Grid.of((5, 6, 7), np.eye(4), (1.0, 1.0, 1.0))
    np.testing.assert_array_equal(label_on_grid(probabilities, grid, regions), painted)


@pytest.mark.parametrize("batch_dice", [False, True])
def test_the_epsilon_counts_on_both_sides(batch_dice: bool) -> None:
    logits, target = draw(2)
    found = float(DiceCrossEntropyLoss(epsilon=50.0, batch_dice=batch_dice)(logits[:1], target[:1]))
    assert found == pytest.approx(by_formula(logits[:1].numpy(), target[:1].numpy(), epsilon=50.0), rel=1e-5)


def test_ignored_voxels_are_in_neither_sum_whatever_is_predicted_there() -> None:
    target = torch.tensor([[[[0, 1, 2, 2]]]])  # 2 is ignored
    prediction = torch.tensor([[[[1, 1, 1, 0]]]])
    logits = torch.nn.functional.one_hot(prediction, 2).movedim(-1, 1).float()
    assert window_voxels(logits, target, ignored=2).tolist() == [1.0, 3.0]
