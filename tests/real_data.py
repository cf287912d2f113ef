"""Where real scans and reference values are looked for: beside the checkout. Tests that need them skip without them."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"
DATA = SHARED / "data"

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="needs the shared data")
