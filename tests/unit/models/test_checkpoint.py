"""Tests that a checkpoint is always complete, and that errors name what is wrong with it."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from patchcore.errors import CheckpointError, SchemaVersionError
from patchcore.models import checkpoint as module
from patchcore.models.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint


def network(width: int = 4, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layers = nn.Sequential(nn.Conv3d(2, width, 3), nn.InstanceNorm3d(width), nn.Dropout(0.5), nn.Conv3d(width, 2, 1))
    return layers.to(memory_format=torch.channels_last_3d)


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    values = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(torch.ones(1, 2, 5, 5, 5)).square().mean()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    return values


def test_going_on_is_the_same_as_never_having_stopped(tmp_path: Path) -> None:
    model = network()
    optimizer = optimizer_of(model)
    train(model, optimizer, 3)
    save_checkpoint(tmp_path / "last", model, {"step": 3}, optimizer=optimizer)
    expected = train(model, optimizer, 4)

    resumed = network(seed=5)
    resumed_optimizer = optimizer_of(resumed)
    load_checkpoint(tmp_path / "last").restore(resumed, resumed_optimizer)
    assert train(resumed, resumed_optimizer, 4) == expected
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), resumed.parameters(), strict=True))
    assert resumed[0].weight.is_contiguous(memory_format=torch.channels_last_3d)


def test_one_without_optimizer_holds_weights_alone(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "best", network(), {"step": 1})
    assert sorted(path.name for path in (tmp_path / "best").iterdir()) == ["model.safetensors", "state.json"]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "rng.safetensors"])
def test_a_file_cut_short_is_named(tmp_path: Path, name: str) -> None:
    model = network()
    optimizer = optimizer_of(model)
    train(model, optimizer, 1)
    folder = save_checkpoint(tmp_path / "last", model, {"step": 1}, optimizer=optimizer)
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(folder)
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name}: is missing"):
        load_checkpoint(folder)


def test_damage_of_the_right_size_is_named(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "last", network(), {"step": 1})
    path = folder / "model.safetensors"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged"):
        load_checkpoint(folder).restore(network())


def test_another_networks_is_refused_by_name(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "last", network(width=4), {"step": 1})
    with pytest.raises(CheckpointError, match=r"0\.weight has shape \(4, 2, 3, 3, 3\)"):
        load_checkpoint(folder).restore(network(width=6))
    with pytest.raises(CheckpointError, match=r"has no tensor 4\.weight"):
        load_checkpoint(folder).restore(nn.Sequential(*network(), nn.Conv3d(2, 2, 1)))


def test_newer_and_damaged_states(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "last", network(), {"step": 1})
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    (folder / "state.json").write_text(json.dumps(state | {"schema_version": 99}))
    with pytest.raises(SchemaVersionError):
        find_checkpoint(folder)
    (folder / "state.json").write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        find_checkpoint(folder)
    assert find_checkpoint(tmp_path / "best") is None


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_kill_between_any_two_renames_leaves_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    folder = tmp_path / "last"
    save_checkpoint(folder, network(seed=1), {"step": 1})
    real, done = Path.rename, [0]

    class Killed(BaseException):
        pass

    def rename(self: Path, target: Path) -> Path:
        if done[0] == renames:
            raise Killed
        done[0] += 1
        return real(self, target)

    def rmtree(path: Path, ignore_errors: bool = False) -> None:
        # A killed process does not clean up.
        if path.exists():
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", rename)
        patched.setattr(module.shutil, "rmtree", rmtree)
        with pytest.raises(Killed):
            save_checkpoint(folder, network(seed=2), {"step": 2})
    found = find_checkpoint(folder)
    assert found is not None
    assert found.state["step"] == (2 if renames == 2 else 1)
    found.restore(network())

    save_checkpoint(folder, network(seed=3), {"step": 3})
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Make every write beyond `size` bytes of a file fail, like a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_one_before(tmp_path: Path) -> None:
    small, large = network(width=4, seed=1), network(width=64, seed=2)
    folder = save_checkpoint(tmp_path / "last", small, {"step": 1})
    with file_size_limit(4096), pytest.raises(CheckpointError, match="cannot be written"):
        save_checkpoint(folder, large, {"step": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["last"]
    load_checkpoint(folder).restore(network(width=4))
    save_checkpoint(folder, large, {"step": 2})
    assert load_checkpoint(folder).state["step"] == 2


def test_a_checkpoint_makes_its_folders_and_leaves_no_file_open(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b" / "last"
    save_checkpoint(folder, network(), {"step": 1})
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir())) if descriptors.exists() else 0
    for step in (2, 3):
        save_checkpoint(folder, network(), {"step": step})
    assert (len(list(descriptors.iterdir())) if descriptors.exists() else 0) == before
