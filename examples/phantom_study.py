"""Which patch size is best, and does the rule find it? The paper's experiment on phantoms whose answer is known.

    python examples/phantom_study.py FOLDER [--cohorts 6,8,12,16,24,32] [--results docs/phantom-study]
    python examples/phantom_study.py FOLDER --transfer

Six cohorts have the same lesions in mm and different spacings, so that the ideal edge p* is 6 to 32 voxels. On each of
them, networks with patch sizes 8, 12, 16 and 24 are trained under one protocol (``patchcore sweep``), and the choice of
the rule is scored (``patchcore report``). With ``--transfer``, networks are pre-trained on the cohort with p* 24 and
fine-tuned on the one with p* 8. Every step is a patchcore command; the script can be stopped and started again at any
time. The tables of finished cohorts are copied to ``--results``; cohorts that are there already are not trained again.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import patchcore as pc
from patchcore.phantoms import PhantomSpec, cases_without_room
from patchcore.types import IntTriple

MEDIAN_MM3, SIGMA, LARGEST_MM3 = 16_000.0, 0.5, 45_000.0
CASES, FOLDS, PATCH_SIZES = 60, 3, (8, 12, 16, 24)
SETTINGS = (
    "model.preset=small", "model.hidden_size=192", "model.mlp_dim=768", "model.num_heads=6", "model.feature_size=8",
    "train.batch_size=2", f"train.folds={FOLDS}", "optim.lr=8e-4", "optim.ema=0.99", "train.tensorboard=false",
    "validation.mirror=false", "validation.overlap=0.25",
)  # fmt: skip


@dataclass(frozen=True)
class Cohort:
    """Phantoms with one ideal edge: p* [voxels], spacing [mm], and size [voxels] of the volumes.

    A volume has at least 129 mm, because the liver grows with it: in a smaller one there is no room for the lesions.
    From p* 16 on it is filled by windows of 48³ that overlap by a quarter.
    """

    edge: int
    spacing_mm: float
    size: int

    @property
    def name(self) -> str:
        """Name of the folders of the cohort."""
        return f"p{self.edge}"

    @property
    def spec(self) -> PhantomSpec:
        """How the phantoms are made."""
        shape: IntTriple = (self.size, self.size, self.size)
        return PhantomSpec(
            shape=shape,
            spacing=(self.spacing_mm,) * 3,
            spacing_jitter=0.02,
            lesions=(1, 3),
            median_volume_mm3=MEDIAN_MM3,
            volume_sigma=SIGMA,
            volume_range_mm3=(4000.0, LARGEST_MM3),
        )


COHORTS = {
    cohort.edge: cohort
    for cohort in (
        Cohort(6, 4.3, 48), Cohort(8, 3.2, 48), Cohort(12, 2.15, 60), Cohort(16, 1.61, 84), Cohort(24, 1.08, 120),
        Cohort(32, 0.85, 156),
    )
}  # fmt: skip


def patchcore(*arguments: str) -> None:
    """Print and run one patchcore command. If it fails, exit with its exit code."""
    print(f"\n$ patchcore {' '.join(arguments)}", flush=True)
    done = subprocess.run([sys.executable, "-m", "patchcore", *arguments], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def study_of(folder: Path, cohort: Cohort) -> Path:
    """Make the phantoms of a cohort, measure and plan them."""
    data, study = folder / f"{cohort.name}-data", folder / cohort.name
    if not (data / "dataset.json").exists():
        print(
            f"\nphantoms of {cohort.name}: {CASES} cases, {cohort.size}³ voxels of {cohort.spacing_mm} mm", flush=True
        )
        pc.make_phantoms(data, cases=CASES, seed=cohort.edge, spec=cohort.spec)
    if crowded := cases_without_room(data):
        sys.exit(f"{len(crowded)} phantoms of {cohort.name} have no lesion: its volumes are too small")
    if not (study / "plan.json").exists():
        patchcore("analyze", str(data), str(study), "--lesion-label", "2")
        patchcore("plan", str(study), "--window", "48")
    return study


def settings_of(steps: int, validations: int = 5) -> list[str]:
    """Return the settings of all trainings, with this number of validations in each."""
    every = [f"train.steps_per_epoch={max(1, steps // 20)}", f"validation.every_epochs={20 // validations}"]
    return [part for text in (*SETTINGS, *every) for part in ("--set", text)]


def keep(report: Path, results: Path) -> None:
    """Copy the tables and drawings of a report; the page itself stays, because all of it is in the tables."""
    unfinished = results.with_name(f".{results.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for path in sorted(report.iterdir()):
        if path.suffix in (".csv", ".md", ".svg", ".png"):
            shutil.copyfile(path, unfinished / path.name)
    shutil.rmtree(results, ignore_errors=True)
    unfinished.rename(results)


def summary(results: Path) -> str:
    """Return the table over the cohorts that are finished: DSC and regret of each patch size, and of each rule."""
    lines = [
        f"| p* | {' | '.join(f'DSC, patch {size}' for size in PATCH_SIZES)} | best | the rule chooses | its regret |",
        "|---" * (len(PATCH_SIZES) + 4) + "|",
    ]
    for cohort in COHORTS.values():
        folder = results / cohort.name
        if not (folder / "regret.csv").exists():
            continue
        with (folder / "dsc.csv").open(encoding="utf-8") as file:
            dsc = {row["setting"]: row for row in csv.DictReader(file)}
        with (folder / "rules.csv").open(encoding="utf-8") as file:
            rule = next(row for row in csv.DictReader(file) if row["rule"] == "mean-volume")
        cells = []
        for size in PATCH_SIZES:
            row = dsc[f"patch {size}"]
            mark = "" if row["converged"] == "yes" else " (not converged)"
            cells.append(f"{float(row['dsc']):.3f} [{float(row['dsc_low']):.3f}, {float(row['dsc_high']):.3f}]{mark}")
        best = max(PATCH_SIZES, key=lambda size: float(dsc[f"patch {size}"]["dsc"]))
        regret = " to ".join(f"{float(rule[key]):+.3f}" for key in ("regret_low", "regret_high") if rule[key])
        lost = f"{float(rule['regret']):+.3f} [{regret}]" if rule["regret"] else "not trained"
        lines.append(f"| {float(rule['edge']):.1f} | {' | '.join(cells)} | {best} | {rule['patch_size']} | {lost} |")
    return "\n".join(lines)


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cohorts", default=",".join(map(str, COHORTS)))
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--results", type=Path, help="Folder for the tables of finished cohorts.")
    parser.add_argument("--transfer", action="store_true", help="Pre-train on p* 24, fine-tune on p* 8.")
    options = parser.parse_args()
    results = options.results or options.folder / "results"
    common = [*settings_of(options.steps), "--seeds", str(options.seeds), "--slots", str(options.slots)]
    if options.transfer:
        large, small = (study_of(options.folder, COHORTS[edge]) for edge in (24, 8))
        half = str(options.steps // 2)
        patchcore(
            "transfer", str(large), "--target", str(small), "--patch-sizes", "8,16", "--pretrain-steps",
            str(options.steps), "--steps", half, "--name", "transfer", *common,
        )  # fmt: skip
        patchcore("report", str(small), "transfer")
        keep(small / "experiments" / "transfer" / "report", results / "transfer")
        return
    for edge in map(int, options.cohorts.split(",")):
        cohort = COHORTS[edge]
        if not (results / cohort.name / "regret.csv").exists():
            study = study_of(options.folder, cohort)
            sizes = ",".join(map(str, PATCH_SIZES))
            patchcore(
                "sweep", str(study), "--over", f"patch_size={sizes}", "--steps", str(options.steps), "--name", "sizes",
                *common,
            )  # fmt: skip
            patchcore("report", str(study), "sizes")
            keep(study / "experiments" / "sizes" / "report", results / cohort.name)
        print(f"\n{summary(results)}", flush=True)


if __name__ == "__main__":
    main()
