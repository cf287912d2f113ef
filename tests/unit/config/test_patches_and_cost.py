"""Tests up-sampling factors, legal patch sizes, token counts and costs: arithmetic without torch."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchcore.config.cost import (
    axis_factors,
    check_window,
    legal_patch_sizes,
    network_cost,
    token_grid,
    upsampling_factors,
)
from patchcore.errors import ConfigError, PatchSizeError, WindowError


@pytest.mark.parametrize(
    ("patch", "factors"),
    [
        (1, (1, 1, 1, 1)),
        (2, (1, 1, 1, 2)),
        (3, (1, 1, 1, 3)),
        (4, (1, 1, 2, 2)),
        (6, (1, 1, 3, 2)),
        (8, (1, 2, 2, 2)),
        (9, (1, 1, 3, 3)),
        (12, (1, 3, 2, 2)),
        (16, (2, 2, 2, 2)),
        (18, (1, 3, 3, 2)),
        (24, (3, 2, 2, 2)),
        (32, (4, 2, 2, 2)),
        (48, (4, 3, 2, 2)),
        (64, (4, 4, 2, 2)),
        (256, (4, 4, 4, 4)),
    ],
)
def test_factors_of_one_axis(patch: int, factors: tuple[int, ...]) -> None:
    assert axis_factors(patch) == factors
    assert upsampling_factors(patch) == tuple((f, f, f) for f in factors)


@pytest.mark.parametrize(
    ("patch", "last_axis"),
    [
        ((16, 16, 4), (2, 2, 1, 1)),
        ((16, 16, 8), (2, 2, 2, 1)),
        ((8, 8, 4), (1, 2, 2, 1)),
        ((8, 8, 2), (1, 2, 1, 1)),
        ((8, 8, 1), (1, 1, 1, 1)),
        ((24, 24, 8), (2, 2, 2, 1)),
        ((9, 9, 8), (1, 2, 2, 2)),
    ],
)
def test_a_smaller_axis_takes_its_factors_deep(patch: tuple[int, int, int], last_axis: tuple[int, ...]) -> None:
    stages = upsampling_factors(patch)
    assert tuple(stage[2] for stage in stages) == last_axis
    assert tuple(stage[0] for stage in stages) == axis_factors(patch[0])


@given(st.tuples(*[st.sampled_from(legal_patch_sizes(64))] * 3))
def test_factors_multiply_to_the_patch_and_follow_their_axis(patch: tuple[int, int, int]) -> None:
    stages = upsampling_factors(patch)
    assert tuple(math.prod(stage[axis] for stage in stages) for axis in range(3)) == patch
    assert all(factor in (1, 2, 3, 4) for stage in stages for factor in stage)
    for permutation in ((1, 2, 0), (2, 1, 0)):
        permuted = upsampling_factors([patch[axis] for axis in permutation])
        assert permuted == tuple(tuple(stage[axis] for axis in permutation) for stage in stages)


def test_legal_sizes_are_all_products_of_four_factors() -> None:
    factors = (1, 2, 3, 4)
    products = {a * b * c * d for a in factors for b in factors for c in factors for d in factors}
    assert legal_patch_sizes() == tuple(sorted(products))


@pytest.mark.parametrize(
    ("patch", "nearest"),
    [(7, (6, 8)), (10, (9, 12)), (14, (12, 16)), (20, (18, 24)), (0, (1,)), (300, (256,))],
)
def test_an_illegal_patch_size_names_the_nearest_legal_ones(patch: int, nearest: tuple[int, ...]) -> None:
    with pytest.raises(PatchSizeError, match=" or ".join(map(str, nearest))) as caught:
        axis_factors(patch)
    assert caught.value.expected == nearest


def test_a_window_that_the_patch_does_not_divide_names_legal_patches() -> None:
    with pytest.raises(PatchSizeError, match="16 does not divide window_size 40 along axis 2") as caught:
        check_window((48, 48, 40), 16)
    assert caught.value.expected == (2, 4, 8)
    with pytest.raises(PatchSizeError, match="multiple of 2"):
        check_window(7, 2)
    with pytest.raises(PatchSizeError, match="is one patch"):
        check_window(12, 12)
    check_window(16, 16)


def test_sizes_that_are_not_sizes_are_refused() -> None:
    with pytest.raises(PatchSizeError, match="three of them"):
        upsampling_factors((8, 8))
    with pytest.raises(PatchSizeError, match="three of them"):
        upsampling_factors((8, 8, 4.5))  # type: ignore[arg-type]
    with pytest.raises(WindowError, match="window_size"):
        token_grid(0, 8)
    with pytest.raises(ConfigError, match="num_heads 5"):
        network_cost(96, 16, num_heads=5)


def test_token_counts_of_a_common_window() -> None:
    assert [network_cost(96, p).tokens for p in (8, 12, 16, 24)] == [1728, 512, 216, 64]
    assert token_grid((96, 96, 48), (16, 16, 4)) == (6, 6, 12)


def test_full_size_parameters_stay_near_those_of_patch_16() -> None:
    reference = network_cost(96, 16).parameters
    assert abs(network_cost(96, 8).parameters / reference - 1) <= 0.05
    assert abs(network_cost(96, 12).parameters / reference - 1) <= 0.05
    assert abs(network_cost(96, 24).parameters / reference - 1) <= 0.15


def test_the_layout_loads_without_torch() -> None:
    code = (
        "import sys; from patchcore.models import network_cost, upsampling_factors; import patchcore.metrics;"
        "network_cost(96, 12); assert not {'torch', 'monai'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
