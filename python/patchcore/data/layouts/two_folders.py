"""Finding the cases of a data set: which layout it has, why, and which image belongs to which label map."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from patchcore.data.layouts.model import CaseFiles, Layout
from patchcore.errors import DataError
from patchcore.types import PathLike

__all__ = ["find_cases", "label_names", "volume_stem"]

_IMAGE_FOLDERS = ("imagesTr", "images", "image")
_LABEL_FOLDERS = ("labelsTr", "labels", "label", "masks", "mask")
_SUFFIXES = (".nii.gz", ".nii", ".hdr", ".img")
_CHANNEL = "_0000"


def volume_stem(name: str) -> str | None:
    """Return a file's name without its volume suffix, None where it is no volume or hidden.

    Example:
        >>> volume_stem("a.b.nii.gz"), volume_stem("._a.nii.gz"), volume_stem("notes.txt")
        ('a.b', None, None)
    """
    if name.startswith("."):
        return None
    for suffix in _SUFFIXES:
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return None


def find_cases(dataset: PathLike, *, images: PathLike | None = None, labels: PathLike | None = None) -> Layout:
    """Recognise a data set's layout and pair its files.

    Args:
        dataset: The data set's folder.
        images: Folder of the images, relative to `dataset` or absolute; recognised by its name where None.
        labels: Folder of the label maps, likewise.

    Returns:
        The layout with its cases in case_id order, those without a partner included with their problem.

    Raises:
        DataError: There is no such folder, no layout was recognised, or no volume is in it.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> for name in ("image", "mask"):
        ...     (root / name).mkdir()
        ...     (root / name / "a_1.nii.gz").touch()
        >>> [case.case_id for case in find_cases(root).cases]
        ['a_1']
    """
    root = Path(dataset).resolve()
    _require_folder(root, "data set")
    images_dir = None if images is None else root / images
    labels_dir = None if labels is None else root / labels
    for folder, option in ((images_dir, "--images"), (labels_dir, "--labels")):
        if folder is not None:
            _require_folder(folder, f"{option} folder")
    if labels_dir is not None and images_dir is not None:
        reason = f"named by --images {images} and --labels {labels}"
    elif labels_dir is not None:
        images_dir = _known_folder(root, _IMAGE_FOLDERS)
        if images_dir == labels_dir:
            images_dir = None
        beside = "no folder of images beside it" if images_dir is None else f"images in {images_dir.name}/"
        reason = f"label maps named by --labels {labels}, {beside}"
    else:
        labels_dir = _known_folder(root, _LABEL_FOLDERS)
        if labels_dir is None:
            raise _unrecognised(root)
        if images_dir is None:
            images_dir = _known_folder(root, _IMAGE_FOLDERS)
            found = "no folder of images" if images_dir is None else f"{images_dir.name}/"
            reason = f"{found} and {labels_dir.name}/ found in {root.name}/"
        else:
            reason = f"images named by --images {images}, {labels_dir.name}/ found in {root.name}/"
    label_files = _volumes(labels_dir)
    image_files = {} if images_dir is None else _volumes(images_dir)
    if not label_files and not image_files:
        places = f"{labels_dir}" if images_dir is None else f"{images_dir} and {labels_dir}"
        raise DataError(
            "no volume found",
            path=places,
            expected="files ending in .nii.gz, .nii or .hdr/.img",
            remedy="expected .nii.gz, .nii or .hdr/.img; name the folders with --images and --labels",
        )
    channels = False
    if image_files:
        image_files, channels = _strip_channel(image_files, label_files)
    if images_dir is None:
        name = "label maps only"
    elif channels:
        name, reason = "nnU-Net", f"{reason}; image names end in {_CHANNEL}"
    else:
        name = "two folders"
    cases = _pair(image_files, label_files, images_dir, labels_dir)
    return Layout(name=name, reason=reason, images=images_dir, labels=labels_dir, cases=tuple(cases))


def label_names(dataset: PathLike) -> dict[int, str]:
    """Return the names of labels that ``dataset.json`` declares, in MSD's or nnU-Net's form.

    Regions (nnU-Net labels made of several numbers) have no number of their own and are left out. Empty
    without the file.
    """
    path = Path(dataset) / "dataset.json"
    try:
        declared = json.loads(path.read_text(encoding="utf-8"))["labels"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    names: dict[int, str] = {}
    items: Iterable[tuple[object, object]] = declared.items() if isinstance(declared, Mapping) else ()
    for key, value in items:
        if isinstance(value, int):
            names[value] = str(key)
        elif isinstance(value, str) and str(key).isdigit():
            names[int(str(key))] = value
    return names


def _require_folder(path: Path, what: str) -> None:
    if not path.exists():
        raise DataError(f"no such {what}", path=path, remedy="check the path")
    if not path.is_dir():
        raise DataError(f"the {what} is a file", path=path, remedy="name the folder that holds the cases")


def _known_folder(root: Path, names: tuple[str, ...]) -> Path | None:
    present = {item.name.lower(): item for item in sorted(root.iterdir()) if item.is_dir()}
    return next((present[name.lower()] for name in names if name.lower() in present), None)


def _unrecognised(root: Path) -> DataError:
    found = sorted(item.name for item in root.iterdir() if not item.name.startswith("."))
    shown = ", ".join(found[:6]) + (" …" if len(found) > 6 else "")
    return DataError(
        f"no layout recognised: it holds {shown}" if found else "the folder is empty",
        path=root,
        found=found,
        remedy="expected image/ and mask/, images/ and labels/, or imagesTr/ and labelsTr/ with same-named "
        "files; name others with --images and --labels",
    )


def _volumes(folder: Path) -> dict[str, list[Path]]:
    """Return a folder's volumes by case id; for a folder of folders with one volume each, by their names."""
    files: dict[str, list[Path]] = {}
    entries = sorted(folder.iterdir())
    for path in entries:
        stem = volume_stem(path.name)
        if stem is None or path.is_dir():
            continue
        # The .img of a pair is reached through its header.
        if path.suffix.lower() == ".img" and path.with_suffix(".hdr").exists():
            continue
        files.setdefault(stem, []).append(path)
    if files:
        return files
    for inner in entries:
        if inner.is_dir() and not inner.name.startswith("."):
            found = [path for path in sorted(inner.iterdir()) if volume_stem(path.name) and not path.is_dir()]
            if len(found) == 1:
                files[inner.name] = found
    return files


def _strip_channel(images: dict[str, list[Path]], labels: dict[str, list[Path]]) -> tuple[dict[str, list[Path]], bool]:
    """Take nnU-Net's channel suffix off image names where the label map's name lacks it."""
    renamed: dict[str, list[Path]] = {}
    stripped = False
    for stem, paths in images.items():
        bare = stem.removesuffix(_CHANNEL)
        if bare != stem and stem not in labels and bare not in images:
            renamed[bare] = paths
            stripped = True
        else:
            renamed[stem] = paths
    return renamed, stripped


def _pair(
    images: dict[str, list[Path]], labels: dict[str, list[Path]], images_dir: Path | None, labels_dir: Path
) -> list[CaseFiles]:
    cases = []
    for case_id in sorted(images.keys() | labels.keys()):
        image, label = images.get(case_id, []), labels.get(case_id, [])
        problem = remedy = None
        if len(image) > 1 or len(label) > 1:
            several = ", ".join(path.name for path in (image if len(image) > 1 else label))
            problem, remedy = f"several files for one case: {several}", "keep one of them"
        elif not label:
            problem = "image without label map"
            remedy = f"add {labels_dir.name}/{case_id}.nii.gz, or exclude the case with --exclude {case_id}"
        elif images_dir is not None and not image:
            problem = "label map without image"
            remedy = f"add {images_dir.name}/{case_id}.nii.gz, or exclude the case with --exclude {case_id}"
        cases.append(
            CaseFiles(
                case_id=case_id,
                image=image[0] if image else None,
                label=label[0] if label else labels_dir / f"{case_id}.nii.gz",
                problem=problem,
                remedy=remedy,
            )
        )
    return cases
