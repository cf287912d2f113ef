"""What a recognised data set is: its layout, with the files of each case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from patchcore.volumes.volume import Volume

__all__ = ["CaseFiles", "Layout"]


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case, and what is wrong with them as a pair.

    Attributes:
        case_id: Unique within the data set.
        image: The CT; None where there is none.
        label: The label map; for a case without one, where it was looked for.
        problem: Why the case cannot be used, None where nothing is wrong.
        remedy: What to do about `problem`.
        patient: Whose case it is, where the data set says so.
        split: ``train``, ``test`` or empty.
        columns: Other columns of a manifest.
    """

    case_id: str
    image: Volume | None
    label: Volume
    problem: str | None = None
    remedy: str | None = None
    patient: str | None = None
    split: str = ""
    columns: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class Layout:
    """A recognised data set.

    Attributes:
        name: One of :data:`patchcore.datasets.layouts.LAYOUTS`.
        reason: Why it was recognised as that.
        cases: In case_id order, those with a problem included.
        images: Folder of the images, None where there is not one such folder.
        labels: Folder of the label maps, likewise.
        label_names: Names of labels that the data set or its layout declares; empty where none are.
        override: What to say on the command line if this was recognised wrongly.
        looked_at: Every folder whose entries decided what the cases are, and every file read for it
            (``dataset.json``, a manifest): while these are unchanged, so is the list of cases.
    """

    name: str
    reason: str
    cases: tuple[CaseFiles, ...]
    images: Path | None = None
    labels: Path | None = None
    label_names: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))
    override: str = ""
    looked_at: tuple[Path, ...] = ()
