"""Several processes that share the steps of one training: one a GPU, or on CPUs by gloo.

Rank 0 is the trainer that the supervisor started. It alone writes to the run folder and is asked things; it starts the
others as children, in its own process group, so that they end with it, and what it decides it tells them. They meet at
a store on the loopback interface. Nothing is pickled: decisions are numbers, results JSON.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import PrefixStore, TCPStore

from patchcore.errors import PatchcoreError, RunError

__all__ = ["OUT_OF_MEMORY", "RankError", "Ranks", "leave_words", "rank_of_environment"]

_RANK: Final = "PATCHCORE_RANK"
_PORT: Final = "PATCHCORE_RANKS_PORT"
_LOOPBACK: Final = "127.0.0.1"
# Rank 0 may write a large checkpoint to a slow disk meanwhile; a dead rank is met by the watch, not by waiting.
_TIMEOUT: Final = timedelta(hours=12)
OUT_OF_MEMORY: Final = "out of memory"
"""Why a rank ended that asked for more than there was."""
_POLL_S: Final = 0.1
_GRACE_S: Final = 3.0
_PIECE: Final = 2 << 20


def rank_of_environment() -> int:
    """Return the rank this process was started as; 0 where it was started by a supervisor."""
    return int(os.environ.get(_RANK, "0"))


def _words_of(run: Path, attempt: int, rank: int) -> Path:
    return run / "attempts" / str(attempt) / f"rank{rank}.json"


def leave_words(run: Path, attempt: int, rank: int, error: str) -> None:
    """Keep why a rank ends, for rank 0 to tell."""
    with suppress(OSError):
        _words_of(run, attempt, rank).write_text(json.dumps({"error": error}), encoding="utf-8")


class RankError(RunError):
    """Another rank has ended before its time.

    Attributes:
        out_of_memory: Whether for want of memory.
    """

    def __init__(self, message: str, *, out_of_memory: bool) -> None:
        super().__init__(
            message, remedy="read attempts/*/stdout.log of the run, then resume it: its last checkpoint is whole"
        )
        self.out_of_memory = out_of_memory


class Ranks:
    """The processes of one training, as one of them sees the others. A context manager.

    Args:
        world: How many they are; with one, nothing is started and every method returns what it is given.
        device: Where this one computes: gradients go by NCCL between GPUs, else by gloo.
        run: The run folder, for rank 0 to start the others with.
        attempt: The attempt.
        tell: Called on a thread of its own where another rank has died, before this process ends: it is to write the
            run's last words.

    Attributes:
        rank: This one's number.
        world: How many there are.
    """

    def __init__(
        self,
        world: int,
        device: torch.device,
        run: Path,
        attempt: int,
        *,
        tell: Callable[[RankError], None] | None = None,
    ) -> None:
        self.world = world
        self.rank = rank_of_environment()
        self._device, self._run, self._attempt, self._tell = device, run, attempt, tell
        self._children: list[subprocess.Popen[bytes]] = []
        self._control: Any = None
        self._store: Any = None
        self._words = 0
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
        if self.first:
            # Bound here, for the store itself would listen on every interface.
            listening = socket.socket()
            listening.bind((_LOOPBACK, 0))
            port = listening.getsockname()[1]
            self._store = TCPStore(
                _LOOPBACK,
                port,
                self.world,
                is_master=True,
                wait_for_workers=False,
                timeout=_TIMEOUT,
                master_listen_fd=listening.detach(),
            )
            self._start_others(port)
            # From the first moment: one that dies before it has joined would be waited for, too.
            threading.Thread(target=self._watch, name="ranks", daemon=True).start()
        else:
            port = int(os.environ[_PORT])
            self._store = TCPStore(_LOOPBACK, port, self.world, is_master=False, timeout=_TIMEOUT)
        # Never another interface than the loopback, whatever the host's name stands for.
        os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = "lo"
        gpu = self._device.type == "cuda"
        if gpu:
            torch.cuda.set_device(self._device)
        dist.init_process_group(
            "nccl" if gpu else "gloo",
            store=PrefixStore("ranks", self._store),
            rank=self.rank,
            world_size=self.world,
            timeout=_TIMEOUT,
        )
        self._control = dist.new_group(backend="gloo", timeout=_TIMEOUT) if gpu else dist.group.WORLD

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self.world > 1:
            self._leave(error)

    def _leave(self, error: BaseException | None) -> None:
        self._ended.set()
        try:
            if error is None:
                dist.destroy_process_group()
            elif self.first and isinstance(error, RuntimeError) and not isinstance(error, PatchcoreError):
                # A broken connection is what a dead rank looks like from here.
                deadline = time.monotonic() + _GRACE_S
                while not self._dead() and time.monotonic() < deadline:
                    time.sleep(_POLL_S)
                if dead := self._dead():
                    raise self._why(*dead[0]) from error
        finally:
            deadline = time.monotonic() + (10 if error is None else 0.5)
            for child in self._children:
                with suppress(subprocess.TimeoutExpired):
                    child.wait(max(0.1, deadline - time.monotonic()))
                if child.poll() is None:
                    child.kill()
                    child.wait()

    def finish(self) -> None:
        """Wait until every rank, and rank 0 with what it had to write, has come here; from now on each may end."""
        self.agree(0)
        self._ended.set()

    def _start_others(self, port: int) -> None:
        for rank in range(1, self.world):
            self._children.append(
                subprocess.Popen(
                    [sys.executable, "-P", "-m", "patchcore.training.trainer", str(self._run), str(self._attempt)],
                    stdin=subprocess.DEVNULL,
                    env=os.environ | {_RANK: str(rank), _PORT: str(port)},
                )
            )

    def _dead(self) -> list[tuple[int, int]]:
        codes = [(rank, child.poll()) for rank, child in enumerate(self._children, 1)]
        return [(rank, code) for rank, code in codes if code]

    def _watch(self) -> None:
        """Have a dead rank end this process, once that was told: a GPU's kernels would wait for it without end."""
        while not self._ended.wait(_POLL_S):
            dead = self._dead()
            # What has ended all ranks alike, as a loss that is no number, rank 0 is about to tell by itself.
            if dead and not self._ended.wait(_GRACE_S):
                try:
                    if self._tell is not None:
                        self._tell(self._why(*dead[0]))
                finally:
                    os._exit(1)

    def _why(self, rank: int, code: int) -> RankError:
        words = None
        with suppress(OSError, ValueError):
            words = json.loads(_words_of(self._run, self._attempt, rank).read_text(encoding="utf-8")).get("error")
        how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        message = f"rank {rank} of {self.world} {how}" + (f": {words}" if words else "")
        return RankError(message, out_of_memory=words == OUT_OF_MEMORY)

    def agree(self, *values: int) -> tuple[int, ...]:
        """Return what rank 0 gave, on every rank."""
        if self.world == 1:
            return values
        numbers = torch.tensor(values, dtype=torch.int64)
        dist.broadcast(numbers, 0, group=self._control)
        return tuple(numbers.tolist())

    def reseed(self, seed: int, step: int) -> None:
        """Make what this rank draws at a step (dropout) a function of rank and step; rank 0's is kept instead."""
        if not self.first:
            torch.manual_seed(((seed * 1_000_003 + step) * 4099 + self.rank) % 2**63)

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over ranks of a CPU tensor."""
        if self.world > 1:
            dist.all_reduce(values, group=self._control)
            values /= self.world
        return values

    def add(self, values: Tensor) -> Tensor:
        """Return the sum over ranks, on the device of gradients, differentiably."""
        return values if self.world == 1 else _Sum.apply(values)

    def parallel(self, network: nn.Module) -> nn.Module:
        """Return the network as training steps are to call it: gradients are the mean over ranks, weights rank 0's."""
        if self.world == 1:
            return network
        from torch.nn.parallel import DistributedDataParallel

        devices = [self._device] if self._device.type == "cuda" else None
        return DistributedDataParallel(network, device_ids=devices, gradient_as_bucket_view=True)

    def collect(self, records: Mapping[str, Any], look: Callable[[], None]) -> list[dict[str, Any]] | None:
        """Return every rank's records to rank 0, in the ranks' order; None elsewhere, and nothing is waited for there.

        Args:
            records: JSON values.
            look: Called while rank 0 waits; what it raises is passed on.
        """
        if self.world == 1:
            return [dict(records)]
        self._words += 1
        keys = [f"records/{self._words}/{rank}" for rank in range(self.world)]
        if not self.first:
            # The store takes 8 MiB at a time.
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
        """Tell the other ranks to leave what they work on."""
        if self.world > 1:
            self._store.set(f"called off/{what}", "1")

    def is_called_off(self, what: str) -> bool:
        """Whether rank 0 has called that off; cheap enough for each batch of windows."""
        return self.world > 1 and bool(self._store.check([f"called off/{what}"]))


class _Sum(torch.autograd.Function):
    """All ranks' sum; a gradient is that of the sum of all ranks' losses."""

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
