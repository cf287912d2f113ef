"""Choose the ViT patch size for a cohort with large lesions and a cohort with small lesions, and print the reasons.

    python examples/03_plan_with_reasons.py

Both cohorts are phantoms that the script creates. They follow the paper: pre-train on large lesions, fine-tune on small
lesions.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import patchcore as pc
from patchcore.phantoms import make_phantoms


def main(folder: Path) -> None:
    for preset in ("large", "small"):
        dataset = make_phantoms(
            folder / preset, preset=preset, cases=6, seed=1, shape=(80, 80, 56), spacing=(3.0, 3.0, 4.0)
        )
        study = pc.analyze(dataset, folder / f"{preset} study")

        # The ideal edge is the edge of a cube with the mean lesion volume [voxels]. The plan takes the nearest
        # candidate.
        plan = pc.plan_patch_size(study)
        print(f"== {preset} lesions: patch size {plan.patch_size}, window {plan.window_size}\n{plan.reason}")
        for warning in plan.target.warnings:
            print(f"  warning: {warning}")

        # The cost of each candidate, and the share of lesions that are smaller than one patch.
        for candidate in plan.target.candidates:
            print(
                f"  {candidate.patch_size}: {candidate.tokens} tokens per window, "
                f"{candidate.smaller_lesions_share:.0%} of the lesions are smaller than one patch"
            )

        # The mean volume is only one rule. The plan also shows what the other rules would choose.
        for outcome in plan.target.rules:
            print(f"  rule {outcome.rule}: p* {max(outcome.edge):.1f} voxels → {outcome.patch_size}")

        # At another spacing the same lesions have another number of voxels.
        fine = pc.plan_patch_size(study, spacing=(1.5, 1.5, 2.0))
        print(f"  at half the spacing: p* {fine.target.ideal_edge:.1f} voxels → {fine.patch_size}\n")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary))
