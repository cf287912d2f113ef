from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchcore.errors import RunError, StudyError
from patchcore.runs import RunReader, RunView, RunWriter, list_runs, new_run, resolve_run
from patchcore.runs.events import Event, encode_event


def make(study: Path, slug: str = "x") -> Path:
    return new_run(
        study, kind="train", config={}, plan={"patch_size": [8, 8, 8]}, seed=0, slug=slug, argv=["patchcore"]
    )


def metric(seq: int, step: int, value: float = 0.5, kind: str = "metric") -> bytes:
    return encode_event(Event(kind, seq, 1.0, 1.0, step, 0, {"values": {"train/loss": value}}))


def validation(seq: int, step: int, dsc: float, *, name: str | None = None, subset: str = "all") -> bytes:
    data = {
        "validation_id": name or f"v{step}",
        "n_cases": 3,
        "subset": subset,
        "values": {"val/dsc_mean": dsc},
    }
    return encode_event(Event("validation", seq, 1.0, 1.0, step, 0, data))


def attempt(run: Path, number: int, lines: Iterable[bytes], *, resumed_from_step: int | None = 0) -> Path:
    folder = run / "attempts" / str(number)
    folder.mkdir(exist_ok=True)
    (folder / "start.json").write_text(json.dumps({"attempt": number, "resumed_from_step": resumed_from_step}))
    (folder / "exit.json").write_text(json.dumps({"state": "stopped", "code": 75}))
    (folder / "events.jsonl").write_bytes(b"".join(lines))
    return folder / "events.jsonl"


def losses(view: RunView) -> list[float]:
    return view.series["train/loss"].steps.tolist() if "train/loss" in view.series else []


WHOLE = b"".join([*[metric(i, i + 1) for i in range(3)], validation(3, 3, 0.5), *[metric(i, i) for i in range(4, 7)]])


@pytest.fixture(scope="module")
def run_of_many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("study"))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, len(WHOLE)))
def test_any_truncation_is_a_prefix(run_of_many: Path, length: int) -> None:
    run = run_of_many
    path = attempt(run, 1, [WHOLE])
    whole = RunReader(run).poll()
    path.write_bytes(WHOLE[:length])
    reader = RunReader(run)
    view = reader.poll()
    assert view.bad_lines == 0
    assert losses(view) == losses(whole)[: len(losses(view))]
    assert list(view.validations) == list(whole.validations)[: len(view.validations)]
    path.write_bytes(WHOLE)  # the rest arrives
    again = reader.poll()
    assert losses(again) == losses(whole)
    assert again.validations == whole.validations


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 200), max_size=8), st.integers(1, 97))
def test_reading_in_steps_is_reading_at_once(run_of_many: Path, cuts: list[int], most_bytes: int) -> None:
    run = run_of_many
    path = attempt(run, 1, [])
    reader = RunReader(run)
    for end in [*sorted(cuts), len(WHOLE)]:
        path.write_bytes(WHOLE[:end]) if not path.exists() else _grow(path, WHOLE[:end])
        reader.poll(most_bytes=most_bytes)
    view = reader.poll(most_bytes=most_bytes)
    while view.behind:
        view = reader.poll(most_bytes=most_bytes)
    assert losses(view) == [1, 2, 3, 4, 5, 6]
    assert len(view.validations) == 1
    assert view.bad_lines == 0


def _grow(path: Path, to: bytes) -> None:
    with path.open("ab") as handle:
        handle.write(to[handle.tell() :])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=6))
def test_rubbish_is_counted_and_never_raises(run_of_many: Path, rubbish: list[bytes]) -> None:
    rubbish = [line.replace(b"\n", b" ") for line in rubbish]
    run = run_of_many
    attempt(run, 1, [metric(0, 1), *(line + b"\n" for line in rubbish), metric(1, 2)])
    view = RunReader(run).poll()
    assert losses(view) == [1, 2]
    assert view.bad_lines == len(rubbish)


def test_unknown_kinds_are_ignored_and_nan_is_nan(tmp_path: Path) -> None:
    run = make(tmp_path)
    attempt(run, 1, [metric(0, 1, kind="hologram"), metric(1, 2, float("nan")), metric(2, 3, 0.25)])
    view = RunReader(run).poll()
    assert view.bad_lines == 0
    np.testing.assert_array_equal(view.series["train/loss"].values, [np.nan, 0.25])
    assert view.last("train/loss") == 0.25


def test_fields_of_the_wrong_kind_are_bad_lines(tmp_path: Path) -> None:
    run = make(tmp_path)
    wrong = [Event(kind, i, 1.0, 1.0, 1, 0, {}) for i, kind in enumerate(["metric", "validation", "alert", "state"])]
    attempt(run, 1, [*map(encode_event, wrong), metric(9, 1)])
    view = RunReader(run).poll()
    assert view.bad_lines == 4
    assert losses(view) == [1]


@pytest.mark.parametrize("at_once", [True, False])
def test_a_later_attempt_replaces_what_it_records_again(tmp_path: Path, at_once: bool) -> None:
    run = make(tmp_path)
    reader = RunReader(run)
    attempt(run, 1, [*[metric(i, i, 1.0) for i in range(1, 10)], validation(10, 4, 0.4), validation(11, 8, 0.8)])
    if not at_once:
        assert losses(reader.poll())[-1] == 9
    attempt(run, 2, [], resumed_from_step=None)
    if not at_once:
        assert losses(reader.poll())[-1] == 9  # the second trainer has not started yet
    attempt(run, 2, [metric(0, 5, 2.0), metric(1, 6, 2.0)], resumed_from_step=5)
    if not at_once:
        assert losses(reader.poll()) == [1, 2, 3, 4, 5, 6]
    attempt(run, 3, [metric(0, 3, 3.0), validation(1, 3, 0.3)], resumed_from_step=3)
    view = reader.poll()
    assert losses(view) == [1, 2, 3]
    assert view.series["train/loss"].values.tolist() == [1.0, 1.0, 3.0]
    assert [(v.step, v.attempt) for v in view.validations] == [(3, 3)]
    assert (view.step, view.attempts) == (3, 3)


def test_a_view_is_not_changed_by_later_polls(tmp_path: Path) -> None:
    run = make(tmp_path)
    path = attempt(run, 1, [metric(i, i, 1.0) for i in range(60)])
    reader = RunReader(run)
    first = reader.poll()
    with path.open("ab") as handle:
        handle.writelines(metric(i, i, 2.0) for i in range(60, 400))
    second = reader.poll()
    attempt(run, 2, [], resumed_from_step=10)
    third = reader.poll()
    assert [len(losses(view)) for view in (first, second, third)] == [60, 400, 10]
    assert first.series["train/loss"].values.tolist() == [1.0] * 60
    assert second.revision > first.revision
    assert reader.poll().revision == third.revision
    with pytest.raises(ValueError, match="read-only"):
        first.series["train/loss"].values[0] = 0


def test_another_file_starts_over_without_doubles(tmp_path: Path) -> None:
    run = make(tmp_path)
    path = attempt(run, 1, [metric(i, i) for i in range(3)])
    reader = RunReader(run)
    assert losses(reader.poll()) == [0, 1, 2]
    other = path.with_name("other")
    other.write_bytes(b"".join(metric(i, i) for i in range(5)))
    other.replace(path)
    assert losses(reader.poll()) == [0, 1, 2, 3, 4]
    path.write_bytes(metric(4, 4) + metric(5, 5))  # smaller
    assert losses(reader.poll()) == [0, 1, 2, 3, 4, 5]


def test_the_best_validation_is_of_the_newest_ones_cases(tmp_path: Path) -> None:
    run = make(tmp_path)
    lines = [
        validation(0, 1, 0.9, subset="two cases"),
        validation(1, 2, 0.5),
        validation(2, 3, 0.7),
        validation(3, 4, float("nan")),
        validation(4, 5, 0.6),
        validation(5, 2, 0.65, name="v2"),
        validation(6, 6, 0.99, name="v6", subset="all, on request"),
        validation(7, 7, 0.99, name="v7", subset="fixed 1 of 2, on request"),
    ]
    attempt(run, 1, lines)
    view = RunReader(run).poll()
    assert view.best_validation is not None
    assert view.best_validation.step == 3
    assert [v.step for v in view.validations] == [1, 3, 4, 5, 2, 6, 7]


def test_a_validation_on_request_is_not_the_best(tmp_path: Path) -> None:
    run = make(tmp_path)
    (run / "attempts" / "1").mkdir(parents=True)
    with RunWriter(run, 1) as writer:
        for step, dsc, subset in ((1, 0.6, "fixed 3 of 10"), (2, 0.5, "fixed 3 of 10, on request"), (3, 0.7, "x")):
            writer.validation(
                step, 0, f"v{step}", {"val/dsc_mean": dsc}, n_cases=3, subset=subset, counts=subset == "fixed 3 of 10"
            )
    assert list_runs(tmp_path)[0].best_dsc_mean == 0.6


def test_at_most_four_mebibytes_a_poll(tmp_path: Path) -> None:
    run = make(tmp_path)
    line = metric(0, 1)
    attempt(run, 1, [line.replace(b'"seq":0', b'"seq":%d' % i) for i in range(50_000)])
    reader = RunReader(run)
    first = reader.poll()
    assert first.behind
    assert 0 < len(losses(first)) * len(line) <= 4 << 20
    view = first
    while view.behind:
        view = reader.poll()
    assert len(losses(view)) == 50_000


def test_an_endless_line_is_given_up(tmp_path: Path) -> None:
    run = make(tmp_path)
    path = attempt(run, 1, [metric(0, 1), b"x" * (3 << 20)])
    reader = RunReader(run)
    assert reader.poll().bad_lines == 1
    with path.open("ab") as handle:
        handle.write(b"x\n" + metric(1, 2))
    view = reader.poll()
    assert losses(view) == [1, 2]
    assert view.bad_lines == 1


def test_list_and_resolve(tmp_path: Path) -> None:
    assert list_runs(tmp_path) == []
    first, second = make(tmp_path, "Small Lesions!"), make(tmp_path, "b")
    (tmp_path / "runs" / ".hidden.tmp").mkdir()
    (tmp_path / "runs" / "no-run").mkdir()
    runs = {summary.run_id: summary for summary in list_runs(tmp_path)}
    assert set(runs) == {first.name, second.name}
    assert runs[first.name].state.state == "queued"
    assert runs[first.name].patch_size == (8, 8, 8)
    assert "-small-lesions-" in first.name
    assert resolve_run(tmp_path, first.name) == first
    assert resolve_run(tmp_path, first.name[-6:]) == first
    assert resolve_run(None, first) == first
    assert resolve_run(tmp_path, "latest") == max(first, second)
    with pytest.raises(StudyError, match="matches several runs"):
        resolve_run(tmp_path, "20")
    with pytest.raises(StudyError, match="no run 'zzz'"):
        resolve_run(tmp_path, "zzz")
    with pytest.raises(StudyError, match="not a run folder"):
        resolve_run(None, "zzz")


def test_run_json_is_whole_and_stays(tmp_path: Path) -> None:
    run = make(tmp_path)
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert (record["kind"], record["argv"], record["run_id"]) == ("train", ["patchcore"], run.name)
    assert not (run / "run.json").stat().st_mode & 0o222
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        make(tmp_path / "file")
    (run / "run.json").chmod(0o644)
    (run / "run.json").write_text('{"schema_version": 99}')
    with pytest.raises(RunError, match="schema version 99"):
        RunReader(run)
    (run / "run.json").write_text("{")
    with pytest.raises(RunError, match="damaged"):
        RunReader(run)
    assert list_runs(tmp_path)[0].kind == "unreadable"


def test_reading_runs_loads_neither_torch_nor_numpys_friends() -> None:
    code = (
        "import sys, patchcore.runs as r, patchcore.runs.events\n"
        "[getattr(r, name) for name in r.__all__]\n"
        "import patchcore.runs.supervisor\n"
        "print([m for m in ('torch', 'monai', 'textual', 'scipy', 'pandas', 'rich') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, encoding="utf-8")
    assert found.stdout.strip() == "[]"
