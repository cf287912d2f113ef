"""Find cases in two folders with the same file names, or in one folder with label maps only."""

from __future__ import annotations

from pathlib import Path

from patchcore.datasets.layouts.described import all_labels, read_description
from patchcore.datasets.layouts.files import FolderLog, pair
from patchcore.errors import DataError
from patchcore.study.layout import Layout
from patchcore.types import PathLike

__all__ = ["find_folders", "known_folders"]

_IMAGE_FOLDERS = ("imagesTr", "images", "image", "ct", "volumes", "volume")
_LABEL_FOLDERS = ("labelsTr", "labels", "label", "masks", "mask", "segmentations", "segmentation", "seg")
_CHANNEL = "_0000"


def find_folders(
    root: Path, log: FolderLog, *, images: PathLike | None = None, labels: PathLike | None = None
) -> Layout | None:
    """Find a folder of images and a folder of label maps by their names, or use the given folders.

    Returns:
        ``two-folders``, or ``labels-only`` if there is no folder of images; None if no folder of label maps was found.

    Raises:
        DataError: A given folder does not exist.
    """
    images_dir = None if images is None else _named(root, images, "--images")
    labels_dir = None if labels is None else _named(root, labels, "--labels")
    if labels_dir is not None and images_dir is not None:
        reason = f"folders from --images {images} and --labels {labels}"
    elif labels_dir is not None:
        images_dir = _known(root, _IMAGE_FOLDERS, log)
        if images_dir == labels_dir:
            images_dir = None
        beside = "no folder of images found" if images_dir is None else f"images in {images_dir.name}/"
        reason = f"label maps from --labels {labels}, {beside}"
    else:
        labels_dir = _known(root, _LABEL_FOLDERS, log)
        if labels_dir is None:
            return None
        if images_dir is None:
            images_dir = _known(root, _IMAGE_FOLDERS, log)
            if images_dir is None:
                reason = f"{labels_dir.name}/ found in {root.name}/, but no folder of images"
            else:
                reason = f"{images_dir.name}/ and {labels_dir.name}/ found in {root.name}/"
        else:
            reason = f"images from --images {images}, {labels_dir.name}/ found in {root.name}/"
    label_files = _volumes(labels_dir, log)
    image_files = {} if images_dir is None else _volumes(images_dir, log)
    if not label_files and not image_files:
        return None
    image_files, stripped = _strip_channel(image_files, label_files)
    if stripped:
        reason += f"; image names end in {_CHANNEL}"
    description = None
    if "dataset.json" in log.list(root).names:
        description = read_description(log.note(root / "dataset.json"))
    return Layout(
        name="labels-only" if images_dir is None else "two-folders",
        reason=reason,
        cases=tuple(pair(image_files, label_files, images_dir=images_dir, labels_dir=labels_dir)),
        images=images_dir,
        labels=labels_dir,
        label_names={} if description is None else all_labels(description),
    )


def known_folders(root: Path, log: FolderLog) -> tuple[Path, ...]:
    """Return the folders of a data set that are named like folders of images or label maps."""
    found = (_known(root, names, log) for names in (_IMAGE_FOLDERS, _LABEL_FOLDERS))
    return tuple(folder for folder in found if folder is not None)


def _named(root: Path, folder: PathLike, option: str) -> Path:
    path = root / folder
    if not path.exists():
        raise DataError(f"the {option} folder does not exist", path=path, remedy="check the path")
    if not path.is_dir():
        raise DataError(f"the {option} folder is a file", path=path, remedy="give the folder that contains the files")
    return path.resolve()


def _known(root: Path, names: tuple[str, ...], log: FolderLog) -> Path | None:
    """Return the first folder with one of the names that holds a volume, else the first one with such a name."""
    present = {item.name.lower(): item for item in log.list(root).folders}
    found = [present[name.lower()] for name in names if name.lower() in present]
    return next((folder for folder in found if _holds_volumes(folder, log)), found[0] if found else None)


def _holds_volumes(folder: Path, log: FolderLog) -> bool:
    try:
        return bool(_volumes(folder, log))
    except DataError:
        return False


def _volumes(folder: Path, log: FolderLog) -> dict[str, list[Path]]:
    """Return the volumes of a folder by case id; if each case has its own subfolder, its name is the case id."""
    listed = log.list(folder)
    if listed.volumes:
        return {stem: list(files) for stem, files in listed.volumes.items()}
    files: dict[str, list[Path]] = {}
    for inner in listed.folders:
        try:
            found = [path for paths in log.list(inner).volumes.values() for path in paths]
        except DataError:
            # The folder is listed among the ignored ones.
            continue
        if found:
            files[inner.name] = found
    return files


def _strip_channel(images: dict[str, list[Path]], labels: dict[str, list[Path]]) -> tuple[dict[str, list[Path]], bool]:
    """Remove nnU-Net's channel suffix from image names if no label map has the name with the suffix."""
    renamed: dict[str, list[Path]] = {}
    stripped = False
    for stem, paths in images.items():
        bare = stem.removesuffix(_CHANNEL)
        if bare != stem and stem not in labels:
            renamed.setdefault(bare, []).extend(paths)
            stripped = True
        else:
            renamed.setdefault(stem, []).extend(paths)
    return renamed, stripped
