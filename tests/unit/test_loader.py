"""Batches depend on their step alone, and augmentation does to HU and labels what it says."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from patchcore.config import resolve_config
from patchcore.config.run import SamplingConfig
from patchcore.data.prepare import PreparedCase
from patchcore.engine.augment import draw_augmentation, flip_windows, shifted_range
from patchcore.engine.loader import BatchLoader, BatchSource
from patchcore.engine.optim import learning_rate, make_optimizer
from patchcore.engine.progress import Progress, case_set_id
from patchcore.errors import CorruptFileError
from patchcore.store import write_array
from patchcore.volumetry import lesion_spans
from patchcore.windows import extract_windows


def make_case(folder: Path, number: int) -> PreparedCase:
    generator = np.random.default_rng(number)
    shape = (20 + number, 14, 9)
    label = np.zeros(shape, dtype=np.uint8)
    label[3:6, 4:7, 2:5] = 1
    label[10:12, 9:11, 6:8] = 1
    image = generator.integers(-200, 400, shape).astype(np.int16)
    spans = lesion_spans(label, labels=[1])
    path = folder / f"case_{number}"
    path.mkdir()
    write_array(path / "image", image)
    write_array(path / "label", label)
    np.save(path / "spans.npy", np.column_stack([spans.lesion, spans.origin, spans.length]).astype(np.int32))
    return PreparedCase(
        case_id=path.name,
        patient=path.name,
        path=path,
        shape=shape,
        spacing=(1.0, 1.0, 1.0),
        class_voxels=(int(label.sum()),),
        lesion_voxels=tuple(spans.voxel_count.tolist()),
        span_axis=spans.axis,
    )


@pytest.fixture
def cases(tmp_path: Path) -> list[PreparedCase]:
    return [make_case(tmp_path, number) for number in range(3)]


def source_of(cases: list[PreparedCase], *settings: str) -> BatchSource:
    config = resolve_config(settings=["train.batch_size=3", "seed=7", *settings])
    return BatchSource(cases, (8, 8, 8), (-100.0, 200.0), config)


def test_a_later_start_gives_the_same_batches(cases: list[PreparedCase]) -> None:
    source = source_of(cases)
    with BatchLoader(source, 0, 6) as loader:
        whole = [loader.next() for _ in range(6)]
    with BatchLoader(source_of(cases), 4, 6) as loader:
        resumed = [loader.next() for _ in range(2)]
    assert [batch.step for batch in whole] == list(range(6))
    for a, b in zip(whole[4:], resumed, strict=True):
        assert torch.equal(a.image, b.image)
        assert torch.equal(a.label, b.label)
        assert np.array_equal(a.augmentation, b.augmentation)


def test_no_batch_equals_another(cases: list[PreparedCase]) -> None:
    source = source_of(cases)
    images = [source.batch(step).image for step in range(4)]
    assert not any(torch.equal(a, b) for n, a in enumerate(images) for b in images[:n])


def test_leaving_early_ends_the_thread(cases: list[PreparedCase]) -> None:
    with BatchLoader(source_of(cases), 0, 10**9) as loader:
        loader.next()
    assert not loader._thread.is_alive()


def test_a_damaged_case_is_told_where_the_batch_is_asked_for(cases: list[PreparedCase]) -> None:
    for case in cases:
        (case.path / "image" / "c" / "0" / "0" / "0").write_bytes(b"")
    with BatchLoader(source_of(cases), 0, 5) as loader, pytest.raises(CorruptFileError, match="case_"):
        loader.next()


def test_lesions_are_counted_the_same_after_a_resume(cases: list[PreparedCase]) -> None:
    source = source_of(cases, "sampling.lesion_share=0.5")
    drawn, seen = set(), set()
    for step in range(20):
        batch = source.batch(step)
        drawn |= batch.lesions_drawn
        seen |= batch.lesions_seen
        assert batch.lesions_drawn <= batch.lesions_seen
        for window in batch.label:
            assert not window.any() or batch.lesions_seen
    assert source.lesions_until(20) == (drawn, seen)
    assert len(drawn) == 6


def test_moving_the_range_is_shifting_and_scaling_hu() -> None:
    hu: npt.NDArray[np.float32] = np.linspace(-300, 500, 8**3, dtype=np.float32).reshape(8, 8, 8)
    low, high = -100.0, 200.0
    config = SamplingConfig(hu_shift=0.2, hu_scale=0.3)
    for draw in draw_augmentation(3, 11, np.arange(5, dtype=np.uint32)):
        shift, scale = (2 * draw[3] - 1) * 0.2 * 300, 1 + (2 * draw[4] - 1) * 0.3
        expected = (((hu - 50) * scale + 50 + shift).clip(low, high) - low) / (high - low)
        moved = shifted_range(draw, (low, high), config)
        found = extract_windows(hu, (0, 0, 0), (8, 8, 8), hu_range=moved).image[0]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_flips_take_image_and_label_along() -> None:
    image = torch.rand(8, 1, 4, 5, 6)
    label = (image[:, 0] > 0.5).to(torch.uint8)
    before = image.clone()
    draws = draw_augmentation(0, 0, np.arange(8, dtype=np.uint32))
    flip_windows(image, label, draws)
    assert torch.equal(label, (image[:, 0] > 0.5).to(torch.uint8))
    for window in range(8):
        axes = [axis for axis in range(3) if draws[window, axis] < 0.5]
        assert torch.equal(image[window, 0], before[window, 0].flip(axes))
    assert not torch.equal(image, before)


def test_weight_decay_is_for_matrices_and_frozen_weights_stay_outside() -> None:
    from patchcore.models import UNETR

    network = UNETR(1, 2, 16, 8, hidden_size=48, mlp_dim=96, num_heads=4, feature_size=4)
    decayed, plain = make_optimizer(network, resolve_config().optim).param_groups
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    assert all(parameter.ndim >= 2 for parameter in decayed["params"])
    assert plain["weight_decay"] == 0.0
    optimised = {names[id(parameter)] for group in (decayed, plain) for parameter in group["params"]}
    assert {name for name in names.values() if name not in optimised} == {
        name for name in names.values() if "norm_cross_attn" in name
    }
    assert "vit.patch_embedding.position_embeddings" in {names[id(parameter)] for parameter in plain["params"]}


def test_learning_rate_rises_then_falls() -> None:
    config = resolve_config(settings=["optim.lr=1.0", "optim.warmup_steps=10", "optim.min_lr_share=0.1"]).optim
    rates = [learning_rate(step, 100, config) for step in range(101)]
    assert rates[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert rates[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(rates[10:]))
    # Warm-up never takes more than half of a short run.
    assert max(learning_rate(step, 6, config) for step in range(6)) == 1.0


def test_best_is_chosen_on_one_set_of_cases() -> None:
    progress = Progress()
    assert progress.improves(float("nan"), "a")
    progress = Progress.from_state(
        json.loads(json.dumps({"step": 3, "best": {"dsc_mean": 0.5, "step": 2, "case_set": "a"}}))
    )
    assert not progress.improves(0.5, "a")
    assert not progress.improves(float("nan"), "a")
    assert progress.improves(0.6, "a")
    assert progress.improves(0.1, "b")
    assert case_set_id(["x", "y"]) == case_set_id(["y", "x"]) != case_set_id(["x"])
