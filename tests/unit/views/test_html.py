"""HTML views for Jupyter: well-formed, self-contained, and text from files is escaped."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from fingerprints import build, measures
from patchcore.lesions.table import no_lesions
from patchcore.planning import plan_from_samples
from patchcore.planning.samples import CaseSample, LesionSample
from patchcore.study import Study

EVIL = "<script>alert('x')</script>&\"</td>"


def parse(html: str) -> ElementTree.Element:
    """Parse the view as XML. This fails on any unclosed tag and on any unescaped < or &."""
    return ElementTree.fromstring(f"<page>{html}</page>")


def text_of(html: str) -> str:
    return " ".join(parse(html).itertext())


def plan(*, label_name: str = "tumour", volumes: Any = (500.0, 4000.0, 900.0)) -> Any:
    cases = [CaseSample(f"p{i}", f"p{i}", (1.0, 1.0, 2.0), (96, 96, 60)) for i in range(len(volumes))]
    lesions = [LesionSample(f"p{i}", 2, v, (v ** (1 / 3),) * 3) for i, v in enumerate(volumes)]
    return plan_from_samples(cases, lesions, lesion_label=2, label_names={2: label_name}, hu_range=(-100.0, 200.0))


def test_a_fingerprint_shows_its_numbers() -> None:
    fingerprint = build(
        measures("p1_a", volume=2500.0), measures("p1_b", volume=500.0), measures("p2_a", volume=8000.0)
    )
    html = fingerprint._repr_html_()
    text = text_of(html)
    for expected in ("1 tumour", "3.67 mL", "2.5 mL", "8 mL", "lesions per patient", "Spacing (mm) z", "100%"):
        assert expected in text
    bars = [bar for bar in parse(html).iter() if bar.tag.endswith("rect")]
    counts = [int("".join(bar.itertext()).rpartition(" ")[2]) for bar in bars]
    assert sum(counts) == 3


def test_a_fingerprint_without_lesions_or_images_has_a_view() -> None:
    item = measures("p1_a", hu=False)
    empty = replace(item, lesions=no_lesions())
    html = build(empty)._repr_html_()
    assert "<svg" not in html
    assert "HU" not in text_of(html)


def test_a_plan_shows_candidates_rules_reason_and_warnings() -> None:
    made = plan()
    text = text_of(made._repr_html_())
    for candidate in made.target.candidates:
        assert f"{candidate.tokens:,}" in text
    for rule in made.target.rules:
        assert str(rule.rule) in text
    assert made.reason in text
    for warning in made.target.warnings:
        assert warning in text
    chosen = re.findall(r'<tr class="chosen"><td>→ ([^<]+)</td>', made._repr_html_())
    assert chosen == [str(made.patch_size[0])]


@pytest.mark.parametrize("where", ["dataset", "layout_reason", "grouping", "segments_note", "name"])
def test_text_from_files_is_escaped(where: str) -> None:
    fingerprint = build(measures())
    if where == "name":
        label = fingerprint.labels[0].model_copy(update={"name": EVIL})
        fingerprint = fingerprint.model_copy(update={"labels": (label,)})
    else:
        fingerprint = fingerprint.model_copy(update={where: EVIL})
    html = fingerprint._repr_html_()
    assert "<script" not in html
    assert EVIL in text_of(html)


def test_a_plan_escapes_the_label_name() -> None:
    html = plan(label_name=EVIL)._repr_html_()
    assert "<script" not in html
    assert EVIL in text_of(html)


def test_a_study_shows_what_there_is(tmp_path: Path) -> None:
    study = Study.create(tmp_path / "a <b>", tmp_path / "data")
    text = text_of(study._repr_html_())
    assert "a <b>" in text
    assert "no fingerprint yet" in text
    assert "no plan yet" in text
    study.write_fingerprint(build(measures()))
    study.write_plan(plan())
    text = text_of(study._repr_html_())
    assert "1 tumour" in text
    assert "Patch size" in text
    study.plan_path.write_text("{}")
    text = text_of(study._repr_html_())
    assert "1 tumour" in text
    assert "plan.json" in text


def test_every_row_has_a_cell_for_each_heading() -> None:
    for html in (build(measures(), measures("p1_b"))._repr_html_(), plan()._repr_html_()):
        for table in parse(html).iter("table"):
            lengths = {len(list(row)) for row in table.iter("tr")}
            assert len(lengths) == 1, "".join(table.itertext())


def test_nothing_is_loaded_from_elsewhere_and_ink_is_the_pages() -> None:
    for html in (build(measures())._repr_html_(), plan()._repr_html_()):
        page = parse(html)
        assert not re.search(r"url\(|src=|href=|@import|<script", html)
        for element in page.iter():
            if element.tag.endswith("text"):
                assert element.get("fill") == "currentColor"


def test_many_labels_and_lesions_stay_small() -> None:
    item = measures()
    count = 5000
    rows = replace(
        item.lesions.rows(np.zeros(count, np.int64)),
        label=np.arange(count) % 40 + 1,
        volume_mm3=np.random.default_rng(0).lognormal(5, 2, count),
    )
    html = build(replace(item, lesions=rows))._repr_html_()
    assert "and 20 more labels" in html
    assert len(html) < 40_000
