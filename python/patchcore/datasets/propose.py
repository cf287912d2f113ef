"""Propose a list of cases for a data set of any layout, for the user to correct: ``patchcore manifest``."""

from __future__ import annotations

import csv
import io
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np

from patchcore.affines import MAX_CORNER_SHIFT, corner_shift
from patchcore.datasets.layouts.account import volumes_below
from patchcore.datasets.layouts.files import FolderLog, format_problem, is_archive, is_text, volume_stem, without_ending
from patchcore.datasets.layouts.manifest import is_manifest
from patchcore.datasets.patients import group_patients
from patchcore.errors import DataError
from patchcore.files import write_atomic
from patchcore.types import PathLike
from patchcore.volumes.types import VolumeHeader
from patchcore.volumes.volume import read_header

__all__ = ["Proposal", "Proposed", "propose_manifest"]

Sureness = Literal["sure", "likely", "unsure", "alone"]
"""Same name and same grid; same name or same folder, and same grid; the grid differs or cannot be read; no partner."""

_LABEL_WORDS: Final = frozenset(
    {
        "seg", "segs", "segmentation", "segmentations", "mask", "masks", "label", "labels", "labelstr", "labelsts",
        "lesion", "lesions", "tumor", "tumour", "tumors", "tumours", "nodule", "nodules", "gt", "truth", "groundtruth",
        "annotation", "annotations", "roi", "rois", "contour", "contours", "manual", "derivatives",
    }
)  # fmt: skip
_IMAGE_WORDS: Final = frozenset(
    {
        "ct", "image", "images", "imagestr", "imagests", "img", "imgs", "imaging", "volume", "volumes", "vol", "scan",
        "scans", "cta", "ncct", "cect", "raw", "data", "anat",
    }
)  # fmt: skip
_WORDS = re.compile(r"[^\W\d_]+|\d+")
_CHANNEL = re.compile(r"_0000$")
_BIDS = re.compile(r"(?:^|/)sub-([A-Za-z0-9]+)(?:/|_)")


@dataclass(frozen=True)
class Proposed:
    """One row of the proposed list.

    Attributes:
        case_id: Name of the case.
        image: The image, relative to the list; empty if there is none.
        label: The label map, relative to the list; empty if none was found.
        patient: The patient.
        sureness: How sure the pair is.
        why: What the pair is based on.
    """

    case_id: str
    image: str
    label: str
    patient: str
    sureness: Sureness
    why: str


@dataclass(frozen=True)
class Proposal:
    """The proposed list, and the volumes that are not in it with the reason."""

    path: Path
    rows: tuple[Proposed, ...]
    left: tuple[tuple[Path, str], ...]

    def count(self, sureness: Sureness) -> int:
        """Return the number of rows of a sureness."""
        return sum(row.sureness == sureness for row in self.rows)


@dataclass(frozen=True)
class _File:
    path: Path
    label: bool
    key: tuple[str, ...]
    place: tuple[str, ...]
    header: VolumeHeader | None
    problem: str = ""


def propose_manifest(
    dataset: PathLike,
    out: PathLike,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Proposal:
    """Write a list of cases, with a column that says how sure each pair of image and label map is.

    The words in their names and folders distinguish images from label maps, else the type of their voxels. They are
    paired by the rest of their names, else because they are alone in their folder. Only
    headers are read. The list is written completely or not at all.

    Args:
        dataset: Folder of the data set.
        out: The list, ending in ``.csv``. Paths in it are relative to its folder.
        overwrite: Whether an existing list, which may hold corrections, is replaced.
        progress: Called with the number of headers read and their total.

    Raises:
        DataError: There is no volume that can be read, or `out` is not a CSV or exists already.
        OSError: The list cannot be written.
    """
    root, out = Path(dataset).resolve(), Path(out).absolute()
    if not root.is_dir():
        raise DataError("no such folder", path=root, remedy="give the folder of the data set")
    if not is_manifest(out) or out.suffix.lower() != ".csv":
        raise DataError(f"{out.name} is not a CSV", path=out, remedy="give a name such as cases.csv")
    if out.exists() and not overwrite:
        raise DataError(
            "exists, and may hold your corrections",
            path=out,
            remedy="give another name, or replace it with --overwrite",
        )
    found = list(volumes_below(root, FolderLog()))
    left = [(item.path, item.reason) for item in found if item.reason]
    volumes = []
    for item in found:
        problem = None if item.reason else format_problem(item.path)
        if problem is not None:
            left.append((item.path, f"{problem[0]}; {problem[1]}"))
        elif not item.reason and not is_text(str(item.path)):
            left.append((item.path, "a path that is not UTF-8: rename it"))
        elif not item.reason and not _is_data_half(item.path):
            volumes.append(item.path)
    if not volumes:
        raise _nothing(root, [path for path, _ in left])
    files = []
    for done, path in enumerate(volumes, 1):
        files.append(_file(path, root))
        if progress is not None:
            progress(done, len(volumes))
    pairs = _pairs(files)
    rows = _rows(pairs, root, out.parent)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("case_id", "image", "label", "patient", "sureness", "why"))
    for row in rows:
        writer.writerow((row.case_id, row.image, row.label, row.patient, row.sureness, row.why))
    write_atomic(out, table.getvalue())
    return Proposal(out, tuple(rows), tuple(left))


def _nothing(root: Path, left: Sequence[Path]) -> DataError:
    if any(is_archive(path.name) for path in left):
        return DataError("holds only archives", path=root, remedy="unpack them, and give the folder with their content")
    return DataError(
        "holds no NIfTI file",
        path=root,
        remedy="give the folder of NIfTI files; DICOM needs no list: run patchcore analyze on its folder",
    )


def _is_data_half(path: Path) -> bool:
    """Whether a file is the ``.img`` of a pair, which is listed by its ``.hdr``."""
    stem = volume_stem(path.name)
    if not path.name.lower().endswith((".img", ".img.gz")) or stem is None:
        return False
    return any((path.parent / f"{stem}{ending}").exists() for ending in (".hdr", ".HDR", ".hdr.gz"))


def _file(path: Path, root: Path) -> _File:
    try:
        header, problem = read_header(path), ""
    except (DataError, OSError) as error:
        header, problem = None, error.message if isinstance(error, DataError) else str(error.strerror or error)
    stem = without_ending(path.name)
    folders = [_words(part) for part in path.parent.relative_to(root).parts]
    name = _words(_CHANNEL.sub("", stem))
    place = tuple(word for part in folders for word in _without_roles(part))
    return _File(path, _is_label(name, folders, stem, header), _without_roles(name), place, header, problem)


def _without_roles(words: Sequence[str]) -> tuple[str, ...]:
    """Return the words that do not only say whether a file is an image or a label map."""
    return tuple(word for word in words if word not in _LABEL_WORDS and word not in _IMAGE_WORDS)


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORDS.findall(text)]


def _is_label(name: Sequence[str], folders: Sequence[Sequence[str]], stem: str, header: VolumeHeader | None) -> bool:
    """Say whether a file is a label map: by its name, else by its innermost folder that says so, else by its voxels.

    Within a name the last word decides: ``lesion01_ct`` is an image of a lesion.
    """
    if _CHANNEL.search(stem):
        return False
    for words in (name, *reversed(folders)):
        for word in reversed(words):
            if word in _LABEL_WORDS or word in _IMAGE_WORDS:
                return word in _LABEL_WORDS
    if header is None:
        return False
    return header.dtype.kind in "bu" and header.dtype.itemsize <= 2 and (header.slope, header.intercept) == (1.0, 0.0)


def _same_grid(image: _File, label: _File) -> bool | None:
    """Return whether two files lie on one grid; None if a header cannot be read."""
    if image.header is None or label.header is None:
        return None
    if image.header.shape != label.header.shape:
        return False
    try:
        return corner_shift(image.header.affine, label.header.affine, image.header.shape) <= MAX_CORNER_SHIFT
    except np.linalg.LinAlgError:
        return None


def _pairs(files: Sequence[_File]) -> list[tuple[_File | None, _File | None, Sureness, str]]:
    """Pair images and label maps: by name, then by folder, then by the folder above."""
    images = [file for file in files if not file.label]
    labels = [file for file in files if file.label]
    pairs: list[tuple[_File | None, _File | None, Sureness, str]] = []

    def groups(of: Iterable[_File], key: Callable[[_File], object]) -> dict[object, list[_File]]:
        made: dict[object, list[_File]] = defaultdict(list)
        for file in of:
            made[key(file)].append(file)
        return made

    rules: tuple[tuple[str, Sureness, Callable[[_File], object]], ...] = (
        ("the same name", "sure", lambda file: (file.path.parent, file.key) if file.key else None),
        ("the same name and folders", "sure", lambda file: (file.place, file.key) if file.key else None),
        ("alone in one folder", "likely", lambda file: file.path.parent),
        ("neighbouring folders of one name", "likely", lambda file: file.place or None),
        ("the same name in folders of other names", "unsure", lambda file: file.key or None),
    )
    for why, most, key in rules:
        by_image, by_label = groups(images, key), groups(labels, key)
        for name, found in by_image.items():
            partners = by_label.get(name, [])
            image = _the_ct(found)
            if name is None or image is None or len(partners) != 1:
                continue
            same = _same_grid(image, partners[0])
            same_name = "" if _alike(image.key, partners[0].key) else "; their names differ"
            grid = {True: "same grid", False: "but another grid", None: "the grid cannot be compared"}[same]
            others = "" if len(found) == 1 else f"; {len(found)} images, this one is called CT"
            sureness = most if same and not same_name else "unsure"
            pairs.append((image, partners[0], sureness, f"{why}, {grid}{same_name}{others}"))
        used = {file.path for image, label, *_ in pairs for file in (image, label) if file is not None}
        images = [file for file in images if file.path not in used]
        labels = [file for file in labels if file.path not in used]
    pairs += [(file, None, "alone", "no label map was found") for file in images]
    pairs += [(None, file, "alone", "no image was found") for file in labels]
    return pairs


def _alike(one: Sequence[str], other: Sequence[str]) -> bool:
    """Return whether two names have at least half of their words in common; a name without words is like any."""
    a, b = set(one), set(other)
    return not a or not b or 2 * len(a & b) >= len(a | b)


def _the_ct(images: Sequence[_File]) -> _File | None:
    """Return the only image, or the only one that is called CT."""
    if len(images) == 1:
        return images[0]
    called = [file for file in images if "ct" in _words(file.path.name)]
    return called[0] if len(called) == 1 else None


def _rows(
    pairs: Sequence[tuple[_File | None, _File | None, Sureness, str]], root: Path, folder: Path
) -> list[Proposed]:
    firsts = [file for image, label, *_ in pairs if (file := label or image) is not None]
    names = _names(firsts, root)
    patients = group_patients(names).patients
    rows = []
    for name, patient, first, (image, label, sureness, why) in zip(names, patients, firsts, pairs, strict=True):
        bids = _BIDS.search(first.path.relative_to(root).as_posix())
        problems = [file.problem for file in (image, label) if file is not None and file.problem]
        rows.append(
            Proposed(
                case_id=name,
                image="" if image is None else os.path.relpath(image.path, folder),
                label="" if label is None else os.path.relpath(label.path, folder),
                patient=patient if bids is None else f"sub-{bids[1]}",
                sureness=sureness,
                why="; ".join((why, *problems)),
            )
        )
    return sorted(rows, key=lambda row: row.case_id)


def _names(files: Sequence[_File], root: Path) -> list[str]:
    """Name the cases: by what is left of the file's name, by its folder, or by its whole path."""

    def clean(text: str) -> str:
        return re.sub(r"[^\w.-]+", "_", text).strip("_.")[:150] or "case"

    def stem(file: _File) -> str:
        # A name that says only what the file is (mask.nii.gz) does not name the case.
        path = file.path
        name = _CHANNEL.sub("", without_ending(path.name))
        return clean(name if file.key else path.parent.name)

    stems = [stem(file) for file in files]
    pairs = [(file.path, name) for file, name in zip(files, stems, strict=True)]
    folders = [clean(path.parent.name) if path.parent != root else name for path, name in pairs]
    whole = [clean("_".join((*path.parent.relative_to(root).parts, name))) for path, name in pairs]
    for names in (stems, folders, whole):
        if len({name.casefold() for name in names}) == len(names):
            return names
    return [f"{name}_{number}" for number, name in enumerate(whole, 1)]
