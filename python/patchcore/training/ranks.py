"""Runs one training in several processes (ranks) that share each step: one per GPU, or on CPUs with gloo.

Rank 0 is the trainer that the supervisor started. Only rank 0 writes to the run folder and receives requests, and sends
its decisions to the others. On one host it starts the other ranks as child processes in its own process group, so that
they end with it, and the ranks connect through a store on the loopback interface. If a launcher such as torchrun has
started all ranks, perhaps on several hosts, they meet as :mod:`patchcore.training.meeting` says. Nothing is pickled:
decisions are numbers, results JSON.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import PrefixStore, TCPStore

from patchcore.errors import PatchcoreError, RunError
from patchcore.interrupts import STOP_SIGNALS
from patchcore.launched import launched
from patchcore.training.lifeline import Lost
from patchcore.training.meeting import STORE_TIMEOUT, Guest, Host, listen, network_interface

__all__ = ["OUT_OF_MEMORY", "RankError", "Ranks", "leave_words", "rank_of_environment"]

_RANK: Final = "PATCHCORE_RANK"
_PORT: Final = "PATCHCORE_RANKS_PORT"
_LOOPBACK: Final = "127.0.0.1"
OUT_OF_MEMORY: Final = "out of memory"
"""Marks a rank that ran out of memory."""
_POLL_S: Final = 0.1
_GRACE_S: Final = 3.0
_PIECE: Final = 2 << 20


def rank_of_environment() -> int:
    """Return the rank of this process; 0 if a supervisor started it alone.

    Raises:
        ConfigError: A launcher's variables contradict each other.
    """
    place = launched()
    return place.rank if place else int(os.environ.get(_RANK, "0"))


def _error_path(run: Path, attempt: int, rank: int) -> Path:
    return run / "attempts" / str(attempt) / f"rank{rank}.json"


def leave_words(run: Path, attempt: int, rank: int, error: str) -> None:
    """Record why a rank ends, so that rank 0 can report it."""
    with suppress(OSError):
        _error_path(run, attempt, rank).write_text(json.dumps({"error": error}), encoding="utf-8")


class RankError(RunError):
    """Another rank has ended unexpectedly.

    Attributes:
        out_of_memory: Whether the rank ran out of memory.
        from_outside: Whether the rank was ended from outside, or is lost with its host.
    """

    def __init__(self, message: str, *, out_of_memory: bool, from_outside: bool = False) -> None:
        super().__init__(
            message, remedy="read attempts/*/stdout.log of the run, then resume it: its last checkpoint is complete"
        )
        self.out_of_memory = out_of_memory
        self.from_outside = from_outside


class Ranks:
    """One process's connection to the other ranks of a training. A context manager.

    Args:
        world: Number of ranks. With one rank no process is started, and every method returns its input.
        device: Device of this rank. Gradients are exchanged with NCCL between GPUs, else with gloo.
        run: The run folder; rank 0 passes it to the other ranks.
        attempt: Number of the attempt.
        report: Called on a separate thread if another rank has died, before this process ends. It must record the error
            in the run folder.
        meeting: Where the ranks of a launcher meet; None: rank 0 starts the others.

    Attributes:
        rank: Number of this rank.
        world: Number of ranks.
    """

    def __init__(
        self,
        world: int,
        device: torch.device,
        run: Path,
        attempt: int,
        *,
        report: Callable[[RankError], None] | None = None,
        meeting: Host | Guest | None = None,
    ) -> None:
        self.world = world
        self.rank = meeting.rank if meeting else rank_of_environment()
        self._meeting = meeting
        self._device, self._run, self._attempt, self._report = device, run, attempt, report
        self._children: list[subprocess.Popen[bytes]] = []
        self._control: Any = None
        self._store: Any = None
        self._collected = 0
        self._ended = threading.Event()

    @property
    def first(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def __enter__(self) -> Ranks:
        if self.world == 1:
            return self
        try:
            self._join()
        except BaseException as error:
            self._leave(error)
            raise
        return self

    def _join(self) -> None:
        place = launched() if self._meeting else None
        if self._meeting and place:
            self._store = self._meeting.store
        elif self.first:
            self._store = listen(_LOOPBACK, 0)
            self._start_others(self._store.port)
        else:
            port = int(os.environ[_PORT])
            self._store = TCPStore(_LOOPBACK, port, is_master=False, wait_for_workers=False, timeout=STORE_TIMEOUT)
        if self.first:
            # Started before the ranks join, because a rank that dies earlier would be waited for forever.
            threading.Thread(target=self._watch, name="ranks", daemon=True).start()
        # Without a launcher only the loopback interface, whatever address the host name resolves to.
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            if not place:
                os.environ[name] = "lo"
            elif not os.environ.get(name):  # the user's own choice stays
                os.environ[name] = network_interface(place)
        gpu = self._device.type == "cuda"
        if gpu:
            torch.cuda.set_device(self._device)
        dist.init_process_group(
            "nccl" if gpu else "gloo",
            store=PrefixStore("ranks", self._store),
            rank=self.rank,
            world_size=self.world,
            timeout=STORE_TIMEOUT,
        )
        self._control = dist.new_group(backend="gloo", timeout=STORE_TIMEOUT) if gpu else dist.group.WORLD

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self.world > 1:
            self._leave(error)

    def _leave(self, error: BaseException | None) -> None:
        self._ended.set()
        try:
            if error is None:
                dist.destroy_process_group()
            elif self.first and isinstance(error, RuntimeError) and not isinstance(error, PatchcoreError):
                # A dead rank appears here as a broken connection.
                deadline = time.monotonic() + _GRACE_S
                while not self._lost() and time.monotonic() < deadline:
                    time.sleep(_POLL_S)
                if lost := self._lost():
                    raise self._why(lost[0]) from error
        finally:
            deadline = time.monotonic() + (10 if error is None else 0.5)
            for child in self._children:
                with suppress(subprocess.TimeoutExpired):
                    child.wait(max(0.1, deadline - time.monotonic()))
                if child.poll() is None:
                    child.kill()
                    child.wait()

    def finish(self) -> None:
        """Wait until every rank is done and rank 0 has written its results; after that each rank may end."""
        self.agree(0)
        self._ended.set()

    def _start_others(self, port: int) -> None:
        # A signal to the whole group must not end a rank that is still loading: rank 0 alone answers it. A new process
        # inherits the blocked signals; it ignores them later.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            for rank in range(1, self.world):
                self._children.append(
                    subprocess.Popen(
                        [sys.executable, "-P", "-m", "patchcore.training.trainer", str(self._run), str(self._attempt)],
                        stdin=subprocess.DEVNULL,
                        env=os.environ | {_RANK: str(rank), _PORT: str(port)},
                    )
                )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _lost(self) -> list[Lost]:
        if isinstance(self._meeting, Host):
            return self._meeting.lifelines.lost()
        lost = []
        for rank, child in enumerate(self._children, 1):
            if code := child.poll():
                how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
                # A crash of its own, e.g. SIGSEGV, is an error; what was ended by these signals was ended by others.
                outside = -code in (signal.SIGKILL, *STOP_SIGNALS)
                lost.append(Lost(rank, how, self._said(rank) or (None if outside else "")))
        return sorted(lost, key=lambda one: one.error is not None)

    def _said(self, rank: int) -> str | None:
        with suppress(OSError, ValueError, KeyError):
            said = json.loads(_error_path(self._run, self._attempt, rank).read_text(encoding="utf-8"))
            return str(said["error"])
        return None

    def _watch(self) -> None:
        """End this process, after a report, if a rank has died: GPU kernels would wait for the dead rank forever."""
        while not self._ended.wait(_POLL_S):
            lost = self._lost()
            # If an error such as a NaN loss ended all ranks, rank 0 reports it itself within the grace time.
            if lost and not self._ended.wait(_GRACE_S):
                try:
                    if self._report is not None:
                        self._report(self._why(self._lost()[0]))
                finally:
                    os._exit(1)

    def _why(self, lost: Lost) -> RankError:
        message = f"rank {lost.rank} of {self.world} {lost.how}" + (f": {lost.error}" if lost.error else "")
        return RankError(message, out_of_memory=lost.error == OUT_OF_MEMORY, from_outside=lost.error is None)

    def agree(self, *values: int) -> tuple[int, ...]:
        """Return the values of rank 0 on every rank."""
        if self.world == 1:
            return values
        numbers = torch.tensor(values, dtype=torch.int64)
        dist.broadcast(numbers, 0, group=self._control)
        return tuple(numbers.tolist())

    def reseed(self, seed: int, step: int) -> None:
        """Seed this rank's draws of a step (dropout) from seed, step and rank. Rank 0 keeps its generator state."""
        if not self.first:
            torch.manual_seed(((seed * 1_000_003 + step) * 4099 + self.rank) % 2**63)

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of a CPU tensor over all ranks."""
        if self.world > 1:
            dist.all_reduce(values, group=self._control)
            values /= self.world
        return values

    def add(self, values: Tensor) -> Tensor:
        """Return the differentiable sum over all ranks, on the device of the gradients."""
        return values if self.world == 1 else _Sum.apply(values)

    def parallel(self, network: nn.Module) -> nn.Module:
        """Return the network for training steps: gradients are averaged over ranks, weights come from rank 0."""
        if self.world == 1:
            return network
        from torch.nn.parallel import DistributedDataParallel

        devices = [self._device] if self._device.type == "cuda" else None
        # A step of a flexible network uses the kernels of one patch size only.
        return DistributedDataParallel(
            network,
            device_ids=devices,
            gradient_as_bucket_view=True,
            find_unused_parameters=bool(getattr(network, "is_flexible", False)),
        )

    def collect(self, records: Mapping[str, Any], look: Callable[[], None]) -> list[dict[str, Any]] | None:
        """Return the records of all ranks, in the order of the ranks, on rank 0. Other ranks return None at once.

        Args:
            records: JSON values.
            look: Called while rank 0 waits; its exceptions are passed on.
        """
        if self.world == 1:
            return [dict(records)]
        self._collected += 1
        keys = [f"records/{self._collected}/{rank}" for rank in range(self.world)]
        if not self.first:
            # The store accepts at most 8 MiB per value.
            text = json.dumps(records)
            pieces = [text[start : start + _PIECE] for start in range(0, len(text), _PIECE)]
            for number, piece in enumerate(pieces):
                self._store.set(f"{keys[self.rank]}/{number}", piece)
            self._store.set(keys[self.rank], str(len(pieces)))
            return None
        while not self._store.check(keys[1:]):
            look()
            time.sleep(_POLL_S)
        found = [dict(records)]
        for key in keys[1:]:
            pieces = [f"{key}/{number}" for number in range(int(self._store.get(key)))]
            found.append(json.loads(b"".join(self._store.get(piece) for piece in pieces)))
            for name in (key, *pieces):
                self._store.delete_key(name)
        return found

    def call_off(self, what: str) -> None:
        """Ask the other ranks to stop their current work."""
        if self.world > 1:
            self._store.set(f"called off/{what}", "1")

    def is_called_off(self, what: str) -> bool:
        """Whether rank 0 has cancelled this work. Cheap enough for each batch of windows."""
        return self.world > 1 and bool(self._store.check([f"called off/{what}"]))


class _Sum(torch.autograd.Function):
    """Sum over all ranks. The gradient is the gradient of the sum of all ranks' losses."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total
