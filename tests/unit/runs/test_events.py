from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchcore.runs.events import MAX_LINE_BYTES, Event, decode_event, encode_event, plain, val_dsc_bin, val_dsc_class

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
events = st.builds(
    Event,
    kind=st.sampled_from(["metric", "state", "of a later version"]),
    seq=st.integers(0, 2**40),
    t=st.floats(0, 2**40),
    mono=st.floats(0, 2**40),
    step=st.none() | st.integers(0, 2**40),
    epoch=st.none() | st.integers(0, 2**20),
    data=st.dictionaries(st.text(min_size=1).map("x-".__add__), json_values, max_size=6),
)


@given(events)
def test_an_event_survives_but_for_what_json_has_not(event: Event) -> None:
    line = encode_event(event)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    decoded = decode_event(line)
    assert (
        decoded.data == json.loads(json.dumps(plain(event.data)).encode("utf-8", "replace"))
        or "truncated" in decoded.data
    )
    assert (decoded.kind, decoded.seq, decoded.t, decoded.step) == (
        event.kind,
        event.seq,
        event.t,
        event.step,
    )


@given(events, st.integers(0, 30_000), st.integers(0, 400))
def test_a_line_is_shorter_than_a_page(event: Event, length: int, count: int) -> None:
    data = {**event.data, "text": "ä" * length, **{f"n{i}": 1 / 3 for i in range(count)}}
    line = encode_event(Event(event.kind, event.seq, event.t, event.mono, event.step, event.epoch, data))
    assert len(line) < MAX_LINE_BYTES
    assert decode_event(line).seq == event.seq


def test_a_long_text_is_shortened_and_numbers_stay() -> None:
    event = Event("alert", 1, 0.0, 0.0, 5, 0, {"message": "x" * 9000, "values": {"lr": 1e-4}})
    decoded = decode_event(encode_event(event))
    assert decoded.data["message"].endswith("…")
    assert len(decoded.data["message"]) > 500
    assert decoded.data["values"] == {"lr": 1e-4}
    assert decoded.data["truncated"] is True


def test_non_finite_numbers_become_null() -> None:
    values = {"a": math.nan, "b": math.inf, "c": np.float32("nan"), "d": np.float32(0.5), "e": np.int64(3)}
    line = encode_event(Event("metric", 0, 0.0, 0.0, 1, 0, {"values": values}))
    assert b"NaN" not in line
    assert b"Infinity" not in line
    assert decode_event(line).data["values"] == {"a": None, "b": None, "c": None, "d": 0.5, "e": 3}


def test_what_is_not_json_is_reported_as_text() -> None:
    assert plain({"path": Path("a/b"), "set": {1}, 2: np.arange(2)}) == {
        "path": "a/b",
        "set": [1],
        "2": [0, 1],
    }
    line = encode_event(Event("alert", 0, 0.0, 0.0, data={"message": "undecodable \udc80 name"}))
    assert decode_event(line).data["message"] == "undecodable ? name"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"seq":1,"t":0,"mono":0}',
        b'{"kind":"metric","seq":-1,"t":0,"mono":0}',
        b'{"kind":"metric","seq":true,"t":0,"mono":0}',
        b'{"kind":"metric","seq":1,"t":0,"mono":0,"step":"3"}',
        b'{"kind":"metric","seq":1,"t":NaN,"mono":0}',
        b'{"kind":"metric","seq":1,"t":0,"mono":0,"values":{"lr":NaN}}',
        b'{"kind":"metric","seq":1,"t":null,"mono":0}',
        b"[" * 100_000,
    ],
)
def test_what_is_not_a_event_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_event(line)


def test_names_of_classes_and_bins() -> None:
    assert val_dsc_class(2) == "val/dsc/2"
    assert val_dsc_bin(0) == "val/dsc/bin/0"
