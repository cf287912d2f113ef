"""Augmentation follows its configuration, treats image and label alike, and is reproducible."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from patchcore.config.run import AugmentConfig
from patchcore.training.augment import Augmenter, _Draw, draw_augmentation

NOTHING: dict[str, Any] = {
    "flips": False, "quarter_turns": False, "affine_share": 0.0, "noise_share": 0.0, "blur_share": 0.0,
    "low_resolution_share": 0.0, "gamma_share": 0.0,
}  # fmt: skip
SIZE = (12, 12, 16)


def windows(count: int = 8, size: tuple[int, int, int] = SIZE, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand((count, 1, *size), generator=generator)
    return image, (image[:, 0] > 0.5).to(torch.uint8)


def done(draws: Any, size: tuple[int, int, int] = SIZE, spacing: Any = (1.0, 1.0, 2.0), **config: Any) -> Any:
    image, label = windows(len(draws), size)
    return Augmenter(AugmentConfig(**(NOTHING | config)), spacing, size)(image, label, draws)


def draws_of(count: int = 8, step: int = 0) -> Any:
    return draw_augmentation(0, step, np.arange(count, dtype=np.uint32))


def test_nothing_asked_nothing_done() -> None:
    image, label = done(draws_of())
    before = windows()
    assert torch.equal(image, before[0])
    assert torch.equal(label, before[1])


def test_flips_take_image_and_label_along() -> None:
    draws = draws_of()
    image, label = done(draws, flips=True)
    before = windows()[0]
    assert torch.equal(label, (image[:, 0] > 0.5).to(torch.uint8))
    for window in range(8):
        axes = [axis for axis in range(3) if draws[window, axis] < 0.5]
        assert torch.equal(image[window, 0], before[window, 0].flip(axes))
    assert not torch.equal(image, before)


def test_quarter_turns_only_where_spacing_and_edges_are_equal() -> None:
    draws = draws_of(64)
    image, label = done(draws, quarter_turns=True)
    assert torch.equal(label, (image[:, 0] > 0.5).to(torch.uint8))
    before = windows(64)[0]
    found = [
        [k for k in range(4) if torch.equal(after[0], torch.rot90(was[0], k, (0, 1)))]
        for after, was in zip(image, before, strict=True)
    ]
    assert {turns for (turns,) in found} == {0, 1, 2, 3}
    for spacing, size, planes in (
        ((1.0, 1.0, 1.0), (8, 8, 8), 3), ((1.0, 2.0, 1.0), (8, 8, 8), 1), ((1.0, 1.0, 1.0), (8, 10, 12), 0)
    ):  # fmt: skip
        assert len(Augmenter(AugmentConfig(), spacing, size).planes) == planes


def test_rotation_is_true_in_mm() -> None:
    """A rod along x, rotated by 90 degrees about z, lies along y with the same length in mm at any spacing."""
    size, spacing = (48, 24, 12), (1.0, 2.0, 4.0)
    rod = torch.zeros((1, 1, *size))
    rod[0, 0, 14:34, 11:13, 5:7] = 1.0
    draws = np.full((1, 21), 0.5)
    draws[0, 7], draws[0, 10] = 0.0, 1.0 - 1e-12
    config = AugmentConfig(**(NOTHING | {"affine_share": 1.0, "rotate_degrees": 90.0, "zoom": 0.0}))
    image, label = Augmenter(config, spacing, size)(rod.clone(), (rod[:, 0] > 0).to(torch.uint8), draws)
    where = np.argwhere(image[0, 0].numpy() > 0.5)
    extent_mm = (where.max(axis=0) - where.min(axis=0) + 1) * spacing
    np.testing.assert_allclose(extent_mm, [4, 20, 8], atol=2.1)
    assert float((label[0].numpy() == (image[0, 0].numpy() > 0.5)).mean()) > 0.99


@pytest.mark.parametrize("zoom_draw", [0.0, 1.0 - 1e-12])
def test_zoom_changes_volume_by_its_cube(zoom_draw: float) -> None:
    size = (40, 40, 40)
    ball = (np.linalg.norm(np.indices(size) - 19.5, axis=0)[None, ...].transpose(0, 1, 2, 3) < 9).astype(np.uint8)
    draws = np.full((1, 21), 0.5)
    draws[0, 7], draws[0, 11] = 0.0, zoom_draw
    config = AugmentConfig(**(NOTHING | {"affine_share": 1.0, "rotate_degrees": 0.0, "zoom": 0.2}))
    label = torch.from_numpy(ball.copy())
    _, found = Augmenter(config, (1.0, 1.0, 1.0), size)(torch.from_numpy(ball[:, None]).float(), label, draws)
    factor = 0.8 if zoom_draw == 0 else 1.2
    assert int(found.sum()) / int(ball.sum()) == pytest.approx(factor**3, rel=0.06)


def test_blur_is_scipys() -> None:
    draws = np.full((1, 21), 0.5)
    draws[0, 15], draws[0, 16] = 0.0, 0.8
    image, _ = done(draws, blur_share=1.0, blur=1.5)
    expected = ndimage.gaussian_filter(windows(1)[0][0, 0].numpy(), (1.2, 1.2, 0.6), mode="nearest", truncate=3.4)
    np.testing.assert_allclose(image[0, 0].numpy(), expected, atol=5e-3)


def test_noise_gamma_and_low_resolution() -> None:
    draws = np.full((1, 21), 0.5)
    before = windows(1)[0]
    noisy, label = done(draws, noise_share=1.0, noise=0.2)
    assert float((noisy - before).std()) == pytest.approx(0.1, rel=0.1)
    assert torch.equal(label, windows(1)[1])
    assert torch.equal(noisy, done(draws, noise_share=1.0, noise=0.2)[0])
    draws[0, 20] = 1.0 - 1e-12
    torch.testing.assert_close(done(draws, gamma_share=1.0, gamma=0.5)[0], before**1.5)
    draws[0, 18] = 0.0
    coarse = done(draws, low_resolution_share=1.0, low_resolution=0.5)[0]
    assert float(coarse.std()) < float(before.std())
    assert float((coarse.mean() - before.mean()).abs()) < 0.05


def test_shares_are_kept_and_windows_depend_on_their_draws_alone() -> None:
    draws = draws_of(400)
    config = {"noise_share": 0.3}
    image, _ = done(draws, size=(4, 4, 4), **config)
    before = windows(400, (4, 4, 4))[0]
    changed = (image != before).flatten(1).any(dim=1)
    assert float(changed.float().mean()) == pytest.approx(0.3, abs=0.07)
    alone, _ = Augmenter(AugmentConfig(**(NOTHING | config)), (1.0, 1.0, 1.0), (4, 4, 4))(
        before[7:8].clone(), windows(400, (4, 4, 4))[1][7:8], draws[7:8]
    )
    assert torch.equal(alone[0], image[7])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_everything_at_once_in_half(dtype: torch.dtype) -> None:
    everything = {name: 1.0 for name in NOTHING if name.endswith("_share")}
    image, label = windows()
    augment = Augmenter(AugmentConfig(**everything), (1.0, 1.0, 1.0), SIZE)
    found, its_label = augment(image.to(dtype), label, draws_of())
    assert found.dtype == dtype
    assert torch.isfinite(found.float()).all()
    assert set(its_label.unique().tolist()) <= {0, 1}


def test_noise_is_added_as_drawn() -> None:
    draws = draws_of(2)
    image, _ = done(draws, noise_share=1.0, noise=0.1)
    for window in range(2):
        row = draws[window]
        generator = torch.Generator().manual_seed(int(row[_Draw.NOISE_SEED] * 2**53))
        noise = torch.randn(image[window].shape, generator=generator)
        expected = windows(2)[0][window] + 0.1 * float(row[_Draw.NOISE_SIZE]) * noise
        torch.testing.assert_close(image[window], expected)


@pytest.mark.parametrize(("drawn", "turns"), [(0.1, 0), (0.3, 1), (0.6, 2), (0.9, 3)])
def test_a_quarter_of_the_draws_each_turns_by_0_to_3_quarters(drawn: float, turns: int) -> None:
    draws = draws_of(1)
    draws[0, _Draw.TURNS] = drawn
    image, label = done(draws, quarter_turns=True)
    before = windows(1)
    assert torch.equal(image[0, 0], torch.rot90(before[0][0, 0], turns, (0, 1)))
    assert torch.equal(label[0], torch.rot90(before[1][0], turns, (0, 1)))


def test_a_lower_resolution_lies_between_its_limit_and_one() -> None:
    draws = draws_of(1)
    draws[0, _Draw.RESOLUTION] = 0.5
    image, _ = done(draws, low_resolution_share=1.0, low_resolution=0.5)
    coarse = torch.nn.functional.interpolate(windows(1)[0], (9, 9, 12), mode="nearest-exact")
    expected = torch.nn.functional.interpolate(coarse, SIZE, mode="trilinear", align_corners=False)
    torch.testing.assert_close(image, expected)
