"""The trainer process: ``python -m patchcore.training.trainer RUN ATTEMPT``, started by the run's supervisor.

It sets up a training from the run folder only, runs :func:`patchcore.training.loop.run_loop`, and exits with the code
that the run folder's contract defines: 0 finished, 75 stopped or paused, any other code failed.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn, TypeAlias, cast

import torch

from patchcore.config import RunConfig
from patchcore.errors import DataError, PatchcoreError, RunError, StudyError
from patchcore.files import read_json, write_json_atomic
from patchcore.interrupts import STOP_SIGNALS, StopSignal
from patchcore.launched import Launched, launched
from patchcore.models.checkpoint import Checkpoint, find_checkpoint
from patchcore.models.device import Placement, keep_memory, place
from patchcore.models.registry import build_network
from patchcore.runs import RunState, RunWriter, Verb
from patchcore.runs.paths import read_object
from patchcore.runs.seen import read_record, record_of, trained_by_ancestors, write_record
from patchcore.runs.setup import RunSetup, RunSplit, divide_cases, read_setup, read_split, run_study
from patchcore.store.prepare import PreparedCase, check_classes, prepare_cases
from patchcore.study import Study
from patchcore.training.control import Control, Interrupted
from patchcore.training.failure import is_out_of_memory, record_failure_of
from patchcore.training.init_from import initialise
from patchcore.training.loader import training_windows
from patchcore.training.loop import Outcome, run_loop
from patchcore.training.meeting import Guest, Host
from patchcore.training.network import Mode, compiled
from patchcore.training.optim import WeightAverage, make_optimizer
from patchcore.training.progress import Progress, short_epoch, steps_per_epoch
from patchcore.training.ranks import OUT_OF_MEMORY, RankError, Ranks, leave_words, rank_of_environment
from patchcore.training.silence import Silence, Writer
from patchcore.training.state import Training
from patchcore.training.tensorboard import TensorBoard
from patchcore.types import ExitCode
from patchcore.views.terminal import write_utf8

__all__ = ["join_training", "main", "train_attempt"]

Cases: TypeAlias = tuple[list[PreparedCase], list[PreparedCase]]
"""Training cases and validation cases."""

# Step sentinel, larger than any real step: a failed start must not invalidate events of earlier attempts.
_NO_STEP = 2**62
_GRACE_S = 3.0


def train_attempt(run: Path, attempt: int, stop_signal: StopSignal | None = None) -> int:
    """Train until the end or until a stop or pause request; return the exit code.

    A rank above 0 (:func:`patchcore.training.ranks.rank_of_environment`) shares the steps of rank 0.
    """
    start = read_json(run / "attempts" / str(attempt) / "start.json")
    setup = read_setup(run, start.get("overrides"))
    if rank_of_environment():
        return _train_along(run, attempt, setup)
    try:
        by_launcher = launched()
        placement = place(setup.config.train, by=by_launcher)
        checkpoint = find_checkpoint(run / "checkpoints" / "last")
    except PatchcoreError as error:
        with RunWriter(run, attempt, resumed_from_step=_NO_STEP) as writer:
            return record_failure_of(error, setup, writer)
    done = int(checkpoint.state["step"]) if checkpoint else 0
    with RunWriter(
        run,
        attempt,
        resumed_from_step=done + 1 if done else 0,
        versions={key: str(value) for key, value in placement.machine.items()},
        threads=placement.threads,
    ) as writer:
        try:
            control = Control(writer, stop_signal)

            def record_failure(error: RankError) -> None:
                record_failure_of(error, setup, writer)
                writer.flush()

            with Host(by_launcher, run, attempt) if by_launcher else nullcontext() as meeting:
                cases = _cases_or_leave(run, setup, writer, control, meeting)
                if cases is None:
                    outcome: Outcome = control.leave or "stop"
                else:
                    with Ranks(
                        placement.ranks, placement.device, run, attempt, report=record_failure, meeting=meeting
                    ) as ranks:
                        outcome = _train(run, setup, placement, checkpoint, cases, writer, control, ranks, attempt)
        except Exception as error:
            return record_failure_of(error, setup, writer)
        states = {"finished": RunState.FINISHED, "stop": RunState.STOPPED, "pause": RunState.PAUSED}
        writer.state(states[outcome])
        return ExitCode.DONE if outcome == "finished" else ExitCode.STOPPED


def join_training(by_launcher: Launched) -> Path:
    """Take part, as a rank above 0 that a launcher has started, in the training of rank 0; return its run folder.

    Raises:
        RunError: Rank 0 cannot be reached, or its run folder does not exist here.
    """

    def end(why: str | None) -> None:
        # The main thread may wait for rank 0 in a kernel of the GPU forever.
        print(f"rank {by_launcher.rank}: {why or 'rank 0 has stopped the training'}", file=sys.stderr, flush=True)
        os._exit(ExitCode.ERROR if why else ExitCode.DONE)

    guest = Guest(by_launcher, end)
    start = read_json(guest.run / "attempts" / str(guest.attempt) / "start.json")
    try:
        _train_along(guest.run, guest.attempt, read_setup(guest.run, start.get("overrides")), by_launcher, guest)
    except Exception as error:
        if not torch.distributed.is_initialized():
            raise
        if isinstance(error, PatchcoreError | OSError):
            print(f"rank {by_launcher.rank}: {error}", file=sys.stderr)
        else:
            traceback.print_exc()
        _leave_at_once(ExitCode.ERROR)
    guest.lifeline.close()
    return guest.run


def _train_along(
    run: Path, attempt: int, setup: RunSetup, by_launcher: Launched | None = None, guest: Guest | None = None
) -> int:
    """Share the steps of rank 0. Only rank 0 records events and receives requests."""
    rank = rank_of_environment()
    # Rank 0 handles signals; this rank ends together with rank 0.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    writer = Silence()
    control = Control(writer)
    try:
        placement = place(setup.config.train, rank, by=by_launcher)
        with Ranks(placement.ranks, placement.device, run, attempt, meeting=guest) as ranks:
            checkpoint = find_checkpoint(run / "checkpoints" / "last")
            cases = _prepare(run, run_study(run), setup, writer, control)
            _train(run, setup, placement, checkpoint, cases, writer, control, ranks, attempt)
    except Exception as error:
        words = OUT_OF_MEMORY if is_out_of_memory(error) else str(error)
        if guest is None:
            leave_words(run, attempt, rank, words)
        else:
            guest.lifeline.say(words)
            if isinstance(error, RuntimeError) and not isinstance(error, PatchcoreError):
                # A broken connection is noticed here first. If rank 0 is gone, `end` says so.
                time.sleep(_GRACE_S)
        raise
    return ExitCode.DONE


def _cases_or_leave(
    run: Path, setup: RunSetup, writer: RunWriter, control: Control, meeting: Host | None
) -> Cases | None:
    """Prepare the cases and wait for the ranks of a launcher.

    Returns:
        The training and validation cases; None if a stop or pause was requested meanwhile.
    """
    writer.progress(phase="prepare", total_steps=setup.config.train.steps, step=0)

    def show_missing(missing: list[int]) -> None:
        control.look_or_leave()
        writer.progress(phase=f"wait for {len(missing)} of {meeting.world if meeting else 1} ranks")

    try:
        cases = _prepare(run, run_study(run), setup, writer, control)
        if meeting is not None:
            writer.add_to_start({"hosts": meeting.wait(show_missing)})
        return cases
    except Interrupted:
        assert control.leave is not None
        control.done(Verb.STOP, Verb.PAUSE, detail="no step was trained yet")
        return None


def _train(
    run: Path,
    setup: RunSetup,
    placement: Placement,
    checkpoint: Checkpoint | None,
    cases: Cases,
    writer: Writer,
    control: Control,
    ranks: Ranks,
    attempt: int,
) -> Outcome:
    config, target = setup.config, setup.plan.target
    train_cases, validation_cases = cases
    print(f"{placement.machine}", flush=True)

    _compare_cases(cases, ranks)
    # Initial weights are drawn on the CPU, so that they are the same on every device.
    torch.manual_seed(config.seed)
    network = placement.network(build_network(target, config.model)).train()
    optimizer = make_optimizer(network, config.optim)
    progress = Progress()
    if checkpoint is None and config.init.source:
        report = initialise(network, config.init, target)
        if ranks.first:
            write_json_atomic(run / "init_report.json", report.to_json())
            print("\n".join(report.lines()), flush=True)
        for difference in report.differences or ():
            writer.alert("warning", f"the initial weights were trained with different preprocessing: {difference}")
    # Created after the initial weights are loaded: the average starts from the same weights as the training.
    average = WeightAverage(network, config.optim.ema) if config.optim.ema else None
    if checkpoint is not None:
        checkpoint.restore(network, optimizer, average=average.network if average else None)
        progress = Progress.from_state(checkpoint.state)
        # Epochs stay as they were: freezing, validations and checkpoints depend on them.
        progress.epoch_steps = progress.epoch_steps or short_epoch(config, len(train_cases))
        _compare_machines(checkpoint, placement, writer)

    progress.epoch_steps = (
        config.train.steps_per_epoch or progress.epoch_steps or steps_per_epoch(config, len(train_cases))
    )

    def warn(text: str) -> None:
        writer.alert("warning", text)

    # Compilation is tested without the other ranks: a failure in a shared step would leave them waiting.
    fast = compiled(network, config.train, target, placement, warn, before=_compiled_before(run, attempt, placement))
    (all_fast,) = ranks.mean(torch.tensor([float(fast.mode != "off")])).tolist()
    stepped = ranks.parallel(fast.network if all_fast == 1 else network)
    mode = fast.mode if all_fast == 1 else "off"
    writer.add_to_start({"compile": mode, "device": placement.device.type})
    print(f"steps run {'uncompiled' if mode == 'off' else f'compiled ({mode})'}", flush=True)
    board = TensorBoard(run / "tensorboard", progress.step + 1, warn, wanted=config.train.tensorboard and ranks.first)
    training = Training(
        run=run,
        config=config,
        target=target,
        placement=placement,
        ranks=ranks,
        network=network,
        stepped=stepped,
        optimizer=optimizer,
        average=average,
        source=training_windows(train_cases, config, target, placement, rank=ranks.rank),
        validation=validation_cases,
        steps_per_epoch=progress.epoch_steps,
        board=board,
    )
    writer.state(RunState.RUNNING)
    try:
        outcome = run_loop(training, progress, writer, control)
        ranks.finish()
    finally:
        board.close()
    control.done(Verb.STOP, Verb.PAUSE, detail=f"checkpoint of step {progress.step}")
    return outcome


def _compiled_before(run: Path, attempt: int, placement: Placement) -> Mode | None:
    """Return how the steps of the newest earlier attempt on such a device were compiled; None if there is none."""
    for number in range(attempt - 1, 0, -1):
        start = read_object(run / "attempts" / str(number) / "start.json") or {}
        mode = start.get("compile")
        if mode in ("off", "default", "graphs") and start.get("device") == placement.device.type:
            return cast("Mode", mode)
    return None


def _compare_cases(cases: Cases, ranks: Ranks) -> None:
    """Check that this rank has the same cases as rank 0, because cases are addressed by index."""
    text = "\n".join("\t".join(case.case_id for case in part) for part in cases)
    own = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
    (first,) = ranks.agree(own)
    if first != own:
        raise RunError(
            f"rank {ranks.rank} has different cases from rank 0", remedy="run patchcore inspect, then resume the run"
        )


def _prepare(run: Path, study: Study, setup: RunSetup, writer: Writer, control: Control) -> Cases:
    """Resample all cases to the training grid; return the training cases and the validation cases."""
    config, target = setup.config, setup.plan.target
    records = {record.case_id: record for record in study.accepted()}
    split = read_split(run) or _new_split(run, study, config)
    _note_seen(run, study, split, config, writer)
    gone = [case_id for case_id in (*split.train, *split.validation) if case_id not in records]
    if gone:
        writer.alert("warning", f"cases of this run's split that are no longer accepted are skipped: {', '.join(gone)}")

    def show_progress(done: int, total: int) -> None:
        control.look_or_leave()
        writer.progress(phase=f"prepare {done}/{total}")

    with suppress(StudyError):
        if warning := study.outdated_plan():
            writer.alert("warning", warning)
    wanted = [records[case_id] for case_id in (*split.train, *split.validation) if case_id in records]
    memory_mib = config.train.prepare_mib
    prepared = prepare_cases(
        study, target, wanted, max_memory_bytes=memory_mib << 20 or None, on_progress=show_progress
    )
    for failed in prepared.failed:
        writer.alert("warning", f"case {failed.case_id} is skipped: {failed.error}", "run patchcore analyze again")
    validating = set(split.validation)
    train_cases = [case for case in prepared.cases if case.case_id not in validating]
    validation_cases = [case for case in prepared.cases if case.case_id in validating]
    for name, cases in (("training", train_cases), ("validation", validation_cases)):
        if not cases:
            raise DataError(f"no case is left for {name}", path=study.path, remedy="choose another train.fold")
    check_classes(train_cases, target)
    return train_cases, validation_cases


def _note_seen(run: Path, study: Study, split: RunSplit, config: RunConfig, writer: Writer) -> None:
    """Record the cases that the run and its ancestors learn from, before it learns, and warn of scores that mislead."""
    if rank_of_environment():
        return
    if not (run / "seen.json").exists():
        study.keep_id()
        write_record(run, record_of(study, split, config.init.source))
    record = read_record(run)
    for sentence in record.unknown:
        writer.alert(
            "warning",
            sentence,
            "trust the scores of this run only if these weights were not trained on its validation cases",
        )
    leaked = trained_by_ancestors(record, study)
    if leaked:
        writer.alert(
            "warning",
            f"the initial weights were trained on {len(leaked)} of the {len(split.validation)} validation cases, or on "
            f"their patients: {', '.join(leaked[:10])}; every score on these cases is too high",
            "use the fold, train.folds and train.fold_seed of the run that the weights come from",
        )


def _new_split(run: Path, study: Study, config: RunConfig) -> RunSplit:
    """Split the study's cases and save the split in the run folder, so that a resume uses the same cases."""
    split = divide_cases(study, config)
    write_json_atomic(run / "split.json", {"schema_version": 1, **asdict(split)})
    return split


def _compare_machines(checkpoint: Checkpoint, placement: Placement, writer: Writer) -> None:
    # A checkpoint without a number of ranks comes from one rank.
    before, now = {"ranks": 1} | checkpoint.state.get("machine", {}), placement.machine
    changed = [f"{key} {before.get(key)} → {value}" for key, value in now.items() if before.get(key) != value]
    if changed:
        writer.alert(
            "warning",
            f"resumed in a different environment ({', '.join(changed)}): results will not be identical bit for bit",
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one attempt of a run."""
    write_utf8()
    arguments = sys.argv[1:] if argv is None else list(argv)
    if len(arguments) != 2 or not arguments[1].isdigit():
        print("usage: python -m patchcore.training.trainer RUN ATTEMPT", file=sys.stderr)
        return ExitCode.USAGE
    keep_memory()
    try:
        code = train_attempt(Path(arguments[0]), int(arguments[1]), StopSignal())
    except Exception:
        if not torch.distributed.is_initialized():
            raise
        traceback.print_exc()
        code = ExitCode.ERROR
    if code not in (ExitCode.DONE, ExitCode.STOPPED) and torch.distributed.is_initialized():
        _leave_at_once(code)
    return code


def _leave_at_once(code: int) -> NoReturn:
    """End the process: at interpreter exit, unfinished shared kernels would wait for the other ranks."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
