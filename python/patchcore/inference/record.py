"""Remembers which scans of a folder have been predicted, by which model and settings, so that a folder continues."""

from __future__ import annotations

import hashlib
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

    Each scan has an entry from the moment at which its outputs may be written: what was asked for and, when it is
    done, the files that were written. Outputs without an entry belong to somebody else.

    Args:
        folder: The output folder.
        settings: What decides the predictions: models, options, version. Entries of other settings do not count.
        asked: What is to be written for each scan, e.g. ``tables``.
        enabled: Whether there is a record; a single scan needs none.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], asked: Sequence[str], *, enabled: bool = True
    ) -> None:
        self._path = folder / RECORD_FILE if enabled else None
        self._settings = json.loads(json.dumps(settings))
        self._asked = sorted(asked)
        self._scans: dict[str, Any] = {}
        if self._path is None:
            return
        # A record that cannot be read says nothing: the scans are not done.
        with suppress(PatchcoreError, OSError, KeyError, TypeError, AttributeError, ValueError):
            found = read_json(self._path, schema=_SCHEMA)
            if found["settings"] == self._settings:
                self._scans = {name: entry for name, entry in found["scans"].items() if isinstance(entry, dict)}

    def is_done(self, scan: ScanInput) -> bool:
        """Whether all that is asked for was written for this scan, which has not changed since, and is still there."""
        entry = self._scans.get(scan.stem, {})
        files = entry.get("files")
        return (
            self._path is not None
            and isinstance(files, list)
            and entry.get("source") == _stamp(scan)
            and set(self._asked) <= set(entry.get("asked", ()))
            and all((self._path.parent / str(name)).exists() for name in files)
        )

    def may_replace(self, scan: ScanInput) -> bool:
        """Whether the outputs of this scan are ours: unfinished ones, or those of the same scan and settings."""
        entry = self._scans.get(scan.stem)
        return entry is not None and (entry.get("files") is None or entry.get("source") == _stamp(scan))

    def begin(self, scans: Sequence[ScanInput]) -> None:
        """Write down that the outputs of these scans may be written from now on.

        Raises:
            OSError: The record cannot be written.
        """
        for scan in scans:
            self._scans[scan.stem] = {"source": _stamp(scan), "asked": self._asked, "files": None}
        self._write()

    def add(self, scan: ScanInput, files: Sequence[Path]) -> None:
        """Write down that a scan is done.

        Raises:
            OSError: The record cannot be written.
        """
        names = [file.name for file in files]
        self._scans[scan.stem] = {"source": _stamp(scan), "asked": self._asked, "files": names}
        self._write()

    def _write(self) -> None:
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        value = {"schema_version": _SCHEMA, "settings": self._settings, "scans": self._scans}
        write_json_atomic(self._path, value)


def _stamp(scan: ScanInput) -> Any:
    """Return what changes with a scan: sizes and times of its files; of DICOM, the slices instead of the times.

    The files of a zip are unpacked at each call, so their times change without a change of the scan.
    """
    try:
        stats = [file.stat() for file in scan.files] if scan.volume is not None else []
    except OSError:
        return None  # the scan fails when it is read
    if scan.slices is None:
        return [[stat.st_size, stat.st_mtime_ns] for stat in stats]
    digest = hashlib.sha256(json.dumps([scan.slices, [stat.st_size for stat in stats]]).encode())
    return digest.hexdigest()
