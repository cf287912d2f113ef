"""A few scenarios of a file system that fails at random; ``tests/inject_faults.py`` runs thousands by hand."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from inject_faults import scenario


def test_failing_file_operations_lose_nothing(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        assert len(list(pool.map(lambda seed: scenario(tmp_path, seed), range(12)))) == 12
