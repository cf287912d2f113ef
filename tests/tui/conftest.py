from __future__ import annotations

import sys
from pathlib import Path

import pytest

# Fake trainers are started by module name, and import their helpers the same way.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """An empty study without plan or runs."""
    from support import make_study

    return make_study(tmp_path / "study")
