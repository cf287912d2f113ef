"""Recognise the layout of a data set: try every layout, require exactly one match, and give the reason."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from patchcore.datasets.layouts.account import accounted, begins_like_dicom, volumes_below
from patchcore.datasets.layouts.challenges import find_kits, find_lits, find_nnunet
from patchcore.datasets.layouts.files import FolderLog, format_problem, is_archive
from patchcore.datasets.layouts.folders import find_folders, known_folders
from patchcore.datasets.layouts.listed import find_listed
from patchcore.datasets.layouts.manifest import MANIFEST_NAMES, is_manifest, read_manifest
from patchcore.datasets.layouts.structures import find_structures
from patchcore.errors import DataError
from patchcore.study.layout import IgnoredFile, Layout
from patchcore.types import PathLike
from patchcore.volumes.dicom.options import SegmentOptions

__all__ = ["LAYOUTS", "find_cases"]

LAYOUTS: Final = (
    "manifest", "nnunet", "msd", "lits", "kits", "two-folders", "labels-only", "structures", "dicom", "ircadb",
)  # fmt: skip
"""All supported layouts, by their names for ``--layout``."""

_DICOM_SAMPLES = 64
_EXPECTED = (
    "image/ and mask/, images/ and labels/, imagesTr/ and labelsTr/, volume-N and segmentation-N, case_NNNNN/, DICOM, "
    "or a list manifest.csv; or give folders with --images and --labels, or a layout with --layout"
)


def find_cases(
    dataset: PathLike,
    *,
    images: PathLike | None = None,
    labels: PathLike | None = None,
    layout: str | None = None,
    segments: SegmentOptions | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> Layout:
    """Recognise the layout of a data set and find the files of each case.

    Args:
        dataset: Folder of the data set, or the CSV or JSON file that lists its cases.
        images: Folder of the images, relative to `dataset` or absolute; None: recognised by its name.
        labels: Folder of the label maps, relative to `dataset` or absolute; None: recognised by its name.
        layout: One of :data:`LAYOUTS`; None: recognised automatically.
        segments: How DICOM segments are read; None: the defaults.
        progress: Called with the number of files read and the total (None if unknown); DICOM only.

    Returns:
        The layout with its cases in case_id order. Cases without a partner are included with their problem.

    Raises:
        DataError: The data set does not exist, no layout or several layouts fit, or there is no volume.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> for name in ("image", "mask"):
        ...     (root / name).mkdir()
        ...     (root / name / "a_1.nii.gz").touch()
        >>> found = find_cases(root)
        >>> found.name, [case.case_id for case in found.cases]
        ('two-folders', ['a_1'])
    """
    root = Path(dataset).resolve()
    if layout is not None and layout not in LAYOUTS:
        raise DataError(f"unknown --layout {layout!r}", found=layout, remedy=f"use one of {', '.join(LAYOUTS)}")
    log = FolderLog()
    dicom = _DicomFinder(segments or SegmentOptions(), progress)
    found = _find(root, log, images=images, labels=labels, layout=layout, dicom=dicom)
    # A list that is given as a file may lie in a folder that holds much besides the data set.
    found = accounted(root if root.is_dir() else root.parent, found, log, whole=root.is_dir())
    override = found.override or "if this is wrong, use --layout NAME, or --images and --labels"
    return replace(found, override=override, looked_at=tuple(dict.fromkeys((*log.looked_at, *found.looked_at))))


def _find(
    root: Path,
    log: FolderLog,
    *,
    images: PathLike | None,
    labels: PathLike | None,
    layout: str | None,
    dicom: _DicomFinder,
) -> Layout:
    if not root.exists():
        raise DataError("no such data set", path=root, remedy="check the path")
    if not root.is_dir():
        if root.name == "dataset.json":
            raise DataError(
                "describes a data set; it is not a list of cases", path=root, remedy=f"give its folder, {root.parent}"
            )
        if images is not None or labels is not None:
            raise DataError(
                "--images and --labels do not go with a list", path=root, remedy="correct the paths in the list"
            )
        if layout not in (None, "manifest") or not is_manifest(root):
            raise DataError(
                "the data set is a file, not a folder",
                path=root,
                remedy="give the folder that contains the cases, or a CSV or JSON list",
            )
        return read_manifest(root, log)
    if (images is not None or labels is not None) and layout not in (None, "two-folders", "labels-only"):
        raise DataError(
            f"--images and --labels do not go with --layout {layout}", path=root, remedy="use one or the other"
        )
    if images is not None or labels is not None:
        found = find_folders(root, log, images=images, labels=labels)
        if found is None:
            raise _nothing(root, log, images, labels)
        return found
    if layout is not None:
        return _forced(root, log, layout, dicom)
    listed = next((name for name in MANIFEST_NAMES if name in log.list(root).names), None)
    if listed is not None:
        return read_manifest(root / listed, log)
    found = _recognised(root, log)
    if found is not None:
        return found
    if (masks := dicom.ircadb(root)) is not None:
        return masks
    if _holds_dicom(root, log):
        return dicom.series(root)
    raise _nothing(root, log, None, None)


def _recognised(root: Path, log: FolderLog) -> Layout | None:
    lits, kits = _readable(find_lits(root, log)), _readable(find_kits(root, log))
    folders = _readable(find_listed(root, log)) or _readable(find_nnunet(root, log))
    if folders is None:
        folders = _readable(find_folders(root, log))
        if folders is not None and lits is not None and _same_files(folders, lits):
            # Two folders with volume-N and segmentation-N: this is LiTS.
            folders = None
    structures = find_structures(root, log) if lits is kits is folders is None else None
    if structures is not None:
        return structures
    if kits is not None and folders is not None and folders.name == "msd" and _same_files(kits, folders):
        # A list of the KiTS folders: it says more than the folders, except for the names of the labels.
        folders, kits = replace(folders, label_names=folders.label_names or kits.label_names), None
    fitting = [item for item in (lits, kits, folders) if item is not None]
    if len(fitting) > 1:
        what = "; ".join(f"{item.name} ({item.reason})" for item in fitting)
        raise DataError(
            f"several layouts fit this folder: {what}",
            path=root,
            found=[item.name for item in fitting],
            remedy="choose one with " + " or ".join(f"--layout {item.name}" for item in fitting),
        )
    return fitting[0] if fitting else None


def _readable(layout: Layout | None) -> Layout | None:
    """Return the layout if at least one of its files is in a format that is read."""
    if layout is None:
        return None
    files = (volume.path for case in layout.cases for volume in (case.image, case.label) if volume is not None)
    return layout if any(format_problem(file) is None and os.path.lexists(file) for file in files) else None


def _same_files(layout: Layout, other: Layout) -> bool:
    return {case.label for case in other.cases} >= {case.label for case in layout.cases if case.label.path.exists()}


def _forced(root: Path, log: FolderLog, layout: str, dicom: _DicomFinder) -> Layout:
    found: Layout | None = None
    match layout:
        case "manifest":
            names = log.list(root).names
            listed = next((name for name in MANIFEST_NAMES if name in names), None)
            found = None if listed is None else read_manifest(root / listed, log)
        case "lits":
            found = find_lits(root, log)
        case "kits":
            found = find_kits(root, log)
        case "msd":
            found = find_listed(root, log)
        case "nnunet":
            found = find_nnunet(root, log)
        case "structures":
            found = find_structures(root, log)
        case "dicom":
            return dicom.series(root)
        case "ircadb":
            found = dicom.ircadb(root)
        case _:
            found = find_folders(root, log)
            if found is not None and layout == "labels-only" and found.name != layout:
                assert found.labels is not None
                cases = tuple(
                    replace(
                        case, image=None, problem=None if case.problem == "label map without image" else case.problem
                    )
                    for case in found.cases
                    if case.problem != "image without label map"
                )
                found = replace(
                    found, name=layout, reason=f"label maps in {found.labels.name}/", cases=cases, images=None
                )
            elif found is not None and found.name != layout:
                found = None
            if found is not None and not found.cases:
                found = None
    if found is None:
        raise DataError(f"no {layout} data set: {_holds(root, log)}", path=root, remedy=f"provide {_WANTS[layout]}")
    return replace(found, reason=f"{found.reason}; chosen with --layout {layout}")


_WANTS: Final = {
    "manifest": f"one of {', '.join(MANIFEST_NAMES)}, or the list itself as DATASET",
    "nnunet": "imagesTr/case_0000.nii.gz and labelsTr/case.nii.gz",
    "msd": "a dataset.json with a list `training` of image and label pairs",
    "lits": "files named volume-N.nii and segmentation-N.nii",
    "kits": "folders named case_NNNNN with imaging.nii.gz and segmentation.nii.gz",
    "two-folders": "a folder of images and a folder of label maps with the same file names",
    "labels-only": "a folder of label maps named labels, labelsTr, label, masks or mask",
    "structures": "a folder per case with ct.nii.gz and segmentations/NAME.nii.gz",
    "ircadb": "a folder per patient with PATIENT_DICOM/ and MASKS_DICOM/NAME/",
}


@dataclass(frozen=True)
class _DicomFinder:
    """Finds DICOM cases; pydicom is imported only when a folder may hold them."""

    options: SegmentOptions
    progress: Callable[[int, int | None], None] | None

    def series(self, root: Path) -> Layout:
        from patchcore.datasets.dicom.find import NO_LABEL, find_dicom

        found = find_dicom(root, options=self.options, progress=self.progress)
        if not any(case.problem == NO_LABEL for case in found.cases):
            return found
        volumes = [item.path for item in volumes_below(root, FolderLog()) if not item.reason]
        nifti = [path for path in volumes if format_problem(path) is None]
        if not nifti:
            return found
        remedy = (
            f"{len(nifti)} NIfTI files such as {nifti[0].name} may be the label maps: convert the CTs to NIfTI with "
            "the program that made them, so that both have one orientation (for example dcm2niix), then run "
            "patchcore manifest on the folder of the NIfTI files"
        )
        cases = (replace(case, remedy=remedy) if case.problem == NO_LABEL else case for case in found.cases)
        return replace(found, cases=tuple(cases))

    def ircadb(self, root: Path) -> Layout | None:
        from patchcore.datasets.dicom.ircadb import find_ircadb

        return find_ircadb(root, options=self.options, progress=self.progress)


def _holds_dicom(root: Path, log: FolderLog) -> bool:
    """Search the first files for the DICOM marker; folders are visited in order, links to folders are not followed."""
    looked = 0
    for place, inner, names in os.walk(root):
        folder = Path(place)
        inner.sort()
        for name in sorted(names):
            if name.startswith("."):
                continue
            path = folder / name
            if name.lower().endswith((".dcm", ".ima")) or name == "DICOMDIR":
                return True
            looked += 1
            if looked > _DICOM_SAMPLES:
                return False
            if begins_like_dicom(path):
                return True
        log.note(folder)
    return False


def _holds(root: Path, log: FolderLog) -> str:
    found = sorted(log.list(root).names)
    if not found:
        return "the folder is empty"
    return f"the folder contains {', '.join(found[:6])}{' …' if len(found) > 6 else ''}"


def _nothing(root: Path, log: FolderLog, images: PathLike | None, labels: PathLike | None) -> DataError:
    if images is not None or labels is not None:
        where = " and ".join(str(root / item) for item in (images, labels) if item is not None)
        return DataError(
            "no volume found",
            path=where,
            expected="files ending in .nii.gz, .nii or .hdr/.img",
            remedy="add .nii.gz, .nii or .hdr/.img files, or give other folders with --images and --labels",
        )
    found = list(volumes_below(root, log))
    if advice := _advice(root, found, log):
        return advice
    empty = known_folders(root, log)
    if empty:
        return DataError(
            f"no volume found in {' and '.join(folder.name + '/' for folder in empty)}",
            path=root,
            expected="files ending in .nii.gz, .nii or .hdr/.img",
            remedy="add .nii.gz, .nii or .hdr/.img files, or give other folders with --images and --labels",
        )
    holds = _holds(root, log)
    message = holds if holds == "the folder is empty" else f"no layout recognised: {holds}"
    return DataError(message, path=root, found=sorted(log.list(root).names), remedy=f"provide {_EXPECTED}")


def _advice(root: Path, found: Sequence[IgnoredFile], log: FolderLog) -> DataError | None:
    """Say what a folder without a known layout holds, and how to go on; None if it holds nothing like a volume."""
    archives = [item.path for item in found if is_archive(item.path.name)]
    volumes = [item.path for item in found if not item.reason]
    if archives and not volumes:
        names = ", ".join(path.name for path in archives[:4]) + (" …" if len(archives) > 4 else "")
        return DataError(
            f"no layout recognised: the folder holds only archives ({names})",
            path=root,
            remedy="unpack them, and give the folder with their content",
        )
    if not volumes:
        return None
    unread = [problem for path in volumes if (problem := format_problem(path)) is not None]
    if len(unread) == len(volumes):
        return DataError(
            f"no layout recognised: {unread[0][0]}", path=root, expected="NIfTI or DICOM", remedy=unread[0][1]
        )
    images = [folder for folder in known_folders(root, log) if log.list(folder).readable]
    if images:
        count = sum(len(files) for files in log.list(images[0]).volumes.values())
        return DataError(
            f"no label maps found: {images[0].name}/ holds {count} image{'' if count == 1 else 's'}, but there is no "
            "folder of label maps",
            path=root,
            remedy="add a folder labels/ with files of the same names, or give it with --labels; to segment images "
            f"with a trained network, run patchcore predict MODEL {shlex.quote(str(images[0]))} -o OUT",
        )
    example = next(path for path in volumes if format_problem(path) is None)
    there = f"{len(volumes)} volume{'' if len(volumes) == 1 else 's'}"
    return DataError(
        f"no layout recognised: {there} found, such as {example.relative_to(root)}",
        path=root,
        remedy=f"run patchcore manifest {shlex.quote(str(root))} -o cases.csv, correct the list that it proposes, and "
        "give it as DATASET; or give folders with --images and --labels",
    )
