"""A network that can learn over-fits four tiny volumes, at every patch size."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "overfit.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("overfit_benchmark", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_cohort_is_small_irregular_and_overlaps_its_background(benchmark: ModuleType) -> None:
    images, masks = benchmark.cohort()
    sizes = masks.reshape(len(masks), -1).sum(1)
    assert ((sizes > 300) & (sizes < 6000)).all()
    everywhere = np.ones(masks.shape, bool)
    best = benchmark.best_threshold_dsc(images, everywhere, masks, np.linspace(-1, 4, 51))
    assert best.mean < 0.4


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("patch_size", [8, 12, 16])
def test_overfits(benchmark: ModuleType, patch_size: int) -> None:
    # The target is 180 s on two idle cores. The limit is higher for busy machines: this test does not measure time.
    result = benchmark.overfit(patch_size, max_seconds=540)
    assert result.dsc > 0.95
    assert result.reached
