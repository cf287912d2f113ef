"""The Ray executor: one detached actor per slot, which trains points one after the other.

    python -m patchcore.experiments.ray EXPERIMENT [--slots N] [--address ADDRESS]

starts the actors and looks after them. If this process ends, they go on; started again, it finds them. An actor that is
lost is replaced, and its successor continues the point: it works under the same name.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import time
from typing import Any, Final

from patchcore.errors import ConfigError, MissingExtraError, PatchcoreError, RunError
from patchcore.experiments.folder import ExperimentFolder, Place, dispatcher_lock
from patchcore.interrupts import StopSignal
from patchcore.locks import FileLock
from patchcore.study import Study
from patchcore.threads import core_count
from patchcore.types import ExitCode

__all__ = ["connect", "work"]

_POLL_S: Final = 1.0
_NAMESPACE: Final = "patchcore"


class Slot:
    """The body of an actor: starts a worker process and waits for it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def work(self, experiment: str, owner: str, env: dict[str, str]) -> int:
        """Work on points until none is left. Return the exit code of the worker."""
        import ray

        if self._process is not None and self._process.poll() is None:
            return self._process.wait()  # who looks after the actor was started again
        # A task without a GPU would see all of them, and Ray sets OMP_NUM_THREADS to 1.
        gpus = ",".join(map(str, ray.get_gpu_ids()))
        command = [sys.executable, "-P", "-m", "patchcore.experiments.worker", experiment, "--owner", owner]
        self._process = subprocess.Popen(command, env=os.environ | env | {"CUDA_VISIBLE_DEVICES": gpus})
        return self._process.wait()


def work(experiment: str, *, slots: int | None, address: str | None, stopping: StopSignal) -> bool:
    """Look after the actors of an experiment until no point is left, or a signal asks for the end.

    Args:
        experiment: Folder of the experiment; all nodes must see it under this path.
        slots: Number of actors [default: one per GPU of the cluster, else one].
        address: Address of the cluster [default: RAY_ADDRESS, the cluster of this machine, or a new one].
        stopping: Whether the end was asked for.

    Returns:
        Whether all points are done.

    Raises:
        MissingExtraError: Ray is not installed.
        LockedError: Another process looks after the experiment.
        RunError: The cluster does not answer, or has too few resources.
    """
    try:
        import ray
    except ImportError:
        raise MissingExtraError("the Ray executor needs ray", remedy="pip install 'patchcore[ray]'") from None
    folder = ExperimentFolder(experiment)
    lock = FileLock(
        dispatcher_lock(folder.path, socket.gethostname()),
        what="the experiment",
        remedy="it is worked on already; watch it with patchcore experiments show",
    )
    with lock:
        connect(ray, address)
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        gpus = int(resources.get("GPU", 0))
        count = slots or max(1, gpus)
        if gpus and count > gpus:
            raise ConfigError(f"--slots {count}", expected=f"at most the {gpus} GPUs of the cluster")
        cpus = max(1, int(resources.get("CPU", 1)) // count)
        # A training with a GPU is fed by the cores of its share; one without computes on them.
        env = {"OMP_NUM_THREADS": str(cpus)} | {
            key: os.environ[key] for key in ("PYTHONPATH", "PATCHCORE_NO_LOCKS") if key in os.environ
        }
        wanted = {"num_gpus": 1 if gpus else 0, "num_cpus": 0 if gpus else min(cpus, core_count())}
        actors = {number: _Actor(ray, folder, number, wanted, env) for number in range(count)}
        asked = False
        while True:
            over = [actor.look() for actor in actors.values()]
            if (stopping.received or folder.stop_file.exists()) and not asked:
                asked = True
                folder.stop_file.touch()  # workers on other machines look at it
            if all(over):
                break
            time.sleep(_POLL_S)
        for actor in actors.values():
            actor.end()
        ray.shutdown()
    return all(place is Place.DONE for place, _ in folder.places().values())


def connect(ray: Any, address: str | None) -> None:
    """Connect to the cluster at an address; to the one of this machine, or a new one, if none is given.

    Raises:
        RunError: No cluster answers there, or it has another version or token.
    """
    try:
        ray.init(address=address or os.environ.get("RAY_ADDRESS") or "auto", namespace=_NAMESPACE, log_to_driver=False)
    except ConnectionError:
        if address or os.environ.get("RAY_ADDRESS"):
            raise RunError(
                f"no Ray cluster answers at {address or os.environ['RAY_ADDRESS']}",
                remedy="start it with ray start --head, or correct the address",
            ) from None
        ray.init(namespace=_NAMESPACE, include_dashboard=False, log_to_driver=False)
    except (RuntimeError, ValueError, OSError) as error:
        raise RunError(
            f"the Ray cluster cannot be used: {error}", remedy="all nodes need the same Ray and token"
        ) from None


class _Actor:
    """A slot: its actor, and the call that it works on."""

    def __init__(
        self, ray: Any, folder: ExperimentFolder, number: int, wanted: dict[str, int], env: dict[str, str]
    ) -> None:
        self._ray, self._folder, self._wanted, self._env = ray, folder, wanted, env
        self._owner = f"ray-{number}"
        # Experiments of several studies may run on one cluster.
        self._name = f"{Study(folder.study).study_id}-{folder.protocol.name}-{number}"
        self._restarts = 0
        self._handle, self._call = self._start()

    def _start(self) -> tuple[Any, Any]:
        """Find the actor, or start it; let it work."""
        actor = self._ray.remote(Slot).options(
            name=self._name, lifetime="detached", get_if_exists=True, max_concurrency=2, **self._wanted
        )
        handle = actor.remote()
        return handle, handle.work.remote(str(self._folder.path.resolve()), self._owner, self._env)

    def look(self) -> bool:
        """Return whether the slot has nothing left to do; replace an actor that is lost."""
        done, _ = self._ray.wait([self._call], timeout=0)
        if not done:
            return False
        try:
            code, what = int(self._ray.get(self._call)), "its worker was killed"
        except self._ray.exceptions.RayError as error:
            code, what = -1, f"its actor was lost ({type(error).__name__})"
        if code >= 0 or self._folder.stop_file.exists():
            return True
        self._restarts += 1
        print(f"{self._owner}: {what}; it starts again", flush=True)
        time.sleep(min(30, self._restarts))
        self._handle, self._call = self._start()
        return False

    def end(self) -> None:
        """Remove the actor."""
        try:
            self._ray.kill(self._handle)
        except self._ray.exceptions.RayError:
            return


def main(argv: list[str] | None = None) -> int:
    """Run the process that looks after the actors."""
    parser = argparse.ArgumentParser(prog="python -m patchcore.experiments.ray", description=__doc__)
    parser.add_argument("experiment")
    parser.add_argument("--slots", type=int)
    parser.add_argument("--address")
    arguments = parser.parse_args(argv)
    try:
        work(arguments.experiment, slots=arguments.slots, address=arguments.address, stopping=StopSignal())
    except (PatchcoreError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return int(ExitCode.ERROR)
    return int(ExitCode.DONE)


if __name__ == "__main__":
    sys.exit(main())
