"""Keeps the results of cases, so that a command that was interrupted continues with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from patchcore.files import json_lines
from patchcore.runs.telemetry import LineFile
from patchcore.study import CaseRecord

__all__ = ["RowLog"]


class _OfCase(Protocol):
    @property
    def case_id(self) -> str: ...


Row = TypeVar("Row", bound=_OfCase)


class RowLog(Generic[Row]):
    """Results of cases, one line each, written as they come. An interrupted command continues with them.

    Args:
        path: The file.
        key: What decides the results: run, checkpoint, settings. Results of another key are discarded.
        write: Makes JSON values of a result.
        read: Makes a result of them; KeyError, TypeError and ValueError say that they are not one.
    """

    def __init__(
        self, path: Path, key: Mapping[str, Any], *, write: Callable[[Row], Any], read: Callable[[Any], Row]
    ) -> None:
        self._path = path
        self._key = json.loads(json.dumps(key))
        self._write = write
        self._rows: dict[str, tuple[Any, Row]] = {}
        lines: list[bytes] = []
        with suppress(OSError, ValueError, IndexError):
            found = json_lines(path)
            lines = found[1:] if json.loads(found[0]) == self._key else []
        for line in lines:
            with suppress(ValueError, KeyError, TypeError):  # a line that was cut by a kill
                value = json.loads(line)
                self._rows[value["row"]["case_id"]] = (value["sources"], read(value["row"]))
        if not self._rows:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self._key) + "\n", encoding="utf-8")

    def find(self, record: CaseRecord) -> Row | None:
        """Return the result of a case whose files have not changed since it was computed."""
        sources, row = self._rows.get(record.case_id, (None, None))
        return row if row is not None and sources == record.sources() else None

    def add(self, record: CaseRecord, row: Row) -> None:
        """Write a result.

        Raises:
            OSError: The file cannot be written.
        """
        file = LineFile(self._path)  # a line that was cut by a kill does not spoil this one
        try:
            file.write(json.dumps({"sources": record.sources(), "row": self._write(row)}).encode() + b"\n")
        finally:
            file.close()

    def remove(self) -> None:
        """Remove the file: the command is complete."""
        with suppress(OSError):
            self._path.unlink()
