"""Predicts CT scans on their own grid: label maps, DICOM SEG, probabilities and tables of lesions."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from patchcore import _core
from patchcore.affines import voxel_volume_mm3
from patchcore.config.patch_choice import PatchChoice
from patchcore.config.plan import TargetPlan
from patchcore.errors import ConfigError, PatchcoreError
from patchcore.files import DISK_ERRORS
from patchcore.inference.lesion_files import write_lesions
from patchcore.inference.models import opened_models
from patchcore.inference.outputs import Wanted, beside, check_outputs, check_writable, output_paths
from patchcore.inference.postprocess import Removed
from patchcore.inference.predictor import Predictor, original_labels
from patchcore.inference.record import PredictionRecord
from patchcore.inference.scans import ScanInput, found_scans
from patchcore.inference.seg import SegKind, Segmented, write_seg
from patchcore.inference.segment import Segmentation, lesion_mask, lesion_members
from patchcore.inference.write import write_like, write_probability
from patchcore.lesions.measure import lesion_spans, measure_lesions
from patchcore.lesions.table import Lesions
from patchcore.types import AnyArray, PathLike
from patchcore.volumes.types import CtImage

__all__ = ["Prediction", "predict"]


_LEAST_SHARE_IN_RANGE = 0.01
_LOW_HU = -100.0
"""A CT has fat or air, and so a voxel below this."""

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
    patch_size: str | None = None,
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
        patch_size: Patch size of a flexible network to predict at, ``8`` or ``8x8x4``; several that are averaged,
            ``8,12``; or one per label, ``1:16,2:8``. Default: the plan's.
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
        wanted = Wanted(labels=not only_seg, tables=tables, probabilities=probabilities, seg=seg)
        if seg is not None and any(scan.volume is not None and scan.slices is None for scan in scans):
            raise ConfigError("a DICOM SEG can be written only for a DICOM scan", remedy="leave out --seg")
        outputs = output_paths(scans, Path(source), Path(out))
        opened = stack.enter_context(
            opened_models(
                paths,
                checkpoint=checkpoint,
                device=device,
                overlap=overlap,
                mirror=mirror,
                post=post,
                patch_size=None if patch_size is None else PatchChoice.parse(patch_size),
            )
        )
        for note in opened.notes():
            say(note)
        predictor = Predictor.of_opened(opened, skip_air=skip_air)
        if opened.post is not None:
            say(f"post-processing: {opened.post}")
        settings = {
            "patchcore": _core.__version__,
            "models": [one.facts() for one in opened.sources],
            "overlap": [one.overlap for one in opened.models],
            "mirror": opened.mirror,
            "skip_air": skip_air,
            "post": None if predictor.post is None else predictor.post.model_dump(mode="json"),
        }
        record = PredictionRecord(outputs[0].parent, settings, wanted.names, enabled=len(scans) > 1)
        done = check_outputs(scans, outputs, wanted, record, overwrite=overwrite)
        check_writable(outputs[0].parent)
        record.begin([scan for scan, is_done in zip(scans, done, strict=True) if not is_done])
        return _predict_all(predictor, list(zip(scans, outputs, done, strict=True)), wanted, record, on_file, progress)


def _predict_all(
    predictor: Predictor,
    jobs: Sequence[tuple[ScanInput, Path, bool]],
    wanted: Wanted,
    record: PredictionRecord,
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
    wanted: Wanted,
    progress: Callable[[str, int, int], None] | None,
) -> Prediction:
    began = time.monotonic()
    image = scan.read()
    report = None if progress is None else (lambda done, total: progress(scan.name, done, total))
    found, removed = predictor.segment(
        image.array, image.affine, keep_probability=wanted.probabilities, progress=report
    )
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
        stem = beside(path, ".lesions")
        write_lesions(lesions, stem)
        files += [stem.with_name(stem.name + ending) for ending in (".csv", ".json")]
    no_seg = [NO_SEG] if wanted.seg is not None and not found.classes.any() else []
    return Prediction(
        scan.path,
        next((file for file in files if file.name.endswith((".nii", ".nii.gz", ".dcm"))), None),
        counts,
        volumes,
        lesions=lesions,
        name=scan.name,
        files=tuple(files),
        notes=(*scan.notes, *_hu_note(image.array, target), *no_seg),
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
    wanted: Wanted,
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
        where = path if path.suffix.lower() == ".dcm" else beside(path, ".seg.dcm")
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
        write_seg(where, segmented, scan.files, scan.slices, kind=wanted.seg, models=sources, version=_core.__version__)
        files.append(where)
    if wanted.probabilities and found.lesion_probability is not None:
        where = beside(path, ".probability.nii.gz")
        write_probability(where, found.lesion_probability, scan, image.affine)
        files.append(where)
    return files


def _hu_note(image: AnyArray, target: TargetPlan) -> tuple[str, ...]:
    """Return a note on a scan that does not look like a CT in HU."""
    sample = image[::4, ::4, ::4]
    low, high = target.hu_range
    share = float(np.mean((sample > low) & (sample < high)))
    if share >= _LEAST_SHARE_IN_RANGE and float(sample.min()) < _LOW_HU:
        return ()
    return (
        f"its values reach from {float(sample.min()):g} to {float(sample.max()):g}, and {share:.1%} of them lie in the "
        f"model's HU range, {low:g} to {high:g}: is it a CT in HU?",
    )
