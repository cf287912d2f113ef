"""Writes a document into a folder, in all its forms."""

from __future__ import annotations

from pathlib import Path

from patchcore.files import write_atomic
from patchcore.types import PathLike
from patchcore.views.document.blocks import Document, Drawing, Picture
from patchcore.views.document.html import document_html
from patchcore.views.document.text import document_markdown, table_csv, table_latex

__all__ = ["write_document"]


def write_document(document: Document, folder: PathLike, name: str = "report") -> Path:
    """Write a document: ``NAME.html``, ``NAME.md``, and its tables and drawings as CSV, LaTeX, SVG and PNG.

    Args:
        document: The document.
        folder: The folder; it is created.
        name: Name of the page.

    Returns:
        The HTML page. It needs none of the other files, and is written last.

    Raises:
        OSError: A file cannot be written.
    """
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    for table in document.tables:
        write_atomic(out / f"{table.name}.csv", table_csv(table))
        if not table.hidden:
            write_atomic(out / f"{table.name}.tex", table_latex(table))
    for block in document.blocks:
        if isinstance(block, Drawing):
            # As a file it has no page: dark marks on white.
            write_atomic(
                out / f"{block.name}.svg", block.svg.replace("<svg ", '<svg style="background:#fff;color:#222" ', 1)
            )
        elif isinstance(block, Picture):
            write_atomic(out / f"{block.name}.png", block.png)
    write_atomic(out / f"{name}.md", document_markdown(document))
    page = out / f"{name}.html"
    write_atomic(page, document_html(document))
    return page
