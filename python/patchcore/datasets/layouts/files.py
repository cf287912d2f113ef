"""List the files of a data set, and pair images with label maps by name."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from patchcore.errors import DataError
from patchcore.study.layout import CaseFiles
from patchcore.volumes.volume import NiftiFile

__all__ = [
    "Folder",
    "FolderLog",
    "case_id_problem",
    "exists",
    "first_problem",
    "format_problem",
    "is_archive",
    "is_dicom_name",
    "is_folder",
    "is_text",
    "name_key",
    "pair",
    "volume_ending",
    "volume_stem",
    "without_ending",
]

SUFFIXES = (".nii.gz", ".nii", ".hdr.gz", ".img.gz", ".hdr", ".img")
"""Endings of files that are read."""

_LONGEST_ID = 200
_FORMATS = "nii|hdr|img|nrrd|nhdr|mha|mhd|mgz|mgh|mnc|minc|nia|npy|npz|vti|vtk|gipl|mif|brik|dcm|dicom|ima"
_PACKED = "gz|bz2|zst|xz|lz4|lzma|z|zip|tar|7z|rar"
_BESIDE = "json|txt|md5|sha1|sha256|csv|tsv|xml|log|md|html|png|jpg|jpeg|gif|pdf|yaml|yml|lock|asc|sig"
# Anything may follow the format ("a.nii (1).gz", "a.nii.gz.part", "a.nii.gz~"), but not the ending of a text beside it.
_ENDING = re.compile(rf"\.(?:{_FORMATS})(?![a-z0-9])(?!.*\.(?:{_BESIDE})$).*$", re.IGNORECASE | re.DOTALL)
_ARCHIVE = re.compile(r"\.(?:zip|7z|rar|tar|tgz|tbz2?|txz|tar\.(?:gz|bz2|xz|zst|lz4|z))$", re.IGNORECASE)


def volume_ending(name: str) -> str | None:
    """Return the ending of a file name that looks like a volume, in any format; None for any other name.

    Endings of compression, of unfinished downloads and of copies belong to it, and a doubled ending is one ending.

    Example:
        >>> [volume_ending(name) for name in ("a.nii.gz", "b.NRRD", "c.nii.gz.part", "d.hdr.bz2", "notes.txt")]
        ['.nii.gz', '.NRRD', '.nii.gz.part', '.hdr.bz2', None]
    """
    match = _ENDING.search(name)
    return None if match is None or match.start() == 0 else match[0]


def is_text(name: str) -> bool:
    """Return whether a file name is UTF-8; other names cannot be written to a study or a list."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_dicom_name(name: str) -> bool:
    """Return whether a file name ends like a DICOM file, which is one slice or object and never a case of its own."""
    return name.lower().endswith((".dcm", ".dicom", ".ima"))


def is_archive(name: str) -> bool:
    """Return whether a file name ends like an archive of several files.

    Example:
        >>> is_archive("Task03_Liver.tar"), is_archive("a.nii.gz")
        (True, False)
    """
    return _ARCHIVE.search(name) is not None


def format_problem(path: Path) -> tuple[str, str] | None:
    """Return why the format of a file is not read, and the remedy; None if it is read."""
    if volume_stem(path.name) is not None:
        return None
    ending = volume_ending(path.name)
    what = "files without an ending of a volume" if ending is None else f"files ending in {ending}"
    packed = re.search(rf"\.(?:{_PACKED})$", path.name, re.IGNORECASE)
    plain = re.fullmatch(rf"(?:\.(?:{_FORMATS}|{_PACKED}))+", ending or "", re.IGNORECASE)
    if ending is not None and not plain:
        remedy = "finish the download, or rename or remove the file"
    elif packed and not path.name.lower().endswith((".mha.gz", ".nrrd.gz")):
        remedy = "unpack it, or compress it as .nii.gz"
    else:
        remedy = "convert it to .nii.gz, for example with SimpleITK"
    return f"{path.parent.name}/{path.name}: {what} are not read", remedy


def first_problem(files: Iterable[Path]) -> tuple[str, str] | None:
    """Return problem and remedy of the first file whose format is not read; None if every format is read."""
    return next((found for file in files if (found := format_problem(file)) is not None), None)


def without_ending(name: str) -> str:
    """Return a name without its ending as a volume, if it has one."""
    return name.removesuffix(volume_ending(name) or "")


def exists(path: Path) -> bool:
    """Return whether a path exists; a text that cannot be a path does not."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def volume_stem(name: str) -> str | None:
    """Return the name of a file without its volume suffix; None if it is hidden or in a format that is not read.

    Example:
        >>> volume_stem("a.b.nii.gz"), volume_stem("._a.nii.gz"), volume_stem("notes.txt")
        ('a.b', None, None)
    """
    if name.startswith("."):
        return None
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return None


def name_key(name: str) -> str:
    """Return a key that is equal for names that differ only in upper and lower case or in Unicode form.

    Example:
        >>> name_key("Müller_1") == name_key(unicodedata.normalize("NFD", "müller_1"))
        True
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def case_id_problem(case_id: str) -> str | None:
    """Return why a case id cannot be used as a file or folder name of a study; None if it can.

    Example:
        >>> case_id_problem("case_1") is None, case_id_problem("../case_1")
        (True, 'contains a slash')
    """
    if not case_id.strip():
        return "is empty"
    if "/" in case_id or "\\" in case_id:
        return "contains a slash"
    if case_id in (".", ".."):
        return "is not a valid name"
    if not case_id.isprintable():
        return "contains a character that is not printable"
    if len(case_id.encode()) > _LONGEST_ID:
        return f"is longer than {_LONGEST_ID} bytes"
    return None


@dataclass(frozen=True)
class Folder:
    """Content of a folder.

    Attributes:
        path: The folder.
        volumes: Files that look like volumes, by name without ending. If a name has a file that can be read, its files
            in other formats are skipped.
        folders: Folders in it.
        names: Names of all files and folders that are not hidden.
    """

    path: Path
    volumes: Mapping[str, Sequence[Path]]
    folders: Sequence[Path]
    names: frozenset[str]

    @property
    def readable(self) -> bool:
        """Whether at least one volume is in a format that is read."""
        return any(format_problem(file) is None for files in self.volumes.values() for file in files)


@dataclass
class FolderLog:
    """Lists folders, and remembers every folder and file that determined the list of cases."""

    looked_at: dict[Path, None] = field(default_factory=dict)
    _known: dict[Path, Folder] = field(default_factory=dict)

    def note(self, path: Path) -> Path:
        """Remember a file that was read."""
        self.looked_at.setdefault(path)
        return path

    def list(self, path: Path) -> Folder:
        """List a folder; hidden entries are skipped, links are followed.

        Raises:
            DataError: The folder cannot be read.
        """
        if path in self._known:
            return self._known[path]
        self.note(path)
        volumes: dict[str, list[Path]] = {}
        other: dict[str, list[Path]] = {}
        folders, names = [], []
        try:
            with os.scandir(path) as found:
                entries = sorted((entry.name, is_folder(entry)) for entry in found)
        except OSError as error:
            raise DataError(
                f"the folder cannot be listed ({error.strerror or error})", path=path, remedy="make the folder readable"
            ) from None
        for name, inner in entries:
            if name.startswith(".") or not is_text(name):
                # Accounting lists them.
                continue
            names.append(name)
            if inner:
                folders.append(path / name)
                continue
            stem = volume_stem(name)
            if stem is not None:
                volumes.setdefault(stem, []).append(path / name)
            elif (ending := volume_ending(name)) and not is_dicom_name(name):
                other.setdefault(name.removesuffix(ending), []).append(path / name)
        for stem, files in volumes.items():
            # The .img file of a pair is read through its .hdr file.
            if any(file.name.lower().endswith((".hdr", ".hdr.gz")) for file in files):
                volumes[stem] = [file for file in files if not file.name.lower().endswith((".img", ".img.gz"))]
        folder = Folder(path, other | volumes, tuple(folders), frozenset(names))
        self._known[path] = folder
        return folder


def pair(
    images: Mapping[str, Sequence[Path]],
    labels: Mapping[str, Sequence[Path]],
    *,
    images_dir: Path | None,
    labels_dir: Path,
) -> list[CaseFiles]:
    """Pair images with label maps by name; names that differ only in case or Unicode form count as the same name.

    Args:
        images: Image files by name without suffix; a name may have several files.
        labels: Label map files by name without suffix.
        images_dir: Folder of the images; None if there are no images: then missing images are not reported.
        labels_dir: Folder of the label maps.

    Returns:
        One case per name, in case_id order; the case id is spelt like the label map.
    """
    labels_by_key = _by_key(labels)
    images_by_key = _by_key(images)
    cases = []
    for key in sorted(labels_by_key.keys() | images_by_key.keys()):
        label_names, image_names = labels_by_key.get(key, []), images_by_key.get(key, [])
        if len(label_names) > 1 or len(image_names) > 1:
            cases += _alike(label_names, image_names, images, labels, images_dir, labels_dir)
            continue
        case_id = (label_names or image_names)[0]
        image = images[image_names[0]] if image_names else ()
        label = labels[label_names[0]] if label_names else ()
        cases.append(_case(case_id, image, label, images_dir, labels_dir))
    return sorted(cases, key=lambda case: case.case_id)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder or a link to one."""
    try:
        return entry.is_dir()
    except OSError:
        # A loop of links is neither a folder nor a file that can be opened.
        return False


def _by_key(names: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(name_key(name), []).append(name)
    return found


def _alike(
    label_names: Sequence[str],
    image_names: Sequence[str],
    images: Mapping[str, Sequence[Path]],
    labels: Mapping[str, Sequence[Path]],
    images_dir: Path | None,
    labels_dir: Path,
) -> list[CaseFiles]:
    """Pair names that differ only in form by their exact spelling; report a problem if a name has no partner."""
    spelt = sorted({*label_names, *image_names})
    alike = images_dir is None or set(label_names) == set(image_names)
    cases = []
    for name in spelt:
        case = _case(name, images.get(name, ()), labels.get(name, ()), images_dir, labels_dir)
        if not alike:
            case = CaseFiles(
                case_id=name,
                image=case.image,
                label=case.label,
                others=case.others,
                problem=f"names that differ only in upper and lower case or Unicode form: {', '.join(spelt)}",
                remedy="rename the files so that image and label map of a case have the same name",
            )
        cases.append(case)
    return cases


def _case(
    case_id: str, image: Sequence[Path], label: Sequence[Path], images_dir: Path | None, labels_dir: Path
) -> CaseFiles:
    problem = remedy = None
    unread = first_problem((*label[:1], *image[:1]))
    if len(image) > 1 or len(label) > 1:
        several = ", ".join(path.name for path in (image if len(image) > 1 else label))
        problem, remedy = f"several files for one case: {several}", "keep one of them"
    elif unread is not None:
        problem, remedy = unread
    elif not label:
        problem = "image without label map"
        remedy = f"add {labels_dir.name}/{case_id}.nii.gz"
    elif images_dir is not None and not image:
        problem = "label map without image"
        remedy = f"add {images_dir.name}/{case_id}.nii.gz"
    elif unsafe := case_id_problem(case_id):
        problem, remedy = f"the case name {unsafe}", "rename the files of the case"
    return CaseFiles(
        case_id=case_id,
        image=NiftiFile(image[0]) if image else None,
        label=NiftiFile(label[0] if label else labels_dir / f"{case_id}.nii.gz"),
        problem=problem,
        remedy=remedy,
        others=(*image[1:], *label[1:]),
    )
