"""``patchcore models``: rows of the table and rejected options."""

from __future__ import annotations

import re

import pytest

from patchcore.cli.models import models
from patchcore.errors import ConfigError, PatchSizeError
from patchcore.models.registry import NETWORKS


def test_a_row_per_patch_size(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    models(window="96,96,48", patch_size=["16", "16,16,4"], preset="tiny")
    lines = capsys.readouterr().out.splitlines()
    assert "96×96×48" in lines[0]
    assert any("16×16×4" in line and "432" in line and "2×2×1" in line for line in lines)
    assert any(" 108 " in line for line in lines)


def test_activations_with_and_without_checkpointing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The table must fit into 80 columns without wrapping.
    monkeypatch.setenv("COLUMNS", "80")
    models(window="96", preset="base")
    rows = [line for line in capsys.readouterr().out.splitlines() if "GiB" in line]
    assert len(rows) == 4
    found = [re.search(r"([\d.]+) \(([\d.]+)\) GiB", row) for row in rows]
    sizes = [(float(match[1]), float(match[2])) for match in found if match]
    assert len(sizes) == 4
    assert all(saving < 0.7 * plain for plain, saving in sizes)
    assert [plain for plain, _ in sizes] == sorted((plain for plain, _ in sizes), reverse=True)


def test_a_tokenizer_costs_more(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    gflop = []
    for tokenizer in ("linear", "pyramid"):
        models(window="48", patch_size=["16"], preset="tiny", tokenizer=tokenizer)
        out = capsys.readouterr().out
        assert ("pyramid tokenizer" in out) == (tokenizer == "pyramid")
        [row] = [line for line in out.splitlines() if "GiB" in line]
        gflop.append(float(row.split("│")[5]))
    assert gflop[0] < gflop[1]
    with pytest.raises(ConfigError, match="linear, residual, pyramid"):
        models(tokenizer="round")
    with pytest.raises(ConfigError, match="cannot be combined"):
        models(tokenizer="pyramid", networks=True)


def test_networks_by_name_and_why_one_cannot_be_had(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    models(window="48", preset="tiny", networks=True)
    out = capsys.readouterr().out
    for name in NETWORKS:
        assert name in out
    assert "swin-unetr needs window edges that are multiples of 32" in out
    with pytest.raises(ConfigError, match="--spacing"):
        models(networks=True, spacing="1,2")


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="--preset 'huge'"):
        models(preset="huge")
    with pytest.raises(ConfigError, match="--window 'a'"):
        models(window="a")
    with pytest.raises(ConfigError, match="--patch-size '8,8'"):
        models(patch_size=["8,8"])
    with pytest.raises(PatchSizeError, match="9 or 12"):
        models(patch_size=["10"])
