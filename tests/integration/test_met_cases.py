"""Inputs that people have met and that were once handled wrongly, with what is right; they lie beside the checkout."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import patchcore as pc
from patchcore.datasets.check import CheckReport, check_dataset
from patchcore.errors import DataError
from patchcore.study.study import Study
from patchcore.volumes.dicom.options import SegmentOptions
from real_data import DATA, SHARED

CASES = SHARED / "cases"
pytestmark = pytest.mark.skipif(not CASES.is_dir() or not DATA.is_dir(), reason="needs the shared cases")


def checks(report: CheckReport) -> set[str]:
    return {item.check for record in report.cases for item in record.findings} | {
        item.check for item in report.findings
    }


def rtstruct(tmp_path: Path, name: str) -> Path:
    """Put an RTSTRUCT beside the slices of a real CT, in place of its own, which gives one lesion of 5,564 voxels."""
    root = tmp_path / "in"
    shutil.copytree(DATA / "sts_019_dicom" / "image", root / "image")
    shutil.copy(CASES / "rtstruct" / f"{name}.dcm", root)
    return root


def lesions(study: Study) -> list[int]:
    (case,) = study.fingerprint().cases
    (record,) = study.accepted()
    voxel = record.spacing[0] * record.spacing[1] * record.spacing[2]
    label = study.fingerprint().lesion_label
    return sorted(round(item.volume_mm3 / voxel) for item in case.lesions if item.label == label)


@pytest.mark.parametrize(
    ("name", "voxels", "finding"),
    [
        ("closedplanar_xor", [5564], None),
        ("overlapping_contours", [37802], "contours-overlap"),
        ("points_and_open", [5564], "contours-open"),
        ("couch_outside", [5564], "roi-outside"),
    ],
)
def test_contours(tmp_path: Path, name: str, voxels: list[int], finding: str | None) -> None:
    study = pc.analyze(rtstruct(tmp_path, name), tmp_path / "study")
    assert lesions(study) == voxels
    (record,) = study.accepted()
    found = {item.check for item in record.findings if item.check != "dicom-note"}
    assert found == ({finding} if finding else set())


def test_contours_on_every_second_slice(tmp_path: Path) -> None:
    root = rtstruct(tmp_path, "every_second_slice")
    (record,) = check_dataset(root).cases
    assert record.status == "held"
    assert "slices 17, 19, 21" in str(record.reason)
    filled = pc.analyze(root, tmp_path / "study", interpolate_contours=True)
    assert len(lesions(filled)) == 1
    accepted = pc.analyze(root, tmp_path / "other", accept=["all:contour-gaps"])
    assert len(lesions(accepted)) == 8


@pytest.mark.parametrize("readers", ["majority", "union", "each"])
def test_four_readers_of_a_nodule(readers: str) -> None:
    report = check_dataset(CASES / "seg_reader_names", segments=SegmentOptions(readers=readers))  # type: ignore[arg-type]
    (record,) = report.cases
    said = [item.message for item in record.findings if item.check == "several-readers"]
    assert len(said) == (readers != "each")
    assert all("Nodule 1 was drawn by 4 readers" in text for text in said)
    assert len(record.labels) == (4 if readers == "each" else 1)


def test_a_seg_with_rle(tmp_path: Path) -> None:
    study = pc.analyze(CASES / "seg_rle", tmp_path / "study")
    found = lesions(study)
    assert (len(found), sum(found)) == (4, 107098)


def test_the_label_ignore(tmp_path: Path) -> None:
    study = pc.analyze(CASES / "nnunet_ignore", tmp_path / "study", accept=["all:unit-spacing"])
    assert [item.label for item in study.fingerprint().labels] == [1]


def test_lists_and_downloads() -> None:
    cut = check_dataset(CASES / "nnunet_cut_download")
    assert any("declares 131 training cases (numTraining), but 4 are there" in item.message for item in cut.findings)
    mixed = check_dataset(CASES / "nnunet_mixed_endings")
    assert {record.case_id: record.status for record in mixed.cases}["c3"] == "quarantined"
    assert not mixed.ok
    listed = check_dataset(CASES / "msd_validation_list")
    assert [record.split for record in listed.cases] == ["train", "train", "validation", "validation"]
    named = check_dataset(CASES / "same_label_names")
    assert [record.case_id for record in named.cases] == ["case_00000", "case_00001", "case_00002"]
    with pytest.raises(DataError, match=r"no label maps found.*patchcore predict"):
        check_dataset(CASES / "images_only")


def test_values(tmp_path: Path) -> None:
    coarse = check_dataset(CASES / "coarse_hu_uint8")
    assert coarse.ok
    assert "hu-coarse" in checks(coarse)
    nearly = check_dataset(CASES / "nearly_integral")
    assert {record.case_id: record.status for record in nearly.cases} == {
        "a": "accepted",
        "b": "quarantined",
        "c": "accepted",
        "d": "accepted",
    }
    assert {"label-rounded", "label-255"} <= checks(nearly)
    study = pc.analyze(CASES / "several_lesion_labels", tmp_path / "study", lesion_label="2,3,4")
    assert study.fingerprint().lesion_label == 2
    assert {case.case_id for case in study.fingerprint().cases if case.lesions} == {"p0", "p1", "p2", "p3"} - {
        record.case_id for record in study.cases() if 2 not in record.labels
    }
