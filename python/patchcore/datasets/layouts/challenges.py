"""Find the cases of public data sets: LiTS, KiTS, and nnU-Net v2."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from patchcore.datasets.layouts.described import (
    all_labels,
    channel_names,
    count_findings,
    ct_channel,
    read_description,
)
from patchcore.datasets.layouts.files import FolderLog, first_problem, pair
from patchcore.errors import DataError
from patchcore.study.layout import CaseFiles, IgnoredFile, Layout
from patchcore.volumes.volume import NiftiFile

__all__ = ["find_kits", "find_lits", "find_nnunet"]

LITS_LABELS: Final = {0: "background", 1: "liver", 2: "tumour"}
KITS_LABELS: Final = {0: "background", 1: "kidney", 2: "tumour", 3: "cyst"}

_LITS = re.compile(r"(volume|segmentation)-(\d{1,6})", re.IGNORECASE)
_KITS = re.compile(r"case_\d{1,6}", re.IGNORECASE)
_CHANNEL = re.compile(r"_(\d{4})$")


def find_lits(root: Path, log: FolderLog) -> Layout | None:
    """Find ``volume-N`` and ``segmentation-N`` in a folder or its subfolders; case ids are ``volume-N``."""
    top = log.list(root)
    images: dict[str, list[Path]] = {}
    labels: dict[str, list[Path]] = {}
    folders = []
    for folder in (root, *top.folders):
        try:
            volumes = log.list(folder).volumes
        except DataError:
            continue
        for stem, files in volumes.items():
            match = _LITS.fullmatch(stem)
            if match is None:
                continue
            found = images if match[1].lower() == "volume" else labels
            found.setdefault(f"volume-{int(match[2])}", []).extend(files)
            folders.append(folder)
    if not labels:
        return None
    cases = pair(images, labels, images_dir=root if images else None, labels_dir=root)
    cases = [_named_as(case, "segmentation-" + case.case_id.removeprefix("volume-"), root) for case in cases]
    where = "" if set(folders) == {root} else f" in {', '.join(dict.fromkeys(item.name for item in folders))}"
    return Layout(
        name="lits",
        reason=f"files named volume-N and segmentation-N{where}",
        cases=tuple(sorted(cases, key=lambda case: case.case_id)),
        label_names=LITS_LABELS,
    )


def find_kits(root: Path, log: FolderLog) -> Layout | None:
    """Find ``case_NNNNN/`` with ``segmentation.nii.gz`` and ``imaging.nii.gz``, here, in ``data/`` or ``dataset/``."""
    for folder in (root, root / "data", root / "dataset"):
        if folder != root and folder.name not in {item.name for item in log.list(root).folders}:
            continue
        cases = [case for inner in log.list(folder).folders if (case := _kits_case(inner, log)) is not None]
        if not any(case.label.path.name.startswith("segmentation") and case.problem is None for case in cases):
            continue
        imaged = any(case.image is not None for case in cases)
        if imaged:
            cases = [_without_image(case) if case.image is None and case.problem is None else case for case in cases]
        what = "imaging and segmentation" if imaged else "segmentation and without imaging"
        return Layout(
            name="kits",
            reason=f"folders named case_NNNNN with {what} in {folder.name}/",
            cases=tuple(sorted(cases, key=lambda case: case.case_id)),
            label_names=KITS_LABELS,
        )
    return None


def find_nnunet(root: Path, log: FolderLog) -> Layout | None:
    """Find nnU-Net v2 raw data: ``imagesTr/case_0000``, ``labelsTr/case``; labelled test cases stay test cases."""
    names = {item.name for item in log.list(root).folders}
    if not {"imagesTr", "labelsTr"} <= names:
        return None
    description = None
    if "dataset.json" in log.list(root).names:
        description = read_description(log.note(root / "dataset.json"))
    channels = channel_names(description)
    images_tr = log.list(root / "imagesTr").volumes
    suffixed = bool(images_tr) and all(_CHANNEL.search(stem) for stem in images_tr)
    if not channels and not suffixed:
        return None
    channel, why = ct_channel(channels)
    cases, ignored = _nnunet_cases(root, log, "Tr", channel, split="train")
    tests: list[CaseFiles] = []
    if {"imagesTs", "labelsTs"} <= names:
        tests, more = _nnunet_cases(root, log, "Ts", channel, split="test")
        # A test image may have no label map; a test label map without image is a fault.
        ignored += more + [_unlabelled(file) for case in tests for file in _images_alone(case)]
        tests = _apart(cases, [case for case in tests if not _images_alone(case)])
    elif "imagesTs" in names:
        ignored += [_unlabelled(file) for files in log.list(root / "imagesTs").volumes.values() for file in files]
    reason = "imagesTr/ and labelsTr/, image names end in a channel number"
    if description is not None:
        reason += ", dataset.json gives names of channels and labels"
    if tests:
        reason += f"; {len(tests)} labelled test cases in imagesTs/ are kept for testing"
    return Layout(
        name="nnunet",
        reason=reason + why,
        cases=tuple(sorted((*cases, *tests), key=lambda case: case.case_id)),
        images=root / "imagesTr",
        labels=root / "labelsTr",
        label_names={} if description is None else all_labels(description),
        findings=() if description is None else count_findings(description, len(cases)),
        ignored=tuple(ignored),
    )


def _named_as(case: CaseFiles, label_stem: str, root: Path) -> CaseFiles:
    """If a file is missing, give its expected name in the remedy."""
    if case.problem == "image without label map":
        remedy = f"add {label_stem}.nii"
        return replace(case, label=NiftiFile(root / f"{label_stem}.nii"), remedy=remedy)
    if case.problem == "label map without image":
        return replace(case, remedy=f"add {case.case_id}.nii")
    return case


def _kits_case(folder: Path, log: FolderLog) -> CaseFiles | None:
    if not _KITS.fullmatch(folder.name):
        return None
    case_id = folder.name
    try:
        volumes = log.list(folder).volumes
    except DataError as error:
        return CaseFiles(
            case_id, None, NiftiFile(folder / "segmentation.nii.gz"), problem=error.message, remedy=error.remedy
        )
    image, label = volumes.get("imaging", ()), volumes.get("segmentation", ())
    unread = first_problem((*label[:1], *image[:1]))
    problem = remedy = None
    if unread is not None:
        problem, remedy = unread
    elif len(image) > 1 or len(label) > 1:
        several = ", ".join(path.name for path in (image if len(image) > 1 else label))
        problem, remedy = f"several files for one case: {several}", "keep one of them"
    elif not label:
        problem = "image without label map" if image else "the case has no files"
        remedy = f"add {case_id}/segmentation.nii.gz"
    return CaseFiles(
        case_id=case_id,
        image=NiftiFile(image[0]) if image else None,
        label=NiftiFile(label[0] if label else folder / "segmentation.nii.gz"),
        problem=problem,
        remedy=remedy,
        others=(*image[1:], *label[1:]),
    )


def _without_image(case: CaseFiles) -> CaseFiles:
    remedy = f"add {case.case_id}/imaging.nii.gz"
    return replace(case, problem="label map without image", remedy=remedy)


def _nnunet_cases(
    root: Path, log: FolderLog, kind: str, channel: int, *, split: str
) -> tuple[list[CaseFiles], list[IgnoredFile]]:
    """Return the cases of ``imagesTr`` or ``imagesTs``, and the images of channels that are not read."""
    images_dir, labels_dir = root / f"images{kind}", root / f"labels{kind}"
    images: dict[str, Sequence[Path]] = {}
    ignored = []
    for stem, files in log.list(images_dir).volumes.items():
        match = _CHANNEL.search(stem)
        bare = stem[: match.start()] if match else stem
        if match is None or int(match[1]) == channel:
            images[bare] = [*images.get(bare, ()), *files]
        else:
            ignored += [IgnoredFile(file, f"channel {int(match[1])}; channel {channel} is used") for file in files]
    cases = pair(images, log.list(labels_dir).volumes, images_dir=images_dir, labels_dir=labels_dir)
    return [replace(case, split=split) for case in cases], ignored


def _images_alone(case: CaseFiles) -> tuple[Path, ...]:
    """Return the images of a case without a label map; empty if there is a label map, or a fault in the images."""
    if case.problem != "image without label map" or case.image is None:
        return ()
    return (case.image.path, *case.others)


def _unlabelled(path: Path) -> IgnoredFile:
    return IgnoredFile(path, "a test image without label map")


def _apart(cases: list[CaseFiles], tests: list[CaseFiles]) -> list[CaseFiles]:
    """Rename each test case that has the same name as a training case."""
    taken = {case.case_id for case in cases}
    return [replace(case, case_id=f"{case.case_id}-test") if case.case_id in taken else case for case in tests]
