"""Opens the models of a prediction: runs, exported models, ONNX files; several are averaged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from patchcore.config.patch_choice import PatchChoice
from patchcore.errors import ConfigError
from patchcore.inference.opened import OpenedModels, is_exported, is_onnx
from patchcore.inference.segment import check_alike
from patchcore.types import PathLike

__all__ = ["opened_models"]


@contextmanager
def opened_models(
    paths: Sequence[PathLike],
    *,
    checkpoint: str | None = None,
    device: str | None = None,
    overlap: float | None = None,
    mirror: bool | None = None,
    post: bool = True,
    patch_size: PatchChoice | None = None,
) -> Iterator[OpenedModels]:
    """Open models; torch's process-wide settings are restored at the end.

    Args:
        paths: Run folders, exported models (``.zip``) or ONNX models (``.onnx``).
        checkpoint: ``best`` or ``last`` of runs; default: best if it exists, else last.
        device: ``auto``, ``cpu`` or ``cuda``; default: the run's, and auto for files.
        overlap: Overlap of neighbouring windows; default: that of the training's validation.
        mirror: Whether to average over mirrored windows; default: that of the training's validation.
        post: Whether the post-processing that belongs to a model is read.
        patch_size: Patch sizes of flexible networks to predict at; default: the plan's.

    Raises:
        RunError: A path is not a run folder.
        CheckpointError: A checkpoint does not exist or is damaged; a file is not a model, or has changed.
        ConfigError: The models have different classes, CUDA is not available, or an option does not fit a model.
        MissingExtraError: torch or onnxruntime is not installed.
    """
    chosen = [Path(path) for path in paths]
    if not chosen:
        raise ConfigError("no model is given", remedy="give a run folder, a .zip or a .onnx file")
    onnx = [path for path in chosen if is_onnx(path)]
    if checkpoint is not None and any(is_exported(path) or is_onnx(path) for path in chosen):
        raise ConfigError("an exported model has one checkpoint", remedy="leave out --checkpoint")
    if device not in (None, "auto", "cpu", "cuda"):
        raise ConfigError(f"{device!r} is not a device", expected=("auto", "cpu", "cuda"), remedy="use one of them")
    with ExitStack() as stack:
        if onnx and len(onnx) < len(chosen):
            raise ConfigError(
                "ONNX models and others cannot be averaged", remedy="give the run folders or .zip files of all models"
            )
        if onnx:
            from patchcore.inference.onnx_model import open_onnx

            if patch_size is not None:
                raise ConfigError("an ONNX model has one patch size", remedy="leave out --patch-size")
            opened = open_onnx(chosen, device=device, overlap=overlap, mirror=mirror, post=post)
        else:
            from patchcore.inference.torch_models import open_torch
            from patchcore.models.device import settings_kept

            stack.enter_context(settings_kept())
            opened = open_torch(
                chosen,
                checkpoint=checkpoint,
                device=device,
                overlap=overlap,
                mirror=mirror,
                post=post,
                patch_size=patch_size,
            )
        check_alike([source.target for source in opened.sources])
        yield opened
