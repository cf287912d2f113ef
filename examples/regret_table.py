"""How much DSC is lost by believing a rule, over several cohorts.

    python examples/regret_table.py docs/phantom-study/p6 docs/phantom-study/p12 [--equal flop]

Each argument is the report of a sweep over patch sizes on one cohort (``patchcore report``). A row is a rule or a fixed
patch size, a column is a cohort: the cross-fitted regret with its 95 % interval over patients. The last column is the
mean over the cohorts, with a 95 % interval that has the cohort as its unit. Where a rule chose a size that was not
trained, the cell is empty.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from patchcore.metrics.intervals import patient_interval

Cell = tuple[float, float, float, str]  # regret, lower and upper end, and the patch size
COLUMNS = {"steps": "regret", "flop": "regret_equal_flop"}


def read_cells(report: Path, column: str) -> dict[str, Cell]:
    """Return the regret of each rule and of each fixed patch size of a report."""
    found: dict[str, Cell] = {}
    for name, key in (("rules.csv", "rule"), ("regret.csv", "setting")):
        with (report / name).open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                values = [float(row.get(f"{column}{end}") or "nan") for end in ("", "_low", "_high")]
                words = f"rule {row[key]}" if key == "rule" else f"always {row[key]}"
                found[words] = (values[0], values[1], values[2], row["patch_size"])
    return found


def table(reports: Sequence[Path], column: str) -> str:
    """Return the table as Markdown, rows with the smallest mean regret first."""
    cohorts = [read_cells(report, column) for report in reports]
    names = list(dict.fromkeys(name for cells in cohorts for name in cells))
    rows = []
    for name in names:
        cells = [cells.get(name, (math.nan, math.nan, math.nan, "")) for cells in cohorts]
        values = np.array([cell[0] for cell in cells if not math.isnan(cell[0])])
        mean, low, high = math.nan, math.nan, math.nan
        if len(values):
            mean = float(values.mean())
            low, high = patient_interval(values[None], np.ones((1, len(values))))
        texts = [_text(cell[:3], f" ({cell[3]})" if name.startswith("rule") else "") for cell in cells]
        rows.append((mean, f"| {name} | {' | '.join(texts)} | {_text((mean, low, high))}, n = {len(values)} |"))
    rows.sort(key=lambda row: (math.isnan(row[0]), row[0]))
    head = f"| | {' | '.join(report.resolve().name for report in reports)} | mean over cohorts |"
    return "\n".join([head, "|---" * (len(reports) + 2) + "|", *(line for _, line in rows)])


def _text(values: Sequence[float], end: str = "") -> str:
    value, low, high = values
    if math.isnan(value):
        return end.strip()
    interval = "" if math.isnan(low) else f" [{low:+.3f}, {high:+.3f}]"
    return f"{value:+.3f}{interval}{end}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", type=Path, help="Folders of reports, one per cohort.")
    parser.add_argument("--equal", choices=[*COLUMNS], default="steps", help="What is equal for all patch sizes.")
    options = parser.parse_args()
    for report in options.reports:
        if not (report / "rules.csv").exists() or not (report / "regret.csv").exists():
            parser.error(f"{report}: expected rules.csv and regret.csv, as patchcore report writes them for a sweep")
    print(table(options.reports, COLUMNS[options.equal]))


if __name__ == "__main__":
    main()
