"""DSC of whole label maps, and the baselines it is read against. NumPy only."""

from __future__ import annotations

from patchcore.metrics.baselines import (
    BallBaseline,
    ThresholdBaseline,
    best_threshold_dsc,
    centre_ball,
    dsc_ball_baseline,
)
from patchcore.metrics.dice import ClassDsc, DscCounts, DscSummary, VoxelCounts, dsc, mean_dsc

__all__ = [
    "BallBaseline",
    "ClassDsc",
    "DscCounts",
    "DscSummary",
    "ThresholdBaseline",
    "VoxelCounts",
    "best_threshold_dsc",
    "centre_ball",
    "dsc",
    "dsc_ball_baseline",
    "mean_dsc",
]
