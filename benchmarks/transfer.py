"""Run the paper's transfer experiment: pre-train on large lesions, fine-tune on small lesions, at several patch sizes.

    python benchmarks/transfer.py lidc     FOLDER --source DATA/sts --target DATA/lidc_nodules
    python benchmarks/transfer.py phantoms FOLDER

For each patch size the script runs four trainings: (1) on the source; (2) on the target from the weights of (1); (3) on
the target from scratch with as many steps as (2); (4) on the target from scratch with the steps of (1) and (2)
together. Trainings (3) and (4) are the controls. The target's validation fold is then scored by DSC with 95 % bootstrap
intervals over patients, by size of the largest lesion, and per lesion. The source uses the patch size, spacing, window
and HU range of the target (`plan --like`). If you start the script again, it runs only the missing parts.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from patchcore.runs import RunReader

PATCHCORE = str(Path(sys.executable).with_name("patchcore"))


@dataclass(frozen=True)
class Protocol:
    """Settings and number of steps of the trainings."""

    window: str
    pretrain_steps: int
    finetune_steps: int
    settings: tuple[str, ...]


_COMMON = ("model.preset=small", "model.feature_size=8", "optim.lr=8e-4", "validation.every_epochs=100000")
PROTOCOLS = {
    "lidc": Protocol("48,48,16", 700, 400, (*_COMMON, "train.batch_size=4")),
    "phantoms": Protocol("48", 500, 300, (*_COMMON, "train.batch_size=2", "train.folds=2")),
}


def run(*arguments: str) -> str:
    """Run a patchcore command and return its output. If the command fails, print its output and exit."""
    found = subprocess.run([PATCHCORE, *arguments], capture_output=True, encoding="utf-8", check=False)
    if found.returncode:
        raise SystemExit(f"patchcore {' '.join(arguments)}\n{found.stdout}{found.stderr}")
    return found.stdout


def study_of(folder: Path, name: str, data: Path, patch: int, protocol: Protocol, like: Path | None = None) -> Path:
    """Return a study with a plan for one patch size. Cases are measured and prepared once for all patch sizes."""
    study, first = folder / f"{name}-{patch}", folder / name
    if (study / "store.zarr").exists():
        return study
    if not first.exists():
        run("analyze", str(data), str(first))
    if like is None:
        run("plan", str(first), "--window", protocol.window, "--candidates", str(patch))
    else:
        run("plan", str(first), "--like", str(like))
    run("prepare", str(first))
    unfinished = folder / f".{name}-{patch}"
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(first, unfinished)
    unfinished.rename(study)
    return study


class Runs:
    """Trainings by name, stored in a file. Finished trainings are not repeated."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "runs.json"
        self.found: dict[str, str] = json.loads(self._path.read_text(encoding="utf-8")) if self._path.exists() else {}

    def train(self, name: str, study: Path, steps: int, protocol: Protocol, init_from: Path | None = None) -> Path:
        """Train unless this training has finished before, and return the run folder."""
        if name not in self.found:
            print(f"{name}: {steps} steps", flush=True)
            settings = [part for text in protocol.settings for part in ("--set", text)]
            init = [] if init_from is None else ["--init-from", str(init_from)]
            run("train", str(study), "--steps", str(steps), "--name", name, "--foreground", *settings, *init)
            newest = max((study / "runs").glob(f"*-{name}-*"), key=lambda path: path.name)
            self.found[name] = str(newest)
            self._path.write_text(json.dumps(self.found, indent=1))
        return Path(self.found[name])


def interval(values: list[float], patients: list[str], draws: int = 10_000) -> tuple[float, float]:
    """Return the 2.5th and 97.5th percentile of the mean, by bootstrap over patients."""
    names = sorted(set(patients))
    index = {name: number for number, name in enumerate(names)}
    sums, counts = np.zeros(len(names)), np.zeros(len(names))
    for value, patient in zip(values, patients, strict=True):
        sums[index[patient]] += value
        counts[index[patient]] += 1
    chosen = np.random.default_rng(0).integers(len(names), size=(draws, len(names)))
    means = sums[chosen].sum(1) / counts[chosen].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def score_run(study: Path, run_folder: Path) -> dict[str, Any]:
    """Evaluate a run and return a summary."""
    report: dict[str, Any] = json.loads(run("evaluate", str(study), str(run_folder), "--json"))
    cases = [case for case in report["cases"] if case["dsc"] is not None]
    values, patients = [case["dsc"] for case in cases], [case["patient"] for case in cases]
    found = {
        "dsc": float(np.mean(values)),
        "interval": interval(values, patients),
        "n": len(values),
        "ball": report["ball"]["mean"],
        "bins": {item["name"]: (item["mean_dsc"], item["n"]) for item in report["bins"] if item["n"]},
        "by_case": dict(zip([case["case_id"] for case in cases], values, strict=True)),
        "patients": dict(zip([case["case_id"] for case in cases], patients, strict=True)),
    }
    found["lesions"], found["lesion_bins"] = report["lesions"], report["lesion_bins"]
    return found


def smoothed_loss(run_folder: Path, over: int = 30) -> np.ndarray:
    """Return the training loss per step as a mean over the last `over` steps. The first `over` - 1 values are NaN."""
    series = RunReader(run_folder).poll().series["train/loss"]
    sums = np.cumsum(np.concatenate(([0.0], np.asarray(series.values, dtype=np.float64))))
    ends = np.arange(1, len(sums))
    smoothed: np.ndarray = (sums[ends] - sums[np.maximum(ends - over, 0)]) / over
    smoothed[: over - 1] = np.nan
    return smoothed


def main() -> None:
    """Run the experiment and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("protocol", choices=PROTOCOLS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--source", type=Path, help="Data set with large lesions.")
    parser.add_argument("--target", type=Path, help="Data set with small lesions.")
    parser.add_argument("--patch-sizes", default="8,16")
    arguments = parser.parse_args()
    folder, protocol = arguments.folder, PROTOCOLS[arguments.protocol]
    folder.mkdir(parents=True, exist_ok=True)
    source, target = arguments.source, arguments.target
    if arguments.protocol == "phantoms":
        source, target = folder / "large", folder / "small"
        for path, cases in ((source, "30"), (target, "40")):
            if not path.exists():
                run("phantom", str(path), "--preset", path.name, "--cases", cases, "--shape", "96")

    runs = Runs(folder)
    results_path = folder / "results.json"
    results: dict[str, Any] = json.loads(results_path.read_text(encoding="utf-8")) if results_path.exists() else {}

    def keep(name: str, study: Path, path: Path) -> None:
        if name not in results:
            results[name] = score_run(study, path)
            results_path.write_text(json.dumps(results, indent=1))

    for patch in map(int, arguments.patch_sizes.split(",")):
        to = study_of(folder, "target", target, patch, protocol)
        of = study_of(folder, "source", source, patch, protocol, like=to)
        before, after = protocol.pretrain_steps, protocol.finetune_steps
        pretrained = runs.train(f"pretrain-{patch}", of, before, protocol)
        trained = {
            "pre-trained, fine-tuned": runs.train(f"finetune-{patch}", to, after, protocol, init_from=pretrained),
            "scratch, fine-tuning steps": runs.train(f"scratch-{patch}", to, after, protocol),
            "scratch, all steps": runs.train(f"scratch-long-{patch}", to, before + after, protocol),
        }
        for name, path in trained.items():
            keep(f"patch {patch}, {name}", to, path)

    sizes = list(map(int, arguments.patch_sizes.split(",")))
    for patch, crossing in zip(sizes, reversed(sizes), strict=True):
        # Start from weights of another patch size. The score is the number of steps until the loss is as low as the
        # last loss of the training from scratch.
        if patch != crossing:
            to = folder / f"target-{patch}"
            source_run = Path(runs.found[f"pretrain-{crossing}"])
            crossed = runs.train(
                f"finetune-{patch}-from-{crossing}", to, protocol.finetune_steps, protocol, init_from=source_run
            )
            keep(f"patch {patch}, from patch {crossing}", to, crossed)
    for name in [name for name in runs.found if name.startswith("finetune")]:
        scratch = smoothed_loss(Path(runs.found[f"scratch-{name.split('-')[1]}"]))
        tuned = smoothed_loss(Path(runs.found[name]))
        there = np.flatnonzero(tuned <= scratch[-1])
        steps = f"{there[0] + 1}" if len(there) else f"more than {len(tuned)}"
        print(f"{name:<24} steps to the last loss from scratch ({scratch[-1]:.3f} after {len(scratch)} steps): {steps}")

    for name, found in results.items():
        low, high = found["interval"]
        bins = ", ".join(f"{size} {mean:.2f} (n {n})" for size, (mean, n) in found["bins"].items())
        line = f"{name:<42} DSC {found['dsc']:.3f} [{low:.3f}, {high:.3f}] n {found['n']}"
        line += f", ball {found['ball']:.3f}; {bins}"
        lesions = found["lesions"]
        line += f"; lesions found {lesions['found']}/{lesions['lesions']}, precision {lesions['precision'] or 0:.2f}"
        line += " (" + ", ".join(f"{b['name']} {b['found']}/{b['lesions']}" for b in found["lesion_bins"]) + ")"
        print(line)
        for other, reference in results.items():
            if other.split(",")[0] == name.split(",")[0] and other != name and "pre-trained" in name:
                common = sorted(set(found["by_case"]) & set(reference["by_case"]))
                differences = [found["by_case"][case] - reference["by_case"][case] for case in common]
                low, high = interval(differences, [found["patients"][case] for case in common])
                label = other.partition(", ")[2]
                mean = float(np.mean(differences))
                print(f"    minus {label:<32} {mean:+.3f} [{low:+.3f}, {high:+.3f}] paired, n {len(common)}")


if __name__ == "__main__":
    main()
