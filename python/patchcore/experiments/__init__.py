"""Experiments over several runs: side by side on the cases they have in common, and fold by fold."""

from patchcore.experiments.compare import Comparison, RunScore, compare
from patchcore.experiments.folds import FoldRun, FoldScore, FoldScores, fold_run, fold_scores

__all__ = [
    "Comparison",
    "FoldRun",
    "FoldScore",
    "FoldScores",
    "RunScore",
    "compare",
    "fold_run",
    "fold_scores",
]
