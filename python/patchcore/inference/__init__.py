"""Inference: whole volumes by sliding window, and their label maps on the grid of the scan."""

import patchcore.models  # sets OMP_WAIT_POLICY, which OpenMP reads when torch is loaded  # noqa: F401
