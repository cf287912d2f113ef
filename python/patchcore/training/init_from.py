"""Where a training's first weights come from: another run, or a file of weights."""

from __future__ import annotations

import pickle
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from patchcore.config.cost import token_grid
from patchcore.config.plan import Plan, TargetPlan
from patchcore.config.run import InitConfig
from patchcore.errors import CheckpointError
from patchcore.files import read_json
from patchcore.models.checkpoint import find_checkpoint
from patchcore.models.weights import TensorReport, foreign_weights, transfer_weights
from patchcore.types import IntTriple, PathLike

__all__ = ["InitReport", "initialise"]

_WHOLE_FILE = "give a whole file of weights"


@dataclass(frozen=True)
class InitReport:
    """What a network was begun with.

    Attributes:
        source: The run or the file.
        tensors: What became of each tensor.
        differences: In preprocessing, between the source's plan and this one, in words; None where the source has none.
    """

    source: str
    tensors: tuple[TensorReport, ...]
    differences: tuple[str, ...] | None

    def summary(self) -> str:
        """Return one line: how many tensors were kept, resampled, re-made and unused."""
        counts = Counter(tensor.action for tensor in self.tensors)
        return ", ".join(
            f"{counts[name]} {name}" for name in ("kept", "resampled", "re-made", "unused") if counts[name]
        )

    def lines(self) -> list[str]:
        """Return the report as it is printed: what was not simply kept, tensor by tensor, and every difference."""
        lines = [f"weights from {self.source}: {self.summary()}"]
        lines += [
            f"  {tensor.action:<10}{tensor.name}" + (f": {tensor.note}" if tensor.note else "")
            for tensor in self.tensors
            if tensor.action != "kept"
        ]
        if self.differences is None:
            lines.append("  the source says nothing of its spacing, window and HU range: see that they are the plan's")
        else:
            lines += [f"  differs: {difference}" for difference in self.differences]
        return lines

    def to_json(self) -> dict[str, Any]:
        """Return what ``init_report.json`` holds."""
        return {"schema_version": 1, "summary": self.summary(), **asdict(self)}


def initialise(network: nn.Module, config: InitConfig, target: TargetPlan) -> InitReport:
    """Fill a new network with the weights that the configuration names.

    Args:
        network: A network of the plan.
        config: ``source`` is a run folder, a ``.safetensors``, or a file of ``torch.save``, which is read without
            unpickling anything but tensors.
        target: The plan's target.

    Raises:
        CheckpointError: There are no weights, they are damaged, or they are of another network.
    """
    source = Path(config.source)
    plan: TargetPlan | None = None
    if source.is_dir():
        found, plan = _of_run(source)
    else:
        found = _of_file(source)
    grid: IntTriple | None = None if plan is None else token_grid(plan.window_size, plan.patch_size)
    try:
        tensors = transfer_weights(network, found, part=config.part, embedding=config.embedding, token_grid=grid)
    except CheckpointError as error:
        error.path = error.path or str(source)
        raise
    differences = None if plan is None else tuple(_differences(plan, target))
    return InitReport(str(source), tuple(tensors), differences)


def _of_run(run: Path) -> tuple[dict[str, Tensor], TargetPlan]:
    checkpoint = find_checkpoint(run / "checkpoints" / "best") or find_checkpoint(run / "checkpoints" / "last")
    if checkpoint is None:
        raise CheckpointError("the run has no checkpoint", path=run, remedy="let it train for longer, or name another")
    try:
        plan = Plan.model_validate(read_json(run / "run.json", schema=1)["plan"])
    except (ValidationError, KeyError, TypeError) as error:
        raise CheckpointError(f"the run's plan cannot be read ({error})", path=run / "run.json") from None
    return checkpoint.weights(), plan.target


def _of_file(path: PathLike) -> dict[str, Tensor]:
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            return foreign_weights(load_file(path))
        return foreign_weights(torch.load(path, map_location="cpu", weights_only=True))
    except FileNotFoundError:
        raise CheckpointError("no such file", path=path, remedy="name a run, or a file of weights") from None
    except pickle.UnpicklingError as error:
        # Torch's own text goes on to advise how to unpickle it all the same.
        more = re.search(r"GLOBAL (\S+) was not", str(error))
        if more is None:
            raise CheckpointError(
                "is no file of weights that can be read without unpickling it", path=path, remedy=_WHOLE_FILE
            ) from None
        raise CheckpointError(
            f"holds more than tensors ({more[1]}), and unpickling it could run anything",
            path=path,
            remedy="save its state dict alone, or better as safetensors, where the file was made",
        ) from None
    except CheckpointError as error:
        error.path = error.path or str(path)
        raise
    except PermissionError:
        raise
    except (SafetensorError, EOFError, OSError, RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(f"cannot be read ({error})", path=path, remedy=_WHOLE_FILE) from None


def _differences(source: TargetPlan, target: TargetPlan) -> list[str]:
    """Say in what the two plans' preprocessing differs."""

    def told(values: Sequence[float]) -> str:
        return " × ".join(f"{value:.4g}" for value in values)

    found = []
    if any(abs(a / b - 1) > 1e-3 for a, b in zip(source.spacing, target.spacing, strict=True)):
        found.append(f"spacing {told(source.spacing)} mm there, {told(target.spacing)} mm here")
    if source.window_size != target.window_size:
        found.append(f"window {told(source.window_size)} there, {told(target.window_size)} here")
    if source.patch_size != target.patch_size:
        found.append(f"patch size {told(source.patch_size)} there, {told(target.patch_size)} here")
    if source.hu_range != target.hu_range:
        found.append(f"HU range {source.hu_range} there, {target.hu_range} here")
    if source.classes != target.classes and not len(source.classes) == len(target.classes) == 1:
        found.append(f"classes {source.classes} there, {target.classes} here: output channels follow their order")
    if source.judged != target.judged and source.classes == target.classes:
        found.append(f"regions {source.judged} there, {target.judged} here")
    for name in ("kernel", "antialias"):
        if getattr(source.store, name) != getattr(target.store, name):
            found.append(f"{name} {getattr(source.store, name)} there, {getattr(target.store, name)} here")
    return found
