"""``patchcore models``: the table's rows and its refusals."""

from __future__ import annotations

import pytest

from patchcore.cli.models import models
from patchcore.errors import ConfigError, PatchSizeError


def test_a_row_per_patch_size(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    models(window="96,96,48", patch_size=["16", "16,16,4"], preset="tiny")
    lines = capsys.readouterr().out.splitlines()
    assert "96×96×48" in lines[0]
    assert any("16×16×4" in line and "432" in line and "2×2×1" in line for line in lines)
    assert any(" 108 " in line for line in lines)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="--preset 'huge'"):
        models(preset="huge")
    with pytest.raises(ConfigError, match="--window 'a'"):
        models(window="a")
    with pytest.raises(ConfigError, match="--patch-size '8,8'"):
        models(patch_size=["8,8"])
    with pytest.raises(PatchSizeError, match="9 or 12"):
        models(patch_size=["10"])
