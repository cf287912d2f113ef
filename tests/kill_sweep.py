"""Kill processes of a sweep at random instants and compare its tables with those of an unbroken one.

    PYTHONPATH=tests:tests/integration python tests/kill_sweep.py FOLDER [local slurm ray] [--kills 50] [--seed 0]

The sweep has 4 patch sizes × 2 seeds × 2 folds, in deterministic mode. Any process of the study may be hit:
dispatcher, task, actor, supervisor, trainer, evaluation. Slurm and Ray are clusters of this machine, as in the tests.
The unbroken sweep is kept in FOLDER and used again.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab import processes_of
from test_experiments import tables_of

import patchcore as pc
from patchcore.cli import main as patchcore
from patchcore.errors import PatchcoreError
from patchcore.experiments.executors import is_worked_on
from patchcore.experiments.folder import ExperimentFolder, Place
from patchcore.experiments.start import continue_experiment

SETTINGS = (
    "train.steps_per_epoch=3", "train.batch_size=2", "train.folds=3", "optim.warmup_steps=1", "train.tensorboard=false",
    "train.deterministic=true", "train.threads=1", "train.checkpoint_minutes=0.001",
)  # fmt: skip
SWEEP = [
    "--over", "patch_size=4,8,16,8x8x4", "--seeds", "2", "--folds", "0,1", "--preset", "tiny", "--steps", "12",
    *(f"--set={text}" for text in SETTINGS), "--name", "s", "--detach",
]  # fmt: skip
EXECUTORS = {
    "local": ["--slots", "2"],
    "slurm": ["--executor", "slurm", "--sbatch=--partition=low", "--sbatch=--time=60"],
    "ray": ["--executor", "ray"],
}


def done(folder: ExperimentFolder) -> bool:
    """Return whether all points have finished."""
    return all(place is Place.DONE for place, _ in folder.places().values())


def run(study: Path, executor: str, kills: int, seed: int) -> Counter[str]:
    """Run the sweep, and kill processes on the way. Return how often each kind of process was hit."""
    if patchcore(["sweep", str(study), *SWEEP, *EXECUTORS[executor]]):
        raise SystemExit("the sweep did not start")
    folder = ExperimentFolder(study / "experiments" / "s")
    draw, hit = random.Random(seed), Counter[str]()
    while not done(folder):
        time.sleep(draw.uniform(1, 9) if hit.total() < kills else 1)
        if not is_worked_on(folder):
            try:
                continue_experiment(folder)
            except PatchcoreError as error:
                print(f"  the call was refused: {error}", flush=True)
            continue
        targets = processes_of(folder)
        if targets and hit.total() < kills:
            pid = draw.choice(targets)
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            kind = next((word for word in words if word.startswith("patchcore.")), words[0])
            os.kill(pid, signal.SIGKILL)
            hit[kind] += 1
    return hit


@contextmanager
def cluster_of(executor: str, folder: Path) -> Iterator[bool]:
    """Start the cluster of an executor. The value says whether there is one."""
    if executor != "slurm":
        yield True
        return
    from slurm_cluster import SlurmCluster, slurm_root

    root = slurm_root()
    if root is None:
        yield False
        return
    home = folder / "slurm-cluster"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    cluster = SlurmCluster(home, root)
    before = dict(os.environ)
    os.environ.update(cluster.env)
    try:
        yield True
    finally:
        os.environ.clear()
        os.environ.update(before)
        cluster.end()


def main() -> None:
    """Kill sweeps on the executors that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("executors", nargs="*", default=[*EXECUTORS])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    base, whole = options.folder / "base" / "study", options.folder / "whole" / "study"
    if not (base / "plan.json").exists():
        pc.make_phantoms(options.folder / "data", cases=6, shape=(64, 64, 48), seed=1)
        pc.analyze(options.folder / "data", base, lesion_label=2)
        pc.plan_patch_size(base, candidates=[4, 8, 16], window_size=16, figure=False)
        pc.prepare(base)
    if not whole.exists():
        shutil.copytree(base, whole)
    began = time.monotonic()
    run(whole, "local", 0, 0)
    patchcore(["report", str(whole), "s"])
    print(f"unbroken: {time.monotonic() - began:.0f} s", flush=True)
    unbroken = tables_of(whole / "experiments" / "s" / "report")
    failed = False
    for executor in options.executors:
        with cluster_of(executor, options.folder) as there:
            if not there:
                print(f"{executor}: not installed")
                continue
            study = options.folder / executor / "study"
            shutil.rmtree(study.parent, ignore_errors=True)
            shutil.copytree(base, study)
            began = time.monotonic()
            hit = run(study, executor, options.kills, options.seed)
            patchcore(["report", str(study), "s"])
        broken = tables_of(study / "experiments" / "s" / "report")
        # The table of the protocol holds dates, hosts and versions.
        different = [name for name in unbroken if name != "protocol.csv" and unbroken[name] != broken.get(name)]
        missing = unbroken.keys() ^ broken.keys()
        failed |= bool(different or missing or hit.total() < options.kills)
        print(
            f"{executor}: {hit.total()} kills in {time.monotonic() - began:.0f} s ({dict(hit)}); "
            f"{len(unbroken)} tables, different: {different or 'none'}, missing: {sorted(missing) or 'none'}",
            flush=True,
        )
    sys.exit(failed)


if __name__ == "__main__":
    main()
