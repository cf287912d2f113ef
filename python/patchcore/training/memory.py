"""What to change where a training does not fit into memory: from the memory that each remedy would take."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from patchcore.config.plan import TargetPlan
from patchcore.config.run import RunConfig
from patchcore.errors import PatchcoreError
from patchcore.memory import anonymous_bytes, available_bytes
from patchcore.models.device import Placement, place
from patchcore.models.footprint import Footprint, footprint
from patchcore.types import IntTriple

__all__ = ["memory_remedy", "step_footprint"]

# Kernels want working space, and validation a volume: a step that takes all of the memory does not run.
_USABLE_SHARE = 0.85


def step_footprint(config: RunConfig, target: TargetPlan, placement: Placement) -> Footprint:
    """Return the memory that a training step is expected to take.

    Raises:
        PatchcoreError: There is no such network.
    """
    return footprint(
        config.model,
        out_channels=len(target.classes) + 1,
        window_size=target.window_size,
        patch_size=target.patch_size,
        spacing=target.spacing,
        bf16=placement.autocast is not None,
        optim=config.optim,
    )


def memory_remedy(config: RunConfig, target: TargetPlan) -> str:
    """Say what would fit: the least of smaller parts of a batch, checkpointing, and a smaller window.

    Args:
        config: Of the training that did not.
        target: Its plan's target.
    """
    placement = place(config.train)
    on_gpu = placement.device.type == "cuda"
    if on_gpu:
        memory = torch.cuda.get_device_properties(placement.device).total_memory
    else:
        # What the failed step still holds will be there for the next one.
        memory = available_bytes() + anonymous_bytes()
    usable = int(_USABLE_SHARE * memory) // (1 if on_gpu else placement.ranks)
    windows = config.train.batch_size // placement.ranks
    for told, parts, checkpointing, window in _remedies(config, target, windows):
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
            return f"set {told}: a step then takes about {gib}"
    return (
        f"no smaller part of a batch and no smaller window fits into {memory / 2**30:.1f} GiB: choose a smaller "
        f"model.preset (now {config.model.preset}), or free memory that others hold"
    )


def _remedies(config: RunConfig, target: TargetPlan, windows: int) -> Iterator[tuple[str, int, bool, IntTriple]]:
    """Yield (what to set, parts, checkpointing, window), what costs least first."""
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
        told = f"a window of {a},{b},{c} (patchcore plan --window)"
        more = f" and train.accumulate={windows}" if windows > 1 else ""
        if not saving:
            yield f"{told}, model.checkpointing=true{more}", windows, True, (a, b, c)
        # Not every network can be checkpointed.
        yield f"{told}{more}", windows, saving, (a, b, c)
