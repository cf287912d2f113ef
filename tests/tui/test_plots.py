from __future__ import annotations

import numpy as np
import pytest
from textual.app import App, ComposeResult

from patchcore.tui.histogram import Histogram, Mark
from patchcore.tui.plot import Curve, Plot


class Stage(App[None]):
    CSS = "Plot, Histogram { height: 1fr; }"

    def compose(self) -> ComposeResult:
        yield Plot("Loss", id="plot")
        yield Histogram(id="histogram")


def lines(widget: Plot | Histogram) -> list[str]:
    return [widget.render_line(y).text for y in range(widget.size.height)]


def curve(values: list[float], label: str = "training", markers: bool = False) -> Curve:
    return Curve(label, np.arange(float(len(values))), np.array(values), markers=markers)


async def test_a_curve_has_axes_a_legend_and_dots() -> None:
    async with Stage().run_test(size=(60, 40)) as pilot:
        plot = pilot.app.query_one(Plot)
        plot.show([curve([1.0, 0.5, 0.25, 0.125])])
        drawn = lines(plot)
        assert drawn[0].startswith("Loss  ━ training 0.125")
        assert drawn[1].startswith("1.0 ┤")
        assert "step" in drawn[-1]
        assert all(len(line) == 60 for line in drawn)
        braille = [line for line in drawn if any("\u2801" <= char <= "\u28ff" for char in line)]
        assert len(braille) > 8


@pytest.mark.parametrize("values", [[], [float("nan")] * 3])
async def test_without_values_it_says_so(values: list[float]) -> None:
    async with Stage().run_test(size=(60, 40)) as pilot:
        plot = pilot.app.query_one(Plot)
        plot.show([curve(values)])
        assert any("no values yet" in line for line in lines(plot))


@pytest.mark.parametrize("values", [[0.7], [float("nan"), 0.7], [0.7] * 5, [0.0] * 500])
async def test_one_point_and_constant_values_are_drawn(values: list[float]) -> None:
    async with Stage().run_test(size=(60, 40)) as pilot:
        plot = pilot.app.query_one(Plot)
        plot.show([curve(values)])
        text = "".join(lines(plot)[1:-2])
        assert any(char == "•" or "\u2801" <= char <= "\u28ff" for char in text)


@pytest.mark.parametrize("size", [(1, 1), (10, 4), (16, 6), (17, 9), (300, 80)])
async def test_any_size_is_filled_exactly(size: tuple[int, int]) -> None:
    async with Stage().run_test(size=(60, 40)) as pilot:
        plot, histogram = pilot.app.query_one(Plot), pilot.app.query_one(Histogram)
        plot.show([curve(list(np.random.default_rng(0).random(1000))), curve([0.5, 0.1], "other", True)])
        histogram.show(np.geomspace(1, 1e5, 50), [Mark("8", 512.0), Mark("12", 1728.0, chosen=True)])
        await pilot.resize_terminal(*size)
        await pilot.pause()
        for widget in (plot, histogram):
            assert all(len(line) == widget.size.width for line in lines(widget))


async def test_the_histogram_counts_every_lesion_and_marks_the_candidates() -> None:
    async with Stage().run_test(size=(100, 40)) as pilot:
        histogram = pilot.app.query_one(Histogram)
        histogram.show(
            np.array([100.0] * 30 + [5000.0] * 10 + [0.0, np.nan]),
            [Mark("8", 512.0), Mark("12", 1728.0, True)],
        )
        drawn = lines(histogram)
        assert "40 lesions" in drawn[-1]
        head = drawn[0].split()
        assert head == ["8", "12"]
        assert "┃" in drawn[2]
        assert "╎" in drawn[2]
        small, large = drawn[-4].index("█"), drawn[-4].rindex("█")
        assert small < drawn[0].index("8") < drawn[0].index("12") < large


@pytest.mark.parametrize("volumes", [[], [7.0], [7.0, 7.0], [1e-3, 1e9]])
async def test_odd_volumes_are_drawn(volumes: list[float]) -> None:
    async with Stage().run_test(size=(60, 40)) as pilot:
        histogram = pilot.app.query_one(Histogram)
        histogram.show(np.array(volumes), [])
        assert any(("█" in line) if volumes else ("no lesions" in line) for line in lines(histogram))
