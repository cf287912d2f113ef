from __future__ import annotations

import errno
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from patchcore.errors import LockedError, RunError
from patchcore.runs import RunReader, RunWriter, new_run, read_cases
from patchcore.runs import telemetry as telemetry_module
from patchcore.runs.events import decode_event
from patchcore.runs.paths import read_object
from patchcore.runs.telemetry import LineFile, Telemetry


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = new_run(tmp_path, kind="train", config={"a": 1}, plan={}, seed=0, slug="x", argv=[])
    (path / "attempts" / "1").mkdir()
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_what_a_writer_reports_a_reader_knows(run: Path) -> None:
    with RunWriter(run, 1, versions={"torch": "x"}, threads=2, heartbeat_s=0.01) as writer:
        writer.progress(total_steps=20, eta_s=12.5, phase="train")
        writer.state("running")
        writer.metric(1, 0, {"train/loss": 0.5, "lr": float("nan")})
        writer.metric(2, 0, {"train/loss": 0.25, "lr": 1e-3})
        writer.case("v1", {"case_id": "b", "dsc": 0.75, "lesions": [{"volume_mm3": 1.0}] * 900}, step=2)
        writer.case("v1", {"case_id": "a", "dsc": float("nan")}, step=2)
        writer.validation(2, 0, "v1", {"val/dsc_mean": 0.75}, n_cases=2)
        writer.checkpoint(2, "best", run / "checkpoints" / "best")
        writer.alert("warning", "a [bold]message", "do something")
        assert writer.flush()
        while (read_object(run / "status.json") or {}).get("step") != 2:  # wait for the next snapshot
            time.sleep(0.01)
        view = RunReader(run).poll()
    assert view.series["train/loss"].values.tolist() == [0.5, 0.25]
    assert view.series["train/loss"].steps.tolist() == [1, 2]
    assert view.last("lr") == 1e-3
    assert (view.step, view.total_steps, view.epoch) == (2, 20, 0)
    best = view.best_validation
    assert best is not None
    assert (best.dsc_mean, best.n_cases, best.subset) == (0.75, 2, "all")
    assert view.checkpoints[0].path == "checkpoints/best"
    assert view.alerts[0].message == "a [bold]message"
    assert [case["case_id"] for case in read_cases(run, "v1")] == ["a", "b"]
    assert len(read_cases(run, "v1")[1]["lesions"]) == 900
    assert max(map(len, (run / "attempts/1/events.jsonl").read_bytes().splitlines(keepends=True))) < 4096
    assert lines(run / "attempts/1/events.jsonl")[2]["seq"] == 2
    start = json.loads((run / "attempts/1/start.json").read_text(encoding="utf-8"))
    assert (start["resumed_from_step"], start["threads"], start["trainer"]["pid"]) == (0, 2, os.getpid())
    status = json.loads((run / "status.json").read_text(encoding="utf-8"))
    assert (status["by"], status["step"], status["best"]["dsc_mean"]) == ("trainer", 2, 0.75)


def test_many_metrics_are_reported_in_several_lines(run: Path) -> None:
    values = {f"val/dsc/{label}": label / 1000 for label in range(300)}
    with RunWriter(run, 1) as writer:
        writer.metric(1, 0, values)
    recorded = [value for event in lines(run / "attempts/1/events.jsonl") for value in event["values"].items()]
    assert dict(recorded) == values


def test_two_writers_on_one_run(run: Path) -> None:
    with RunWriter(run, 1), pytest.raises(LockedError, match="trainer's lock"):
        RunWriter(run, 1)
    with RunWriter(run, 1):
        pass


def test_a_writer_without_its_attempt_or_folder(run: Path) -> None:
    with pytest.raises(RunError, match="no attempt 2"):
        RunWriter(run, 2)
    (run / "attempts" / "3").mkdir()
    (run / "attempts" / "3" / "events.jsonl").mkdir()
    with pytest.raises(OSError, match=r"events\.jsonl"):
        RunWriter(run, 3)
    with pytest.raises(RunError, match="attempt 1 is over: attempt 3 has begun"):
        RunWriter(run, 1)
    (run / "attempts" / "3" / "events.jsonl").rmdir()
    with RunWriter(run, 3):  # the lock was released
        pass


def test_an_exception_is_reported_as_failed(run: Path) -> None:
    def fail() -> None:
        with RunWriter(run, 1) as writer:
            writer.state("running")
            raise RuntimeError("the reason")

    with pytest.raises(RuntimeError, match="the reason"):
        fail()
    last = lines(run / "attempts/1/events.jsonl")[-1]
    assert (last["state"], last["reason"]) == ("failed", "RuntimeError: the reason")


def test_a_closed_writer_and_bad_arguments_are_refused(run: Path) -> None:
    writer = RunWriter(run, 1)
    with pytest.raises(ValueError, match="validation id"):
        writer.case("../x", {"case_id": "a"})
    with pytest.raises(ValueError, match="level"):
        writer.alert("loud", "x")
    with pytest.raises(ValueError, match="no state"):
        writer.state("no state")
    writer.close()
    writer.close()
    with pytest.raises(RunError, match="closed"):
        writer.metric(1, 0, {"lr": 1.0})


def test_a_redone_validation_replaces_the_cut_short_one(run: Path) -> None:
    with RunWriter(run, 1) as writer:
        writer.case("v1", {"case_id": "a", "dsc": 0.1}, step=1)
        writer.case("v1", {"case_id": "b", "dsc": 0.1}, step=1)
    (run / "attempts" / "2").mkdir()
    with RunWriter(run, 2, resumed_from_step=1) as writer:
        writer.case("v1", {"case_id": "a", "dsc": 0.2}, step=1)
        writer.case("v2", {"case_id": "a", "dsc": 0.3}, step=1)
        writer.case("v1", {"case_id": "c", "dsc": 0.4}, step=1)
    assert [(case["case_id"], case["dsc"]) for case in read_cases(run, "v1")] == [("a", 0.2), ("c", 0.4)]


class FullDisk:
    """Replaces ``os.write``: writes a part of a line, then nothing until there is space again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room_bytes: int) -> None:
        self.room_bytes = room_bytes
        self._write = os.write
        monkeypatch.setattr(telemetry_module.os, "write", self)

    def __call__(self, handle: int, data: bytes) -> int:
        if self.room_bytes <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        part = data[: self.room_bytes]
        self.room_bytes -= len(part)
        return self._write(handle, part)


def test_a_full_disk_costs_metrics_but_no_step_and_is_reported(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry_module, "_RETRY_S", 0.02)
    disk = FullDisk(monkeypatch, room_bytes=300)
    with RunWriter(run, 1, capacity=50) as writer:
        for step in range(1, 201):
            writer.metric(step, 0, {"train/loss": 1.0})
        writer.checkpoint(200, "last", run / "checkpoints" / "last")
        assert not writer.flush(timeout_s=0.1)
        disk.room_bytes = 10**6
        assert writer.flush(timeout_s=10)
        assert writer.dropped >= 100
    view = RunReader(run).poll()
    assert view.bad_lines == 1  # the incomplete line; it was written again completely
    assert [record.step for record in view.checkpoints] == [200]
    assert "No space left" in view.alerts[0].message
    seqs = [json.loads(line)["seq"] for line in _whole_lines(run / "attempts/1/events.jsonl")]
    assert seqs == sorted(set(seqs))
    assert view.series["train/loss"].steps.tolist() == sorted(set(view.series["train/loss"].steps.tolist()))


def _whole_lines(path: Path) -> list[bytes]:
    whole = []
    for line in path.read_bytes().splitlines():
        try:
            decode_event(line)
        except ValueError:
            continue
        whole.append(line)
    return whole


def test_closing_on_a_full_disk_ends(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry_module, "_RETRY_S", 0.02)
    FullDisk(monkeypatch, room_bytes=0)
    writer = RunWriter(run, 1)
    writer.state("running")
    writer.close(timeout_s=0.1)
    assert (run / "attempts/1/events.jsonl").read_bytes() == b""


def test_the_queue_drops_metrics_first(tmp_path: Path) -> None:
    gate = threading.Event()

    def slow() -> bytes:
        gate.wait()
        return b"first\n"

    queue = Telemetry(
        {"a": LineFile(tmp_path / "a")},
        lambda name: LineFile(tmp_path / name),
        on_recovery=lambda *_: None,
        capacity=3,
    )
    queue.put("a", slow, keep=True)
    while queue._items:  # wait until the thread has taken the first line
        time.sleep(0.001)
    for name in ("m1", "m2", "m3"):
        assert queue.put("a", lambda name=name: f"{name}\n".encode(), keep=False)
    assert not queue.put("a", lambda: b"m4\n", keep=False)
    for name in ("k1", "k2", "k3", "k4"):
        assert queue.put("a", lambda name=name: f"{name}\n".encode(), keep=True)
    gate.set()
    assert queue.close(5)
    assert (tmp_path / "a").read_text(encoding="utf-8").split() == ["first", "k1", "k2", "k3", "k4"]
    assert queue.dropped == 4


def test_a_line_never_grows_onto_a_torn_one(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b'{"torn')
    file = LineFile(path)
    file.write(b"{}\n")
    file.write(b"[]\n")
    file.close()
    assert path.read_bytes() == b'{"torn\n{}\n[]\n'


def test_a_validation_of_many_classes_keeps_every_value(run: Path) -> None:
    values = {"val/dsc_mean": 0.5, **{f"val/dsc/{label}": label / 1000 for label in range(1, 161)}}
    with RunWriter(run, 1) as writer:
        writer.validation(1, 0, "0000001", {"val/dsc_mean": 0.1}, n_cases=3)
        writer.validation(2, 0, "0000002", values, n_cases=3)
        writer.validation(3, 0, "0000003", {"val/dsc_mean": 0.2}, n_cases=3)
        writer.state("finished")
    assert all(len(line) < 4096 for line in (run / "attempts/1/events.jsonl").read_bytes().splitlines())
    view = RunReader(run).poll()
    assert [dict(validation.values) for validation in view.validations] == [
        {"val/dsc_mean": 0.1},
        values,
        {"val/dsc_mean": 0.2},
    ]
    assert view.series["val/dsc/160"].values.tolist() == [0.16]
