from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import add_plan, attempt_in_process, fake_run, wait_until

from patchcore.tui.watcher import Snapshot, Watcher


@contextmanager
def watching(study: Path) -> Iterator[tuple[Watcher, list[Snapshot]]]:
    got: list[Snapshot] = []
    watcher = Watcher(study, got.append)
    thread = threading.Thread(target=watcher.watch)
    thread.start()
    try:
        yield watcher, got
    finally:
        watcher.stop()
        thread.join(5)
        assert not thread.is_alive()


def test_an_empty_study_is_reported_once(study: Path) -> None:
    with watching(study) as (_, got):
        wait_until(lambda: bool(got), "a first snapshot")
    assert len(got) == 1
    assert got[0].runs == ()
    assert got[0].run is None
    assert got[0].problem is None


def test_metrics_arrive_while_a_run_is_written(study: Path) -> None:
    add_plan(study)
    run = fake_run(study)
    with attempt_in_process(run) as writer, watching(study) as (_, got):
        writer.state("running")
        writer.metric(1, 0, {"train/loss": 0.5})
        wait_until(lambda: bool(got and got[-1].run and got[-1].run.last("train/loss") == 0.5), "the loss")
        writer.case("v1", {"case_id": "case_0", "dsc": 0.25}, step=1)
        writer.validation(1, 0, "v1", {"val/dsc_mean": 0.25}, n_cases=1)
        wait_until(lambda: bool(got[-1].cases), "the cases of the validation")
        assert got[-1].cases[0]["dsc"] == 0.25
        assert got[-1].runs[0].step == 1


def test_selecting_another_run_shows_it(study: Path) -> None:
    runs = [fake_run(study, slug=slug) for slug in ("one", "two")]
    with watching(study) as (watcher, got):
        for run in runs:
            watcher.select(run)
            wait_until(lambda run=run: bool(got and got[-1].run and got[-1].run.path == run), f"{run.name}")


def test_trouble_is_reported_and_watching_continues(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import patchcore.runs

    def fail(study: Path) -> list[object]:
        raise OSError("the file system went away")

    with monkeypatch.context() as patch, watching(study) as (watcher, got):
        patch.setattr(patchcore.runs, "list_runs", fail, raising=False)
        watcher.rescan()
        wait_until(lambda: bool(got and got[-1].problem), "the problem")
        assert "the file system went away" in (got[-1].problem or "")
        patch.undo()
        fake_run(study)
        watcher.rescan()
        wait_until(lambda: len(got[-1].runs) == 1, "the run after the trouble")


def test_a_damaged_run_is_not_shown_as_another(study: Path) -> None:
    good, bad = fake_run(study, slug="good"), fake_run(study, slug="bad")
    (bad / "run.json").chmod(0o644)
    (bad / "run.json").write_text("{", encoding="utf-8")
    with watching(study) as (watcher, got):
        watcher.select(good)
        wait_until(lambda: bool(got and got[-1].run), "the good run")
        watcher.select(bad)
        wait_until(lambda: got[-1].run is None, "nothing shown for the damaged run")
        assert got[-1].problem
        assert {run.kind for run in got[-1].runs} == {"train", "unreadable"}
