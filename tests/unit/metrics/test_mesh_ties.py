"""Under `mesh`, elements exactly at a tolerance are decided by the rounding of VTK, as in MeshMetrics.

The expected values were computed with MeshMetrics 0.2.1 (commit 2a888b1) and VTK 9.7.2. With exact distances, all of
the NSD values but those of scene 9 are larger.
"""

from __future__ import annotations

import numpy as np
import pytest

from patchcore.metrics import surface_scores

# Scene, spacing [mm]: NSD at 1 mm, HD95, MASD [mm].
EXPECTED = {
    (1, (1.0, 1.0, 1.5)): (0.7205210237659964, 1.5, 0.8387061536468056),
    (1, (0.75, 0.75, 3.0)): (0.8038827258320127, 2.1360009363293826, 0.7944802892998333),
    (2, (1.0, 1.0, 1.5)): (0.8100172711571675, 1.5, 0.6020772302892905),
    (2, (0.75, 0.75, 3.0)): (0.8504566210045662, 2.1360009363293826, 0.6201485676508123),
    (4, (1.0, 1.0, 1.5)): (0.7880116959064327, 1.5, 0.614942037044345),
    (4, (0.75, 0.75, 3.0)): (0.8165481832543444, 2.1360009363293826, 0.6664201347704007),
    (8, (1.0, 1.0, 1.5)): (0.7992462311557789, 1.5, 0.6735148767258813),
    (9, (1.0, 1.0, 1.5)): (0.9365145228215768, 1.118033988749895, 0.5489084172204144),
    (12, (0.75, 0.75, 3.0)): (0.8720047923322684, 2.1360009363293826, 0.6950502566403638),
}


def scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes, and the same boxes moved by up to one voxel. Integer arithmetic gives the same masks everywhere."""
    truth, prediction = np.zeros((24, 20, 16), bool), np.zeros((24, 20, 16), bool)
    state = seed

    def random(below: int) -> int:
        nonlocal state
        state = (state * 1103515245 + 12345) % 2**31
        return state // 65536 % below

    for _ in range(6):
        low = [random(n - 6) for n in truth.shape]
        size = [2 + random(4) for _ in range(3)]
        moved = [random(3) - 1 for _ in range(3)]
        truth[tuple(slice(a, a + n) for a, n in zip(low, size, strict=True))] = True
        prediction[tuple(slice(max(0, a + m), a + m + n) for a, n, m in zip(low, size, moved, strict=True))] = True
    return truth, prediction


@pytest.mark.parametrize(("number", "spacing"), EXPECTED)
def test_the_values_are_those_of_meshmetrics(number: int, spacing: tuple[float, float, float]) -> None:
    truth, prediction = scene(number)
    nsd, hd95_mm, masd_mm = EXPECTED[number, spacing]
    for order in ("C", "F"):
        pair = (np.asarray(truth, order=order), np.asarray(prediction, order="C"))
        found = surface_scores(*pair, spacing, tolerances_mm=(1.0,))["mesh"]
        assert found.nsd[1.0] == pytest.approx(nsd, rel=1e-12)
        assert found.hd95_mm == pytest.approx(hd95_mm, rel=1e-12)
        assert found.masd_mm == pytest.approx(masd_mm, rel=1e-12)
    # Next to the tolerance, nothing depends on rounding.
    around = surface_scores(truth, prediction, spacing, tolerances_mm=(1 - 1e-6, 1 + 1e-6))["mesh"].nsd
    assert around[1 - 1e-6] <= nsd <= around[1 + 1e-6]
