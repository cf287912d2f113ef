"""Measure what an executor adds to a training: ``PYTHONPATH=tests python -m benchmarks.executors [local slurm ray]``.

A sweep of four points, one after the other, is compared with the same trainings and evaluations as bare commands. Slurm
and Ray are real clusters of this machine, as in the tests; the time in their queues counts too, so the figures are
upper bounds. Bars: 2 s per point on this machine, 10 s on Slurm and Ray.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import patchcore as pc
from patchcore.experiments.folder import ExperimentFolder, Place

POINTS = 4
SETTINGS = ("train.steps=40", "train.steps_per_epoch=40", "train.threads=1")
SLURM = ("--executor", "slurm", "--slots", "1", "--sbatch=--partition=low", "--sbatch=--time=10")


def run(*arguments: object, env: dict[str, str] | None = None) -> float:
    """Run a command of patchcore and return its wall time."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "patchcore", *map(str, arguments)],
        check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=os.environ | (env or {}),
    )  # fmt: skip
    if done.returncode not in (0, 3):
        raise SystemExit(done.stdout + done.stderr)
    return time.perf_counter() - began


def small_study(folder: Path) -> Path:
    """Return a study of small phantoms with a plan."""
    pc.make_phantoms(folder / "data", cases=6, shape=(64, 64, 48), seed=1)
    pc.analyze(folder / "data", folder / "study", lesion_label=2)
    pc.plan_patch_size(folder / "study", candidates=[8, 16], window_size=32, figure=False)
    pc.prepare(folder / "study")
    return folder / "study"


def overhead(study: Path, name: str, options: tuple[str, ...], env: dict[str, str], bare: float) -> None:
    """Run a sweep and print what it adds to each point."""
    settings = [f"--set={one}" for one in SETTINGS]
    over = "optim.lr=1e-4,2e-4,3e-4,4e-4"
    began = time.perf_counter()
    run("sweep", study, "--over", over, "--name", name, "--preset", "tiny", *settings, *options, "--detach", env=env)
    folder = ExperimentFolder(study / "experiments" / name)
    while not all(place is Place.DONE for place, _ in folder.places().values()):
        time.sleep(0.1)
    each = (time.perf_counter() - began) / POINTS
    print(f"{name}: {each:.2f} s per point, {each - bare:+.2f} s over the bare commands", flush=True)


def main() -> None:
    """Measure the executors that are named."""
    with tempfile.TemporaryDirectory() as temporary:
        study = small_study(Path(temporary))
        settings = [f"--set={one}" for one in SETTINGS]
        times = []
        for _ in range(3):
            trained = run("train", study, "--preset", "tiny", "--foreground", *settings)
            times.append(trained + run("evaluate", study, "--no-postprocess"))
        bare = sorted(times)[1]
        print(f"bare: {bare:.2f} s per training with its evaluation, median of 3", flush=True)
        for name in sys.argv[1:] or ("local", "slurm", "ray"):
            if name == "local":
                overhead(study, name, ("--slots", "1"), {}, bare)
            elif name == "slurm":
                from slurm_cluster import SlurmCluster, slurm_root

                root = slurm_root()
                if root is None:
                    print("slurm: not installed, and not to be downloaded")
                    continue
                (Path(temporary) / "slurm").mkdir()
                cluster = SlurmCluster(Path(temporary) / "slurm", root)
                try:
                    overhead(study, name, SLURM, cluster.env, bare)
                finally:
                    cluster.end()
            else:
                overhead(study, name, ("--executor", "ray", "--slots", "1"), {}, bare)


if __name__ == "__main__":
    main()
