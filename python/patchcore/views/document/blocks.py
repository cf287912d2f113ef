"""The parts of a document. A table holds raw values; each form of the document formats them in the same way."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Block", "Bullets", "Column", "Document", "Drawing", "Heading", "Paragraph", "Picture", "Table"]

_MISSING = "–"


@dataclass(frozen=True)
class Heading:
    """A heading of a section."""

    text: str


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of plain text. `strong`: it states a result."""

    text: str
    strong: bool = False


@dataclass(frozen=True)
class Bullets:
    """A list of plain texts."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        key: Key of the value in the rows.
        heading: Heading, with its unit.
        form: Format of a number, such as ``.3f``; empty: as it is.
        interval: Keys of the ends of its interval, shown in brackets behind the value.
        heat: Whether the background shows the size of the value.
    """

    key: str
    heading: str
    form: str = ""
    interval: tuple[str, str] | None = None
    heat: bool = False

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys that the column shows."""
        return (self.key, *(self.interval or ()))

    def text(self, row: Mapping[str, Any]) -> str:
        """Return the text of a cell."""
        shown = self._one(row.get(self.key))
        if self.interval is None or shown == _MISSING:
            return shown
        low, high = (self._one(row.get(key)) for key in self.interval)
        return shown if _MISSING in (low, high) else f"{shown} [{low}, {high}]"

    def _one(self, value: Any) -> str:
        if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
            return _MISSING
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, int | float) and self.form:
            return format(value, self.form)
        return str(value)


@dataclass(frozen=True)
class Table:
    """A table, which is also written as CSV with all digits, and as LaTeX.

    Attributes:
        name: Name of its files.
        title: What it shows.
        columns: The columns that people see.
        rows: The rows; keys without a column are in the CSV only.
        note: What a reader has to know.
        marked: Numbers of the rows that stand out.
        hidden: Whether the table is a file only: too long to be read on a page.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Mapping[str, Any], ...]
    note: str = ""
    marked: frozenset[int] = frozenset()
    hidden: bool = False

    @property
    def keys(self) -> tuple[str, ...]:
        """The columns of the CSV: those that are shown first, then the others in the order of the rows."""
        keys = dict.fromkeys(key for column in self.columns for key in column.keys)
        keys |= dict.fromkeys(key for row in self.rows for key in row)
        return tuple(keys)


@dataclass(frozen=True)
class Drawing:
    """An SVG drawing, and the table with its numbers."""

    name: str
    title: str
    svg: str
    table: str = ""


@dataclass(frozen=True)
class Picture:
    """A PNG image."""

    name: str
    title: str
    png: bytes


Block = Heading | Paragraph | Bullets | Table | Drawing | Picture


@dataclass(frozen=True)
class Document:
    """A document.

    Attributes:
        title: Its title.
        lead: The line under the title.
        blocks: Its parts, in order.
    """

    title: str
    lead: str
    blocks: tuple[Block, ...]

    @property
    def tables(self) -> tuple[Table, ...]:
        """Its tables."""
        return tuple(block for block in self.blocks if isinstance(block, Table))
