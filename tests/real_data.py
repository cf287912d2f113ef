"""Paths of real scans and reference values in a folder next to the checkout. Without it, tests that need it skip."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"
DATA = SHARED / "data"

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="needs the shared data")
