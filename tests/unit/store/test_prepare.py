"""Tests of the training grid and of preparing cases into the store."""

from __future__ import annotations

import csv
import json
import os
import pickle
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
import zarr
from scipy import ndimage

import patchcore.store.prepare_case as prepare_module
from linear_reference import interpolate
from patchcore.config.plan import Plan, TargetPlan
from patchcore.errors import ConfigError, CorruptFileError, DataError, EmptyClassError
from patchcore.inference.geometry import label_on_grid
from patchcore.locks import FileLock
from patchcore.memory import MemoryBudget
from patchcore.resampling.grid import Grid
from patchcore.resampling.image import resample_class_indices, resample_image
from patchcore.store.groups import store_folder
from patchcore.store.inspection import inspect_store
from patchcore.store.prepare import PreparedCase, check_classes, class_indices, prepare, prepare_cases
from patchcore.store.window_reader import WindowReader
from patchcore.study import CaseRecord, Study
from patchcore.volumes.volume import NiftiFile

LPS = np.array([[-1, 0, 0, 30], [0, -1, 0, 40], [0, 0, 4, -10], [0, 0, 0, 1]], dtype=float)
SLICES_FIRST = np.array([[0, 0, -0.7, 60], [0, 0.7, 0, -20], [3.0, 0, 0, 5], [0, 0, 0, 1]])


def target(**changes: Any) -> TargetPlan:
    plan = {
        "lesion_label": 2,
        "label_name": "tumour",
        "classes": (2,),
        "rule": "mean-volume",
        "patch_size": (8, 8, 8),
        "spacing": (1.0, 1.0, 2.0),
        "window_size": (16, 16, 16),
        "hu_range": (-100.0, 200.0),
        "connectivity": 26,
        "min_volume_mm3": 0.0,
        "lesion_count": 1,
        "patient_count": 1,
        "mean_volume_mm3": 1.0,
        "median_volume_mm3": 1.0,
        "ideal_edges": (),
        "candidates": (),
        "rules": (),
        "padding_share": 0.0,
        "reason": "",
    }
    return TargetPlan.model_validate(plan | changes)


def write_case(root: Path, case_id: str, image: Any, label: Any, affine: Any) -> CaseRecord:
    paths = {}
    for folder, array in (("images", image), ("labels", label)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        paths[folder] = root / folder / f"{case_id}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(array, affine), paths[folder])
    return CaseRecord(
        case_id=case_id,
        patient=case_id,
        image=paths["images"],
        label=paths["labels"],
        status="accepted",
        shape=image.shape,
        spacing=tuple(np.linalg.norm(affine[:3, :3], axis=0)),
        affine=tuple(map(tuple, affine)),
        orientation="".join(nibabel.aff2axcodes(affine)),
        labels=tuple(int(v) for v in np.unique(label) if v),
    )


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study.create(tmp_path / "study", tmp_path / "data")


@pytest.fixture
def record(tmp_path: Path) -> CaseRecord:
    generator = np.random.default_rng(0)
    label = np.zeros((20, 18, 10), dtype=np.uint8)
    label[2:6, 3:7, 4:6] = 2
    label[12:15, 10:14, 2:4] = 2
    label[10:12, :4] = 1
    image = (generator.normal(0, 20, label.shape) + 100 * label).astype(np.int16)
    return write_case(tmp_path / "data", "case_1", image, label, LPS)


@pytest.mark.parametrize("affine", [LPS, SLICES_FIRST], ids=["LPS", "slices first"])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 2.0), (0.9, 1.3, 3.7)])
def test_grid_keeps_world_positions(affine: Any, spacing: Any) -> None:
    shape = (24, 30, 21)
    grid = Grid.of(shape, affine, spacing)
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    for axis in range(3):
        # In hundredths of a millimetre, because HU are integers.
        brought = grid.resample(world[..., axis] * 100) / 100
        positions = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1)
        expected = positions @ grid.affine[:3, :3].T + grid.affine[:3, 3]
        # Without the edges, because the spline is mirrored there.
        inside = tuple(slice(6, -6) for _ in range(3))
        np.testing.assert_allclose(brought[inside], expected[..., axis][inside], atol=0.0051)
    np.testing.assert_allclose(np.linalg.norm(grid.affine[:3, :3], axis=0), spacing, rtol=1e-6)
    assert np.all(np.diag(grid.affine)[:3] > 0)


def test_low_edges_coincide() -> None:
    grid = Grid.of((10, 10, 10), np.diag([2.0, 2.0, 2.0, 1.0]), (1.0, 3.0, 2.0))
    assert grid.affine[:3, 3].tolist() == [-0.5, 0.5, 0.0]
    assert grid.shape == (20, 7, 10)


def test_same_spacing_copies_exactly() -> None:
    array = np.random.default_rng(0).integers(-1000, 1000, (9, 8, 7)).astype(np.int16)
    grid = Grid.of((9, 8, 7), LPS, (1.0000001, 1.0, 4.0))
    assert np.array_equal(grid.resample(array), array[::-1, ::-1])
    assert np.array_equal(grid.stored(grid.canonical(array)), array)


def test_slabs_equal_the_whole() -> None:
    array = np.random.default_rng(0).normal(size=(11, 9, 7))
    whole = interpolate(array, (0.7, 1.3, 1.0), (15, 7, 7))
    part = interpolate(array, (0.7, 1.3, 1.0), (4, 7, 7), start=(6, 0, 0))
    np.testing.assert_allclose(part, whole[6:10], atol=1e-5)


@pytest.mark.parametrize("ratio", [1.3, 2.5])
def test_small_lesions_on_a_coarser_grid_keep_their_volume_better_than_by_nearest(ratio: float) -> None:
    errors: dict[str, list[float]] = {"linear": [], "nearest": []}
    shape = (int(40 / ratio),) * 3
    for ball in balls(2.2, 40):
        linear = resample_class_indices(ball, (1, 1, 1), (ratio,) * 3, shape=shape)
        nearest = ndimage.affine_transform(ball, np.full(3, ratio), offset=ratio / 2 - 0.5, output_shape=shape, order=0)
        for name, found in (("linear", linear), ("nearest", nearest)):
            errors[name].append(abs(ratio**3 * int(found.sum()) / int(ball.sum()) - 1))
    assert np.mean(errors["linear"]) <= np.mean(errors["nearest"])


def test_ties_do_not_shrink_lesions() -> None:
    # At this ratio, the share of a class in a new voxel is often exactly one half, a tie.
    volumes = [
        8 * int(resample_class_indices(ball, (1, 1, 1), (2.0,) * 3).sum()) / int(ball.sum()) for ball in balls(2.2, 40)
    ]
    assert np.mean(volumes) == pytest.approx(1, abs=0.1)


def balls(radius: float, count: int) -> Iterator[npt.NDArray[np.uint8]]:
    generator = np.random.default_rng(0)
    positions = np.stack(np.meshgrid(*[np.arange(40)] * 3, indexing="ij"), axis=-1)
    for _ in range(count):
        yield (((positions - generator.uniform(12, 28, 3)) ** 2).sum(-1) < radius**2).astype(np.uint8)


def test_label_on_grid_inverts_orientation() -> None:
    indices = np.random.default_rng(0).integers(0, 3, (6, 7, 8)).astype(np.uint8)
    grid = Grid.of((6, 7, 8), SLICES_FIRST, Grid.of((6, 7, 8), SLICES_FIRST, (1, 1, 1)).canonical_spacing)
    canonical = grid.canonical(indices)
    one_hot = np.stack([canonical == value for value in range(3)]).astype(np.float32)
    assert np.array_equal(label_on_grid(one_hot, grid), indices)


def test_other_labels_are_background() -> None:
    assert class_indices(np.array([0, 1, 2, 5, -3]), (5, 2)).tolist() == [0, 0, 2, 1, 0]


def test_a_case_is_brought_once(study: Study, record: CaseRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    [case] = prepare_cases(study, target(), [record]).cases
    assert case.shape == case.image().shape == case.label().shape == (20, 18, 20)
    assert case.image().dtype == np.int16
    assert case.class_voxels == (int((case.label() == 1).sum()),)
    stored: Any = nibabel.load(record.label)
    voxels = int((np.asanyarray(stored.dataobj) == 2).sum())
    assert sum(case.lesion_voxels) * 2 == pytest.approx(voxels * 4, rel=0.2)

    spans = case.spans()
    assert spans.lesion_count == 2
    drawn = np.zeros(case.shape, dtype=bool)
    for origin, length in zip(spans.origin, spans.length, strict=True):
        stretch = [slice(o, o + 1) for o in origin]
        stretch[spans.axis] = slice(origin[spans.axis], origin[spans.axis] + length)
        drawn[tuple(stretch)] = True
    assert np.array_equal(drawn, case.label() == 1)

    monkeypatch.setattr("patchcore.store.prepare_case._fill", lambda *_: pytest.fail("the case was prepared again"))
    assert prepare_cases(study, target(), [record]).cases == (case,)


def test_a_changed_source_is_brought_again(study: Study, record: CaseRecord, tmp_path: Path) -> None:
    [before] = prepare_cases(study, target(), [record]).cases
    stored: Any = nibabel.load(record.image)
    nibabel.save(nibabel.Nifti1Image(np.full(record.shape, 7, np.int16), stored.affine), record.image)
    begun, unopened = before.image_array, replace(before)
    sent = pickle.dumps(before)  # to a worker process of a loader
    first = begun.read()
    [after] = prepare_cases(study, target(), [record]).cases
    assert before.path == after.path
    assert (after.image() == 7).all()
    # What was begun is read to its end; what is opened later is told that the case has changed.
    assert not (first == 7).all()
    np.testing.assert_array_equal(begun.read(), first)
    for late in (unopened.image, unopened.label, unopened.spans, pickle.loads(sent).image):
        with pytest.raises(CorruptFileError, match=r"case_1.*prepared again, or deleted, while it was in use"):
            late()
    # The outdated case is removed a day later, and then it says so.
    [old] = after.path.parent.glob(".*")
    os.utime(old, (0, 0))
    prepare_cases(study, target(), [record])
    assert list(after.path.parent.glob(".*")) == []


def test_of_two_that_prepare_at_once_one_does_not_replace_the_other(
    study: Study, record: CaseRecord, tmp_path: Path
) -> None:
    """Two commands find the same outdated case. The second must not move the first one's case away from its readers."""
    [outdated] = prepare_cases(study, target(), [record]).cases
    os.utime(record.image)
    root = outdated.path.parent
    found: list[PreparedCase] = []
    second = threading.Thread(target=lambda: found.extend(prepare_cases(study, target(), [record]).cases))
    with FileLock(root.parent / ".naming.lock"):  # the first is about to give its case the name
        second.start()
        deadline = time.monotonic() + 60
        while not list(root.glob(".*.tmp/zarr.json")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        first = tmp_path / "first"
        shutil.copytree(next(root.glob(".*.tmp")), first)
        attributes = json.loads((first / "zarr.json").read_text())
        attributes["attributes"]["patchcore"]["version"] = "first"
        (first / "zarr.json").write_text(json.dumps(attributes))
        shutil.rmtree(outdated.path)
        first.rename(outdated.path)
    second.join()
    assert [case.version for case in found] == ["first"]
    assert found[0].image().shape == outdated.shape


def test_another_plan_has_another_place(study: Study, record: CaseRecord) -> None:
    paths = {
        prepare_cases(study, target(**changes), [record]).cases[0].path
        for changes in ({}, {"spacing": (2.0, 2.0, 2.0)}, {"classes": (2, 1)}, {"min_volume_mm3": 1.0})
    }
    assert len(paths) == 4


def test_specks_are_not_drawn_from(study: Study, record: CaseRecord) -> None:
    [case] = prepare_cases(study, target(), [record]).cases
    limit = (min(case.lesion_voxels) + 1) * case.voxel_mm3
    [without] = prepare_cases(study, target(min_volume_mm3=limit), [record]).cases
    assert without.lesion_voxels == (max(case.lesion_voxels),)
    assert set(without.spans().lesion.tolist()) == {0}


def test_one_bad_case_does_not_stop_the_others(study: Study, record: CaseRecord) -> None:
    assert record.image is not None
    bad = record.model_copy(
        update={"case_id": "case_2", "image": NiftiFile(record.image.path.with_name("gone.nii.gz"))}
    )
    progress: list[tuple[int, int]] = []
    prepared = prepare_cases(study, target(), [bad, record], on_progress=lambda *done: progress.append(done))
    assert [case.case_id for case in prepared.cases] == ["case_1"]
    assert [failed.case_id for failed in prepared.failed] == ["case_2"]
    assert progress == [(1, 2), (2, 2)]
    [group] = inspect_store(study.path)
    assert list(group.failed) == ["case_2"]
    prepare_cases(study, target(), [record])
    assert "gone" in inspect_store(study.path)[0].failed["case_2"]
    with pytest.raises(DataError, match="none of 1 cases could be prepared"):
        prepare_cases(study, target(), [bad])


def test_a_failed_write_leaves_nothing(study: Study, record: CaseRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match="No space left"):
            prepare_cases(study, target(), [record])
    assert [path for path in store_folder(study, target()).iterdir() if path.name != "zarr.json"] == []
    assert len(prepare_cases(study, target(), [record]).cases) == 1


@pytest.mark.parametrize("damage", [b"", b"{}", b"garbage" * 100])
@pytest.mark.parametrize("file", ["image/zarr.json", "image/c/0/0/0", "label/c/0/0/0", "spans.npy"])
def test_a_damaged_store_names_the_case(study: Study, record: CaseRecord, file: str, damage: bytes) -> None:
    [case] = prepare_cases(study, target(), [record]).cases
    (case.path / file).write_bytes(damage)
    read: Any = case.spans if file == "spans.npy" else case.image if file.startswith("image") else case.label
    with pytest.raises(CorruptFileError, match=r"case_1.*delete"):
        read()


@pytest.mark.parametrize("name", ["image", "label"])
def test_a_lost_shard_is_not_a_air(study: Study, record: CaseRecord, name: str) -> None:
    [case] = prepare_cases(study, target(), [record]).cases
    (case.path / name / "c" / "0" / "0" / "0").unlink()
    with pytest.raises(CorruptFileError, match=r"case_1.*c/0/0/0: missing"):
        _ = case.image() if name == "image" else case.label()
    [group] = inspect_store(study.path)
    assert "c/0/0/0: the shard file is missing" in str(group.cases[0].problem)


@pytest.mark.parametrize("loss", ["the store", "a shard", "shorter", "another version"])
def test_a_shard_that_goes_under_a_reader_is_an_error_and_not_air(study: Study, record: CaseRecord, loss: str) -> None:
    [case] = prepare_cases(study, target(), [record]).cases
    other = prepare_cases(study, target().model_copy(update={"connectivity": 6}), [record]).cases[0]
    array, shard = case.image_array, case.path / "image" / "c" / "0" / "0" / "0"
    if loss == "the store":
        shutil.rmtree(study.path / "store.zarr")
    elif loss == "a shard":
        shard.unlink()
    elif loss == "shorter":
        shard.write_bytes(shard.read_bytes()[1000:])
    else:
        stored: Any = nibabel.load(record.image)
        noise = np.random.default_rng(1).integers(0, 99, record.shape).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(noise, stored.affine), record.image)
        [changed] = prepare_cases(study, target().model_copy(update={"connectivity": 6}), [record]).cases
        assert changed.path == other.path
        content = (changed.path / "image" / "c" / "0" / "0" / "0").read_bytes()
        known = json.loads((case.path / "image" / "zarr.json").read_text())["attributes"]["patchcore"]["shards"][0][0]
        # The size is the same, so only the checksum differs.
        shard.write_bytes(content[-known:] if len(content) >= known else b"0" * (known - len(content)) + content)
    for _ in range(2):
        with pytest.raises(CorruptFileError, match=r"c/0/0/0: .*(missing|bytes|version|checksum)"):
            array.read()
    reader = WindowReader([case])
    with pytest.raises(CorruptFileError, match=r"c/0/0/0|damaged store"):
        reader.read([0], [(0, 0, 0)], (8, 8, 8))


def test_damaged_spans_are_found_by_inspect(study: Study, record: CaseRecord) -> None:
    [case] = prepare_cases(study, target(), [record]).cases
    path = case.path / "class_spans.npy"
    path.write_bytes(path.read_bytes()[:-3] if path.stat().st_size > 128 else b"")
    assert inspect_store(study.path)[0].cases[0].problem is not None


def test_what_another_has_brought_meanwhile_is_kept(
    study: Study, record: CaseRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill = prepare_module._fill

    def slower(folder: Path, *given: Any) -> dict[str, Any]:
        meta = fill(folder, *given)
        if not seen:
            seen.append(0)
            # The other call finishes first, and its files may already be open in another process.
            [other] = prepare_cases(study, target(), [record]).cases
            seen[0] = (other.path / "image" / "zarr.json").stat().st_ino
        return meta

    seen: list[int] = []
    monkeypatch.setattr(prepare_module, "_fill", slower)
    [case] = prepare_cases(study, target(), [record]).cases
    assert (case.path / "image" / "zarr.json").stat().st_ino == seen[0]
    assert not list(case.path.parent.glob(".*"))


def test_who_waits_for_memory_is_reported_to_stop() -> None:
    budget = MemoryBudget(10)
    outcomes: list[str] = []

    def wait() -> None:
        try:
            with budget.hold(8, "a case"):
                outcomes.append("admitted")
        except InterruptedError:
            outcomes.append("stopped")

    with budget.hold(5, "another"):
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.05)
        assert outcomes == []
        budget.close()
        thread.join(5)
    assert outcomes == ["stopped"]


@pytest.mark.parametrize(
    ("given", "words"),
    [({"crop_margin_mm": -5.0}, "crop_margin_mm"), ({"kernel": "nearest"}, "kernel"), ({"workers": 0}, "workers")],
)
def test_settings_that_cannot_be(study: Study, record: CaseRecord, given: dict[str, Any], words: str) -> None:
    study.write_cases([record])
    study.write_plan(Plan(fingerprint_hash="", targets=(target(),)))
    with pytest.raises(ConfigError, match=words):
        prepare(study, **given)


def test_a_case_whose_description_is_damaged_is_brought_again(study: Study, record: CaseRecord) -> None:
    [case] = prepare_cases(study, target(), [record]).cases
    (case.path / "zarr.json").write_bytes(b"{")
    assert prepare_cases(study, target(), [record]).cases == (case,)


def test_the_store_opens_as_one_zarr_hierarchy(study: Study, record: CaseRecord) -> None:
    [case] = prepare_cases(study, target(), [record]).cases
    root: Any = zarr.open_group(study.path / "store.zarr", mode="r")
    group = root[case.path.parent.name]["case_1"]
    np.testing.assert_array_equal(group["image"][:], case.image())
    np.testing.assert_array_equal(group["label"][:], case.label())
    assert group.attrs["patchcore"]["spacing"] == [1.0, 1.0, 2.0]


def test_windows_are_parts_of_the_whole(study: Study, record: CaseRecord) -> None:
    [case] = prepare_cases(study, target(), [record]).cases
    windows = WindowReader([case]).read(0, (3, 4, 5), (8, 9, 10), hu_range=(-50, 150))
    part = (slice(3, 11), slice(4, 13), slice(5, 15))
    np.testing.assert_allclose(windows.image[0], (case.image()[part].clip(-50, 150) + 50.0) / 200, atol=1e-6)
    np.testing.assert_array_equal(windows.label[0], case.label()[part])


def test_other_classes_are_kept_as_spans(study: Study, record: CaseRecord) -> None:
    [case] = prepare_cases(study, target(classes=(2, 1)), [record]).cases
    organ = case.class_spans(2)
    painted = np.zeros(case.shape, np.uint8)
    for origin, length in zip(organ.origin, organ.length, strict=True):
        stretch = [slice(at, at + 1) for at in origin]
        stretch[organ.axis] = slice(origin[organ.axis], origin[organ.axis] + length)
        painted[tuple(stretch)] += 1
    np.testing.assert_array_equal(painted, case.label() == 2)
    assert organ.voxel_count.tolist() == [case.class_voxels[1]]
    assert case.class_spans(3).lesion_count == 0


def test_lesions_that_would_vanish_are_kept_as_one_voxel(study: Study, tmp_path: Path) -> None:
    old = np.zeros((40, 40, 40), np.uint8)
    for corner in ((3, 3, 3), (20, 21, 22), (37, 5, 39)):
        old[corner] = 2
    old[8:20, 8:20, 8:20] = 2
    old[30, 30, 30] = 1  # a small component of another class is not kept
    record = write_case(tmp_path / "data", "small", old.astype(np.int16), old, np.eye(4))
    [case] = prepare_cases(study, target(classes=(2, 1), spacing=(4.0, 4.0, 4.0)), [record]).cases
    alone = resample_class_indices((old == 2).astype(np.uint8), (1, 1, 1), (4, 4, 4))
    assert case.kept_lesions == 3
    assert np.argwhere((case.label() == 1) != alone).tolist() == [[0, 0, 0], [5, 5, 5], [9, 1, 9]]
    # One of the kept voxels now touches the large lesion.
    assert sorted(case.lesion_voxels) == [1, 1, 28]
    assert case.class_voxels[1] == 0


def test_a_plate_between_two_new_slices_is_kept(study: Study, tmp_path: Path) -> None:
    """The lesion is large, but no slice of the training grid passes through it."""
    old = np.zeros((20, 20, 20), np.uint8)
    old[4:14, 4:14, 3:7] = 2
    record = write_case(tmp_path / "data", "plate", old.astype(np.int16), old, np.eye(4))
    [case] = prepare_cases(study, target(spacing=(1.0, 1.0, 5.0)), [record]).cases
    assert (case.kept_lesions, case.lesion_voxels) == (1, (1,))


def test_infinite_voxels_do_not_spread(study: Study, tmp_path: Path) -> None:
    image = np.full((10, 10, 10), 100, np.float32)
    image[5, 5, 5] = np.inf
    label = np.zeros((10, 10, 10), np.uint8)
    label[2:4, 2:4, 2:4] = 2
    record = write_case(tmp_path / "data", "infinite", image, label, np.eye(4))
    [case] = prepare_cases(study, target(spacing=(1.0, 1.0, 1.0)), [record]).cases
    expected = np.full((10, 10, 10), 100)
    expected[5, 5, 5] = 32767
    np.testing.assert_array_equal(case.image(), expected)
    np.testing.assert_array_equal(resample_image(image, (1, 1, 1), (1, 1, 1)), expected)


@pytest.mark.parametrize("affine", [np.diag([0.7, 0.7, 3.0, 1.0]), SLICES_FIRST])
def test_stored_values_are_scaled_before_they_are_bounded(study: Study, tmp_path: Path, affine: Any) -> None:
    hu = np.random.default_rng(5).integers(-1000, 3000, (12, 10, 8)).astype(np.float64)
    label = np.zeros(hu.shape, np.uint8)
    label[3:6, 3:6, 3:6] = 2
    record = write_case(tmp_path / "data", "fine", hu, label, affine)
    assert record.image is not None
    # Thousandths of a HU as int32: the values do not fit into int16 before they are scaled.
    image = nibabel.Nifti1Image(((hu + 24) * 1000).astype(np.int32), affine)
    image.header.set_slope_inter(0.001, -24.0)
    nibabel.save(image, record.image)
    np.testing.assert_allclose(np.asanyarray(nibabel.load(record.image).dataobj), hu, atol=0.01)  # type: ignore[attr-defined]
    [case] = prepare_cases(study, target(spacing=(0.7, 0.7, 3.0)), [record]).cases
    expected = Grid.of(hu.shape, affine, (0.7, 0.7, 3.0)).canonical(hu)
    assert np.abs(case.image() - expected).max() <= 1


def test_a_crop_keeps_the_organ_and_reports_what_it_cuts(study: Study, record: CaseRecord, tmp_path: Path) -> None:
    plan = target(store={"crop_to": 1, "crop_margin_mm": 3.0})
    label = np.zeros((20, 18, 10), np.uint8)
    label[3:5, 3:5, 3:5] = 2
    whole = write_case(tmp_path / "data", "whole", label.astype(np.int16), label, LPS)
    cropped, kept = prepare_cases(study, plan, [record, whole]).cases
    [full] = prepare_cases(study, target(), [record]).cases
    # The organ is at x 10–11, y 0–3, all z. The stored x and y axes are opposite to the canonical axes.
    assert cropped.crop_start == (5, 11, 0)
    assert cropped.shape == (8, 7, 20)
    assert cropped.cropped
    assert not kept.cropped
    assert kept.shape == full.shape
    part = (slice(5, 13), slice(11, 18), slice(0, 20))
    np.testing.assert_array_equal(cropped.image(), full.image()[part])
    np.testing.assert_array_equal(cropped.label(), full.label()[part])
    assert cropped.cut_lesions == 2
    meta: Any = zarr.open_group(cropped.path, mode="r").attrs["patchcore"]
    expected = Grid.of(record.shape, record.affine_array, plan.spacing).affine @ np.array([5, 11, 0, 1])
    np.testing.assert_allclose(np.asarray(meta["grid_affine"])[:3, 3], expected[:3])


def test_memory_that_is_too_little_is_reported(
    study: Study, record: CaseRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"needs about 48 MiB, but only 0 MiB are allowed.*raise --max-memory"):
        prepare_cases(study, target(), [record], max_memory_bytes=1 << 20)
    monkeypatch.setattr("patchcore.store.prepare_case.Placed.needed_bytes", lambda *_: 1 << 40)
    with pytest.raises(DataError, match=r"case_1 needs about.*raise --max-memory"):
        prepare_cases(study, target(), [record])


def test_lesions_are_listed_beside_the_arrays(study: Study, record: CaseRecord) -> None:
    [case] = prepare_cases(study, target(), [record]).cases
    with (case.path / "lesions.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [int(row["voxel_count"]) for row in rows] == list(case.lesion_voxels)
    for number, row in enumerate(rows):
        start, stop = ([int(row[f"bbox_{end}_{axis}"]) for axis in "xyz"] for end in ("start", "stop"))
        part = case.label()[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
        assert int(part.sum()) == case.lesion_voxels[number]
        centre = np.argwhere(part).mean(axis=0) + start
        np.testing.assert_allclose([float(row[f"centroid_voxel_{axis}"]) for axis in "xyz"], centre, atol=1e-3)


def test_a_class_without_voxels(study: Study, record: CaseRecord) -> None:
    cases = prepare_cases(study, target(classes=(2, 9)), [record]).cases
    with pytest.raises(EmptyClassError, match="class 9"):
        check_classes(cases, target(classes=(2, 9)))
    check_classes(prepare_cases(study, target(), [record]).cases, target())


def test_float_images_are_rounded_and_bounded(study: Study, tmp_path: Path) -> None:
    image = np.full((4, 4, 4), 1.6, dtype=np.float32)
    image[0, 0, 0], image[1, 0, 0], image[2, 0, 0] = 1e6, -1e6, np.nan
    label = np.zeros((4, 4, 4), dtype=np.uint8)
    label[1, 1, 1] = 2
    made = write_case(tmp_path / "data", "case_9", image, label, np.diag([1.0, 1.0, 2.0, 1.0]))
    case: PreparedCase = prepare_cases(study, target(), [made]).cases[0]
    assert case.image()[:, 0, 0].tolist() == [32767, -32768, -1024, 2]
