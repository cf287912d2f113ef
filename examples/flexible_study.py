"""One network for several patch sizes against one training per size, on the phantoms of phantom_study.py.

    python examples/flexible_study.py FOLDER --results docs/phantom-study [--cohorts 12] [--variants own,shared]
    python examples/flexible_study.py FOLDER --results docs/phantom-study --tokenizers residual

For each cohort and variant, a flexible network is trained (``patchcore sweep --flexible``) with 1.4 times the steps of
one separate training and two validations (each at every size) instead of five, so that it takes at most 1.5 times as
long. It is compared with the separate trainings of ``phantom_study.py``: the tables of these must be in ``--results``.
With ``--tokenizers``, separate networks with another tokenizer are trained at patch sizes 8 and 16 instead, and
compared with the same trainings, which have the linear one. Finished parts are not trained again.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from phantom_study import COHORTS, PATCH_SIZES, Cohort, keep, patchcore, settings_of, study_of

from patchcore.metrics import compare_pairs

VARIANTS: Mapping[str, tuple[str, ...]] = {
    "own": (),
    "finest-base": ("model.base_patch_size=8",),
    "transposed": ("model.embedding=transposed",),
    "pseudo-inverse": ("model.embedding=pseudo-inverse",),
    "shared": ("model.kernels=shared",),
    "residual": ("model.tokenizer=residual",),
}
"""Name → settings: how patch embedding, positions, up-sampling kernels and tokenizer of the sizes are made."""

TOKENIZERS = ("residual", "pyramid")
TOKENIZER_SIZES = (8, 16)


def scores_of(cases_csv: Path, size: int) -> dict[str, list[float]]:
    """Return the DSC of each case at a patch size, one value per seed."""
    found: dict[str, list[float]] = defaultdict(list)
    with cases_csv.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if f"patch{size}" in row["point"].split("_"):
                found[row["case_id"]].append(float(row["dsc"] or "nan"))
    return found


def step_time_of(points_csv: Path, size: int) -> tuple[float, str]:
    """Return the median time of a step at a patch size [s], mean over seeds, and the processor.

    A pause of a training does not change the median.
    """
    with points_csv.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if f"patch{size}" in row["point"].split("_")]
    return math.fsum(float(row["step_s"]) for row in rows) / len(rows), rows[0]["device"]


def compare(one: Path, other: Path, sizes: Sequence[int]) -> tuple[dict[int, float], list[str]]:
    """Return the mean DSC of a report at each size, and cells of a table: DSC, and the difference to another report."""
    means, cells = {}, []
    for size in sizes:
        found, reference = (scores_of(report / "cases.csv", size) for report in (one, other))
        ids = sorted(set(found) & set(reference))
        pair = [[math.fsum(scores[case]) / len(scores[case]) for case in ids] for scores in (found, reference)]
        difference = compare_pairs(*pair, ids).difference
        means[size] = math.fsum(pair[0]) / len(ids)
        ends = f"[{difference.patient_low:+.3f}, {difference.patient_high:+.3f}]"
        cells.append(f"{means[size]:.3f}, {difference.mean:+.3f} {ends}")
    return means, cells


def show_variants(results: Path, cohorts: Sequence[Cohort]) -> None:
    """Print flexible minus separate at each size, for each variant that was trained."""
    rows = []
    for cohort, variant, flexible in trained(results, cohorts, {name: f"flexible-{name}" for name in VARIANTS}):
        means, cells = compare(flexible, results / cohort.name, PATCH_SIZES)
        best = max(means, key=lambda size: means[size])
        with (flexible / "points.csv").open(encoding="utf-8") as file:
            steps = next(csv.DictReader(file))["steps"]
        rows.append([cohort.edge, variant, *cells, best, steps])
    show(["p*", "variant", *(f"patch {size}: DSC, difference" for size in PATCH_SIZES), "best", "steps"], rows)


def show_tokenizers(results: Path, cohorts: Sequence[Cohort]) -> None:
    """Print other tokenizer minus linear one at each size, and how much longer a step takes."""
    rows = []
    for cohort, tokenizer, other in trained(results, cohorts, {name: name for name in TOKENIZERS}):
        linear = results / cohort.name
        _, cells = compare(other, linear, TOKENIZER_SIZES)
        for number, size in enumerate(TOKENIZER_SIZES):
            (time, device), (linear_time, linear_device) = (
                step_time_of(report / "points.csv", size) for report in (other, linear)
            )
            cells[number] += f", {time / linear_time:.2f} x" if device == linear_device else ", another machine"
        rows.append([cohort.edge, tokenizer, *cells])
    show(["p*", "tokenizer", *(f"patch {size}: DSC, difference, time" for size in TOKENIZER_SIZES)], rows)
    print("time: median time of a step / the same of the linear tokenizer")


def trained(results: Path, cohorts: Sequence[Cohort], folders: Mapping[str, str]) -> Iterator[tuple[Cohort, str, Path]]:
    """Yield the cohort, the name and the report of what was trained; `folders` has the end of its folder's name."""
    for cohort in cohorts:
        for name, end in folders.items():
            report = results / f"{cohort.name}-{end}"
            if (report / "cases.csv").exists():
                yield cohort, name, report


def show(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table as Markdown."""
    print(f"\n| {' | '.join(head)} |\n{'|---' * len(head)}|")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |")


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
    parser.add_argument("--tokenizers", default="", help=f"Train these instead, of {', '.join(TOKENIZERS)}.")
    options = parser.parse_args()
    results: Path = options.results
    cohorts = [COHORTS[edge] for edge in map(int, options.cohorts.split(","))]
    more = ["--seeds", str(options.seeds), "--slots", str(options.slots)]
    parts = []  # name, settings of all, settings of the part, and options of the sweep
    if options.tokenizers:
        for name in options.tokenizers.split(","):
            settings = (f"model.tokenizer={name}",)
            axis = ["--over", f"patch_size={_joined(TOKENIZER_SIZES)}"]
            parts.append((name, settings_of(options.steps), settings, [*axis, "--steps", str(options.steps)]))
    else:
        steps = 7 * options.steps // 5
        axis = ["--flexible", "--over", f"patch_size={_joined(PATCH_SIZES)}", "--steps", str(steps)]
        for name in filter(None, options.variants.split(",")):
            parts.append((f"flexible-{name}", settings_of(steps, validations=2), VARIANTS[name], axis))
    for cohort in cohorts:
        for name, common, settings, axis in parts:
            target = results / f"{cohort.name}-{name}"
            if (target / "cases.csv").exists():
                continue
            study = study_of(options.folder, cohort)
            own = [part for text in settings for part in ("--set", text)]
            patchcore("sweep", str(study), *axis, "--name", name, *common, *own, *more)
            patchcore("report", str(study), name)
            keep(study / "experiments" / name / "report", target)
    if options.tokenizers:
        show_tokenizers(results, cohorts)
    else:
        show_variants(results, cohorts)


def _joined(sizes: Sequence[int]) -> str:
    return ",".join(map(str, sizes))


if __name__ == "__main__":
    main()
