"""The values of a validation event: means over cases, and over the cases and lesions of each size bin."""

from __future__ import annotations

import math

import pytest

from patchcore.metrics import LesionMatch, VoxelCounts
from patchcore.runs.events import (
    VAL_DSC_GLOBAL,
    VAL_DSC_MEAN,
    VAL_LESION_PRECISION,
    VAL_LESION_RECALL,
    val_dsc_bin,
    val_dsc_class,
    val_precision_bin,
    val_recall_bin,
)
from patchcore.training.validate import ValidationResult
from tiny_plan import tiny_target


def test_a_case_counts_in_the_bin_of_its_largest_lesion() -> None:
    result = ValidationResult.empty(tiny_target(classes=2))
    # Case → voxels of the lesions (class 2) that are both, predicted and labelled.
    counts = {"a": (5, 10, 10), "b": (10, 10, 10), "c": (0, 8, 0)}
    for case_id, numbers in counts.items():
        result.counts.add_counts(case_id, {1: VoxelCounts(4, 4, 4), 2: VoxelCounts(*numbers)})
    result.bins.update({"a": 0, "b": 3, "c": None})
    small, large = 20.0, 9000.0
    result.lesions["a"] = LesionMatch((small, small), (0.5, 0.0), (small,), (1.0,))
    result.lesions["b"] = LesionMatch((large,), (1.0,), (large, small), (0.9, 0.0))
    values = result.metrics()
    assert values[val_dsc_bin(0)] == pytest.approx(0.5)
    assert values[val_dsc_bin(3)] == pytest.approx(1.0)
    assert val_dsc_bin(1) not in values
    assert values[val_dsc_class(1)] == pytest.approx(1.0)
    assert values[val_dsc_class(2)] == pytest.approx((0.5 + 1 + 0) / 3)
    assert values[VAL_DSC_MEAN] == pytest.approx((1 + 0.5) / 2)
    assert values[VAL_DSC_GLOBAL] == pytest.approx((1 + 2 * 15 / 48) / 2)
    assert values[VAL_LESION_RECALL] == pytest.approx(2 / 3)
    assert values[VAL_LESION_PRECISION] == pytest.approx(2 / 3)
    assert values[val_recall_bin(0)] == pytest.approx(0.5)
    assert values[val_recall_bin(3)] == pytest.approx(1.0)
    assert values[val_precision_bin(0)] == pytest.approx(0.5)
    assert values[val_precision_bin(3)] == pytest.approx(1.0)
    assert not any(math.isnan(value) for value in values.values())
