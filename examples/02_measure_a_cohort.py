"""Measure every lesion of a data set and read the results: cases, fingerprint and lesion table.

    python examples/02_measure_a_cohort.py [DATASET]

Without DATASET, the script creates six phantom CTs. The study is written to a temporary folder and deleted at the end.
"""

from __future__ import annotations

import csv
import sys
import tempfile
from collections import Counter
from pathlib import Path

import patchcore as pc
from patchcore.phantoms import make_phantoms


def main(dataset: Path | None, folder: Path) -> None:
    if dataset is None:
        dataset = make_phantoms(folder / "phantoms", cases=6, seed=2, shape=(64, 64, 48), spacing=(4.0, 4.0, 5.0))

    # analyze recognises the layout, quarantines faulty cases with a reason, and does not measure unchanged files twice.
    # If there are several labels, it finds the lesion label by its name (here "tumour"). Use lesion_label= to choose
    # another.
    study = pc.analyze(dataset, folder / "study")
    for case in study.cases():
        print(f"{case.case_id}: {case.status}, {case.orientation}, {case.reason or 'no problems found'}")

    # The fingerprint summarises the cohort. In a notebook, write `fingerprint` as the last line of a cell to see all of
    # it.
    fingerprint = study.fingerprint()
    assert fingerprint.spacing is not None
    x, y, z = fingerprint.spacing.median
    print(f"\nmedian spacing {x:.3g} × {y:.3g} × {z:.3g} mm (x, y, z)")
    for label in fingerprint.labels:
        if label.volume is not None and label.burden_per_patient is not None:
            per_patient = label.burden_per_patient.volume
            print(
                f"{label.name}: {label.lesion_count} lesions, mean {label.volume.mean_mm3:.0f} mm³, "
                f"median {label.volume.median_mm3:.0f} mm³; {per_patient.median_mm3:.0f} mm³ in the median patient"
            )

    # The lesion table has one row per lesion and units in its column names. Any spreadsheet program can open it.
    with study.lesions_path.open(newline="", encoding="utf-8") as handle:
        rows = [row for row in csv.DictReader(handle) if int(row["label"]) == fingerprint.lesion_label]
    largest = max(rows, key=lambda row: float(row["volume_mm3"]))
    print(f"\nlargest lesion: {float(largest['volume_mm3']):.0f} mm³ in {largest['case_id']}")
    for case_id, count in Counter(row["case_id"] for row in rows).most_common(3):
        print(f"{case_id} has {count} lesions")

    print("\nfigures:", ", ".join(sorted(path.name for path in study.figures_dir.glob("*"))))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else None, Path(temporary))
