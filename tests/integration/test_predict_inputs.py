"""Prediction of DICOM series and of folders: what is read, what is written, and where it continues."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from commands import patchcore, patchcore_here
from dicom_files import ct_series, enhanced, save, stored_values
from patchcore.config.postprocess import POSTPROCESS_FILE, Postprocess
from patchcore.datasets.dicom.find import find_dicom
from patchcore.errors import CheckpointError, ConfigError, CorruptFileError, DataError
from patchcore.inference import outputs as outputs_module
from patchcore.inference import predict as predict_module
from patchcore.inference.export import export_model
from patchcore.inference.postprocess import postprocess
from patchcore.inference.predict import predict
from patchcore.inference.scans import found_scans
from patchcore.inference.seg import Segmented, write_seg
from patchcore.inference.segment import WindowModel, segment
from patchcore.inference.tuned import weights_digest
from patchcore.lesions.measure import lesion_spans
from patchcore.models.checkpoint import find_weights
from patchcore.volumes.volume import read_image, read_label
from tiny_plan import tiny_target

MakeRun = Callable[..., Path]
RunAttempt = Callable[..., int]

ORIENTATIONS = [
    (axes, signs) for axes in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)
]


@pytest.fixture
def trained(make_run: MakeRun, run_attempt: RunAttempt) -> Path:
    run = make_run("train.steps=2", "train.device=cpu")
    assert run_attempt(run) == 0
    return run


def voxels(path: Path) -> Any:
    return np.asanyarray(nibabel.load(path).dataobj)


def spots(shape: tuple[int, int, int], seed: int = 0) -> Any:
    """Random class indices: organ 1, lesions 2."""
    random = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(random.standard_normal(shape), 1.5)
    classes = (smooth > 0).astype(np.uint8)
    classes[smooth > np.quantile(smooth, 0.93)] = 2
    return classes


def segmented(classes: Any) -> Segmented:
    spans = lesion_spans(classes, labels=[2], connectivity=26)
    return Segmented(classes, spans, {1: "liver"}, "tumour")


def places(array: Any, affine: Any) -> set[tuple[float, ...]]:
    """Return every voxel that is not 0 as (x, y, z, value) in world mm."""
    index = np.argwhere(array)
    points = index @ np.asarray(affine)[:3, :3].T + np.asarray(affine)[:3, 3]
    values = array[tuple(index.T)].astype(float)
    return {tuple(row) for row in np.round(np.column_stack([points, values]), 2).tolist()}


def standard_errors(path: Path) -> set[str]:
    """Return what dciodvfy, the checker of the DICOM standard, reports as errors."""
    program = Path(sys.executable).with_name("dciodvfy")
    shown = subprocess.run([program, path], capture_output=True, text=True, check=False, errors="replace")
    text = shown.stdout + shown.stderr
    assert "CTImage" in text or "Segmentation" in text, text  # it has read the file
    return {line for line in text.splitlines() if line.startswith("Error")}


def check_seg(folder: Path, out: Path, classes: Any, affine: Any, *, standard: bool = True) -> None:
    import highdicom

    labels = np.zeros(classes.shape, np.int64)
    components, count = ndimage.label(classes == 2, np.ones((3, 3, 3)))
    sizes = np.bincount(components.ravel())[1:]
    for number, component in enumerate(np.argsort(-sizes, kind="stable"), 1):
        labels[components == component + 1] = number
    labels[classes == 1] = count + 1
    expected = places(labels, affine)
    seg: Any = highdicom.seg.segread(out)
    assert len(seg.segment_numbers) == count + 1
    described = [seg.get_segment_description(number) for number in range(1, count + 2)]
    assert [one.segment_label for one in described] == [*(f"tumour {n}" for n in range(1, count + 1)), "liver"]
    assert len({one.tracking_uid for one in described}) == count + 1
    assert described[-1].segmented_property_type.meaning == "Liver"
    volume = seg.get_volume(combine_segments=True)
    lps_to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    assert places(volume.array, lps_to_ras @ volume.affine) == expected
    assert (
        seg.ReferencedSeriesSequence[0].SeriesInstanceUID == highdicom.imread(next(folder.glob("f*"))).SeriesInstanceUID
    )
    if standard:
        assert standard_errors(out) <= standard_errors(next(folder.glob("f*")))
    # patchcore reads what it wrote.
    (folder / "seg").write_bytes(out.read_bytes())
    [case] = find_dicom(folder).cases
    assert case.problem is None
    image, label = (
        read_image(case.image.indexed(folder / "i.dicom.json")),
        read_label(case.label.indexed(folder / "l.dicom.json")),
    )
    np.testing.assert_allclose(image.affine, label.affine)
    read = places(label.array > 0, label.affine)
    assert read == {(*row[:3], 1.0) for row in expected}
    (folder / "seg").unlink()


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
def test_a_seg_has_its_place_in_all_orientations(tmp_path: Path, kind: Any) -> None:
    shape = (13, 11, 5)
    for number, (axes, signs) in enumerate(ORIENTATIONS):
        directions = np.zeros((3, 3))
        for row, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
            directions[row, axis] = sign
        # The slices lie along the normal of the plane, or against it: then they are stored in descending order.
        step = directions[2] * 2.5
        series = ct_series(
            shape=shape, orientation=[*directions[0], *directions[1]], step=step.tolist(), patient=f"P{number}"
        )
        order = np.random.default_rng(number).permutation(len(series))
        folder = tmp_path / f"{number}"
        save([series[at] for at in order], folder)
        classes = spots(shape, seed=number)
        with found_scans(folder) as [scan]:
            image = scan.read()
            assert scan.slices is not None
            # The array of a scan may begin at the other end: the classes follow their slices.
            by_uid = {item.SOPInstanceUID: at for at, item in enumerate(series)}
            along = [by_uid[uid] for uid, _frame in scan.slices]
            mine = np.ascontiguousarray(classes[:, :, along])
            np.testing.assert_array_equal(image.array, stored_values(series)[:, :, along].astype(int) - 1024)
            write_seg(tmp_path / "out.dcm", segmented(mine), scan.files, scan.slices, kind=kind)
        check_seg(folder, tmp_path / "out.dcm", mine, image.affine, standard=number % 8 == 0)


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
def test_a_seg_of_an_oblique_and_of_a_multi_frame_series(tmp_path: Path, kind: Any) -> None:
    a, b = np.array([0.9, 0.3, np.sqrt(1 - 0.9)]), np.array([-0.3, 0.9, 0.0])
    a, b = a / np.linalg.norm(a), (b - a * (a @ b)) / np.linalg.norm(b - a * (a @ b))
    step = np.cross(a, b) * -1.7
    series = ct_series(shape=(13, 11, 6), orientation=[*a.round(9), *b.round(9)], step=step.tolist())
    for name, items in (("oblique", series[::-1]), ("enhanced", [enhanced(ct_series(shape=(13, 11, 6))[::-1])])):
        folder = tmp_path / name
        save(items, folder)
        with found_scans(folder) as [scan]:
            image = scan.read()
            assert scan.slices is not None
            classes = spots(image.array.shape, seed=5)
            write_seg(tmp_path / "out.dcm", segmented(classes), scan.files, scan.slices, kind=kind)
        check_seg(folder, tmp_path / "out.dcm", classes, image.affine)


def test_series_zip_and_folders_are_predicted(trained: Path, tmp_path: Path) -> None:
    one, two = ct_series(shape=(20, 18, 9), patient="A"), ct_series(shape=(20, 18, 7), patient="B", seed=1)
    save(one, tmp_path / "one" / "deep" / "er")
    out = tmp_path / "one.nii.gz"
    [found] = predict(trained, tmp_path / "one", out, seg="labelmap", tables=True, probabilities=True)
    assert [path.name for path in found.files] == [
        "one.nii.gz", "one.seg.dcm", "one.probability.nii.gz", "one.lesions.csv", "one.lesions.json",
    ]  # fmt: skip
    assert found.windows > 0
    with found_scans(tmp_path / "one") as [scan]:
        image = scan.read()
    label: Any = nibabel.load(out)
    np.testing.assert_allclose(label.affine, image.affine, atol=1e-5)
    assert label.shape == image.array.shape
    probability: Any = nibabel.load(tmp_path / "one.probability.nii.gz")
    np.testing.assert_allclose(probability.affine, image.affine, atol=1e-5)
    values = probability.get_fdata()
    assert 0 <= values.min() < values.max() <= 1
    np.testing.assert_array_equal(
        (values > 0.5)[np.abs(values - 0.5) > 1e-4], (voxels(out) == 1)[np.abs(values - 0.5) > 1e-4]
    )

    with zipfile.ZipFile(tmp_path / "scan.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number, path in enumerate(sorted((tmp_path / "one").rglob("f*"))):
            archive.write(path, f"../../../{number}/x.dcm")  # such a path is not followed
    [zipped] = predict(trained, tmp_path / "scan.zip", tmp_path / "zip.dcm")
    assert [path.name for path in zipped.files] == ["zip.dcm"]
    assert not (tmp_path.parent.parent / "0").exists()

    save(two, tmp_path / "both" / "b")
    save(one, tmp_path / "both" / "a")
    broken = ct_series(shape=(20, 18, 9), patient="C")
    save(broken[:3] + broken[4:], tmp_path / "both" / "c")  # a slice is missing
    results = predict(trained, tmp_path / "both", tmp_path / "out", seg="binary")
    assert [result.name for result in results] == ["A", "B", "C"]
    assert [result.error is None for result in results] == [True, True, False]
    assert "slice" in (results[2].error or "")
    np.testing.assert_array_equal(voxels(tmp_path / "out" / "A.nii.gz"), voxels(out))


def test_a_folder_continues_where_it_stopped(trained: Path, tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    random = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        image = random.integers(0, 200, (18, 16, 12)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(image, np.diag([1.5, 1.5, 2, 1])), scans / f"{name}.nii.gz")

    def stop(_prediction: Any, number: int, _total: int) -> None:
        if number == 2:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        predict(trained, scans, out, on_file=stop)
    assert sorted(path.name for path in out.iterdir()) == ["a.nii.gz", "b.nii.gz", "predictions.json"]
    again = predict(trained, scans, out)
    assert [result.resumed for result in again] == [True, True, False]
    # Another scan under the same name, other settings, or a file that is missing: these are predicted again.
    (out / "b.nii.gz").unlink()
    assert [result.resumed for result in predict(trained, scans, out)] == [True, False, True]
    with pytest.raises(DataError, match="already exists"):
        predict(trained, scans, out, overlap=0.25)
    os.utime(scans / "c.nii.gz", (1, 1))
    with pytest.raises(DataError, match="already exists"):
        predict(trained, scans, out)
    assert [result.resumed for result in predict(trained, scans, out, overwrite=True)] == [False] * 3
    (out / "predictions.json").write_text("{")
    with pytest.raises(DataError, match="already exists"):
        predict(trained, scans, out)


def test_several_models_are_averaged(trained: Path, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 200, (18, 16, 12)).astype(np.int16)
    scan = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(image, np.diag([1.5, 1.5, 2, 1])), scan)
    export_model(trained, tmp_path / "model.zip", checkpoint="last")
    predict(trained, scan, tmp_path / "one.nii.gz", checkpoint="last", probabilities=True)
    predict([tmp_path / "model.zip"] * 2, scan, tmp_path / "two.nii.gz", probabilities=True)
    a, b = (nibabel.load(tmp_path / f"{name}.probability.nii.gz").get_fdata() for name in ("one", "two"))
    np.testing.assert_allclose(a, b, atol=1e-4)
    with pytest.raises(ConfigError, match="no model is given"):
        predict([], scan, tmp_path / "x.nii.gz")
    with pytest.raises(ConfigError, match="cannot be averaged"):
        predict([trained, tmp_path / "x.onnx"], scan, tmp_path / "x.nii.gz")


def test_an_onnx_model_predicts_without_torch(trained: Path, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 200, (18, 16, 12)).astype(np.int16)
    scan = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(image, np.diag([1.5, 1.5, 2, 1])), scan)
    predict(trained, scan, tmp_path / "torch.nii.gz", probabilities=True, mirror=True)
    made = patchcore_here("export", trained, "-o", tmp_path / "model.onnx")
    assert made.returncode == 0, made.stderr
    script = (
        "import sys\n"
        "for name in ('torch', 'monai', 'safetensors', 'onnx', 'onnxscript'):\n"
        "    sys.modules[name] = None\n"
        "from patchcore.cli import main\n"
        "main()\n"
    )
    command = [tmp_path / "model.onnx", scan, "-o", tmp_path / "onnx.nii.gz", "--probabilities", "--mirror"]
    shown = subprocess.run(
        [sys.executable, "-c", script, "predict", *map(str, command)], capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0, shown.stderr
    a, b = (nibabel.load(tmp_path / f"{name}.probability.nii.gz").get_fdata() for name in ("torch", "onnx"))
    np.testing.assert_allclose(a, b, atol=1e-3)
    assert np.mean(voxels(tmp_path / "torch.nii.gz") == voxels(tmp_path / "onnx.nii.gz")) >= 0.9999

    for content in (b"", b"no model", (tmp_path / "model.onnx").read_bytes()[:4000]):
        (tmp_path / "bad.onnx").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"is not an ONNX model that can be read|of another tool"):
            predict(tmp_path / "bad.onnx", scan, tmp_path / "x.nii.gz")
    import onnx
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("a", "b")]
    graph = helper.make_graph([helper.make_node("Identity", ["a"], ["b"])], "g", values[:1], values[1:])
    foreign = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    for known, words in (
        (None, "of another tool"),
        ("{", "metadata that cannot be read"),
        (json.dumps({"format": "x"}), "metadata that cannot be read"),
    ):
        del foreign.metadata_props[:]
        if known is not None:
            helper.set_model_props(foreign, {"patchcore": known})
        (tmp_path / "bad.onnx").write_bytes(foreign.SerializeToString())
        with pytest.raises(CheckpointError, match=words):
            predict(tmp_path / "bad.onnx", scan, tmp_path / "x.nii.gz")
    good = onnx.load(tmp_path / "model.onnx")
    helper.set_model_props(foreign, {entry.key: entry.value for entry in good.metadata_props})
    (tmp_path / "bad.onnx").write_bytes(foreign.SerializeToString())
    with pytest.raises(CheckpointError, match="does not fit the plan"):
        predict(tmp_path / "bad.onnx", scan, tmp_path / "x.nii.gz")


def test_what_tune_chose_is_applied_and_refused_for_other_weights(trained: Path, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 200, (18, 16, 12)).astype(np.int16)
    scan = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(image, np.diag([1.5, 1.5, 2, 1])), scan)
    weights = weights_digest(find_weights(trained, None).weights())
    chosen = Postprocess(weights_sha256=weights, objective="lesion-f1", threshold=0.999999)
    (trained / POSTPROCESS_FILE).write_text(chosen.model_dump_json())
    notes: list[str] = []
    predict(trained, scan, tmp_path / "with.nii.gz", on_note=notes.append)
    assert notes == ["post-processing: lesion above probability 0.999999"]
    assert not voxels(tmp_path / "with.nii.gz").any()
    predict(trained, scan, tmp_path / "without.nii.gz", post=False)
    export_model(trained, tmp_path / "model.zip")
    predict(tmp_path / "model.zip", scan, tmp_path / "zip.nii.gz")
    assert not voxels(tmp_path / "zip.nii.gz").any()
    (trained / POSTPROCESS_FILE).write_text(chosen.model_copy(update={"weights_sha256": "0"}).model_dump_json())
    with pytest.raises(CheckpointError, match="was chosen for other weights"):
        predict(trained, scan, tmp_path / "x.nii.gz")
    (trained / POSTPROCESS_FILE).write_text("{}")
    with pytest.raises(DataError, match="schema_version"):
        predict(trained, scan, tmp_path / "x.nii.gz")


def test_small_lesions_and_those_outside_the_organ_are_removed() -> None:
    classes = np.zeros((30, 10, 10), np.uint8)
    classes[2:14, 2:8, 2:8] = 1
    classes[4:7, 4:7, 4:7] = 2  # large, in the organ
    classes[10, 4, 4] = 2  # small, in the organ
    classes[20:24, 2:6, 2:6] = 2  # large, outside
    classes[28, 5, 5] = 2  # small, outside
    target = tiny_target()
    expected = classes.copy()
    expected[10, 4, 4] = 1  # in an organ it becomes organ
    expected[28, 5, 5] = 0
    small = Postprocess(weights_sha256="", objective="dsc", min_volume_mm3=16)
    found = classes.copy()
    removed = postprocess(found, target, small, voxel_mm3=8.0)
    np.testing.assert_array_equal(found, expected)
    assert (removed.small, removed.outside, str(removed)) == (2, 0, "2 below the least volume")
    organ = small.model_copy(update={"organ_label": 1})
    found = classes.copy()
    removed = postprocess(found, target, organ, voxel_mm3=8.0)
    expected[20:24] = 0
    np.testing.assert_array_equal(found, expected)
    assert (removed.small, removed.outside) == (1, 2)
    # A lesion of exactly the least volume is kept.
    found = classes.copy()
    postprocess(found, target, small, voxel_mm3=16.0)
    np.testing.assert_array_equal(found, classes)
    with pytest.raises(ConfigError, match="no class 7"):
        postprocess(classes.copy(), target, small.model_copy(update={"organ_label": 7}), voxel_mm3=1.0)


def test_bad_input_gets_a_clear_error(trained: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for source, error, words in (
        (empty, DataError, "contains no NIfTI file and no DICOM CT series"),
        (tmp_path / "missing.nii.gz", FileNotFoundError, "no such file"),
    ):
        with pytest.raises(error, match=words):
            predict(trained, source, tmp_path / "out.nii.gz")
    (tmp_path / "bad.zip").write_bytes(b"PK no zip")
    with pytest.raises(CorruptFileError, match="is not a zip file that can be read"):
        predict(trained, tmp_path / "bad.zip", tmp_path / "out.nii.gz")
    (tmp_path / "note.txt").write_text("no scan")
    with pytest.raises(DataError, match="contains no NIfTI file"):
        predict(trained, tmp_path / "note.txt", tmp_path / "out.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.zeros((6, 6, 6), np.int16), np.eye(4)), tmp_path / "scan.nii")
    for options, words in (({"seg": "binary"}, "only for a DICOM scan"), ({"device": "tpu"}, "is not a device")):
        with pytest.raises(ConfigError, match=words):
            predict(trained, tmp_path / "scan.nii", tmp_path / "out.nii.gz", **options)
    assert not (tmp_path / "out.nii.gz").exists()
    shown = patchcore("predict", trained, "-o", tmp_path / "out.nii.gz")
    assert shown.returncode != 0
    assert "give a model and a scan" in shown.stderr


def test_a_folder_continues_after_failures_and_with_more_outputs(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        save(ct_series(shape=(18, 16, 9), patient=name, seed=seed), tmp_path / "in" / name)
    out = tmp_path / "out"
    real = predict_module.write_seg

    def failing(path: Path, *arguments: Any, **options: Any) -> None:
        if path.name.startswith("b"):
            raise DataError("no SEG today", path=path)
        real(path, *arguments, **options)

    monkeypatch.setattr(predict_module, "write_seg", failing)
    first = predict(trained, tmp_path / "in", out, seg="binary")
    assert [one.error is None for one in first] == [True, False]
    monkeypatch.setattr(predict_module, "write_seg", real)
    # The label map of b exists, but it is ours and unfinished.
    assert [one.resumed for one in predict(trained, tmp_path / "in", out, seg="binary")] == [True, False]
    # Another kind of SEG and more outputs of the same scans and model are made, not refused.
    assert [one.resumed for one in predict(trained, tmp_path / "in", out, seg="labelmap")] == [False, False]
    assert [one.resumed for one in predict(trained, tmp_path / "in", out, tables=True)] == [False, False]
    assert [one.resumed for one in predict(trained, tmp_path / "in", out)] == [True, True]
    # Another series under the same name and with the same sizes is another scan.
    for path in (tmp_path / "in" / "b").iterdir():
        path.unlink()
    save(ct_series(shape=(18, 16, 9), patient="b", name="other", seed=7), tmp_path / "in" / "b")
    with pytest.raises(DataError, match="already exists"):
        predict(trained, tmp_path / "in", out)


def test_a_scan_without_finding_is_done_without_a_seg(trained: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(ct_series(shape=(18, 16, 9), patient=name), tmp_path / "in" / name)
    weights = weights_digest(find_weights(trained, None).weights())
    nothing = Postprocess(weights_sha256=weights, objective="lesion-f1", min_volume_mm3=1e9)
    (trained / POSTPROCESS_FILE).write_text(nothing.model_dump_json())
    first = predict(trained, tmp_path / "in", tmp_path / "out", seg="binary")
    assert ["no DICOM SEG was written" in one.notes[-1] for one in first] == [True, True]
    assert not list((tmp_path / "out").glob("*.dcm"))
    again = predict(trained, tmp_path / "in", tmp_path / "out", seg="binary")
    assert [one.resumed for one in again] == [True, True]
    [alone] = predict(trained, tmp_path / "in" / "a", tmp_path / "alone.dcm", tables=True)
    assert alone.path is None


def test_files_beside_the_label_map_are_not_replaced_unasked(trained: Path, tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((9, 9, 9), np.int16), np.eye(4)), tmp_path / "scan.nii")
    for name, options in (("o.lesions.csv", {"tables": True}), ("o.probability.nii.gz", {"probabilities": True})):
        (tmp_path / name).write_text("by hand")
        with pytest.raises(DataError, match="already exists") as caught:
            predict(trained, tmp_path / "scan.nii", tmp_path / "o.nii.gz", **options)
        assert name in str(caught.value)
        assert (tmp_path / name).read_text() == "by hand"


def test_one_usable_series_beside_a_broken_one_gets_the_named_file(trained: Path, tmp_path: Path) -> None:
    save(ct_series(shape=(18, 16, 9), patient="a"), tmp_path / "in" / "a")
    broken = ct_series(shape=(18, 16, 9), patient="b")
    save(broken[:3] + broken[4:], tmp_path / "in" / "b")
    first, second = predict(trained, tmp_path / "in", tmp_path / "solo.nii.gz")
    assert first.path == tmp_path / "solo.nii.gz"
    assert first.path.is_file()
    assert second.error is not None
    save(ct_series(shape=(18, 16, 9), patient="c"), tmp_path / "in" / "c")
    with pytest.raises(DataError, match="names one file, but 2 scans were found"):
        predict(trained, tmp_path / "in", tmp_path / "two.dcm")


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_zip_is_named(trained: Path, tmp_path: Path, method: int) -> None:
    [path, *_] = save(ct_series(shape=(18, 16, 3)), tmp_path / "in")
    bad = tmp_path / "bad.zip"
    with zipfile.ZipFile(bad, "w", method) as archive:
        archive.write(path, "x")
    content = bytearray(bad.read_bytes())
    content[100:140] = bytes(40)
    bad.write_bytes(content)
    with pytest.raises(CorruptFileError, match=r"bad\.zip: is not a zip file that can be read"):
        predict(trained, bad, tmp_path / "x.nii.gz")


def test_a_network_that_returns_no_numbers_is_no_healthy_patient(trained: Path, tmp_path: Path) -> None:
    def broken(windows: Any) -> Any:
        return np.full((len(windows), 2, *windows.shape[1:]), np.nan, np.float32)

    with pytest.raises(DataError, match="not numbers"):
        segment([WindowModel(tiny_target(classes=1), broken)], np.zeros((9, 9, 9), np.int16), np.eye(4))


def test_a_scan_that_is_no_ct_in_hu_gets_a_note(trained: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name, values in (("mr", random.uniform(0, 1, (9, 9, 9))), ("ct", random.integers(-900, 300, (9, 9, 9)))):
        image = nibabel.Nifti1Image(values.astype(np.float32), np.eye(4))
        nibabel.save(image, tmp_path / f"{name}.nii")
        [found] = predict(trained, tmp_path / f"{name}.nii", tmp_path / f"{name}-out.nii")
        assert any("is it a CT in HU?" in note for note in found.notes) == (name == "mr")


def test_an_output_that_cannot_be_written_fails_before_the_work(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((9, 9, 9), np.int16), np.eye(4)), tmp_path / "scan.nii")

    def full(**_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(outputs_module, "TemporaryFile", full)
    monkeypatch.setattr(predict_module, "_predict_scan", lambda *_: pytest.fail("the work began"))
    with pytest.raises(OSError, match="No space left"):
        predict(trained, tmp_path / "scan.nii", tmp_path / "out" / "x.nii")
