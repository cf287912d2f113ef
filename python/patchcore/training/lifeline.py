"""Connections between the ranks that a launcher has started, perhaps on several hosts: who is there, and who is lost.

Every rank above 0 keeps one TCP connection to rank 0. Both sides send a line each second. A connection that ends, or
that is silent for a minute, means that the other process or its host is gone. torch notices neither on a GPU: there it
waits. Lines are JSON; a secret from torch's store keeps out processes of another training.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from patchcore.errors import RunError
from patchcore.processes import boot_id

__all__ = ["Lifeline", "Lifelines", "Lost", "address_of"]

BEAT_S: Final = 1.0
LOST_S: Final = 60.0
"""A rank that has been silent for so long is lost: its host is down, or the network is."""
DONE_S: Final = 10.0
_LINE: Final = 65536


@dataclass(frozen=True)
class Lost:
    """A rank that is gone.

    Attributes:
        rank: Its number.
        how: In words, with its host.
        error: What it said before it ended; None: nothing, so it was ended from outside.
    """

    rank: int
    how: str
    error: str | None


class Lifelines:
    """Rank 0's connections to the other ranks. A context manager.

    Args:
        address: IP address to listen at.
        world: Number of ranks.
    """

    def __init__(self, address: str, world: int) -> None:
        self.secret = secrets.token_hex(16)
        self.hosts: dict[int, dict[str, Any]] = {0: _facts()}
        self._world = world
        self._lost: dict[int, Lost] = {}
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._server = socket.create_server((address, 0), family=_family(address))
        self.port: int = self._server.getsockname()[1]
        self._open: list[socket.socket] = []

    def __enter__(self) -> Lifelines:
        threading.Thread(target=self._accept, name="lifelines", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._ended.set()
        with self._lock:
            for one in self._open if kind is None else ():
                with contextlib.suppress(OSError):
                    one.sendall(b'{"done": true}\n')
            for one in (self._server, *self._open):
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()

    @property
    def missing(self) -> list[int]:
        """Ranks that have not joined yet."""
        return [rank for rank in range(self._world) if rank not in self.hosts]

    def lost(self) -> list[Lost]:
        """Return the ranks that are gone, first those that said nothing: the others have often only noticed them."""
        return sorted(self._lost.values(), key=lambda one: (one.error is not None, one.rank))

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._listen, args=(connection,), name="lifeline", daemon=True).start()

    def _listen(self, connection: socket.socket) -> None:
        connection.settimeout(LOST_S)
        with connection, connection.makefile("rb") as lines:
            try:
                hello = json.loads(lines.readline(_LINE))
                rank = hello.get("rank")
                if hello.get("secret") != self.secret or type(rank) is not int or not 0 < rank < self._world:
                    return
                with self._lock:
                    if self._ended.is_set() or rank in self.hosts:
                        return
                    self._open.append(connection)
                    self.hosts[rank] = {key: hello.get(key) for key in ("host", "boot_id", "pid")}
            except (OSError, ValueError, AttributeError):
                return
            stop = threading.Event()
            threading.Thread(target=_beat, args=(connection, stop), name="lifeline beat", daemon=True).start()
            host = self.hosts[rank]["host"]

            def failed(error: str) -> None:
                # At once: a launcher ends all ranks as soon as one of them has ended.
                self._lost[rank] = Lost(rank, f"on {host} ended", error)

            _, silent = _wait_for_end(lines, failed)
            stop.set()
            if not self._ended.is_set() and rank not in self._lost:
                how = f"has not answered for {LOST_S:.0f} s" if silent else "was ended from outside"
                self._lost[rank] = Lost(rank, f"on {host} {how}", None)


class Lifeline:
    """The connection of a rank above 0 to rank 0.

    Args:
        address: IP address of rank 0.
        port: Port of its :class:`Lifelines`.
        rank: Number of this rank.
        secret: Their secret.
        on_end: Called on a separate thread if rank 0 is gone, with the reason, or with None if its work is done but
            this rank still waits for it.

    Raises:
        RunError: Rank 0 cannot be reached.
    """

    def __init__(self, address: str, port: int, rank: int, secret: str, on_end: Callable[[str | None], None]) -> None:
        try:
            self._connection = socket.create_connection((address, port), timeout=LOST_S)
            self._send({"rank": rank, "secret": secret} | _facts())
        except OSError as error:
            raise RunError(
                f"rank 0 at {address} port {port} cannot be reached: {error}",
                remedy="let the hosts of a training connect to each other on all ports, or look at rank 0's output",
            ) from None
        self._on_end = on_end
        self._ended = threading.Event()
        threading.Thread(target=_beat, args=(self._connection, self._ended), name="lifeline beat", daemon=True).start()
        threading.Thread(target=self._watch, name="lifeline", daemon=True).start()

    def say(self, error: str) -> None:
        """Say why this rank ends."""
        with contextlib.suppress(OSError):
            self._send({"error": error[: _LINE // 8]})

    def close(self) -> None:
        """End the connection: this rank's work is done."""
        self._ended.set()
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def _send(self, values: dict[str, Any]) -> None:
        self._connection.sendall(json.dumps(values).encode() + b"\n")

    def _watch(self) -> None:
        with self._connection.makefile("rb") as lines:
            said, silent = _wait_for_end(lines)
        if said.get("done"):
            # This rank has nothing left to do than to end, unless it waits for a training that was called off.
            if not self._ended.wait(DONE_S):
                self._on_end(None)
        elif not self._ended.is_set():
            self._on_end(f"rank 0 has not answered for {LOST_S:.0f} s" if silent else "rank 0 has ended")


def address_of(name: str, port: int, *, own: bool) -> str:
    """Return the IP address of rank 0.

    Args:
        name: Host name or address.
        port: Its port.
        own: Whether this process is rank 0, and other hosts must be able to reach the address.

    Raises:
        RunError: The name is unknown, or means this host only.
    """
    try:
        found = [str(entry[4][0]) for entry in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)]
    except OSError as error:
        raise RunError(
            f"the address of rank 0, {name}, is unknown: {error}", remedy="set MASTER_ADDR to its IP address"
        ) from None
    address = next((one for one in found if ":" not in one), found[0])
    if own and address.startswith("127.") and name != "localhost" and not name.startswith("127."):
        raise RunError(
            f"the address of rank 0, {name}, is {address} on its own host: other hosts cannot reach it",
            remedy="set MASTER_ADDR to the IP address of this host in the network of the cluster",
        )
    return address


def _facts() -> dict[str, Any]:
    return {"host": socket.gethostname(), "boot_id": boot_id(), "pid": os.getpid()}


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _beat(connection: socket.socket, stop: threading.Event) -> None:
    while not stop.wait(BEAT_S):
        try:
            connection.sendall(b"{}\n")
        except OSError:
            return


def _wait_for_end(lines: Any, failed: Callable[[str], None] | None = None) -> tuple[dict[str, Any], bool]:
    """Read until the connection ends; return what was said last, and whether the other side just went silent."""
    said: dict[str, Any] = {}
    while True:
        try:
            line = lines.readline(_LINE)
        except TimeoutError:
            return said, True
        except (OSError, ValueError):
            return said, False
        if not line:
            return said, False
        with contextlib.suppress(ValueError, TypeError):
            said |= json.loads(line)
            if failed is not None and said.get("error"):
                failed(str(said["error"]))
