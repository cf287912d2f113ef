"""Test one mask file per structure, as in TotalSegmentator's data set."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np

import patchcore as pc
from patchcore.datasets.dicom.measure import measure_segments
from patchcore.datasets.layouts import find_cases
from patchcore.datasets.layouts.indices import with_indices
from patchcore.volumes.volume import read_label

SHAPE, AFFINE = (24, 20, 10), np.diag([-1.5, 1.5, 3.0, 1.0])


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)


def case(root: Path, name: str, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    hu = random.normal(40, 20, SHAPE).astype(np.int16)
    hu[:2] = -1000
    masks = {part: random.random(SHAPE) < 0.1 for part in ("liver", "liver_tumor", "spleen")}
    save(root / name / "ct.nii.gz", hu)
    for part, mask in masks.items():
        save(root / name / "segmentations" / f"{part}.nii.gz", mask.astype(np.uint8))
    return masks


def test_masks_become_one_label_map_and_each_is_measured_alone(tmp_path: Path) -> None:
    masks = {name: case(tmp_path / "in", name, seed) for seed, name in enumerate(("s0001", "s0002"))}
    layout = with_indices(find_cases(tmp_path / "in"), tmp_path / "x")
    assert layout.name == "structures"
    assert dict(layout.label_names) == {1: "liver", 2: "liver tumor", 3: "spleen"}
    assert (layout.used_count, layout.ignored) == (8, ())
    for found in layout.cases:
        parts = masks[found.case_id]
        measured = measure_segments(found.label)
        assert {row["name"]: row["voxel_count"] for row in measured.segments} == {
            name: int(mask.sum()) for name, mask in parts.items()
        }
        expected = np.zeros(SHAPE, np.uint8)
        for number, name in ((1, "liver"), (3, "spleen"), (2, "liver_tumor")):
            expected[parts[name]] = number
        np.testing.assert_array_equal(read_label(found.label).array, expected)
    study = pc.analyze(tmp_path / "in", tmp_path / "study")
    assert study.fingerprint().lesion_label == 2
    voxels = sum(int(parts["liver_tumor"].sum()) for parts in masks.values())
    label = study.fingerprint().label(2)
    assert label is not None
    assert label.volume is not None
    assert round(label.volume.mean_mm3 * label.lesion_count / (1.5 * 1.5 * 3)) == voxels


def test_masks_of_several_readers_are_joined(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    drawn = [random.random(SHAPE) < 0.3 for _ in range(3)]
    save(tmp_path / "in" / "s1" / "ct.nii.gz", random.normal(40, 20, SHAPE).astype(np.int16))
    for number, mask in enumerate(drawn, 1):
        save(tmp_path / "in" / "s1" / "segmentations" / f"nodule_reader{number}.nii.gz", mask.astype(np.uint8))
    (found,) = with_indices(find_cases(tmp_path / "in"), tmp_path / "x").cases
    (row,) = measure_segments(found.label).segments
    assert (row["name"], row["voxel_count"]) == ("nodule", int((np.sum(drawn, axis=0) >= 2).sum()))


def test_what_is_wrong_with_a_case_is_said(tmp_path: Path) -> None:
    case(tmp_path, "good")
    case(tmp_path, "no_image")
    (tmp_path / "no_image" / "ct.nii.gz").unlink()
    case(tmp_path, "two_images")
    (tmp_path / "two_images" / "ct.nii.gz").rename(tmp_path / "two_images" / "a.nii.gz")
    save(tmp_path / "two_images" / "b.nii.gz", np.zeros(SHAPE, np.int16))
    case(tmp_path, "off_grid")
    moved = AFFINE.copy()
    moved[0, 3] = 5
    save(tmp_path / "off_grid" / "segmentations" / "spleen.nii.gz", np.ones(SHAPE, np.uint8), moved)
    case(tmp_path, "foreign")
    (tmp_path / "foreign" / "segmentations" / "spleen.nrrd").write_bytes(b"")
    (tmp_path / "foreign" / "segmentations" / "spleen.nii.gz").unlink()
    problems = {found.case_id: found.problem for found in find_cases(tmp_path).cases}
    assert problems == {
        "good": None,
        "no_image": "masks without image",
        "two_images": "several images for one case: a, b",
        "off_grid": None,
        "foreign": "segmentations/spleen.nrrd: files ending in .nrrd are not read",
    }
    statuses = {record.case_id: record for record in pc.check_dataset(tmp_path).cases}
    assert "does not lie on the grid of the image" in str(statuses["off_grid"].reason)
    assert statuses["good"].status == "accepted"
