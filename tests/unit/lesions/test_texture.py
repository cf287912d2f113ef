"""IBSI's features: the reference values of its digital phantom, invariances, limits, and the table of a study."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from scipy.spatial import ConvexHull
from scipy.stats import kurtosis, skew

import patchcore as pc
from commands import patchcore
from patchcore.datasets import texture as module
from patchcore.errors import ConfigError, DataError, ShapeMismatchError, StudyError
from patchcore.study import Study
from real_data import SHARED

REFERENCE = SHARED / "reference" / "ibsi"


def blob(seed: int = 0, shape: tuple[int, ...] = (11, 9, 7)) -> tuple[Any, Any]:
    """An image of grey levels 1 to 6 and a lump in it."""
    generator = np.random.default_rng(seed)
    image = generator.integers(1, 7, shape)
    centre = np.array(shape) / 2
    places = np.stack(np.indices(shape), -1)
    return image, (((places - centre) / (centre - 1)) ** 2).sum(-1) < 1


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="needs the shared data")
def test_every_value_of_the_digital_phantom() -> None:
    image = np.asarray(nibabel.load(REFERENCE / "digital_phantom.nii.gz").dataobj)  # type: ignore[attr-defined]
    mask = np.asarray(nibabel.load(REFERENCE / "digital_phantom_mask.nii.gz").dataobj) > 0  # type: ignore[attr-defined]
    found = pc.texture_features(image, mask, spacing=(2, 2, 2))
    with (REFERENCE / "digital_phantom_values.csv").open(newline="") as handle:
        rows = [row for row in csv.DictReader(handle, delimiter=";") if row["reference value"]]
    assert {row["tag"] for row in rows} == set(found)
    for row in rows:
        expected, tolerance, value = float(row["reference value"]), float(row["tolerance"]), found[row["tag"]]
        # Without a tolerance, values are printed with three digits.
        alike = abs(value - expected) <= tolerance if tolerance else f"{value:.3g}" == f"{expected:.3g}"
        assert alike, (row["tag"], expected, value)


def test_shape_and_statistics_are_those_of_scipy() -> None:
    image, mask = blob()
    found = pc.texture_features(image, mask, spacing=(1.0, 1.5, 2.0))
    values = image[mask].astype(float)
    assert found["stat_skew"] == pytest.approx(skew(values))
    assert found["stat_kurt"] == pytest.approx(kurtosis(values))
    assert found["stat_p90"] == pytest.approx(np.percentile(values, 90))
    # The vertices of the mesh lie half a voxel beyond the voxels, along each axis.
    centres = np.argwhere(mask) * (1.0, 1.5, 2.0)
    vertices = np.concatenate([centres + sign * step for sign in (-1, 1) for step in np.diag((1.0, 1.5, 2.0)) / 2])
    hull = ConvexHull(vertices)
    assert found["morph_volume"] / found["morph_vol_dens_conv_hull"] == pytest.approx(hull.volume, rel=1e-4)
    assert found["morph_area_mesh"] / found["morph_area_dens_conv_hull"] == pytest.approx(hull.area, rel=1e-4)
    between = vertices[hull.vertices][:, None] - vertices[hull.vertices]
    assert found["morph_diam"] == pytest.approx(np.sqrt((between**2).sum(-1).max()))


def test_spatial_correlation_is_that_of_its_formula() -> None:
    for shape in ((9, 8, 6), (24, 22, 20)):  # pair by pair, and as a convolution
        image, mask = blob(3, shape)
        found = pc.texture_features(image, mask, spacing=(0.7, 0.7, 2.5))
        places, values = np.argwhere(mask) * (0.7, 0.7, 2.5), image[mask] - image[mask].mean()
        distance = np.sqrt(((places[:, None] - places) ** 2).sum(-1))
        weight = np.where(distance > 0, 1 / np.where(distance > 0, distance, 1), 0)
        count, squares = len(values), (values**2).sum()
        moran = count / weight.sum() * (weight * values[:, None] * values).sum() / squares
        geary = (count - 1) / (2 * weight.sum()) * (weight * (values[:, None] - values) ** 2).sum() / squares
        assert found["morph_moran_i"] == pytest.approx(moran, abs=1e-9)
        assert found["morph_geary_c"] == pytest.approx(geary)


def test_a_turned_region_has_the_same_features_in_space() -> None:
    image, mask = blob(1)
    found = pc.texture_features(image, mask)
    turned = pc.texture_features(image.transpose(2, 0, 1)[::-1], mask.transpose(2, 0, 1)[::-1])
    for name, value in found.items():
        if "2D" not in name and "2_5D" not in name:
            assert turned[name] == pytest.approx(value, rel=1e-3), name


def test_bins() -> None:
    image, mask = blob(2)
    hu = image * 30.0 - 200
    by_width = pc.texture_features(hu, mask, bin_width=30)
    by_count = pc.texture_features(hu, mask, bin_count=6)
    plain = pc.texture_features(image, mask)
    for name, value in plain.items():
        if not name.startswith(("stat", "loc", "ivh", "morph")):
            assert by_width[name] == pytest.approx(value), name
            assert by_count[name] == pytest.approx(value), name
    assert by_width["stat_mean"] == pytest.approx(hu[mask].mean())
    # Outside the range a voxel has no grey level, but it is still part of the shape.
    part = pc.texture_features(hu, mask, bin_width=30, intensity_range=(-170, -80))
    assert part["morph_volume"] == plain["morph_volume"]
    assert part["stat_max"] == -80
    assert part["ih_max"] == 4


@pytest.mark.parametrize("size", [(1, 1, 1), (4, 3, 2)])
def test_one_voxel_and_one_grey_value(size: tuple[int, int, int]) -> None:
    image = np.full((6, 6, 6), 5)
    mask = np.zeros(image.shape, bool)
    mask[: size[0], : size[1], : size[2]] = True
    found = pc.texture_features(image, mask)
    assert found["stat_mean"] == 5
    assert found["stat_var"] == found["ih_entropy"] == 0
    assert math.isnan(found["morph_moran_i"])
    assert math.isnan(found["cm_corr_3D_avg"])
    assert math.isnan(found["cm_joint_max_3D_avg"]) == (size == (1, 1, 1))
    assert found["szm_z_perc_3D"] == pytest.approx(1 / np.prod(size))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_row_of_voxels_has_axes(axis: int) -> None:
    """Its covariance has a single number that is not 0."""
    shape = [1, 1, 1]
    shape[axis] = 5
    found = pc.texture_features(np.arange(1.0, 6.0).reshape(shape), np.ones(shape, bool))
    assert found["morph_pca_maj_axis"] == pytest.approx(4 * math.sqrt(2.5))
    assert (found["morph_pca_min_axis"], found["morph_pca_elongation"], found["morph_pca_flatness"]) == (0, 0, 0)


def test_refusals() -> None:
    image, mask = blob()
    with pytest.raises(ShapeMismatchError):
        pc.texture_features(image[1:], mask)
    with pytest.raises(DataError, match="the region has no voxel"):
        pc.texture_features(image, np.zeros_like(mask))
    with pytest.raises(DataError, match="no voxel with an intensity in the range"):
        pc.texture_features(image, mask, intensity_range=(100, 200))
    with pytest.raises(DataError, match="expected whole numbers from 1 to 2048"):
        pc.texture_features(image - 3, mask)
    with pytest.raises(DataError, match="grey levels"):
        pc.texture_features(image, mask, bin_width=1e-4)
    bad = image.astype(float)
    bad[mask] = np.nan
    with pytest.raises(DataError, match="an intensity of NaN"):
        pc.texture_features(bad, mask, bin_width=1)
    # Whether intensities are whole numbers changes no unit.
    whole, parts = image * 60, image * 60 + 0.25
    both = [pc.texture_features(one, mask, bin_width=25, intensity_range=(-500, 400)) for one in (whole, parts)]
    assert both[1]["ivh_i90"] == pytest.approx(both[0]["ivh_i90"], abs=1)
    assert both[1]["ivh_v10"] == both[0]["ivh_v10"]
    assert math.isfinite(pc.texture_features(np.where(mask, image, np.nan), mask, bin_width=1)["loc_peak_glob"])
    impossible: list[dict[str, Any]] = [{"bin_width": 0}, {"bin_count": 0}, {"bin_width": 1, "bin_count": 2}]
    impossible += [{"intensity_range": (2, 1)}, {"intensity_range": (-math.inf, 400)}]
    for options in impossible:
        with pytest.raises(ConfigError):
            pc.texture_features(image, mask, **options)
    with pytest.raises(DataError, match="three positive numbers"):
        pc.texture_features(image, mask, spacing=(1, 0, 1))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two cases with one lesion each, stored in different orientations, one of them with a lesion of one voxel too."""
    image, mask = blob(4, (20, 18, 12))
    for folder in ("images", "labels"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for number, flip in enumerate((1, -1)):
        affine = np.diag([flip * 0.8, 0.8, 2.0, 1.0])
        label = mask.astype(np.uint8)
        label[0, 0, 0] = number
        hu = (image * 30).astype(np.int16)
        hu[-1, -1, -1] = number  # two scans, not one
        for folder, array in (("images", hu), ("labels", label)):
            nibabel.Nifti1Image(array[::flip], affine).to_filename(tmp_path / "data" / folder / f"c{number}.nii.gz")
    pc.analyze(tmp_path / "data", tmp_path / "study")
    return tmp_path / "study"


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def test_the_table_of_a_study(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = patchcore("texture", study)
    assert done.returncode == 0, done.stderr
    rows = rows_of(study / "texture.csv")
    lesions = rows_of(study / "lesions.csv")
    assert [(row["case_id"], row["lesion"]) for row in rows] == [(row["case_id"], row["lesion"]) for row in lesions]
    assert [row["volume_mm3"] for row in rows] == [row["volume_mm3"] for row in lesions]
    assert len(rows) == 3
    # The orientation in which a scan is stored changes nothing.
    big = [row for row in rows if float(row["volume_mm3"]) > 100]
    for name, value in big[0].items():
        if name not in ("case_id", "patient", "lesion"):
            other = big[1][name]
            assert value == other or float(value) == pytest.approx(float(other), rel=1e-3), name
    small = next(row for row in rows if float(row["volume_mm3"]) < 100)
    assert small["note"] == "one voxel: texture is not defined"
    assert small["cm_corr_3D_avg"] == ""
    assert "one voxel" in done.stdout
    # An interrupted call continues.
    (study / "texture.csv").rename(study / "before.csv")

    def stop(_done: int, _all: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pc.texture(study, threads=1, on_progress=stop)
    measured: list[str] = []
    real = module._of_case

    def measure(record: Any, *rest: Any) -> Any:
        measured.append(record.case_id)
        return real(record, *rest)

    monkeypatch.setattr(module, "_of_case", measure)
    assert pc.texture(study, threads=1).lesions == 3
    assert len(measured) == 1
    assert (study / "texture.csv").read_bytes() == (study / "before.csv").read_bytes()
    assert not (study / "texture.unfinished.jsonl").exists()


def test_lesions_with_numbers_of_their_own(tmp_path: Path) -> None:
    """Two touching lesions, and one in two parts: their rows are those of analyze --instances."""
    image, _ = blob(1, (20, 18, 12))
    label = np.zeros(image.shape, np.uint8)
    label[2:6, 2:6, 2:6], label[6:9, 2:6, 2:6] = 1, 2
    label[12:15, 2:6, 2:6] = label[12:15, 12:16, 2:6] = 3
    for name, array in (("images", (image * 30).astype(np.int16)), ("labels", label)):
        (tmp_path / "data" / name).mkdir(parents=True)
        nibabel.Nifti1Image(array, np.diag([-1.0, 1, 2, 1])).to_filename(tmp_path / "data" / name / "c.nii.gz")
    study = pc.analyze(tmp_path / "data", tmp_path / "study", instances=True)
    table = pc.texture(study)
    assert (table.lesions, table.failed) == (3, ())
    rows = rows_of(tmp_path / "study" / "texture.csv")
    volumes = [row["volume_mm3"] for row in rows_of(study.path / "lesions.csv")]
    assert [row["volume_mm3"] for row in rows] == volumes


def test_cases_that_cannot_be_used(study: Path, tmp_path: Path) -> None:
    with pytest.raises(StudyError):
        pc.texture(tmp_path)
    image = next(record for record in Study(study).accepted() if record.case_id == "c0").image
    assert image is not None
    Path(image.path).write_bytes(b"nothing")
    done = patchcore("texture", study, "--bin-count", "8")
    assert done.returncode == 3
    assert "skipped: c0" in done.stdout
    assert {row["case_id"] for row in rows_of(study / "texture.csv")} == {"c1"}
    assert patchcore("texture", study, "--hu-range", "x").returncode == 2
    # A lesion outside the range has an empty row.
    done = patchcore("texture", study, "--hu-range=1000,2000")
    assert "no voxel with an intensity in the range" in done.stdout
    [*_, row] = rows_of(study / "texture.csv")
    assert row["stat_mean"] == row["morph_volume"] == ""
