"""Lesions of several organs: is one patch size enough, or should each class have its own?

    python examples/organs_study.py FOLDER [--results docs/organs-study] [--steps 3000] [--seeds 2]

Phantoms have large tumours in the liver and small ones in the kidneys. The plan chooses a patch size for each, and a
joint one. One flexible network learns all of these sizes and is read at each of them, and with each class at its own
(``patchcore evaluate --patch-size plan``). Every step is a patchcore command; the script can be started again.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path

from phantom_study import SETTINGS, patchcore

import patchcore as pc
from patchcore.metrics import compare_pairs, estimate_mean
from patchcore.phantoms import LesionSpec, PhantomSpec

CASES, FOLDS = 60, 3
LIVER, KIDNEY = 4, 5
SPEC = PhantomSpec(
    shape=(96, 96, 96),
    spacing=(3.0, 3.0, 3.0),
    spacing_jitter=0.02,
    lesions=(1, 2),
    median_volume_mm3=180_000.0,
    volume_sigma=0.3,
    volume_range_mm3=(90_000.0, 400_000.0),
    kidney=LesionSpec(
        organ="kidney", label=KIDNEY, name="kidney_tumour", count=(1, 2), median_volume_mm3=7_000.0, volume_sigma=0.3,
        volume_range_mm3=(3_000.0, 15_000.0), contrast_hu=(-70.0, 8.0),
    ),
)  # fmt: skip


def scores_of(report: Path) -> dict[str, dict[str, float]]:
    """Return case → label → DSC of an evaluation."""
    found = json.loads((report / "evaluation.json").read_text(encoding="utf-8"))
    return {
        case["case_id"]: {label: math.nan if dsc is None else dsc for label, dsc in case["dsc_by_class"].items()}
        for case in found["cases"]
    }


def rows_of(readings: Mapping[str, list[dict[str, dict[str, float]]]]) -> list[dict[str, object]]:
    """Return one row per reading and label: mean DSC, and the paired difference of reading by the plan minus it."""
    rows: list[dict[str, object]] = []
    for name, seeds in readings.items():
        for label in (str(LIVER), str(KIDNEY)):
            cases = sorted(seeds[0])
            means = {
                one: [math.fsum(seed[case][label] for seed in of) / len(of) for case in cases]
                for one, of in ((name, seeds), ("plan", readings["plan"]))
            }
            mean = estimate_mean(means[name], cases, within=(0, 1))
            row: dict[str, object] = {
                "read_at": name,
                "label": label,
                "n": mean.n,
                "seeds": len(seeds),
                "dsc": mean.mean,
            }
            row |= {"dsc_low": mean.patient_low, "dsc_high": mean.patient_high}
            if name != "plan":
                found = compare_pairs(means["plan"], means[name], cases).difference
                row |= {"plan_minus_this": found.mean, "low": found.patient_low, "high": found.patient_high}
            rows.append(row)
    return rows


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--results", type=Path, help="Folder for the table.")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--cases", type=int, default=CASES)
    options = parser.parse_args()
    data, study = options.folder / "data", options.folder / "study"
    if not (data / "dataset.json").exists():
        pc.make_phantoms(data, cases=options.cases, seed=1, spec=SPEC)
    if not (study / "plan.json").exists():
        patchcore("analyze", str(data), str(study), "--lesion-label", str(LIVER))
        labels = ["--lesion-label", str(LIVER), "--lesion-label", str(KIDNEY)]
        patchcore("plan", str(study), *labels, "--joint", "--window", "48")
    plan = pc.Study(study).plan()
    sizes = sorted({target.patch_size for target in plan.targets})
    every = [f"train.steps_per_epoch={max(1, options.steps // 20)}", "validation.every_epochs=4"]
    own = [part for text in (*SETTINGS, *every) for part in ("--set", text)]
    texts = ["x".join(map(str, size)) for size in sizes]
    patchcore(
        "sweep", str(study), "--flexible", "--over", f"patch_size={','.join(texts)}", "--seeds", str(options.seeds),
        "--slots", "2", "--steps", str(options.steps), "--name", "organs", *own,
    )  # fmt: skip
    runs = [point.run_id for point in pc.show_experiment(study, "organs").points if point.run_id]
    readings = {
        name: [scores_of(pc.evaluate(study, run, patch_size=name, post=False).folder) for run in runs]
        for name in ("plan", *texts)
    }
    rows = rows_of(readings)
    results = options.results or options.folder / "results"
    results.mkdir(parents=True, exist_ok=True)
    with (results / "organs.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[-1]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    chosen = {target.label_name: target.patch_size for target in plan.targets}
    print(f"\npatch sizes of the plan: {chosen}")
    for row in rows:
        difference = (
            f", plan minus this {row['plan_minus_this']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
            if "low" in row
            else ""
        )
        print(f"read at {row['read_at']}, label {row['label']}: DSC {row['dsc']:.3f} (n = {row['n']}){difference}")


if __name__ == "__main__":
    main()
