"""Starts a trainer, waits until it ends, and records how it ended.

``python -m patchcore.runs.supervisor RUN ATTEMPT`` runs in its own session. It continues when the viewer, the
dashboard or the terminal is closed. If the supervisor is killed, its trainer continues. The supervisor never imports
torch.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final

from patchcore.errors import LockedError, PatchcoreError, RunError
from patchcore.files import write_json_atomic
from patchcore.locks import FileLock, lock_holder
from patchcore.processes import boot_id, machine_id, pid_namespace, process_start
from patchcore.runs.audit import Audit
from patchcore.runs.climb import Climb
from patchcore.runs.ending import exit_record, failed_start
from patchcore.runs.heartbeat import StatusFile
from patchcore.runs.inbox import Inbox
from patchcore.runs.paths import DEFAULT_TRAINER, HEARTBEAT_S, RunPaths, append_line, read_object
from patchcore.runs.process import oom_kill_counts, tell
from patchcore.runs.records import RunState, Verb
from patchcore.runs.state import FINAL_WORDS, run_state
from patchcore.runs.system import SystemSampler
from patchcore.types import PathLike
from patchcore.version import package_version

__all__ = ["Supervisor", "main"]

_TICK_S: Final = 0.1
_CONTROL_S: Final = 0.2
_OUTPUT_S: Final = 0.25
_EXIT_RECORD_RETRIES: Final = 600
_SIGNAL_LOG_S: Final = 60.0
_CARRIED: Final = ("step", "total_steps", "epoch", "epoch_s", "best")


class Supervisor:
    """Supervises one attempt.

    Args:
        run: The run folder.
        attempt: Number of the attempt to create.
        overrides: Changes of the run's configuration for this attempt; the trainer reads them from
            ``start.json``.
        env: Environment of the trainer; default: the environment of this process.
        on_tick: Called about four times per second, and once after the end.
    """

    def __init__(
        self,
        run: PathLike,
        attempt: int,
        *,
        overrides: Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
        on_tick: Callable[[], None] | None = None,
    ) -> None:
        self.paths = RunPaths(run)
        self.attempt = attempt
        self._overrides = dict(overrides or {})
        self._env = dict(os.environ if env is None else env)
        self._on_tick = on_tick
        self._lock = FileLock(
            self.paths.supervisor_lock, what="the run", remedy="wait for it, or stop it with patchcore runs stop"
        )
        self._inbox = Inbox(self.paths, by="supervisor")
        self._climb = Climb()
        self._stops: dict[str, bool] = {}  # id of each stop request → whether its answer was handled
        self._signals: list[int] = []
        self._sent: dict[signal.Signals, float] = {}  # signal → when the audit log last named it
        self._troubles: set[str] = set()
        self._interrupts = 0
        self._next_control = self._next_beat = self._next_output = 0.0
        self._oom_counts = [oom_kill_counts()] * 2

    def take(self) -> None:
        """Lock the run and create the attempt: its folder and ``start.json``. Refuse requests to earlier attempts.

        Raises:
            LockedError: Another process supervises or trains the run.
            RunError: The folder is not a run folder, the run is finished, or the attempt already exists.
            OSError: The folder cannot be written.
        """
        self._record = self.paths.require()
        self._refuse_finished()  # before the lock is taken: with it, the state would be that of this process
        self._lock.acquire()
        try:
            self._refuse_living_trainer()
            self._refuse_finished()
            folder = self.paths.attempt(self.attempt)
            folder.parent.mkdir(exist_ok=True)
            try:
                folder.mkdir()
            except FileExistsError:
                raise RunError(f"attempt {self.attempt} already exists", path=self.paths.root) from None
            # The trainer of an earlier attempt may have been loading all the time. It takes its lock and then looks for
            # a newer attempt; here the new attempt is made and then the lock is looked at: one of the two sees the
            # other.
            late = lock_holder(self.paths.trainer_lock)
            if late is not None:
                folder.rmdir()
                raise self._living(f"trainer process {late}")
            for inbox in (self.paths.requests_new, self.paths.requests_done):
                inbox.mkdir(parents=True, exist_ok=True)
            write_json_atomic(self.paths.start(self.attempt), self._start_record())
        except BaseException:
            self._lock.release()
            raise
        answered = self._inbox.answered()
        self._stops = {answer.id: True for answer in answered}
        self._audit = Audit(self.paths, self.attempt, answered)
        self._status = StatusFile(self.paths, self.attempt, by="supervisor")
        self._refuse_waiting("requested before this attempt began")

    def supervise(self) -> dict[str, Any]:
        """Start the trainer, wait for it, write and return the exit record. Releases the lock at the end.

        From here on no failing file operation ends the supervisor: only it can say how the trainer ended.
        """
        try:
            self._beat(RunState.STARTING, None)
            try:
                trainer = self._start()
            except OSError as error:
                record = failed_start(self.attempt, error)
            else:
                record = self._wait(trainer)
            self._write_exit(record)
            with self._surviving("answering requests"):
                self._refuse_waiting(f"the trainer has ended: {record['state']}")
            self._beat(RunState(record["state"]), record["reason"])
            self._output()
            return record
        finally:
            with self._surviving("releasing the lock"):
                self._lock.release()

    def _start(self) -> subprocess.Popen[bytes]:
        # If this process was started with SIGCHLD ignored, the kernel would not keep the trainer's exit code.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        with self.paths.stdout(self.attempt).open("ab") as log:
            return subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"} | self._env,
                process_group=0,
            )

    def _wait(self, trainer: subprocess.Popen[bytes]) -> dict[str, Any]:
        self._audit.write("start", pid=trainer.pid)
        sampler = SystemSampler(self.paths.root, trainer.pid)
        while os.waitid(os.P_PID, trainer.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            self._tick(trainer.pid, sampler)
            time.sleep(_TICK_S)
        # The trainer is not yet reaped, so its process id is not reused: its remaining workers can be killed safely.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(trainer.pid, signal.SIGKILL)
        returncode = trainer.wait()
        with self._surviving("reading requests"):
            self._watch_requests()
        return exit_record(
            self.paths,
            self.attempt,
            returncode,
            asked_by=self._climb.asked_by,
            memory_ran_out=self._memory_ran_out(),
        )

    def notice(self, number: int) -> None:
        """Record a signal that this process received. It is forwarded to the trainer at the next tick."""
        self._signals.append(number)

    def _command(self) -> list[str]:
        module = str(self._record.get("trainer") or DEFAULT_TRAINER)
        # -P: a file in the working directory must not shadow a module of the standard library.
        return [sys.executable, "-P", "-m", module, str(self.paths.root), str(self.attempt)]

    def _tick(self, pid: int, sampler: SystemSampler) -> None:
        now = time.monotonic()
        while self._signals:
            self._forward(pid, self._signals.pop(0), now)
        if now >= self._next_control:
            self._next_control = now + _CONTROL_S
            with self._surviving("reading requests"):
                self._watch_requests()
        number = self._climb.due(now)
        if number is not None:
            self._send(pid, number)
        if now >= self._next_beat:
            self._next_beat = now + HEARTBEAT_S
            self._oom_counts = [self._oom_counts[1], oom_kill_counts()]
            with self._surviving("writing the system log"):
                append_line(self.paths.system(self.attempt), sampler.sample())
            with self._surviving("looking for the trainer's lock"):
                if lock_holder(self.paths.trainer_lock) is None:
                    self._beat(RunState.STARTING, "the trainer is loading")
        if now >= self._next_output:
            self._next_output = now + _OUTPUT_S
            self._output()

    def _output(self) -> None:
        if self._on_tick is None:
            return
        try:
            self._on_tick()
        except (Exception, SystemExit) as error:  # rich ends a program whose pipe is closed; the training goes on
            tell(f"progress output stopped: {error}")
            self._on_tick = None

    @contextmanager
    def _surviving(self, what: str) -> Iterator[None]:
        """Continue after an error of the file system; the next tick tries again. The first one of a kind is logged."""
        try:
            yield
        except (OSError, PatchcoreError) as error:
            if what not in self._troubles:
                self._troubles.add(what)
                tell(f"{what} failed: {error}")

    def _forward(self, pid: int, number: int, now: float) -> None:
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1 and number == signal.SIGINT:
            self._climb.ask("a second interrupt", {"force": True}, now)
            return
        # A trainer that does not stop is ended by SIGKILL, as after a stop request.
        self._climb.ask(signal.Signals(number).name, {}, now)
        self._send(pid, signal.SIGTERM if number == signal.SIGHUP else signal.Signals(number))

    def _send(self, pid: int, number: signal.Signals) -> None:
        # The trainer is our child and not yet reaped, so its process id is not reused. Its workers end with it, or by
        # SIGKILL.
        with suppress(ProcessLookupError, PermissionError):
            if number is signal.SIGKILL:
                os.killpg(pid, number)
            else:
                os.kill(pid, number)
            # A trainer that waits for a dead disk does not end: SIGKILL follows at every tick, but is not logged as
            # often.
            now = time.monotonic()
            if now - self._sent.get(number, -math.inf) >= _SIGNAL_LOG_S:
                self._sent[number] = now
                self._audit.write("signal", signal=number.name, asked_by=self._climb.asked_by)

    def _watch_requests(self) -> None:
        now = time.monotonic()
        waiting, answered = self._inbox.pending(), self._inbox.answered()
        for request in waiting:
            if request.verb is Verb.STOP and request.id not in self._stops:
                self._stops[request.id] = False
                self._climb.ask(request.author, request.args, now)
        for answer in answered:
            if answer.verb != Verb.STOP or self._stops.get(answer.id):
                continue
            if answer.ok and answer.id not in self._stops:  # accepted before this process saw the request
                self._climb.ask(answer.author, answer.args, now)
            self._stops[answer.id] = True
            if answer.ok:
                self._climb.accepted(now)
            elif answer.args.get("force") is not True:
                self._climb.cancel()
        self._audit.requests(waiting, answered)

    def _refuse_waiting(self, why: str) -> None:
        waiting = self._inbox.pending()
        for request in waiting:
            self._inbox.answer(request, "refused", why)
        self._audit.requests(waiting, self._inbox.answered())

    def _refuse_finished(self) -> None:
        if run_state(self.paths.root).state is RunState.FINISHED:
            raise RunError("the run is finished", path=self.paths.root, remedy="there is nothing to resume")

    def _refuse_living_trainer(self) -> None:
        holder = lock_holder(self.paths.trainer_lock)
        if holder is not None:
            raise self._living(f"trainer process {holder}")
        previous = self.paths.newest_attempt()
        if previous is None or self.paths.exit(previous).exists():
            return
        start = read_object(self.paths.start(previous)) or {}
        status = read_object(self.paths.status) or {}
        here = start.get("boot_id") in (None, boot_id()) and start.get("pid_namespace") in (None, pid_namespace())
        if here or status.get("state") in FINAL_WORDS:
            return
        # The attempt was started on another host or in another container. Its locks may not be visible here, but its
        # heartbeat is.
        deadline = time.monotonic() + 3 * HEARTBEAT_S
        while time.monotonic() < deadline:
            time.sleep(_TICK_S)
            if (read_object(self.paths.status) or status).get("hb_seq") != status.get("hb_seq"):
                raise self._living(f"a trainer on {start.get('host')}")

    def _living(self, who: str) -> LockedError:
        remedy = "stop it with patchcore runs stop, or wait until it ends; it has no supervisor"
        return LockedError(f"{who} works on the run", path=self.paths.root, remedy=remedy)

    def _memory_ran_out(self) -> bool:
        before, after = self._oom_counts[0], oom_kill_counts()
        # The machine's count includes processes of other users: use it only if the cgroup has no count.
        key = "cgroup" if "cgroup" in after else "machine"
        return after.get(key, 0) > before.get(key, after.get(key, 0))

    def _start_record(self) -> dict[str, Any]:
        return {
            "schema_version": 1,
            "attempt": self.attempt,
            "t": time.time(),
            "host": socket.gethostname(),
            "boot_id": boot_id(),
            "machine": machine_id(),
            "pid_namespace": pid_namespace(),
            "supervisor": {"pid": os.getpid(), "started": process_start(os.getpid())},
            "trainer": None,
            "resumed_from_step": None,
            "threads": None,
            "overrides": self._overrides,
            "versions": {"python": sys.version.split()[0], "patchcore": package_version()},
        }

    def _beat(self, state: RunState, reason: str | None) -> None:
        previous = read_object(self.paths.status) or {}
        carried = {key: previous.get(key) for key in _CARRIED}
        current = {"state": state.value, "reason": reason, "since": time.time(), "idle_s": 0.0}
        self._status.write(carried | current | {"pid": os.getpid()})

    def _write_exit(self, record: dict[str, Any]) -> None:
        for _ in range(_EXIT_RECORD_RETRIES):
            try:
                write_json_atomic(self.paths.exit(self.attempt), record)
            except OSError as error:  # for example a full disk: retry, because the exit record is important
                tell(f"exit record not written: {error}")
                time.sleep(1.0)
            else:
                break
        self._audit.write("exit", state=record["state"], code=record["code"], signal=record["signal"])


def main(argv: list[str] | None = None) -> int:
    """Run the supervisor as a process. Its first output line is JSON: the attempt number, or the error."""
    parser = argparse.ArgumentParser(prog="python -m patchcore.runs.supervisor", description=__doc__)
    parser.add_argument("run")
    parser.add_argument("attempt", type=int)
    parser.add_argument("--overrides", type=json.loads, default={})
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    supervisor = Supervisor(arguments.run, arguments.attempt, overrides=arguments.overrides)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: supervisor.notice(received))
    try:
        supervisor.take()
    except (PatchcoreError, OSError) as error:
        locked = isinstance(error, LockedError)
        code = error.errno if isinstance(error, OSError) else None
        print(json.dumps({"error": str(error), "locked": locked, "errno": code}), flush=True)
        return 1
    print(json.dumps({"attempt": arguments.attempt, "pid": os.getpid()}), flush=True)
    # From here on, perhaps no process reads this output: redirect it to the log of the trainer.
    with supervisor.paths.stdout(arguments.attempt).open("ab") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    supervisor.supervise()
    return 0


if __name__ == "__main__":
    sys.exit(main())
