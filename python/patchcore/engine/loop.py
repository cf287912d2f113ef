"""The training loop: one function that reads from top to bottom.

A step is counted when it is done, so an event of step n tells of the n-th update, and a checkpoint of step n is
resumed with step n + 1.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from patchcore.config.plan import TargetPlan
from patchcore.config.run import RunConfig
from patchcore.data.prepare import PreparedCase
from patchcore.engine.augment import Augmenter
from patchcore.engine.checkpoint import save_checkpoint
from patchcore.engine.control import Control, Interrupted
from patchcore.engine.device import Placement
from patchcore.engine.loader import BatchLoader, BatchSource
from patchcore.engine.loss import DiceCrossEntropyLoss, window_dsc
from patchcore.engine.network import freeze_encoder
from patchcore.engine.optim import learning_rate
from patchcore.engine.progress import Best, Progress, case_set_id, total_steps
from patchcore.engine.validate import ValidationResult, validate_cases
from patchcore.errors import RunError
from patchcore.events import (
    DATA_WAIT,
    GRAD_NORM,
    LEARNING_RATE,
    LESIONS_DRAWN,
    LESIONS_SEEN,
    STEP_TIME,
    TRAIN_LOSS,
    TRAIN_WINDOW_DSC,
)
from patchcore.runs import RunWriter, Verb

__all__ = ["Outcome", "Training", "run_loop"]

Outcome = Literal["finished", "stop", "pause"]


@dataclass(frozen=True)
class Training:
    """All that the loop needs.

    Attributes:
        config: The resolved configuration.
        target: The plan's target.
        placement: Where to compute.
        network: On its device, in training mode.
        stepped: The same for training steps, compiled where that was asked for.
        optimizer: Over the network's parameters.
        source: The training windows.
        validation: The validation fold.
        checkpoints: ``RUN/checkpoints``.
        steps_per_epoch: Steps between two ends of an epoch.
    """

    config: RunConfig
    target: TargetPlan
    placement: Placement
    network: nn.Module
    stepped: Callable[[Tensor], Tensor]
    optimizer: torch.optim.Optimizer
    source: BatchSource
    validation: Sequence[PreparedCase]
    checkpoints: Path
    steps_per_epoch: int

    def save(self, which: Literal["last", "best"], progress: Progress, writer: RunWriter) -> None:
        """Write a checkpoint and tell of it; `best` holds no optimiser."""
        state = {
            **progress.to_state(),
            "machine": self.placement.machine,
            "epoch": progress.step // self.steps_per_epoch,
        }
        optimizer = self.optimizer if which == "last" else None
        folder = save_checkpoint(self.checkpoints / which, self.network, state, optimizer=optimizer)
        writer.checkpoint(progress.step, which, folder)

    def fixed_subset(self) -> list[int]:
        """Return the validation cases that every validation has in common: evenly spread over the fold's order."""
        count, wanted = len(self.validation), self.config.validation.max_cases
        if not wanted or wanted >= count:
            return list(range(count))
        return [index * count // wanted for index in range(wanted)]


def run_loop(training: Training, progress: Progress, writer: RunWriter, control: Control) -> Outcome:
    """Train until the last step, the time limit, or until told to leave.

    Args:
        training: What to train.
        progress: Where to begin; is kept up to date.
        writer: Where to tell.
        control: What was asked.

    Returns:
        ``"finished"``, or how it was told to leave. In either case the last checkpoint holds everything.

    Raises:
        RunError: The loss is no longer finite.
        CheckpointError: A checkpoint cannot be written; the one before is whole.
    """
    config, network, optimizer, placement = training.config, training.network, training.optimizer, training.placement
    epoch_steps = training.steps_per_epoch
    total, patience = total_steps(config, epoch_steps), config.train.patience
    validate_every = epoch_steps * config.validation.every_epochs
    compute_loss = DiceCrossEntropyLoss()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    augment = Augmenter(config.augment, training.target.spacing, training.target.window_size)
    drawn, seen = progress.lesions_drawn, progress.lesions_seen
    clock = _Clock(progress.seconds)
    saved_step = progress.step

    writer.progress(step=progress.step, total_steps=total, epoch=progress.step // epoch_steps, phase="train")
    with BatchLoader(training.source, progress.step, total) as loader:
        while True:
            step = progress.step
            progress.seconds = clock.seconds()
            scheduled = step > 0 and step % validate_every == 0
            out_of_time = clock.is_out_of_time(config.train.max_minutes, scheduled=scheduled)
            ending = step >= total or out_of_time or 0 < patience <= progress.stale

            # Whatever was asked comes first: a stop is at most one step away.
            control.look()
            if control.leave is not None:
                training.save("last", progress, writer)
                return control.leave

            # Validation belongs to the step it follows. It is told before the checkpoint that remembers it, so one that
            # was cut short, by a stop or a kill, is redone by the resume.
            if ((ending or scheduled) and progress.validated_step < step) or control.validate:
                began = time.monotonic()
                writer.progress(phase="validate", eta_s=clock.eta_s(step, total, validate_every))
                try:
                    _validate(training, progress, writer, control, whole=ending, counts=ending or scheduled)
                except Interrupted:
                    continue
                clock.validation_s = time.monotonic() - began
                writer.progress(phase="train")
                progress.seconds = clock.seconds()
                whole = ending or len(training.fixed_subset()) == len(training.validation)
                ending = ending or (whole and 0 < patience <= progress.stale)
            at_epoch_end = step > 0 and step % epoch_steps == 0
            long_ago = clock.since_save_s() > 60 * config.train.checkpoint_minutes
            if ending or control.checkpoint or long_ago or (at_epoch_end and saved_step < step):
                training.save("last", progress, writer)
                control.done(Verb.CHECKPOINT, detail=f"checkpoint of step {step}")
                clock.saved()
                saved_step = step
            if ending:
                return "finished"

            # One step.
            began = time.monotonic()
            batch = loader.next()
            waited = time.monotonic() - began
            image = batch.image.to(placement.device, non_blocking=True)
            label = batch.label.to(placement.device, non_blocking=True)
            image, label = augment(image, label, batch.augmentation)
            rate = learning_rate(step, total, config.optim)
            for group in optimizer.param_groups:
                group["lr"] = rate
            with placement.precision():
                logits = training.stepped(image)
            loss = compute_loss(logits, label)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if step < config.init.freeze_epochs * epoch_steps:
                freeze_encoder(network)
            norm = nn.utils.clip_grad_norm_(parameters, config.optim.clip_norm)
            value, norm_value = loss.item(), norm.item()
            # Before the update: a checkpoint never holds weights that a broken gradient has touched.
            if not (math.isfinite(value) and math.isfinite(norm_value)):
                raise _diverged(step + 1, value, norm_value, config)
            optimizer.step()

            # Tell.
            step += 1
            progress.step = step
            drawn |= batch.lesions_drawn
            seen |= batch.lesions_seen
            clock.stepped(time.monotonic() - began)
            values = {
                TRAIN_LOSS: value,
                TRAIN_WINDOW_DSC: window_dsc(logits.detach(), label),
                GRAD_NORM: norm_value,
                LEARNING_RATE: rate,
                STEP_TIME: time.monotonic() - began,
                DATA_WAIT: waited,
            }
            if step % epoch_steps == 0 or step == total:
                values |= {LESIONS_DRAWN: len(drawn), LESIONS_SEEN: len(seen)}
            epoch = (step - 1) // epoch_steps
            writer.metric(step, epoch, values)
            writer.progress(step=step, epoch=epoch, eta_s=clock.eta_s(step, total, validate_every))


def _validate(
    training: Training, progress: Progress, writer: RunWriter, control: Control, *, whole: bool, counts: bool
) -> None:
    """Validate, tell, and keep the best; raises Interrupted where a stop or pause is asked for meanwhile.

    One that was only asked for by hand does not count towards the patience.
    """
    step = progress.step
    epoch = max(0, step - 1) // training.steps_per_epoch
    subset = training.fixed_subset()
    everything = list(range(len(training.validation)))
    indices = everything if whole else subset
    validation_id = f"{step:07d}"

    def tell(record: dict[str, Any]) -> None:
        writer.case(validation_id, record, step=step, epoch=epoch)

    result = validate_cases(
        training.network,
        training.validation,
        training.target,
        training.placement,
        indices=indices,
        overlap=training.config.validation.overlap,
        look=control.look_or_leave,
        on_case=tell,
    )
    name = "all" if len(indices) == len(everything) else f"fixed {len(indices)} of {len(everything)}"
    writer.validation(step, epoch, validation_id, result.metrics(), n_cases=len(indices), subset=name)
    fresh, progress.validated_step = progress.validated_step < step, step
    progress.stale += counts and fresh
    control.done(Verb.VALIDATE, detail=f"mean DSC {result.mean():.4f} after step {step}")
    _keep_best(training, progress, writer, result, subset)
    print(f"step {step}: validation DSC {result.mean():.4f} on {len(indices)} cases (training grid)", flush=True)


def _keep_best(
    training: Training, progress: Progress, writer: RunWriter, result: ValidationResult, subset: Sequence[int]
) -> None:
    # Also after a validation of all cases the subset decides: scores of different cases do not compare.
    case_ids = [training.validation[index].case_id for index in subset]
    mean, case_set = result.mean(case_ids), case_set_id(case_ids)
    if progress.improves(mean, case_set):
        progress.stale = 0
        progress.best = Best(-1.0 if math.isnan(mean) else mean, progress.step, case_set)
        training.save("best", progress, writer)


def _diverged(step: int, loss: float, norm: float, config: RunConfig) -> RunError:
    return RunError(
        f"training diverged at step {step}: loss {loss:g}, gradient norm {norm:g}",
        found=loss,
        remedy=f"start anew with a lower optim.lr (now {config.optim.lr:g}) or more optim.warmup_steps "
        f"(now {config.optim.warmup_steps}), or with train.precision=fp32",
    )


class _Clock:
    """Time in the loop, over all attempts, and what is left of it."""

    def __init__(self, seconds_before: float) -> None:
        self._began = time.monotonic() - seconds_before
        self._saved = time.monotonic()
        self._step_s: float | None = None
        self.validation_s = 0.0

    def seconds(self) -> float:
        return time.monotonic() - self._began

    def since_save_s(self) -> float:
        return time.monotonic() - self._saved

    def saved(self) -> None:
        self._saved = time.monotonic()

    def stepped(self, seconds: float) -> None:
        self._step_s = seconds if self._step_s is None else 0.95 * self._step_s + 0.05 * seconds

    def is_out_of_time(self, max_minutes: float, *, scheduled: bool) -> bool:
        """Whether the limit leaves no time but for the final validation, nor for a `scheduled` one before it."""
        reserve_s = self.validation_s * (2 if scheduled else 1)
        return max_minutes > 0 and self.seconds() + reserve_s >= 60 * max_minutes

    def eta_s(self, step: int, total: int, validate_every: int) -> float | None:
        if self._step_s is None:
            return None
        validations = math.ceil((total - step) / validate_every)
        return (total - step) * self._step_s + validations * self.validation_s
