"""``patchcore analyze`` on data sets on disk: valid, invalid, unchanged and real data sets."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import typer
from scipy import ndimage
from typer.testing import CliRunner

import patchcore.datasets.measuring
from patchcore.cli.analyze import analyze as command
from patchcore.datasets import unchanged
from patchcore.datasets.analyze import analyze, analyze_dataset
from patchcore.datasets.plan import plan_patch_size
from patchcore.errors import DataError, EmptyClassError, LockedError, StudyError
from patchcore.study import Study
from patchcore.volumes.volume import read_image, read_label
from real_data import DATA, needs_data

app = typer.Typer()
app.command()(command)


def affine(spacing: tuple[float, float, float] = (0.8, 0.8, 2.5)) -> np.ndarray[Any, Any]:
    return np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])


def save(path: Path, array: np.ndarray[Any, Any], matrix: Any = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine() if matrix is None else matrix), path)


def ct(seed: int = 0, shape: tuple[int, ...] = (24, 20, 12)) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(40, 60, shape).astype(np.int16)


def mask(seed: int = 0, shape: tuple[int, ...] = (24, 20, 12), value: int = 1) -> np.ndarray[Any, Any]:
    label = np.zeros(shape, np.uint8)
    label[4 : 8 + seed, 4:8, 3:6] = value
    label[18, 15, 9] = value
    return label


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for index in range(4):
        name = f"P{index // 2}_{index}.nii.gz"
        save(root / "images" / name, ct(index))
        save(root / "labels" / name, mask(index))
    return root


def listing(root: Path) -> dict[str, tuple[int, int]]:
    stats = {path: path.stat() for path in root.rglob("*")}
    return {str(path): (stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}


def test_a_good_data_set(dataset: Path, tmp_path: Path) -> None:
    before = listing(dataset)
    seen = []
    study = analyze(dataset, tmp_path / "study", progress=seen.append)
    assert listing(dataset) == before, "the data set is only read"
    assert [(event.phase, event.done, event.total) for event in seen] == [
        (phase, done, 4) for phase in ("labels", "images") for done in range(1, 5)
    ]
    assert [case.case_id for case in study.accepted()] == ["P0_0", "P0_1", "P1_2", "P1_3"]
    fingerprint = study.fingerprint()
    assert (fingerprint.case_count, fingerprint.patient_count, fingerprint.quarantined_count) == (4, 2, 0)
    label = fingerprint.label(1)
    assert label is not None
    assert label.volume is not None
    voxel = 0.8 * 0.8 * 2.5
    volumes = [n * voxel for index in range(4) for n in ((4 + index) * 4 * 3, 1)]
    assert label.lesion_count == 8
    assert label.volume.mean_mm3 == pytest.approx(np.mean(volumes))
    assert fingerprint.spacing is not None
    assert fingerprint.spacing.median == pytest.approx((0.8, 0.8, 2.5))

    around = []
    for case in study.accepted():
        assert case.image is not None
        distance = ndimage.distance_transform_edt(read_label(case.label).array == 0, sampling=case.spacing)
        around.append(read_image(case.image).array[distance <= 10])
    voxels = np.concatenate(around).astype(float)
    assert fingerprint.hu is not None
    assert fingerprint.hu.around.voxel_count == voxels.size
    assert fingerprint.hu.p0_5 == pytest.approx(np.percentile(voxels, 0.5))
    assert fingerprint.hu.p99_5 == pytest.approx(np.percentile(voxels, 99.5))

    with study.lesions_path.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [float(row["volume_mm3"]) for row in rows] == pytest.approx(volumes)
    assert (study.figures_dir / "lesion_volumes.png").read_bytes().startswith(b"\x89PNG")
    assert all(case.image_stamp and case.image_stamp.content_hash for case in study.accepted())
    assert all(case.label_stamp and case.label_stamp.sha256 for case in study.accepted())


def test_planning_leaves_an_analysis_unchanged(dataset: Path, tmp_path: Path) -> None:
    study = analyze(dataset, tmp_path / "study")
    assert unchanged.answer(str(dataset), str(study.path), as_json=False) is not None
    plan_patch_size(study)
    assert (study.figures_dir / "plan.svg").exists()
    assert unchanged.answer(str(dataset), str(study.path), as_json=False) is not None


def test_bad_cases_are_quarantined_with_reason_and_remedy_and_the_rest_continue(dataset: Path, tmp_path: Path) -> None:
    images, labels = dataset / "images", dataset / "labels"

    def pair(name: str, image: np.ndarray[Any, Any], label: np.ndarray[Any, Any], matrix: Any = None) -> None:
        save(images / f"{name}.nii.gz", image)
        save(labels / f"{name}.nii.gz", label, matrix)

    pair("shape", ct(), mask(shape=(24, 20, 11)))
    pair("affine", ct(), mask(), affine((0.8, 0.8, 3.0)))
    pair("four", ct(shape=(24, 20, 12, 2)), mask())
    pair("picture", ct().astype(np.uint8), mask())
    pair("half", ct(), mask().astype(np.float32) * 0.5)
    pair("cut_image", ct(shape=(60, 60, 60)), mask(shape=(60, 60, 60)))
    pair("cut_label", ct(), np.random.default_rng(0).integers(0, 2, (24, 20, 12)).astype(np.uint8))
    for path in (images / "cut_image.nii.gz", labels / "cut_label.nii.gz"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    save(images / "lonely.nii.gz", ct())
    (images / "gone.nii.gz").symlink_to(tmp_path / "nothing.nii.gz")
    save(labels / "gone.nii.gz", mask())

    analysis = analyze_dataset(dataset, tmp_path / "study")
    reasons = {record.case_id: str(record.reason) for record in analysis.quarantined}
    expected = {
        "shape": "does not match", "affine": "voxels apart", "four": "not 3D", "picture": "8-bit picture",
        "half": "0.5", "cut_image": "images/cut_image.nii.gz", "cut_label": "labels/cut_label.nii.gz",
        "lonely": "image without label", "gone": "No such file",
    }  # fmt: skip
    assert reasons.keys() == expected.keys()
    for case_id, words in expected.items():
        assert words in reasons[case_id], reasons[case_id]
    assert all(f"--exclude {record.case_id}" in str(record.remedy) for record in analysis.quarantined)
    assert len(analysis.study.accepted()) == 4
    assert analysis.fingerprint is not None
    assert analysis.fingerprint.quarantined_count == len(expected)
    clean = analyze(dataset, tmp_path / "again", exclude=list(expected))
    assert clean.fingerprint().label(1) == analysis.fingerprint.label(1), "a bad case leaves no trace"


def results(study: Path) -> dict[str, bytes]:
    """Return the result files, without the printed text, which reports how many results were reused."""
    names = ("cases.jsonl", "measures.jsonl", "lesions.csv", "fingerprint.json", "decisions.json")
    return {name: (study / name).read_bytes() for name in names}


def test_unchanged_files_are_not_measured_again(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = analyze_dataset(dataset, tmp_path / "study")
    assert first.reused_count == 0
    measured = []
    real = patchcore.datasets.measuring.examine_label

    def spy(record: Any, settings: Any) -> Any:
        measured.append(record.case_id)
        return real(record, settings)

    monkeypatch.setattr(patchcore.datasets.measuring, "examine_label", spy)
    written = results(tmp_path / "study")
    second = analyze_dataset(dataset, tmp_path / "study")
    assert (measured, second.reused_count) == ([], 4)
    assert results(tmp_path / "study") == written

    save(dataset / "labels" / "P0_1.nii.gz", mask(5))
    third = analyze_dataset(dataset, tmp_path / "study")
    assert (measured, third.reused_count) == (["P0_1"], 3)
    assert third.fingerprint is not None
    assert first.fingerprint is not None
    assert third.fingerprint.fingerprint_hash != first.fingerprint.fingerprint_hash
    fresh = analyze(dataset, tmp_path / "fresh").fingerprint()
    assert third.fingerprint == fresh


def test_ctrl_c_keeps_what_is_done(dataset: Path, tmp_path: Path) -> None:
    def interrupt(event: Any) -> None:
        if event.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        analyze(dataset, tmp_path / "study", threads=1, progress=interrupt)
    assert not (tmp_path / "study" / "fingerprint.json").exists()
    assert analyze_dataset(dataset, tmp_path / "study").reused_count >= 2


def test_results_do_not_depend_on_threads(dataset: Path, tmp_path: Path) -> None:
    one = analyze(dataset, tmp_path / "one", threads=1).fingerprint()
    assert analyze(dataset, tmp_path / "four", threads=4).fingerprint() == one


def test_decisions_hold_until_decided_otherwise(dataset: Path, tmp_path: Path) -> None:
    study = analyze(dataset, tmp_path / "study", exclude=["P0_0"], min_volume_mm3=2.0, patient_regex=r"_(\d)")
    fingerprint = study.fingerprint()
    assert (fingerprint.case_count, fingerprint.patient_count, fingerprint.speck_count) == (3, 3, 3)
    assert study.case("P0_0").status == "excluded"
    again = analyze(dataset, tmp_path / "study").fingerprint()
    assert again == fingerprint
    label = again.label(1)
    assert label is not None
    assert label.lesion_count == 3
    freed = analyze(dataset, tmp_path / "study", exclude=[], min_volume_mm3=0.0).fingerprint()
    assert (freed.case_count, freed.speck_count) == (4, 0)


def test_specks_do_not_colour_the_hu_of_lesions(dataset: Path, tmp_path: Path) -> None:
    fingerprint = analyze(dataset, tmp_path / "study", min_volume_mm3=2.0).fingerprint()
    assert fingerprint.hu is not None
    assert fingerprint.hu.within.voxel_count == sum((4 + index) * 4 * 3 for index in range(4))


def test_the_lesion_label_over_the_cohort(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for index, value in enumerate((255, 255)):
        save(root / "image" / f"c{index}.nii.gz", ct(index))
        save(root / "mask" / f"c{index}.nii.gz", mask(index, value=value))
    assert analyze(root, tmp_path / "one").fingerprint().lesion_label == 1
    assert analyze(root, tmp_path / "kept", lesion_label=255).fingerprint().lesion_label == 255
    save(root / "image" / "c2.nii.gz", ct(2))
    save(root / "mask" / "c2.nii.gz", mask(2, value=3))
    with pytest.raises(DataError, match="--lesion-label"):
        analyze(root, tmp_path / "two")
    assert analyze(root, tmp_path / "two", lesion_label=3).fingerprint().lesion_label == 3
    with pytest.raises(EmptyClassError, match="label 9"):
        analyze(root, tmp_path / "two", lesion_label=9)
    (root / "dataset.json").write_text(json.dumps({"labels": {"3": "lung nodule", "255": "lung"}}))
    named = analyze(root, tmp_path / "three").fingerprint()
    assert (named.lesion_label, named.labels[0].name) == (3, "lung nodule")


def test_a_cohort_without_a_lesion_is_reported(tmp_path: Path) -> None:
    save(tmp_path / "data" / "image" / "a.nii.gz", ct())
    save(tmp_path / "data" / "mask" / "a.nii.gz", mask() * 0)
    with pytest.raises(EmptyClassError, match="no case has a labelled voxel"):
        analyze(tmp_path / "data", tmp_path / "study")


def test_label_maps_alone(dataset: Path, tmp_path: Path) -> None:
    shutil.rmtree(dataset / "images")
    fingerprint = analyze(dataset, tmp_path / "study").fingerprint()
    assert fingerprint.hu is None
    assert fingerprint.case_count == 4
    assert fingerprint.layout == "labels-only"


def test_where_a_study_may_not_be(dataset: Path, tmp_path: Path) -> None:
    before = listing(dataset)
    (tmp_path / "link").symlink_to(dataset)
    (tmp_path / "file").write_text("x")
    for study, words in (
        (dataset, "is the data set's folder"),
        (dataset / "study", "lies within"),
        (tmp_path / "link" / "study", "lies within"),
        (tmp_path / "file", "is a file"),
        (tmp_path / "file" / "study", "cannot be written"),
    ):
        with pytest.raises(StudyError, match=words):
            analyze(dataset, study)
    assert listing(dataset) == before


def test_bad_arguments_leave_no_study_behind(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for root, options, words in (
        (tmp_path / "nothing", {}, "no such data set"),
        (tmp_path / "empty", {}, "empty"),
        (dataset, {"exclude": ["nobody"]}, "nobody"),
        (dataset, {"connectivity": 8}, "connectivity 8"),
        (dataset, {"min_volume_mm3": -1.0}, "not a valid volume"),
        (dataset, {"patient_regex": "("}, "not a valid regular expression"),
        (dataset, {"images": "nowhere"}, "--images"),
    ):
        with pytest.raises(DataError, match=words):
            analyze(root, tmp_path / "study", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "study").exists()


def test_two_at_once_are_refused(dataset: Path, tmp_path: Path) -> None:
    study = analyze(dataset, tmp_path / "study")
    with study.lock("analyze"), pytest.raises(LockedError):
        analyze(dataset, tmp_path / "study")


def test_when_every_case_is_bad_nothing_is_left_to_plan_from(dataset: Path, tmp_path: Path) -> None:
    analyze(dataset, tmp_path / "study")
    for path in (dataset / "images").iterdir():
        path.write_bytes(b"")
    result = CliRunner().invoke(app, [str(dataset), str(tmp_path / "study")])
    assert result.exit_code == 3, result.output
    assert "No case was accepted" in result.output
    study = Study(tmp_path / "study")
    assert len(study.cases()) == 4
    with pytest.raises(StudyError, match="no fingerprint"):
        study.fingerprint()


def test_the_command_fits_80_columns_and_interprets_no_markup(dataset: Path, tmp_path: Path) -> None:
    save(dataset / "images" / "[red]x.nii.gz", ct())
    result = CliRunner().invoke(app, [str(dataset), str(tmp_path / "study")], env={"COLUMNS": "80"})
    assert result.exit_code == 3, result.output
    shown = result.stdout
    for words in ("two-folders", "4 accepted, 1 quarantined", "[red]x", "≥ 20 mm", "patchcore plan"):
        assert words in shown
    assert max(len(line) for line in shown.splitlines() if "patchcore plan" not in line) <= 80
    assert "Measuring lesions: 4 of 4" in result.stderr


def test_json_for_programs(dataset: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [str(dataset), str(tmp_path / "study"), "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["accepted"], found["quarantined"]) == (4, [])
    assert found["fingerprint"]["labels"][0]["lesion_count"] == 8


@needs_data
@pytest.mark.parametrize(
    ("name", "cases", "patients", "lesions", "edge"),
    [("sts", 8, 8, 8, 25.0), ("lidc_nodules", 371, 200, 379, 10.4)],
)
def test_real_cohorts(tmp_path: Path, name: str, cases: int, patients: int, lesions: int, edge: float) -> None:
    analysis = analyze_dataset(DATA / name, tmp_path / "study")
    assert analysis.quarantined == ()
    fingerprint = analysis.fingerprint
    assert fingerprint is not None
    assert (fingerprint.case_count, fingerprint.patient_count) == (cases, patients)
    label = fingerprint.label(1)
    assert label is not None
    assert label.volume is not None
    assert fingerprint.spacing is not None
    assert label.lesion_count == lesions
    assert np.cbrt(label.volume.mean_mm3 / np.prod(fingerprint.spacing.median)) == pytest.approx(edge, abs=0.05)
