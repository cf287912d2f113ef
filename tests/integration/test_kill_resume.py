"""kill -9 at any time: the next attempt continues, all files stay readable, and the losses equal those of an
uninterrupted run."""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.process
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_training import begin_attempt
from trainer_process import finish, start, step_of, wait_for_step

from patchcore.runs import RunReader
from patchcore.runs.paths import RunPaths

SETTINGS = ("train.steps=40", "train.steps_per_epoch=4", "validation.every_epochs=2")


def check_readable(run: Path) -> None:
    from patchcore.models.checkpoint import find_checkpoint

    find_checkpoint(run / "checkpoints" / "last")
    find_checkpoint(run / "checkpoints" / "best")
    view = RunReader(run).poll()
    assert view.bad_lines == 0


def test_killed_and_resumed_equals_unbroken(
    make_run: Callable[..., Path], run_attempt: Callable[..., int], losses: Callable[[Path], dict[int, float]]
) -> None:
    unbroken, killed = make_run(*SETTINGS), make_run(*SETTINGS)
    assert run_attempt(unbroken) == 0
    for attempt, step in ((1, 7), (2, 21)):
        process = start(killed, attempt)
        wait_for_step(killed, process, step)
        process.kill()
        process.wait()
        check_readable(killed)
    finish(killed, 3)
    assert losses(killed) == losses(unbroken)
    assert sorted(losses(killed)) == list(range(1, 41))


def test_sigterm_keeps_the_last_step(make_run: Callable[..., Path], losses: Callable[[Path], dict[int, float]]) -> None:
    run = make_run("train.steps=100000", "train.steps_per_epoch=100000")
    process = start(run, 1)
    wait_for_step(run, process, 2)
    process.terminate()
    assert process.wait(timeout=60) == 75
    from patchcore.models.checkpoint import load_checkpoint

    assert load_checkpoint(run / "checkpoints" / "last").state["step"] == max(losses(run))


def test_epochs_of_a_resumed_run_are_as_long_as_before(
    make_run: Callable[..., Path], run_attempt: Callable[..., int]
) -> None:
    from patchcore.models.checkpoint import load_checkpoint

    run = make_run("train.steps=100000", "train.steps_per_epoch=0")
    process = start(run, 1)
    wait_for_step(run, process, 2)
    process.terminate()
    process.wait(timeout=60)
    last = run / "checkpoints" / "last"
    state = load_checkpoint(last).state
    assert state["epoch_steps"] == 2000
    for kept, expected in ((7, 7), (None, 50)):  # None: written before epochs were kept
        path = last.resolve() / "state.json"
        content = json.loads(path.read_text()) | {"epoch_steps": kept}
        path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))
        assert run_attempt(run, 2 if kept else 3, train={"steps": state["step"] + (1 if kept else 2)}) == 0
        assert load_checkpoint(last).state["epoch_steps"] == expected


def train_forked(run: str, attempt: int) -> None:
    from patchcore.training.trainer import train_attempt

    sys.exit(train_attempt(Path(run), attempt))


@pytest.mark.parametrize("kills", [6, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(3000)])])
def test_kills_at_random_instants(
    kills: int, make_run: Callable[..., Path], losses: Callable[[Path], dict[int, float]]
) -> None:
    # Forked from a server that has already imported torch, so that imports take no time.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["patchcore.training.trainer"])

    def start_forked(run: Path, attempt: int) -> multiprocessing.process.BaseProcess:
        begin_attempt(run, attempt)
        process = context.Process(target=train_forked, args=(str(run), attempt))
        process.start()
        return process

    def kill_at(run: Path, process: multiprocessing.process.BaseProcess, step: int, after_s: float) -> None:
        deadline = time.monotonic() + 120
        while step_of(run) < step:
            assert process.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(after_s)
        process.kill()
        process.join()

    # No attempt ends by itself, and with a checkpoint at every step many kills hit a checkpoint.
    settings = ("train.steps=1000000", "train.steps_per_epoch=1", "validation.every_epochs=5")
    killed, unbroken = make_run(*settings), make_run(*settings)
    generator = random.Random(0)
    last_step = 0
    for attempt in range(1, kills + 1):
        process = start_forked(killed, attempt)
        kill_at(killed, process, last_step + generator.randint(-2, 3), generator.uniform(0, 0.3))
        check_readable(killed)
        begin = RunPaths(killed).start(attempt)
        resumed_from = json.loads(begin.read_text(encoding="utf-8")).get("resumed_from_step")
        # At most one reported step is repeated.
        if resumed_from is not None and last_step:
            assert resumed_from >= last_step
        last_step = max(last_step, step_of(killed))
    found = losses(killed)
    kill_at(unbroken, start_forked(unbroken, 1), max(found), 0.0)
    expected = losses(unbroken)
    assert found == {step: expected[step] for step in found}
