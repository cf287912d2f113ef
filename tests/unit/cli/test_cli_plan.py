"""``patchcore plan`` and ``patchcore phantom`` on a study with a hand-made fingerprint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from patchcore.cli.phantom import phantom
from patchcore.cli.plan import plan
from patchcore.cli.values import hu_range, int_list, int_triple, triple
from patchcore.datasets.plan import plan_patch_size
from patchcore.errors import ConfigError, PlanError, StudyError
from patchcore.study import Study
from patchcore.study.fingerprint import (
    CaseFingerprint,
    Fingerprint,
    HuFingerprint,
    HuSummary,
    LabelFingerprint,
    LesionFingerprint,
)

app = typer.Typer()
app.command()(plan)
app.command()(phantom)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    made = Study.create(tmp_path / "study", tmp_path / "dataset")
    cases = tuple(
        CaseFingerprint(
            case_id=f"c{i}",
            patient=f"p{i}",
            spacing=(1.0, 1.0, 2.0),
            shape=(128, 128, 64),
            lesions=(
                LesionFingerprint(label=1, volume_mm3=1e6, extent_mm=(150.0, 100.0, 120.0)),
                LesionFingerprint(label=2, volume_mm3=2 * 12.0**3, extent_mm=(12.0, 12.0, 24.0)),
            ),
        )
        for i in range(4)
    )
    labels = tuple(
        LabelFingerprint(
            label=label,
            name=name,
            lesion_count=4,
            case_count=4,
            patient_count=4,
            volume=None,
            border_share=0,
            size_bins=(0, 0, 4, 0),
            median_extent_mm=(12.0, 12.0, 24.0),
        )
        for label, name in ((1, "liver"), (2, "tumour"))
    )
    hu = HuSummary(voxel_count=9, mean=50, std=30, min=-80, max=220, percentiles={"0.5": -60.0, "99.5": 180.0})
    made.write_fingerprint(
        Fingerprint(
            dataset="d",
            layout="two folders",
            layout_reason="r",
            grouping="g",
            connectivity=18,
            min_volume_mm3=3.0,
            lesion_label=2,
            lesion_label_reason="its name",
            case_count=4,
            quarantined_count=0,
            speck_count=0,
            patient_count=4,
            labels=labels,
            spacing=None,
            shape=None,
            extent_mm=None,
            hu=HuFingerprint(label=2, dilation_mm=10, around=hu, within=hu),
            cases=cases,
        )
    )
    return made


def test_plan_takes_everything_from_the_fingerprint(study: Study) -> None:
    made = plan_patch_size(study)
    assert made == study.plan()
    assert made.fingerprint_hash == study.fingerprint().fingerprint_hash != ""
    target = made.target
    assert (target.lesion_label, target.label_name, target.classes) == (2, "tumour", (2,))
    assert (target.connectivity, target.min_volume_mm3) == (18, 3.0)
    assert made.patch_size == (12, 12, 12)
    assert made.spacing == (1.0, 1.0, 2.0)
    assert made.hu_range == (-100.0, 200.0)
    assert made.window_size == (96, 96, 48)
    assert plan_patch_size(study.path) == made


def test_another_label_has_no_hu_measured(study: Study) -> None:
    with pytest.raises(PlanError, match="--hu-range"):
        plan_patch_size(study, lesion_label=1)
    assert plan_patch_size(study, lesion_label=1, hu_range="liver").patch_size == (24, 24, 24)


def test_label_maps_alone_are_planned_for_and_the_range_is_reported_to_be_none(study: Study) -> None:
    study.write_fingerprint(study.fingerprint().model_copy(update={"hu": None}))
    made = plan_patch_size(study)
    assert made.patch_size == (12, 12, 12)
    assert made.hu_range == (-1000.0, 1000.0)
    assert any("no images" in warning for warning in made.target.warnings)


def test_impossible_wishes_are_refused(study: Study) -> None:
    plan_patch_size(study)
    with pytest.raises(PlanError, match="names the study itself"):
        plan_patch_size(study, like=study.path)
    with pytest.raises(PlanError, match="seed -1"):
        plan_patch_size(study, seed=-1)


def test_unknown_lesion_label_is_asked_for(study: Study) -> None:
    unknown = study.fingerprint().model_copy(update={"lesion_label": None, "lesion_label_reason": "two candidates"})
    study.write_fingerprint(unknown)
    with pytest.raises(PlanError, match=r"two candidates.*--lesion-label.*1 \(liver\), 2 \(tumour\)"):
        plan_patch_size(study)
    assert plan_patch_size(study, lesion_label=2, hu_range=(0, 100)).target.lesion_label == 2


def test_a_plan_that_fails_leaves_the_last_one(study: Study) -> None:
    made = plan_patch_size(study)
    with pytest.raises(PlanError):
        plan_patch_size(study, spacing=(0.0, 1.0, 1.0))
    assert study.plan() == made
    with pytest.raises(StudyError, match="no such study"):
        plan_patch_size(study.path / "nowhere")


def test_command_prints_and_writes(study: Study) -> None:
    pytest.importorskip("matplotlib")
    result = CliRunner().invoke(app, ["plan", str(study.path)])
    assert result.exit_code == 0, result.output
    for part in ("Patch size   12 voxels", "tumour", "only 4 lesions", "plan.json", "plan.png"):
        assert part in result.output
    assert (study.figures_dir / "plan.png").read_bytes().startswith(b"\x89PNG")


def test_command_options(study: Study) -> None:
    options = "--spacing 1,1,1 --candidates 8,16 --window 64 --hu-range -50,150 --rule median --seed 3 --json"
    result = CliRunner().invoke(app, ["plan", str(study.path), *options.split()])
    assert result.exit_code == 0, result.output
    target = json.loads(result.output)["targets"][0]
    assert target["patch_size"] == [16, 16, 16]
    assert target["window_size"] == [64, 64, 64]
    assert target["hu_range"] == [-50, 150]
    assert target["rule"] == "median"
    assert target["spacing"] == [1, 1, 1]


def test_phantom_command(tmp_path: Path) -> None:
    arguments = ["phantom", str(tmp_path / "set"), "--cases", "1", "--shape", "40", "--spacing", "5,5,5"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "1 phantoms (mixed, seed 0)" in result.output
    assert (tmp_path / "set" / "labels" / "phantom-001.nii.gz").is_file()


def test_values() -> None:
    assert triple("1, 2,3.5", "--spacing") == (1.0, 2.0, 3.5)
    assert int_triple("96,96,48", "--window") == (96, 96, 48)
    assert hu_range("lung") == "lung"
    for wrong in (
        lambda: triple("1,2", "--spacing"),
        lambda: triple("a", "--spacing"),
        lambda: int_triple("96,48", "--window"),
        lambda: int_list("8,,12", "--candidates"),
        lambda: hu_range("1,2,3"),
    ):
        with pytest.raises(ConfigError, match=r"write e\.g\. --"):
            wrong()
