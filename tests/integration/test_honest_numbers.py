"""Numbers that could mislead: each test fails where a score would flatter, or say less than it seems to say."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from tiny_training import TINY, begin_attempt, write_balls
from torch import Tensor, nn

import patchcore as pc
from commands import patchcore
from patchcore.config.patch_choice import PatchChoice
from patchcore.config.run import TrainConfig
from patchcore.datasets.analyze import analyze
from patchcore.datasets.plan import plan_patch_size
from patchcore.errors import DataError, PlanError, SchemaVersionError
from patchcore.evaluation import evaluate as evaluation
from patchcore.evaluation.evaluate import evaluate
from patchcore.evaluation.folds import FoldRun, check_ancestors, fold_run, fold_scores
from patchcore.inference import torch_models
from patchcore.inference.predict import predict
from patchcore.inference.predictor import Predictor
from patchcore.metrics import dsc
from patchcore.models.device import place
from patchcore.runs import RunReader
from patchcore.runs.seen import read_record
from patchcore.runs.setup import divide_cases
from patchcore.store.prepare import prepare
from patchcore.study import Study
from patchcore.training.init_from import _of_run
from patchcore.training.launch import create_run, run_config
from patchcore.tui.watcher import Watcher

MakeRun = Callable[..., Path]
RunAttempt = Callable[..., int]


class Bright(nn.Module):
    """Takes for lesion what is brighter than half of the HU range."""

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([1 - image, image], dim=1).clamp(1e-6, 1).log()


@pytest.fixture
def bright(monkeypatch: pytest.MonkeyPatch, torch_settings: None) -> None:
    """Every run has learned to find bright voxels."""
    real = torch_models.open_torch

    def open_torch(paths: Any, **options: Any) -> Any:
        opened = real(paths, **options)
        placement = place(TrainConfig(device="cpu", threads=1))
        models = tuple(torch_models.network_model(Bright(), one.target, placement) for one in opened.models)
        return replace(opened, models=models)

    monkeypatch.setattr(torch_models, "open_torch", open_torch)


def test_evaluation_is_of_what_predict_gives_also_outside_a_crop(
    own_data: Study, make_run: MakeRun, run_attempt: RunAttempt, bright: None, tmp_path: Path
) -> None:
    study = own_data
    for path in sorted((study.dataset_root / "images").iterdir()):
        image: Any = nibabel.load(path)
        voxels = np.asanyarray(image.dataobj).copy()
        voxels[18:23, 16:21, 12:17] = 200  # a bright structure far from the lesion
        nibabel.save(nibabel.Nifti1Image(voxels, image.affine), path)
    study = analyze(study.dataset_root, study.path)
    prepare(study, crop_to=1, crop_margin_mm=4)
    run = make_run("train.steps=1")
    assert run_attempt(run) == 0
    found = evaluate(study, run)
    assert len(found.cases) == 2
    assert "trained on the surroundings of label 1 only" in found.notes[0]
    for case in found.cases:
        record = study.case(case.case_id)
        assert record.image is not None
        predict(run, record.image.path, tmp_path / "p.nii.gz", overwrite=True)
        predicted: Any = nibabel.load(tmp_path / "p.nii.gz")
        expected = dsc(np.asanyarray(predicted.dataobj), record.read_label().array, (1,))[1]
        assert case.dsc == pytest.approx(expected)
        assert case.dsc < 0.9
        assert case.false_positives >= 1


def test_a_subset_without_lesion_a_damaged_case_and_an_interrupt_cost_nothing(
    own_data: Study, make_run: MakeRun, run_attempt: RunAttempt, bright: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = own_data
    run = make_run("train.steps=1")
    assert run_attempt(run) == 0
    names = [record.case_id for record in study.accepted()]
    scored: list[str] = []
    real = evaluation.score_case

    def score(predictor: Any, record: Any, **options: Any) -> Any:
        if len(scored) == 3:
            raise KeyboardInterrupt
        scored.append(record.case_id)
        return real(predictor, record, **options)

    monkeypatch.setattr(evaluation, "score_case", score)
    with pytest.raises(KeyboardInterrupt):
        evaluate(study, run, case_ids=names)
    monkeypatch.setattr(evaluation, "score_case", real)
    whole = evaluate(study, run, case_ids=names)
    again = evaluate(study, run, case_ids=names)
    assert [case.case_id for case in whole.cases] == names
    assert whole.cases == again.cases
    assert whole.mean_dsc == again.mean_dsc
    # The rows of the interrupted call were used: only the others are scored by the next one.
    scored.clear()
    monkeypatch.setattr(evaluation, "score_case", score)
    with pytest.raises(KeyboardInterrupt):
        evaluate(study, run, case_ids=names)
    scored.clear()
    assert len(evaluate(study, run, case_ids=names).cases) == 6
    assert scored == names[3:]
    monkeypatch.setattr(evaluation, "score_case", real)

    # A case whose scan is damaged has no score; the others keep theirs.
    image = study.case(names[0]).image
    assert image is not None
    image.path.write_bytes(image.path.read_bytes()[:-50])
    found = evaluate(study, run, case_ids=names)
    assert [case.case_id for case in found.cases] == names[1:]
    assert [case_id for case_id, _ in found.failed] == names[:1]

    # A case without lesion is a case of this study.
    label = study.case(names[1]).label.path
    empty: Any = nibabel.load(label)
    nibabel.save(nibabel.Nifti1Image(np.zeros(empty.shape, np.uint8), empty.affine), label)
    study = analyze(study.dataset_root, study.path)
    found = evaluate(study, run, case_ids=names[1:2])
    assert found.cases[0].lesion_count == 0


def test_a_dangling_link_in_a_folder_of_scans_is_one_failed_prediction(
    tiny_study: Path, make_run: MakeRun, run_attempt: RunAttempt, bright: None, tmp_path: Path
) -> None:
    run = make_run("train.steps=1")
    assert run_attempt(run) == 0
    scans = tmp_path / "scans"
    scans.mkdir()
    (scans / "a.nii.gz").symlink_to(tmp_path / "nowhere.nii.gz")
    shutil.copy(sorted((Study(tiny_study).dataset_root / "images").iterdir())[0], scans / "b.nii.gz")
    first, second = predict(run, scans, tmp_path / "out")
    assert "No such file" in str(first.error)
    assert second.error is None


def test_volumes_of_a_sheared_scan_are_those_of_its_voxels(
    tiny_study: Path, make_run: MakeRun, run_attempt: RunAttempt, bright: None, tmp_path: Path
) -> None:
    run = make_run("train.steps=1")
    assert run_attempt(run) == 0
    tilt = np.tan(np.radians(20))
    affine = np.array([[1.5, 0, 0, 0], [0, 1.5, 2 * tilt, 0], [0, 0, 2, 0], [0, 0, 0, 1]])
    scan = np.zeros((24, 24, 16), np.int16)
    scan[5:15, 5:15, 4:10] = 250
    nibabel.save(nibabel.Nifti1Image(scan, affine), tmp_path / "s.nii.gz")
    [found] = predict(run, tmp_path / "s.nii.gz", tmp_path / "p.nii.gz")
    assert found.voxel_count[1] > 0
    assert found.volume_mm3[1] == pytest.approx(found.voxel_count[1] * 1.5 * 1.5 * 2)


def test_settings_of_torch_are_those_of_before(tiny_study: Path, make_run: MakeRun, run_attempt: RunAttempt) -> None:
    run = make_run("train.steps=1")
    assert run_attempt(run) == 0
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(2)
    torch.backends.cudnn.benchmark = True
    evaluate(tiny_study, run)
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == 2
    assert torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False


def test_the_fold_does_not_depend_on_the_seed_of_the_training(tiny_study: Path) -> None:
    study = Study(tiny_study)
    splits = [divide_cases(study, run_config(study, None, [*TINY, f"seed={seed}"])) for seed in range(4)]
    assert len(set(splits)) == 1
    others = [divide_cases(study, run_config(study, None, [*TINY, f"train.fold_seed={seed}"])) for seed in range(4)]
    assert others[0] == splits[0]
    assert len(set(others)) > 1
    for seed in (0, 1):
        with pc.WindowLoader(study, steps=1, fold=0, folds=3, seed=seed) as loader:
            assert {case.case_id for case in loader.cases} == set(splits[0].train)


def test_leakage_through_the_initial_weights_is_seen(
    tiny_study: Path, make_run: MakeRun, run_attempt: RunAttempt, tmp_path: Path
) -> None:
    study = Study(tiny_study)
    source = make_run("train.steps=1", "train.fold=0")
    assert run_attempt(source) == 0
    tuned = make_run("train.steps=1", "train.fold=1", f"init.source={source}")
    assert run_attempt(tuned) == 0
    alerts = [alert.message for alert in RunReader(tuned).poll().alerts]
    assert any("the initial weights were trained on 2 of the 2 validation cases" in alert for alert in alerts)
    found = evaluate(study, tuned)
    assert found.role == "used for training by an ancestor"
    assert {case.role for case in found.cases} == {"used for training by an ancestor"}
    assert "validation cases: used for training by an ancestor" in patchcore("runs", "show", tuned).stdout
    shown: list[Any] = []
    watcher = Watcher(study.path, lambda snapshot: (shown.append(snapshot), watcher.stop()))
    watcher.select(tuned)
    watcher.watch()
    assert shown[-1].role == "used for training by an ancestor"
    # In the same fold nothing leaks, and nothing is said.
    same = make_run("train.steps=1", "train.fold=0", f"init.source={source}")
    assert run_attempt(same) == 0
    assert not any("initial weights were trained" in alert.message for alert in RunReader(same).poll().alerts)
    assert evaluate(study, same).role == "used for selection"
    with pytest.raises(DataError, match="fold 3 does not exist"):
        evaluate(study, same, fold=3)  # folds are counted from 0
    # All folds from one source cannot be honest.
    check_ancestors(study, settings=TINY)
    with pytest.raises(DataError, match="these weights were trained on"):
        check_ancestors(study, settings=[*TINY, f"init.source={source}"])
    done = patchcore("train", study.path, "--fold", "all", "--init-from", source, *[f"--set={one}" for one in TINY])
    assert done.returncode == 2
    assert "these weights were trained on" in done.stderr
    assert "fold 1 validates on" in done.stderr


def test_a_scan_is_recognised_in_another_data_set(
    tiny_study: Path, make_run: MakeRun, run_attempt: RunAttempt, tmp_path: Path
) -> None:
    """Turned, as another type, under another name, as a held-out case of another study."""
    run = make_run("train.steps=1")
    assert run_attempt(run) == 0
    study = Study(tiny_study)
    seen = read_record(run)
    trained, selected = (study.case(cases[0].case_id) for cases in (seen.trained, seen.selected))
    data = write_balls(tmp_path / "other")
    rows = ["case_id,image,label,split"]
    for number in range(6):
        rows.append(f"x{number},images/case{number:02d}.nii.gz,labels/case{number:02d}.nii.gz,")
    for name, record in (("met", trained), ("chosen", selected)):
        assert record.image is not None
        for folder, path in (("images", record.image.path), ("labels", record.label.path)):
            volume: Any = nibabel.load(path)
            kind = np.float32 if folder == "images" else np.uint8
            turned = np.asanyarray(volume.dataobj).astype(kind)[::-1].transpose(2, 0, 1)
            nibabel.save(
                nibabel.Nifti1Image(np.ascontiguousarray(turned), np.diag([2.0, 1.5, 1.5, 1])),
                data / folder / f"{name}.nii.gz",
            )
        rows.append(f"{name},images/{name}.nii.gz,labels/{name}.nii.gz,test")
    # Other noise than that of the first data set.
    generator = np.random.default_rng(5)
    for path in (data / "images").glob("case*"):
        volume = nibabel.load(path)
        noise = (np.asanyarray(volume.dataobj) + generator.integers(-9, 9, volume.shape)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(noise, volume.affine), path)
    (data / "cases.csv").write_text("\n".join(rows) + "\n")
    other = analyze(data, tmp_path / "other study", layout="manifest")
    roles = {record.case_id: str(seen.role(record, other)) for record in other.cases()}
    assert roles.pop("met") == "used for training"
    assert roles.pop("chosen") == "used for selection"
    assert set(roles.values()) == {"external"}
    with pytest.raises(DataError, match=r"used 2 of the 2 held-out cases.*met \(used for training\)"):
        evaluate(other, run, held_out=True)
    found = evaluate(other, run)
    assert found.role == "external"
    assert found.folder.name == f"{run.name}-external"
    with pytest.raises(pc.errors.ConfigError, match="fold of the run's own study"):
        evaluate(other, run, fold=1)
    assert evaluate(other, run, case_ids=["x0", "met"]).role == "named cases, some used for training"


def test_labels_that_are_read_differently_are_not_evaluated(
    tiny_study: Path, make_run: MakeRun, run_attempt: RunAttempt
) -> None:
    run = make_run("train.steps=1")
    assert run_attempt(run) == 0
    study = Study(tiny_study)
    records = study.cases()
    study.write_cases([record.model_copy(update={"label_rule": "merged"}) for record in records])
    with pytest.raises(PlanError, match=r"read differently.*now: merged; then: as stored"):
        evaluate(study, run)
    study.write_cases([record.model_copy(update={"labels": (7,)}) for record in records])
    with pytest.raises(PlanError, match="wrong data set"):
        evaluate(study, run)


def test_a_study_of_test_cases_only_says_how_to_evaluate_them(
    tiny_study: Path, make_run: MakeRun, run_attempt: RunAttempt, tmp_path: Path
) -> None:
    run = make_run("train.steps=1")
    assert run_attempt(run) == 0
    data = write_balls(tmp_path / "other")
    rows = [f"x{n},images/case{n:02d}.nii.gz,labels/case{n:02d}.nii.gz,test" for n in range(3)]
    (data / "cases.csv").write_text("\n".join(["case_id,image,label,split", *rows]) + "\n")
    other = analyze(data, tmp_path / "other study", layout="manifest")
    with pytest.raises(DataError, match=r"no case of this study is accepted.*--held-out"):
        evaluate(other, run)


def test_folds_of_another_cohort_are_not_combined(tiny_study: Path) -> None:
    study = Study(tiny_study)
    first = fold_run(study, 0, settings=TINY)
    assert "-fold0-" in first.path.name
    assert fold_run(study, 0, settings=TINY).path == first.path
    assert fold_run(study, 0, settings=[*TINY, "train.prepare_mib=4096"]).path == first.path
    assert fold_run(study, 0, settings=[*TINY, "train.steps=7"]).path != first.path
    toml = tiny_study / "settings.toml"
    toml.write_text("[optim]\nlr = 0.0625\n")
    of_toml = fold_run(study, 0, settings=TINY, toml=toml)
    assert of_toml.path != first.path
    assert json.loads((of_toml.path / "run.json").read_text(encoding="utf-8"))["config"]["optim"]["lr"] == 0.0625
    begin_attempt(first.path, 1, optim={"lr": 0.5})  # an attempt with a setting of its own
    changed = fold_run(study, 0, settings=TINY)
    assert changed.path != first.path
    first = changed
    split = divide_cases(study, run_config(study, None, [*TINY, "train.fold=0"]))
    (first.path / "split.json").write_text(
        json.dumps({"schema_version": 1, "train": split.train, "validation": split.validation})
    )
    assert fold_run(study, 0, settings=TINY).path == first.path
    analyze(study.dataset_root, study.path, exclude=[split.train[0]])
    assert fold_run(Study(tiny_study), 0, settings=TINY).path != first.path


def test_the_mean_of_all_folds_is_over_classes_first(tiny_study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pc.runs.RunReader.poll.__kwdefaults__, "most_bytes", 64)  # a long run is read in parts
    runs = []
    for fold in range(2):
        run = create_run(Study(tiny_study), settings=[*TINY, f"train.fold={fold}"])
        begin_attempt(run, 1)
        with pc.runs.RunWriter(run, 1) as writer:
            for number in range(5):
                by_class = {"1": 0.95, "2": 0.4 if fold == 0 else None}
                writer.case("0000001", {"case_id": f"{fold}{number}", "dsc": 0.5, "dsc_by_class": by_class}, step=1)
            writer.validation(1, 0, "0000001", {"val/dsc_mean": 0.6}, n_cases=5)
            writer.state("finished")
        runs.append(FoldRun(fold, run, None))
    scores = fold_scores(runs)
    assert scores.mean_dsc == pytest.approx(0.675)
    assert scores.n == 10
    assert scores.deviation == pytest.approx(0.0)
    # One fold has no deviation.
    assert math.isnan(fold_scores(runs[:1]).deviation)
    assert fold_scores(runs[:1]).n == 5


def test_a_new_plan_keeps_how_scans_are_prepared(tiny_study: Path) -> None:
    study = Study(tiny_study)
    prepare(study, crop_to=1, crop_margin_mm=7, kernel="linear")
    before = study.plan().target.store
    plan_patch_size(study, candidates=(8,), window_size=(16, 16, 16), hu_range=(-50, 250))
    assert study.plan().target.store == before
    assert before.crop_to == 1


def test_a_run_in_bf16_is_evaluated_on_a_cpu(tiny_study: Path, make_run: MakeRun, run_attempt: RunAttempt) -> None:
    run = make_run("train.steps=1")
    assert run_attempt(run) == 0
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    record["config"]["train"]["precision"] = "bf16"
    (run / "run.json").chmod(0o644)
    (run / "run.json").write_text(json.dumps(record))
    assert evaluate(tiny_study, run, device="cpu").n


def test_reports_on_other_cases_do_not_replace_each_other(
    tiny_study: Path, make_run: MakeRun, run_attempt: RunAttempt, bright: None
) -> None:
    run = make_run("train.steps=1")
    assert run_attempt(run) == 0
    folders = {
        evaluate(tiny_study, run).folder.name,
        evaluate(tiny_study, run, fold=1).folder.name,
        evaluate(tiny_study, run, case_ids=["case00"]).folder.name,
        evaluate(tiny_study, run, case_ids=["case01"]).folder.name,
        evaluate(tiny_study, run, checkpoint="last").folder.name,
    }
    assert len(folders) == 5


def test_looking_at_a_run_does_not_change_it(make_run: MakeRun, run_attempt: RunAttempt) -> None:
    """Validations on request change neither the best checkpoint nor patience."""
    from patchcore.models.checkpoint import load_checkpoint
    from patchcore.runs import request
    from patchcore.training import loop

    settings = ("train.steps=8", "train.steps_per_epoch=4", "optim.lr=3e-3", "train.patience=5")
    watched, alone = make_run(*settings), make_run(*settings)
    assert run_attempt(alone) == 0
    real = loop.learning_rate

    def asking(step: int, *arguments: Any) -> float:
        if step in (1, 2, 5):
            (watched / "control" / "new").mkdir(parents=True, exist_ok=True)
            request(watched, "validate")
            import time

            time.sleep(0.15)  # the inbox is looked at ten times a second
        return real(step, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "learning_rate", asking)
        patch.setattr("patchcore.runs.control.run_state", lambda _: pc.runs.StateReport(pc.runs.RunState.RUNNING))
        assert run_attempt(watched) == 0
    states = [load_checkpoint(run / "checkpoints" / "last").state for run in (watched, alone)]
    for name in ("best", "stale", "validations", "validated_step", "whole_step"):
        assert states[0][name] == states[1][name], name
    records = RunReader(watched).poll().validations
    assert sum(record.subset == "all, on request" for record in records) >= 2
    best = RunReader(watched).poll().best_validation
    assert best is not None
    assert best.step == states[0]["best"]["step"]


def test_options_reach_the_prediction(tiny_study: Path, make_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run("train.steps=1")
    given: dict[str, Any] = {}

    class Stop(Exception):  # noqa: N818
        pass

    def of_run(path: Path, **options: Any) -> Any:
        given.update(options, path=path)
        raise Stop

    monkeypatch.setattr(Predictor, "of_run", of_run)
    with pytest.raises(Stop):
        evaluate(Study(tiny_study), run, checkpoint="last", device="cpu", mirror=True, post=False, patch_size="8,4")
    expected = {"checkpoint": "last", "device": "cpu", "mirror": True, "post": False}
    assert given == expected | {"path": run, "patch_size": PatchChoice(((8, 8, 8), (4, 4, 4)))}


def test_a_run_of_a_newer_patchcore_is_no_source_of_weights(
    tiny_study: Path, make_run: MakeRun, run_attempt: RunAttempt, capfd: pytest.CaptureFixture[str]
) -> None:
    run = make_run("train.steps=4", "train.steps_per_epoch=2")
    assert run_attempt(run) == 0
    shown = capfd.readouterr().out
    assert "step 4: validation DSC" in shown
    state = json.loads((run / "checkpoints" / "last" / "state.json").read_text(encoding="utf-8"))
    assert (state["step"], state["epoch"]) == (4, 2)
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    (run / "run.json").chmod(0o644)
    (run / "run.json").write_text(json.dumps(record | {"schema_version": 99}))
    with pytest.raises(SchemaVersionError):
        _of_run(run)
