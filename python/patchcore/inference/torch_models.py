"""Opens runs and exported models with torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from patchcore.config.patch_choice import PatchChoice
from patchcore.config.patches import size_text
from patchcore.config.plan import Plan, TargetPlan
from patchcore.config.postprocess import POSTPROCESS_FILE, Postprocess
from patchcore.config.run import RunConfig
from patchcore.errors import ConfigError
from patchcore.inference.export import read_model
from patchcore.inference.opened import ModelSource, OpenedModels, is_exported
from patchcore.inference.segment import WindowModel
from patchcore.inference.sliding_window import window_probabilities, windows_a_batch
from patchcore.inference.tuned import check_post, post_of, weights_digest
from patchcore.models.checkpoint import fill_network, find_weights
from patchcore.models.device import Placement, place
from patchcore.models.flexible import AtSize, ByClass
from patchcore.models.registry import build_network
from patchcore.models.unetr import UNETR, flexible_sizes
from patchcore.runs.setup import read_setup

__all__ = ["network_model", "open_torch"]


@dataclass(frozen=True)
class _Loaded:
    source: ModelSource
    networks: tuple[nn.Module, ...]
    placement: Placement
    overlap: float
    mirror: bool


def network_model(
    network: nn.Module, target: TargetPlan, placement: Placement, *, overlap: float = 0.5, mirror: bool = False
) -> WindowModel:
    """Return a model of one network. It is set to evaluation mode.

    Args:
        network: Maps (B, 1, *window_size) to logits (B, 1 + classes, *window_size).
        target: The plan that the network was trained with.
        placement: Where to compute; the network is already on this device.
        overlap: Overlap of neighbouring windows.
        mirror: Whether to average over mirrored windows; this takes 8 times the work.
    """
    run = window_probabilities([network.eval()], placement, mirror=mirror)
    return WindowModel(target, run, windows_a_batch(placement), overlap)


def open_torch(
    paths: Sequence[Path],
    *,
    checkpoint: str | None = None,
    device: str | None = None,
    overlap: float | None = None,
    mirror: bool | None = None,
    post: bool = True,
    patch_size: PatchChoice | None = None,
) -> OpenedModels:
    """Open runs and exported models; see :func:`patchcore.inference.models.opened_models`."""
    loaded = [
        _load(path, checkpoint, device=device, overlap=overlap, mirror=mirror, with_post=post, choice=patch_size)
        for path in paths
    ]
    groups: dict[Any, list[_Loaded]] = defaultdict(list)
    for one in loaded:
        target = one.source.target
        store = target.store
        form = (target.window_size, target.spacing, target.hu_range, store.kernel, store.antialias)
        groups[(*form, one.overlap, one.mirror, one.placement.device, one.placement.autocast)].append(one)
    models = []
    for group in groups.values():
        first = group[0]
        networks = [network for one in group for network in one.networks]
        run = window_probabilities(networks, first.placement, mirror=first.mirror)
        models.append(
            WindowModel(
                first.source.target, run, windows_a_batch(first.placement), first.overlap, networks=len(networks)
            )
        )
    return OpenedModels(
        tuple(models),
        tuple(one.source for one in loaded),
        mirror=loaded[0].mirror,
    )


def _load(
    path: Path,
    checkpoint: str | None,
    *,
    device: str | None,
    overlap: float | None,
    mirror: bool | None,
    with_post: bool,
    choice: PatchChoice | None,
) -> _Loaded:
    plan: Plan
    config: RunConfig
    weights: Mapping[str, Tensor]
    # Prediction uses one process, even if several ranks trained the network.
    changes: dict[str, Any] = {"ranks": 1, "accumulate": 1}
    model = read_model(path) if is_exported(path) else None
    if model is not None:
        plan, config, weights = model.plan, model.config, model.weights
        where, step = path, int(model.facts.get("step", 0))
        changes |= {"device": "auto"}
    else:
        setup = read_setup(path, {"train.ranks": 1, "train.accumulate": 1})
        plan, config = setup.plan, setup.config
        found = find_weights(path, checkpoint)
        weights, step, where = found.weights(), int(found.state.get("step", 0)), found.path
    if device is not None:
        changes["device"] = device
    if config.train.precision == "bf16":
        # A network that was trained in bf16 on a GPU is predicted with in fp32 where there is only a CPU.
        changes["precision"] = "auto"
    placement = place(config.train.model_copy(update=changes))
    digest = weights_digest(weights)
    post: Postprocess | None = None
    # It was chosen on predictions at the plan's patch size.
    elsewhere = with_post and choice is not None and not choice.is_of_plan(plan)
    lacks_post = elsewhere and ((path / POSTPROCESS_FILE).exists() if model is None else model.post is not None)
    with_post = with_post and not elsewhere
    if with_post and model is None:
        post = post_of(path, digest)
    elif with_post and model is not None and model.post is not None:
        post = model.post
        check_post(path, post, digest)
    network = build_network(plan.target, config.model)
    fill_network(network, weights, where)
    validation = config.validation
    network = placement.network(network).eval()
    return _Loaded(
        ModelSource(path, plan.target, digest, step, post, None if choice is None else str(choice), lacks_post),
        _at_sizes(network, plan.target, None if choice is None else choice.of_plan(plan), path),
        placement,
        overlap=validation.overlap if overlap is None else overlap,
        mirror=validation.mirror if mirror is None else mirror,
    )


def _at_sizes(network: nn.Module, target: TargetPlan, choice: PatchChoice | None, path: Path) -> tuple[nn.Module, ...]:
    """Return the network at the chosen patch sizes; at the plan's if none is chosen.

    Raises:
        ConfigError: The network has one patch size, and another one is chosen; or a class has no size.
        PatchSizeError: The network does not have a size.
    """
    sizes = flexible_sizes(network)
    if not sizes:
        if choice is not None and (choice.by_label is not None or choice.sizes != (target.patch_size,)):
            raise ConfigError(
                f"{path.name} has one patch size, {size_text(target.patch_size)}; --patch-size {choice} is for "
                "networks of several, trained with model.patch_sizes",
                remedy="leave out --patch-size",
            )
        return (network,)
    if choice is None:
        return (AtSize(network, target.patch_size),)
    flexible = cast("UNETR", network)
    if choice.by_label is None:
        return tuple(AtSize(network, flexible.use(size).patch_size) for size in choice.sizes)
    if set(choice.by_label) != set(target.classes):
        raise ConfigError(
            f"--patch-size {choice} does not name each class once",
            expected=target.classes,
            remedy="give a size for every label of the plan, as " + ",".join(f"{label}:8" for label in target.classes),
        )
    return (ByClass(network, [flexible.use(choice.by_label[label]).patch_size for label in target.classes]),)
