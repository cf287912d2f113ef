"""Test ``patchcore import``: NIfTI has the same lesions as DICOM, imports resume, files are complete or absent."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

import dicom_files as files
from patchcore.cli import main
from patchcore.datasets.dicom.convert import import_dicom
from patchcore.datasets.dicom.measure import measure_segments
from patchcore.datasets.layouts.indices import with_indices
from patchcore.errors import DataError
from patchcore.lesions.measure import measure_lesions


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Two patients; the second patient was scanned with a tilted gantry."""
    for number, step in ((1, (0, 0, 2.5)), (2, (0, 0.5, 2.5))):
        series = files.ct_series(patient=f"P{number}", step=step, seed=number)
        masks = np.random.default_rng(number).random((5, 34, 40, 3)) > 0.7
        seg = files.segmentation(series, masks, ["Liver", "Tumor_1", "Tumor_2"])
        files.save([*series, seg], tmp_path / "dicom", prefix=f"{number}-")
    return tmp_path / "dicom"


def test_nifti_holds_the_same_lesions(archive: Path, tmp_path: Path) -> None:
    done = import_dicom(archive, tmp_path / "out")
    assert [case.case_id for case in done.written] == ["P1", "P2"]
    indexed = with_indices(done.layout, tmp_path / "x")
    for case in indexed.cases:
        expected = measure_segments(case.label)
        found = measure_lesions(tmp_path / "out" / "labels" / f"{case.case_id}.nii.gz", label=2)
        lesions = expected.lesions.rows(expected.lesions.label == 2)
        assert found.voxel_count.tolist() == lesions.voxel_count.tolist()
        np.testing.assert_allclose(found.volume_mm3, lesions.volume_mm3, rtol=1e-6)


def test_overlapping_segments_are_reported_with_what_the_label_map_lacks(archive: Path, tmp_path: Path) -> None:
    done = import_dicom(archive, tmp_path / "out")
    with (tmp_path / "out" / "segments.csv").open() as handle:
        liver = sum(
            int(r["voxel_count"]) for r in csv.DictReader(handle) if (r["case_id"], r["name"]) == ("P1", "Liver")
        )
    held = int((np.asarray(nibabel.load(tmp_path / "out" / "labels" / "P1.nii.gz").dataobj) == 1).sum())
    assert held < liver
    expected = f"Liver has {held} voxels in the label map, but {liver} in its segments;"
    assert any(expected in note for note in done.written[0].notes)


def test_files_that_go_with_the_volumes(archive: Path, tmp_path: Path) -> None:
    import_dicom(archive, tmp_path / "out")
    declared = json.loads((tmp_path / "out" / "dataset.json").read_text(encoding="utf-8"))
    assert declared["labels"] == {"background": 0, "Liver": 1, "Tumor": 2}
    with (tmp_path / "out" / "segments.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    named = [(row["case_id"], row["name"]) for row in rows[:3]]
    assert named == [
        ("P1", "Liver"),
        ("P1", "Tumor_1"),
        ("P1", "Tumor_2"),
    ]
    image = nibabel.load(tmp_path / "out" / "images" / "P2.nii.gz")
    np.testing.assert_allclose(image.affine[:3, 2], [0, -0.5, 2.5], atol=1e-6)
    assert int(image.header["qform_code"]) == 0


def test_a_second_import_writes_only_what_changed(archive: Path, tmp_path: Path) -> None:
    import_dicom(archive, tmp_path / "out")
    label = tmp_path / "out" / "labels" / "P1.nii.gz"
    before, content = label.stat().st_mtime_ns, label.read_bytes()
    assert [case.reused for case in import_dicom(archive, tmp_path / "out").cases] == [True, True]
    assert label.stat().st_mtime_ns == before
    label.unlink()
    assert [case.reused for case in import_dicom(archive, tmp_path / "out").cases] == [False, True]
    assert label.read_bytes() == content
    series = files.ct_series(patient="P1", seed=9)
    files.save(series[:1], archive, prefix="1-")
    assert [case.reused for case in import_dicom(archive, tmp_path / "out").cases] == [False, True]


def test_a_faulty_case_leaves_nothing_half_written(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (archive / "1-2").unlink()
    assert main(["import", str(archive), str(tmp_path / "out")]) == 3
    assert "P1: not written: 1 slice is missing" in capsys.readouterr().out
    assert sorted(file.name for file in (tmp_path / "out" / "images").iterdir()) == ["P2.nii.gz"]
    assert not list((tmp_path / "out").rglob("*.tmp"))


def test_command_ends_well_and_refuses_foreign_folders(archive: Path, tmp_path: Path) -> None:
    assert main(["import", str(archive), str(tmp_path / "out"), "--threads", "1"]) == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    assert main(["import", str(archive), str(tmp_path / "mine")]) == 2
    with pytest.raises(DataError, match="within the DICOM folder"):
        import_dicom(archive, archive / "out")
