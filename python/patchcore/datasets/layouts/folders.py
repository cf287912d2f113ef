"""Two folders of same-named files, or label maps alone."""

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
    """Find a folder of images and one of label maps by their names, or those that were named.

    Returns:
        ``two-folders``, or ``labels-only`` where there is no folder of images; None where no label folder was found.

    Raises:
        DataError: A folder that was named does not exist.
    """
    images_dir = None if images is None else _named(root, images, "--images")
    labels_dir = None if labels is None else _named(root, labels, "--labels")
    if labels_dir is not None and images_dir is not None:
        reason = f"named by --images {images} and --labels {labels}"
    elif labels_dir is not None:
        images_dir = _known(root, _IMAGE_FOLDERS, log)
        if images_dir == labels_dir:
            images_dir = None
        beside = "no folder of images beside it" if images_dir is None else f"images in {images_dir.name}/"
        reason = f"label maps named by --labels {labels}, {beside}"
    else:
        labels_dir = _known(root, _LABEL_FOLDERS, log)
        if labels_dir is None:
            return None
        if images_dir is None:
            images_dir = _known(root, _IMAGE_FOLDERS, log)
            found = "no folder of images" if images_dir is None else f"{images_dir.name}/"
            reason = f"{found} and {labels_dir.name}/ found in {root.name}/"
        else:
            reason = f"images named by --images {images}, {labels_dir.name}/ found in {root.name}/"
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
    """Return the folders of a data set whose names say that images or label maps lie in them."""
    found = (_known(root, names, log) for names in (_IMAGE_FOLDERS, _LABEL_FOLDERS))
    return tuple(folder for folder in found if folder is not None)


def _named(root: Path, folder: PathLike, option: str) -> Path:
    path = root / folder
    if not path.exists():
        raise DataError(f"no such {option} folder", path=path, remedy="check the path")
    if not path.is_dir():
        raise DataError(f"the {option} folder is a file", path=path, remedy="name the folder that holds the cases")
    return path.resolve()


def _known(root: Path, names: tuple[str, ...], log: FolderLog) -> Path | None:
    present = {item.name.lower(): item for item in log.list(root).folders}
    return next((present[name.lower()] for name in names if name.lower() in present), None)


def _volumes(folder: Path, log: FolderLog) -> dict[str, list[Path]]:
    """Return a folder's volumes by case id; for a folder of folders with one volume each, by their names."""
    listed = log.list(folder)
    if listed.volumes:
        return {stem: list(files) for stem, files in listed.volumes.items()}
    files: dict[str, list[Path]] = {}
    for inner in listed.folders:
        found = [path for paths in log.list(inner).volumes.values() for path in paths]
        if len(found) == 1:
            files[inner.name] = found
    return files


def _strip_channel(images: dict[str, list[Path]], labels: dict[str, list[Path]]) -> tuple[dict[str, list[Path]], bool]:
    """Take nnU-Net's channel suffix off image names where the label map's name lacks it."""
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
