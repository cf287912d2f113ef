"""Documents: headings, texts, tables and drawings, written once as HTML, Markdown, LaTeX and CSV."""

from patchcore.views.document.blocks import (
    Block,
    Bullets,
    Column,
    Document,
    Drawing,
    Heading,
    Paragraph,
    Picture,
    Table,
)
from patchcore.views.document.charts import Bar, Curve, Dot, dot_chart, line_chart, scatter_chart
from patchcore.views.document.files import write_document
from patchcore.views.document.html import document_html
from patchcore.views.document.pictures import small_png
from patchcore.views.document.text import document_markdown, table_csv, table_latex

__all__ = [
    "Bar",
    "Block",
    "Bullets",
    "Column",
    "Curve",
    "Document",
    "Dot",
    "Drawing",
    "Heading",
    "Paragraph",
    "Picture",
    "Table",
    "document_html",
    "document_markdown",
    "dot_chart",
    "line_chart",
    "scatter_chart",
    "small_png",
    "table_csv",
    "table_latex",
    "write_document",
]
