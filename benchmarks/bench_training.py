"""Compare a CPU training step of the published UNETR (window 96³) in patchcore and in MONAI.

Patchcore's network is configured as in the trainer, MONAI's network is unchanged. At patch size 16 the peer is MONAI's
UNETR. MONAI does not support the other patch sizes; there the peer is patchcore's network with MONAI's attention,
torch's instance norm and channels-first memory. For a GPU, use ``benchmarks/gpu_training.py``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
from monai.networks.blocks.selfattention import SABlock
from monai.networks.nets import UNETR as MonaiUNETR  # noqa: N811
from torch import nn

from benchmarks.rows import Row
from patchcore.config.run import TrainConfig
from patchcore.models import UNETR
from patchcore.models.device import core_count, keep_memory, place
from patchcore.models.norm import ChannelsLastInstanceNorm
from patchcore.training.loss import DiceCrossEntropyLoss

WINDOW = (96, 96, 96)
SIZES: dict[str, Any] = {"hidden_size": 768, "mlp_dim": 3072, "num_heads": 12, "feature_size": 16}
PATCHES = (16, 8, 12, 24)


def _as_it_comes(network: UNETR) -> UNETR:
    """Return patchcore's network with MONAI's attention and torch's instance norm."""
    for block in network.vit.blocks:
        naive = SABlock(SIZES["hidden_size"], SIZES["num_heads"], 0.0)
        naive.qkv, naive.out_proj = block.attn.qkv, block.attn.out_proj
        block.attn = naive
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ChannelsLastInstanceNorm):
                setattr(parent, name, nn.InstanceNorm3d(1, eps=child.eps))
    return network


def _seconds(step: Callable[[], None], repeats: int = 3) -> float:
    """Return the median seconds of ``repeats`` steps, after two warm-up steps."""
    times = []
    for _ in range(2 + repeats):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    return median(times[2:])


def run() -> list[Row]:
    """Bar 1 of training, on a CPU."""
    rows = []
    for patch in PATCHES:
        code = f"import json; from benchmarks.bench_training import measure; print(json.dumps(measure({patch})))"
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code], capture_output=True, encoding="utf-8", check=True
        )
        mine, theirs, equal = json.loads(done.stdout.splitlines()[-1])
        batch = 2 if patch == 16 else 1
        name = "MONAI's UNETR" if patch == 16 else "the same with MONAI's attention and torch's norm"
        what = f"training step, patch {patch}, 96³, batch {batch}, base"
        wanted = 1.2 if patch == 16 else None
        rows.append(Row("1", what, mine, name, theirs, wanted, equal, note=f"fp32, CPU, {core_count()} threads"))
    return rows


def measure(patch: int) -> tuple[float, float, bool]:
    """Return our seconds, the peer's seconds, and whether the outputs are equal. Call this in a separate process."""
    placement = place(TrainConfig(device="cpu", threads=core_count(), deterministic=False))
    loss = DiceCrossEntropyLoss()
    torch.manual_seed(0)
    peer: nn.Module = (
        MonaiUNETR(1, 2, WINDOW, **SIZES) if patch == 16 else _as_it_comes(UNETR(1, 2, WINDOW, patch, **SIZES))
    )
    ours = placement.network(UNETR(1, 2, WINDOW, patch, **SIZES))
    ours.load_state_dict(peer.state_dict())
    batch = 2 if patch == 16 else 1
    image, label = torch.randn(batch, 1, *WINDOW), torch.randint(0, 2, (batch, *WINDOW))
    with torch.no_grad():
        equal = torch.allclose(ours(image), peer(image), atol=1e-4)

    def step(network: nn.Module) -> None:
        network.zero_grad(set_to_none=True)
        loss(network(image), label).backward()

    # The sides cannot alternate: the malloc settings of the trainer cannot be undone.
    theirs = _seconds(partial(step, peer))
    keep_memory()
    return _seconds(partial(step, ours)), theirs, equal
