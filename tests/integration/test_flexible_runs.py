"""Runs of a flexible network resume exactly, and are validated, evaluated and exported at each patch size."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from tiny_training import TINY, begin_attempt
from trainer_process import finish

from commands import patchcore_here
from patchcore.cli import main
from patchcore.config import Plan, resolve_config
from patchcore.config.patch_choice import PatchChoice
from patchcore.config.postprocess import POSTPROCESS_FILE, Postprocess
from patchcore.datasets.learned import learned_patch_size
from patchcore.datasets.plan import plan_patch_size
from patchcore.errors import ConfigError, PatchSizeError, PlanError
from patchcore.evaluation.cases import sizes_of_run
from patchcore.evaluation.evaluate import evaluate
from patchcore.experiments.manage import show_experiment
from patchcore.experiments.protocol import with_patch_size
from patchcore.files import read_json
from patchcore.inference.export import export_model, read_model
from patchcore.inference.models import opened_models
from patchcore.inference.predict import predict
from patchcore.inference.tuned import weights_digest
from patchcore.models.checkpoint import find_weights
from patchcore.models.flexible import draw_size
from patchcore.runs import RunReader, RunState, RunWriter, new_run
from patchcore.runs.events import PATCH_SIZE, VAL_DSC_MEAN, val_dsc_patch
from patchcore.study import Study
from patchcore.training import profiling
from patchcore.training.control import Control
from patchcore.training.launch import create_run

MakeRun = Callable[..., Path]
RunAttempt = Callable[..., int]
Losses = Callable[[Path], dict[int, float]]

FLEXIBLE = ("model.patch_sizes=[4,8,[8,8,4]]", "optim.ema=0.5")


@pytest.fixture
def trained(make_run: MakeRun, run_attempt: RunAttempt) -> Path:
    run = make_run(*FLEXIBLE, "train.steps=30", "train.steps_per_epoch=30", "optim.lr=3e-3")
    assert run_attempt(run) == 0
    return run


def test_a_flexible_run_resumes_bit_for_bit(
    make_run: MakeRun, run_attempt: RunAttempt, losses: Losses, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken, broken = make_run(*FLEXIBLE), make_run(*FLEXIBLE)
    assert run_attempt(unbroken) == 0
    looks = [0]
    real = Control.look

    def look(control: Control) -> None:
        looks[0] += 1
        real(control)
        if looks[0] == 4:
            control.leave = "pause"

    with monkeypatch.context() as patch:
        patch.setattr(Control, "look", look)
        assert run_attempt(broken) == 75
    assert run_attempt(broken, 2) == 0
    assert losses(broken) == losses(unbroken)
    weights = [(run / "checkpoints" / "last" / "model.safetensors").read_bytes() for run in (unbroken, broken)]
    assert weights[0] == weights[1]
    view = RunReader(unbroken).poll()
    sizes = [(4, 4, 4), (8, 8, 8), (8, 8, 4)]
    drawn = [max(draw_size(sizes, (), 0, step)) for step in range(6)]
    assert list(view.series[PATCH_SIZE].values) == drawn
    values = view.validations[-1].values
    assert values[val_dsc_patch((8, 8, 8))] == values[VAL_DSC_MEAN]
    assert {name for name in values if "/patch/" in name} == {val_dsc_patch(size) for size in sizes}


def test_evaluate_predict_and_export_at_a_patch_size(trained: Path, tiny_study: Path, tmp_path: Path) -> None:
    plain = evaluate(tiny_study, trained)
    each = {size: evaluate(tiny_study, trained, patch_size=size) for size in ("4", "8", "8x8x4", "4,8")}
    assert each["8"].mean_dsc == plain.mean_dsc
    assert len({one.mean_dsc for one in each.values()}) == 4
    assert each["8x8x4"].folder.name == f"{trained.name}-patch8x8x4"
    shown = patchcore_here("evaluate", tiny_study, trained, "--patch-size", "4", "--json")
    assert json.loads(shown.stdout)["mean_dsc"] == each["4"].mean_dsc
    # The plan has one target, so its label is read at its patch size, and all other classes are, too.
    by_plan = evaluate(tiny_study, trained, patch_size="plan")
    assert by_plan.mean_dsc == pytest.approx(plain.mean_dsc, abs=1e-6)
    assert by_plan.folder.name == f"{trained.name}-patch-plan"
    with pytest.raises(PatchSizeError, match="has no patch size"):
        evaluate(tiny_study, trained, patch_size="16")
    with pytest.raises(ConfigError, match="does not name each class once"):
        evaluate(tiny_study, trained, patch_size="7:8")
    # The fixed network of a size predicts the same.
    scan = next(record for record in Study(tiny_study).accepted()).image
    assert scan is not None
    model = tmp_path / "four.zip"
    assert patchcore_here("export", trained, "-o", model, "--patch-size", "4").returncode == 0
    fixed = read_model(model)
    assert fixed.plan.target.patch_size == (4, 4, 4)
    assert fixed.config.model.patch_sizes == ()
    maps = []
    for number, (source, extra) in enumerate(((trained, ["--patch-size", "4"]), (model, []))):
        out = tmp_path / f"{number}.nii.gz"
        done = patchcore_here("predict", source, scan.path, "-o", out, *extra)
        assert done.returncode == 0, done.stderr
        maps.append(np.asarray(nibabel.load(out).dataobj))  # type: ignore[attr-defined]
    assert maps[0].any()
    assert np.mean(maps[0] != maps[1]) < 1e-3
    done = patchcore_here("predict", model, scan.path, "-o", tmp_path / "no.nii.gz", "--patch-size", "8")
    assert "has one patch size, 4" in done.stderr
    whole = tmp_path / "all.zip"
    assert patchcore_here("export", trained, "-o", whole).returncode == 0
    assert len(read_model(whole).config.model.patch_sizes) == 3


def test_post_processing_is_that_of_the_patch_size_of_the_plan(trained: Path, tmp_path: Path) -> None:
    weights = find_weights(trained, None).weights()
    chosen = Postprocess(weights_sha256=weights_digest(weights), objective="dsc", threshold=0.7)
    (trained / POSTPROCESS_FILE).write_text(chosen.model_dump_json(), encoding="utf-8")
    for size, used in ((None, True), ("8", True), ("4", False), ("4,8", False)):
        with opened_models([trained], patch_size=None if size is None else PatchChoice.parse(size)) as models:
            assert (models.post == chosen) is used
            assert any("at the patch size of the plan" in note for note in models.notes()) is not used
    digests = set()
    for size, used in ((None, True), ("8", True), ("4", False)):
        with opened_models([export_model(trained, tmp_path / f"{size}.zip", patch_size=size)]) as models:
            assert (models.post is not None and models.post.threshold == 0.7) is used
            digests.add(models.sources[0].weights_sha256)
    assert len(digests) == 3
    with opened_models([trained], patch_size=PatchChoice.parse("4"), post=False) as models:
        assert models.notes() == []


def test_from_and_to_fixed_networks(
    trained: Path, tiny_study: Path, make_run: MakeRun, run_attempt: RunAttempt
) -> None:
    fixed = make_run("train.steps=1", f"init.source={trained}")
    assert run_attempt(fixed) == 0
    assert sizes_of_run(tiny_study, trained) == ("4", "8", "8x8x4")
    with pytest.raises(ConfigError, match="one patch size only"):
        sizes_of_run(tiny_study)  # the newest run
    report = read_json(fixed / "init_report.json")
    # The source has this size, so nothing is resampled.
    assert {tensor["action"] for tensor in report["tensors"]} == {"kept"}
    again = make_run(*FLEXIBLE, "train.steps=1", f"init.source={fixed}")
    assert run_attempt(again) == 0
    report = read_json(again / "init_report.json")
    assert any("patch size 4x4x4" in tensor["note"] for tensor in report["tensors"])
    same = make_run(*FLEXIBLE, "train.steps=1", f"init.source={trained}", "optim.lr=1e-12")
    assert run_attempt(same) == 0
    before, after = (evaluate(tiny_study, run, patch_size="4").mean_dsc for run in (trained, same))
    assert after == pytest.approx(before, abs=0.02)


def test_two_ranks_draw_the_same_sizes(make_run: MakeRun, losses: Losses) -> None:
    run = make_run(*FLEXIBLE, "train.ranks=2", "train.batch_size=2", "model.dropout=0")
    finish(run, 1)
    assert sorted(losses(run)) == [1, 2, 3, 4, 5, 6]
    assert {name for name in RunReader(run).poll().validations[-1].values if "/patch/" in name} != set()


def test_a_plan_of_another_size_is_refused(tiny_study: Path) -> None:
    plan = Study(tiny_study).plan()
    assert isinstance(plan, Plan)
    with pytest.raises(PatchSizeError, match="is not among"):
        create_run(tiny_study, settings=["model.patch_sizes=[4,16]"])


@pytest.mark.slow
def test_onnx_has_the_size_that_is_asked_for_or_that_of_the_plan(
    trained: Path, tiny_study: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnxscript")
    scan = next(record for record in Study(tiny_study).accepted()).image
    assert scan is not None
    for size, extra in ((8, []), (4, ["--patch-size", "4"])):
        model = tmp_path / f"{size}.onnx"
        done = patchcore_here("export", trained, "-o", model, *extra)
        assert done.returncode == 0, done.stderr
        maps = []
        for number, source in enumerate((trained, model)):
            out = tmp_path / f"{size}-{number}.nii.gz"
            predict(source, scan.path, out, patch_size=str(size) if source == trained else None)
            maps.append(np.asarray(nibabel.load(out).dataobj))  # type: ignore[attr-defined]
        assert maps[0].any()
        assert np.mean(maps[0] != maps[1]) < 1e-3


def test_the_best_size_of_a_flexible_run_is_a_rule(trained: Path, tiny_study: Path) -> None:
    values = RunReader(trained).poll().validations[-1].values
    sizes = {size: values[val_dsc_patch(size)] for size in ((4, 4, 4), (8, 8, 8), (8, 8, 4))}
    best = max(sizes, key=lambda size: sizes[size])
    made = plan_patch_size(tiny_study, rule="learned", candidates=[4, 8], window_size=16)
    assert made.patch_size == best
    assert f"in the flexible run {trained.name}" in made.target.reason
    plain = plan_patch_size(tiny_study, candidates=[4, 8], window_size=16)
    assert next(one for one in plain.target.rules if one.rule == "learned").patch_size == best


def finished_point(study: Study, size: int, seed: int, dsc: float, *settings: str) -> None:
    """Write a finished run of the experiment ``sizes``."""
    config = resolve_config(settings=[*TINY, f"seed={seed}", *settings])
    run = new_run(
        study.path, kind="train", config=config.model_dump(mode="json"),
        plan=with_patch_size(study.plan(), (size,) * 3, "sizes").model_dump(mode="json"),
        seed=seed, slug="p", argv=[], experiment={"name": "sizes", "point": f"patch{size}_seed{seed}"},
    )  # fmt: skip
    begin_attempt(run, 1)
    with RunWriter(run, 1) as writer:
        writer.validation(3, 0, "0000003", {VAL_DSC_MEAN: dsc}, n_cases=2, subset="all")
        writer.state(RunState.FINISHED)
    (run / "attempts" / "1" / "exit.json").write_text(json.dumps({"schema_version": 1, "state": "finished"}))


def test_the_best_size_of_a_sweep_is_a_rule(tiny_study: Path) -> None:
    study = Study(tiny_study)
    for size, seed, dsc in ((4, 0, 0.5), (8, 0, 0.7), (4, 1, 0.8), (8, 1, 0.75), (8, 2, 0.1)):
        finished_point(study, size, seed, dsc)
    learned = learned_patch_size(study)
    assert learned is not None
    # Seed 2 has finished at one size only.
    assert learned.dsc == {(4, 4, 4): pytest.approx(0.65), (8, 8, 8): pytest.approx(0.725)}
    assert (learned.patch_size, learned.source) == ((8, 8, 8), "the experiment sizes, 2 trainings of each size")
    assert learned_patch_size(study, spacing=(9.0, 9.0, 9.0)) is None
    target = study.plan().target
    same = {"spacing": target.spacing, "lesion_label": target.lesion_label}
    assert learned_patch_size(study, **same) == learned
    assert learned_patch_size(study, **same | {"lesion_label": target.lesion_label + 1}) is None
    assert plan_patch_size(study, rule="learned", candidates=[4, 8], window_size=16).patch_size == (8, 8, 8)
    # In voxels, what was learned at one spacing says nothing about another one.
    with pytest.raises(PlanError, match="at the spacing of the plan, 9 mm"):
        plan_patch_size(study, rule="learned", candidates=[4, 8], window_size=16, spacing=(9.0, 9.0, 9.0))


def test_a_sweep_of_equal_flop_is_a_rule_too(tiny_study: Path) -> None:
    study = Study(tiny_study)
    finished_point(study, 4, 0, 0.5, "train.steps=6")
    finished_point(study, 8, 0, 0.7, "train.steps=9")
    assert learned_patch_size(study) is None  # nothing says that the numbers of steps belong together
    folder = study.path / "experiments" / "sizes"
    folder.mkdir(parents=True)
    (folder / "experiment.json").write_text(json.dumps({"schema_version": 1, "budget": "flops"}), encoding="utf-8")
    learned = learned_patch_size(study)
    assert learned is not None
    assert learned.dsc == {(4, 4, 4): pytest.approx(0.5), (8, 8, 8): pytest.approx(0.7)}


def test_the_best_validation_of_a_long_run_counts(tiny_study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that polls gets a long run in parts; its best validation may be in the last one."""
    monkeypatch.setitem(RunReader.poll.__kwdefaults__, "most_bytes", 64)
    study = Study(tiny_study)
    for size, dsc in ((4, 0.5), (8, 0.7)):
        finished_point(study, size, 0, dsc)
    learned = learned_patch_size(study)
    assert learned is not None
    assert learned.dsc == {(4, 4, 4): pytest.approx(0.5), (8, 8, 8): pytest.approx(0.7)}


def test_the_newest_run_of_a_point_counts(tiny_study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, times = Study(tiny_study), iter(range(1_800_000_000, 1_800_000_100))
    monkeypatch.setattr("patchcore.runs.launch.time.time", lambda: float(next(times)))
    for size, dsc in ((4, 0.9), (8, 0.7), (4, 0.5)):
        finished_point(study, size, 0, dsc)
    learned = learned_patch_size(study)
    assert learned is not None
    assert learned.patch_size == (8, 8, 8)


def test_a_flexible_sweep_trains_once_and_reports_each_size(
    tiny_study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = str(tiny_study)
    settings = "train.steps_per_epoch=3 train.batch_size=2 train.folds=3 optim.warmup_steps=1 optim.lr=3e-3"
    short = [f"--set={text}" for text in (*settings.split(), "train.tensorboard=false")]
    sweep = ["sweep", study, "--flexible", "--preset", "tiny", "--steps", "12", *short]
    for wrong, words in (
        (["--over", "patch_size=8"], "so it needs them"),
        (["--over", "optim.lr=1e-3"], "so it needs them"),
        (["--over", "patch_size=4,8", "--set", "model.patch_sizes=[4,8]"], "sets model.patch_sizes itself"),
        (["--over", "patch_size=4,12"], "does not divide window_size"),
    ):
        assert main([*sweep, *wrong]) == 2
        assert words in capsys.readouterr().err.replace("\n", " ")
    assert main([*sweep, "--over", "patch_size=4,8", "--name", "once"]) == 0
    shown = capsys.readouterr().out
    assert "once: 1 point: 1 finished" in shown
    assert "flexible: validation DSC by patch size: 4 0." in shown
    [point] = show_experiment(study, "once").points
    assert point.to_row()["patch_size"] == "4x4x4,8x8x8"
    assert point.run_id is not None
    best = RunReader(tiny_study / "runs" / point.run_id).poll().best_validation
    assert best is not None
    assert point.dsc_by_patch == {"4": best.values[val_dsc_patch((4,) * 3)], "8": best.values[VAL_DSC_MEAN]}
    assert main(["report", study, "once"]) == 0
    assert "The rule mean-volume chose patch 8" in capsys.readouterr().out
    folder = tiny_study / "experiments" / "once" / "report"
    for size in ("4", "8"):
        report = read_json(tiny_study / "reports" / f"{point.run_id}-patch{size}" / "evaluation.json")
        with (folder / "cases.csv").open(encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["point"] == f"flexible_patch{size}"]
        assert {row["case_id"]: float(row["dsc"]) for row in rows} == pytest.approx(
            {case["case_id"]: case["dsc"] for case in report["cases"]}
        )
    with (folder / "cost.csv").open(encoding="utf-8") as file:
        fine, coarse = csv.DictReader(file)
    assert fine["pflop"] == coarse["pflop"]
    assert float(fine["gflop_per_window"]) > float(coarse["gflop_per_window"])
    assert not (folder / "equal_cost.csv").exists()
    page = (folder / "report.md").read_text(encoding="utf-8")
    assert "Flexible sweep" in page
    assert "patch sizes of one flexible network" in page
    with (folder / "curves.csv").open(encoding="utf-8") as file:
        curves = {(row["point"], int(row["step"])): float(row["dsc"]) for row in csv.DictReader(file)}
    assert curves["flexible_patch4", best.step] == best.values[val_dsc_patch((4,) * 3)]
    # Seeds can be added to it, sizes cannot.
    assert main(["sweep", study, "--extend", "once", "--seeds", "2", "--dry-run"]) == 0
    assert "flexible_seed1" in capsys.readouterr().out
    assert main(["sweep", study, "--extend", "once", "--over", "patch_size=16"]) == 2
    assert "no size can be added" in capsys.readouterr().err.replace("\n", " ")
    assert learned_patch_size(Study(tiny_study)) is not None
    # One after the other by the command, side by side.
    assert main(["evaluate", study, point.run_id, "--patch-size", "each"]) == 0
    assert f"{point.run_id}-patch4" in capsys.readouterr().out.replace("\n", "")


def test_a_profile_weights_the_patch_sizes_by_their_shares(tiny_study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Counter[int]()

    class CountingStep(profiling.TrainingStep):
        def __call__(self, *arguments: Any, **options: Any) -> Any:
            result = super().__call__(*arguments, **options)
            with self._phase("as long as the patch"):
                clock[0] += max(self.patch_size)
            steps[max(self.patch_size)] += 1
            return result

    clock = [0.0]
    monkeypatch.setattr(profiling, "TrainingStep", CountingStep)
    monkeypatch.setattr(profiling.time, "perf_counter", lambda: clock[0])
    settings = [*TINY, "model.patch_sizes=[4,8,16]", "model.patch_size_shares=[1,3,0]"]
    found = profiling.profile_step(tiny_study, settings=settings, steps=2)
    assert found.parts["as long as the patch"] == pytest.approx(0.25 * 4 + 0.75 * 8)
    assert found.step_s == pytest.approx(7)
    assert 16 not in steps
    assert sum(steps.values()) == 2 * (3 + 2) + 1  # warm-up and measured steps of both sizes, and the traced one
