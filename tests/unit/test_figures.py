"""Figures: PNGs of what was asked for, whole or not at all, without display or global state."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from patchcore.errors import DataError, ShapeMismatchError
from patchcore.figures import best_slice, contours_figure, lesion_volumes_figure

image_module = pytest.importorskip("matplotlib.image")
SPACING = (1.0, 1.0, 2.5)


def pixels(path: Path) -> np.ndarray:
    assert path.read_bytes().startswith(b"\x89PNG")
    return (image_module.imread(path)[..., :3] * 255).astype(int)


def count(picture: np.ndarray, colour: str) -> int:
    """Pixels near a colour."""
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


def test_same_numbers_same_bytes(tmp_path: Path) -> None:
    a, b = (lesion_volumes_figure([5.0, 900.0], (8,), SPACING, 3.0, tmp_path / n) for n in ("a.png", "b.png"))
    assert a.read_bytes() == b.read_bytes()


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
    # High indices of RAS+ axes: the patient's right front.
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
    code = "import sys, patchcore.figures; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
