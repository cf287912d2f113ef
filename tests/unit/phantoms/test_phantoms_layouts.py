"""Tests of phantom data sets in all layouts: files in the right places, the same voxels in each layout."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from patchcore.errors import DataError, LockedError
from patchcore.lesions.measure import measure_lesions
from patchcore.locks import FileLock
from patchcore.phantoms import PHANTOM_LAYOUTS, PHANTOM_PRESETS, PhantomProgress, PhantomSpec, make_phantoms
from patchcore.phantoms.layouts import patient_of, split_of

SMALL = PhantomSpec(shape=(40, 40, 32), spacing=(4.5, 4.5, 5.0), noise_hu=10.0)
ORGANS = replace(PHANTOM_PRESETS["multi-organ"], shape=(56, 56, 48), spacing=(5.5, 5.5, 6.0))
FILES = {
    "two-folders": ("images/phantom-001.nii.gz", "labels/phantom-001.nii.gz", "dataset.json"),
    "nnunet": ("imagesTr/phantom_001_0000.nii.gz", "labelsTr/phantom_001.nii.gz", "dataset.json"),
    "msd": ("imagesTr/phantom_001.nii.gz", "labelsTr/phantom_001.nii.gz", "dataset.json"),
    "lits": ("volume-0.nii", "segmentation-0.nii", None),
    "kits": ("case_00000/imaging.nii.gz", "case_00000/segmentation.nii.gz", None),
    "labels-only": (None, "labels/phantom-001.nii.gz", "dataset.json"),
    "manifest": ("volumes/phantom-001/ct.nii.gz", "volumes/phantom-001/lesions.nii.gz", "manifest.csv"),
}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def rows_of(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "true_lesions.csv").read_text(encoding="utf-8").splitlines()))


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("layouts")
    return {name: make_phantoms(base / name, cases=2, seed=3, spec=SMALL, layout=name) for name in FILES}


@pytest.mark.parametrize("name", FILES)
def test_files_lie_where_the_layout_has_them(sets: dict[str, Path], name: str) -> None:
    image, label, document = FILES[name]
    present = set(contents(sets[name]))
    one = {path for path in (image, label, document) if path is not None}
    assert one | {"true_lesions.csv", "phantoms.json"} <= present
    assert len(present) == 2 + (document is not None) + 2 * ((image is not None) + 1)
    reference = sets["two-folders"]
    for path, standard in ((image, "images/phantom-001.nii.gz"), (label, "labels/phantom-001.nii.gz")):
        if path is not None:
            a, b = nib.load(sets[name] / path), nib.load(reference / standard)
            np.testing.assert_array_equal(np.asanyarray(a.dataobj), np.asanyarray(b.dataobj))
            np.testing.assert_array_equal(a.affine, b.affine)


@pytest.mark.parametrize("name", FILES)
def test_true_lesions_are_measured_in_every_layout(sets: dict[str, Path], name: str) -> None:
    listed = [int(row["voxel_count"]) for row in rows_of(sets[name])]
    label = FILES[name][1]
    measured = [
        int(count)
        for path in sorted(sets[name].rglob("*.nii*"))
        if path.name.startswith(("seg", "lesions")) or path.parent.name.startswith("labels")
        for count in measure_lesions(path, labels=[2]).voxel_count
    ]
    assert label is not None
    assert sorted(measured) == sorted(listed)
    assert listed


def test_what_describes_a_data_set_is_right(sets: dict[str, Path]) -> None:
    nnunet = json.loads((sets["nnunet"] / "dataset.json").read_text(encoding="utf-8"))
    assert nnunet["channel_names"] == {"0": "CT"}
    assert nnunet["labels"] == {"background": 0, "liver": 1, "tumour": 2}
    assert (nnunet["numTraining"], nnunet["file_ending"]) == (2, ".nii.gz")
    msd = json.loads((sets["msd"] / "dataset.json").read_text(encoding="utf-8"))
    assert msd["labels"] == {"0": "background", "1": "liver", "2": "tumour"}
    for entry in msd["training"]:
        assert (sets["msd"] / entry["image"]).is_file()
        assert (sets["msd"] / entry["label"]).is_file()
    manifest = list(csv.DictReader((sets["manifest"] / "manifest.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["case_id"] for row in manifest] == ["phantom-001", "phantom-002"]
    assert all((sets["manifest"] / row[kind]).is_file() for row in manifest for kind in ("image", "label"))


def test_a_patient_of_a_manifest_is_never_in_two_splits() -> None:
    for cases in range(1, 40):
        splits: dict[str, set[str]] = {}
        for index in range(cases):
            splits.setdefault(patient_of(index), set()).add(split_of(index, cases))
        assert all(len(found) == 1 for found in splits.values())
    assert [patient_of(i) for i in range(6)] == ["P001", "P001", "P002", "P003", "P003", "P004"]
    assert split_of(19, 20) == "test"


@pytest.mark.parametrize("layout", ["lits", "kits"])
def test_layouts_with_labels_of_their_own_refuse_other_organs(tmp_path: Path, layout: str) -> None:
    with pytest.raises(DataError, match=r"supports only the labels .* choose nnunet"):
        make_phantoms(tmp_path / "x", spec=ORGANS, layout=layout)
    with pytest.raises(DataError, match="choose one of two-folders"):
        make_phantoms(tmp_path / "x", layout="bids")
    assert not (tmp_path / "x").exists()


def test_an_unfinished_folder_is_gone_on_with(tmp_path: Path) -> None:
    whole = make_phantoms(tmp_path / "whole", cases=3, seed=1, spec=SMALL)

    class GivenUpError(Exception):
        pass

    def give_up(event: PhantomProgress) -> None:
        if event.cases_done == 1:
            raise GivenUpError

    out = tmp_path / "broken"
    with pytest.raises(GivenUpError):
        make_phantoms(out, cases=3, seed=1, spec=SMALL, threads=1, progress=give_up)
    assert (out / "phantoms.unfinished.json").is_file()
    assert not (out / "phantoms.json").exists()
    assert not (out / "dataset.json").exists()
    assert not list(out.rglob("*.tmp"))
    with pytest.raises(DataError, match="unfinished phantoms with another seed"):
        make_phantoms(out, cases=3, seed=2, spec=SMALL)
    (out / "images" / ".phantom-003.nii.gz.0011.tmp").write_bytes(b"of a killed process")
    first = (out / "images" / "phantom-001.nii.gz").stat().st_mtime_ns
    make_phantoms(out, cases=3, seed=1, spec=SMALL)
    assert (out / "images" / "phantom-001.nii.gz").stat().st_mtime_ns == first
    assert contents(out) == contents(whole)
    with pytest.raises(DataError, match="it contains finished phantoms"):
        make_phantoms(out, cases=3, seed=1, spec=SMALL)


def test_two_at_once_are_kept_apart(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with FileLock(out / ".phantoms.lock", what="x"), pytest.raises(LockedError):
        make_phantoms(out, cases=1, spec=SMALL)
    make_phantoms(out, cases=1, spec=SMALL)
    assert not (out / ".phantoms.lock").exists()


def test_threads_change_nothing_and_progress_ends_at_its_total(tmp_path: Path) -> None:
    events: list[PhantomProgress] = []
    one = make_phantoms(tmp_path / "one", cases=4, seed=2, spec=ORGANS, layout="labels-only", threads=1)
    two = make_phantoms(
        tmp_path / "two", cases=4, seed=2, spec=ORGANS, layout="labels-only", threads=3, progress=events.append
    )
    assert contents(one) == contents(two)
    assert (events[-1].done, events[-1].cases_done) == (events[-1].total, 4)
    assert [event.done for event in events] == sorted(event.done for event in events)


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="is a file, not an empty folder"):
        make_phantoms(tmp_path / "file", cases=1, spec=SMALL)
    with pytest.raises(DataError, match="seed -1"):
        make_phantoms(tmp_path / "x", cases=1, seed=-1, spec=SMALL)
    with pytest.raises(DataError, match="at least 1"):
        make_phantoms(tmp_path / "x", cases=1, threads=0, spec=SMALL)


@pytest.mark.parametrize("spec", [SMALL, ORGANS], ids=["one organ", "several"])
def test_dicom_holds_the_same_voxels_and_lesions(tmp_path: Path, spec: PhantomSpec) -> None:
    hd = pytest.importorskip("highdicom")
    pydicom = pytest.importorskip("pydicom")
    out = make_phantoms(tmp_path / "a", cases=1, seed=3, spec=spec, layout="dicom")
    assert contents(make_phantoms(tmp_path / "b", cases=1, seed=3, spec=spec, layout="dicom")) == contents(out)
    plain = make_phantoms(tmp_path / "c", cases=1, seed=3, spec=spec)
    image, label = (
        nib.as_closest_canonical(nib.load(plain / kind / "phantom-001.nii.gz")) for kind in ("images", "labels")
    )
    slices = [pydicom.dcmread(path) for path in sorted((out / "PHANTOM-0001" / "ct").iterdir())]
    stack = np.stack([data.pixel_array for data in slices])
    np.testing.assert_array_equal(stack[:, ::-1, ::-1].transpose(2, 1, 0), np.asanyarray(image.dataobj))
    corner = image.affine @ [image.shape[0] - 1, image.shape[1] - 1, 0, 1]
    np.testing.assert_allclose(
        np.array(slices[0].ImagePositionPatient, dtype=float) * [-1, -1, 1], corner[:3], atol=1e-3
    )
    assert len({data.SOPInstanceUID for data in slices}) == len(slices)

    seg = hd.seg.segread(out / "PHANTOM-0001" / "seg" / "1-1.dcm")
    names = [str(item.SegmentLabel) for item in seg.SegmentSequence]
    volume = seg.get_volume(combine_segments=False).array
    counts = dict(zip(names, volume.sum(axis=(0, 1, 2)).tolist(), strict=True))
    array = np.asanyarray(label.dataobj)
    for number, name in spec.organ_names.items():
        assert counts[name.capitalize()] == np.count_nonzero(array == number)
    tumours = [count for name, count in counts.items() if "Tumor_" in name]
    assert tumours == [int(row["voxel_count"]) for row in rows_of(out)]
    assert "Tumor_1" in names or "Liver_Tumor_1" in names


def test_all_layouts_are_tried_here() -> None:
    assert set(PHANTOM_LAYOUTS) == {*FILES, "dicom"}
