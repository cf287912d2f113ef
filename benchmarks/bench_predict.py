"""Compare the prediction of whole scans with nnU-Net's export of logits and with MONAI's sliding window.

nnU-Net runs in an environment of its own: PATCHCORE_PEERS is its Python, with nnunetv2. Without it, only patchcore's
own time is shown.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from benchmarks.rows import Row, in_turns
from patchcore.inference.geometry import label_on_grid
from patchcore.resampling.grid import Grid

PEERS = Path(__file__).with_name("predict_peers.py")
MOST_MEMORY_MIB = 3 * 1024
SCAN = ((512, 512, 600), (0.75, 0.75, 1.0))
TRAINING = (1.5, 1.5, 1.5)


def export() -> list[Row]:
    """Bar 4: logits of three classes on the training grid → labels on the scan's grid."""
    shape, spacing = SCAN
    grid = Grid.of(shape, np.diag([*spacing, 1.0]), TRAINING)
    random = np.random.default_rng(0)
    logits = np.stack(
        [40 * ndimage.gaussian_filter(random.standard_normal(grid.shape, dtype=np.float32), 3) for _ in range(3)]
    )
    answers: dict[str, Any] = {}
    [ours] = in_turns(lambda: answers.update(ours=label_on_grid(logits, grid)), repeats=3)
    what = "logits of 3 classes, 256 × 256 × 400 → labels, 512 × 512 × 600"
    python = os.environ.get("PATCHCORE_PEERS")
    if not python:
        return [Row("15.4", what, ours, "nnU-Net", 0.0, None, None, note="no peers: set PATCHCORE_PEERS")]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        # nnU-Net's axes are z, y, x.
        np.save(path / "logits.npy", np.ascontiguousarray(logits.transpose(0, 3, 2, 1)))
        done = subprocess.run(
            [python, PEERS, path, *map(str, shape[::-1]), *map(str, spacing[::-1]), *map(str, TRAINING[::-1])],
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            print(f"nnU-Net: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
            return [Row("15.4", what, ours, "nnU-Net", 0.0, None, None, note="the peer failed")]
        labels = np.load(path / "labels.npy").transpose(2, 1, 0)
        peer_s = float(json.loads(done.stdout.splitlines()[-1])["seconds"])
    share = float(np.mean(labels == answers["ours"]))
    return [Row("15.4", what, ours, "nnU-Net export", peer_s, 20.0, share >= 0.9999, note=f"{share:.6%} equal")]


def memory() -> list[Row]:
    """Bar 4: the whole prediction of that scan, with a network, above what is there before it is read."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.predict_memory"], check=False, capture_output=True, text=True
    )
    if done.returncode:
        print(f"memory: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return []
    found = json.loads(done.stdout.splitlines()[-1])
    what = "memory of the prediction of 512 × 512 × 600, NIfTI to NIfTI, above the loaded network"
    return [
        Row(
            "15.4",
            what,
            found["mib"],
            "limit",
            MOST_MEMORY_MIB,
            1.0,
            None,
            unit="MiB",
            note=f"{found['seconds']:.0f} s",
        )
    ]


def sliding_window() -> list[Row]:
    """Bar 5: the same network by our prediction and by MONAI's, and blending alone."""
    import torch
    from monai.inferers import sliding_window_inference

    from benchmarks.predict_memory import network_and_target
    from patchcore.config.run import TrainConfig
    from patchcore.inference.segment import WindowModel, segment
    from patchcore.inference.torch_models import network_model
    from patchcore.models.device import place

    network, target = network_and_target((48, 48, 48), (1,))
    placement = place(TrainConfig(device="cpu"))
    model = network_model(placement.network(network), target, placement)
    low, high = target.hu_range
    image = np.random.default_rng(0).integers(-200, 300, (120, 112, 104)).astype(np.int16)
    scaled = torch.from_numpy(((image - low) / (high - low)).clip(0, 1).astype(np.float32))[None, None]
    affine = np.diag([*target.spacing, 1.0])
    channels = 1 + len(target.classes)
    answers: dict[str, Any] = {}

    def ours(one: WindowModel, name: str) -> None:
        answers[name] = segment([one], image, affine, keep_probability=True).lesion_probability

    @torch.inference_mode()
    def monai(run: Any, name: str) -> None:
        blended = sliding_window_inference(scaled, target.window_size, model.batch, run, overlap=0.5, mode="gaussian")
        answers[name] = (blended[0].argmax(0), blended[0, channels - 1].numpy())

    def softmax(windows: Any) -> Any:
        return torch.softmax(network(windows.to(memory_format=torch.channels_last_3d)), dim=1)

    rows = []
    shifted = WindowModel(target, lambda windows: np.stack([windows, 1 - windows], axis=1), model.batch)
    alone = lambda windows: torch.cat([windows, 1 - windows], dim=1)  # noqa: E731
    for what, mine, theirs, wanted in (
        ("whole scan with a UNETR, window 48³", model, softmax, 1.0),
        ("windows, blending and choice of the class alone", shifted, alone, 1.0),
    ):
        ours_s, peer_s = in_turns(
            lambda mine=mine: ours(mine, "ours"), lambda theirs=theirs: monai(theirs, "peer"), repeats=5
        )
        same = bool(np.abs(answers["ours"] / 65535 - answers["peer"][1]).max() <= 1e-4)
        rows.append(Row("15.5", what, ours_s, "MONAI sliding_window_inference", peer_s, wanted, same))
    return rows


def run() -> list[Row]:
    """Run all benchmarks of prediction."""
    return [*export(), *sliding_window(), *memory()]
