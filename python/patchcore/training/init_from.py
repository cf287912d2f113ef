"""Initialises a network with the weights of another run or of a weights file."""

from __future__ import annotations

import math
import pickle
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from patchcore.config.cost import token_grid
from patchcore.config.plan import TargetPlan
from patchcore.config.run import InitConfig
from patchcore.errors import CheckpointError
from patchcore.models.checkpoint import fill_network, find_checkpoint
from patchcore.models.flexible import size_name
from patchcore.models.registry import build_network
from patchcore.models.unetr import UNETR, flexible_sizes
from patchcore.models.weights import ENCODERS, TensorReport, foreign_weights, transfer_weights
from patchcore.runs.setup import read_setup
from patchcore.types import IntTriple, PathLike

__all__ = ["InitReport", "initialise"]

Weights: TypeAlias = Callable[[IntTriple], tuple[Mapping[str, Tensor], IntTriple | None]]
"""Returns the weights of a source for a patch size, and its grid of tokens if that is known."""

_OF_A_SIZE = re.compile(r"\.(patch_embeddings|conv)\.\d+x\d+x\d+\.")
"""Parts of a flexible network that belong to one patch size or factor."""
_WHOLE_FILE = "give a complete weights file"


@dataclass(frozen=True)
class InitReport:
    """How a network was initialised.

    Attributes:
        source: The run or the weights file.
        tensors: What happened to each tensor.
        differences: Differences in preprocessing between the source's plan and this plan, as text; None if the source
            has no plan.
    """

    source: str
    tensors: tuple[TensorReport, ...]
    differences: tuple[str, ...] | None

    def summary(self) -> str:
        """Return one line with the number of tensors that were kept, resampled, re-made and unused."""
        counts = Counter(tensor.action for tensor in self.tensors)
        return ", ".join(
            f"{counts[name]} {name}" for name in ("kept", "resampled", "re-made", "unused") if counts[name]
        )

    def lines(self) -> list[str]:
        """Return the report as printed lines: each tensor that was not kept unchanged, and each difference."""
        lines = [f"weights from {self.source}: {self.summary()}"]
        lines += [
            f"  {tensor.action:<10}{tensor.name}" + (f": {tensor.note}" if tensor.note else "")
            for tensor in self.tensors
            if tensor.action != "kept"
        ]
        if self.differences is None:
            lines.append(
                "  the source does not record its spacing, window and HU range: check that they match the plan"
            )
        else:
            lines += [f"  differs: {difference}" for difference in self.differences]
        return lines

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``init_report.json``."""
        return {"schema_version": 1, "summary": self.summary(), **asdict(self)}


def initialise(network: nn.Module, config: InitConfig, target: TargetPlan) -> InitReport:
    """Load the weights named in the configuration into a new network.

    Args:
        network: A network built for the plan.
        config: ``source`` is a run folder, a ``.safetensors`` file, or a file written by ``torch.save``. Only tensors
            are unpickled from the last kind.
        target: The plan's target.

    Raises:
        CheckpointError: There are no weights, they are damaged, or they belong to a different network.
    """
    source = Path(config.source)
    plan: TargetPlan | None = None
    flexible: UNETR | None = None
    if source.is_dir():
        weights, plan, flexible = _of_run(source)
    else:
        found = _of_file(source)
        weights = lambda _: (found, None)  # noqa: E731
    try:
        if flexible_sizes(network):
            tensors = _initialise_flexible(cast("UNETR", network), weights, config, flexible)
        else:
            given, grid = weights(target.patch_size)
            tensors = transfer_weights(network, given, part=config.part, embedding=config.embedding, token_grid=grid)
    except CheckpointError as error:
        error.path = error.path or str(source)
        raise
    differences = None if plan is None else tuple(_differences(plan, target))
    return InitReport(str(source), tuple(tensors), differences)


def _initialise_flexible(
    network: UNETR, weights: Weights, config: InitConfig, source: UNETR | None = None
) -> list[TensorReport]:
    """Fill a flexible network: what is shared from the plan's patch size, what a size has for its own from that size.

    If the source is flexible, too, all tensors of the same name and shape are copied: brought to a patch size and back,
    shared kernels and positions would change.

    The report is that of the fixed network of the plan's patch size, followed by what was resampled for other sizes.
    """
    own = network.patch_size
    reports: dict[IntTriple, list[TensorReport]] = {}
    for size in sorted(network.patch_sizes, key=lambda size: size != own):
        fixed = network.fixed(size)
        given, grid = weights(size)
        reports[size] = transfer_weights(fixed, given, part=config.part, embedding=config.embedding, token_grid=grid)
        made = {tensor.name for tensor in reports[size] if tensor.action == "re-made"}
        state = {name: value for name, value in fixed.state_dict().items() if name not in made}
        network.load_fixed(size, state, all_parts=size == own)
    if source is not None:
        network.take_equal(source, prefixes=ENCODERS if config.part == "encoder" else ("",))
    return reports[own] + [
        replace(tensor, note=f"patch size {size_name(size)}: {tensor.note}")
        for size, tensors in reports.items()
        if size != own
        for tensor in tensors
        if tensor.action == "resampled" and not tensor.name.endswith("position_embeddings")
    ]


def _of_run(run: Path) -> tuple[Weights, TargetPlan, UNETR | None]:
    """Return the weights of a run, the target of its plan, and the network if it is a flexible one."""
    checkpoint = find_checkpoint(run / "checkpoints" / "best") or find_checkpoint(run / "checkpoints" / "last")
    if checkpoint is None:
        raise CheckpointError("the run has no checkpoint", path=run, remedy="train it for longer, or name another run")
    try:
        setup = read_setup(run)
        plan = setup.plan
    except (ValidationError, KeyError, TypeError) as error:
        raise CheckpointError(f"the run's plan cannot be read ({error})", path=run / "run.json") from None
    target, found = plan.target, checkpoint.weights()
    if not setup.config.model.patch_sizes:
        grid = token_grid(target.window_size, target.patch_size)
        return lambda _: (found, grid), target, None
    network = cast("UNETR", build_network(target, setup.config.model))
    fill_network(network, found, checkpoint.path)

    def nearest(size: IntTriple) -> tuple[Mapping[str, Tensor], IntTriple]:
        # Of the source's sizes the one of the nearest volume.
        chosen = min(network.patch_sizes, key=lambda one: abs(math.log(math.prod(one) / math.prod(size))))
        return network.fixed_state(chosen), token_grid(target.window_size, chosen)

    return nearest, target, network


def _of_file(path: PathLike) -> dict[str, Tensor]:
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            found = foreign_weights(load_file(path))
        else:
            found = foreign_weights(torch.load(path, map_location="cpu", weights_only=True))
        if any(_OF_A_SIZE.search(name) for name in found):
            raise CheckpointError(
                "these are weights of a network for several patch sizes, which a file does not describe",
                remedy="name the folder of its run instead, or export one size: patchcore export RUN --patch-size …",
            )
        return found
    except FileNotFoundError:
        raise CheckpointError("no such file", path=path, remedy="give a run or a weights file") from None
    except pickle.UnpicklingError as error:
        # Torch's own message recommends to unpickle the file anyway.
        more = re.search(r"GLOBAL (\S+) was not", str(error))
        if more is None:
            raise CheckpointError(
                "not a weights file that can be read without unpickling", path=path, remedy=_WHOLE_FILE
            ) from None
        raise CheckpointError(
            f"contains more than tensors ({more[1]}); unpickling it could run arbitrary code",
            path=path,
            remedy="save only the state dict, preferably as safetensors, where the file was created",
        ) from None
    except CheckpointError as error:
        error.path = error.path or str(path)
        raise
    except PermissionError:
        raise
    except (SafetensorError, EOFError, OSError, RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(f"cannot be read ({error})", path=path, remedy=_WHOLE_FILE) from None


def _differences(source: TargetPlan, target: TargetPlan) -> list[str]:
    """List the differences in preprocessing between the two plans, as text."""

    def listed(values: Sequence[float]) -> str:
        return " × ".join(f"{value:.4g}" for value in values)

    found = []
    if any(abs(a / b - 1) > 1e-3 for a, b in zip(source.spacing, target.spacing, strict=True)):
        found.append(f"spacing {listed(source.spacing)} mm in the source, {listed(target.spacing)} mm in this plan")
    if source.window_size != target.window_size:
        found.append(f"window {listed(source.window_size)} in the source, {listed(target.window_size)} in this plan")
    if source.patch_size != target.patch_size:
        found.append(f"patch size {listed(source.patch_size)} in the source, {listed(target.patch_size)} in this plan")
    if source.hu_range != target.hu_range:
        found.append(f"HU range {source.hu_range} in the source, {target.hu_range} in this plan")
    if source.classes != target.classes and not len(source.classes) == len(target.classes) == 1:
        found.append(
            f"classes {source.classes} in the source, {target.classes} in this plan: the output channels follow the "
            "order of the classes"
        )
    if source.evaluated != target.evaluated and source.classes == target.classes:
        found.append(f"regions {source.evaluated} in the source, {target.evaluated} in this plan")
    for name in ("kernel", "antialias"):
        theirs, ours = getattr(source.store, name), getattr(target.store, name)
        if theirs != ours:
            found.append(f"{name} {theirs} in the source, {ours} in this plan")
    return found
