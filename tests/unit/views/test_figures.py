"""Figures: PNG and SVG files, written atomically, without display or global state."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import patchcore.views.figures.canvas
from fingerprints import build, measures
from patchcore.datasets.fingerprint import summarise_burden
from patchcore.errors import DataError, MissingExtraError, ShapeMismatchError
from patchcore.study import Study
from patchcore.study.fingerprint import Burden
from patchcore.views.figures import best_slice, burden_figure, contours_figure, lesion_volumes_figure, spacing_figure
from patchcore.views.figures.volumes import _Names
from patchcore.views.log_scale import log_bins, log_ticks
from patchcore.views.study_figures import draw_figures, figure_paths

image_module = pytest.importorskip("matplotlib.image")
SPACING = (1.0, 1.0, 2.5)


def pixels(path: Path) -> np.ndarray:
    assert path.read_bytes().startswith(b"\x89PNG")
    return (image_module.imread(path)[..., :3] * 255).astype(int)


def count(picture: np.ndarray, colour: str) -> int:
    """Return the number of pixels close to a colour."""
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int(np.count_nonzero(np.abs(picture - rgb).max(axis=-1) < 40))


def test_lesion_volumes_show_candidates_and_ideal_edge(tmp_path: Path) -> None:
    volumes = np.random.default_rng(0).lognormal(7, 1, 100)
    path = lesion_volumes_figure(volumes, (8, 12, (16, 16, 8)), SPACING, 9.5, tmp_path / "new" / "a.png", title="T")
    picture = pixels(path)
    assert picture.shape[0] > 300
    assert count(picture, "#c0392b") > 200
    without = pixels(lesion_volumes_figure(volumes, (8, 12), SPACING, None, tmp_path / "b.png"))
    assert count(without, "#c0392b") == 0
    assert count(picture, "#1f4e79") > count(without, "#1f4e79") > 100


def burden(count: int, *, patients: bool = False, seed: int = 0) -> Burden:
    rng = np.random.default_rng(seed)
    names = [f"c{number // (3 if patients else 1)}" for number in rng.integers(0, count, 4 * count)]
    made = summarise_burden(names, rng.lognormal(6, 2, 4 * count))
    assert made is not None
    return made


DRAWN: dict[str, Callable[[Path], Path]] = {
    "volumes": lambda path: lesion_volumes_figure([5.0, 900.0], (8, 12), SPACING, 3.0, path, title="$a <b> & \\frac"),
    "burden": lambda path: burden_figure(burden(40), burden(40, patients=True), path, title="$a <b> & \\frac"),
    "spacing": lambda path: spacing_figure([(0.7, 0.7, 5.0), (0.8, 0.8, 1.0)], path, title="$a <b> & \\frac"),
}


@pytest.mark.parametrize("name", DRAWN)
def test_same_numbers_same_bytes_as_png_and_svg(tmp_path: Path, name: str) -> None:
    first = DRAWN[name](tmp_path / "a" / "x.png")
    DRAWN[name](tmp_path / "b" / "x.png")
    assert first == tmp_path / "a" / "x.png"
    assert sorted(path.name for path in first.parent.iterdir()) == ["x.png", "x.svg"]
    for suffix in (".png", ".svg"):
        a, b = ((tmp_path / folder / "x.png").with_suffix(suffix).read_bytes() for folder in "ab")
        assert a == b
    assert pixels(first).shape[0] > 300


@pytest.mark.parametrize("name", DRAWN)
def test_svg_is_well_formed_undated_and_self_contained(tmp_path: Path, name: str) -> None:
    path = DRAWN[name](tmp_path / "x.png").with_suffix(".svg")
    root = ElementTree.parse(path).getroot()
    assert root.tag.endswith("svg")
    assert not [element for element in root.iter() if element.tag.endswith(("text", "image"))], "glyphs are outlines"
    text = path.read_text(encoding="utf-8")
    assert "dc:date" not in text
    assert "Matplotlib v" not in text


def test_only_known_formats_are_written(tmp_path: Path) -> None:
    path = lesion_volumes_figure([5.0], (8,), SPACING, None, tmp_path / "a.png", formats=("svg",))
    assert path == tmp_path / "a.svg"
    assert list(tmp_path.iterdir()) == [path]
    for formats in ((), ("pdf",)):
        with pytest.raises(DataError, match="png, svg or both"):
            spacing_figure([SPACING], tmp_path / "b.png", formats=formats)
    assert list(tmp_path.iterdir()) == [path]


def test_burden_shows_patients_only_where_they_differ(tmp_path: Path) -> None:
    cases, patients = burden(30), burden(30, patients=True)
    both = pixels(burden_figure(cases, patients, tmp_path / "a.png"))
    alone = pixels(burden_figure(cases, None, tmp_path / "b.png"))
    same = pixels(burden_figure(cases, cases, tmp_path / "c.png"))
    assert count(both, "#d98200") > 100 > count(alone, "#d98200")
    np.testing.assert_array_equal(alone, same)


@pytest.mark.parametrize("number", [1, 2, 9, 30, 5000])
def test_burden_of_few_and_many_cases(tmp_path: Path, number: int) -> None:
    path = burden_figure(burden(number), burden(number, patients=True, seed=1), tmp_path / "a.png")
    assert count(pixels(path), "#1f4e79") > 20
    assert path.with_suffix(".svg").stat().st_size < 300_000, "many points are thinned"


def test_spacing_shows_each_axis_and_refuses_what_is_none(tmp_path: Path) -> None:
    flat = pixels(spacing_figure([(1.0, 1.0, 1.0)] * 9, tmp_path / "a.png"))
    wide = pixels(spacing_figure([(0.5, 1.0, step) for step in (1.0, 2.0, 5.0)], tmp_path / "b.png"))
    assert count(wide, "#1f4e79") > count(flat, "#1f4e79") + 500
    for bad in ([], [(0.0, 1.0, 1.0)], [(float("nan"), 1.0, 1.0)]):
        with pytest.raises(DataError, match="positive"):
            spacing_figure(bad, tmp_path / "c.png")
    assert not (tmp_path / "c.png").exists()


@given(st.lists(st.floats(1e-4, 1e6), min_size=1, max_size=60), st.lists(st.floats(1e-3, 1e3), max_size=4))
def test_bins_hold_every_lesion_and_every_mark(values: list[float], marks: list[float]) -> None:
    volumes = np.array(values)
    edges = log_bins(volumes, marks)
    assert np.histogram(volumes, bins=edges)[0].sum() == len(values)
    assert all(edges[0] < mark < edges[-1] for mark in marks)
    assert all(high / low == pytest.approx(edges[1] / edges[0]) for low, high in pairwise(edges))
    assert 2 ** (1 / 3) - 1e-6 <= edges[1] / edges[0] <= 2 + 1e-6


@given(st.floats(-6, 6), st.floats(0.18, 11))
def test_every_log_axis_has_a_few_labels(start: float, decades: float) -> None:
    major, minor = log_ticks(10**start, 10 ** (start + decades))
    assert 1 <= len(major) <= 11
    assert not set(major) & set(minor)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.floats(1, 1000), st.sampled_from(["8", "24", "16 × 16 × 8"])), min_size=1, max_size=12))
def test_names_of_candidates_never_overlap(marks: list[tuple[float, str]]) -> None:
    names = _Names(0.5, 2000.0)
    for value, name in marks:
        names.place(value, name)
    for row in names.rows:
        assert all(first[1] <= second[0] for first, second in pairwise(sorted(row)))


def test_figures_of_a_study_are_drawn_where_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, fingerprint = Study.create(tmp_path / "study", tmp_path / "data"), build(measures("p1_a"), measures("p2_b"))
    names = [f"{name}.{kind}" for name in ("lesion_volumes", "burden", "spacing") for kind in ("png", "svg")]
    assert [path.name for path in draw_figures(study, fingerprint)] == names
    before = {path: path.stat().st_mtime_ns for path in figure_paths(study)}
    (study.figures_dir / "burden.svg").unlink()
    draw_figures(study, fingerprint, redraw=False)
    after = {path: path.stat().st_mtime_ns for path in figure_paths(study)}
    assert {path.name for path in after if after[path] != before[path]} == {"burden.png", "burden.svg"}

    without = fingerprint.model_copy(update={"lesion_label": None})
    assert [path.name for path in draw_figures(study, without)] == ["spacing.png", "spacing.svg"]

    def missing(*size: float) -> None:
        raise MissingExtraError("figures need matplotlib")

    monkeypatch.setattr(patchcore.views.figures.spacing, "new_figure", missing)
    assert draw_figures(study, without) == (), "an old figure with other numbers is deleted"


@pytest.mark.parametrize("volumes", [[1000.0], [7.0] * 5, [0.5, 1e7]])
def test_lesion_volumes_of_odd_cohorts(tmp_path: Path, volumes: list[float]) -> None:
    assert pixels(lesion_volumes_figure(volumes, (8, 24), SPACING, 40.0, tmp_path / "a.png")).size


@pytest.mark.parametrize("volumes", [[], [0.0], [float("nan")], [-1.0, 5.0]])
def test_impossible_volumes_leave_no_file(tmp_path: Path, volumes: list[float]) -> None:
    with pytest.raises(DataError):
        lesion_volumes_figure(volumes, (8,), SPACING, None, tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_best_slice() -> None:
    label = np.zeros((4, 4, 6), dtype=np.uint8)
    assert best_slice(label) == 3
    prediction = label.copy()
    prediction[0, 0, 5] = 2
    assert best_slice(label, prediction) == 5
    label[:2, :2, 1] = 1
    assert best_slice(label, prediction) == 1


def test_contours_outline_truth_and_prediction(tmp_path: Path) -> None:
    image = np.zeros((30, 40, 8), dtype=np.int16)
    label = np.zeros(image.shape, dtype=np.uint8)
    label[8:20, 10:30, 4] = 2
    prediction = np.roll(label, 3, axis=0)
    empty = np.zeros_like(label)
    both = pixels(contours_figure([(image, label, prediction, "a")], tmp_path / "a.png"))
    true_only = pixels(contours_figure([(image, label, None, "a")], tmp_path / "b.png"))
    neither = pixels(contours_figure([(image, empty, empty, "a")], tmp_path / "c.png"))
    assert count(both, "#ff5a4f") > count(true_only, "#ff5a4f")
    assert count(true_only, "#35d07f") > count(neither, "#35d07f")
    assert count(true_only, "#ff5a4f") == count(neither, "#ff5a4f")


def test_right_of_the_patient_is_on_the_left_and_anterior_is_up(tmp_path: Path) -> None:
    image = np.full((40, 40, 3), -1000, dtype=np.int16)
    # High indices along the RAS+ axes: right and anterior of the patient.
    image[30:, 30:, :] = 1000
    picture = pixels(contours_figure([(image, np.zeros_like(image), None, "")], tmp_path / "a.png"))
    dark = (picture.max(axis=-1) < 60).nonzero()
    top, bottom, left, right = dark[0].min(), dark[0].max(), dark[1].min(), dark[1].max()
    near = {
        (row, column): picture[y, x].mean() > 200
        for row, y in (("top", top + 15), ("bottom", bottom - 15))
        for column, x in (("left", left + 15), ("right", right - 15))
    }
    assert near == {
        ("top", "left"): True,
        ("top", "right"): False,
        ("bottom", "left"): False,
        ("bottom", "right"): False,
    }


def test_many_panels_with_their_own_spacings(tmp_path: Path) -> None:
    panels = [(np.zeros((8, 8, 8)), np.zeros((8, 8, 8), dtype=bool), None, str(i)) for i in range(5)]
    one = pixels(contours_figure(panels[:1], tmp_path / "1.png"))
    five = pixels(contours_figure(panels, tmp_path / "5.png", spacing=[(1.0, 1.0, 1.0)] * 5))
    assert five.shape[0] > 1.8 * one.shape[0]
    assert five.shape[1] > 3 * one.shape[1]
    with pytest.raises(DataError, match="2 spacings for 5 panels"):
        contours_figure(panels, tmp_path / "x.png", spacing=[(1.0, 1.0, 1.0)] * 2)
    with pytest.raises(DataError, match="no case"):
        contours_figure([], tmp_path / "x.png")
    with pytest.raises(ShapeMismatchError, match="case 7"):
        contours_figure([(np.zeros((8, 8, 8)), np.zeros((8, 8, 7)), None, "case 7")], tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()


def test_importing_figures_loads_no_matplotlib() -> None:
    code = "import sys, patchcore.views.figures; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.strip() == "False"
