"""Two processes share each step: they learn the same as one process, can resume its run, and end together."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from tiny_training import PLAIN_SGD, ROUNDING
from trainer_process import finish, start, wait_for_step

from patchcore.runs import RunReader, RunView

MakeRun = Callable[..., Path]
RunAttempt = Callable[..., int]
Losses = Callable[[Path], dict[int, float]]

PLAIN = ("model.dropout=0", "train.batch_size=4")


def view_of(run: Path) -> RunView:
    return RunReader(run).poll()


def child_of(pid: int) -> psutil.Process:
    deadline = time.monotonic() + 60
    while not (children := psutil.Process(pid).children()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return children[0]


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param((), marks=pytest.mark.slow),
        ("loss.batch_dice=true", "train.accumulate=2", "model.deep_supervision=true"),
    ],
)
def test_two_ranks_learn_what_one_learns(
    extra: tuple[str, ...],
    make_run: MakeRun,
    run_attempt: RunAttempt,
    losses: Losses,
    gradients_agree: Callable[..., None],
) -> None:
    gradients_agree(extra, (*extra, "train.ranks=2"), lambda run: finish(run, 1))
    settings = (*PLAIN_SGD, "optim.lr=1e-2", *extra)
    one, two = make_run(*settings), make_run(*settings, "train.ranks=2")
    assert run_attempt(one) == 0
    finish(two, 1)
    assert sorted(losses(two)) == [1, 2, 3, 4, 5, 6]
    for step, loss in losses(one).items():
        assert losses(two)[step] == pytest.approx(loss, rel=ROUNDING)
    # Each rank validates its share of the cases; rank 0 reports all of them.
    for ours, theirs in zip(view_of(one).validations, view_of(two).validations, strict=True):
        assert theirs.n_cases == ours.n_cases == 2
        # One voxel at the threshold may fall on the other side.
        assert theirs.values.keys() == ours.values.keys()
        for name in (name for name in ours.values if "dsc" in name):
            assert theirs.values[name] == pytest.approx(ours.values[name], abs=0.02, nan_ok=True)
    assert len((two / "cases" / "0000006.jsonl").read_text(encoding="utf-8").splitlines()) == 2
    seen = [view_of(run).series["train/lesions_seen"].values for run in (one, two)]
    assert list(seen[0]) == list(seen[1])


def test_a_run_of_one_continues_with_two(make_run: MakeRun, run_attempt: RunAttempt, losses: Losses) -> None:
    # The attempt sets the number of steps, which determines the learning rate, in the same way for both runs.
    settings = (*PLAIN_SGD, "optim.lr=1e-2")
    reference, changing = make_run(*settings), make_run(*settings)
    for run in (reference, changing):
        assert run_attempt(run, 1, train={"steps": 3}) == 0
    assert run_attempt(reference, 2, train={"steps": 6}) == 0
    finish(changing, 2, train={"steps": 6, "ranks": 2})
    for step, loss in losses(reference).items():
        assert losses(changing)[step] == pytest.approx(loss, rel=ROUNDING)
    assert any("ranks 1 → 2" in alert.message for alert in view_of(changing).alerts)


def test_a_dead_rank_ends_the_run_and_is_named(make_run: MakeRun, run_attempt: RunAttempt) -> None:
    run = make_run(
        *PLAIN, "train.ranks=2", "train.steps=100000", "train.steps_per_epoch=3", "validation.every_epochs=99999"
    )
    process = start(run, 1)
    wait_for_step(run, process, 4)
    child_of(process.pid).kill()
    assert process.wait(timeout=60) == 1
    view = view_of(run)
    # Ended from outside, e.g. by the kernel: an interruption, not an error of the training.
    assert view.states[-1].state == "killed"
    assert "rank 1 of 2 was ended by signal 9" in view.alerts[-1].message
    assert "resume" in (view.alerts[-1].remedy or "")
    assert run_attempt(run, 2, train={"steps": 6, "ranks": 1}) == 0


def test_a_rank_that_dies_before_it_has_joined_is_reported(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every Python interpreter imports this file when it starts.
    (tmp_path / "sitecustomize.py").write_text(
        "import os\nif os.environ.get('PATCHCORE_RANK') == '1':\n    os._exit(7)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    run = make_run(*PLAIN, "train.ranks=2")
    process = start(run, 1)
    assert process.wait(timeout=60) == 1
    view = view_of(run)
    assert view.states[-1].state == "failed"
    assert "rank 1 of 2 ended with code 7" in view.alerts[-1].message


def test_what_another_rank_says_is_reported(make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one_rank_fails.py").write_text(
        "import os\nfrom torch import nn\n"
        "def build(in_channels, out_channels, window_size, patch_size):\n"
        "    if os.environ.get('PATCHCORE_RANK') == '1':\n"
        "        raise MemoryError('no room')\n"
        "    return nn.Conv3d(in_channels, out_channels, 3, padding=1)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.syspath_prepend(str(tmp_path))
    run = make_run(*PLAIN, "train.ranks=2", "model.network=one_rank_fails:build")
    process = start(run, 1)
    assert process.wait(timeout=60) == 1
    view = view_of(run)
    assert view.states[-1].state == "out of memory"
    assert view.alerts[-1].remedy


def test_many_records_come_over_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    import torch
    from torch._C._distributed_c10d import TCPStore

    from patchcore.training import ranks

    monkeypatch.setattr(ranks, "_PIECE", 1000)
    store = TCPStore("127.0.0.1", 0, 1, is_master=True, wait_for_workers=False)
    both = [ranks.Ranks(2, torch.device("cpu"), tmp_path, 1) for _ in range(2)]
    for rank, one in enumerate(both):
        one.rank, one._store = rank, store
    sent = {"cases": {f"case{number}": "ä" * 50 for number in range(100)}}
    other = threading.Thread(target=lambda: both[1].collect(sent, lambda: None))
    other.start()
    found = both[0].collect({}, lambda: None)
    other.join()
    assert found == [{}, sent]
    assert store.num_keys() <= 1


@pytest.mark.parametrize("validating", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_stop_leaves_with_a_checkpoint_also_amid_a_validation(
    validating: bool, make_run: MakeRun, losses: Losses
) -> None:
    # Windows at nearly every voxel, with eight mirrored versions each: the validation takes a minute.
    long = ("validation.overlap=0.95", "validation.mirror=true") if validating else ()
    run = make_run(*PLAIN, *long, "train.ranks=2", "train.steps=100000")
    process = start(run, 1)
    wait_for_step(run, process, 3 if validating else 5)
    deadline = time.monotonic() + 60
    while validating and view_of(run).phase != "validate":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child = child_of(process.pid)
    # At Ctrl-C a shell sends SIGINT to the whole process group; ranks above 0 ignore it.
    os.kill(child.pid, signal.SIGINT)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(timeout=60) == 75
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert json.loads((run / "checkpoints" / "last" / "state.json").read_text(encoding="utf-8"))["step"] == max(
        losses(run)
    )
    if validating:
        # An interrupted validation is not recorded: the resume repeats it.
        assert not view_of(run).validations


def test_any_seed_has_ranks(tmp_path: Path) -> None:
    import torch

    from patchcore.training.ranks import Ranks

    generator = torch.get_rng_state()
    try:
        one = Ranks(2, torch.device("cpu"), tmp_path, 1)
        one.rank = 1
        one.reseed(2**64 - 1, 10**6)
    finally:
        torch.set_rng_state(generator)


def test_an_error_of_all_ranks_is_reported_once_with_its_remedy(make_run: MakeRun) -> None:
    run = make_run(*PLAIN, "train.ranks=2", "optim.lr=1e30", "optim.warmup_steps=0", "optim.clip_norm=1e30")
    process = start(run, 1)
    assert process.wait(timeout=120) == 1
    alert = view_of(run).alerts[-1]
    assert "diverged" in alert.message
    assert "optim.lr" in (alert.remedy or "")
