from __future__ import annotations

import doctest
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from patchcore.runs import RunState
from patchcore.tui import states, text, ticks
from patchcore.tui.states import state_content
from patchcore.tui.text import clock, number
from patchcore.views.terminal import plain


@pytest.mark.parametrize("module", [text, ticks])
def test_examples(module: object) -> None:
    found = doctest.testmod(module)  # type: ignore[arg-type]
    assert found.attempted > 0
    assert found.failed == 0


@given(st.text())
def test_plain_text_never_moves_the_cursor(value: str) -> None:
    assert plain(value).isprintable() or all(char.isprintable() or char == "\u3000" for char in plain(value).split())
    assert "\x1b" not in plain(value)
    assert "\n" not in plain(value)


def test_long_text_is_cut() -> None:
    assert plain("x" * 50, 10) == "x" * 10 + "…"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
def test_no_number_is_a_dash(value: float | None) -> None:
    assert number(value) == "–"
    assert clock(value) == "–"


@example(low=0.0, span=5e-324, intervals=1)
@example(low=-1.965586114228018e-22, span=1.1754943508222875e-38, intervals=3)
@given(low=st.floats(-1e9, 1e9), span=st.floats(0, 1e9), intervals=st.integers(1, 10))
def test_axis_holds_the_data(low: float, span: float, intervals: int) -> None:
    bottom, top, step = ticks.axis_range(low, low + span, intervals)
    slack = 1e-6 * step
    assert bottom <= low + slack
    assert top >= low + span - slack
    assert bottom < top
    marks = ticks.ticks(bottom, top, step)
    assert 2 <= len(marks) <= intervals + 4
    assert len(ticks.tick_labels(marks, step)) == len(marks)


def test_every_state_has_its_look() -> None:
    assert set(states._LOOK) == {state.value for state in RunState}
    for state in RunState:
        content = state_content(state)
        assert content.plain[2:] == state.value
        assert content.cell_length == len(content.plain)  # no glyph is wider than a cell
