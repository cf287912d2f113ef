"""Inference: predicts whole volumes by sliding window and writes label maps on the scan's own grid."""

import patchcore.models  # sets OMP_WAIT_POLICY before OpenMP reads it at the import of torch  # noqa: F401
