"""A step does what its settings say: rate, clipping, decay, accumulation, average. Each number is computed by hand."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from patchcore.config import resolve_config
from patchcore.config.plan import TargetPlan
from patchcore.config.run import RunConfig, TrainConfig
from patchcore.errors import RunError
from patchcore.models.device import place
from patchcore.training.loader import Batch
from patchcore.training.optim import WeightAverage, learning_rate, make_optimizer
from patchcore.training.progress import Best, Progress, steps_per_epoch, total_steps
from patchcore.training.ranks import Ranks
from patchcore.training.step import TrainingStep

OFF = (
    "augment.flips=false",
    "augment.quarter_turns=false",
    *(f"augment.{name}_share=0" for name in ("affine", "noise", "blur", "gamma", "low_resolution")),
)
SGD = ("optim.optimizer=sgd", "optim.momentum=0", "optim.weight_decay=0", "optim.clip_norm=1e9")


def target() -> TargetPlan:
    plan: dict[str, Any] = {
        "lesion_label": 1, "label_name": "tumour", "classes": (1,), "rule": "mean-volume", "patch_size": (4, 4, 4),
        "spacing": (1.0, 1.0, 1.0), "window_size": (8, 8, 8), "hu_range": (0.0, 1.0), "connectivity": 26,
        "min_volume_mm3": 0.0, "lesion_count": 1, "patient_count": 1, "mean_volume_mm3": 1.0, "median_volume_mm3": 1.0,
        "ideal_edges": (), "candidates": (), "rules": (), "padding_share": 0.0, "reason": "a test",
    }  # fmt: skip
    return TargetPlan.model_validate(plan)


def config(*settings: str) -> RunConfig:
    known = resolve_config().augment.model_dump()
    return resolve_config(settings=[*(one for one in OFF if one.split(".")[1].split("=")[0] in known), *settings])


def batch(windows: int = 4, *, scale: float = 1.0) -> Batch:
    generator = torch.Generator().manual_seed(1)
    image = scale * torch.rand(windows, 1, 8, 8, 8, generator=generator)
    label = (torch.rand(windows, 8, 8, 8, generator=generator) < 0.3).to(torch.uint8)
    none: Any = None
    return Batch(0, image, label, np.full((windows, 64), 0.5), none, set(), set())


class Lab:
    """A small network and a step on it."""

    def __init__(self, *settings: str, average: float = 0.0) -> None:
        self.config = config("train.batch_size=4", *settings)
        torch.manual_seed(3)
        self.network = nn.Conv3d(1, 2, 3, padding=1)
        self.before = copy.deepcopy(self.network)
        self.optimizer = make_optimizer(self.network, self.config.optim)
        self.average = WeightAverage(self.network, average) if average else None
        placement = place(TrainConfig(device="cpu", threads=1))
        ranks: Any = Ranks(1, placement.device, None, 1)  # type: ignore[arg-type]
        self.step = TrainingStep(
            self.config,
            target(),
            placement,
            network=self.network,
            stepped=self.network,
            optimizer=self.optimizer,
            ranks=ranks,
            average=self.average,
        )

    def moved(self) -> dict[str, torch.Tensor]:
        """How far each parameter has moved."""
        start = dict(self.before.named_parameters())
        return {name: (now - start[name]).detach() for name, now in self.network.named_parameters()}


@pytest.fixture(autouse=True)
def _settings(request: pytest.FixtureRequest) -> Any:
    from patchcore.models.device import settings_kept

    with settings_kept():
        yield


def norm(parts: dict[str, torch.Tensor]) -> float:
    return math.sqrt(sum(float((part.double() ** 2).sum()) for part in parts.values()))


def test_the_rate_of_the_schedule_is_the_rate_of_the_update() -> None:
    small, large = Lab(*SGD, "optim.lr=7"), Lab(*SGD, "optim.lr=7")
    for lab, rate in ((small, 0.01), (large, 0.03)):
        result = lab.step(batch(), 0, rate)
        # Plain gradient descent: the way is rate times gradient.
        assert norm(lab.moved()) == pytest.approx(rate * result.gradient_norm, rel=1e-4)
        assert {group["lr"] for group in lab.optimizer.param_groups} == {rate}
    for name, moved in small.moved().items():
        torch.testing.assert_close(3 * moved, large.moved()[name], rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("share", [0.5, 2.0])
def test_gradients_are_clipped_to_the_norm_and_reported_unclipped(share: float) -> None:
    free = Lab(*SGD).step(batch(), 0, 0.1).gradient_norm
    lab = Lab(*SGD[:-1], f"optim.clip_norm={share * free}")
    result = lab.step(batch(), 0, 0.1)
    assert result.gradient_norm == pytest.approx(free, rel=1e-5)
    assert norm(lab.moved()) == pytest.approx(0.1 * min(1.0, share) * free, rel=1e-4)


def test_weight_decay_has_its_default_for_each_optimiser() -> None:
    network = nn.Conv3d(1, 2, 3)
    for optimizer, setting, expected in (
        ("adamw", (), 1e-2),
        ("sgd", (), 3e-5),
        ("adamw", ("optim.weight_decay=0.3",), 0.3),
        ("sgd", ("optim.weight_decay=0",), 0.0),
    ):
        decayed, plain = make_optimizer(network, config(f"optim.optimizer={optimizer}", *setting).optim).param_groups
        assert (decayed["weight_decay"], plain["weight_decay"]) == (expected, 0.0)
        assert [parameter.ndim for parameter in decayed["params"]] == [5]
        assert [parameter.ndim for parameter in plain["params"]] == [1]
    adamw = make_optimizer(network, config("optim.lr=0.2").optim)
    assert isinstance(adamw, torch.optim.AdamW)
    assert {group["lr"] for group in adamw.param_groups} == {0.2}
    sgd = make_optimizer(network, config("optim.optimizer=sgd", "optim.momentum=0.7", "optim.lr=0.2").optim)
    assert isinstance(sgd, torch.optim.SGD)
    assert {(group["lr"], group["momentum"], group["nesterov"]) for group in sgd.param_groups} == {(0.2, 0.7, True)}
    still = make_optimizer(network, config("optim.optimizer=sgd", "optim.momentum=0").optim)
    assert {(group["momentum"], group["nesterov"]) for group in still.param_groups} == {(0, False)}


def test_parts_add_up_to_the_step() -> None:
    whole, parts = Lab(*SGD), Lab(*SGD, "train.accumulate=4")
    results = [lab.step(batch(), 0, 0.1) for lab in (whole, parts)]
    assert results[0].loss == pytest.approx(results[1].loss, rel=1e-5)
    assert results[0].window_dsc == pytest.approx(results[1].window_dsc, rel=1e-6)
    assert results[0].gradient_norm == pytest.approx(results[1].gradient_norm, rel=1e-4)
    for name, moved in whole.moved().items():
        torch.testing.assert_close(moved, parts.moved()[name], rtol=1e-3, atol=1e-7)


def test_gradients_of_one_step_do_not_reach_the_next() -> None:
    twice, once = Lab(*SGD), Lab(*SGD)
    twice.step(batch(), 0, 0.0)
    twice.step(batch(), 1, 0.1)
    once.step(batch(), 0, 0.1)
    for name, moved in once.moved().items():
        torch.testing.assert_close(moved, twice.moved()[name], rtol=1e-5, atol=1e-8)


def test_the_average_follows_the_weights() -> None:
    lab = Lab(*SGD, average=0.9)
    assert lab.average is not None
    expected = {name: value.detach().clone() for name, value in lab.network.named_parameters()}
    for step in range(4):
        lab.step(batch(), step, 0.1)
        done = step + 1
        keep = min(0.9, (1 + done) / (10 + done))
        for name, value in lab.network.named_parameters():
            expected[name] = keep * expected[name] + (1 - keep) * value.detach()
    for name, value in lab.average.network.named_parameters():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-7)
        assert not value.requires_grad
    assert not lab.average.network.training
    # Far into a training, the decay is the configured one.
    weight = next(lab.network.parameters())
    before = next(lab.average.network.parameters()).clone()
    lab.average.update(10_000)
    torch.testing.assert_close(
        next(lab.average.network.parameters()), 0.9 * before + 0.1 * weight.detach(), rtol=1e-5, atol=1e-7
    )


def test_the_average_takes_over_buffers_and_leaves_frozen_weights() -> None:
    network = nn.Sequential(nn.Conv3d(1, 1, 1), nn.BatchNorm3d(1))
    network[0].weight.requires_grad_(False)
    average = WeightAverage(network, 0.5)
    with torch.no_grad():
        network[0].weight.add_(1)
        network[0].bias.add_(1)
        network[1].running_mean.add_(5)
    average.update(1_000)
    assert average.network[1].running_mean.item() == network[1].running_mean.item()
    assert average.network[0].weight.item() == pytest.approx(network[0].weight.item() - 1)
    assert average.network[0].bias.item() == pytest.approx(network[0].bias.item() - 0.5)


def test_what_diverges_leaves_the_weights_alone() -> None:
    lab = Lab(*SGD)
    with pytest.raises(RunError, match="training diverged at step 5: loss nan"):
        lab.step(batch(scale=math.nan), 4, 0.1)
    assert norm(lab.moved()) == 0


def test_a_frozen_encoder_has_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[nn.Module] = []
    monkeypatch.setattr("patchcore.training.step.freeze_encoder", asked.append)
    lab = Lab(*SGD)
    lab.step(batch(), 0, 0.1)
    assert asked == []
    lab.step(batch(), 1, 0.1, freeze=True)
    assert asked == [lab.network]


@pytest.mark.parametrize("schedule", ["cosine", "polynomial"])
def test_the_schedule_is_the_formula(schedule: str) -> None:
    optim = config("optim.lr=2", "optim.warmup_steps=4", "optim.min_lr_share=0.1", f"optim.schedule={schedule}").optim
    rates = [learning_rate(step, 24, optim) for step in range(25)]
    assert rates[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    for step in range(4, 25):
        t = (step - 4) / 20
        fall = 0.5 * (1 + math.cos(math.pi * t)) if schedule == "cosine" else (1 - t) ** 0.9
        assert rates[step] == pytest.approx(0.2 + 1.8 * fall)
    assert learning_rate(99, 24, optim) == pytest.approx(0.2)
    # A warm-up takes at most half of the steps, and a run of one step has none.
    assert learning_rate(0, 6, optim) == pytest.approx(2 / 3)
    assert learning_rate(2, 6, optim) == pytest.approx(2.0)
    assert learning_rate(0, 1, optim) == pytest.approx(2.0)


def test_progress_survives_a_checkpoint_in_every_field() -> None:
    progress = Progress(
        step=7,
        validated_step=6,
        whole_step=5,
        case_s=1.5,
        seconds=20.25,
        best=Best(0.5, 4, "2-abc"),
        stale=3,
        validations=4,
        subset=2,
        lesions_drawn={(0, 1), (2, 3)},
        lesions_seen={(0, 1)},
    )
    assert Progress.from_state(json.loads(json.dumps(progress.to_state()))) == progress
    assert Progress.from_state({"step": 0}) == Progress()


def test_epochs_and_steps() -> None:
    assert total_steps(config("train.steps=70"), 10) == 70
    assert total_steps(config("train.steps=70", "train.epochs=3"), 10) == 30
    assert steps_per_epoch(config("train.steps_per_epoch=7"), 999) == 7
    assert steps_per_epoch(config("train.steps=500", "train.batch_size=2"), 10) == 50
    assert steps_per_epoch(config("train.steps=500", "train.batch_size=2"), 301) == 151
    # Validations and checkpoints come at most fifty times in a training of many steps.
    assert steps_per_epoch(config("train.steps=20001"), 10) == 401
    assert steps_per_epoch(config("train.steps=20000", "train.epochs=3"), 10) == 50


def test_each_step_seeds_the_draws_of_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab("seed=7")
    seeds: list[tuple[int, int]] = []
    monkeypatch.setattr(lab.step._ranks, "reseed", lambda seed, step: seeds.append((seed, step)))
    for step in (4, 5):
        lab.step(batch(), step, 0.1)
    assert seeds == [(7, 4), (7, 5)]
