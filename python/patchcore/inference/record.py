"""Remembers which scans of a folder have been predicted, by which model and settings, so that a folder continues."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from patchcore.errors import PatchcoreError
from patchcore.files import read_json, write_json_atomic
from patchcore.inference.scans import ScanInput

__all__ = ["RECORD_FILE", "PredictionRecord"]

RECORD_FILE: Final = "predictions.json"
_SCHEMA: Final = 1


class PredictionRecord:
    """``predictions.json`` of an output folder.

    Args:
        folder: The output folder.
        settings: What decides the predictions: models and options. Entries of other settings do not count.
        enabled: Whether there is a record; a single scan needs none.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, enabled: bool = True) -> None:
        self._path = folder / RECORD_FILE if enabled else None
        self._settings = json.loads(json.dumps(settings))
        self._scans: dict[str, Any] = {}
        if self._path is None:
            return
        # A record that cannot be read says nothing: the scans are not done.
        with suppress(PatchcoreError, OSError, KeyError, TypeError, AttributeError):
            found = read_json(self._path, schema=_SCHEMA)
            if found["settings"] == self._settings:
                self._scans = dict(found["scans"])

    def has(self, scan: ScanInput, files: Sequence[Path]) -> bool:
        """Whether a scan, which has not changed since, has been predicted with these files, which all exist."""
        known = self._scans.get(scan.stem)
        if not isinstance(known, dict) or known.get("source") != _stamp(scan):
            return False
        names = known.get("files")
        return isinstance(names, list) and all(file.name in names and file.exists() for file in files)

    def add(self, scan: ScanInput, files: Sequence[Path]) -> None:
        """Write down that a scan is done.

        Raises:
            OSError: The record cannot be written.
        """
        if self._path is None:
            return
        self._scans[scan.stem] = {"source": _stamp(scan), "files": [file.name for file in files]}
        value = {"schema_version": _SCHEMA, "settings": self._settings, "scans": self._scans}
        write_json_atomic(self._path, value)


def _stamp(scan: ScanInput) -> list[list[int]]:
    """Return size and time of each file of a scan; files of a zip have those of their unpacking, so only sizes."""
    stamps = []
    for file in scan.files:
        stat = file.stat()
        stamps.append([stat.st_size] if scan.slices is not None else [stat.st_size, stat.st_mtime_ns])
    return stamps
