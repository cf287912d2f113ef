"""Records why a training failed, with what to do about it."""

from __future__ import annotations

import sys

import torch

from patchcore.errors import PatchcoreError
from patchcore.runs import RunState, RunWriter
from patchcore.runs.setup import RunSetup
from patchcore.training.memory import memory_remedy
from patchcore.training.ranks import RankError
from patchcore.types import ExitCode

__all__ = ["is_out_of_memory", "record_failure_of"]


def record_failure_of(error: Exception, setup: RunSetup, writer: RunWriter) -> int:
    """Record why the training failed. Unexpected errors are raised; their traceback goes to ``stdout.log``."""
    if is_out_of_memory(error):
        try:
            remedy = memory_remedy(setup.config, setup.plan.target)
        except Exception:
            # The estimate may run out of memory too, and a user's own network may not run on tensors without storage.
            remedy = "set a smaller train.batch_size or window, a larger train.accumulate, or model.checkpointing=true"
        writer.alert("error", "out of memory", remedy)
        writer.state(RunState.OUT_OF_MEMORY, remedy)
        return ExitCode.ERROR
    if isinstance(error, PatchcoreError | OSError):
        remedy_text = getattr(error, "remedy", None)
        message = str(error) if not remedy_text else str(error).removesuffix(f"; {remedy_text}")
        writer.alert("error", message, remedy_text)
        from_outside = isinstance(error, RankError) and error.from_outside
        writer.state(RunState.KILLED if from_outside else RunState.FAILED, str(error))
        print(f"failed: {error}", file=sys.stderr, flush=True)
        return ExitCode.ERROR
    raise error


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error says that memory ran out, of the GPU or of the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, RankError):
        return error.out_of_memory
    # torch's CPU allocator raises a plain RuntimeError.
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)
