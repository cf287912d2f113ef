"""A document as one HTML page: no script, no other file; for large and small screens, light, dark, and paper."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterator
from html import escape

from patchcore.views.document.blocks import Block, Bullets, Document, Drawing, Heading, Paragraph, Picture, Table

__all__ = ["document_html"]

_STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--page:#fff;--soft:#5b6675;--line:#d5dae1;--mark:#eaf1fb;
--heat:0,114,178}
@media(prefers-color-scheme:dark){:root{--ink:#e4e8ee;--page:#14181f;--soft:#9aa5b4;--line:#333b47;--mark:#1d2a3d;
--heat:86,180,233}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.5rem 1rem 4rem;max-width:62rem;background:var(--page);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}
h1{font-size:1.6rem;line-height:1.25;margin:.2em 0}
h2{font-size:1.2rem;margin:2.2em 0 .5em;padding-top:.4em;border-top:1px solid var(--line)}
.lead,figcaption,caption,.note{color:var(--soft);font-size:.9rem}p{margin:.6em 0;max-width:48rem}
p.strong{font-weight:600}nav{margin:1em 0;font-size:.9rem;display:flex;flex-wrap:wrap;gap:.3em 1.1em}
a{color:inherit}figure{margin:1.2em 0;overflow-x:auto}
figure svg{width:100%;min-width:30rem;max-width:42rem;height:auto;display:block}
figure img{max-width:100%;height:auto}
.scroll{overflow-x:auto;margin:1.2em 0}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
caption{text-align:left;padding-bottom:.3em;white-space:nowrap}
th,td{padding:.28em .7em;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
th{font-weight:600;vertical-align:bottom;white-space:normal;min-width:4em}
th:first-child,td:first-child{text-align:left;padding-left:.2em}td.words{text-align:left;white-space:normal;min-width:12em}
tr.marked td{background:var(--mark);font-weight:600}
@media print{:root{color-scheme:light;--ink:#000;--page:#fff;--soft:#333;--line:#999;--mark:#eee;--heat:0,114,178}
body{max-width:none;padding:0;font-size:10.5pt}nav{display:none}h2{break-after:avoid}figure,tr{break-inside:avoid}
.scroll,figure{overflow:visible}
table{font-size:8.5pt}th,td{padding:.2em .4em;white-space:normal}caption{white-space:normal}}
"""


def document_html(document: Document) -> str:
    """Return the page. All text is escaped.

    Example:
        >>> page = document_html(Document("a < b", "", (Heading("One"), Paragraph("text"))))
        >>> "a &lt; b" in page, "<script" in page
        (True, False)
    """
    heads = [block.text for block in document.blocks if isinstance(block, Heading)]
    links = "".join(f'<a href="#{_anchor(text)}">{escape(text)}</a>' for text in heads)
    body = "\n".join(part for block in document.blocks for part in _block(block))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # An empty icon, so that a browser does not ask for one.
        f'<link rel="icon" href="data:,"><title>{escape(document.title)}</title><style>{_STYLE}</style></head>\n<body>'
        f'<h1>{escape(document.title)}</h1><p class="lead">{escape(document.lead)}</p><nav>{links}</nav>\n'
        f"{body}\n</body></html>\n"
    )


def _anchor(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _block(block: Block) -> Iterator[str]:
    if isinstance(block, Heading):
        yield f'<h2 id="{_anchor(block.text)}">{escape(block.text)}</h2>'
    elif isinstance(block, Paragraph):
        yield f"<p{' class=strong' if block.strong else ''}>{escape(block.text)}</p>"
    elif isinstance(block, Bullets):
        yield f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in block.items)}</ul>"
    elif isinstance(block, Drawing):
        source = f" (numbers: {block.table}.csv)" if block.table else ""
        yield f"<figure>{block.svg}<figcaption>{escape(block.title + source)}</figcaption></figure>"
    elif isinstance(block, Picture):
        data = base64.b64encode(block.png).decode("ascii")
        yield (
            f'<figure><img alt="{escape(block.title)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{escape(block.title)}</figcaption></figure>"
        )
    elif block.hidden:
        yield f'<p class="note">{escape(block.title)}: {escape(block.name)}.csv ({len(block.rows)} rows)</p>'
    else:
        yield _table(block)


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(column.heading)}</th>" for column in table.columns)
    ranges = {
        column.key: [row[column.key] for row in table.rows if _is_number(row.get(column.key))]
        for column in table.columns
        if column.heat
    }
    shared = [value for values in ranges.values() for value in values]
    body = []
    for number, row in enumerate(table.rows):
        cells = []
        for column in table.columns:
            text, attribute = column.text(row), ""
            value = row.get(column.key)
            if column.heat and _is_number(value) and max(shared) > min(shared):
                share = (value - min(shared)) / (max(shared) - min(shared))
                attribute = f' style="background:rgba(var(--heat),{0.05 + 0.45 * share:.2f})"'
            elif isinstance(value, str) and len(value) > 28:
                attribute = ' class="words"'
            cells.append(f"<td{attribute}>{escape(text)}</td>")
        mark = ' class="marked"' if number in table.marked else ""
        body.append(f"<tr{mark}>{''.join(cells)}</tr>")
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    caption = f"{table.title} ({table.name}.csv)"
    return (
        f'<div class="scroll"><table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>{note}"
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
