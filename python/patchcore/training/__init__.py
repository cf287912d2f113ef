"""Training: the trainer process, its loop, loader, loss, ranks and validation."""

import patchcore.models  # sets OMP_WAIT_POLICY, which OpenMP reads when torch is loaded  # noqa: F401
