"""User decisions on doubtful cases, excluded test cases, and the behaviour of an analysis on failures."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

import commands
import patchcore.datasets.labels
from patchcore.cli import main
from patchcore.datasets.analyze import analyze, analyze_dataset
from patchcore.datasets.plan import plan_patch_size
from patchcore.errors import DataError, LockedError, SchemaVersionError, StudyError
from patchcore.phantoms import make_phantoms
from patchcore.study import Study
from patchcore.views.summary import summary_text

GOOD = np.diag([-0.8, -0.8, 2.5, 1.0])


def save(path: Path, array: np.ndarray[Any, Any], matrix: np.ndarray[Any, Any] = GOOD) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, matrix), path)


def mask(seed: int = 0, shape: tuple[int, int, int] = (24, 20, 12), value: int = 1) -> np.ndarray[Any, Any]:
    label = np.zeros(shape, np.uint8)
    label[4 : 8 + seed, 4:8, 3:6] = value
    return label


@pytest.fixture
def lits(tmp_path: Path) -> Path:
    """Label maps as in LiTS: two valid ones, and one with a header that lost its spacing."""
    root = tmp_path / "lits"
    for number in (0, 1):
        save(root / f"segmentation-{number}.nii.gz", mask(number, value=2))
    save(root / "segmentation-28.nii.gz", mask(2, shape=(256, 256, 8), value=2), np.eye(4))
    return root


def test_a_lost_header_is_held_until_a_spacing_is_given(lits: Path, tmp_path: Path) -> None:
    study = tmp_path / "study"
    first = analyze_dataset(lits, study)
    (held,) = first.held
    assert (held.case_id, held.findings[0].check, held.labels) == ("volume-28", "identity-affine", ())
    assert f"patchcore analyze {lits} {study} --spacing volume-28=A,B,C" in str(held.remedy)
    assert first.fingerprint is not None
    assert (first.fingerprint.case_count, first.fingerprint.held_count) == (2, 1)
    assert [case.case_id for case in first.study.accepted()] == ["volume-0", "volume-1"]

    second = analyze_dataset(lits, study, spacing=["volume-28=0.7,0.7,5"])
    assert second.held == ()
    case = second.study.case("volume-28")
    assert (case.status, case.spacing, case.given_spacing) == ("accepted", (0.7, 0.7, 5.0), (0.7, 0.7, 5.0))
    with second.study.lesions_path.open(newline="") as handle:
        row = next(row for row in csv.DictReader(handle) if row["case_id"] == "volume-28" and row["label"] == "2")
    assert float(row["volume_mm3"]) == pytest.approx(int(row["voxel_count"]) * 0.7 * 0.7 * 5)
    assert case.read_label().spacing == pytest.approx((0.7, 0.7, 5.0))

    third = analyze_dataset(lits, study)
    assert third.study.case("volume-28").spacing == (0.7, 0.7, 5.0), "the decision is kept"
    assert third.reused_count == 3
    fourth = analyze_dataset(lits, study, spacing=["volume-28=0.7,0.7,2.5"])
    assert fourth.reused_count == 2, "a case with a new spacing is measured again"
    assert third.fingerprint != fourth.fingerprint


def test_geometry_may_be_accepted_as_it_is(lits: Path, tmp_path: Path) -> None:
    analysis = analyze_dataset(lits, tmp_path / "study", accept=["volume-28:identity-affine"])
    case = analysis.study.case("volume-28")
    assert (case.status, case.spacing, case.findings[0].decided) == ("accepted", (1.0, 1.0, 1.0), True)
    with pytest.raises(DataError, match="matches no case"):
        analyze(lits, tmp_path / "study", accept=["volume-29:identity-affine"])
    with pytest.raises(DataError, match="no check"):
        analyze(lits, tmp_path / "study", accept=["volume-28:nonsense"])


def test_a_label_by_name(lits: Path, tmp_path: Path) -> None:
    fingerprint = analyze(lits, tmp_path / "study", lesion_label="Tumour").fingerprint()
    assert fingerprint.lesion_label == 2
    with pytest.raises(DataError, match="no label is called 'kidney'"):
        analyze(lits, tmp_path / "study", lesion_label="kidney")


def test_commands_for_held_cases_name_the_list_that_was_given(lits: Path, tmp_path: Path) -> None:
    (lits / "some.csv").write_text("case_id,label\na,segmentation-0.nii.gz\nb,segmentation-28.nii.gz\n")
    study = tmp_path / "study"
    done = analyze_dataset(lits / "some.csv", study)
    assert [record.case_id for record in done.held] == ["b"]
    assert f"patchcore analyze {lits / 'some.csv'} {study} --accept b:identity-affine" in summary_text(done)


def test_test_cases_of_a_manifest_stay_out(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for number in range(4):
        save(root / f"m{number}.nii.gz", mask(number * 3))
    lines = ["case_id,label,patient,split,site"]
    lines += [f"c{number},m{number}.nii.gz,p{number % 3},{'test' if number == 3 else 'train'},A" for number in range(4)]
    (root / "manifest.csv").write_text("\n".join(lines))
    analysis = analyze_dataset(root / "manifest.csv", tmp_path / "study")
    study = analysis.study
    assert study.case("c3").status == "test"
    assert study.case("c3").columns == {"site": "A"}
    assert [case.patient for case in study.accepted()] == ["p0", "p1", "p2"]
    assert analysis.fingerprint is not None
    assert (analysis.fingerprint.case_count, analysis.fingerprint.test_count) == (3, 1)
    assert {case.case_id for case in analysis.fingerprint.cases} == {"c0", "c1", "c2"}
    assert "c3" not in study.lesions_path.read_text(encoding="utf-8")
    assert analyze_dataset(root, tmp_path / "again").layout.name == "manifest"


def test_a_copy_under_another_name_does_not_count_twice(tmp_path: Path) -> None:
    root = tmp_path / "data" / "labels"
    for name, seed in (("a", 0), ("b", 1), ("copy", 1)):
        save(root / f"{name}.nii.gz", mask(seed))
    analysis = analyze_dataset(tmp_path / "data", tmp_path / "study")
    assert [(record.case_id, record.findings[0].check) for record in analysis.quarantined] == [
        ("copy", "duplicate-label")
    ]
    assert analysis.fingerprint is not None
    assert analysis.fingerprint.case_count == 2


def test_dicom_is_measured_and_its_study_may_be_moved(tmp_path: Path) -> None:
    truth = make_phantoms(tmp_path / "nifti", cases=2, preset="small", layout="two-folders")
    dicom = make_phantoms(tmp_path / "dicom", cases=2, preset="small", layout="dicom")
    study = analyze(dicom, tmp_path / "study")
    expected = analyze(truth, tmp_path / "expected").fingerprint()
    found = study.fingerprint()
    label = expected.label(2)
    assert label is not None
    assert label.volume is not None
    mine = found.label(2)
    assert mine is not None
    assert mine.volume is not None
    assert mine.lesion_count == label.lesion_count
    assert mine.volume.mean_mm3 == pytest.approx(label.volume.mean_mm3, rel=1e-6)
    with (study.path / "segments.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert sum(row["name"].startswith("Tumor_") for row in rows) == mine.lesion_count
    (tmp_path / "study").rename(tmp_path / "moved")
    case = Study(tmp_path / "moved").accepted()[0]
    assert case.read_image().array.shape == case.shape
    assert (case.read_label().array == 2).any()


def test_a_file_that_changes_while_it_is_read(lits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, times = patchcore.datasets.labels.measure_lesions, []

    def meddling(path: Any, **options: Any) -> Any:
        table = real(path, **options)
        if Path(path).name == "segmentation-1.nii.gz":
            times.append(1)
            os.utime(path, ns=(len(times), len(times)))
        return table

    monkeypatch.setattr(patchcore.datasets.labels, "measure_lesions", meddling)
    analysis = analyze_dataset(lits, tmp_path / "study")
    assert [(record.case_id, record.findings[0].check) for record in analysis.quarantined] == [("volume-1", "changed")]
    assert len(times) == 2, "read once more, because the file may have been in the middle of a write"


def test_whatever_a_case_does_to_the_code_the_rest_continues(
    lits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = patchcore.datasets.labels.measure_lesions

    def broken(path: Any, **options: Any) -> Any:
        if Path(path).name == "segmentation-0.nii.gz":
            raise ZeroDivisionError("a bug")
        return real(path, **options)

    monkeypatch.setattr(patchcore.datasets.labels, "measure_lesions", broken)
    analysis = analyze_dataset(lits, tmp_path / "study")
    assert [(record.case_id, record.reason) for record in analysis.quarantined] == [
        ("volume-0", "ZeroDivisionError: a bug")
    ]
    assert [case.case_id for case in analysis.study.accepted()] == ["volume-1"]


def test_studies_that_cannot_be_used(lits: Path, tmp_path: Path) -> None:
    study = analyze(lits, tmp_path / "study")
    with study.lock("analyze"), pytest.raises(LockedError, match="in use"):
        analyze(lits, tmp_path / "study")
    data = json.loads((study.path / "study.json").read_text(encoding="utf-8"))
    (study.path / "study.json").write_text(json.dumps(data | {"schema_version": 99}))
    with pytest.raises(SchemaVersionError, match="99"):
        analyze(lits, tmp_path / "study")
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError):
        analyze(lits, tmp_path / "file")


def test_two_at_once_leave_a_whole_study(lits: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "patchcore", "analyze", str(lits), str(tmp_path / "study")]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8") for _ in range(2)
    ]
    ended = [(process.communicate(), process.returncode) for process in both]
    codes = sorted(code for _, code in ended)
    assert codes in ([1, 3], [3, 3]), ended
    for (_, errors), code in ended:
        assert code == 3 or "in use" in errors
    assert Study(tmp_path / "study").fingerprint().case_count == 2


def run(*arguments: object) -> tuple[int, str, str]:
    ended = commands.patchcore(*arguments)
    return ended.returncode, ended.stdout, ended.stderr


def test_an_unchanged_data_set_is_answered_at_once(
    lits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tmp_path / "study"
    assert main(["analyze", str(lits), str(study)]) == 3
    first = capsys.readouterr().out

    def full(*_: object, **__: object) -> None:
        raise AssertionError("analyzed in full")

    with monkeypatch.context() as patched:
        patched.setattr(patchcore.datasets.analyze, "find_cases", full)
        assert main(["analyze", str(lits), str(study)]) == 3
        shown = capsys.readouterr()
        assert "Nothing has changed" in shown.err
        assert shown.out.split("Lesion label")[1].split() == first.split("Lesion label")[1].split()
        assert main(["analyze", str(lits), str(study), "--json"]) == 3
        assert json.loads(capsys.readouterr().out)["accepted"] == 2
        with pytest.raises(AssertionError, match="in full"):
            main(["analyze", str(lits), str(study), "--exclude", "volume-1"])


@pytest.mark.parametrize("change", ["touched", "new case", "gone", "output", "plan", "decisions"])
def test_what_has_changed_is_analyzed_in_full(lits: Path, tmp_path: Path, change: str) -> None:
    from patchcore.datasets.unchanged import answer

    study = analyze(lits, tmp_path / "study")
    assert answer(str(lits), str(study.path), as_json=False) is not None
    match change:
        case "touched":
            save(lits / "segmentation-1.nii.gz", mask(3, value=2))
        case "new case":
            save(lits / "segmentation-5.nii.gz", mask(3, value=2))
        case "gone":
            (lits / "segmentation-1.nii.gz").unlink()
        case "output":
            study.lesions_path.unlink()
        case "decisions":
            study.write_decisions({"exclude": ["volume-1"]})
        case "plan":
            # Other commands write into the study; this does not change the analysis.
            plan_patch_size(study, hu_range="liver")
    known = answer(str(lits), str(study.path), as_json=False)
    assert (known is None) == (change != "plan")
    code, _, errors = run("analyze", lits, study.path)
    assert code == 3, errors
    assert ("Nothing has changed" in errors) == (change == "plan")
