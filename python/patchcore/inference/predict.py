"""Predicts label maps of CT files on their own grid with the network of a run."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from patchcore.affines import voxel_volume_mm3
from patchcore.config.plan import TargetPlan
from patchcore.errors import ConfigError, DataError, PatchcoreError
from patchcore.files import DISK_ERRORS, replace_atomically
from patchcore.inference.export import is_exported, read_model
from patchcore.inference.geometry import label_on_grid
from patchcore.inference.lesion_files import write_lesions
from patchcore.inference.sliding_window import predict_volume
from patchcore.lesions.measure import measure_lesions
from patchcore.lesions.table import Lesions
from patchcore.models.checkpoint import Checkpoint, fill_network, find_weights
from patchcore.models.device import Placement, place, settings_kept
from patchcore.models.registry import build_network
from patchcore.resampling.grid import Grid
from patchcore.runs.setup import read_setup
from patchcore.types import Affine, AnyArray, Float32Array, PathLike

__all__ = ["Prediction", "Predictor", "crop_note", "predict"]

_NIFTI = re.compile(r"\.(nii|nii\.gz|hdr)$")


@dataclass(frozen=True)
class Prediction:
    """Result for one input file.

    Attributes:
        source: The CT file.
        path: The written label map; None if the prediction failed.
        voxel_count: Number of voxels per label of the plan.
        volume_mm3: Volume per label of the plan [mm³].
        error: Reason of the failure; None on success.
        lesions: The predicted lesions; None if no tables were asked for.
    """

    source: Path
    path: Path | None
    voxel_count: dict[int, int]
    volume_mm3: dict[int, float]
    error: str | None = None
    lesions: Lesions | None = None


class Predictor:
    """A trained network that predicts whole scans.

    Args:
        network: Maps (B, 1, *window_size) to logits (B, 1 + classes, *window_size). It is set to evaluation mode.
        target: The plan that the network was trained with.
        placement: Where to compute; the network is already on this device.
        overlap: Overlap of neighbouring windows.
        mirror: Whether to average over mirrored windows; this takes 8 times the work.
    """

    def __init__(
        self,
        network: nn.Module,
        target: TargetPlan,
        placement: Placement,
        *,
        overlap: float = 0.5,
        mirror: bool = False,
    ) -> None:
        self.network = network.eval()
        self.target = target
        self.placement = placement
        self.overlap = overlap
        self.mirror = mirror

    @classmethod
    def of_run(
        cls,
        run: PathLike,
        *,
        checkpoint: str | None = None,
        device: str | None = None,
        overlap: float | None = None,
        mirror: bool | None = None,
    ) -> tuple[Predictor, Checkpoint]:
        """Load the network of a run.

        Args:
            run: The run folder.
            checkpoint: ``best`` or ``last``; default: best if it exists, else last.
            device: ``auto``, ``cpu`` or ``cuda``; default: the run's.
            overlap: Overlap of neighbouring windows; default: the run's.
            mirror: Whether to average over mirrored windows; default: the run's.

        Returns:
            The predictor and the checkpoint that it was loaded from.

        Raises:
            RunError: The path is not a run folder.
            CheckpointError: The checkpoint does not exist or is damaged.
            ConfigError: CUDA was requested but is not available, or the device is not valid.
        """
        run = Path(run)
        # Prediction uses one process, even if several ranks trained the network.
        overrides: dict[str, Any] = {"train.ranks": 1, "train.accumulate": 1}
        if device is not None:
            overrides["train.device"] = device
        if overlap is not None:
            overrides["validation.overlap"] = overlap
        if mirror is not None:
            overrides["validation.mirror"] = mirror
        setup = read_setup(run, overrides)
        train = setup.config.train
        if train.precision == "bf16":
            # A run that was trained in bf16 on a GPU is predicted with in fp32 where there is only a CPU.
            train = train.model_copy(update={"precision": "auto"})
        placement = place(train)
        found = find_weights(run, checkpoint)
        network = build_network(setup.plan.target, setup.config.model)
        found.restore(network)
        validation = setup.config.validation
        predictor = cls(
            placement.network(network),
            setup.plan.target,
            placement,
            overlap=validation.overlap,
            mirror=validation.mirror,
        )
        return predictor, found

    @classmethod
    def of_model(
        cls, path: PathLike, *, device: str | None = None, overlap: float | None = None, mirror: bool | None = None
    ) -> Predictor:
        """Load an exported model.

        Args:
            path: The file, see :func:`patchcore.inference.export.export_model`.
            device: ``auto``, ``cpu`` or ``cuda``; default: auto.
            overlap: Overlap of neighbouring windows; default: that of the training's validation.
            mirror: Whether to average over mirrored windows; default: as above.

        Raises:
            CheckpointError: The file is not an exported model, or has changed.
            ConfigError: CUDA was requested but is not available, or the device is not valid.
        """
        model = read_model(path)
        alone = {"ranks": 1, "accumulate": 1, "device": device or "auto", "precision": "auto"}
        placement = place(model.config.train.model_copy(update=alone))
        network = build_network(model.plan.target, model.config.model)
        fill_network(network, model.weights, model.path)
        validation = model.config.validation
        return cls(
            placement.network(network),
            model.plan.target,
            placement,
            overlap=validation.overlap if overlap is None else overlap,
            mirror=validation.mirror if mirror is None else mirror,
        )

    def probabilities(self, image: AnyArray, *, look: Callable[[], None] | None = None) -> Float32Array:
        """Return class probabilities, float32 (1 + classes, X, Y, Z), for an image in HU on the training grid."""
        return predict_volume(
            self.network, image, self.target, self.placement, overlap=self.overlap, mirror=self.mirror, look=look
        )

    def class_indices(
        self, image: AnyArray, affine: Affine, *, look: Callable[[], None] | None = None
    ) -> npt.NDArray[np.uint8]:
        """Predict a scan on its own grid. As :meth:`label_map`, but with class indices instead of label values."""
        shape = (int(image.shape[0]), int(image.shape[1]), int(image.shape[2]))
        grid = Grid.of(shape, affine, self.target.spacing)
        store = self.target.store
        resampled = grid.resample(image, kernel=store.kernel, antialias=store.antialias)
        return label_on_grid(self.probabilities(resampled, look=look), grid, self.target.region_indices)

    def label_map(
        self, image: AnyArray, affine: Affine, *, look: Callable[[], None] | None = None
    ) -> npt.NDArray[np.uint8]:
        """Predict a scan on its own grid.

        The scan is resampled to the training grid and back. Probabilities are interpolated, not labels.

        Args:
            image: HU, stored axis order.
            affine: Voxel index → world mm.
            look: Called before each batch of windows; its exceptions are passed on.

        Returns:
            uint8 in the image's shape, with the data set's own label values and 0 for background.
        """
        return original_labels(self.class_indices(image, affine, look=look), self.target.classes)


def crop_note(target: TargetPlan) -> str | None:
    """Return a sentence on predictions of a network that was trained on crops; None if trained on whole scans."""
    if target.store.crop_to is None:
        return None
    return (
        f"the network was trained on the surroundings of label {target.store.crop_to} only; whole scans are predicted, "
        "and elsewhere it has seen nothing, so false lesions there are likely"
    )


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


def predict(
    run: PathLike,
    source: PathLike,
    out: PathLike,
    *,
    checkpoint: str | None = None,
    device: str | None = None,
    overlap: float | None = None,
    mirror: bool | None = None,
    overwrite: bool = False,
    tables: bool = False,
    on_file: Callable[[Prediction, int, int], None] | None = None,
) -> list[Prediction]:
    """Segment CT scans with the network of a run, or with an exported model.

    Args:
        run: The run folder, or the file of an exported model.
        source: A NIfTI file, or a folder of them.
        out: The label map to write (``.nii`` or ``.nii.gz``); if `source` is a folder, the output folder.
        checkpoint: ``best`` or ``last``; default: best if it exists, else last.
        device: ``auto``, ``cpu`` or ``cuda``; default: the run's.
        overlap: Overlap of neighbouring windows; default: the run's.
        mirror: Whether to average over mirrored windows; default: the run's.
        overwrite: Whether existing label maps are replaced.
        tables: Whether the lesions of each scan are also written, as ``NAME.lesions.csv`` and ``NAME.lesions.json``
            beside the label map: volume, diameters, position in world mm.
        on_file: Called with (prediction, number of the file, number of files) after each file.

    Returns:
        One entry per file. In a folder, a file that fails has its error in its entry, and the other files are still
        predicted.

    Raises:
        PatchcoreError: The run has no usable checkpoint; a single file cannot be used.
        OSError: Something cannot be read or written.

    Example:
        >>> import patchcore as pc  # doctest: +SKIP
        >>> pc.predict("study/runs/…", "scan.nii.gz", "tumours.nii.gz")  # doctest: +SKIP
    """
    jobs = _jobs(Path(source), Path(out), overwrite=overwrite)
    single = not Path(source).is_dir()
    predictions = []
    with settings_kept():
        if is_exported(run):
            if checkpoint is not None:
                raise ConfigError("an exported model has one checkpoint", remedy="leave out --checkpoint")
            predictor = Predictor.of_model(run, device=device, overlap=overlap, mirror=mirror)
        else:
            predictor, _ = Predictor.of_run(run, checkpoint=checkpoint, device=device, overlap=overlap, mirror=mirror)
        for number, (scan, path) in enumerate(jobs, 1):
            try:
                prediction = _predict_file(predictor, scan, path, tables=tables)
            except (PatchcoreError, OSError, MemoryError) as error:
                if single or getattr(error, "errno", None) in DISK_ERRORS:
                    raise
                prediction = Prediction(scan, None, {}, {}, error=str(error) or type(error).__name__)
            predictions.append(prediction)
            if on_file is not None:
                on_file(prediction, number, len(jobs))
    return predictions


def _predict_file(predictor: Predictor, scan: Path, path: Path, *, tables: bool = False) -> Prediction:
    import nibabel

    from patchcore.volumes.volume import read_image

    image = read_image(scan)
    labels = predictor.label_map(image.array, image.affine)
    path.parent.mkdir(parents=True, exist_ok=True)
    original: Any = nibabel.load(scan)
    header = original.header.copy()
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    # The header of an .hdr/.img pair would record the file type of a pair.
    kind = nibabel.Nifti2Image if isinstance(original, nibabel.Nifti2Pair) else nibabel.Nifti1Image
    result = kind(labels, original.affine, header)
    with replace_atomically(path) as temporary:
        # nibabel chooses the format by the file extension.
        named = temporary.with_name(temporary.name + (".nii.gz" if path.name.endswith(".gz") else ".nii"))
        try:
            nibabel.save(result, named)
            named.replace(temporary)
        finally:
            named.unlink(missing_ok=True)
    # Of a sheared grid, this is less than the product of the spacings.
    voxel_mm3 = voxel_volume_mm3(image.affine)
    counts = {label: int(np.count_nonzero(labels == label)) for label in predictor.target.classes}
    volumes = {label: count * voxel_mm3 for label, count in counts.items()}
    if not tables:
        return Prediction(scan, path, counts, volumes)
    target = predictor.target
    lesions = measure_lesions(
        labels,
        labels=[target.classes[index - 1] for index in target.evaluated_indices.get(_lesion_index(target), ())]
        or [target.lesion_label],
        affine=image.affine,
        connectivity=target.connectivity,
        min_volume_mm3=target.min_volume_mm3,
    )
    write_lesions(lesions, path.with_name(re.sub(r"\.nii(\.gz)?$", "", path.name) + ".lesions"))
    return Prediction(scan, path, counts, volumes, lesions=lesions)


def _lesion_index(target: TargetPlan) -> int:
    return target.classes.index(target.lesion_label) + 1


def _jobs(source: Path, out: Path, *, overwrite: bool) -> list[tuple[Path, Path]]:
    """Pair inputs with outputs, and refuse outputs that would overwrite a file."""
    if source.is_dir():
        scans = sorted(path for path in source.iterdir() if _NIFTI.search(path.name) and not path.name.startswith("."))
        if not scans:
            raise DataError(
                "no NIfTI file (.nii, .nii.gz, .hdr) found", path=source, remedy="give the folder of the CTs"
            )
        if out.exists() and not out.is_dir():
            raise DataError(
                "is a file, but a folder of scans needs an output folder", path=out, remedy="give a folder with -o"
            )
        jobs = [(scan, out / (_NIFTI.sub("", scan.name) + ".nii.gz")) for scan in scans]
    else:
        if not source.exists():
            raise FileNotFoundError(2, "no such file or folder", str(source))
        path = out / (_NIFTI.sub("", source.name) + ".nii.gz") if out.is_dir() else out
        if not re.search(r"\.nii(\.gz)?$", path.name):
            raise ConfigError(
                f"{path.name!r} is not a NIfTI file name", path=path, remedy="use a name with .nii.gz or .nii"
            )
        jobs = [(source, path)]
    inputs = {scan.resolve() for scan, _ in jobs}
    for scan, path in jobs:
        if path.resolve() in inputs:
            raise DataError("the output would overwrite the input", path=scan, remedy="choose another output with -o")
        if path.exists() and not overwrite:
            raise DataError("already exists", path=path, remedy="add --overwrite, or choose another output with -o")
    return jobs
