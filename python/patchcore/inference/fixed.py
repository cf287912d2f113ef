"""The fixed network of one patch size that a flexible network contains, with its plan and its settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from torch import Tensor

from patchcore.config import Plan, RunConfig
from patchcore.config.patch_choice import PatchChoice
from patchcore.config.patches import size_text
from patchcore.config.postprocess import Postprocess
from patchcore.errors import ConfigError
from patchcore.inference.tuned import post_of, weights_digest
from patchcore.models.checkpoint import fill_network
from patchcore.models.registry import build_network
from patchcore.models.unetr import UNETR
from patchcore.types import IntTriple

__all__ = ["FixedModel", "fixed_model", "fixed_post"]


@dataclass(frozen=True)
class FixedModel:
    """A network of one patch size.

    Attributes:
        plan: The plan, with this patch size.
        config: The settings, without those of a flexible network.
        weights: The weights by parameter name.
    """

    plan: Plan
    config: RunConfig
    weights: Mapping[str, Tensor]


def fixed_model(
    plan: Plan, config: RunConfig, weights: Mapping[str, Tensor], where: Path, patch_size: str | None
) -> FixedModel:
    """Return the fixed network of a patch size.

    Args:
        plan: The plan of the flexible network.
        config: Its settings.
        weights: Its weights.
        where: Where the weights come from, for messages.
        patch_size: The patch size, as ``8`` or ``8x8x4``; None: the plan's.

    Raises:
        ConfigError: The network is not flexible, or the text is not one patch size.
        PatchSizeError: The network does not have this patch size.
    """
    size = plan.target.patch_size if patch_size is None else _one(patch_size)
    if not config.model.patch_sizes:
        if size != plan.target.patch_size:
            raise ConfigError(
                f"this network has one patch size, {size_text(plan.target.patch_size)}", remedy="leave out --patch-size"
            )
        return FixedModel(plan, config, weights)
    network = cast("UNETR", build_network(plan.target, config.model))
    fill_network(network, weights, where)
    state = {name: value.contiguous() for name, value in network.fixed_state(network.use(size).patch_size).items()}
    reason = f"one of the patch sizes of a flexible network; the plan has {size_text(plan.patch_size)}"
    one = {"patch_sizes": (), "patch_size_shares": (), "base_patch_size": None, "embedding": "own", "kernels": "own"}
    model = config.model.model_copy(update=one)
    return FixedModel(plan.with_patch_size(size, reason), config.model_copy(update={"model": model}), state)


def fixed_post(run: Path, plan: Plan, weights: Mapping[str, Tensor], model: FixedModel) -> Postprocess | None:
    """Return the post-processing of a run for one of its fixed networks; None if it was chosen at another patch size.

    Args:
        run: The run folder.
        plan: Its plan.
        weights: The weights of the run.
        model: The fixed network.

    Raises:
        CheckpointError: It was chosen for other weights.
        DataError: The file is damaged.
        OSError: The file cannot be read.
    """
    if model.plan.patch_size != plan.patch_size:
        return None
    post = post_of(run, weights_digest(weights))
    return None if post is None else post.model_copy(update={"weights_sha256": weights_digest(model.weights)})


def _one(text: str) -> IntTriple:
    sizes = PatchChoice.parse(text).sizes
    if len(sizes) != 1:
        raise ConfigError(f"--patch-size {text}: a fixed network has one patch size", remedy="give one, as 8 or 8x8x4")
    return sizes[0]
