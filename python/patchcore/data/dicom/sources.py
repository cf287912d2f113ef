"""Which DICOM files make up one volume: kept as a small JSON index beside the study, so that a path stays a path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from patchcore.types import PathLike

__all__ = ["INDEX_SUFFIX", "DicomSource", "is_index"]

INDEX_SUFFIX = ".dicom.json"


@dataclass(frozen=True)
class DicomSource:
    """The files of one CT series, SEG or RTSTRUCT."""

    kind: Literal["ct", "seg", "rtstruct"]
    files: tuple[Path, ...]
    details: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


def is_index(path: PathLike) -> bool:
    """Return whether a path is the index of a DICOM volume rather than a NIfTI file."""
    return Path(path).name.endswith(INDEX_SUFFIX)
