"""Liver and liver tumours, learned together and evaluated as regions, with the real commands."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from patchcore.cli import main
from patchcore.config.plan import TargetPlan
from patchcore.datasets.plan import plan_patch_size
from patchcore.errors import PlanError
from patchcore.evaluation.evaluate import evaluate
from patchcore.inference.predict import predict
from patchcore.metrics import dsc
from patchcore.study import Study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    from patchcore.datasets.analyze import analyze
    from patchcore.phantoms import make_phantoms

    root = tmp_path_factory.mktemp("regions")
    make_phantoms(root / "data", cases=6, preset="large", shape=(44, 44, 44))
    return analyze(root / "data", root / "study")


def test_trained_and_evaluated_by_regions(study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--region", "liver=1,2", "--region", "tumour=2", "--window", "16", "--candidates", "8"]
    asked += ["--hu-range=-100,200"]
    assert main(["plan", str(study.path), *asked]) == 0
    assert "Learns       labels 1, 2, evaluated as liver (1, 2), tumour (2)" in capsys.readouterr().out
    target = study.plan().target
    assert target.evaluated == {1: (1, 2), 2: (2,)}

    settings = ["model.preset=tiny", "train.steps=12", "train.steps_per_epoch=12", "train.folds=2", "optim.lr=3e-3"]
    options = [part for text in (*settings, "train.tensorboard=false") for part in ("--set", text)]
    assert main(["train", str(study.path), "--foreground", *options]) == 0
    run = max((study.path / "runs").iterdir())
    events = [json.loads(line) for line in (run / "attempts/1/events.jsonl").read_text(encoding="utf-8").splitlines()]
    values = next(event["values"] for event in events if event["kind"] == "validation")
    assert {"val/dsc/1", "val/dsc/2"} <= set(values)

    found = evaluate(study, run)
    case = found.cases[0]
    assert set(case.dsc_by_class) == {1, 2}
    record = study.case(case.case_id)
    assert record.image is not None
    out = tmp_path / "out.nii.gz"
    predict(run, record.image, out)
    prediction = np.asarray(nibabel.load(out).dataobj)
    truth = np.asarray(nibabel.load(record.label).dataobj)
    assert set(np.unique(prediction)) <= {0, 1, 2}
    whole = dsc((prediction > 0).astype(int), (truth > 0).astype(int), (1,))[1]
    assert case.dsc_by_class[1] == pytest.approx(whole, abs=1e-9)
    # Volumes and bins describe the lesions, not the surrounding liver.
    voxel_mm3 = abs(float(np.linalg.det(nibabel.load(out).affine[:3, :3])))
    assert case.volume_mm3 == pytest.approx((truth == 2).sum() * voxel_mm3)
    assert case.predicted_mm3 == pytest.approx((prediction == 2).sum() * voxel_mm3)
    assert case.lesion_dsc == pytest.approx(case.dsc_by_class[2], nan_ok=True)
    defined = [one.lesion_dsc for one in found.cases if one.lesion_dsc == one.lesion_dsc]
    weighted = sum(size.mean_dsc * size.n for size in found.bins if size.n)
    assert weighted == pytest.approx(sum(defined))
    records = [json.loads(line) for line in (run / "cases/0000012.jsonl").read_text(encoding="utf-8").splitlines()]
    for record in records:
        assert record["volume_mm3"] == pytest.approx(sum(lesion["volume_mm3"] for lesion in record["lesions"]))
    assert max(record["volume_mm3"] for record in records) > 0
    assert case.dsc_by_class[2] == pytest.approx(dsc(prediction, truth, (2,))[2], abs=1e-9, nan_ok=True)


def test_classes_without_regions(study: Study) -> None:
    plan = plan_patch_size(study, classes=(1, 2), window_size=16, candidates=(8,))
    assert plan.target.classes == (1, 2)
    assert plan.target.evaluated == {1: (1,), 2: (2,)}


@pytest.mark.parametrize(
    ("classes", "regions", "words"),
    [
        (None, {"tumour": (2,), "liver": (1, 2)}, "the enclosing region must come first"),
        (None, {"liver": (1, 2)}, r"one label that no later region contains, found \[1, 2\]"),
        ((1, 2), {"tumour": (2,)}, "must belong to a region"),
        ((2,), {"liver": (1, 2), "tumour": (2,)}, "contains .1., which are not in classes"),
        (None, {"liver": (1, 9), "tumour": (2,)}, "no case has label 9"),
        (None, {"liver": (1, 2), "tumour": (2, 2)}, "contains a label twice"),
        (None, {"all": (1, 2), "again": (1, 2)}, "the enclosing region must come first"),
        ((1,), None, "must contain the lesion label 2"),
    ],
)
def test_impossible_regions_are_refused_and_nothing_is_written(
    study: Study, classes: tuple[int, ...] | None, regions: dict[str, tuple[int, ...]] | None, words: str
) -> None:
    plan_patch_size(study, window_size=16, candidates=(8,))
    before = study.plan_path.read_bytes()
    with pytest.raises(PlanError, match=words):
        plan_patch_size(study, classes=classes, regions=regions, window_size=16, candidates=(8,))
    assert study.plan_path.read_bytes() == before


def test_lesions_are_evaluated_by_the_label_that_they_are_measured_by(study: Study) -> None:
    regions = {"liver": (1, 2), "tumour": (2,)}
    with pytest.raises(PlanError, match=r"lesion label 1 is evaluated together with \[2\] as one region"):
        plan_patch_size(study, lesion_label=1, regions=regions, window_size=16, candidates=(8,), hu_range="liver")


def test_a_region_that_is_not_a_list_of_labels_is_refused(study: Study) -> None:
    assert main(["plan", str(study.path), "--region", "liver"]) == 2
    assert main(["plan", str(study.path), "--region", "a=1,2", "--region", "a=2"]) == 2


def test_a_target_without_regions_judges_each_class(study: Study) -> None:
    target: TargetPlan = plan_patch_size(study, window_size=16, candidates=(8,)).target
    assert target.evaluated_indices == {1: (1,)}
