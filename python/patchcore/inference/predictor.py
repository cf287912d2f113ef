"""Trained networks that predict whole scans: segmentation on the scan's own grid, then post-processing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from patchcore.affines import voxel_volume_mm3
from patchcore.config.patch_choice import PatchChoice
from patchcore.config.plan import TargetPlan
from patchcore.config.postprocess import Postprocess
from patchcore.errors import DataError
from patchcore.inference.opened import ModelSource, OpenedModels
from patchcore.inference.postprocess import Removed, postprocess
from patchcore.inference.segment import Segmentation, WindowModel, segment
from patchcore.types import Affine, AnyArray, PathLike

if TYPE_CHECKING:
    from torch import nn

    from patchcore.models.device import Placement

__all__ = ["Predictor", "original_labels"]


class Predictor:
    """Trained networks that predict whole scans.

    Args:
        models: The models.
        post: What is done to the predictions; None: nothing.
        skip_air: Whether windows of nothing but air are background without a look at them.
        mirror: Whether the models average over mirrored windows; for reports.
        sources: Where the models come from.
    """

    def __init__(
        self,
        models: Sequence[WindowModel],
        *,
        post: Postprocess | None = None,
        skip_air: bool = False,
        mirror: bool = False,
        sources: Sequence[ModelSource] = (),
    ) -> None:
        self.models = tuple(models)
        self.sources = tuple(sources)
        self.target: TargetPlan = models[0].target
        self.overlap = models[0].overlap
        self.mirror = mirror
        self.post = post if post is not None and post.acts else None
        self.skip_air = skip_air

    @classmethod
    def of_network(
        cls,
        network: nn.Module,
        target: TargetPlan,
        placement: Placement,
        *,
        overlap: float = 0.5,
        mirror: bool = False,
    ) -> Predictor:
        """Predict with one network; see :func:`patchcore.inference.torch_models.network_model`."""
        from patchcore.inference.torch_models import network_model

        return cls([network_model(network, target, placement, overlap=overlap, mirror=mirror)], mirror=mirror)

    @classmethod
    def of_run(
        cls,
        run: PathLike,
        *,
        checkpoint: str | None = None,
        device: str | None = None,
        overlap: float | None = None,
        mirror: bool | None = None,
        post: bool = True,
        patch_size: PatchChoice | None = None,
    ) -> Predictor:
        """Load the network of a run.

        Args:
            run: The run folder.
            checkpoint: ``best`` or ``last``; default: best if it exists, else last.
            device: ``auto``, ``cpu`` or ``cuda``; default: the run's.
            overlap: Overlap of neighbouring windows; default: that of the run's validation.
            mirror: Whether to average over mirrored windows; default: as the run's validation.
            post: Whether the run's ``postprocess.json`` is applied, if there is one.
            patch_size: Patch sizes of a flexible network to predict at; default: the plan's.

        Raises:
            RunError: The path is not a run folder.
            CheckpointError: The checkpoint does not exist or is damaged; ``postprocess.json`` is for another one.
            ConfigError: CUDA was requested but is not available, or the device is not valid.
        """
        from patchcore.inference.torch_models import open_torch

        opened = open_torch(
            [Path(run)],
            checkpoint=checkpoint,
            device=device,
            overlap=overlap,
            mirror=mirror,
            post=post,
            patch_size=patch_size,
        )
        return cls.of_opened(opened)

    @classmethod
    def of_opened(cls, opened: OpenedModels, *, skip_air: bool = False) -> Predictor:
        """Predict with opened models."""
        return cls(opened.models, post=opened.post, skip_air=skip_air, mirror=opened.mirror, sources=opened.sources)

    def segment(
        self,
        image: AnyArray,
        affine: Affine,
        *,
        keep_probability: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[Segmentation, Removed]:
        """Predict a scan on its own grid and apply the post-processing.

        The scan is resampled to the training grid; probabilities are interpolated back, not labels.

        Args:
            image: HU, stored axis order.
            affine: Voxel index → world mm.
            keep_probability: Whether to return the probability of a lesion.
            progress: Called with the number of finished windows and their total.
        """
        threshold = None if self.post is None else self.post.threshold
        found = segment(
            self.models,
            image,
            affine,
            threshold=threshold,
            keep_probability=keep_probability or (self.post is not None and self.post.min_peak is not None),
            skip_air=self.skip_air,
            progress=progress,
        )
        removed = Removed()
        if self.post is not None:
            removed = postprocess(
                found.classes,
                self.target,
                self.post,
                voxel_mm3=voxel_volume_mm3(affine),
                probability=found.lesion_probability,
            )
        return found, removed

    def class_indices(self, image: AnyArray, affine: Affine) -> npt.NDArray[np.uint8]:
        """Predict a scan on its own grid: uint8 class indices in the image's shape."""
        return self.segment(image, affine)[0].classes

    def label_map(self, image: AnyArray, affine: Affine) -> npt.NDArray[np.uint8]:
        """Predict a scan on its own grid: uint8 in the image's shape, with the data set's own label values."""
        return original_labels(self.class_indices(image, affine), self.target.classes)


def original_labels(indices: npt.NDArray[np.uint8], classes: Sequence[int]) -> npt.NDArray[np.uint8]:
    """Convert class indices to the data set's label values.

    Raises:
        DataError: A label does not fit into uint8.
    """
    if max(classes) > 255 or min(classes) < 0:
        raise DataError(
            f"classes {tuple(classes)} do not fit into uint8", remedy="renumber the labels from 1 in the label maps"
        )
    values: npt.NDArray[np.uint8] = np.asarray((0, *classes), dtype=np.uint8)[indices]
    return values
