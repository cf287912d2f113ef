"""Joins post-processing with the weights for which it was chosen."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from patchcore.config.postprocess import POSTPROCESS_FILE, Postprocess, read_postprocess
from patchcore.errors import CheckpointError

__all__ = ["check_post", "post_of", "weights_digest"]


def post_of(run: Path, digest: str) -> Postprocess | None:
    """Return the post-processing of a run for its weights with this hash; None if the run has none.

    Raises:
        CheckpointError: It was chosen for other weights.
        DataError: The file is damaged.
        OSError: The file cannot be read.
    """
    path = run / POSTPROCESS_FILE
    if not path.exists():
        return None
    post = read_postprocess(path)
    check_post(run, post, digest)
    return post


def check_post(path: Path, post: Postprocess, digest: str) -> None:
    """Refuse post-processing of other weights.

    Raises:
        CheckpointError: It was chosen for other weights.
    """
    if post.weights_sha256 != digest:
        raise CheckpointError(
            f"{POSTPROCESS_FILE} was chosen for other weights",
            path=path,
            remedy="run patchcore tune for this checkpoint, or go without it (--no-postprocess)",
        )


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Return a hash of weights that does not depend on the file that holds them.

    Example:
        >>> import torch
        >>> one = {"a": torch.zeros(2), "b": torch.ones(1)}
        >>> weights_digest(one) == weights_digest(dict(reversed(one.items())))
        True
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()
