"""Label maps in every form: several lesion labels, nearly integral values, 0 and 255, instance maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

import patchcore as pc
from patchcore.datasets.check import check_dataset
from patchcore.errors import DataError, PlanError
from patchcore.lesions.measure import lesion_spans, measure_lesions
from patchcore.study.cases import CaseRecord
from patchcore.study.study import Study
from patchcore.volumes.volume import read_label

AFFINE = np.diag([0.9, 0.8, 2.0, 1.0])
SHAPE = (36, 30, 14)
VOXEL_MM3 = 0.9 * 0.8 * 2.0


def labels_of(seed: int, count: int) -> np.ndarray:
    """Boxes with the labels 1 to `count`; some of them touch."""
    random = np.random.default_rng(seed)
    made = np.zeros(SHAPE, np.int16)
    for label in range(1, count + 1):
        low = random.integers(1, np.asarray(SHAPE) - 7)
        size = random.integers(2, 6, 3)
        made[tuple(slice(a, a + n) for a, n in zip(low, size, strict=True))] = label
    return made


def data_set(root: Path, maps: dict[str, np.ndarray]) -> Path:
    for name, array in maps.items():
        random = np.random.default_rng(len(name))
        hu = random.normal(40, 20, SHAPE).astype(np.int16)
        hu[:4] = -1000
        hu[np.asarray(array) > 0.5] += 50
        for folder, stored in (("images", hu), ("labels", array)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(stored, AFFINE), root / folder / f"{name}.nii.gz")
    return root


def record_of(study: Study, case_id: str) -> CaseRecord:
    return next(record for record in study.cases() if record.case_id == case_id)


def lesions_of(study: Study) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for case in study.fingerprint().cases:
        found[case.case_id] = sorted(round(lesion.volume_mm3 / VOXEL_MM3) for lesion in case.lesions)
    return found


@pytest.mark.parametrize("order", ["2,3,4", "4, 3,2", "3,2,4,2"])
def test_several_labels_are_one_lesion_class_from_measuring_to_the_store(tmp_path: Path, order: str) -> None:
    maps = {f"p{n}": labels_of(n, 4) for n in range(3)}
    study = pc.analyze(data_set(tmp_path / "in", maps), tmp_path / "study", lesion_label=order)
    fingerprint = study.fingerprint()
    assert fingerprint.lesion_label == 2
    assert "labels 2, 3, 4 are one class" in fingerprint.lesion_label_reason
    for case in fingerprint.cases:
        components, count = scipy.ndimage.label(maps[case.case_id] >= 2, np.ones((3, 3, 3)))
        expected = sorted(np.bincount(components.ravel())[1:].tolist())
        found = sorted(round(item.volume_mm3 / VOXEL_MM3) for item in case.lesions if item.label == 2)
        assert found == expected
        assert count == len(expected)
    # Prepared at the scans' own spacing, the label map has exactly the voxels of the three labels.
    pc.plan_patch_size(study, spacing=(0.9, 0.8, 2.0), lesion_label=2)
    prepared = pc.prepare(study)
    for case in prepared.cases:
        record = record_of(study, case.case_id)
        assert record.relabel == ((3, 2), (4, 2))
        np.testing.assert_array_equal(record.read_label().array == 2, maps[case.case_id] >= 2)
        target = study.plan().targets[0]
        index = target.classes.index(2)
        assert case.class_voxels[index] == int((maps[case.case_id] >= 2).sum())
        assert sum(case.lesion_voxels) == case.class_voxels[index]
    # Without the option the labels are apart again, and nothing of the merged measures is used.
    again = pc.analyze(tmp_path / "in", tmp_path / "other", lesion_label=3)
    assert again.fingerprint().lesion_label == 3
    assert all(record.relabel == () for record in again.cases())


def test_another_choice_of_labels_measures_and_prepares_again(tmp_path: Path) -> None:
    maps = {f"p{n}": labels_of(n, 4) for n in range(2)}
    root = data_set(tmp_path / "in", maps)
    for choice, chosen in (("2,3", (2, 3)), ("2,3,4", (2, 3, 4)), ("2", (2,))):
        study = pc.analyze(root, tmp_path / "study", lesion_label=choice)
        pc.plan_patch_size(study, spacing=(0.9, 0.8, 2.0), lesion_label=2)
        for case in pc.prepare(study).cases:
            assert sum(case.lesion_voxels) == int(np.isin(maps[case.case_id], chosen).sum())


def test_a_plan_of_other_labels_is_refused(tmp_path: Path) -> None:
    root = data_set(tmp_path / "in", {f"p{n}": labels_of(n, 4) for n in range(2)})
    study = pc.analyze(root, tmp_path / "study", lesion_label="2,3")
    pc.plan_patch_size(study, spacing=(0.9, 0.8, 2.0), lesion_label=2)
    pc.prepare(study)
    pc.analyze(root, tmp_path / "study", lesion_label="2")
    with pytest.raises(PlanError, match=r"now: as stored; then: 3=2.*patchcore plan"):
        pc.prepare(study)


def test_changed_declarations_are_checked_again(tmp_path: Path) -> None:
    root = data_set(tmp_path / "in", {"a": labels_of(1, 2), "b": labels_of(2, 2)})
    described = root / "dataset.json"
    described.write_text('{"labels": {"background": 0, "liver": 1, "tumour": 2}}', encoding="utf-8")
    study = pc.analyze(root, tmp_path / "study")
    assert [record.status for record in study.cases()] == ["accepted"] * 2
    described.write_text('{"labels": {"background": 0, "liver": 1}}', encoding="utf-8")
    again = pc.analyze(root, tmp_path / "study", lesion_label=1)
    assert [record.status for record in again.cases()] == ["quarantined"] * 2


def test_instances_leave_out_the_ignored_label(tmp_path: Path) -> None:
    array = labels_of(1, 3)
    array[30:33, 20:24, 9:12] = 255
    root = data_set(tmp_path / "in", {"a": array, "b": labels_of(2, 3)})
    study = pc.analyze(root, tmp_path / "study", instances=True, ignore_label=255)
    lesions = array[(array > 0) & (array < 255)]
    assert lesions_of(study)["a"] == sorted(np.unique(lesions, return_counts=True)[1].tolist())


def test_names_choose_several_labels(tmp_path: Path) -> None:
    root = data_set(tmp_path / "in", {"a": labels_of(1, 3), "b": labels_of(2, 3)})
    (root / "dataset.json").write_text('{"labels": {"background": 0, "kidney": 1, "grade low": 2, "grade high": 3}}')
    study = pc.analyze(root, tmp_path / "study", lesion_label="grade high,grade_low")
    label = study.fingerprint().label(2)
    assert label is not None
    assert label.name == "grade low + grade high"


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), dtype=st.sampled_from((np.float32, np.float64)))
def test_nearly_integral_labels_are_rounded(tmp_path_factory: Any, seed: int, dtype: Any) -> None:
    folder = tmp_path_factory.mktemp("nearly")
    random = np.random.default_rng(seed)
    exact = labels_of(seed, 3)
    noisy = (exact + random.uniform(-9e-4, 9e-4, SHAPE) * (random.random(SHAPE) < 0.5)).astype(dtype)
    path = folder / "a.nii"
    nibabel.save(nibabel.Nifti1Image(noisy, AFFINE), path)
    found, expected = measure_lesions(path), measure_lesions(exact, affine=AFFINE)
    assert found.rounded
    assert not expected.rounded
    for name in ("label", "voxel_count", "bbox_start", "centroid_voxel"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    np.testing.assert_array_equal(read_label(path).array, exact)
    np.testing.assert_array_equal(measure_lesions(noisy).voxel_count, expected.voxel_count)


def test_what_is_not_nearly_integral_is_a_soft_mask(tmp_path: Path) -> None:
    maps = {
        "exact": (labels_of(0, 1) > 0).astype(np.float32),
        "nearly": (labels_of(1, 1) > 0) * np.float32(0.99999994),
        "soft": (labels_of(2, 1) > 0) * np.float32(0.7),
        "picture": (labels_of(3, 1) > 0).astype(np.uint8) * np.uint8(255),
    }
    root = data_set(tmp_path / "in", maps)
    study = pc.analyze(root, tmp_path / "study")
    status = {record.case_id: record.status for record in study.cases()}
    assert status == {"exact": "accepted", "nearly": "accepted", "picture": "accepted", "soft": "quarantined"}
    records = {record.case_id: record for record in study.cases()}
    assert "threshold a soft mask" in str(records["soft"].remedy)
    assert [item.check for item in records["nearly"].findings] == ["label-rounded"]
    assert "label-255" in [item.check for item in records["picture"].findings]
    assert records["picture"].relabel == ((255, 1),)
    assert study.fingerprint().lesion_label == 1
    assert lesions_of(study)["picture"] == [int((maps["picture"] > 0).sum())]
    pc.plan_patch_size(study, spacing=(0.9, 0.8, 2.0))
    voxels = {case.case_id: sum(case.lesion_voxels) for case in pc.prepare(study).cases}
    assert voxels["picture"] == int((maps["picture"] > 0).sum())
    assert {item.check for record in check_dataset(root).cases for item in record.findings} >= {
        "label-255",
        "label-rounded",
    }


def test_a_user_who_names_255_keeps_it(tmp_path: Path) -> None:
    maps = {"a": (labels_of(1, 1) > 0).astype(np.uint8) * 255, "b": (labels_of(2, 1) > 0).astype(np.uint8) * 255}
    study = pc.analyze(data_set(tmp_path / "in", maps), tmp_path / "study", lesion_label=255)
    assert study.fingerprint().lesion_label == 255
    assert all(record.relabel == () for record in study.cases())


def test_instance_maps_are_reported_and_measured_on_request(tmp_path: Path) -> None:
    touching = np.zeros(SHAPE, np.int16)
    touching[2:6, 2:6, 2:6], touching[6:9, 2:6, 2:6], touching[20:24, 20:24, 2:6] = 1, 2, 3
    apart = np.zeros(SHAPE, np.int16)
    apart[2:6, 2:6, 2:6], apart[20:24, 2:6, 2:6], apart[20:24, 20:24, 2:6], apart[30:32, 20:24, 9:11] = 1, 2, 3, 4
    root = data_set(tmp_path / "in", {"a": touching, "b": apart})
    checks = {item.check for record in check_dataset(root).cases for item in record.findings}
    assert "label-instances" in checks
    with pytest.raises(DataError, match="use --instances"):
        pc.analyze(root, tmp_path / "unclear")
    study = pc.analyze(root, tmp_path / "study", instances=True)
    assert study.fingerprint().lesion_label == 1
    assert lesions_of(study) == {"a": [48, 64, 64], "b": [16, 64, 64, 64]}
    rows = (study.path / "segments.csv").read_text(encoding="utf-8").splitlines()
    assert [[row.split(",")[column] for column in (0, 2, 3)] for row in rows[1:4]] == [
        ["a", "1", "instance 1"],
        ["a", "2", "instance 2"],
        ["a", "3", "instance 3"],
    ]
    record = record_of(study, "a")
    assert sorted(np.unique(record.read_label().array).tolist()) == [0, 1]
    assert record.label_spans(1, connectivity=26).voxel_count.tolist() == [64, 48, 64]
    # The second analysis takes the measures from the log.
    assert lesions_of(pc.analyze(root, tmp_path / "study")) == lesions_of(study)


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 9), scatter=st.booleans(), threads=st.integers(1, 3))
def test_instances_equal_counting_each_label(seed: int, count: int, scatter: bool, threads: int) -> None:
    array = labels_of(seed, count)
    if scatter:
        random = np.random.default_rng(seed)
        array = random.integers(0, count + 1, SHAPE).astype(np.int16) * (random.random(SHAPE) < 0.3)
    found = measure_lesions(array, instances=True, affine=AFFINE, threads=threads)
    present = [label for label in range(1, count + 1) if (array == label).any()]
    assert sorted(found.label.tolist()) == present
    spans = lesion_spans(array, instances=True)
    np.testing.assert_array_equal(spans.voxel_count, found.voxel_count)
    for row, label in enumerate(found.label.tolist()):
        where = np.argwhere(array == label)
        assert found.voxel_count[row] == len(where)
        np.testing.assert_array_equal(found.bbox_start[row], where.min(axis=0))
        np.testing.assert_array_equal(found.bbox_stop[row], where.max(axis=0) + 1)
        np.testing.assert_allclose(found.centroid_voxel[row], where.mean(axis=0), rtol=1e-12)
    # Ordered by the smallest voxel index, like components.
    firsts = [int(np.flatnonzero(array.ravel() == label)[0]) for label in found.label.tolist()]
    assert firsts == sorted(firsts)
