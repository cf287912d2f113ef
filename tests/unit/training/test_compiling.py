"""How steps are compiled: what ``auto`` tries, what it refuses, and that it changes nothing but speed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from patchcore.config import resolve_config
from patchcore.models import UNETR
from patchcore.models.device import Placement
from patchcore.training import network as compiling
from patchcore.training.network import Compiled, compiled
from patchcore.training.trainer import _compiled_before
from tiny_plan import tiny_target


class OnGpu:
    """Pretends to be a GPU: tensors stay on the CPU."""

    type = "cuda"


class Placed:
    """A placement on a GPU that does not exist."""

    ranks = 1
    autocast = None

    def __init__(self) -> None:
        self.device: Any = torch.device("cpu")

    def precision(self) -> Any:
        return Placement(torch.device("cpu"), None, 1).precision()


class Wrong(nn.Module):
    """A compiled network that computes something else."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.network(image) * 1.1
        return out


def tried(
    monkeypatch: pytest.MonkeyPatch,
    outcomes: dict[str, Any],
    *settings: str,
    network: nn.Module | None = None,
    before: Any = None,
) -> tuple[Compiled, list[str], list[str]]:
    """Return the result, the modes of torch.compile that were tried, and the warnings."""
    modes: list[str] = []
    warnings: list[str] = []

    def compiler(one: nn.Module, *, mode: str) -> nn.Module:
        modes.append(mode)
        outcome = outcomes[mode]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome(one) if outcome is not None else one  # type: ignore[no-any-return]

    monkeypatch.setattr(torch, "compile", compiler)
    real = compiling._ways

    def ways(one: nn.Module, config: Any, placement: Any, earlier: Any) -> Any:
        placed: Any = Placed()
        placed.device = OnGpu()
        return real(one, config, placed, earlier)

    monkeypatch.setattr(compiling, "_ways", ways)
    torch.manual_seed(0)
    network = network or nn.Conv3d(1, 2, 3, padding=1)
    config = resolve_config(settings=list(settings))
    placed: Any = Placed()
    found = compiled(network, config.train, tiny_target(), placed, warnings.append, before=before)
    assert all(value.grad is None for value in network.parameters())
    return found, modes, warnings


def test_the_fastest_way_that_gives_the_same_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    state = torch.get_rng_state()
    found, modes, warnings = tried(monkeypatch, {"reduce-overhead": None})
    assert (found.mode, modes, warnings) == ("graphs", ["reduce-overhead"], [])
    torch.set_rng_state(state)
    for broken in (Wrong, RuntimeError("no graphs"), torch.OutOfMemoryError("full")):
        found, modes, warnings = tried(monkeypatch, {"reduce-overhead": broken, "default": None})
        assert (found.mode, modes, warnings) == ("default", ["reduce-overhead", "default"], [])
    found, modes, warnings = tried(monkeypatch, {"reduce-overhead": Wrong, "default": Wrong})
    assert (found.mode, warnings) == ("off", [])
    assert isinstance(found.network, nn.Conv3d)


def test_graphs_are_not_tried_where_they_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    found, modes, _ = tried(monkeypatch, {"default": None}, "train.accumulate=2")
    assert (found.mode, modes) == ("default", ["default"])
    sizes: Any = {"hidden_size": 8, "mlp_dim": 8, "num_heads": 1, "feature_size": 2}
    flexible = UNETR(1, 2, 8, 4, patch_sizes=[2, 4], **sizes)
    found, modes, _ = tried(monkeypatch, {"default": None}, network=flexible)
    assert (found.mode, modes) == ("default", ["default"])


def test_a_resume_keeps_the_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for before, expected in (("off", []), ("default", ["default"])):
        _, modes, _ = tried(monkeypatch, {"default": None}, before=before)
        assert modes == expected
    # Graphs of a run that now has several ranks, or adds up gradients, are not kept.
    _, modes, _ = tried(monkeypatch, {"default": None}, "train.accumulate=2", before="graphs")
    assert modes == ["default"]
    _, modes, _ = tried(monkeypatch, {"reduce-overhead": None}, before="graphs")
    assert modes == ["reduce-overhead"]
    for number, text in ((1, '{"compile": "graphs", "device": "cuda"}'), (2, '{"compile": "off", "device": "cpu"}')):
        folder = tmp_path / "attempts" / str(number)
        folder.mkdir(parents=True)
        (folder / "start.json").write_text(text)
    assert _compiled_before(tmp_path, 3, Placement(torch.device("cpu"), None, 1)) == "off"
    assert _compiled_before(tmp_path, 2, Placement(torch.device("cpu"), None, 1)) is None
    cuda: Any = Placed()
    cuda.device = OnGpu()
    assert _compiled_before(tmp_path, 3, cuda) == "graphs"


def test_what_was_asked_for_and_fails_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    found, modes, warnings = tried(monkeypatch, {"default": Wrong}, "train.compile=default")
    assert (found.mode, modes) == ("off", ["default"])
    assert "its loss differs" in warnings[0]
    with pytest.raises(torch.OutOfMemoryError):
        tried(monkeypatch, {"default": torch.OutOfMemoryError("full")}, "train.compile=default")
    found, modes, _ = tried(monkeypatch, {}, "train.compile=off")
    assert (found.mode, modes) == ("off", [])


def test_on_a_cpu_nothing_is_compiled() -> None:
    placement = Placement(torch.device("cpu"), None, 1)
    assert compiling._ways(nn.Identity(), resolve_config().train, placement, None) == []
