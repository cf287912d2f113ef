"""Over-fit a tiny cohort with UNETR at several patch sizes: a test that the network can learn.

Four volumes of 48³ voxels contain irregular lesions of a few hundred to a few thousand voxels. The intensities of
lesions and background overlap. The script prints the seconds and steps per patch size until the mean whole-volume DSC
exceeds 0.95, and the best DSC that a single intensity threshold reaches. The exit code is 1 if a patch size stays below
0.95.

    python benchmarks/overfit.py [--patch-size 8 12 16] [--threads 2] [--max-seconds 180]
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from patchcore.metrics import DscCounts, best_threshold_dsc
from patchcore.models import UNETR, trainable_parameters
from patchcore.training.loss import DiceCrossEntropyLoss
from patchcore.types import BoolArray, Float32Array

EDGE = 48
CASES = 4


@dataclass(frozen=True)
class Overfit:
    """The result of one patch size.

    Attributes:
        patch_size: Patch edge [voxels].
        dsc: Last mean whole-volume DSC.
        global_dsc: Last DSC over the voxels of all volumes together.
        steps: Optimiser steps taken.
        seconds: Wall time, including evaluations.
        reached: Whether the DSC exceeded the wanted DSC.
    """

    patch_size: int
    dsc: float
    global_dsc: float
    steps: int
    seconds: float
    reached: bool


def cohort(seed: int = 0) -> tuple[Float32Array, BoolArray]:
    """Create the random cohort.

    Returns:
        Images (4, 48, 48, 48) float32, with a background of mean 0 and standard deviation 1, and lesion masks with the
        same shape.
    """
    rng = np.random.default_rng(seed)
    images = np.empty((CASES, EDGE, EDGE, EDGE), np.float32)
    masks = np.zeros(images.shape, bool)
    grid = np.stack(np.meshgrid(*[np.arange(EDGE)] * 3, indexing="ij"))
    for image, mask in zip(images, masks, strict=True):
        rough = gaussian_filter(rng.standard_normal(image.shape), 2)
        rough /= rough.std()
        for radius in rng.uniform(5, 9, size=2):
            centre = rng.uniform(radius + 2, EDGE - radius - 2, size=(3, 1, 1, 1))
            mask |= np.sqrt(((grid - centre) ** 2).sum(0)) + 1.5 * rough < radius
        image[:] = rng.standard_normal(image.shape) + 1.2 * mask
    return images, masks


def overfit(
    patch_size: int,
    *,
    max_seconds: float = 180.0,
    wanted_dsc: float = 0.95,
    seed: int = 0,
    lr: float = 1e-3,
    verbose: bool = False,
) -> Overfit:
    """Train on the cohort until its mean whole-volume DSC exceeds ``wanted_dsc`` or the time is up.

    Args:
        patch_size: Patch edge [voxels]; must divide 48.
        max_seconds: Stop after this time [s].
        wanted_dsc: Stop when the mean DSC is higher than this.
        seed: Random seed of the cohort and the weights.
        lr: Peak learning rate.
        verbose: Print every evaluation.
    """
    torch.manual_seed(seed)
    images, masks = cohort(seed)
    x = torch.from_numpy(images)[:, None]
    y = torch.from_numpy(masks.astype(np.int64))
    net = UNETR(1, 2, EDGE, patch_size, hidden_size=192, mlp_dim=768, num_heads=6, feature_size=8)
    net = net.to(memory_format=torch.channels_last_3d)
    optimiser = torch.optim.AdamW(trainable_parameters(net), lr=lr, weight_decay=0.0)
    loss = DiceCrossEntropyLoss()
    order = np.random.default_rng(seed)
    started = time.perf_counter()
    step, mean, total = 0, 0.0, 0.0
    while mean <= wanted_dsc and time.perf_counter() - started < max_seconds:
        net.train()
        for pair in order.permutation(CASES).reshape(-1, 2):
            for group in optimiser.param_groups:
                group["lr"] = lr * min(1.0, (step + 1) / 20)
            optimiser.zero_grad(set_to_none=True)
            loss(net(x[pair]), y[pair]).backward()
            torch.nn.utils.clip_grad_norm_(trainable_parameters(net), 1.0)
            optimiser.step()
            step += 1
        if step % 20 == 0:
            mean, total = evaluate(net, x, masks)
            if verbose:
                print(f"  step {step:4d}  {time.perf_counter() - started:5.1f} s  DSC {mean:.3f}", flush=True)
    seconds = time.perf_counter() - started
    return Overfit(patch_size, mean, total, step, seconds, mean > wanted_dsc)


@torch.no_grad()
def evaluate(net: torch.nn.Module, images: torch.Tensor, masks: BoolArray) -> tuple[float, float]:
    """Return the mean and the global whole-volume DSC. Each volume is one window."""
    net.eval()
    counts = DscCounts((1,))
    for index, mask in enumerate(masks):
        counts.add(f"case_{index}", net(images[index : index + 1]).argmax(1)[0].numpy(), mask)
    summary = counts.summary()
    return summary.mean, summary.global_dsc


def main() -> int:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patch-size", type=int, nargs="+", default=[8, 12, 16])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-seconds", type=float, default=180.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    images, masks = cohort(args.seed)
    everywhere = np.ones(EDGE**3, bool).reshape(EDGE, EDGE, EDGE)
    threshold = best_threshold_dsc(images, [everywhere] * CASES, masks, np.linspace(-1, 4, 51))
    print(f"lesion voxels per volume: {', '.join(str(int(m.sum())) for m in masks)}")
    print(f"best intensity threshold: DSC {threshold.mean:.3f}")
    reached = True
    for patch_size in args.patch_size:
        result = overfit(patch_size, max_seconds=args.max_seconds, seed=args.seed, lr=args.lr, verbose=args.verbose)
        reached &= result.reached
        print(
            f"patch {patch_size:2d}: DSC {result.dsc:.3f} (global {result.global_dsc:.3f}) "
            f"after {result.steps} steps, {result.seconds:.0f} s",
            flush=True,
        )
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
