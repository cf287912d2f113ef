"""Find the cases of a DICOM archive: match each SEG or RTSTRUCT with its CT by UID, not by file name."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

from patchcore.datasets.dicom.drafts import Draft, broken_cases, cases_of, ct_source, geometry
from patchcore.datasets.dicom.scan import Found, Scan, scan_folder
from patchcore.errors import DataError
from patchcore.study.layout import CaseFiles, IgnoredFile, Layout
from patchcore.types import PathLike
from patchcore.volumes.dicom.grid import place
from patchcore.volumes.dicom.masks import looks_like_masks
from patchcore.volumes.dicom.objects import guarded, open_dataset
from patchcore.volumes.dicom.options import SegmentOptions
from patchcore.volumes.dicom.segments import own_grid, seg_planes
from patchcore.volumes.dicom.slices import Slice, choose_slices
from patchcore.volumes.volume import DicomVolume, Volume

__all__ = ["NO_LABEL", "find_cts", "find_dicom"]

NO_LABEL: Final = "no SEG or RTSTRUCT refers to this CT"
"""Problem of a CT without segmentation."""

_DEFAULTS = SegmentOptions()


@dataclass
class _Series:
    """A CT series with its SEG and RTSTRUCT objects."""

    uid: str
    files: list[Found]
    labels: list[Found] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    localizers: int = 0
    unread: int = 0

    @property
    def slices(self) -> list[Slice]:
        return [item for found in self.files for item in found.slices if not item.localizer]

    @property
    def uids(self) -> frozenset[str]:
        return frozenset(found.uid for found in self.files)


def find_dicom(
    root: PathLike,
    *,
    options: SegmentOptions = _DEFAULTS,
    progress: Callable[[int, int | None], None] | None = None,
) -> Layout:
    """Find the cases of a folder of DICOM files, with any file names and subfolders.

    A case is a CT series with the SEGs or RTSTRUCTs that refer to it: by series, by SOP instances, by frame of
    reference, or, if none of these is known, because they lie on its grid. A SEG without its CT is a case without an
    image.

    Args:
        root: The folder.
        options: How segments are read; kept in the index of each volume.
        progress: Called with the number of headers read and the number of files.

    Returns:
        The layout, including faulty cases. A label name has the same number in all cases.

    Raises:
        DataError: The path is not a folder, or the folder has no DICOM CT, SEG or RTSTRUCT.
        MissingExtraError: pydicom is not installed.
        OSError: The folder cannot be read.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError("is not a folder", path=root, remedy="give the folder that contains the DICOM files")
    scan = scan_folder(root, progress=progress)
    series = _ct_series(scan.found)
    unread = Counter(item.path.parent for item in scan.broken)
    for item in series:
        item.unread = sum(unread[folder] for folder in {file.path.parent for file in item.files})
    loose, foreign = _link(series, scan.found)
    drafts = [_ct_draft(item) for item in series if item.slices or item.labels]
    drafts += _label_drafts(loose)
    broken = broken_cases(scan, root)
    if not drafts and not broken:
        raise DataError("contains no DICOM CT, SEG or RTSTRUCT", path=root, remedy="give the folder that contains them")
    cases, numbers = cases_of(drafts, options)
    return Layout(
        name="dicom",
        reason=_reason(series, drafts, scan, len(foreign)),
        cases=tuple(sorted((*cases, *broken), key=lambda case: case.case_id)),
        label_names=MappingProxyType({number: name for name, number in numbers.items()}),
        override="--layout",
        looked_at=tuple(scan.folders),
        ignored=tuple(_ignored(scan, cases, foreign)),
    )


def find_cts(root: PathLike, *, progress: Callable[[int, int | None], None] | None = None) -> list[CaseFiles]:
    """Find the CT series of a folder of DICOM files; SEG and RTSTRUCT objects are passed over.

    Returns:
        One entry per series, and one per folder with files that cannot be read. An entry without an image has a
        problem: a slice is missing, duplicated or shifted.

    Raises:
        MissingExtraError: pydicom is not installed.
        OSError: The folder cannot be read.
    """
    root = Path(root)
    scan = scan_folder(root, progress=progress)
    drafts = [_ct_draft(item) for item in _ct_series(scan.found) if item.slices]
    cases, _numbers = cases_of(drafts, _DEFAULTS)
    return sorted((*cases, *broken_cases(scan, root)), key=lambda case: case.case_id)


def _ignored(scan: Scan, cases: Sequence[CaseFiles], foreign: Sequence[Found]) -> Iterator[IgnoredFile]:
    """Yield the DICOM files that belong to no case, with the reason."""
    used = {file for case in cases for file in (*_files(case.image), *_files(case.label), *case.others)}
    labels = {item.uid for item in scan.found if item.path in used}
    elsewhere = {item.path for item in foreign}
    for item in scan.found:
        if item.path in used:
            continue
        if item.path in elsewhere:
            reason = "a segmentation of another modality"
        elif item.kind == "other":
            reason = f"{item.modality or 'unknown modality'}: not a CT, SEG or RTSTRUCT"
        elif item.kind == "rtstruct":
            reason = "an RTSTRUCT; the SEG of the same CT is used"
        elif item.uid in labels:
            reason = "a copy of another file"
        elif item.slices and all(part.localizer for part in item.slices):
            reason = "a localizer"
        else:
            reason = "a slice that is not used; the notes of the case say why"
        yield IgnoredFile(item.path, reason)


def _files(volume: Volume | None) -> tuple[Path, ...]:
    if not isinstance(volume, DicomVolume) or volume.found is None:
        return () if volume is None else (volume.path,)
    return volume.found.files


def _ct_series(found: Iterable[Found]) -> list[_Series]:
    groups: dict[str, list[Found]] = defaultdict(list)
    for item in found:
        if item.kind == "ct":
            groups[item.series].append(item)
    made = []
    for uid in sorted(groups):
        series = _Series(uid, groups[uid])
        series.localizers = sum(item.localizer for file in series.files for item in file.slices)
        made.append(series)
    return made


def _link(series: Sequence[_Series], found: Iterable[Found]) -> tuple[list[Found], list[Found]]:
    """Assign each SEG and RTSTRUCT to its CT; return the objects without a CT, and those of other modalities."""
    usable = [item for item in series if item.slices]
    others = [item for item in found if item.kind == "other"]
    other_series, other_uids = {item.series for item in others}, {item.uid for item in others}
    loose: list[Found] = []
    foreign: list[Found] = []
    seen: set[str] = set()
    for label in sorted(found, key=lambda item: (item.series, item.uid, str(item.path))):
        if label.kind not in ("seg", "rtstruct") or label.uid in seen:
            continue
        seen.add(label.uid)
        on_ct = any(item.uid in label.referenced_series or item.uids & label.referenced for item in usable)
        if not on_ct and (label.referenced_series & other_series or label.referenced & other_uids):
            foreign.append(label)
            continue
        target, note = _series_of(label, usable)
        if target is None:
            loose.append(label)
        else:
            target.labels.append(label)
            if note:
                target.notes.append(note)
    return loose, foreign


def _series_of(label: Found, series: Sequence[_Series]) -> tuple[_Series | None, str]:
    named = [item for item in series if item.uid in label.referenced_series]
    if len(named) == 1:
        return named[0], ""
    counts = {item.uid: len(item.uids & label.referenced) for item in named or series}
    if counts and max(counts.values()) > 0:
        best = max(counts, key=lambda uid: counts[uid])
        return next(item for item in series if item.uid == best), ""
    if label.referenced_series and not named:
        # The object refers to a series that is not in the folder.
        shared = [s for s in series if label.frame_of_reference and _frame_of(s) == label.frame_of_reference]
        if not shared:
            return None, ""
    what = f"{label.path.name} refers to no CT in this folder"
    candidates = [s for s in series if label.frame_of_reference and _frame_of(s) == label.frame_of_reference]
    how = "both share the frame of reference"
    if not candidates:
        candidates, how = (
            [s for s in series if label.study and s.files[0].study == label.study],
            "both are in one study",
        )
        if label.kind == "seg":
            how = "the SEG lies on its grid"
    if label.kind == "seg":
        candidates = [item for item in candidates if _fits(label, item)]
    if not candidates:
        return None, ""
    best_fit = max(candidates, key=lambda item: len(item.slices))
    if len(candidates) > 1:
        how += f" (as for {len(candidates) - 1} other series) and it has the most slices"
    return best_fit, f"{what}: this CT is used because {how}"


def _frame_of(series: _Series) -> str:
    return series.files[0].frame_of_reference


def _fits(label: Found, series: _Series) -> bool:
    """Return whether the frames of a SEG lie on the grid of a CT."""
    try:
        _slices, grid = choose_slices(series.slices, frozenset())
        dataset = open_dataset(label.path)
        with guarded(label.path):
            planes, _distance = seg_planes(dataset, label.path)
        for index, plane in enumerate(planes):
            placement, _off = place(plane, grid, slice_index=None, name=f"frame {index + 1}")
            if not 0 <= placement.origin[placement.slice_axis] < grid.shape[placement.slice_axis]:
                return False
    except DataError:
        return False
    return bool(planes)


def _ct_draft(series: _Series) -> Draft:
    first = series.files[0]
    kind: Literal["seg", "rtstruct"] | None = None
    labels: tuple[Found, ...] = ()
    notes: list[str] = []
    if series.labels:
        kind = "seg" if any(item.kind == "seg" for item in series.labels) else "rtstruct"
        labels = tuple(item for item in series.labels if item.kind == kind)
        left = len(series.labels) - len(labels)
        if left:
            notes.append(f"{left} RTSTRUCT of the same CT {'is' if left == 1 else 'are'} skipped: the SEG is used")
        if len(labels) > 1:
            names = ", ".join(item.path.name for item in labels[:4]) + (" …" if len(labels) > 4 else "")
            notes.append(f"{len(labels)} {kind.upper()} objects label this CT and are combined: {names}")
    referenced = frozenset(uid for item in series.labels for uid in item.referenced)
    try:
        slices, grid = choose_slices(series.slices, referenced)
    except DataError as error:
        files = tuple(item.path for item in (*series.files, *series.labels))
        return Draft(first.patient, series.uid, None, None, labels, {}, error.message, error.remedy, first.path, files)
    image_notes = [*series.notes, *grid.notes]
    missing = len(referenced - series.uids)
    if 0 < missing < len(referenced):
        slices_are = "slice that is" if missing == 1 else "slices that are"
        image_notes.append(
            f"the segmentation refers to {missing} {slices_are} not in the folder: the CT may not be complete"
        )
    if series.unread:
        some = f"{series.unread} file{'' if series.unread == 1 else 's'}"
        image_notes.append(f"{some} in the folder of this CT cannot be read: the CT may not be complete")
    if series.localizers:
        some = "localizer of the series is" if series.localizers == 1 else "localizers of the series are"
        image_notes.append(f"{series.localizers} {some} excluded")
    image = ct_source(grid, slices, series.uid, image_notes)
    problem = remedy = None
    if not labels:
        problem, remedy = NO_LABEL, "add the segmentation"
        if looks_like_masks(image.files):
            problem = "this series looks like a mask that was exported as a CT: it holds two values only"
            remedy = "read masks beside their CT with --layout ircadb (folders PATIENT_DICOM and MASKS_DICOM/NAME)"
    return Draft(
        first.patient,
        series.uid,
        image,
        kind,
        labels,
        geometry(grid, slices) | {"notes": notes},
        problem,
        remedy,
        first.path,
    )


def _label_drafts(loose: Sequence[Found]) -> list[Draft]:
    """Return cases without a CT: SEGs that refer to the same series form one case, on their own grid."""
    groups: dict[tuple[str, str], list[Found]] = defaultdict(list)
    for item in loose:
        key = min(item.referenced_series) if item.referenced_series else item.series
        groups[item.kind, key].append(item)
    drafts = []
    for (kind, key), labels in sorted(groups.items()):
        first = labels[0]
        details: dict[str, Any] = {}
        problem = remedy = None
        if kind == "rtstruct":
            problem, remedy = "the CT of this RTSTRUCT is missing", "add its CT series"
        else:
            try:
                planes, distance = [], None
                for item in labels:
                    dataset = open_dataset(item.path)
                    with guarded(item.path):
                        found, distance = seg_planes(dataset, item.path)
                    planes += found
                grid = own_grid(planes, distance)
                notes = ["the CT is missing: measured on the segmentation's own grid"]
                if len(labels) > 1:
                    notes.append(f"{len(labels)} SEG objects of one CT are combined")
                details = geometry(grid, []) | {"notes": [*notes, *grid.notes]}
            except (DataError, OSError) as error:
                problem = error.message if isinstance(error, DataError) else str(error)
                remedy = getattr(error, "remedy", None)
        label_kind: Literal["seg", "rtstruct"] = "seg" if kind == "seg" else "rtstruct"
        drafts.append(Draft(first.patient, key, None, label_kind, tuple(labels), details, problem, remedy, first.path))
    return drafts


def _reason(series: Sequence[_Series], drafts: Sequence[Draft], scan: Scan, foreign: int) -> str:
    kinds: Counter[str | None] = Counter(draft.label_kind for draft in drafts if draft.labels)
    parts = [f"{len(series)} DICOM CT series"] if series else []
    for kind, name in (("seg", "SEG"), ("rtstruct", "RTSTRUCT")):
        if kinds[kind]:
            parts.append(f"{kinds[kind]} labelled by {name}")
    skipped = Counter(item.modality or "unknown" for item in scan.found if item.kind == "other")
    skipped["localizers"] = sum(item.localizers for item in series)
    shown = [f"{count} {name}" for name, count in sorted(skipped.items()) if count]
    if foreign:
        shown.append(f"{foreign} segmentations of other modalities")
    return ", ".join(parts) + (f"; skipped files: {', '.join(shown)}" if shown else "")
