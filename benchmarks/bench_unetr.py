"""Check that UNETR equals MONAI's at patch size 16, and that it can over-fit a tiny cohort at three patch sizes."""

from __future__ import annotations

import torch
from monai.networks.nets import UNETR as MonaiUNETR  # noqa: N811

from benchmarks.overfit import overfit
from benchmarks.rows import Row, in_turns
from patchcore.models import UNETR

WINDOW = (48, 48, 48)
SIZES = {"hidden_size": 192, "mlp_dim": 768, "num_heads": 6, "feature_size": 16}
MOST_SECONDS = 180.0
LEAST_DSC = 0.95


def _pair() -> tuple[UNETR, MonaiUNETR]:
    torch.manual_seed(0)
    ours, peer = UNETR(1, 2, WINDOW, 16, **SIZES), MonaiUNETR(1, 2, WINDOW, **SIZES)
    ours.load_state_dict(peer.state_dict(), strict=True)
    peer.load_state_dict(ours.state_dict(), strict=True)
    return ours, peer


def _step(network: torch.nn.Module, batch: torch.Tensor) -> None:
    network.zero_grad()
    network(batch).square().mean().backward()


def run() -> list[Row]:
    """Bar 4: same output as MONAI, and over-fitting."""
    torch.set_num_threads(2)
    ours, peer = _pair()
    batch = torch.randn(2, 1, *WINDOW)
    with torch.no_grad():
        equal = torch.allclose(ours(batch), peer(batch), atol=1e-5)
    mine, theirs = in_turns(lambda: _step(ours, batch), lambda: _step(peer, batch), repeats=5)
    rows = [
        Row(
            "4",
            "forward + backward, patch 16, 48³, batch 2",
            mine,
            "MONAI UNETR",
            theirs,
            None,
            equal,
            note="fp32, CPU",
        )
    ]
    for patch in (8, 12, 16):
        found = overfit(patch, max_seconds=MOST_SECONDS)
        note = f"DSC {found.dsc:.3f}, {found.steps} steps"
        what = f"over-fit four 48³ volumes, patch {patch}"
        rows.append(Row("4", what, found.seconds, "the bar", 0.0, None, found.dsc > LEAST_DSC, MOST_SECONDS, note))
    return rows
