"""Index of a DICOM volume: a small JSON file that lists the DICOM files of one volume.

With an index, one path identifies a volume, as with a NIfTI file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from patchcore.errors import HeaderError
from patchcore.files import read_json, write_atomic
from patchcore.types import PathLike

__all__ = ["INDEX_SUFFIX", "DicomSource", "Kind", "read_source", "write_source"]

INDEX_SUFFIX = ".dicom.json"
_SCHEMA = 1

Kind = Literal["ct", "seg", "rtstruct", "masks", "structures"]


@dataclass(frozen=True)
class DicomSource:
    """The files of one CT series, or of what labels it.

    Labels are SEGs, RTSTRUCTs, masks exported as CT series, or structures: one NIfTI mask each, beside a NIfTI image.

    Attributes:
        kind: Kind of the files.
        files: The files; for a CT, in slice order.
        details: JSON values. For a CT: ``series`` (its UID). For labels: ``labels`` (label number by label name),
            ``segments`` (label name by segment name), ``options`` (how segments are read), ``lesions`` (labels that
            cover all others), and for masks and structures ``names`` (of each file). For both: ``slices`` (SOP instance
            and frame of each slice of the CT; empty for labels without a CT), ``shape`` and ``affine`` of the grid, and
            ``notes`` (sentences that the user has to read).
    """

    kind: Kind
    files: tuple[Path, ...]
    details: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about what was found and decided for these files."""
        return tuple(self.details.get("notes", ()))


def read_source(path: PathLike) -> DicomSource:
    """Read an index.

    Raises:
        HeaderError: The file is not a valid index of DICOM files.
        SchemaVersionError: A newer patchcore wrote the index.
        OSError: The index cannot be read.
    """
    value = read_json(path, schema=_SCHEMA)
    kind, files, details = (value.get(name) for name in ("kind", "files", "details"))
    names = isinstance(files, list) and files and all(isinstance(name, str) for name in files)
    if kind not in get_args(Kind) or not names or not isinstance(details, dict):
        raise HeaderError("is not a valid index of DICOM files", path=path, remedy="run patchcore analyze again")
    return DicomSource(kind, tuple(Path(name) for name in files), MappingProxyType(details))


def write_source(source: DicomSource, path: Path) -> Path:
    """Write an index; a file that already has the same content is not changed.

    Raises:
        OSError: The index cannot be written.
    """
    value = {
        "schema_version": _SCHEMA,
        "kind": source.kind,
        "files": [str(file) for file in source.files],
        "details": dict(source.details),
    }
    text = json.dumps(value, indent=1) + "\n"
    try:
        same = path.read_text(encoding="utf-8") == text
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        same = False
    except UnicodeDecodeError:
        same = False
    if not same:
        write_atomic(path, text)
    return path
