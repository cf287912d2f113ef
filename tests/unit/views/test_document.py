"""Documents: the same numbers as HTML, Markdown, LaTeX and CSV; nothing that comes from a file has a meaning."""

from __future__ import annotations

import csv
import io
import math
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from patchcore.views.document import (
    Bar,
    Bullets,
    Column,
    Curve,
    Document,
    Dot,
    Drawing,
    Heading,
    Paragraph,
    Picture,
    Table,
    document_html,
    document_markdown,
    dot_chart,
    line_chart,
    scatter_chart,
    small_png,
    table_csv,
    table_latex,
    write_document,
)

HOSTILE = "<script>alert(1)</script> | **x** & 50 %_#$ \\ [a](b)"
ROWS = (
    {"name": "patch 8", "dsc": 0.123456789, "low": 0.1, "high": 0.2, "extra": 7},
    {"name": HOSTILE, "dsc": math.nan, "low": math.nan, "high": math.nan, "extra": None},
    {"name": "alone", "dsc": 0.5, "low": math.nan, "high": math.nan, "extra": True},
)
TABLE = Table(
    "scores",
    "Scores",
    (Column("name", "name"), Column("dsc", "DSC [95 %]", ".3f", ("low", "high"), heat=True)),
    ROWS,
    note="A note.",
    marked=frozenset({0}),
)


def test_a_cell_has_its_value_and_interval() -> None:
    column = TABLE.columns[1]
    assert [column.text(row) for row in ROWS] == ["0.123 [0.100, 0.200]", "–", "0.500"]
    assert Column("a", "a").text({"a": False}) == "no"
    assert Column("a", "a", ",d").text({"a": 1234}) == "1,234"
    assert Column("a", "a").text({}) == "–"


def test_a_csv_has_all_digits_and_all_keys() -> None:
    rows = list(csv.reader(io.StringIO(table_csv(TABLE))))
    assert rows[0] == ["name", "dsc", "low", "high", "extra"]
    assert rows[1] == ["patch 8", "0.123456789", "0.1", "0.2", "7"]
    assert rows[2] == [HOSTILE, "", "", "", ""]
    assert rows[3][-1] == "true"


def test_latex_escapes_and_marks() -> None:
    text = table_latex(TABLE)
    assert r"\textbf{patch 8} & \textbf{0.123 [0.100, 0.200]} \\" in text
    assert r"\& 50 \%\_\#\$ \textbackslash{}" in text
    assert text.count(r"\\") == 4


def page() -> Document:
    charts = (
        Drawing(
            "dots", "Dots", dot_chart([Bar("a <b>", 0.5, 0.4, 0.6, marked=True), Bar("c", math.nan)], "DSC"), "scores"
        ),
        Drawing("lines", "Lines", line_chart([Curve("a", (0.0, 10.0), (0.1, 0.4))], "step", "DSC")),
        Drawing("points", "Points", scatter_chart([Dot("a", 1.0, 0.5, True), Dot("b", 2.0, 0.6, True)], "h", "DSC")),
    )
    hidden = Table("all", "All", (), ({"a": 1},), hidden=True)
    blocks = (Heading("Result"), Paragraph(HOSTILE, strong=True), Bullets(("one", HOSTILE)), TABLE, hidden, *charts)
    return Document(f"Sweep {HOSTILE}", "lead", (*blocks, Picture("worst", "Worst", b"\x89PNG")))


class Balanced(HTMLParser):
    """Collects tags, and checks that they are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.append(tag)
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("path", "line", "circle", "polyline"):
            return
        while self.open and self.open[-1] in ("path", "line", "circle", "polyline"):
            self.open.pop()
        assert self.open.pop() == tag


def test_a_page_is_whole_and_runs_nothing() -> None:
    text = document_html(page())
    reader = Balanced()
    reader.feed(text)
    assert reader.open == []
    assert "script" not in reader.seen
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")  # nothing is loaded from elsewhere
    assert 'href="#result"' in text
    assert 'id="result"' in text
    assert "<td>0.123 [0.100, 0.200]</td>" not in text  # the heat has a background
    assert ">0.123 [0.100, 0.200]</td>" in text
    assert "all.csv (1 rows)" in text
    assert "prefers-color-scheme:dark" in text
    assert "@media print" in text


def test_markdown_shows_the_same_numbers() -> None:
    text = document_markdown(page())
    assert "| **patch 8** | **0.123 \\[0.100, 0.200\\]** |" in text
    assert "<script>" not in text
    assert "![Dots](dots.svg)" in text
    assert "![Worst](worst.png)" in text
    assert "[all.csv](all.csv)" in text


@pytest.mark.parametrize("values", [[], [0.5], [0.0, 0.0], [-1.0, 1.0], [math.nan], [1e-6, 1e6]])
def test_charts_are_svg_for_any_values(values: list[float]) -> None:
    for svg in (
        dot_chart([Bar("x", value) for value in values], "t", zero=True),
        line_chart([Curve("x", tuple(values), tuple(values))], "x", "y"),
        scatter_chart([Dot("x", value, value) for value in values], "x", "y"),
    ):
        root = ElementTree.fromstring(svg)
        assert root.tag.endswith("svg")
        assert "nan" not in svg.lower().replace("known", "")


def test_dots_are_where_their_values_are() -> None:
    root = ElementTree.fromstring(dot_chart([Bar("a", 0.2), Bar("b", 0.6)], "DSC"))
    circles = [float(item.attrib["cx"]) for item in root.iter() if item.tag.endswith("circle")]
    ticks = {(item.text or ""): float(item.attrib["x"]) for item in root.iter() if item.tag.endswith("text")}
    assert circles == pytest.approx([ticks["0.2"], ticks["0.6"]], abs=0.1)


def test_everything_is_written(tmp_path: Path) -> None:
    found = write_document(page(), tmp_path / "report")
    names = {path.name for path in found.parent.iterdir()}
    assert names == {
        "report.html", "report.md", "scores.csv", "scores.tex", "all.csv", "dots.svg", "lines.svg", "points.svg",
        "worst.png",
    }  # fmt: skip
    assert "background:#fff" in (found.parent / "dots.svg").read_text(encoding="utf-8")


def test_a_large_picture_becomes_small(tmp_path: Path) -> None:
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 255, (900, 1600, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    assert small_png(tmp_path / "a.png", 10_000) is None
    data = small_png(tmp_path / "a.png", 2_000_000)
    assert data is not None
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.width <= 1000
    (tmp_path / "b.png").write_bytes(b"no picture")
    assert small_png(tmp_path / "b.png", 10_000) is None
