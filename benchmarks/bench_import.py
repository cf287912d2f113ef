"""Measure the start-up time of `import patchcore` and of the `patchcore` command."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from benchmarks.rows import Row, in_turns


def _python(*arguments: str) -> Callable[[], object]:
    return lambda: subprocess.run([sys.executable, *arguments], check=True, capture_output=True)


def run() -> list[Row]:
    """Bar 8: ``import patchcore`` takes at most 0.1 s longer than ``import numpy``."""
    ours, numpy = in_turns(_python("-c", "import patchcore"), _python("-c", "import numpy"), repeats=9)
    command, _ = in_turns(_python("-m", "patchcore", "--version"), _python("-c", "import numpy"), repeats=9)
    return [
        Row("8", "import patchcore", ours, "import numpy", numpy, at_most_s=0.1, equal=None),
        Row("", "patchcore --version", command, "import numpy", numpy, equal=None),
    ]
