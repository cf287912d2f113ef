"""Scores label maps: overlap, surface distances, lesions, statistics of the scores, and baselines for comparison."""

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
from patchcore.metrics.pair import MaskPair, SurfaceScore, surface_scores
from patchcore.metrics.score import CaseScore, ClassScore, ScoreSettings, score_case
from patchcore.metrics.statistics import (
    MeanEstimate,
    MedianEstimate,
    PairedComparison,
    compare_pairs,
    estimate_mean,
    estimate_median,
    holm,
    mean_over_classes,
)

__all__ = [
    "BallBaseline",
    "CaseScore",
    "ClassDsc",
    "ClassScore",
    "DscCounts",
    "DscSummary",
    "LesionMatch",
    "LesionScore",
    "MaskPair",
    "MeanEstimate",
    "MedianEstimate",
    "PairedComparison",
    "ScoreSettings",
    "SurfaceScore",
    "ThresholdBaseline",
    "VoxelCounts",
    "best_threshold_dsc",
    "centre_ball",
    "compare_pairs",
    "dsc",
    "dsc_ball_baseline",
    "estimate_mean",
    "estimate_median",
    "holm",
    "lesion_score",
    "match_lesions",
    "mean_dsc",
    "mean_over_classes",
    "score_case",
    "surface_scores",
]
