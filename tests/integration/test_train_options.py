"""Options of a training: each works as documented, and a resume still repeats the training exactly."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_training import PLAIN_SGD, ROUNDING

from patchcore.config import TargetPlan, resolve_config
from patchcore.errors import ConfigError, PatchSizeError
from patchcore.runs import RunReader, RunView, read_cases
from patchcore.study import Study
from patchcore.training.control import Control

MakeRun = Callable[..., Path]
RunAttempt = Callable[..., int]
Losses = Callable[[Path], dict[int, float]]


def view_of(run: Path) -> RunView:
    return RunReader(run).poll()


def pause_after(monkeypatch: pytest.MonkeyPatch, steps: int, cases: int = 6) -> None:
    looks = 0

    def look(control: Control) -> None:
        nonlocal looks
        looks += 1
        # Every case is prepared first, with one look each.
        if looks == cases + steps + 1:
            control.leave = "pause"

    monkeypatch.setattr(Control, "look", look)


@pytest.mark.parametrize(
    "settings",
    [
        ("optim.optimizer=sgd", "optim.schedule=polynomial", "optim.lr=1e-2"),
        ("optim.optimizer=sgd", "optim.momentum=0", "optim.lr=1e-2"),
        ("model.deep_supervision=true", "loss.batch_dice=true"),
        ("train.accumulate=2",),
        ("model.checkpointing=true",),
        ("model.network=segresnet",),
        ("optim.ema=0.9",),
    ],
    ids=lambda settings: settings[0],
)
def test_resumed_bit_for_bit_with(
    settings: tuple[str, ...],
    make_run: MakeRun,
    run_attempt: RunAttempt,
    losses: Losses,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unbroken, broken = make_run(*settings), make_run(*settings)
    assert run_attempt(unbroken) == 0
    with monkeypatch.context() as patched:
        pause_after(patched, 4)
        assert run_attempt(broken) == 75
    assert 0 < max(losses(broken)) < 6
    assert run_attempt(broken, 2) == 0
    assert losses(broken) == losses(unbroken)
    found = list(losses(unbroken).values())
    assert all(math.isfinite(loss) for loss in found)
    assert len(set(found)) == 6


def test_parts_of_a_step_add_up_to_it(
    make_run: MakeRun, run_attempt: RunAttempt, losses: Losses, gradients_agree: Callable[..., None]
) -> None:
    settings = ("augment.affine_share=0", "optim.lr=1e-2")
    gradients_agree(settings, (*settings, "train.accumulate=4"))
    whole, parts = make_run(*PLAIN_SGD, *settings), make_run(*PLAIN_SGD, *settings, "train.accumulate=4")
    assert run_attempt(whole) == run_attempt(parts) == 0
    for step, loss in losses(whole).items():
        assert losses(parts)[step] == pytest.approx(loss, rel=ROUNDING)


def test_checkpointing_changes_nothing_but_memory(make_run: MakeRun, run_attempt: RunAttempt, losses: Losses) -> None:
    # With dropout on: the repeated forward pass must draw the same numbers.
    plain, saving = make_run(), make_run("model.checkpointing=true")
    assert run_attempt(plain) == run_attempt(saving) == 0
    assert losses(saving) == losses(plain)


def test_the_average_of_the_weights_is_what_is_evaluated_and_kept(
    tiny_study: Path, make_run: MakeRun, run_attempt: RunAttempt, losses: Losses
) -> None:
    from safetensors.torch import load_file

    from patchcore.inference.predictor import Predictor
    from patchcore.inference.tuned import weights_digest

    # Only one validation, at the end: it is the best.
    plain, averaged = (make_run("validation.every_epochs=100", ema) for ema in ("optim.ema=0", "optim.ema=0.5"))
    assert run_attempt(plain) == run_attempt(averaged) == 0
    # The average does not change the training itself.
    assert losses(averaged) == losses(plain)
    last = averaged / "checkpoints" / "last"
    weights, average = load_file(last / "model.safetensors"), load_file(last / "ema.safetensors")
    name = "decoder2.conv_block.conv1.conv.weight"
    assert weights[name].equal(load_file(plain / "checkpoints" / "last" / "model.safetensors")[name])
    assert not weights[name].equal(average[name])
    [source] = Predictor.of_run(averaged, checkpoint="last").sources
    assert (source.step, source.weights_sha256) == (6, weights_digest(average))
    assert source.weights_sha256 != weights_digest(weights)
    best = json.loads((averaged / "checkpoints" / "last" / "state.json").read_text(encoding="utf-8"))["best"]
    assert best["step"] == 6
    assert load_file(averaged / "checkpoints" / "best" / "model.safetensors")[name].equal(average[name])
    assert not (averaged / "checkpoints" / "best" / "ema.safetensors").exists()


def test_batch_dice_is_another_loss(make_run: MakeRun, run_attempt: RunAttempt, losses: Losses) -> None:
    single, batch = make_run(), make_run("loss.batch_dice=true")
    assert run_attempt(single) == run_attempt(batch) == 0
    assert losses(single)[1] != losses(batch)[1]


@pytest.mark.parametrize("network", ["dynunet", "segresnet"])
def test_other_networks_train_predict_and_evaluate(
    network: str, tiny_study: Path, make_run: MakeRun, run_attempt: RunAttempt, losses: Losses
) -> None:
    from patchcore.evaluation.evaluate import evaluate

    run = make_run(f"model.network={network}", "train.steps=2", "train.steps_per_epoch=2")
    assert run_attempt(run) == 0
    assert sorted(losses(run)) == [1, 2]
    assert evaluate(tiny_study, run).n == 2


def test_a_network_of_the_users_own(
    make_run: MakeRun, run_attempt: RunAttempt, losses: Losses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_networks.py").write_text(
        "from torch import nn\n"
        "def flat(in_channels, out_channels, window_size, patch_size):\n"
        "    return nn.Conv3d(in_channels, out_channels, 3, padding=1)\n"
        "def wrong(in_channels, out_channels, window_size, patch_size):\n"
        "    return nn.Conv3d(in_channels, out_channels, 3)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_networks", raising=False)
    run = make_run("model.network=my_networks:flat")
    assert run_attempt(run) == 0
    assert len(losses(run)) == 6
    wrong = make_run("model.network=my_networks:wrong")
    assert run_attempt(wrong) == 1
    assert "(1, 2, 14, 14, 14) for a window of (16, 16, 16)" in view_of(wrong).alerts[-1].message


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        (("model.network=resnet",), ConfigError, "dynunet"),
        (("model.network=nowhere:net",), ConfigError, "cannot be imported"),
        (("model.network=swin-unetr",), PatchSizeError, "--window 64,32,32"),
        (("model.network=monai-unetr",), PatchSizeError, "has patch size 16"),
        (("model.network=segresnet", "model.deep_supervision=true"), ConfigError, "use one of unetr"),
        (("model.network=segresnet", "init.freeze_epochs=1"), ConfigError, "no transformer"),
        (("train.batch_size=3", "train.accumulate=2"), ConfigError, "multiple of 2"),
        (("train.batch_size=3", "train.ranks=2"), ConfigError, "multiple of 2"),
        (("train.compile=graphs", "train.accumulate=2"), ConfigError, "train.compile=default"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_cannot_be_is_refused_before_anything_is_started(
    settings: tuple[str, ...], error: type[Exception], words: str, make_run: MakeRun
) -> None:
    with pytest.raises(error, match=words):
        make_run(*settings)


def test_a_limit_of_time_chooses_the_subset_for_good(
    make_run: MakeRun, run_attempt: RunAttempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run("train.steps=15", "validation.max_minutes=1e-6", "validation.whole_every=3")
    with monkeypatch.context() as patched:
        pause_after(patched, 7)
        assert run_attempt(run) == 75
    assert run_attempt(run, 2) == 0
    validations = view_of(run).validations
    assert [record.step for record in validations] == [3, 6, 9, 12, 15]
    assert [record.n_cases for record in validations] == [1, 1, 2, 1, 2]
    assert view_of(run).best_validation in [record for record in validations if record.subset == "all"]


def test_previews_of_fixed_and_worst_cases(make_run: MakeRun, run_attempt: RunAttempt) -> None:
    run = make_run("validation.previews=2")
    assert run_attempt(run) == 0
    folders = sorted((run / "preview").iterdir())
    assert [folder.name for folder in folders] == ["0000003", "0000006"]
    for folder in folders:
        files = sorted(folder.iterdir())
        assert len(files) == 2
        worst = []
        for path in files:
            with np.load(path, allow_pickle=False) as found:
                worst.append(bool(found["worst"]))
                for plane in ("axial", "coronal", "sagittal"):
                    shapes = {found[f"{kind}_{plane}"].shape for kind in ("image", "label", "prediction")}
                    assert len(shapes) == 1
                    assert found[f"label_{plane}"].max() == 1
                    assert found[f"image_{plane}"].dtype == np.uint8
        assert sorted(worst) == [False, True]
    without = make_run("validation.previews=0")
    assert run_attempt(without) == 0
    assert not (without / "preview").exists()


def test_fixed_previews_are_of_the_cases_that_are_always_validated(
    tiny_study: Path, make_run: MakeRun, run_attempt: RunAttempt
) -> None:
    run = make_run("train.folds=2", "validation.max_cases=2", "validation.previews=1")
    assert run_attempt(run) == 0
    order = json.loads((run / "split.json").read_text(encoding="utf-8"))["validation"]
    # The first two of three cases are in the subset; one of them gets a preview.
    assert [path.stem for path in sorted((run / "preview" / "0000003").iterdir())] == [order[0]]


def test_lesions_found_and_false_ones_are_reported(make_run: MakeRun, run_attempt: RunAttempt) -> None:
    run = make_run("train.steps=150", "train.steps_per_epoch=150", "optim.lr=3e-3", "model.dropout=0")
    assert run_attempt(run) == 0
    values = view_of(run).validations[-1].values
    assert values["val/lesion_recall"] == 1
    assert 0 < values["val/lesion_precision"] <= 1
    assert any(name.startswith("val/lesion_recall/bin/") for name in values)
    record = read_cases(run, view_of(run).validations[-1].validation_id)[0]
    assert record["lesions_found"] == record["lesion_count"] == 1
    assert record["false_positives"] == sum(item["share_lesion"] == 0 for item in record["predicted"])


def test_tensorboard_events_lie_beside(make_run: MakeRun, run_attempt: RunAttempt) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = make_run("train.tensorboard=true")
    assert run_attempt(run, 1, train={"steps": 3}) == 0
    assert run_attempt(run, 2) == 0
    found = EventAccumulator(str(run / "tensorboard"))
    found.Reload()
    assert [event.step for event in found.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in found.Scalars("val/dsc_mean")] == [3, 6]


def test_tensorboard_that_cannot_write_is_reported_and_done_without(
    make_run: MakeRun, run_attempt: RunAttempt, losses: Losses
) -> None:
    run = make_run("train.tensorboard=true")
    (run / "tensorboard").write_text("a file is in the way")
    assert run_attempt(run) == 0
    assert len(losses(run)) == 6
    assert any("TensorBoard" in alert.message for alert in view_of(run).alerts)


def test_out_of_memory_is_reported_where_no_remedy_can_be_found(
    make_run: MakeRun, run_attempt: RunAttempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    from patchcore.training import failure, step

    def no_room(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(step, "supervised_loss", no_room)
    monkeypatch.setattr(failure, "memory_remedy", no_room)
    run = make_run()
    assert run_attempt(run) == 1
    assert view_of(run).states[-1].state == "out of memory"
    assert "train.batch_size" in (view_of(run).alerts[-1].remedy or "")


@pytest.mark.parametrize(
    ("windows", "checkpointing", "words"),
    [
        (2, False, "set train.accumulate=2"),
        (1, False, "set train.accumulate=4"),
        (2, True, "set model.checkpointing=true and train.accumulate=2"),
        (0, True, "no larger train.accumulate and no smaller window"),
    ],
)
def test_out_of_memory_names_what_would_fit(
    windows: int,
    checkpointing: bool,
    words: str,
    make_run: MakeRun,
    run_attempt: RunAttempt,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    from patchcore.config.run import MODEL_PRESETS, ModelConfig
    from patchcore.models.footprint import footprint
    from patchcore.training import memory, step

    def no_room(*_: Any) -> Any:
        raise torch.OutOfMemoryError("no room")

    config = ModelConfig(**MODEL_PRESETS["tiny"], dropout=0.1, checkpointing=checkpointing)
    found = footprint(config, out_channels=2, window_size=(16, 16, 16), patch_size=(8, 8, 8), spacing=(1.5, 1.5, 2.0))
    monkeypatch.setattr(step, "supervised_loss", no_room)
    room = int(found.step_bytes(windows) / 0.85) + 2
    # Memory held by the failed step counts as free for the next attempt.
    monkeypatch.setattr(memory, "anonymous_bytes", lambda: room // 2)
    monkeypatch.setattr(memory, "available_bytes", lambda: room - room // 2)
    run = make_run("train.batch_size=4")
    assert run_attempt(run) == 1
    view = view_of(run)
    assert view.states[-1].state == "out of memory"
    assert words in (view.alerts[-1].remedy or "")


def test_a_smaller_window_is_reported_of_a_network_that_cannot_be_checkpointed(
    tiny_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from patchcore.config.run import RunConfig
    from patchcore.models.footprint import Footprint
    from patchcore.training import memory

    def footprint(config: RunConfig, target: TargetPlan, _: Any) -> Footprint:
        if config.model.checkpointing:
            raise ConfigError("this network cannot be checkpointed")
        return Footprint(0, 0, math.prod(target.window_size), 0)

    monkeypatch.setattr(memory, "step_footprint", footprint)
    monkeypatch.setattr(memory, "anonymous_bytes", lambda: 0)
    monkeypatch.setattr(memory, "available_bytes", lambda: int(24**3 / 0.85) + 2)
    target = Study(tiny_study).plan().target.model_copy(update={"window_size": (32, 24, 24)})
    remedy = memory.memory_remedy(resolve_config(None, ["train.batch_size=1", "train.device=cpu"]), target)
    assert remedy.startswith("set a window of 24,24,24 (patchcore plan --window): a step then takes about")


def test_settings_are_kept_with_the_run(make_run: MakeRun) -> None:
    config = json.loads((make_run("loss.batch_dice=true") / "run.json").read_text(encoding="utf-8"))["config"]
    assert config["loss"]["batch_dice"] is True
    assert config["model"]["network"] == "unetr"
