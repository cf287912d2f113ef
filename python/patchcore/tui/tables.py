"""A table widget for text from files.

Cells are never interpreted as markup. The table is rebuilt only when its rows have changed.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text
from textual.widgets import DataTable

from patchcore.views.terminal import plain

__all__ = ["TextTable"]


class TextTable(DataTable[Text]):
    """Rows of text under headings.

    Args:
        id: The widget's id.
        show_cursor: Whether the current row is highlighted.
    """

    def __init__(self, *, id: str | None = None, show_cursor: bool = True) -> None:
        super().__init__(id=id, cursor_type="row", zebra_stripes=True, show_cursor=show_cursor)
        self._shown: tuple[Sequence[str], Sequence[Sequence[str]]] | None = None

    def show(self, headings: Sequence[str], rows: Sequence[Sequence[str]], *, numbers_from: int = 1) -> None:
        """Show these rows. Columns from index `numbers_from` on are aligned to the right. The cursor keeps its row."""
        if (headings, rows) == self._shown:
            return
        self._shown = (headings, rows)
        cursor = self.cursor_row
        self.clear(columns=True)
        self.add_columns(*(Text(plain(heading, 40)) for heading in headings))
        for row in rows:
            self.add_row(
                *(
                    Text(plain(cell, 300), justify="right" if at >= numbers_from else "left", no_wrap=True)
                    for at, cell in enumerate(row)
                )
            )
        if rows:
            self.move_cursor(row=min(cursor, len(rows) - 1))
