"""Compare patchcore with other software: ``python -m benchmarks [SUITE …]`` runs the named suites, or all suites.

Results are compared before anything is timed. Rows in which patchcore is slower are shown as well. The exit code is 1
if a requirement ("bar") is missed.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from importlib import import_module

from rich.console import Console
from rich.table import Table

from benchmarks.rows import Row, data_folder

SUITES = (
    "measure",
    "labels",
    "analyze",
    "resample",
    "prepare",
    "store",
    "windows",
    "loader",
    "import",
    "dashboard",
    "unetr",
    "training",
    "score",
    "predict",
    "texture",
)


def _amount(amount: float, unit: str = "s") -> str:
    return _seconds(amount) if unit == "s" else f"{amount:,.0f} {unit}"


def _seconds(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _wanted(row: Row) -> str:
    if row.at_most_s is not None:
        return f"≤ +{_seconds(row.at_most_s)}"
    return "" if row.wanted is None else f"≥ {row.wanted:.3g}×"


def _show(console: Console, suite: str, rows: list[Row]) -> None:
    table = Table(title=suite, title_justify="left", show_lines=False)
    for name in ("bar", "task", "patchcore", "peer", "peer value", "ratio", "required", "results", "note", "bar met"):
        table.add_column(name, overflow="fold")
    words = {True: "equal", False: "DIFFER", None: ""}
    verdicts = {True: "yes", False: "NO", None: ""}
    for row in rows:
        ours, theirs = _amount(row.ours_s, row.unit), _amount(row.peer_s, row.unit)
        table.add_row(
            row.bar, row.what, ours, row.peer, theirs, f"{row.ratio:.3g}×",
            _wanted(row), words[row.equal], row.note, verdicts[row.passed],
        )  # fmt: skip
    console.print(table)


def main() -> int:
    """Run the named suites, or all suites."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("suite", nargs="*", choices=[*SUITES, []], help="Suites to run [default: all].")
    names = parser.parse_args().suite or SUITES
    width = None if sys.stdout.isatty() else 160
    console = Console(width=width)
    console.print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    if data_folder() is None:
        console.print(
            "No real data found. Set PATCHCORE_DATA to a folder that contains kits19_labels to run bars 1 and 3."
        )
    missed = 0
    for name in names:
        found = import_module(f"benchmarks.bench_{name}").run()
        rows = [row if isinstance(row, Row) else Row.of(row) for row in found]
        _show(console, name, rows)
        missed += sum(row.passed is False for row in rows)
    console.print(f"{missed} bars missed" if missed else "all bars met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
