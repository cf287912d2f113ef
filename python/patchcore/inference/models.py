"""Opens the models of a prediction: runs, exported models, ONNX files; several are averaged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchcore.config.plan import TargetPlan
from patchcore.config.postprocess import Postprocess
from patchcore.errors import ConfigError
from patchcore.inference.segment import WindowModel, check_alike
from patchcore.types import PathLike

__all__ = ["ModelSource", "OpenedModels", "crop_note", "is_exported", "is_onnx", "opened_models"]


@dataclass(frozen=True)
class ModelSource:
    """One model of a prediction.

    Attributes:
        path: The run folder or file.
        target: The plan that it was trained with.
        weights_sha256: Hash of its weights.
        step: Step of the training at which the weights were written.
        post: What was chosen for its predictions by ``patchcore tune``; None if nothing was.
    """

    path: Path
    target: TargetPlan
    weights_sha256: str
    step: int
    post: Postprocess | None = None

    def facts(self) -> dict[str, Any]:
        """Return what identifies the model, as JSON values."""
        return {"name": self.path.name, "step": self.step, "weights_sha256": self.weights_sha256}


@dataclass(frozen=True)
class OpenedModels:
    """All models of a prediction, ready to compute.

    Attributes:
        models: The models, those with equal windows together.
        sources: Where they come from, in the given order.
        mirror: Whether mirrored windows are averaged.
    """

    models: tuple[WindowModel, ...]
    sources: tuple[ModelSource, ...]
    mirror: bool

    @property
    def post(self) -> Postprocess | None:
        """What was tuned for these predictions: only a model alone has that."""
        return self.sources[0].post if len(self.sources) == 1 else None

    def notes(self) -> list[str]:
        """Return what the user has to know about these models, as sentences."""
        notes = [note for source in self.sources if (note := crop_note(source.target))]
        if len(self.sources) > 1 and any(source.post for source in self.sources):
            notes.append("the post-processing of the models is not used: it was chosen for each of them alone")
        elif self.post is not None and self.post.kept and self.post.mirror != self.mirror:
            told = "with" if self.post.mirror else "without"
            notes.append(f"the post-processing was chosen {told} --mirror")
        return list(dict.fromkeys(notes))


def crop_note(target: TargetPlan) -> str | None:
    """Return a sentence on predictions of a network that was trained on crops; None if trained on whole scans."""
    if target.store.crop_to is None:
        return None
    return (
        f"the network was trained on the surroundings of label {target.store.crop_to} only; whole scans are predicted, "
        "and elsewhere it has seen nothing, so false lesions there are likely"
    )


def is_exported(path: PathLike) -> bool:
    """Whether a path is a file with the ending of an exported model."""
    return Path(path).suffix.lower() == ".zip" and not Path(path).is_dir()


def is_onnx(path: PathLike) -> bool:
    """Whether a path is a file with the ending of an ONNX model."""
    return Path(path).suffix.lower() == ".onnx" and not Path(path).is_dir()


@contextmanager
def opened_models(
    paths: Sequence[PathLike],
    *,
    checkpoint: str | None = None,
    device: str | None = None,
    overlap: float | None = None,
    mirror: bool | None = None,
    post: bool = True,
) -> Iterator[OpenedModels]:
    """Open models; torch's process-wide settings are restored at the end.

    Args:
        paths: Run folders, exported models (``.zip``) or ONNX models (``.onnx``).
        checkpoint: ``best`` or ``last`` of runs; default: best if it exists, else last.
        device: ``auto``, ``cpu`` or ``cuda``; default: the run's, and auto for files.
        overlap: Overlap of neighbouring windows; default: that of the training's validation.
        mirror: Whether to average over mirrored windows; default: that of the training's validation.
        post: Whether the post-processing that belongs to a model is read.

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

            opened = open_onnx(chosen, device=device, overlap=overlap, mirror=mirror, post=post)
        else:
            from patchcore.inference.torch_models import open_torch
            from patchcore.models.device import settings_kept

            stack.enter_context(settings_kept())
            opened = open_torch(chosen, checkpoint=checkpoint, device=device, overlap=overlap, mirror=mirror, post=post)
        check_alike([source.target for source in opened.sources])
        yield opened
