"""Find cases with one mask file per structure: ``CASE/ct.nii.gz`` and ``CASE/segmentations/NAME.nii.gz``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from patchcore.datasets.layouts.files import FolderLog, case_id_problem, first_problem
from patchcore.errors import DataError
from patchcore.study.layout import CaseFiles, Layout
from patchcore.volumes.dicom.names import label_numbers, segment_labels
from patchcore.volumes.dicom.options import SegmentOptions
from patchcore.volumes.dicom.sources import DicomSource
from patchcore.volumes.volume import DicomVolume, NiftiFile

__all__ = ["find_structures"]

_FOLDERS: Final = ("segmentations", "segmentation", "structures", "masks")
_IMAGES: Final = ("ct", "image", "imaging", "img", "volume", "scan")


def find_structures(root: Path, log: FolderLog) -> Layout | None:
    """Find case folders with an image and a folder of masks, one per structure, as in TotalSegmentator's data set.

    The masks of a case become one label map; a structure has the same number in all cases, and masks may overlap.
    """
    found: list[tuple[Path, Path]] = []
    for folder in log.list(root).folders:
        try:
            inner = {item.name.lower(): item for item in log.list(folder).folders}
        except DataError:
            # The folder is listed among the ignored ones.
            continue
        masks = next((inner[name] for name in _FOLDERS if name in inner), None)
        if masks is not None and (log.list(folder).volumes or _volumes(masks, log)):
            found.append((folder, masks))
    if not any(log.list(folder).volumes and _volumes(masks, log) for folder, masks in found):
        return None
    names = {name for _, masks in found for name in _volumes(masks, log)}
    labels = segment_labels(sorted(names))
    numbers = label_numbers(labels.values())
    cases = [_case(folder, masks, labels, numbers, log) for folder, masks in found]
    return Layout(
        name="structures",
        reason=f"{len(cases)} folder{'' if len(cases) == 1 else 's'} with an image, and one mask per structure in "
        f"{found[0][1].name}/",
        cases=tuple(sorted(cases, key=lambda case: case.case_id)),
        label_names=MappingProxyType({number: name for name, number in numbers.items()}),
    )


def _volumes(folder: Path, log: FolderLog) -> Mapping[str, Sequence[Path]]:
    """Return the volumes of a folder; none if it cannot be listed."""
    try:
        return log.list(folder).volumes
    except DataError:
        return {}


def _case(
    folder: Path, masks: Path, labels: Mapping[str, str], numbers: Mapping[str, int], log: FolderLog
) -> CaseFiles:
    images = dict(log.list(folder).volumes)
    every = tuple(file for paths in _volumes(masks, log).values() for file in paths)
    if not every:
        first = min(file for paths in images.values() for file in paths)
        return CaseFiles(
            folder.name,
            NiftiFile(first),
            NiftiFile(masks / "NAME.nii.gz"),
            problem=f"image without masks: {folder.name}/{masks.name}/ is empty or cannot be listed",
            remedy=f"add {folder.name}/{masks.name}/NAME.nii.gz",
            others=tuple(file for paths in images.values() for file in paths if file != first),
        )
    if not images:
        missing = f"add {folder.name}/ct.nii.gz"
        return CaseFiles(
            folder.name, None, DicomVolume(every[0]), problem="masks without image", remedy=missing, others=every
        )
    named = next((name for name in _IMAGES for stem in images if stem.lower() == name), None)
    stem = next((stem for stem in images if stem.lower() == named), min(images))
    image = images[stem][0]
    structures = {name: files[0] for name, files in sorted(_volumes(masks, log).items())}
    several = next((files for files in _volumes(masks, log).values() if len(files) > 1), None)
    problem: str | None = None
    remedy: str | None = None
    if len(images) > 1 and named is None:
        problem, remedy = (
            f"several images for one case: {', '.join(sorted(images))}",
            "keep one of them, named ct.nii.gz",
        )
    elif len(images[stem]) > 1 or several is not None:
        files = images[stem] if several is None else several
        problem, remedy = f"several files for one volume: {', '.join(file.name for file in files)}", "keep one of them"
    elif unsafe := case_id_problem(folder.name):
        problem, remedy = f"the case name {unsafe}", "rename the folder of the case"
    else:
        problem, remedy = first_problem((image, *structures.values())) or (None, None)
    files = tuple(structures.values())
    label: DicomVolume = DicomVolume(files[0])
    if problem is None:
        try:
            header = NiftiFile(image).header()
        except (DataError, OSError) as error:
            problem = error.message if isinstance(error, DataError) else str(error.strerror or error)
            problem, remedy = f"{folder.name}/{image.name}: {problem}", getattr(error, "remedy", None)
        else:
            details = {
                "shape": list(header.shape),
                "affine": header.affine.tolist(),
                "slices": [],
                "notes": [],
                "names": list(structures),
                "labels": dict(numbers),
                "segments": {name: labels[name] for name in structures},
                "options": SegmentOptions().to_json(),
            }
            label = DicomVolume.of(DicomSource("structures", files, MappingProxyType(details)))
    return CaseFiles(
        case_id=folder.name,
        image=NiftiFile(image),
        label=label,
        problem=problem,
        remedy=remedy or (None if problem is None else "download the file again"),
        others=(*images[stem][1:], *every) if problem is not None else (),
    )
