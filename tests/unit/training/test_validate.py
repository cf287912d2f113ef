"""What is recorded of a validated case: volumes in mm³, lesions of the plan's connectivity and least volume."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from patchcore.lesions.measure import lesion_spans
from patchcore.models.device import Placement
from patchcore.training import validate as validating
from patchcore.training.validate import validate_cases
from tiny_plan import tiny_target


@dataclass
class FakeCase:
    """A case in memory. Its prediction is its first lesion alone."""

    case_id: str
    truth: Any
    patient: str = "p"
    voxel_mm3: float = 2.0

    @property
    def lesion_voxels(self) -> tuple[int, ...]:
        return tuple(self.spans().voxel_count.tolist())

    def image(self) -> Any:
        return self.truth

    def label(self) -> Any:
        return self.truth

    def spans(self) -> Any:
        return lesion_spans(self.truth, labels=[1])


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, dict[str, Any]]]:
    def predict(_network: object, image: Any, *_: object, **__: object) -> Any:
        probabilities = np.zeros((2, *image.shape), np.float32)
        probabilities[1, :5] = image[:5] == 1
        probabilities[0] = 1 - probabilities[1]
        return probabilities

    monkeypatch.setattr(validating, "predict_volume", predict)

    def run(*cases: FakeCase, **changes: Any) -> dict[str, dict[str, Any]]:
        target = tiny_target(classes=1, **changes)
        found: list[dict[str, Any]] = []
        placement = Placement(torch.device("cpu"), None, 1, 1)
        validate_cases(torch.nn.Identity(), cases, target, placement, on_case=found.append)  # type: ignore[arg-type]
        return {record["case_id"]: record for record in found}

    return run


def test_volumes_and_lesions(records: Callable[..., dict[str, dict[str, Any]]]) -> None:
    two = np.zeros((12, 8, 8), np.uint8)
    two[1:4, 1:4, 1:4] = 1  # 27 voxels
    two[8:10, 1:3, 1:3] = 1  # 8 voxels
    none = np.zeros_like(two)
    found = records(FakeCase("two", two), FakeCase("none", none))
    assert (found["two"]["volume_mm3"], found["two"]["predicted_mm3"]) == (70.0, 54.0)
    assert (found["two"]["lesion_count"], found["two"]["lesions_found"]) == (2, 1)
    assert [lesion["volume_mm3"] for lesion in found["two"]["lesions"]] == [54.0, 16.0]
    assert found["none"]["size_bin"] is None
    assert found["two"]["size_bin"] is not None
    assert [lesion["volume_mm3"] for lesion in found["two"]["predicted"]] == [54.0]
    # A predicted component below the plan's least volume finds nothing.
    least = records(FakeCase("two", two), min_volume_mm3=60.0)["two"]
    assert (least["predicted"], least["lesions_found"]) == ([], 0)
