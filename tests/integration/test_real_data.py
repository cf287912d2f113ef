"""Real CTs and masks, if available: known lesions, known patch sizes."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import patchcore as pc
from real_data import DATA, SHARED, needs_data

pytestmark = needs_data


def test_kits_tumours_equal_the_reference() -> None:
    expected: dict[str, list[tuple[int, float]]] = defaultdict(list)
    with (SHARED / "reference" / "kits19_lesions.csv").open() as file:
        for row in csv.DictReader(file):
            expected[row["case"]].append((int(row["voxels"]), float(row["volume_mm3"])))
    folders = sorted((DATA / "kits19_labels").glob("case_*"))
    assert len(folders) == 20
    for folder in folders:
        lesions = pc.measure_lesions(folder / "segmentation.nii.gz", label=2)
        assert lesions.voxel_count.tolist() == [voxels for voxels, _ in expected[folder.name]]
        # The reference is rounded to 1e-6 mm³.
        assert lesions.volume_mm3 == pytest.approx([mm3 for _, mm3 in expected[folder.name]], rel=1e-9, abs=1e-6)


@pytest.mark.parametrize("case", ["case_00019", "case_00144", "case_00160"])
def test_every_route_into_measuring_agrees(case: str) -> None:
    path = DATA / "kits19_labels" / case / "segmentation.nii.gz"
    from_file = pc.measure_lesions(path)
    voxels = np.asanyarray(nib.load(path).dataobj)
    for array in (voxels, np.ascontiguousarray(voxels), voxels.astype(">i4")):
        lesions = pc.measure_lesions(array, affine=from_file.affine)
        for name in ("label", "voxel_count", "volume_mm3", "centroid_mm", "longest_axial_diameter_mm", "extent_mm"):
            np.testing.assert_array_equal(getattr(lesions, name), getattr(from_file, name), err_msg=name)


@pytest.mark.parametrize(
    ("cohort", "spacing", "edge", "patch"),
    [
        ("sts", None, 25.0, 24),
        ("lidc_nodules", None, 10.4, 12),
        ("lidc_nodules", (1.0, 1.0, 2.5), 8.5, 8),
    ],
)
def test_known_cohorts_get_their_patch_size(
    tmp_path: Path, cohort: str, spacing: tuple[float, float, float] | None, edge: float, patch: int
) -> None:
    study = pc.analyze(DATA / cohort, tmp_path / "study")
    plan = pc.plan_patch_size(study, spacing=spacing)
    assert plan.patch_size == (patch,) * 3
    assert plan.target.ideal_edge == pytest.approx(edge, abs=0.06)
    assert all(window % patch == 0 for window in plan.window_size)
