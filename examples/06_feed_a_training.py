"""Use the window loader in your own PyTorch loop: it draws small lesions often enough and reads windows ahead.

    python examples/06_feed_a_training.py [DATASET]

DATASET is any folder that `patchcore analyze` can read. Without DATASET, the script creates phantoms. The windows
depend only on seed and step: a loader that starts at step 20 returns the same windows as a loop without interruption.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path

import torch
from torch import nn

import patchcore as pc

WINDOW = (32, 32, 32)
STEPS = 30


def main(dataset: Path | None, folder: Path) -> None:
    if dataset is None:
        dataset = pc.make_phantoms(folder / "data", preset="small", cases=4, seed=3, shape=(96, 96, 48))
    study = pc.analyze(dataset, folder / "study")
    pc.plan_patch_size(study)

    # You can use any network. This one is small enough for a CPU.
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv3d(8, 2, 3, padding=1))
    optimizer = torch.optim.AdamW(network.parameters(), 1e-2)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network.to(device)

    # Half of the windows contain a lesion, whatever its size. All windows are augmented on the device of the batch.
    sampling, augment = pc.SamplingConfig(lesion_share=0.5), pc.AugmentConfig()
    kinds: Counter[str] = Counter()
    settings = {"window_size": WINDOW, "sampling": sampling, "augment": augment, "device": device}
    with pc.WindowLoader(study, steps=STEPS, batch_size=2, **settings) as loader:
        for batch in loader:
            loss = nn.functional.cross_entropy(network(batch["image"]), batch["label"].long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            kinds.update(batch["meta"]["kind"])
        print(f"{STEPS} steps, loss {loss.item():.3f}; windows drawn: {dict(kinds)}")
        print(f"waited for data: {loader.waited_share:.1%} of the time")
    last = batch["image"]

    with pc.WindowLoader(study, start=STEPS - 1, steps=STEPS, batch_size=2, **settings) as loader:
        resumed = next(iter(loader))["image"]
    print(f"resumed at step {STEPS - 1}, same windows: {torch.equal(last, resumed)}")

    # The same windows as a plain PyTorch data set, for a DataLoader with workers.
    dataset_of_windows = pc.WindowDataset(study, length=8, window_size=WINDOW)
    loader_of_workers = torch.utils.data.DataLoader(dataset_of_windows, batch_size=2, num_workers=1)
    print(f"from a DataLoader: {sum(len(batch['image']) for batch in loader_of_workers)} windows")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else None, Path(temporary))
