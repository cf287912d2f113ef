"""The trainer on a tiny study: it finishes, stops, pauses, resumes exactly, and reports errors."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_training import PLAIN_SGD, TINY

from patchcore.errors import ConfigError, DataError, EmptyClassError, StudyError
from patchcore.runs import RunReader, RunState, RunView, read_cases, wait_for
from patchcore.runs.events import LESIONS_DRAWN, LESIONS_SEEN
from patchcore.runs.paths import RunPaths
from patchcore.study import Study
from patchcore.training import profiling
from patchcore.training import step as step_module
from patchcore.training.control import Control
from patchcore.training.launch import create_run
from patchcore.training.profiling import profile_step
from patchcore.training.ranks import Ranks
from patchcore.training.step import TrainingStep

MakeRun = Callable[..., Path]
RunAttempt = Callable[..., int]
Losses = Callable[[Path], dict[int, float]]


def view_of(run: Path) -> RunView:
    return RunReader(run).poll()


def ask(run: Path, verb: str) -> str:
    """Write a request before the trainer starts; the public function refuses this."""
    identity = f"20260101T000000-{verb}"
    record = {
        "id": identity,
        "verb": verb,
        "args": {},
        "author": "test",
        "t": time.time(),
        "expires": time.time() + 600,
    }
    (RunPaths(run).requests_new / f"{identity}.json").write_text(json.dumps(record))
    return identity


def test_trains_to_the_end(make_run: MakeRun, run_attempt: RunAttempt, losses: Losses) -> None:
    run = make_run()
    assert run_attempt(run) == 0
    view = view_of(run)
    assert sorted(losses(run)) == [1, 2, 3, 4, 5, 6]
    assert [record.step for record in view.validations] == [3, 6]
    assert view.states[-1].state == "finished"
    assert {record.which for record in view.checkpoints} == {"last", "best"}
    cases = read_cases(run, view.validations[-1].validation_id)
    assert len(cases) == 2
    assert all(case["grid"] == "training" and case["lesions"] for case in cases)
    assert np.isfinite(view.series["lr"].values).all()


def test_learns_what_is_bright(make_run: MakeRun, run_attempt: RunAttempt) -> None:
    run = make_run("train.steps=150", "train.steps_per_epoch=150", "optim.lr=3e-3", "model.dropout=0")
    assert run_attempt(run) == 0
    assert view_of(run).validations[-1].dsc_mean > 0.6


@pytest.mark.parametrize(("verb", "state"), [("stop", "stopped"), ("pause", "paused")])
def test_left_on_request_and_resumed_bit_for_bit(
    verb: str,
    state: str,
    make_run: MakeRun,
    run_attempt: RunAttempt,
    losses: Losses,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unbroken, broken = make_run(), make_run()
    assert run_attempt(unbroken) == 0

    looks = 0

    def look(control: Control) -> None:
        nonlocal looks
        looks += 1
        # Six cases are prepared first, with one look each; the fifth look of the loop comes after step 4.
        if looks == 6 + 5:
            control.leave = verb  # type: ignore[assignment]

    with monkeypatch.context() as patched:
        patched.setattr(Control, "look", look)
        assert run_attempt(broken) == 75
    assert view_of(broken).states[-1].state == state
    steps_before = max(losses(broken))
    assert 0 < steps_before < 6
    assert run_attempt(broken, 2) == 0
    assert losses(broken) == losses(unbroken)
    weights = [(run / "checkpoints" / "last" / "model.safetensors").read_bytes() for run in (unbroken, broken)]
    assert weights[0] == weights[1]


def test_validation_cut_short_is_redone(
    make_run: MakeRun, run_attempt: RunAttempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    leave_once = [True]

    def look_or_leave(control: Control) -> None:
        control.look()
        if control._writer._status["phase"] == "validate" and leave_once:
            leave_once.clear()
            control.leave = "pause"
            from patchcore.training.control import Interrupted

            raise Interrupted

    monkeypatch.setattr(Control, "look_or_leave", look_or_leave)
    assert run_attempt(run) == 75
    assert view_of(run).validations == ()
    assert run_attempt(run, 2) == 0
    assert [record.step for record in view_of(run).validations] == [3, 6]


def test_a_validation_that_is_recorded_is_not_redone_after_a_kill(
    make_run: MakeRun, run_attempt: RunAttempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run("train.steps=5", "train.steps_per_epoch=2")
    real = TrainingStep.__call__

    def killed(self: TrainingStep, batch: object, step: int, *rest: Any, **named: Any) -> Any:
        if step == 2:
            raise KeyboardInterrupt
        return real(self, batch, step, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(TrainingStep, "__call__", killed)
    with pytest.raises(KeyboardInterrupt):
        run_attempt(run)
    monkeypatch.setattr(TrainingStep, "__call__", real)
    assert run_attempt(run, 2) == 0
    view = view_of(run)
    assert [record.step for record in view.validations] == [2, 4, 5]
    assert [record.epoch for record in view.validations] == [0, 1, 2]
    assert [int(step) for step in view.series[LESIONS_DRAWN].steps] == [2, 4, 5]
    assert [int(step) for step in view.series[LESIONS_SEEN].steps] == [2, 4, 5]


def test_the_last_validation_is_not_redone_after_a_kill(
    make_run: MakeRun, run_attempt: RunAttempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run("train.steps=2", "train.steps_per_epoch=2")

    def killed(_: Ranks) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Ranks, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            run_attempt(run)
    assert run_attempt(run, 2) == 0
    events = (run / "attempts" / "2" / "events.jsonl").read_text(encoding="utf-8").splitlines()
    assert not [event for event in map(json.loads, events) if event["kind"] == "validation"]
    assert view_of(run).states[-1].state == RunState.FINISHED


def test_requests_are_answered(make_run: MakeRun, run_attempt: RunAttempt) -> None:
    run = make_run("train.steps_per_epoch=100")
    asked = [ask(run, verb) for verb in ("checkpoint", "validate")]
    assert run_attempt(run) == 0
    for identity in asked:
        answer = wait_for(run, identity, timeout_s=0)
        assert answer is not None
        assert answer.outcome == "done"


def test_stop_before_the_first_step(make_run: MakeRun, run_attempt: RunAttempt) -> None:
    run = make_run()
    ask(run, "stop")
    assert run_attempt(run) == 75
    assert view_of(run).states[-1].state == "stopped"


def test_time_limit_ends_with_a_whole_validation(make_run: MakeRun, run_attempt: RunAttempt) -> None:
    run = make_run("train.steps=100000", "train.max_minutes=0.02", "validation.max_cases=1")
    assert run_attempt(run) == 0
    view = view_of(run)
    assert 0 < view.step < 100000
    assert view.validations[-1].n_cases == 2
    # Validations use one case, but every fifth uses all cases, and only the latter choose the best checkpoint.
    between = view.validations[:-1]
    assert [record.n_cases for record in between] == [2 if n % 5 == 0 else 1 for n in range(1, len(between) + 1)]
    assert [record.subset for record in between if record.n_cases == 1] == ["fixed 1 of 2"] * len(
        [record for record in between if record.n_cases == 1]
    )
    best = json.loads((run / "checkpoints" / "best" / "state.json").read_text(encoding="utf-8"))["best"]
    assert best["step"] in [record.step for record in view.validations if record.n_cases == 2]


def test_divergence_fails_with_a_remedy_and_leaves_no_broken_weights(
    make_run: MakeRun, run_attempt: RunAttempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    from patchcore.training import loss

    real, calls = loss.DiceCrossEntropyLoss.forward, [0]

    def forward(self: object, logits: object, target: object) -> object:
        calls[0] += 1
        value = real(self, logits, target)  # type: ignore[arg-type]
        return value * float("nan") if calls[0] == 5 else value

    monkeypatch.setattr(loss.DiceCrossEntropyLoss, "forward", forward)
    run = make_run()
    assert run_attempt(run) == 1
    view = view_of(run)
    assert view.states[-1].state == "failed"
    assert "optim.lr" in (view.alerts[-1].remedy or "")
    assert json.loads((run / "checkpoints" / "last" / "state.json").read_text(encoding="utf-8"))["step"] == 3


def test_full_disk_fails_clearly_and_resumes(
    make_run: MakeRun, run_attempt: RunAttempt, monkeypatch: pytest.MonkeyPatch, losses: Losses
) -> None:
    from patchcore.models import checkpoint

    real, calls = checkpoint.save_file, [0]

    def save_file(tensors: object, path: Path) -> None:
        calls[0] += 1
        if calls[0] > 4:
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device", str(path))
        real(tensors, path)  # type: ignore[arg-type]

    run, unbroken = make_run(), make_run()
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save_file", save_file)
        assert run_attempt(run) == 1
    assert "No space left" in view_of(run).alerts[-1].message
    assert not list((run / "checkpoints").glob(".*"))
    assert run_attempt(run, 2) == 0
    assert run_attempt(unbroken) == 0
    assert losses(run) == losses(unbroken)


def test_overrides_of_a_resume(make_run: MakeRun, run_attempt: RunAttempt, losses: Losses) -> None:
    run = make_run()
    assert run_attempt(run) == 0
    assert run_attempt(run, 2, train={"steps": 8}) == 0
    assert max(losses(run)) == 8


def test_a_resume_keeps_its_cases_whatever_came_to_the_study_since(
    tiny_study: Path, make_run: MakeRun, run_attempt: RunAttempt, losses: Losses
) -> None:
    study = Study(tiny_study)
    unbroken, run = make_run(), make_run()
    for one in (unbroken, run):
        assert run_attempt(one, 1, train={"steps": 3}) == 0
    assert run_attempt(unbroken, 2) == 0
    first = study.accepted()[0]
    extra = first.model_copy(update={"case_id": "case99", "patient": "case99"})
    study.write_cases([*study.accepted(), extra])
    assert run_attempt(run, 2) == 0
    assert losses(run) == losses(unbroken)
    split = json.loads((run / "split.json").read_text(encoding="utf-8"))
    assert len(split["train"]) + len(split["validation"]) == 6
    # A removed case is reported, and training continues with the other cases.
    study.write_cases([record for record in study.accepted() if record.case_id != split["train"][0]])
    assert run_attempt(run, 3, train={"steps": 8}) == 0
    assert any("that are no longer accepted are skipped: " in alert.message for alert in view_of(run).alerts)


def test_epochs_instead_of_steps(make_run: MakeRun, run_attempt: RunAttempt, losses: Losses) -> None:
    run = make_run("train.epochs=3", "train.steps=1000")
    assert run_attempt(run) == 0
    assert max(losses(run)) == 9


def test_patience_ends_a_training_that_does_not_get_better(
    make_run: MakeRun, run_attempt: RunAttempt, losses: Losses
) -> None:
    run = make_run("train.steps=300", "train.patience=2", "optim.lr=1e-12", "optim.min_lr_share=1")
    assert run_attempt(run) == 0
    # The first validation is the best; two more end the training, even if an attempt ends between them.
    assert max(losses(run)) == 9
    resumed = make_run("train.steps=5", "train.patience=2", "optim.lr=1e-12", "optim.min_lr_share=1")
    assert run_attempt(resumed) == 0
    assert run_attempt(resumed, 2, train={"steps": 300}) == 0
    assert max(losses(resumed)) <= 12


def test_compiling_that_fails_is_reported_and_done_without(
    make_run: MakeRun, run_attempt: RunAttempt, losses: Losses, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def compiler(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no compiler here\nand more")

    plain, run = make_run(), make_run("train.compile=graphs")
    assert run_attempt(plain) == 0
    monkeypatch.setattr(torch, "compile", compiler)
    assert run_attempt(run) == 0
    assert any("torch.compile failed (RuntimeError: no compiler here)" in a.message for a in view_of(run).alerts)
    assert losses(run) == losses(plain)


def test_a_profile_is_of_the_compiled_network(tiny_study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    runs = []

    def compiler(network: torch.nn.Module, **_: Any) -> torch.nn.Module:
        class Compiled(torch.nn.Module):
            def forward(self, image: torch.Tensor) -> Any:
                runs.append(image.shape)
                return network(image)

        return Compiled()

    settings = [*TINY, "train.compile=default"]
    monkeypatch.setattr(torch, "compile", compiler)
    assert profile_step(tiny_study, settings=settings, steps=1).compiled
    assert len(runs) >= 2 + 1 + 1  # two test runs, one timed step, one traced step

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr(profiling, "step_footprint", broken)
    found = profile_step(tiny_study, settings=settings, steps=1)
    assert not found.compiled
    assert found.expected_bytes is None
    assert "no compiler here" in found.warnings[0]


def test_all_cases_are_evaluated_at_the_end_also_where_some_were_at_that_step(
    make_run: MakeRun, run_attempt: RunAttempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, steps, real = make_run("validation.max_cases=1"), iter(range(3)), step_module.supervised_loss

    def power_cut(*arguments: Any) -> Any:
        if next(steps, None) is None:
            raise OSError("cut off")
        return real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(step_module, "supervised_loss", power_cut)
        assert run_attempt(run, 1) == 1
    assert [record.n_cases for record in view_of(run).validations] == [1]
    assert not (run / "checkpoints" / "best").exists()
    # Continues at step 3, where only the validation is left to do.
    assert run_attempt(run, 2, train={"steps": 3}) == 0
    assert [record.n_cases for record in view_of(run).validations] == [2]
    assert (run / "checkpoints" / "best").exists()


@pytest.mark.slow
def test_compiled_steps_learn_the_same(make_run: MakeRun, run_attempt: RunAttempt, losses: Losses) -> None:
    plain, run = make_run(*PLAIN_SGD, "optim.lr=1e-2"), make_run(*PLAIN_SGD, "optim.lr=1e-2", "train.compile=default")
    assert run_attempt(plain) == run_attempt(run) == 0
    assert not [alert for alert in view_of(run).alerts if "compile" in alert.message]
    for step, loss in losses(plain).items():
        assert losses(run)[step] == pytest.approx(loss, abs=2e-3)
    assert json.loads((run / "attempts" / "1" / "start.json").read_text(encoding="utf-8"))["compile"] == "default"


def test_bf16_on_a_cpu_is_refused(make_run: MakeRun, run_attempt: RunAttempt) -> None:
    run = make_run("train.precision=bf16", "train.device=cpu")
    assert run_attempt(run) == 1
    assert "bf16 on a CPU" in view_of(run).alerts[-1].message


def test_a_bad_case_is_excluded_with_an_alert(tiny_study: Path, make_run: MakeRun, run_attempt: RunAttempt) -> None:
    study = Study(tiny_study)
    run = make_run()
    # The file was removed after the analysis.
    records = [
        record.model_copy(update={"image": record.image.moved(record.image.path.with_name("gone.nii.gz"))})
        if number == 0
        else record
        for number, record in enumerate(study.accepted())
        if record.image is not None
    ]
    study.write_cases(records)
    assert run_attempt(run) == 0
    assert any("case case00 is skipped" in alert.message for alert in view_of(run).alerts)


def test_cuda_asked_for_and_absent(make_run: MakeRun, run_attempt: RunAttempt, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    run = make_run("train.device=cuda")
    assert run_attempt(run) == 1
    assert "CUDA" in view_of(run).alerts[-1].message


def test_refusals_before_anything_is_started(tiny_study: Path, make_run: MakeRun) -> None:
    study = Study(tiny_study)
    with pytest.raises(ConfigError, match="unknown key"):
        make_run("train.stepz=3")
    with pytest.raises(DataError, match="fill 99 folds"):
        make_run("train.folds=99")
    plan = json.loads(study.plan_path.read_text(encoding="utf-8"))
    plan["targets"][0] |= {"lesion_label": 7, "classes": [7]}
    study.plan_path.write_text(json.dumps(plan))
    with pytest.raises(EmptyClassError, match="class 7"):
        make_run()
    study.plan_path.unlink()
    with pytest.raises(StudyError, match="patchcore plan"):
        make_run()
    assert list(study.runs_dir.iterdir()) == []


def test_two_trainers_on_one_run(make_run: MakeRun, run_attempt: RunAttempt) -> None:
    from patchcore.errors import LockedError
    from patchcore.runs import RunWriter

    run = make_run()
    (run / "attempts" / "1").mkdir()
    with RunWriter(run, 1) as writer:
        writer.state(RunState.RUNNING)
        with pytest.raises(LockedError):
            run_attempt(run, 2)


def test_create_run_names_the_patch(tiny_study: Path) -> None:
    assert "patch8" in create_run(tiny_study, settings=["train.folds=3"]).name
