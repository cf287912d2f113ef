"""Evaluates runs: scores per case, baselines, cross-validation, comparison of runs, reports."""

import patchcore.models  # sets OMP_WAIT_POLICY, which OpenMP reads when torch is loaded  # noqa: F401
