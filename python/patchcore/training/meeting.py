"""How the ranks that a launcher has started find each other: torch's store at the address of rank 0.

Rank 0, the trainer of the run, serves the store (or uses torchrun's) and says there which run is trained. The other
ranks read this, so that they need no run of their own, and write nothing into the run folder. The address is the
user's; torch's store asks nobody for a password, so the network has to be trusted.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import psutil
from torch._C._distributed_c10d import PrefixStore, TCPStore

from patchcore.errors import ConfigError, RunError
from patchcore.launched import Launched
from patchcore.training.lifeline import Lifeline, Lifelines, address_of

__all__ = ["STORE_TIMEOUT", "Guest", "Host", "listen", "network_interface"]

# Long, because rank 0 may write a large checkpoint to a slow disk. Other means find dead ranks, not this timeout.
STORE_TIMEOUT: Final = timedelta(hours=12)
_JOIN_S: Final = 1800.0
"""Time in which all processes of a launcher have to start."""
_CONNECT_S: Final = 60.0
_POLL_S: Final = 0.1
_KEY: Final = "meeting"


class Host:
    """Rank 0's side. A context manager.

    Args:
        place: The place of this process.
        run: The run folder.
        attempt: Number of the attempt.

    Raises:
        RunError: The address is not one of this host, or the port is in use.
    """

    rank: Final = 0

    def __init__(self, place: Launched, run: Path, attempt: int) -> None:
        address = address_of(place.address, place.port, own=place.local_world < place.world)
        store = _torchruns(address, place) if place.served else listen(address, place.port)
        self.store: Any = PrefixStore("patchcore", store)
        self.world = place.world
        self.lifelines = Lifelines(address, place.world)
        self._address, self._place = address, place
        self.store.set(
            _KEY,
            json.dumps(
                {
                    "run": str(run.resolve()),
                    "attempt": attempt,
                    "port": self.lifelines.port,
                    "secret": self.lifelines.secret,
                }
            ),
        )

    def __enter__(self) -> Host:
        self.lifelines.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self.lifelines.__exit__(kind, error, trace)

    def wait(self, look: Callable[[list[int]], None]) -> list[dict[str, Any]]:
        """Wait until every rank is there; return host, boot id and process id of each.

        Args:
            look: Called with the ranks that are missing; its exceptions are passed on.

        Raises:
            RunError: A rank did not come in time.
        """
        deadline = time.monotonic() + _JOIN_S
        while missing := self.lifelines.missing:
            if time.monotonic() > deadline:
                raise RunError(
                    f"{len(missing)} of {self.world} ranks did not join within {_JOIN_S / 60:.0f} minutes, the first "
                    f"of them rank {missing[0]}",
                    remedy=f"read what it printed, and check that its host reaches {self._address} port "
                    f"{self._place.port}; then resume the run",
                )
            look(missing)
            time.sleep(_POLL_S)
        return [self.lifelines.hosts[rank] for rank in range(self.world)]


class Guest:
    """The side of a rank above 0: joins the training of rank 0.

    Args:
        place: The place of this process.
        on_end: As for :class:`Lifeline`.

    Attributes:
        run: The run folder of rank 0.
        attempt: Number of the attempt.

    Raises:
        RunError: Rank 0 cannot be reached, or its run folder does not exist here.
    """

    def __init__(self, place: Launched, on_end: Callable[[str | None], None]) -> None:
        self.rank, self.world = place.rank, place.world
        address = address_of(place.address, place.port, own=False)
        deadline = time.monotonic() + _JOIN_S
        while True:
            try:
                store = TCPStore(
                    address, place.port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=_CONNECT_S)
                )
                break
            except RuntimeError as error:
                # Also ends the connection attempts of a process that is asked to end in the meantime.
                if time.monotonic() > deadline:
                    raise RunError(
                        f"rank 0 did not answer at {place.address} port {place.port} for {_JOIN_S / 60:.0f} minutes",
                        remedy="read what rank 0 printed, and check MASTER_ADDR and MASTER_PORT",
                    ) from error
        self.store: Any = PrefixStore("patchcore", store)
        store.set_timeout(timedelta(seconds=_JOIN_S))
        try:
            found = json.loads(self.store.get(_KEY))
        except RuntimeError as error:
            raise RunError(f"rank 0 ended before the training began ({error})", remedy="read its output") from None
        store.set_timeout(STORE_TIMEOUT)
        self.run, self.attempt = Path(found["run"]), int(found["attempt"])
        self.lifeline = Lifeline(address, found["port"], self.rank, found["secret"], on_end)
        if not (self.run / "run.json").exists():
            problem = f"the run folder {self.run} does not exist on {socket.gethostname()}"
            self.lifeline.say(problem)
            self.lifeline.close()
            raise RunError(problem, remedy="keep the study on a file system that all hosts share, at the same path")


def _torchruns(address: str, place: Launched) -> TCPStore:
    return TCPStore(address, place.port, is_master=False, wait_for_workers=False, timeout=STORE_TIMEOUT)


def listen(address: str, port: int) -> TCPStore:
    """Serve a store at one address only; by itself torch's store listens on every interface.

    Args:
        address: IP address of this host.
        port: The port; 0: any that is free.

    Raises:
        RunError: The address is not one of this host, or the port is in use.
    """
    listening = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a resume uses the same port at once
        listening.bind((address, port))
    except OSError as error:
        listening.close()
        raise RunError(
            f"rank 0 cannot listen at {address} port {port}: {error.strerror}",
            remedy="set MASTER_ADDR to the address of the host of rank 0, and MASTER_PORT to a port that is free",
        ) from None
    port = listening.getsockname()[1]
    return TCPStore(
        address,
        port,
        is_master=True,
        wait_for_workers=False,
        timeout=STORE_TIMEOUT,
        master_listen_fd=listening.detach(),
    )


def network_interface(place: Launched) -> str:
    """Return the name of the network interface by which this host reaches rank 0.

    Raises:
        ConfigError: There is none.
    """
    address = address_of(place.address, place.port, own=False)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((address, place.port))  # sends nothing: the kernel only chooses the way
        own = str(probe.getsockname()[0])
        for name, addresses in psutil.net_if_addrs().items():
            if own in [one.address.partition("%")[0] for one in addresses]:
                return str(name)
    raise ConfigError(
        f"no network interface of {socket.gethostname()} reaches {place.address}",
        remedy="set GLOO_SOCKET_IFNAME to the interface of the cluster's network, as ip address lists it",
    )
