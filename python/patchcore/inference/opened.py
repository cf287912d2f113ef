"""What is known of the models of a prediction: where they come from, their plans, notes on them. Knows no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchcore.config.plan import TargetPlan
from patchcore.config.postprocess import Postprocess
from patchcore.inference.segment import WindowModel
from patchcore.types import PathLike

__all__ = ["ModelSource", "OpenedModels", "crop_note", "is_exported", "is_onnx"]


@dataclass(frozen=True)
class ModelSource:
    """One model of a prediction.

    Attributes:
        path: The run folder or file.
        target: The plan that it was trained with.
        weights_sha256: Hash of its weights.
        step: Step of the training at which the weights were written.
        post: What was chosen for its predictions by ``patchcore tune``; None if nothing was.
        patch_size: Patch sizes of a flexible network that were chosen, as text; None: that of the plan.
        lacks_post: Whether something was chosen by ``patchcore tune``, for another patch size than this prediction's.
    """

    path: Path
    target: TargetPlan
    weights_sha256: str
    step: int
    post: Postprocess | None = None
    patch_size: str | None = None
    lacks_post: bool = False

    def facts(self) -> dict[str, Any]:
        """Return what identifies the model, as JSON values."""
        chosen = {} if self.patch_size is None else {"patch_size": self.patch_size}
        return {"name": self.path.name, "step": self.step, "weights_sha256": self.weights_sha256} | chosen


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
            with_or_without = "with" if self.post.mirror else "without"
            notes.append(f"the post-processing was chosen {with_or_without} --mirror")
        elif any(source.lacks_post for source in self.sources):
            notes.append("the post-processing is not used: it was chosen at the patch size of the plan")
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
