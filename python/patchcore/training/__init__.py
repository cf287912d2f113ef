"""Training: the trainer process, the training loop, loader, loss, ranks and validation."""

import patchcore.models  # sets OMP_WAIT_POLICY before OpenMP reads it at the import of torch  # noqa: F401
