"""Test the sums of files: links to folders, names that are not UTF-8, double ids, DICOM without endings."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel
import numpy as np
import pytest

import dicom_files
import patchcore as pc
from patchcore.datasets.layouts import find_cases
from patchcore.datasets.propose import propose_manifest
from patchcore.errors import DataError


def save(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.zeros((12, 12, 6), np.int16)
    array[:2] = -1000
    array[4:7, 4:7, 2:4] = 1
    nibabel.save(nibabel.Nifti1Image(np.maximum(array, 0) if "label" in str(path) else array, np.eye(4) * 2), path)
    return path


def two_folders(root: Path, *names: str) -> None:
    for name in names:
        for folder in ("images", "labels"):
            save(root / folder / f"{name}.nii.gz")


def test_a_file_behind_two_links_counts_once(tmp_path: Path) -> None:
    two_folders(tmp_path / "in", "a", "b")
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in" / "images")
    layout = find_cases(tmp_path / "in")
    assert (layout.used_count, layout.ignored) == (4, ())


def test_a_folder_that_is_used_through_a_link_is_not_listed(tmp_path: Path) -> None:
    two_folders(tmp_path / "store", "a")
    (tmp_path / "in").mkdir()
    for name in ("images", "labels"):
        (tmp_path / "in" / name).symlink_to(tmp_path / "store" / name)
    layout = find_cases(tmp_path / "in")
    assert [case.problem for case in layout.cases] == [None]
    assert (layout.used_count, layout.ignored) == (2, ())
    given = find_cases(tmp_path / "in", images="images", labels=tmp_path / "in" / "labels")
    assert (given.used_count, given.ignored) == (2, ())


def test_a_link_that_is_not_searched_is_listed(tmp_path: Path) -> None:
    two_folders(tmp_path / "in", "a")
    two_folders(tmp_path / "outside", "b")
    (tmp_path / "in" / "other").symlink_to(tmp_path / "outside")
    (tmp_path / "in" / "more").mkdir()
    (tmp_path / "in" / "more" / "deep").symlink_to(tmp_path / "outside")
    (tmp_path / "in" / ".store").mkdir()
    (tmp_path / "in" / "hidden").symlink_to(tmp_path / "in" / ".store")
    layout = find_cases(tmp_path / "in")
    assert {item.path.name for item in layout.ignored} == {"other", "deep", "hidden"}


def test_names_that_are_not_utf8_are_listed_and_break_nothing(tmp_path: Path) -> None:
    root = tmp_path / "in"
    two_folders(root, "a", "b")
    for folder in ("images", "labels"):
        (root / folder / os.fsdecode(b"M\xfcller.nii.gz")).write_bytes((root / folder / "a.nii.gz").read_bytes())
    (root / os.fsdecode(b"M\xfcller.zip")).write_bytes(b"")
    layout = find_cases(root)
    assert [case.case_id for case in layout.cases] == ["a", "b"]
    assert [item.reason for item in layout.ignored if item.path.suffix == ".gz"] == [
        "a name that is not UTF-8: rename the file"
    ] * 2
    study = pc.analyze(root, tmp_path / "study")
    assert "M\\udcfcller.zip" in (study.path / "summary.txt").read_text(encoding="utf-8")
    made = propose_manifest(root, tmp_path / "cases.csv")
    assert len(made.rows) == 2
    assert len(made.left) == 3


def test_test_cases_with_the_name_of_a_training_case_get_a_free_id(tmp_path: Path) -> None:
    for kind, names in (("Tr", ("a", "a-test")), ("Ts", ("a",))):
        for name in names:
            save(tmp_path / f"images{kind}" / f"{name}_0000.nii.gz")
            save(tmp_path / f"labels{kind}" / f"{name}.nii.gz")
    names = [case.case_id for case in find_cases(tmp_path).cases]
    assert sorted(names) == ["a", "a-test", "a-test-2"]


def test_dicom_files_without_endings_are_listed(tmp_path: Path) -> None:
    two_folders(tmp_path, "a")
    dicom_files.save(dicom_files.ct_series(shape=(8, 8, 3)), tmp_path / "images" / "series")
    layout = find_cases(tmp_path)
    assert [item.path.name for item in layout.ignored] == ["f0", "f1", "f2"]
    assert "convert the series to NIfTI" in layout.ignored[0].reason


@pytest.mark.parametrize(
    "name", ["c.gipl", "d.mif", "e.nii.gz.filepart", "f.nii (1).gz", "g.nii.gz~", "h+orig.BRIK.gz", ".j.nii.gz.Ab3dEf"]
)
def test_copies_and_formats_of_other_programs_are_noticed(tmp_path: Path, name: str) -> None:
    two_folders(tmp_path, "a")
    (tmp_path / "images" / name).write_bytes(b"")
    layout = find_cases(tmp_path)
    named = {case.image.path.name for case in layout.cases if case.image} | {item.path.name for item in layout.ignored}
    assert name in named


def test_a_list_of_cases_is_not_overwritten(tmp_path: Path) -> None:
    two_folders(tmp_path / "in", "a")
    out = tmp_path / "cases.csv"
    propose_manifest(tmp_path / "in", out)
    out.write_text("corrected", encoding="utf-8")
    with pytest.raises(DataError, match=r"may hold your corrections.*--overwrite"):
        propose_manifest(tmp_path / "in", out)
    assert out.read_text(encoding="utf-8") == "corrected"
    propose_manifest(tmp_path / "in", out, overwrite=True)
    assert "case_id" in out.read_text(encoding="utf-8")


def test_people_with_other_scripts_are_not_taken_for_each_other(tmp_path: Path) -> None:
    for name in ("Иванов_1_ct", "Петров_1_seg", "anna/scan1_ct", "berta/scan1_seg"):
        # Python spells these bytes as the locale of the machine demands.
        save(tmp_path / "in" / os.fsdecode(f"{name}.nii.gz".encode()))
    rows = propose_manifest(tmp_path / "in", tmp_path / "cases.csv").rows
    assert not any(row.sureness in ("sure", "likely") for row in rows)


def test_a_pipe_among_the_files_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError):
        find_cases(tmp_path)


@pytest.mark.parametrize(
    "options", [{"labels": "labels"}, {"images": "images", "labels": "labels", "layout": "nnunet"}]
)
def test_options_that_do_not_go_together_are_refused(tmp_path: Path, options: dict[str, str]) -> None:
    two_folders(tmp_path, "a")
    listed = tmp_path / "cases.csv"
    propose_manifest(tmp_path, listed)
    with pytest.raises(DataError, match="do not go with"):
        find_cases(tmp_path if "layout" in options else listed, **options)  # type: ignore[arg-type]
