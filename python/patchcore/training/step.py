"""Runs one training step: augmentation, forward, loss, backward, clipping, update. Used by the loop and ``profile``."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn

from patchcore.config.plan import TargetPlan
from patchcore.config.run import RunConfig
from patchcore.errors import RunError
from patchcore.models.device import Placement
from patchcore.models.flexible import draw_size
from patchcore.models.unetr import UNETR, flexible_sizes
from patchcore.training.augment import Augmenter
from patchcore.training.loader import Batch
from patchcore.training.loss import make_loss, outputs_of, supervised_loss, window_dsc, window_voxels
from patchcore.training.network import Step, freeze_encoder
from patchcore.training.optim import WeightAverage
from patchcore.training.ranks import Ranks

__all__ = ["PHASES", "StepResult", "TrainingStep"]

PHASES = ("to the device, augmentation", "forward", "loss", "backward", "clipping", "optimiser")
"""Parts of a step, as ``profile`` lists them."""

Phase: TypeAlias = Callable[[str], AbstractContextManager[None]]
"""Returns a context manager for the work of a phase; the argument is one of :data:`PHASES`."""


@dataclass(frozen=True)
class StepResult:
    """Results of a step, over all ranks.

    Attributes:
        loss: Mean loss of the batch.
        gradient_norm: Norm of the gradient before clipping.
        window_dsc: DSC of the batch's windows.
    """

    loss: float
    gradient_norm: float
    window_dsc: float


def _not_measured(_: str) -> AbstractContextManager[None]:
    return nullcontext()


class TrainingStep:
    """Runs training steps.

    Args:
        config: The run's settings.
        target: The plan's target.
        placement: Where to compute.
        network: The network; its parameters are updated.
        stepped: The network as called by steps: possibly compiled or wrapped for several ranks.
        optimizer: Updates the parameters.
        ranks: The processes that share each step.
        average: Moving average of the weights, updated after each step.
        phase: Called around each part of a step, to measure it.

    Attributes:
        patch_size: Patch size of the last step.
    """

    def __init__(
        self,
        config: RunConfig,
        target: TargetPlan,
        placement: Placement,
        *,
        network: nn.Module,
        stepped: Step,
        optimizer: torch.optim.Optimizer,
        ranks: Ranks,
        average: WeightAverage | None = None,
        phase: Phase = _not_measured,
    ) -> None:
        self._config, self._placement, self._ranks = config, placement, ranks
        self._network, self._stepped, self._optimizer = network, stepped, optimizer
        self._average, self._phase = average, phase
        self._compute_loss = make_loss(config.loss, target, across=ranks.add)
        self._ignored = target.ignored_index
        self._parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self._sizes = flexible_sizes(network)
        self.patch_size = target.patch_size
        self._augment = Augmenter(config.augment, target.spacing, target.window_size)

    @property
    def is_flexible(self) -> bool:
        """Whether the patch size differs from step to step."""
        return bool(self._sizes)

    def __call__(self, batch: Batch, step: int, rate: float, *, freeze: bool = False) -> StepResult:
        """Run step `step` (from 0), in ``train.accumulate`` parts.

        Args:
            batch: The windows.
            step: Number of the step; it seeds dropout on ranks above 0.
            rate: Learning rate.
            freeze: Whether the encoder keeps its weights.

        Raises:
            RunError: The loss or the gradient is not finite. The weights are still those from before the step.
        """
        parts, placement = self._config.train.accumulate, self._placement
        with self._phase("to the device, augmentation"):
            image = batch.image.to(placement.device, non_blocking=True)
            label = batch.label.to(placement.device, non_blocking=True)
            image, label = self._augment(image, label, batch.augmentation)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._ranks.reseed(self._config.seed, step)
        if self._sizes:
            model = self._config.model
            self.patch_size = draw_size(self._sizes, model.patch_size_shares, self._config.seed, step)
            cast("UNETR", self._network).use(self.patch_size)
        self._optimizer.zero_grad(set_to_none=True)
        losses, voxels = [], []
        for number, (images, labels) in enumerate(zip(image.chunk(parts), label.chunk(parts), strict=True), 1):
            with self._no_sync(last=number == parts):
                with self._phase("forward"), placement.precision():
                    outputs = outputs_of(self._stepped(images))
                with self._phase("loss"):
                    loss = supervised_loss(self._compute_loss, outputs, labels) / parts
                with self._phase("backward"):
                    loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
            voxels.append(window_voxels(outputs[0].detach(), labels, self._ignored))
        with self._phase("clipping"):
            if freeze:
                freeze_encoder(self._network)
            norm = nn.utils.clip_grad_norm_(self._parameters, self._config.optim.clip_norm)
            result = self._result(losses, voxels, norm)
        # Checked before the update, so that a checkpoint never contains weights changed by a non-finite gradient.
        if not (math.isfinite(result.loss) and math.isfinite(result.gradient_norm)):
            raise _diverged(step + 1, result, self._config)
        with self._phase("optimiser"):
            self._optimizer.step()
            if self._average is not None:
                self._average.update(step + 1)
        return result

    def _result(self, losses: list[Tensor], voxels: list[Tensor], norm: Tensor) -> StepResult:
        # Mean over ranks. The norm is already the same on all ranks, because the gradients are.
        own = torch.cat((torch.stack((*losses, norm)).double(), torch.stack(voxels).sum(0))).cpu()
        *part_losses, norm_value, both, either = self._ranks.mean(own).tolist()
        return StepResult(math.fsum(part_losses), norm_value, window_dsc(both, either))

    def _no_sync(self, *, last: bool) -> AbstractContextManager[None]:
        """Accumulate gradients without exchanging them between ranks, except in the last part of a step."""
        wait = getattr(self._stepped, "no_sync", None)
        return nullcontext() if last or wait is None else wait()


def _diverged(step: int, result: StepResult, config: RunConfig) -> RunError:
    return RunError(
        f"training diverged at step {step}: loss {result.loss:g}, gradient norm {result.gradient_norm:g}",
        found=result.loss,
        remedy=f"start a new run with a lower optim.lr (now {config.optim.lr:g}) or more optim.warmup_steps "
        f"(now {config.optim.warmup_steps}), or with train.precision=fp32",
    )
