"""Find the cases that ``dataset.json`` lists: the Medical Segmentation Decathlon, MONAI data lists, nnU-Net's lists."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from patchcore.datasets.layouts.described import (
    all_labels,
    channel_names,
    count_findings,
    ct_channel,
    read_description,
)
from patchcore.datasets.layouts.files import (
    FolderLog,
    case_id_problem,
    exists,
    format_problem,
    volume_ending,
    without_ending,
)
from patchcore.study.cases import Finding
from patchcore.study.layout import CaseFiles, IgnoredFile, Layout
from patchcore.volumes.volume import NiftiFile

__all__ = ["find_listed"]

_SPLITS: Final = {
    "training": "train", "train": "train", "validation": "validation", "valid": "validation", "val": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
_CORRECT: Final = "correct dataset.json"
_IMAGE_KEYS: Final = ("image", "images", "img", "imgs", "ct", "volume", "scan")
_LABEL_KEYS: Final = ("label", "labels", "seg", "segmentation", "mask", "masks", "gt", "truth")
_DEPTH: Final = 6


@dataclass(frozen=True)
class _Entry:
    """One entry of a list: `where` names it, `names` are the lists that it is in, from the outermost to the innermost.

    Attributes:
        images: Names of the image files; several if there is one file per channel.
        label: Name of the label map; None if there is none.
        wrong: Why the entry cannot be read; None if it can.
        key: Name of the entry, if the list is an object; else empty.
        fold: Number of the fold; else empty.
    """

    where: str
    names: tuple[str, ...]
    images: tuple[str, ...]
    label: str | None
    wrong: str | None = None
    key: str = ""
    fold: str = ""

    @property
    def split(self) -> str:
        """The split that the list stands for; an unknown list, such as a fold, counts as training."""
        return next((split for name in reversed(self.names) if (split := _split_of(name))), "train")


def _split_of(name: str) -> str:
    """Return the split that a list is named after; empty if it is named after none.

    A list that is called ``external_test`` or ``holdout`` must not be trained on.
    """
    name = name.casefold()
    if name in _SPLITS:
        return _SPLITS[name]
    if "test" in name or "holdout" in name or "held" in name:
        return "test"
    return "validation" if "valid" in name else ""


def find_listed(root: Path, log: FolderLog) -> Layout | None:
    """Find the cases in every list of ``dataset.json``: ``training``, ``validation``, ``test``, ``testing``, folds.

    Each entry with a label map is a case, and keeps the list that it is from as its split. An entry for testing
    without a label map is listed as ignored. An entry that cannot be read is a case with a problem.
    """
    if "dataset.json" not in log.list(root).names:
        return None
    description = read_description(log.note(root / "dataset.json"))
    if description is None:
        return None
    entries = list(_entries(description))
    if not any(entry.label is not None for entry in entries):
        return None
    channels = channel_names(description)
    channel, why = ct_channel(channels)
    ignored: list[IgnoredFile] = []
    drafts: list[tuple[_Entry, CaseFiles]] = []
    for entry in entries:
        if entry.label is None and entry.wrong is None and entry.split == "test":
            ignored += [_unlabelled(root / name) for name in entry.images]
        elif _is_resource_fork(entry):
            ignored += [
                IgnoredFile(root / name, "a hidden file") for name in (*entry.images, entry.label or "") if name
            ]
        else:
            used = channel if len(entry.images) > channel else 0
            ignored += [
                IgnoredFile(root / name, f"channel {place} of its case")
                for place, name in enumerate(entry.images)
                if place != used
            ]
            drafts.append((entry, _case(root, entry, used)))
    cases = _once(_named(drafts))
    counts = Counter(case.split for case in cases)
    kinds = ", ".join(f"{counts[kind]} {word}" for kind, word in _WORDS.items() if counts[kind])
    several = any(len(entry.images) > 1 for entry in entries)
    return Layout(
        name="msd",
        reason=f"dataset.json lists {kinds} pair{'' if len(cases) == 1 else 's'}{why if several else ''}",
        cases=tuple(sorted(cases, key=lambda case: case.case_id)),
        images=root / "imagesTr",
        labels=root / "labelsTr",
        label_names=all_labels(description),
        findings=_count_findings(description, counts),
        ignored=tuple(ignored),
    )


def _unlabelled(path: Path) -> IgnoredFile:
    missing = "" if exists(path) else "; the file does not exist"
    return IgnoredFile(path, f"listed for testing, without a label map{missing}")


def _count_findings(description: Mapping[str, Any], counts: Mapping[str, int]) -> tuple[Finding, ...]:
    """Compare numTraining with the training cases, or with the training and validation cases together."""
    both = counts.get("train", 0) + counts.get("validation", 0)
    return () if description.get("numTraining") == counts.get("train", 0) else count_findings(description, both)


_WORDS: Final = {"train": "training", "validation": "validation", "test": "test"}


def _entries(description: Mapping[str, Any]) -> Iterator[_Entry]:
    """Yield the entries of all lists: lists of objects with an image, objects of such objects, or objects of lists."""
    for name, value in description.items():
        # A list with a known name has entries, whatever is in it.
        named = isinstance(value, list) and bool(value) and bool(_split_of(name) or name.casefold().startswith("fold"))
        if named or _lists_images(value):
            yield from _entries_of((name,), value)


def _lists_images(value: Any, depth: int = 0) -> bool:
    if depth > _DEPTH:
        return False
    if isinstance(value, dict):
        if _is_entry(value):
            return True
        return any(_lists_images(item, depth + 1) for item in value.values())
    if isinstance(value, list):
        return any(isinstance(item, dict) and _lists_images(item, depth + 1) for item in value) or (
            bool(value) and all(isinstance(item, str) and volume_ending(item) for item in value)
        )
    return False


def _is_entry(value: Any) -> bool:
    """Return whether an object names an image or a label map, so that it is one entry."""
    keys = {str(key).casefold() for key, item in value.items() if isinstance(item, str | list)}
    return bool(keys & {*_IMAGE_KEYS}) or ("label" in keys and not isinstance(value.get("label"), dict))


def _entries_of(names: tuple[str, ...], value: Any) -> Iterator[_Entry]:
    if isinstance(value, list):
        for number, item in enumerate(value, 1):
            yield _entry(f"{' '.join(names)} {number}", names, item)
        return
    if _is_entry(value):
        yield _entry(" ".join(names), names, value)
        return
    for key, item in value.items():
        if isinstance(item, list) or (isinstance(item, dict) and not _is_entry(item)):
            if _lists_images(item):
                yield from _entries_of((*names, key), item)
        else:
            yield replace(_entry(f"{' '.join(names)} {key}", names, item), key=str(key))


def _entry(where: str, names: tuple[str, ...], item: Any) -> _Entry:
    if isinstance(item, str):
        # Lists of test images name only the image.
        item = {"image": item}
    if isinstance(item, list) and len(item) == 2 and all(isinstance(name, str) for name in item):
        item = {"image": item[0], "label": item[1]}
    if not isinstance(item, dict):
        return _Entry(where, names, (), None, "is not an object with an image and a label")
    lowered = {str(key).casefold(): found for key, found in item.items()}
    given = next((lowered[key] for key in _IMAGE_KEYS if key in lowered), None)
    images = tuple(given) if isinstance(given, list) else (given,)
    labels = next((lowered[key] for key in _LABEL_KEYS if key in lowered), None)
    labels = labels if isinstance(labels, list) else [] if labels is None else [labels]
    fold = item.get("fold")
    label, wrong = (labels[0], None) if len(labels) == 1 else (None, "has several label maps" if labels else None)
    if label is not None and not (isinstance(label, str) and label and "\0" not in label):
        label, wrong = None, "lacks a label"
    if not images or not all(isinstance(name, str) and name and "\0" not in name for name in images):
        images, wrong = (), "lacks an image"
    kept = str(fold) if isinstance(fold, int | str) and not isinstance(fold, bool) else ""
    return _Entry(where, names, images, label, wrong, fold=kept)


def _is_resource_fork(entry: _Entry) -> bool:
    """Whether an entry is a file that macOS adds to archives: the Decathlon lists some of them."""
    return bool(entry.images) and Path(entry.images[0]).name.startswith("._")


def _case(root: Path, entry: _Entry, channel: int) -> CaseFiles:
    image = _with_channel(root / entry.images[channel]) if entry.images else None
    label = root / entry.label if entry.label is not None else None
    problem = remedy = None
    if entry.wrong is not None:
        problem, remedy = f"{entry.where} of dataset.json {entry.wrong}", _CORRECT
    elif label is None:
        problem, remedy = f"{entry.where} of dataset.json has no label map", f"add it to {entry.where} of dataset.json"
    else:
        assert image is not None
        problem, remedy = _file_problem(root, entry, (label, image))
    columns = {} if not entry.fold else {"fold": entry.fold}
    return CaseFiles(
        case_id="",
        image=None if image is None else NiftiFile(image),
        label=NiftiFile(label if label is not None else image if image is not None else root / "dataset.json"),
        problem=problem,
        remedy=remedy,
        split=entry.split,
        columns=columns,
    )


def _file_problem(root: Path, entry: _Entry, files: Sequence[Path]) -> tuple[str | None, str | None]:
    for file in files:
        if not Path(os.path.normpath(file)).is_relative_to(root):
            return f"{entry.where} of dataset.json lies outside the data set: {file.name}", _CORRECT
        if (unread := format_problem(file)) is not None:
            return unread
        if not exists(file):
            found = f"{file.parent.name}/{file.name} is listed in dataset.json but does not exist"
            return found, "download it again"
    return None, None


def _with_channel(image: Path) -> Path:
    """Return the file of an image; lists that were made for nnU-Net name it without its channel ``_0000``."""
    ending = volume_ending(image.name) or ""
    named = image.with_name(f"{image.name.removesuffix(ending)}_0000{ending}") if image.name else image
    return named if not exists(image) and exists(named) else image


def _named(drafts: Sequence[tuple[_Entry, CaseFiles]]) -> list[CaseFiles]:
    """Name the cases after their label maps, or after the folders if label maps of several cases have one name."""
    ids = [_label_stem(entry, case) for entry, case in drafts]
    paths = [entry.label or (entry.images[0] if entry.images else "") for entry, _ in drafts]
    shared = _shared(ids, paths)
    if shared:
        # Every label map has the same few names (KiTS): the folder names the case.
        parents = [Path(path).parent for path in paths]
        folders = [parent.name for parent in parents]
        whole = ["_".join(part for part in parent.parts if part not in ("/", "..")) for parent in parents]
        for names in (folders, whole, [f"{folder}_{stem}" for folder, stem in zip(whole, ids, strict=True)]):
            better = [name if stem in shared and name else stem for name, stem in zip(names, ids, strict=True)]
            if not _shared(better, paths):
                ids = better
                break
    return [_identified(replace(case, case_id=name)) for name, (_, case) in zip(ids, drafts, strict=True)]


def _label_stem(entry: _Entry, case: CaseFiles) -> str:
    if entry.key:
        return entry.key
    if entry.label is None and not entry.images:
        return entry.where.replace(" ", "_")
    return without_ending(case.label.path.name)


def _shared(ids: Sequence[str], paths: Sequence[str]) -> set[str]:
    """Return the ids that stand for several files."""
    files: dict[str, set[str]] = defaultdict(set)
    for name, path in zip(ids, paths, strict=True):
        files[name].add(os.path.normpath(path))
    return {name for name, found in files.items() if len(found) > 1}


def _identified(case: CaseFiles) -> CaseFiles:
    unsafe = case_id_problem(case.case_id)
    if unsafe is None:
        return case
    safe = "".join(char if char.isprintable() and char not in "/\\" else "_" for char in case.case_id)[:50].strip(" .")
    return replace(
        case,
        case_id=safe or "unnamed",
        problem=case.problem or f"the case name {unsafe}",
        remedy=case.remedy or "rename the files of the case",
    )


def _once(cases: Iterable[CaseFiles]) -> list[CaseFiles]:
    """Join entries for the same pair of files; entries that contradict each other are cases with a problem."""
    groups: dict[str, list[CaseFiles]] = defaultdict(list)
    for case in cases:
        groups[case.case_id].append(case)
    kept = []
    for name, group in groups.items():
        first = group[0]
        same = all(case.label == first.label and case.image == first.image for case in group)
        splits = sorted({case.split for case in group})
        if same and "test" in splits and len(splits) > 1:
            problem = f"dataset.json lists the case for testing and for {', '.join(s for s in splits if s != 'test')}"
            kept.append(replace(first, problem=problem, remedy="keep it in one list"))
        elif len(group) == 1:
            kept.append(first)
        elif same and len(splits) > 1:
            # A case of a cross-validation is in the training list of some folds, and in one validation list.
            kept.append(replace(first, split="train"))
        elif same:
            kept.append(replace(first, problem=f"dataset.json lists the case {len(group)} times", remedy=_CORRECT))
        else:
            for number, case in enumerate(group, 1):
                problem = f"{len(group)} entries of dataset.json have the name {name}"
                kept.append(replace(case, case_id=f"{name}-{number}", problem=problem, remedy=_CORRECT))
    return kept
