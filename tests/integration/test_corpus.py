"""The rule of ``tests/corpus.py`` over a folder of good, damaged and foreign files."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np

import corpus
import dicom_files


def test_every_file_ends_in_a_code_and_one_message(tmp_path: Path) -> None:
    array = np.zeros((9, 8, 7), np.uint8)
    array[2:4, 2:4, 2:4] = 1
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "good.nii.gz")
    whole = (tmp_path / "good.nii.gz").read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "one.nii").write_bytes(b"\0")
    (tmp_path / "empty.hdr").touch()
    (tmp_path / "a.nrrd").write_bytes(b"NRRD0004\n")
    (tmp_path / "notes.txt").write_text("no volume", encoding="utf-8")
    (tmp_path / "name with spaces [x].nii").write_bytes(b"x" * 400)
    dicom_files.save(dicom_files.ct_series(shape=(9, 8, 2)), tmp_path / "dicom")
    (tmp_path / "dicom" / "half").write_bytes((tmp_path / "dicom" / "f0").read_bytes()[:300])
    paths = corpus.files_below(tmp_path)
    ends, failures = corpus.check_files(paths, verbose=False)
    assert failures == []
    assert sum(ends.values()) == 3 * len(paths)
    assert corpus.check_folder(tmp_path) == []


def test_what_breaks_the_rule_is_found() -> None:
    assert corpus.broken_rule(0, '{"cases": []}', "", as_json=True) is None
    assert corpus.broken_rule(2, "", "error: x: not a folder; check the path\n", as_json=True) is None
    assert corpus.broken_rule(134, "", "", as_json=True) == "exit code 134"
    assert corpus.broken_rule(2, "", "Traceback (most recent call last)\n", as_json=True) == "a traceback"
    assert "0 error messages" in str(corpus.broken_rule(2, "", "", as_json=True))
    case = '{"cases": [{"case_id": "a", "status": "quarantined", "reason": "x", "remedy": null}]}'
    assert "without reason or remedy" in str(corpus.broken_rule(3, case, "", as_json=True))
