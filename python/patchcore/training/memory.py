"""Finds settings that fit into memory after a training ran out of memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from patchcore.config.patches import patch_triple
from patchcore.config.plan import TargetPlan
from patchcore.config.run import RunConfig
from patchcore.errors import PatchcoreError
from patchcore.launched import launched
from patchcore.memory import anonymous_bytes, available_bytes
from patchcore.models.device import Placement, place
from patchcore.models.footprint import Footprint, footprint
from patchcore.types import IntTriple

__all__ = ["memory_remedy", "step_footprint"]

# Kernels need working space, and validation needs memory for a volume: a step cannot use all of the memory.
_USABLE_SHARE = 0.85


def step_footprint(config: RunConfig, target: TargetPlan, placement: Placement) -> Footprint:
    """Return the expected memory of a training step.

    Raises:
        PatchcoreError: The configured network does not exist.
    """
    # A flexible network needs most at the patch size that costs most.
    return max(
        (
            footprint(
                config.model,
                out_channels=len(target.classes) + 1,
                window_size=target.window_size,
                patch_size=size,
                spacing=target.spacing,
                bf16=placement.autocast is not None,
                optim=config.optim,
            )
            for size in map(patch_triple, config.model.patch_sizes or (target.patch_size,))
        ),
        key=lambda found: found.step_bytes(1),
    )


def memory_remedy(config: RunConfig, target: TargetPlan) -> str:
    """Return a remedy: the cheapest change that fits, among smaller batch parts, checkpointing and a smaller window.

    Args:
        config: Configuration of the training that did not fit.
        target: The plan's target of this training.
    """
    placement = place(config.train, by=launched())
    on_gpu = placement.device.type == "cuda"
    if on_gpu:
        memory = torch.cuda.get_device_properties(placement.device).total_memory
    else:
        # The memory that the failed step still holds will be free for the next attempt.
        memory = available_bytes() + anonymous_bytes()
    usable = int(_USABLE_SHARE * memory) // (1 if on_gpu else placement.ranks)
    windows = config.train.batch_size // placement.ranks
    for setting, parts, checkpointing, window in _remedies(config, target, windows):
        try:
            found = step_footprint(
                config.model_copy(update={"model": config.model.model_copy(update={"checkpointing": checkpointing})}),
                target.model_copy(update={"window_size": window}),
                placement,
            )
        except PatchcoreError:
            continue
        needed = found.step_bytes(windows // parts)
        if needed <= usable:
            gib = f"{needed / 2**30:.1f} of {memory / 2**30:.1f} GiB"
            return f"set {setting}: a step then takes about {gib}"
    return (
        f"no larger train.accumulate and no smaller window fits into {memory / 2**30:.1f} GiB: choose a smaller "
        f"model.preset (now {config.model.preset}), or free memory that other processes use"
    )


def _remedies(config: RunConfig, target: TargetPlan, windows: int) -> Iterator[tuple[str, int, bool, IntTriple]]:
    """Yield (setting, parts, checkpointing, window), the cheapest change first."""
    now, saving = config.train.accumulate, config.model.checkpointing
    parts = [n for n in range(now + 1, windows + 1) if windows % n == 0]
    for count in parts:
        yield f"train.accumulate={count}", count, saving, target.window_size
    if not saving:
        yield "model.checkpointing=true", now, True, target.window_size
        for count in parts:
            yield f"model.checkpointing=true and train.accumulate={count}", count, True, target.window_size
    window = list(target.window_size)
    while True:
        axis = max((a for a in range(3) if window[a] > 2 * target.patch_size[a]), key=lambda a: window[a], default=None)
        if axis is None:
            return
        window[axis] -= target.patch_size[axis]
        a, b, c = window
        setting = f"a window of {a},{b},{c} (patchcore plan --window)"
        more = f" and train.accumulate={windows}" if windows > 1 else ""
        if not saving:
            yield f"{setting}, model.checkpointing=true{more}", windows, True, (a, b, c)
        # Some networks do not support checkpointing.
        yield f"{setting}{more}", windows, saving, (a, b, c)
