"""Computes DSC of whole label maps, detection of lesions, and baselines for comparison. Uses NumPy only."""

from __future__ import annotations

from patchcore.metrics.baselines import (
    BallBaseline,
    ThresholdBaseline,
    best_threshold_dsc,
    centre_ball,
    dsc_ball_baseline,
)
from patchcore.metrics.dice import ClassDsc, DscCounts, DscSummary, VoxelCounts, dsc, mean_dsc
from patchcore.metrics.lesions import LesionMatch, LesionScore, lesion_score, match_lesions

__all__ = [
    "BallBaseline",
    "ClassDsc",
    "DscCounts",
    "DscSummary",
    "LesionMatch",
    "LesionScore",
    "ThresholdBaseline",
    "VoxelCounts",
    "best_threshold_dsc",
    "centre_ball",
    "dsc",
    "dsc_ball_baseline",
    "lesion_score",
    "match_lesions",
    "mean_dsc",
]
