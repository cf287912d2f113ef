"""A document as Markdown, and its tables as CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import math
import re
from typing import Any

from patchcore.views.document.blocks import Bullets, Document, Drawing, Heading, Paragraph, Picture, Table

__all__ = ["document_markdown", "table_csv", "table_latex"]

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "×": r"$\times$", "→": r"$\rightarrow$",
    "≥": r"$\geq$", "≤": r"$\leq$", "²": r"$^2$", "³": r"$^3$", "−": r"$-$", "±": r"$\pm$",
}  # fmt: skip


def document_markdown(document: Document) -> str:
    """Return the document as Markdown. Drawings are files beside it, ``NAME.svg``; pictures are ``NAME.png``.

    Example:
        >>> print(document_markdown(Document("Sizes", "", (Heading("One"), Paragraph("text")))))
        # Sizes
        <BLANKLINE>
        ## One
        <BLANKLINE>
        text
        <BLANKLINE>
    """
    parts = [f"# {_plain(document.title)}"] + ([_plain(document.lead)] if document.lead else [])
    for block in document.blocks:
        if isinstance(block, Heading):
            parts.append(f"## {_plain(block.text)}")
        elif isinstance(block, Paragraph):
            parts.append(f"**{_plain(block.text)}**" if block.strong else _plain(block.text))
        elif isinstance(block, Bullets):
            parts.append("\n".join(f"- {_plain(item)}" for item in block.items))
        elif isinstance(block, Drawing | Picture):
            ending = "svg" if isinstance(block, Drawing) else "png"
            parts.append(f"![{_plain(block.title)}]({block.name}.{ending})")
        elif block.hidden:
            parts.append(f"{_plain(block.title)}: [{block.name}.csv]({block.name}.csv)")
        else:
            parts += [f"{_plain(block.title)} ([{block.name}.csv]({block.name}.csv)):", _rows(block)]
            parts += [_plain(block.note)] if block.note else []
    return "\n\n".join(parts) + "\n"


def table_csv(table: Table) -> str:
    """Return a table as CSV, with all digits; empty cells where a value is missing or not a number."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.keys)
    writer.writerows([_cell(row.get(key)) for key in table.keys] for row in table.rows)
    return text.getvalue()


def table_latex(table: Table) -> str:
    r"""Return a table as LaTeX (package booktabs).

    Example:
        >>> from patchcore.views.document.blocks import Column
        >>> print(table_latex(Table("t", "DSC", (Column("a", "50 %"),), ({"a": 1},))))
        % DSC
        \begin{tabular}{l}
        \toprule
        50 \% \\
        \midrule
        1 \\
        \bottomrule
        \end{tabular}
        <BLANKLINE>
    """
    lines = [
        f"% {table.title}",
        rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
        r"\toprule",
        " & ".join(_latex(column.heading) for column in table.columns) + r" \\",
        r"\midrule",
    ]
    for number, row in enumerate(table.rows):
        cells = [_latex(column.text(row)) for column in table.columns]
        if number in table.marked:
            cells = [rf"\textbf{{{cell}}}" for cell in cells]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _rows(table: Table) -> str:
    lines = [" | ".join(_plain(column.heading) for column in table.columns)]
    lines.append("|".join(["---"] + ["---:"] * (len(table.columns) - 1)))
    for number, row in enumerate(table.rows):
        cells = [_plain(column.text(row)) for column in table.columns]
        lines.append(" | ".join(f"**{cell}**" for cell in cells) if number in table.marked else " | ".join(cells))
    return "\n".join(f"| {line} |" if "---" not in line else f"|{line}|" for line in lines)


def _plain(text: str) -> str:
    """Return text without meaning in Markdown: it may come from a file."""
    return re.sub(r"([\\`*_<>\[\]|#])", r"\\\1", text.replace("\n", " "))


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, float) else str(value)
