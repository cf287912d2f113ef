"""Groups the objects of one training attempt: network, optimiser, training windows, validation cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from patchcore.config.plan import TargetPlan
from patchcore.config.run import RunConfig
from patchcore.models.checkpoint import save_checkpoint
from patchcore.models.device import Placement
from patchcore.store.prepared_case import PreparedCase
from patchcore.training.loader import BatchSource
from patchcore.training.network import Step
from patchcore.training.optim import WeightAverage
from patchcore.training.progress import Progress
from patchcore.training.ranks import Ranks
from patchcore.training.silence import Writer
from patchcore.training.tensorboard import TensorBoard

__all__ = ["Training"]


@dataclass(frozen=True)
class Training:
    """Everything the training loop needs.

    Attributes:
        run: The run folder.
        config: The resolved configuration.
        target: The plan's target.
        placement: Where to compute.
        ranks: The processes that share each step.
        network: On its device, in training mode.
        stepped: The same network as called by training steps: shared with other ranks, compiled if configured.
        optimizer: The optimiser of the network's parameters.
        average: The moving average of the network's weights; None if it is not used.
        source: The training windows.
        validation: The cases of the validation fold.
        steps_per_epoch: Number of steps per epoch.
        board: Writes TensorBoard events.
    """

    run: Path
    config: RunConfig
    target: TargetPlan
    placement: Placement
    ranks: Ranks
    network: nn.Module
    stepped: Step
    optimizer: torch.optim.Optimizer
    average: WeightAverage | None
    source: BatchSource
    validation: Sequence[PreparedCase]
    steps_per_epoch: int
    board: TensorBoard

    @property
    def evaluated(self) -> nn.Module:
        """The network that is validated and saved as the best: the average if it is used."""
        return self.network if self.average is None else self.average.network

    def save(self, which: Literal["last", "best"], progress: Progress, writer: Writer) -> None:
        """Write and record a checkpoint, on rank 0 only. `best` contains no optimiser state."""
        if not self.ranks.first:
            return
        state = {
            **progress.to_state(),
            "machine": self.placement.machine,
            "epoch": progress.step // self.steps_per_epoch,
        }
        folder = self.run / "checkpoints" / which
        if which == "best":
            save_checkpoint(folder, self.evaluated, state)
        else:
            average = None if self.average is None else self.average.network
            save_checkpoint(folder, self.network, state, optimizer=self.optimizer, average=average)
        writer.checkpoint(progress.step, which, folder)
