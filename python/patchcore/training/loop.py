"""The training loop: one function that reads from top to bottom.

Steps are counted when they are done. An event of step n therefore reports the n-th update, and a resume from a
checkpoint of step n continues with step n + 1.
"""

from __future__ import annotations

import math
import time
from typing import Literal

from patchcore.runs import Verb
from patchcore.runs.events import (
    DATA_WAIT,
    GRAD_NORM,
    LEARNING_RATE,
    LESIONS_DRAWN,
    LESIONS_SEEN,
    PATCH_SIZE,
    STEP_TIME,
    TRAIN_LOSS,
    TRAIN_WINDOW_DSC,
    WINDOWS_PER_SECOND,
)
from patchcore.training.control import LEAVING, Control, Interrupted, Leaving
from patchcore.training.loader import BatchLoader
from patchcore.training.optim import learning_rate
from patchcore.training.progress import Progress, total_steps
from patchcore.training.selection import validate
from patchcore.training.silence import Writer
from patchcore.training.state import Training
from patchcore.training.step import TrainingStep

__all__ = ["Outcome", "run_loop"]

Outcome = Literal["finished"] | Leaving


def run_loop(training: Training, progress: Progress, writer: Writer, control: Control) -> Outcome:
    """Train until the last step, the time limit, or a stop or pause request.

    Args:
        training: What to train.
        progress: The starting point; updated during the training.
        writer: Records events.
        control: Receives requests.

    Returns:
        ``"finished"``, ``"stop"`` or ``"pause"``. In each case the last checkpoint holds the complete progress.

    Raises:
        RunError: The loss or the gradient is not finite.
        CheckpointError: A checkpoint cannot be written; the previous one is still complete.
    """
    config, ranks, epoch_steps = training.config, training.ranks, training.steps_per_epoch
    total, patience = total_steps(config, epoch_steps), config.train.patience
    validate_every = epoch_steps * config.validation.every_epochs
    make_step = TrainingStep(
        config,
        training.target,
        training.placement,
        network=training.network,
        stepped=training.stepped,
        optimizer=training.optimizer,
        ranks=ranks,
        average=training.average,
    )
    drawn, seen = progress.lesions_drawn, progress.lesions_seen
    clock = _Clock(progress.seconds)
    saved_step = progress.step

    writer.progress(step=progress.step, total_steps=total, epoch=progress.step // epoch_steps, phase="train")
    with BatchLoader(training.source, progress.step, total) as loader:
        while True:
            step = progress.step
            progress.seconds = clock.seconds()
            scheduled = step > 0 and step % validate_every == 0
            at_epoch_end = step > 0 and step % epoch_steps == 0

            # Requests come first: a stop takes effect after at most one step. Rank 0 decides for all ranks.
            control.look()
            leave, asked, checkpoint, ending = ranks.agree(
                LEAVING.index(control.leave),
                control.validate,
                control.checkpoint or clock.is_save_due(config.train.checkpoint_minutes),
                step >= total
                or clock.is_out_of_time(config.train.max_minutes, progress.case_s * len(training.validation), scheduled)
                or 0 < patience <= progress.stale,
            )
            if reason := LEAVING[leave]:
                training.save("last", progress, writer)
                return reason

            # A validation belongs to the step before it. It is recorded before the checkpoint that marks it as done.
            # A resume therefore repeats a validation that a stop or kill interrupted. At the end all cases are
            # validated, even if some of them were already validated at this step.
            wanted = (scheduled and progress.validated_step < step) or (ending and progress.whole_step < step)
            if wanted or asked:
                began = time.monotonic()
                writer.progress(phase="validate", eta_s=clock.eta_s(step, total, validate_every))
                try:
                    validate(training, progress, writer, control, whole=bool(ending), counts=bool(ending) or scheduled)
                except Interrupted:
                    continue
                clock.validation_s = time.monotonic() - began
                writer.progress(phase="train")
                progress.seconds = clock.seconds()
                (ending,) = ranks.agree(ending or (progress.whole_step == step and 0 < patience <= progress.stale))
            if ending or checkpoint or (at_epoch_end and saved_step < step):
                training.save("last", progress, writer)
                control.done(Verb.CHECKPOINT, detail=f"checkpoint of step {step}")
                clock.saved()
                saved_step = step
            if ending:
                return "finished"

            began = time.monotonic()
            batch = loader.next()
            waited = time.monotonic() - began
            rate = learning_rate(step, total, config.optim)
            result = make_step(batch, step, rate, freeze=step < config.init.freeze_epochs * epoch_steps)

            # Report.
            step += 1
            progress.step = step
            drawn |= batch.lesions_drawn
            seen |= batch.lesions_seen
            seconds = time.monotonic() - began
            clock.stepped(seconds)
            values = {
                TRAIN_LOSS: result.loss,
                TRAIN_WINDOW_DSC: result.window_dsc,
                GRAD_NORM: result.gradient_norm,
                LEARNING_RATE: rate,
                STEP_TIME: seconds,
                DATA_WAIT: waited,
                WINDOWS_PER_SECOND: config.train.batch_size / seconds,
            }
            if make_step.is_flexible:
                values[PATCH_SIZE] = max(make_step.patch_size)
            if step % epoch_steps == 0 or step == total:
                values |= {LESIONS_DRAWN: len(drawn), LESIONS_SEEN: len(seen)}
            epoch = (step - 1) // epoch_steps
            writer.metric(step, epoch, values)
            training.board.scalars(step, values)
            writer.progress(step=step, epoch=epoch, eta_s=clock.eta_s(step, total, validate_every))


class _Clock:
    """Measures the time in the loop over all attempts and estimates the remaining time."""

    def __init__(self, seconds_before: float) -> None:
        self._began = time.monotonic() - seconds_before
        self._saved = time.monotonic()
        self._step_s: float | None = None
        self.validation_s = 0.0

    def seconds(self) -> float:
        return time.monotonic() - self._began

    def is_save_due(self, minutes: float) -> bool:
        """Whether the last checkpoint is older than this."""
        return time.monotonic() - self._saved > 60 * minutes

    def saved(self) -> None:
        self._saved = time.monotonic()

    def stepped(self, seconds: float) -> None:
        self._step_s = seconds if self._step_s is None else 0.95 * self._step_s + 0.05 * seconds

    def is_out_of_time(self, max_minutes: float, whole_s: float, scheduled: bool) -> bool:
        """Whether the remaining time is only enough for the final validation, and a `scheduled` one before it.

        `whole_s` is the duration of a validation of all cases.
        """
        reserve_s = whole_s * (2 if scheduled else 1)
        return max_minutes > 0 and self.seconds() + reserve_s >= 60 * max_minutes

    def eta_s(self, step: int, total: int, validate_every: int) -> float | None:
        if self._step_s is None:
            return None
        validations = math.ceil((total - step) / validate_every)
        return (total - step) * self._step_s + validations * self.validation_s
