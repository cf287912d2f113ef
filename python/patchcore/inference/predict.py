"""Predicts CT scans on their own grid: label maps, DICOM SEG, probabilities and tables of lesions."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from patchcore.affines import voxel_volume_mm3
from patchcore.config.plan import TargetPlan
from patchcore.config.postprocess import Postprocess
from patchcore.errors import ConfigError, DataError, PatchcoreError
from patchcore.files import DISK_ERRORS
from patchcore.inference.lesion_files import write_lesions
from patchcore.inference.models import ModelSource, OpenedModels, opened_models
from patchcore.inference.postprocess import Removed, postprocess
from patchcore.inference.record import PredictionRecord
from patchcore.inference.scans import ScanInput, found_scans
from patchcore.inference.seg import SegKind, Segmented, write_seg
from patchcore.inference.segment import Segmentation, WindowModel, lesion_mask, lesion_members, segment
from patchcore.inference.write import write_like, write_probability
from patchcore.lesions.measure import lesion_spans, measure_lesions
from patchcore.lesions.table import Lesions
from patchcore.types import Affine, AnyArray, PathLike
from patchcore.volumes.types import CtImage

if TYPE_CHECKING:
    from torch import nn

    from patchcore.models.device import Placement

__all__ = ["Prediction", "Predictor", "original_labels", "predict"]


NO_SEG = "nothing was found, so no DICOM SEG was written: it has at least one segment"


@dataclass(frozen=True)
class Prediction:
    """Result for one scan.

    Attributes:
        source: The CT file; of a DICOM series, the folder or zip file that holds it.
        path: The written label map (the SEG, if only that was asked for); None if the prediction failed, or if a SEG
            was asked for and nothing was found.
        voxel_count: Number of voxels per label of the plan.
        volume_mm3: Volume per label of the plan [mm³].
        error: Reason of the failure; None on success.
        lesions: The predicted lesions; None if no tables were asked for.
        name: Name of the scan.
        files: Everything that was written.
        notes: What has to be known about how the scan was read.
        windows: Number of windows of the scan.
        air_windows: Number of them that were skipped because they contain only air.
        removed: What the post-processing removed.
        seconds: Time that it took.
        resumed: Whether the scan had been predicted before, by the same model and settings; then nothing is counted.
    """

    source: Path
    path: Path | None
    voxel_count: dict[int, int]
    volume_mm3: dict[int, float]
    error: str | None = None
    lesions: Lesions | None = None
    name: str = ""
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    windows: int = 0
    air_windows: int = 0
    removed: Removed = field(default_factory=Removed)
    seconds: float = 0.0
    resumed: bool = False


@dataclass(frozen=True)
class _Wanted:
    """What is written for each scan."""

    labels: bool
    tables: bool
    probabilities: bool
    seg: SegKind | None

    @property
    def names(self) -> list[str]:
        """What is asked for, as names for the record of a folder."""
        asked = {"labels": self.labels, "tables": self.tables, "probabilities": self.probabilities}
        return [*(name for name, is_asked in asked.items() if is_asked), *([f"seg {self.seg}"] if self.seg else [])]


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
    ) -> Predictor:
        """Load the network of a run.

        Args:
            run: The run folder.
            checkpoint: ``best`` or ``last``; default: best if it exists, else last.
            device: ``auto``, ``cpu`` or ``cuda``; default: the run's.
            overlap: Overlap of neighbouring windows; default: that of the run's validation.
            mirror: Whether to average over mirrored windows; default: as the run's validation.
            post: Whether the run's ``postprocess.json`` is applied, if there is one.

        Raises:
            RunError: The path is not a run folder.
            CheckpointError: The checkpoint does not exist or is damaged; ``postprocess.json`` is for another one.
            ConfigError: CUDA was requested but is not available, or the device is not valid.
        """
        from patchcore.inference.torch_models import open_torch

        opened = open_torch(
            [Path(run)], checkpoint=checkpoint, device=device, overlap=overlap, mirror=mirror, post=post
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
        look: Callable[[], None] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[Segmentation, Removed]:
        """Predict a scan on its own grid and apply the post-processing.

        The scan is resampled to the training grid; probabilities are interpolated back, not labels.

        Args:
            image: HU, stored axis order.
            affine: Voxel index → world mm.
            keep_probability: Whether to return the probability of a lesion.
            look: Called before each batch of windows; its exceptions are passed on.
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
            look=look,
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

    def class_indices(
        self, image: AnyArray, affine: Affine, *, look: Callable[[], None] | None = None
    ) -> npt.NDArray[np.uint8]:
        """Predict a scan on its own grid: uint8 class indices in the image's shape."""
        return self.segment(image, affine, look=look)[0].classes

    def label_map(
        self, image: AnyArray, affine: Affine, *, look: Callable[[], None] | None = None
    ) -> npt.NDArray[np.uint8]:
        """Predict a scan on its own grid: uint8 in the image's shape, with the data set's own label values."""
        return original_labels(self.class_indices(image, affine, look=look), self.target.classes)


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
    model: PathLike | Sequence[PathLike],
    source: PathLike,
    out: PathLike,
    *,
    checkpoint: str | None = None,
    device: str | None = None,
    overlap: float | None = None,
    mirror: bool | None = None,
    skip_air: bool = False,
    post: bool = True,
    overwrite: bool = False,
    tables: bool = False,
    probabilities: bool = False,
    seg: SegKind | None = None,
    on_file: Callable[[Prediction, int, int], None] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> list[Prediction]:
    """Segment CT scans with the network of a run, an exported model, or several of them averaged.

    Args:
        model: The run folder, or the file of an exported model (``.zip``, ``.onnx``). Several: their probabilities are
            averaged in one pass over each scan.
        source: A NIfTI file; the folder or zip file of a DICOM series; or a folder of many.
        out: The label map to write (``.nii`` or ``.nii.gz``, or ``.dcm`` to write only the SEG); a folder if there are
            several scans.
        checkpoint: ``best`` or ``last``; default: best if it exists, else last.
        device: ``auto``, ``cpu`` or ``cuda``; default: the run's.
        overlap: Overlap of neighbouring windows; default: that of the run's validation.
        mirror: Whether to average over mirrored windows; default: as the run's validation.
        skip_air: Whether windows of nothing but air are skipped.
        post: Whether the model's post-processing (``patchcore tune``) is applied, if it has one.
        overwrite: Whether existing outputs are replaced. Without it, a folder continues where it stopped.
        tables: Whether the lesions of each scan are also written, as ``NAME.lesions.csv`` and ``NAME.lesions.json``
            beside the label map: volume, diameters, position in world mm.
        probabilities: Whether the probability of a lesion is also written, as ``NAME.probability.nii.gz``.
        seg: Kind of the DICOM SEG to write, ``NAME.seg.dcm``; only for DICOM scans.
        on_file: Called with (prediction, number of the scan, number of scans) after each scan.
        progress: Called with the name of the scan, the number of its finished windows, and their total.
        on_note: Called with sentences that the user has to know.

    Returns:
        One entry per scan. If there are several, a scan that fails has its error in its entry, and the others are still
        predicted.

    Raises:
        PatchcoreError: A model cannot be used; a single scan cannot be used.
        OSError: Something cannot be read or written.

    Example:
        >>> import patchcore as pc  # doctest: +SKIP
        >>> pc.predict("study/runs/…", "scan.nii.gz", "tumours.nii.gz")  # doctest: +SKIP
    """
    paths = [model] if isinstance(model, str | Path) or hasattr(model, "__fspath__") else list(model)
    say = on_note or (lambda _text: None)
    with ExitStack() as stack:
        scans = stack.enter_context(found_scans(Path(source)))
        only_seg = Path(out).suffix.lower() == ".dcm"
        if only_seg and seg is None:
            seg = "binary"
        wanted = _Wanted(labels=not only_seg, tables=tables, probabilities=probabilities, seg=seg)
        if seg is not None and any(scan.volume is not None and scan.slices is None for scan in scans):
            raise ConfigError("a DICOM SEG can be written only for a DICOM scan", remedy="leave out --seg")
        outputs = _outputs(scans, Path(source), Path(out))
        opened = stack.enter_context(
            opened_models(paths, checkpoint=checkpoint, device=device, overlap=overlap, mirror=mirror, post=post)
        )
        for note in opened.notes():
            say(note)
        predictor = Predictor.of_opened(opened, skip_air=skip_air)
        if opened.post is not None:
            say(f"post-processing: {opened.post}")
        settings = {
            "patchcore": _version(),
            "models": [one.facts() for one in opened.sources],
            "overlap": [one.overlap for one in opened.models],
            "mirror": opened.mirror,
            "skip_air": skip_air,
            "post": None if predictor.post is None else predictor.post.model_dump(mode="json"),
        }
        record = PredictionRecord(outputs[0].parent, settings, wanted.names, enabled=len(scans) > 1)
        done = _check_outputs(scans, outputs, wanted, record, overwrite=overwrite)
        record.begin([scan for scan, is_done in zip(scans, done, strict=True) if not is_done])
        return _predict_all(
            predictor, list(zip(scans, outputs, done, strict=True)), wanted, record, opened, on_file, progress
        )


def _predict_all(
    predictor: Predictor,
    jobs: Sequence[tuple[ScanInput, Path, bool]],
    wanted: _Wanted,
    record: PredictionRecord,
    opened: OpenedModels,
    on_file: Callable[[Prediction, int, int], None] | None,
    progress: Callable[[str, int, int], None] | None,
) -> list[Prediction]:
    predictions = []
    for number, (scan, path, is_done) in enumerate(jobs, 1):
        if is_done:
            prediction = Prediction(scan.path, path, {}, {}, name=scan.name, resumed=True)
        else:
            try:
                prediction = _predict_scan(predictor, scan, path, wanted, progress)
                record.add(scan, prediction.files)
            except (PatchcoreError, OSError, MemoryError) as error:
                if len(jobs) == 1 or getattr(error, "errno", None) in DISK_ERRORS:
                    raise
                reason = str(error) or type(error).__name__
                prediction = Prediction(scan.path, None, {}, {}, error=reason, name=scan.name)
        predictions.append(prediction)
        if on_file is not None:
            on_file(prediction, number, len(jobs))
    return predictions


def _predict_scan(
    predictor: Predictor,
    scan: ScanInput,
    path: Path,
    wanted: _Wanted,
    progress: Callable[[str, int, int], None] | None,
) -> Prediction:
    began = time.monotonic()
    image = scan.read()
    told = None if progress is None else (lambda done, total: progress(scan.name, done, total))
    found, removed = predictor.segment(image.array, image.affine, keep_probability=wanted.probabilities, progress=told)
    target = predictor.target
    # Of a sheared grid, this is less than the product of the spacings.
    voxel_mm3 = voxel_volume_mm3(image.affine)
    counts = {label: int(np.count_nonzero(found.classes == index)) for index, label in enumerate(target.classes, 1)}
    volumes = {label: count * voxel_mm3 for label, count in counts.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    files = _write(scan, image, found, path, wanted, predictor)
    lesions = None
    if wanted.tables:
        lesions = measure_lesions(
            lesion_mask(found.classes, target),
            affine=image.affine,
            connectivity=target.connectivity,
            min_volume_mm3=target.min_volume_mm3,
        )
        stem = _beside(path, ".lesions")
        write_lesions(lesions, stem)
        files += [stem.with_name(stem.name + ending) for ending in (".csv", ".json")]
    return Prediction(
        scan.path,
        next((file for file in files if file.name.endswith((".nii", ".nii.gz", ".dcm"))), None),
        counts,
        volumes,
        lesions=lesions,
        name=scan.name,
        files=tuple(files),
        notes=(*scan.notes, *([NO_SEG] if wanted.seg is not None and not found.classes.any() else [])),
        windows=found.windows,
        air_windows=found.air_windows,
        removed=removed,
        seconds=time.monotonic() - began,
    )


def _write(
    scan: ScanInput,
    image: CtImage,
    found: Segmentation,
    path: Path,
    wanted: _Wanted,
    predictor: Predictor,
) -> list[Path]:
    """Write the images of a prediction and return their paths."""
    files: list[Path] = []
    target = predictor.target
    if wanted.labels:
        write_like(path, original_labels(found.classes, target.classes), scan, image.affine)
        files.append(path)
    # A SEG has at least one segment.
    if wanted.seg is not None and scan.slices is not None and found.classes.any():
        where = path if path.suffix.lower() == ".dcm" else _beside(path, ".seg.dcm")
        members = lesion_members(target)
        spans = lesion_spans(lesion_mask(found.classes, target), connectivity=target.connectivity)
        names = target.class_names
        others = {
            index: names.get(label) or f"label {label}"
            for index, label in enumerate(target.classes, 1)
            if index not in members
        }
        segmented = Segmented(found.classes, spans, others, target.label_name or "lesion")
        sources = [one.path.name for one in predictor.sources]
        write_seg(where, segmented, scan.files, scan.slices, kind=wanted.seg, models=sources, version=_version())
        files.append(where)
    if wanted.probabilities and found.lesion_probability is not None:
        where = _beside(path, ".probability.nii.gz")
        write_probability(where, found.lesion_probability, scan, image.affine)
        files.append(where)
    return files


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(re.sub(r"\.(nii(\.gz)?|dcm)$", "", path.name) + ending)


def _version() -> str:
    from patchcore import __version__

    return __version__


def _outputs(scans: Sequence[ScanInput], source: Path, out: Path) -> list[Path]:
    """Return the label map of each scan."""
    usable = [scan for scan in scans if scan.volume is not None]
    is_file_name = re.search(r"\.(nii(\.gz)?|dcm)$", out.name) is not None
    folder_of_nifti = source.is_dir() and scans[0].slices is None and scans[0].volume is not None
    if len(usable) > 1 or (folder_of_nifti and not is_file_name):
        if is_file_name and not out.is_dir():
            raise DataError(
                f"names one file, but {len(usable)} scans were found", path=out, remedy="give a folder with -o"
            )
        if out.exists() and not out.is_dir():
            raise DataError(
                "is a file, but several scans need an output folder", path=out, remedy="give a folder with -o"
            )
        return [out / f"{scan.stem}.nii.gz" for scan in scans]
    if out.is_dir():
        return [out / f"{scan.stem}.nii.gz" for scan in scans]
    if not is_file_name:
        raise ConfigError(
            f"{out.name!r} is neither a NIfTI file name nor an existing folder",
            path=out,
            remedy="use a name with .nii.gz or .nii, or .dcm for a DICOM SEG",
        )
    # Only the scan that can be used is written; what cannot be used is reported.
    return [out if scan.volume is not None or not usable else out.with_name(f"{scan.stem}.nii.gz") for scan in scans]


def _check_outputs(
    scans: Sequence[ScanInput],
    outputs: Sequence[Path],
    wanted: _Wanted,
    record: PredictionRecord,
    *,
    overwrite: bool,
) -> list[bool]:
    """Refuse outputs that would overwrite a file; return which scans are done already."""
    inputs = {file.resolve() for scan in scans for file in scan.files}
    seen: dict[Path, ScanInput] = {}
    done = []
    for scan, path in zip(scans, outputs, strict=True):
        other = seen.setdefault(path, scan)
        if other is not scan:
            raise DataError(
                f"{other.name} and {scan.name} would have the same output",
                path=path,
                remedy="rename one of them, or put them into different folders",
            )
        written = _files_of(path, wanted)
        if any(file.resolve() in inputs for file in (path, *written)):
            raise DataError(
                "the output would overwrite the input", path=scan.path, remedy="choose another output with -o"
            )
        is_done = not overwrite and record.is_done(scan)
        if not overwrite and not is_done and not record.may_replace(scan):
            for file in written:
                if file.exists():
                    raise DataError(
                        "already exists", path=file, remedy="add --overwrite, or choose another output with -o"
                    )
        done.append(is_done)
    return done


def _files_of(path: Path, wanted: _Wanted) -> list[Path]:
    files = [path] if wanted.labels or path.suffix.lower() == ".dcm" else []
    files += [_beside(path, ".seg.dcm")] if wanted.seg is not None and path.suffix.lower() != ".dcm" else []
    files += [_beside(path, ".probability.nii.gz")] if wanted.probabilities else []
    files += [_beside(path, f".lesions.{ending}") for ending in ("csv", "json")] if wanted.tables else []
    return files
