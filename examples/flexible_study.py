"""One network for several patch sizes against one training per size, on the phantoms of phantom_study.py.

    python examples/flexible_study.py FOLDER --results docs/phantom-study [--cohorts 12] [--variants own,shared]
    python examples/flexible_study.py FOLDER --results docs/phantom-study --tokenizers

For each cohort and variant, a flexible network is trained (``patchcore sweep --flexible``) with 1.5 times the steps of
one separate training, and compared with the separate trainings of ``phantom_study.py``: the tables of these must be in
``--results``. With ``--tokenizers``, the residual tokenizer is compared with the linear one at patch sizes 8 and 16.
Finished parts are not trained again.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from phantom_study import COHORTS, PATCH_SIZES, Cohort, keep, patchcore, settings_of, study_of

from patchcore.metrics import compare_pairs

VARIANTS: Mapping[str, tuple[str, ...]] = {
    "own": (),
    "transposed": ("model.embedding=transposed",),
    "pseudo-inverse": ("model.embedding=pseudo-inverse",),
    "shared": ("model.kernels=shared",),
    "residual": ("model.tokenizer=residual",),
}
"""Name → settings: how the patch embedding, the up-sampling kernels and the tokenizer of the sizes are made."""


def scores_of(cases_csv: Path, size: int) -> dict[str, list[float]]:
    """Return the DSC of each case at a patch size, one value per seed; also the hours of the trainings."""
    found: dict[str, list[float]] = defaultdict(list)
    with cases_csv.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if f"patch{size}" in row["point"].split("_"):
                found[row["case_id"]].append(float(row["dsc"] or "nan"))
    return found


def hours_of(points_csv: Path) -> float:
    """Return the mean time of a training [h]."""
    with points_csv.open(encoding="utf-8") as file:
        runs = {row["run_id"]: float(row["hours"]) for row in csv.DictReader(file)}
    return sum(runs.values()) / len(runs)


def compare(results: Path, cohort: Cohort, variants: list[str]) -> list[str]:
    """Return the rows of the table: flexible minus separate at each size, per variant."""
    lines = []
    separate = results / cohort.name
    for variant in variants:
        flexible = results / f"{cohort.name}-flexible-{variant}"
        if not (flexible / "cases.csv").exists():
            continue
        cells, means = [], {}
        for size in PATCH_SIZES:
            one, other = scores_of(flexible / "cases.csv", size), scores_of(separate / "cases.csv", size)
            ids = sorted(set(one) & set(other))
            pair = [[math.fsum(scores[case]) / len(scores[case]) for case in ids] for scores in (one, other)]
            difference = compare_pairs(*pair, ids).difference
            means[size] = math.fsum(pair[0]) / len(ids)
            ends = f"[{difference.patient_low:+.3f}, {difference.patient_high:+.3f}]"
            cells.append(f"{means[size]:.3f}, {difference.mean:+.3f} {ends}")
        ratio = hours_of(flexible / "points.csv") / hours_of(separate / "points.csv")
        best = max(means, key=lambda size: means[size])
        lines.append(f"| {cohort.edge} | {variant} | {' | '.join(cells)} | {best} | {ratio:.2f} |")
    return lines


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--results", type=Path, required=True, help="Folder with the tables of phantom_study.py.")
    parser.add_argument("--cohorts", default="6,12,24")
    parser.add_argument("--variants", default="own", help=f"Of {', '.join(VARIANTS)}.")
    parser.add_argument("--steps", type=int, default=2000, help="Steps of a separate training.")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--tokenizers", action="store_true", help="Compare tokenizers instead.")
    options = parser.parse_args()
    results: Path = options.results
    cohorts = [COHORTS[edge] for edge in map(int, options.cohorts.split(","))]
    variants = [name for name in options.variants.split(",") if name]
    more = ["--seeds", str(options.seeds), "--slots", str(options.slots)]
    for cohort in cohorts:
        if options.tokenizers:
            target = results / f"{cohort.name}-tokenizers"
            if not (target / "dsc.csv").exists():
                study = study_of(options.folder, cohort)
                patchcore(
                    "sweep", str(study), "--over", "patch_size=8,16", "--over", "model.tokenizer=linear,residual",
                    "--steps", str(options.steps), "--name", "tokenizers", *settings_of(options.steps), *more,
                )  # fmt: skip
                patchcore("report", str(study), "tokenizers")
                keep(study / "experiments" / "tokenizers" / "report", target)
            continue
        for variant in variants:
            target = results / f"{cohort.name}-flexible-{variant}"
            if (target / "cases.csv").exists():
                continue
            study = study_of(options.folder, cohort)
            steps, name = 3 * options.steps // 2, f"flexible-{variant}"
            own = [part for text in VARIANTS[variant] for part in ("--set", text)]
            patchcore(
                "sweep", str(study), "--flexible", "--over", f"patch_size={','.join(map(str, PATCH_SIZES))}",
                "--steps", str(steps), "--name", name, *settings_of(steps), *own, *more,
            )  # fmt: skip
            patchcore("report", str(study), name)
            keep(study / "experiments" / name / "report", target)
    if not options.tokenizers:
        print(
            f"\n| p* | variant | {' | '.join(f'patch {size}: DSC, difference' for size in PATCH_SIZES)} | best | time |"
        )
        print("|---" * (len(PATCH_SIZES) + 4) + "|")
        for cohort in cohorts:
            for line in compare(results, cohort, [*VARIANTS]):
                print(line)
        print("time: hours of the flexible training / mean hours of the separate ones")


if __name__ == "__main__":
    main()
