"""Tests of phantoms drawn plane by plane: the same voxels in any drawing order, organs and lesions as specified."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage, stats

from patchcore.errors import DataError
from patchcore.lesions.measure import measure_lesions
from patchcore.phantoms import PHANTOM_PRESETS, LesionSpec, PhantomSpec, make_phantom
from patchcore.phantoms.fields import Field, PlaneReader, smooth_lattice
from patchcore.phantoms.scene import Scene
from patchcore.phantoms.spec import choose_spec
from patchcore.phantoms.volumes import Turn, write_volumes

ORGANS = replace(PHANTOM_PRESETS["multi-organ"], shape=(80, 80, 56), spacing=(4.0, 4.0, 5.0))
BIG = choose_spec("mixed", shape=(200, 190, 180), spacing=(1.6, 1.6, 1.7))


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene(BIG, seed=4)


def test_big_volumes_and_several_organs_are_streamed_and_small_ones_are_not() -> None:
    assert BIG.streamed
    assert ORGANS.streamed
    assert not any(PHANTOM_PRESETS[name].streamed for name in ("large", "mixed", "small"))
    assert choose_spec("large", shape=(512, 512, 300)).spacing == (0.75, 0.75, 1.0)
    assert choose_spec("large", shape=(100, 100, 80)).spacing == (2.0, 2.0, 2.5)


def test_planes_do_not_depend_on_order_slab_or_threads(scene: Scene, tmp_path: Path) -> None:
    first = scene.image_plane(90)
    np.testing.assert_array_equal(Scene(BIG, seed=4).image_plane(90), first)
    files = []
    for name, slab, threads in (("a", 1, 1), ("b", 7, 3), ("c", 400, 2)):
        image, label = tmp_path / f"{name}.nii.gz", tmp_path / f"{name}.label.nii.gz"
        write_volumes(scene, "LPS", image=image, label=label, slab=slab, threads=threads)
        files.append(image.read_bytes() + label.read_bytes())
    assert files[0] == files[1] == files[2]
    stored = nib.load(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(stored.dataobj)[::-1, ::-1, 90].T, first)
    assert nib.aff2axcodes(stored.affine) == ("L", "P", "S")


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAI", "PRS", "ASL"])
def test_turning_moves_voxels_and_world_together(codes: str, tmp_path: Path) -> None:
    case = make_phantom(PhantomSpec(shape=(40, 44, 36), spacing=(5.0, 5.0, 5.0)), seed=1)
    write_volumes(case, codes, image=tmp_path / "x.nii", label=None, slab=5)
    stored = nib.load(tmp_path / "x.nii")
    assert "".join(nib.aff2axcodes(stored.affine)) == codes
    back = nib.as_closest_canonical(stored)
    np.testing.assert_array_equal(np.asanyarray(back.dataobj), case.image)
    np.testing.assert_allclose(back.affine, case.affine, atol=1e-4)
    turn = Turn(codes, case.shape, case.affine)
    voxel = (3.0, 10.0, 20.0)
    np.testing.assert_allclose(turn.affine @ [*turn.point(voxel), 1], case.affine @ [*voxel, 1])


def test_lesions_are_what_the_label_map_holds(tmp_path: Path) -> None:
    for spec, seed in ((BIG, 4), (ORGANS, 0), (ORGANS, 3)):
        drawn = Scene(spec, seed=seed)
        write_volumes(drawn, "RAS", image=None, label=tmp_path / "label.nii.gz")
        for group in spec.groups:
            measured = measure_lesions(tmp_path / "label.nii.gz", labels=[group.label])
            listed = [lesion for lesion in drawn.lesions if lesion.label == group.label]
            assert sorted(measured.voxel_count.tolist()) == sorted(lesion.voxel_count for lesion in listed)
            centres = {tuple(np.rint(c).astype(int)) for c in measured.centroid_voxel}
            for lesion in listed:
                assert min(np.linalg.norm(np.array(c) - lesion.centre) for c in centres) < 3


def test_volumes_follow_the_stated_distribution() -> None:
    """The placed lesions, not only the drawn ones, follow the truncated log-normal distribution."""
    group = ORGANS.liver
    volumes = [x.intended_mm3 for i in range(60) for x in Scene(ORGANS, seed=1, index=i).lesions if x.organ == "liver"]
    assert len(volumes) > 130

    def below(volume: np.ndarray | float) -> np.ndarray:
        return stats.norm.cdf(np.log(np.asarray(volume) / group.median_volume_mm3) / group.volume_sigma)

    low, high = (below(v) for v in group.volume_range_mm3)
    assert stats.kstest(volumes, lambda v: (below(v) - low) / (high - low)).pvalue > 0.01
    other = LesionSpec(median_volume_mm3=group.median_volume_mm3 * 0.7)
    assert other.describe() != group.describe()


def test_several_organs_are_labelled_and_look_their_part() -> None:
    case = make_phantom(ORGANS, seed=0)
    assert ORGANS.label_names == {1: "liver", 2: "spleen", 3: "kidney", 4: "liver_tumour", 5: "kidney_tumour"}
    assert set(np.unique(case.label)) == {0, 1, 2, 3, 4, 5}
    median = {label: float(np.median(case.image[case.label == label])) for label in range(1, 6)}
    assert median[4] < median[1] - 20
    assert median[5] < median[3] - 20
    assert median[3] > median[1]
    assert ndimage.label(ndimage.binary_opening(case.label == 3))[1] == 2
    assert abs(float(case.image[:4, :4].mean()) + 1000) < 10
    assert ORGANS.noise_hu * 0.8 < float(np.std(case.image[case.label == 1])) < ORGANS.noise_hu * 2


def test_no_threshold_within_the_liver_finds_the_lesions(scene: Scene) -> None:
    case = scene.whole()
    organ, truth = case.label > 0, case.label == 2
    scores = []
    for threshold in range(30, 130, 5):
        found = (case.image < threshold) & organ
        scores.append(2 * np.count_nonzero(found & truth) / (found.sum() + truth.sum()))
    assert 0.02 < max(scores) < 0.6


def test_noise_of_planes_is_independent(scene: Scene) -> None:
    a, b = (scene.image_plane(k)[:20, :20].astype(float).ravel() for k in (5, 6))
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.2
    assert a.std() == pytest.approx(BIG.noise_hu, rel=0.3)


def test_fields_go_through_their_points() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((5, 6, 7)).astype(np.float32)
    field = Field(values, (1.0, 2.0, 3.0), (2.0, 2.5, 3.0))
    x, y, z = 1 + 2.0 * np.arange(7), 2 + 2.5 * np.arange(6), 3 + 3.0 * np.arange(5)
    np.testing.assert_allclose(field.resample(x, y, z), values, atol=1e-6)
    fine = np.linspace(1, 13, 40), np.linspace(2, 14, 30), np.linspace(3, 15, 9)
    whole = field.resample(*fine)
    reader = PlaneReader(field, *fine)
    for k in range(9):
        np.testing.assert_allclose(reader.plane(k), whole[k], atol=1e-5)
    assert field.at(np.array([[1.0, 2.0, 3.0], [99.0, 99.0, 99.0]])) == pytest.approx(
        [values[0, 0, 0], values[-1, -1, -1]]
    )


def test_textures_repeat() -> None:
    field = smooth_lattice(10.0, [0, 1])
    here = np.array([3.0, 17.0])
    np.testing.assert_allclose(
        field.resample(here, here, here), field.resample(here + 320, here, here - 320), atol=1e-5
    )


def test_impossible_volumes_are_named() -> None:
    with pytest.raises(DataError, match="cannot be written"):
        choose_spec("mixed", shape=(40_000, 128, 128))
    with pytest.raises(DataError, match="cannot be stored as ASL"):
        choose_spec("mixed", spec=replace(BIG, orientations=("ASL",)))
