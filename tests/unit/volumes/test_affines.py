"""Affines: spacing and volume of voxels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchcore.affines import voxel_volume_mm3
from patchcore.lesions.measure import measure_lesions

_MM = st.floats(0.1, 10).map(lambda mm: round(mm, 3))


@given(st.tuples(_MM, _MM, _MM), st.tuples(*[st.floats(-0.3, 0.3)] * 6))
def test_a_voxel_has_the_volume_with_which_lesions_are_measured(
    spacing: tuple[float, float, float], shear: tuple[float, ...]
) -> None:
    """To the last bit: volumes are compared with a minimum. A shear is relative to the spacing of its row: a row's two
    shears stay below its diagonal, so no affine is singular."""
    affine = np.diag([*spacing, 1.0])
    rows = [0, 0, 1, 1, 2, 2]
    affine[rows, [1, 2, 0, 2, 0, 1]] = np.asarray(shear) * np.asarray(spacing)[rows]
    [volume] = measure_lesions(np.ones((1, 1, 1), np.uint8), affine=affine).volume_mm3
    assert voxel_volume_mm3(affine) == volume


@pytest.mark.parametrize("spacing", [(1, 1, 5), (2, 2, 2), (1, 1, 3)])
def test_whole_millimetres_give_whole_volumes(spacing: tuple[int, int, int]) -> None:
    assert voxel_volume_mm3(np.diag([*map(float, spacing), 1.0])) == np.prod(spacing)
