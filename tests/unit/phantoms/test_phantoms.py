"""Tests of phantoms: same seed, same bytes; lesions as specified; hard for a threshold."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from patchcore.errors import DataError
from patchcore.phantoms import PHANTOM_PRESETS, PhantomCase, PhantomSpec, make_phantom, make_phantoms
from patchcore.phantoms.shapes import correlated_noise, random_blob, smooth_field

SMALL = PhantomSpec(shape=(56, 56, 40), spacing=(3.4, 3.4, 4.0), spacing_jitter=0.05)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_phantoms(tmp_path_factory.mktemp("phantoms") / "set", cases=3, seed=5, spec=SMALL)


@pytest.fixture(scope="module")
def demo_cases() -> list[PhantomCase]:
    return [make_phantom(PHANTOM_PRESETS["mixed"], seed=0, index=i) for i in range(6)]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_phantom_larger_than_any_ct_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="larger than any CT"):
        make_phantoms(tmp_path / "x", cases=1, shape=(10_000, 10_000, 10_000))


def test_same_seed_same_bytes(dataset: Path, tmp_path: Path) -> None:
    again = make_phantoms(tmp_path / "again", cases=3, seed=5, spec=SMALL)
    assert contents(again) == contents(dataset)
    other = make_phantoms(tmp_path / "other", cases=1, seed=6, spec=SMALL)
    image = "images/phantom-001.nii.gz"
    assert contents(other)[image] != contents(dataset)[image]


def test_a_case_does_not_depend_on_how_many_there_are(dataset: Path, tmp_path: Path) -> None:
    two = make_phantoms(tmp_path / "two", cases=2, seed=5, spec=SMALL)
    name = "labels/phantom-002.nii.gz"
    assert (two / name).read_bytes() == (dataset / name).read_bytes()


def test_layout_and_headers(dataset: Path) -> None:
    names = [f"phantom-{i:03d}.nii.gz" for i in (1, 2, 3)]
    assert sorted(p.name for p in (dataset / "images").iterdir()) == names
    assert sorted(p.name for p in (dataset / "labels").iterdir()) == names
    assert json.loads((dataset / "dataset.json").read_text(encoding="utf-8"))["labels"] == {
        "background": 0,
        "liver": 1,
        "tumour": 2,
    }
    for name, codes in zip(names, ("RAS", "LPS", "RAS"), strict=True):
        image, label = (nib.load(dataset / kind / name) for kind in ("images", "labels"))
        assert image.get_data_dtype() == np.int16
        assert label.get_data_dtype() == np.uint8
        assert "".join(nib.aff2axcodes(image.affine)) == codes
        np.testing.assert_array_equal(image.affine, label.affine)
        np.testing.assert_allclose(image.header.get_zooms(), np.linalg.norm(image.affine[:3, :3], axis=0), rtol=1e-6)
    spacings = {tuple(nib.load(dataset / "images" / n).header.get_zooms()) for n in names}
    assert len(spacings) == 3


def test_true_lesions_are_what_the_label_maps_hold(dataset: Path) -> None:
    rows = list(csv.DictReader((dataset / "true_lesions.csv").read_text(encoding="utf-8").splitlines()))
    assert rows
    for path in sorted((dataset / "labels").iterdir()):
        scan = nib.load(path)
        labels, count = ndimage.label(np.asanyarray(scan.dataobj) == 2, np.ones((3, 3, 3)))
        listed = [row for row in rows if row["case_id"] == path.name.removesuffix(".nii.gz")]
        assert count == len(listed) >= 1
        for row in listed:
            world = [float(row[f"world_{a}"]) for a in "xyz"]
            voxel = np.linalg.inv(scan.affine) @ [*world, 1.0]
            here = labels[tuple(np.rint(voxel[:3]).astype(int))]
            assert here > 0
            voxels = int(np.count_nonzero(labels == here))
            assert voxels == int(row["voxel_count"])
            mm3 = voxels * abs(np.linalg.det(scan.affine[:3, :3]))
            assert float(row["volume_mm3"]) == pytest.approx(mm3, rel=1e-4)


def test_voxels_hold_the_volume_that_was_meant(demo_cases: list[PhantomCase]) -> None:
    ratio = [lesion.volume_mm3 / lesion.intended_mm3 for case in demo_cases for lesion in case.lesions]
    assert np.mean(ratio) == pytest.approx(1, abs=0.01)
    assert max(abs(r - 1) for r in ratio) < 0.08


def test_volumes_follow_the_stated_distribution() -> None:
    spec = replace(PHANTOM_PRESETS["small"], shape=(64, 64, 48), spacing=(3.0, 3.0, 3.5))
    lesions = [x for i in range(14) for x in make_phantom(spec, seed=1, index=i).lesions]
    logs = np.log([x.intended_mm3 for x in lesions])
    assert len(logs) > 30
    assert logs.mean() == pytest.approx(math.log(spec.median_volume_mm3), abs=4 * spec.volume_sigma / len(logs) ** 0.5)
    low, high = spec.volume_range_mm3
    assert all(low <= x.intended_mm3 <= high for x in lesions)
    assert spec.mean_volume_mm3 > spec.median_volume_mm3


def test_looks_like_ct(demo_cases: list[PhantomCase]) -> None:
    spec = PHANTOM_PRESETS["mixed"]
    for case in demo_cases:
        assert case.image.dtype == np.int16
        corner = case.image[:4, :4]
        assert abs(float(corner.mean()) + 1000) < 10
        assert float(case.image.max()) > 200
        liver = case.image[case.label == 1]
        assert 80 < float(np.median(liver)) < 135
        assert np.std(liver) > spec.noise_hu
        assert set(np.unique(case.label)) == {0, 1, 2}


def test_lesions_overlap_the_liver_in_hu_and_smoothing_brings_them_out(demo_cases: list[PhantomCase]) -> None:
    """A fixed threshold within the true liver gives a low DSC; after smoothing, the DSC is much higher."""

    def best_threshold(smooth: float) -> float:
        scores = []
        for case in demo_cases:
            organ = (case.label > 0).astype(np.float32)
            image = case.image.astype(np.float32) * organ
            if smooth:
                weight = ndimage.gaussian_filter(organ, smooth)
                image = ndimage.gaussian_filter(image, smooth) / np.maximum(weight, 1e-3)
            truth = case.label == 2
            row = []
            for threshold in range(40, 125, 5):
                found = (image < threshold) & (organ > 0)
                row.append(2 * np.count_nonzero(found & truth) / (found.sum() + truth.sum()))
            scores.append(row)
        return float(np.mean(scores, axis=0).max())

    raw, smoothed = best_threshold(0.0), best_threshold(1.5)
    assert 0.2 < raw < 0.45
    assert smoothed > raw + 0.2


def test_blob_has_its_volume_wherever_it_lies() -> None:
    rng = np.random.default_rng(0)
    for _ in range(10):
        volume = float(rng.uniform(3000, 20_000))
        blob = random_blob(volume, np.full(3, 40.0), (80, 80, 40), (1.0, 1.0, 2.0), rng, roughness=0.18)
        assert blob is not None
        assert float(blob.occupancy.sum()) * 2 == pytest.approx(volume, rel=0.03)
        assert np.count_nonzero(blob.occupancy >= 0.5) * 2 == pytest.approx(volume, rel=0.03)
    assert random_blob(5000.0, np.zeros(3), (80, 80, 40), (1.0, 1.0, 2.0), rng, roughness=0.1) is None


def test_fields_have_their_moments() -> None:
    rng = np.random.default_rng(0)
    noise = correlated_noise((64, 64, 32), 20.0, rng)
    assert noise.std() == pytest.approx(20, rel=1e-4)
    assert np.corrcoef(noise[:-1].ravel(), noise[1:].ravel())[0, 1] > 0.1
    assert abs(np.corrcoef(noise[..., :-1].ravel(), noise[..., 1:].ravel())[0, 1]) < 0.02
    field = smooth_field((40, 50, 20), (2.0, 2.0, 3.0), 10.0, rng)
    assert field.shape == (40, 50, 20)
    assert field.mean() == pytest.approx(0, abs=1e-4)
    assert field.std() == pytest.approx(1, rel=1e-3)
    assert np.corrcoef(field[:-1].ravel(), field[1:].ravel())[0, 1] > 0.8


def test_bad_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="choose one of large, mixed, small"):
        make_phantoms(tmp_path / "a", preset="huge")
    with pytest.raises(DataError, match="0 cases"):
        make_phantoms(tmp_path / "a", cases=0)
    with pytest.raises(DataError, match="cannot contain a liver"):
        make_phantoms(tmp_path / "a", shape=(8, 8, 8))
    with pytest.raises(DataError, match="cannot contain a liver"):
        make_phantoms(tmp_path / "a", spacing=(float("nan"), 1.0, 1.0))
    assert not (tmp_path / "a").exists()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match="not an empty folder"):
        make_phantoms(tmp_path / "b", cases=1, spec=SMALL)
    assert (tmp_path / "b" / "mine.txt").read_text(encoding="utf-8") == "keep"
