"""Computes a plan from a fingerprint: which ViT patch size fits the lesions, and why. Needs NumPy only."""

from patchcore.planning.bootstrap import edge_interval
from patchcore.planning.candidates import DEFAULT_CANDIDATES
from patchcore.planning.of_fingerprint import plan_from_fingerprint
from patchcore.planning.plan import plan_from_samples
from patchcore.planning.rules import ideal_edge, ideal_edges, nearest_candidate
from patchcore.planning.samples import CaseSample, Cohort, LesionSample, cohort_of
from patchcore.planning.window import HU_PRESETS

__all__ = [
    "DEFAULT_CANDIDATES",
    "HU_PRESETS",
    "CaseSample",
    "Cohort",
    "LesionSample",
    "cohort_of",
    "edge_interval",
    "ideal_edge",
    "ideal_edges",
    "nearest_candidate",
    "plan_from_fingerprint",
    "plan_from_samples",
]
