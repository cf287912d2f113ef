"""The local executor: runs of an experiment side by side on this machine, in slots of GPUs or of CPU threads.

    python -m patchcore.experiments.local EXPERIMENT --slots N

is the dispatcher as a process of its own, which survives the terminal; ``patchcore sweep`` starts it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from patchcore.errors import ConfigError, PatchcoreError, RunError
from patchcore.experiments.dispatch import Dispatcher
from patchcore.experiments.folder import ExperimentFolder, dispatcher_lock
from patchcore.experiments.protocol import Point
from patchcore.interrupts import StopSignal
from patchcore.locks import lock_holder
from patchcore.runs import start_attempt
from patchcore.runs.paths import read_object
from patchcore.threads import core_count
from patchcore.types import ExitCode, PathLike

__all__ = ["LocalExecutor", "dispatcher_log", "dispatcher_pid", "gpus", "start_dispatcher"]

_READY_S: Final = 60.0


class LocalExecutor:
    """Starts each run under its own supervisor, which continues if the dispatcher ends.

    Args:
        slots: Number of runs side by side.
        devices: GPUs, shared out among the slots; empty: the CPU.
        env: Environment of the runs [default: that of this process].
        evaluates: Whether finished runs are evaluated.
    """

    def __init__(
        self,
        slots: int,
        devices: tuple[str, ...] = (),
        env: Mapping[str, str] | None = None,
        *,
        evaluates: bool = True,
    ) -> None:
        if slots < 1:
            raise ConfigError(f"--slots {slots}", expected="1 or more")
        self.slots = slots
        self._devices = devices
        self._evaluates = evaluates
        self._env = dict(os.environ if env is None else env)

    def start(self, run: Path, slot: int) -> None:
        """Start the next attempt of a run.

        Raises:
            LockedError: The run has been started by somebody else.
            RunError: The supervisor did not start.
        """
        start_attempt(run, env=self._env | self._share(slot))

    def evaluate(self, study: Path, run: Path, slot: int) -> subprocess.Popen[bytes] | None:
        """Start the evaluation of a finished run with the part of the machine that the run had."""
        if not self._evaluates:
            return None
        return subprocess.Popen(
            evaluation_command(study, run),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=self._env | self._share(slot),
        )

    def _share(self, slot: int) -> dict[str, str]:
        if self._devices:
            # Numbers as the driver's tools have them.
            device = self._devices[slot % len(self._devices)]
            return {"CUDA_VISIBLE_DEVICES": device, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        return {"OMP_NUM_THREADS": str(max(1, core_count() // self.slots))}


def gpus() -> tuple[str, ...]:
    """Return the GPUs that this process may use: CUDA_VISIBLE_DEVICES if it is set, else all."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return tuple(part.strip() for part in chosen.split(",") if part.strip() not in ("", "-1"))
    try:
        import pynvml

        pynvml.nvmlInit()
        return tuple(str(number) for number in range(pynvml.nvmlDeviceGetCount()))
    except Exception:  # without a driver the library raises errors of its own; without GPUs there is nothing to find
        return ()


def dispatcher_log(experiment: PathLike, host: str) -> Path:
    """Return the file with the output of the dispatcher of a host."""
    return Path(experiment) / "dispatchers" / f"{host}.log"


def dispatcher_pid(experiment: PathLike, host: str) -> int | None:
    """Return the id of the process that works on an experiment on this host; None if there is none."""
    return lock_holder(dispatcher_lock(experiment, host))


def start_dispatcher(experiment: Path, host: str, *, module: str, options: Sequence[str]) -> int:
    """Start a dispatcher as a process that continues after this one ends. Return its process id.

    Args:
        experiment: Folder of the experiment.
        host: Name of this host.
        module: The module that is the dispatcher.
        options: Its options.

    Raises:
        RunError: It did not start.
    """
    log = dispatcher_log(experiment, host)
    command = [sys.executable, "-P", "-m", module, str(experiment.resolve()), *options]
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    # It is a child of this process: wait for it, so that it does not become a zombie.
    threading.Thread(target=process.wait, name="patchcore-reaper", daemon=True).start()
    deadline = time.monotonic() + _READY_S
    while dispatcher_pid(experiment, host) is None:
        if process.poll() is not None or time.monotonic() > deadline:
            if process.returncode == ExitCode.DONE:  # it has found nothing left to do
                break
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise RunError(f"the dispatcher did not start: {lines[-1] if lines else 'no output'}", path=log)
        time.sleep(0.05)
    return process.pid


def evaluation_command(study: Path, run: Path) -> list[str]:
    """Return the command that evaluates a run; a flexible network is evaluated at each of its patch sizes."""
    command = [sys.executable, "-P", "-m", "patchcore", "evaluate", str(study), run.name, "--no-postprocess"]
    record = read_object(run / "run.json") or {}
    model = (record.get("config") or {}).get("model") or {}
    return [*command, "--patch-size", "each"] if model.get("patch_sizes") else command


def make_run(folder: ExperimentFolder, point: Point) -> Path:
    """Create the run folder of a point.

    Raises:
        PatchcoreError: As for :func:`patchcore.training.launch.create_run`.
    """
    from patchcore.training.launch import create_run, settings_of

    protocol = folder.protocol
    settings = [*protocol.settings, *point.settings]
    if point.after is not None:
        source = folder.run_of(point.after, folder.places()[point.after][1])
        if source is None:
            raise RunError(
                f"the run of the point {point.after} was removed", remedy=f"retry with --point {point.after}"
            )
        settings += settings_of({"init.source": str(source)})
    return create_run(
        folder.study_of(point),
        settings=settings,
        name=f"{protocol.name}-{point.point_id}",
        plan=protocol.plan_of(point),
        experiment=folder.record_of(point.point_id),
    )


def work(experiment: PathLike, *, slots: int) -> bool:
    """Work on an experiment in this process, until no point is left or a signal asks for the end.

    Returns:
        Whether all points are done.

    Raises:
        LockedError: Another dispatcher of this host works on the experiment.
        PatchcoreError: It is not an experiment.
    """
    folder = ExperimentFolder(experiment)
    stop = StopSignal()
    dispatcher = Dispatcher(
        folder,
        LocalExecutor(slots, gpus()),
        lambda point: make_run(folder, point),
        stopping=lambda: stop.received is not None,
        say=lambda text: print(time.strftime("%Y-%m-%d %H:%M:%S"), text, flush=True),
    )
    return dispatcher.work()


def main(argv: list[str] | None = None) -> int:
    """Run the dispatcher as a process."""
    parser = argparse.ArgumentParser(prog="python -m patchcore.experiments.local", description=__doc__)
    parser.add_argument("experiment")
    parser.add_argument("--slots", type=int, default=1)
    arguments = parser.parse_args(argv)
    try:
        work(arguments.experiment, slots=arguments.slots)
    except (PatchcoreError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return int(ExitCode.ERROR)
    return int(ExitCode.DONE)  # what the points have reached is in their entries


if __name__ == "__main__":
    sys.exit(main())
