"""Base class of the plot widgets, which are drawn cell by cell.

A drawing is computed once per change of the data, the size or the theme.
"""

from __future__ import annotations

from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip
from textual.widget import Widget

__all__ = ["Cell", "Drawing", "put"]

# A character and the component class that sets its colour. An empty name means the colour of the widget.
Cell = tuple[str, str]


class Drawing(Widget):
    """Base class of the plots. A subclass turns its data into rows of cells."""

    _strips: list[Strip] | None = None

    def draw(self, width: int, height: int) -> list[list[Cell]]:
        """Return `height` rows of `width` cells."""
        raise NotImplementedError

    def redraw(self) -> None:
        """Discard the current drawing, because the data have changed."""
        self._strips = None
        self.refresh()

    def notify_style_update(self) -> None:
        """Redraw with the colours of the new theme."""
        self._strips = None
        super().notify_style_update()

    def render_line(self, y: int) -> Strip:
        """Return one line of the drawing."""
        width, height = self.size
        strips = self._strips
        if strips is None or len(strips) != height or (strips and strips[0].cell_length != width):
            styles = {name: self.get_component_rich_style(name) for name in type(self)._get_component_classes()}
            strips = [_strip(row, styles, self.rich_style) for row in self.draw(width, height)]
            self._strips = strips
        return strips[y] if y < len(strips) else Strip.blank(width, self.rich_style)


def put(row: list[Cell], at: int, text: str, component: str) -> int:
    """Write `text` into a row from position `at`, cut at both ends of the row. Return the position after the text."""
    for offset, char in enumerate(text):
        if 0 <= at + offset < len(row):
            row[at + offset] = (char, component)
    return at + len(text)


def _strip(row: list[Cell], styles: dict[str, Style], base: Style) -> Strip:
    segments: list[Segment] = []
    start = 0
    for end in range(1, len(row) + 1):
        if end == len(row) or row[end][1] != row[start][1]:
            text = "".join(char for char, _ in row[start:end])
            segments.append(Segment(text, styles.get(row[start][1], base)))
            start = end
    return Strip(segments, len(row))
