"""Measure the preparation of one very large volume: time, and memory compared with the given limit."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import patchcore as pc
from benchmarks.rows import Row

SHAPE, SPACING = (512, 512, 2000), (0.75, 0.75, 1.0)
CEILING_MIB = 1024


def _watched(*arguments: str) -> tuple[float, float]:
    """Return the seconds of a command, and its peak anonymous memory [MiB]."""
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen([sys.executable, "-m", "patchcore", *arguments], stdout=subprocess.DEVNULL)
    while process.poll() is None:
        try:
            found = re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8"))
        except OSError:
            break
        peak = max(peak, int(found[1]) if found else 0)
        time.sleep(0.005)
    if process.wait():
        raise RuntimeError(f"patchcore {' '.join(arguments)} failed")
    return time.perf_counter() - start, peak / 1024


def run() -> list[Row]:
    """Bar 5: preparing stays within ``--max-memory``."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        pc.make_phantoms(folder / "data", preset="large", cases=1, shape=SHAPE, spacing=SPACING)
        study = pc.analyze(folder / "data", folder / "study")
        pc.plan_patch_size(study, spacing=(1.0, 1.0, 1.5))
        seconds, peak = _watched("prepare", str(study.path), "--max-memory", f"{CEILING_MIB}MiB")
        verified, _ = _watched("inspect", str(study.path))
        note = f"{seconds:.1f} s, and {verified:.1f} s to compare all checksums"
        what = "RssAnon peak of prepare, 512 × 512 × 2000 to 1 × 1 × 1.5 mm, anti-aliased"
        return [
            Row("5", what, peak, "--max-memory 1GiB", CEILING_MIB, 1, None, note=note, unit="MiB"),
        ]
