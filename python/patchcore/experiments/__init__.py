"""Experiments over several runs. The first: runs side by side on the cases they have in common."""

from patchcore.experiments.compare import Comparison, RunScore, compare

__all__ = ["Comparison", "RunScore", "compare"]
