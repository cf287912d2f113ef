"""Result types of layout recognition: the layout of a data set and the files of each case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from patchcore.study.cases import Finding
from patchcore.volumes.volume import Volume

__all__ = ["CaseFiles", "IgnoredFile", "Layout"]


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case, and any problem with the pair of image and label map.

    Attributes:
        case_id: Case id, unique within the data set.
        image: The CT; None if there is no image.
        label: The label map; for a case without a label map, the expected path.
        problem: Why the case cannot be used; None if there is no problem.
        remedy: What to do about `problem`.
        patient: The patient, if the data set names one.
        split: The list that the case is from: ``train``, ``validation``, ``test``, or empty. Only ``test`` keeps a
            case out of training.
        columns: Other columns of a manifest.
        others: Other files that belong to the case, such as the second of two label maps.
    """

    case_id: str
    image: Volume | None
    label: Volume
    problem: str | None = None
    remedy: str | None = None
    patient: str | None = None
    split: str = ""
    columns: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    others: tuple[Path, ...] = ()


@dataclass(frozen=True)
class IgnoredFile:
    """A file that looks like a volume but belongs to no case, or an entry of a list that is no case, and the reason."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Layout:
    """A recognised data set.

    Attributes:
        name: One of :data:`patchcore.datasets.layouts.LAYOUTS`.
        reason: Why this layout was recognised.
        cases: All cases in case_id order, including cases with a problem.
        images: Folder of the images; None if they are not in a single folder.
        labels: Folder of the label maps; None if they are not in a single folder.
        label_names: Label names that the data set or its layout declares; empty if there are none.
        override: Command-line options to use if the layout was recognised wrongly.
        looked_at: Folders and files (``dataset.json``, a manifest) that determine the list of cases. If they are
            unchanged, the list of cases is unchanged.
        findings: Findings about the data set as a whole.
        ignored: Every file of the data set that looks like a volume but belongs to no case.
        used_count: Number of files that look like volumes and belong to cases.
    """

    name: str
    reason: str
    cases: tuple[CaseFiles, ...]
    images: Path | None = None
    labels: Path | None = None
    label_names: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))
    override: str = ""
    looked_at: tuple[Path, ...] = ()
    findings: tuple[Finding, ...] = ()
    ignored: tuple[IgnoredFile, ...] = ()
    used_count: int = 0
