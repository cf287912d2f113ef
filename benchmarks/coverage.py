"""Simulate how often each printed interval contains the truth: ``python -m benchmarks.coverage [COHORTS]``.

Prints the tables of ``docs/intervals.md``. Cohorts are drawn from populations of DSC-like scores: a skewed bulk, zeros
(the lesion was missed), low outliers, and patients with one to three cases that are similar.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from patchcore.metrics import compare_pairs, estimate_mean
from patchcore.metrics.regret import cross_fitted_regret
from patchcore.types import Float64Array

PATIENTS = (8, 20, 50, 100)
_RESAMPLES = 1000


@dataclass(frozen=True)
class Cohort:
    """Scores per option and case, and the patient of each case."""

    scores: Float64Array
    patients: list[int]


def cohort(
    generator: np.random.Generator, patients: int, *, losses: tuple[float, ...], missed: tuple[float, ...]
) -> Cohort:
    """Draw a cohort.

    Args:
        generator: Draws everything.
        patients: Number of patients.
        losses: For each option, how much lower its scores are.
        missed: For each option, the share of cases that it misses alone (DSC 0).
    """
    cases = generator.integers(1, 4, patients)
    of = np.repeat(np.arange(patients), cases)
    count = len(of)
    # Cases of a patient share most of their difficulty.
    quality = np.clip(0.8 * generator.beta(9, 2.2, patients)[of] + 0.2 * generator.beta(9, 2.2, count), 0, 1)
    hard = generator.random(patients)[of] < 0.08
    nobody = generator.random(count) < 0.05
    rows = []
    for loss, share in zip(losses, missed, strict=True):
        row = np.clip(quality - loss + generator.normal(0, 0.04, count), 0, 1)
        row = np.where(hard, generator.uniform(0.05, 0.4, count), row)
        rows.append(np.where(nobody | (generator.random(count) < share), 0.0, row))
    return Cohort(np.stack(rows), of.tolist())


POPULATIONS = {
    "a mean DSC": {"losses": (0.0,), "missed": (0.06,)},
    "difference of two equal options": {"losses": (0.0, 0.0), "missed": (0.06, 0.06)},
    "difference, one option is worse and misses more": {"losses": (0.0, 0.02), "missed": (0.05, 0.12)},
    "difference, rare misses": {"losses": (0.0, 0.01), "missed": (0.02, 0.04)},
}
REGRETS = {
    "regret, four equal options": {"losses": (0.0,) * 4, "missed": (0.06,) * 4},
    "regret, the chosen option is clearly worse": {"losses": (0.08, 0.0, 0.03, 0.06), "missed": (0.06,) * 4},
    "regret, the chosen option is the best": {"losses": (0.0, 0.03, 0.06, 0.08), "missed": (0.06,) * 4},
}


def truth(make: Callable[[np.random.Generator, int], Cohort]) -> Float64Array:
    """Return the mean of each option over a very large cohort."""
    means: Float64Array = make(np.random.default_rng(99), 400_000).scores.mean(axis=1)
    return means


def means_table(cohorts: int) -> None:
    """Simulate the intervals of means and of differences."""
    print(f"{cohorts} cohorts each; share of the 95 % intervals that contain the truth\n")
    print("| population | patients | over patients (printed first) | bootstrap | t over cases |")
    print("|---|---|---|---|---|")
    for name, kind in POPULATIONS.items():
        means = truth(lambda generator, patients, kind=kind: cohort(generator, patients, **kind))  # type: ignore[misc]
        target = float(means[0] - means[1] if len(means) > 1 else means[0])
        for patients in PATIENTS:
            generator = np.random.default_rng(patients)
            inside = np.zeros(3)
            for _ in range(cohorts):
                drawn = cohort(generator, patients, **kind)
                if len(means) > 1:
                    found = compare_pairs(*drawn.scores, drawn.patients, resamples=_RESAMPLES).difference
                else:
                    found = estimate_mean(drawn.scores[0], drawn.patients, resamples=_RESAMPLES, within=(0, 1))
                ends = (found.patient_low, found.patient_high), (found.low, found.high), (found.t_low, found.t_high)
                inside += [low <= target <= high for low, high in ends]
            shares = " | ".join(f"{value:.3f}" for value in inside / cohorts)
            print(f"| {name} | {patients} | {shares} |", flush=True)


def regret_table(cohorts: int) -> None:
    """Simulate regrets and their intervals."""
    print(
        "\n| population | patients | true regret | mean of the estimates ± standard error | interval contains "
        "the true regret | contains the mean of the estimates |"
    )
    print("|---|---|---|---|---|---|")
    for name, kind in REGRETS.items():
        means = truth(lambda generator, patients, kind=kind: cohort(generator, patients, **kind))  # type: ignore[misc]
        target = float(means.max() - means[0])
        if len(set(kind["losses"])) == 1:
            target = 0.0
        for patients in PATIENTS:
            generator = np.random.default_rng(patients)
            values, ends = [], []
            for _ in range(cohorts):
                drawn = cohort(generator, patients, **kind)
                regret = cross_fitted_regret(drawn.scores, drawn.patients, 0, divisions=10, resamples=200)
                values.append(regret.mean)
                ends.append((regret.low, regret.high))
            low, high = np.transpose(ends)
            covers = [float(np.mean((low <= aim) & (aim <= high))) for aim in (target, float(np.mean(values)))]
            error = np.std(values, ddof=1) / np.sqrt(cohorts)
            print(
                f"| {name} | {patients} | {target:.3f} | {np.mean(values):+.4f} ± {error:.4f} | "
                f"{covers[0]:.3f} | {covers[1]:.3f} |",
                flush=True,
            )


def main() -> None:
    """Simulate and print the tables: ``means``, ``regret`` or both."""
    cohorts = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    wanted = sys.argv[2:] or ["means", "regret"]
    if "means" in wanted:
        means_table(cohorts)
    if "regret" in wanted:
        regret_table(cohorts)


if __name__ == "__main__":
    main()
