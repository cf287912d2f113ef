from __future__ import annotations

import sys
from pathlib import Path

import pytest

# Fake trainers are started by module name and import their helpers by module name too.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Return an empty study without plan and runs."""
    from support import make_study

    return make_study(tmp_path / "study")
