"""``patchcore manifest``: a proposed list for data sets of any layout; what is said of layouts that are not read."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel
import numpy as np
import pytest

import dicom_files
from commands import patchcore
from patchcore.datasets.check import check_dataset
from patchcore.datasets.layouts import find_cases
from patchcore.errors import DataError

AFFINE = np.diag([1.5, 1.5, 3.0, 1.0])


def save(path: Path, *, label: bool, seed: int = 0, shape: tuple[int, int, int] = (20, 18, 9)) -> None:
    random = np.random.default_rng(seed)
    array = random.normal(40, 30, shape).astype(np.int16)
    array[:2] = -1000
    if label:
        array = np.zeros(shape, np.uint8)
        array[5 : 8 + seed % 5, 5:9, 3:6] = 1
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, AFFINE), path)


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as handle:
        return {row["case_id"]: row for row in csv.DictReader(handle)}


LAYOUTS: dict[str, tuple[str, str]] = {
    "generic names in folders": ("{}/ct.nii.gz", "{}/lesion_mask.nii.gz"),
    "one folder, suffixes": ("{}_image.nii.gz", "{}_seg.nii.gz"),
    "BIDS derivatives": (
        "sub-{0}/anat/sub-{0}_ct.nii.gz",
        "derivatives/manual/sub-{0}/anat/sub-{0}_label-lesion_mask.nii.gz",
    ),
    "scans and truth": ("scans/{}.nii.gz", "truth/{}.nii.gz"),
    "nested": ("{}/day1/image/volume.nii", "{}/day1/annotation/result.nii"),
    "no words at all": ("{0}/a_{0}.nii.gz", "{0}/b_{0}.nii.gz"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_pair_is_proposed_and_the_list_can_be_checked(tmp_path: Path, name: str) -> None:
    image, label = LAYOUTS[name]
    root = tmp_path / "data"
    for seed, case in enumerate(("p07", "p08", "p11")):
        save(root / image.format(case), label=False, seed=seed)
        save(root / label.format(case), label=True, seed=seed)
    done = patchcore("manifest", root, "-o", tmp_path / "cases.csv")
    assert done.returncode == 0, done.stderr
    rows = rows_of(tmp_path / "cases.csv")
    assert len(rows) == 3, rows
    for row in rows.values():
        case = next(case for case in ("p07", "p08", "p11") if case in row["image"])
        assert (row["image"], row["label"]) == (f"data/{image.format(case)}", f"data/{label.format(case)}")
        assert row["sureness"] in ("sure", "likely")
        assert row["patient"]
        assert "same grid" in row["why"]
    report = check_dataset(tmp_path / "cases.csv")
    assert report.ok
    assert [record.columns["sureness"] for record in report.cases] == [row["sureness"] for row in rows.values()]


def test_what_is_doubtful_is_said(tmp_path: Path) -> None:
    root = tmp_path / "data"
    save(root / "a" / "ct.nii.gz", label=False)
    save(root / "a" / "mask.nii.gz", label=True, shape=(20, 18, 8))
    save(root / "b" / "ct.nii.gz", label=False)
    save(root / "c" / "ct.nii.gz", label=False)
    (root / "c" / "mask.nii.gz").write_bytes(b"no NIfTI")
    (root / "d.nrrd").write_bytes(b"")
    (root / "e.zip").write_bytes(b"")
    done = patchcore("manifest", root, "-o", tmp_path / "cases.csv")
    assert done.returncode == 0, done.stderr
    rows = rows_of(tmp_path / "cases.csv")
    assert {row["image"]: row["sureness"] for row in rows.values()} == {
        "data/a/ct.nii.gz": "unsure",
        "data/b/ct.nii.gz": "alone",
        "data/c/ct.nii.gz": "unsure",
    }
    assert "another grid" in next(row["why"] for row in rows.values() if "a/ct" in row["image"])
    assert "1 alone" in done.stdout
    assert "d.nrrd" in done.stdout
    assert "e.zip: an archive" in done.stdout


@pytest.mark.parametrize(
    ("files", "message"),
    [((), "holds no NIfTI file"), (("Task03.tar",), "unpack"), (("a.nrrd",), "holds no NIfTI file")],
)
def test_a_folder_without_volumes_is_refused(tmp_path: Path, files: tuple[str, ...], message: str) -> None:
    (tmp_path / "data").mkdir()
    for name in files:
        (tmp_path / "data" / name).touch()
    done = patchcore("manifest", tmp_path / "data", "-o", tmp_path / "cases.csv")
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "cases.csv").exists()


def test_an_output_that_is_no_list_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "data" / "a.nii.gz", label=False)
    done = patchcore("manifest", tmp_path / "data", "-o", tmp_path / "cases.txt")
    assert done.returncode == 2
    assert "cases.csv" in done.stderr


def test_layouts_that_are_not_read_are_named_with_the_way_on(tmp_path: Path) -> None:
    save(tmp_path / "bids" / "sub-1" / "anat" / "sub-1_ct.nii.gz", label=False)
    with pytest.raises(DataError, match=r"1 volume found, such as sub-1/anat/sub-1_ct.nii.gz.*patchcore manifest"):
        find_cases(tmp_path / "bids")
    (tmp_path / "zipped").mkdir()
    (tmp_path / "zipped" / "Dataset001.zip").touch()
    with pytest.raises(DataError, match=r"only archives .*Dataset001.zip.*unpack"):
        find_cases(tmp_path / "zipped")
    for name in ("ct0", "ct1"):
        save(tmp_path / "images only" / "images" / f"{name}.nii.gz", label=False)
    with pytest.raises(DataError, match=r"no label maps found: images/ holds 2 images.*patchcore predict"):
        find_cases(tmp_path / "images only")
    (tmp_path / "nrrd" / "images").mkdir(parents=True)
    (tmp_path / "nrrd" / "images" / "a.nrrd").touch()
    with pytest.raises(DataError, match=r"files ending in .nrrd are not read.*convert"):
        find_cases(tmp_path / "nrrd")
    dicom_files.save(dicom_files.ct_series(), tmp_path / "mixed" / "dicom")
    save(tmp_path / "mixed" / "labels_nifti" / "a.nii.gz", label=True)
    (case,) = find_cases(tmp_path / "mixed").cases
    assert "1 NIfTI files such as a.nii.gz may be the label maps" in str(case.remedy)
    assert "patchcore manifest" in str(case.remedy)
