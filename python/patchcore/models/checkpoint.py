"""Checkpoints: a folder that is whole or not there, at whatever instant the process or the disk gives up.

    checkpoints/last/   model.safetensors      by parameter name
                        ema.safetensors        their moving average, where one is kept
                        optimizer.safetensors  by parameter name / state name
                        rng.safetensors        torch's generators as uint8
                        state.json             everything else, and the size of each of the files
    checkpoints/best/   model.safetensors, state.json

A new one is written beside the old, synced, and takes its name in two renames: ``last`` → ``last.previous``, new →
``last``. Between the two, ``last.previous`` is the valid one, and it is what the loader falls back to. No pickle.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from patchcore.errors import CheckpointError, DataError, SchemaVersionError
from patchcore.files import finite, read_json
from patchcore.models.weights import distinct_names
from patchcore.types import PathLike

__all__ = ["CHECKPOINT_SCHEMA", "Checkpoint", "find_checkpoint", "load_checkpoint", "save_checkpoint"]

CHECKPOINT_SCHEMA = 1
_MODEL, _OPTIMIZER, _RNG, _STATE = "model.safetensors", "optimizer.safetensors", "rng.safetensors", "state.json"
_EMA = "ema.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files have the sizes they were written with.

    Attributes:
        path: Its folder.
        state: What ``state.json`` holds.
    """

    path: Path
    state: Mapping[str, Any]

    def restore(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        average: nn.Module | None = None,
    ) -> None:
        """Load weights, and with an optimiser its state and torch's generators, to train on.

        Without an optimiser these are the weights to predict with: their moving average where one was kept.

        Args:
            network: Is filled.
            optimizer: Over its parameters.
            average: Is filled with the moving average; with the weights themselves where none was kept.

        Raises:
            CheckpointError: A file is damaged, or belongs to another network; the first difference is named.
        """
        self._fill(network, _MODEL if optimizer is not None else self._predicting)
        if average is not None:
            self._fill(average, self._predicting)
        if optimizer is not None:
            self._restore_optimizer(network, optimizer)
            self._restore_generators()

    def _fill(self, network: nn.Module, name: str) -> None:
        weights = self._read(name)
        state = network.state_dict()
        names = distinct_names(state)
        _check_keys(self.path / name, weights, {name: state[name] for name in dict.fromkeys(names.values())})
        network.load_state_dict({name: weights[first] for name, first in names.items()})

    def weights(self) -> dict[str, Tensor]:
        """Return the weights to predict with by parameter name: their moving average where one was kept.

        Raises:
            CheckpointError: The file is damaged.
        """
        return self._read(self._predicting)

    @property
    def _predicting(self) -> str:
        """The file of the weights to predict with."""
        return _EMA if _EMA in self.state.get("files", {}) else _MODEL

    def _restore_optimizer(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        path = self.path / _OPTIMIZER
        stored = self._read(_OPTIMIZER)
        # What was frozen so far has none, and starts with none.
        untouched = set(self.state.get("optimizer_untouched", ()))
        for name, parameter in _optimised(network, optimizer).items():
            prefix = f"{name}/"
            found = {key[len(prefix) :]: stored.pop(key) for key in list(stored) if key.startswith(prefix)}
            if not found and self.state.get("step", 0) and name not in untouched:
                raise CheckpointError(f"holds no state of {name}", path=path)
            state: dict[str, Tensor] = {}
            for key, value in found.items():
                if value.ndim and value.shape != parameter.shape:
                    raise CheckpointError(
                        f"{name}/{key} has shape {tuple(value.shape)}",
                        path=path,
                        found=tuple(value.shape),
                        expected=tuple(parameter.shape),
                    )
                # In the parameter's own memory format: the fused step wants both alike.
                like = torch.empty_like(parameter) if value.ndim else torch.empty((), device=parameter.device)
                state[key] = like.to(value.dtype).copy_(value)
            optimizer.state[parameter] = state
        if stored:
            raise CheckpointError(f"holds a state of {next(iter(stored))}, which this network has not", path=path)

    def _restore_generators(self) -> None:
        generators = self._read(_RNG)
        torch.set_rng_state(generators["cpu"])
        if "cuda" in generators and torch.cuda.is_available():
            torch.cuda.set_rng_state(generators["cuda"])

    def _read(self, name: str) -> dict[str, Tensor]:
        try:
            tensors: dict[str, Tensor] = load_file(self.path / name)
        except (SafetensorError, FileNotFoundError) as error:
            raise CheckpointError(
                f"damaged ({error})", path=self.path / name, remedy="resume from another checkpoint, or train anew"
            ) from error
        return tensors


def save_checkpoint(
    folder: PathLike,
    network: nn.Module,
    state: Mapping[str, Any],
    *,
    optimizer: torch.optim.Optimizer | None = None,
    average: nn.Module | None = None,
) -> Path:
    """Write a checkpoint; the one before is kept until this one is whole.

    Args:
        folder: Where, e.g. ``RUN/checkpoints/last``.
        network: Its weights are kept.
        state: JSON values.
        optimizer: Its state is kept, and torch's generators; without it the checkpoint is for evaluation alone.
        average: The moving average of the weights; kept beside them.

    Returns:
        The folder.

    Raises:
        CheckpointError: It cannot be written (disk full, no permission); what was there is untouched.
    """
    folder = Path(folder)
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _clear_leftovers(folder)
        temporary.mkdir()
        save_file(_detached(network.state_dict()), temporary / _MODEL)
        if average is not None:
            save_file(_detached(average.state_dict()), temporary / _EMA)
        if optimizer is not None:
            save_file(_optimizer_tensors(network, optimizer), temporary / _OPTIMIZER)
            save_file(_generators(), temporary / _RNG)
        files = {path.name: path.stat().st_size for path in sorted(temporary.iterdir())}
        record = {"schema_version": CHECKPOINT_SCHEMA, **state, "files": files}
        if optimizer is not None:
            optimised = _optimised(network, optimizer)
            record["optimizer_untouched"] = [name for name, value in optimised.items() if not optimizer.state[value]]
        (temporary / _STATE).write_text(json.dumps(finite(record), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        for path in (*temporary.iterdir(), temporary):
            _sync(path)
        _put_in_place(temporary, folder)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"the checkpoint cannot be written ({error})",
            path=folder,
            remedy="make room or correct the permissions where the study lies, then resume: the one before is whole",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def find_checkpoint(folder: PathLike) -> Checkpoint | None:
    """Return the checkpoint of that name, else the one it was about to replace; None where neither was ever written.

    Raises:
        CheckpointError: There is one, but it is damaged and there is no other.
        SchemaVersionError: A newer patchcore wrote it.
    """
    folder = Path(folder)
    damaged: CheckpointError | None = None
    for candidate in (folder, _previous(folder)):
        if candidate.is_dir():
            try:
                return load_checkpoint(candidate)
            except CheckpointError as error:
                damaged = damaged or error
    if damaged is not None:
        raise damaged
    return None


def load_checkpoint(folder: PathLike) -> Checkpoint:
    """Open a checkpoint and compare its files with the sizes they were written with.

    Raises:
        CheckpointError: There is none, or a file is missing or cut short.
        SchemaVersionError: A newer patchcore wrote it.
    """
    folder = Path(folder)
    try:
        state = read_json(folder / _STATE, schema=CHECKPOINT_SCHEMA)
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError("no checkpoint", path=folder, remedy="train for longer, or name another run") from None
    except SchemaVersionError:
        raise
    except DataError as error:
        raise CheckpointError(f"damaged ({error})", path=folder / _STATE) from None
    for name, size in state.get("files", {}).items():
        path = folder / name
        found = path.stat().st_size if path.exists() else None
        if found != size:
            what = "is missing" if found is None else f"has {found} bytes"
            raise CheckpointError(
                f"{what}, {size} were written", path=path, found=found, expected=size, remedy="the copy was cut short"
            )
    return Checkpoint(folder, state)


def _previous(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.previous")


def _put_in_place(temporary: Path, folder: Path) -> None:
    previous = _previous(folder)
    if folder.exists():
        shutil.rmtree(previous, ignore_errors=True)
        folder.rename(previous)
    temporary.rename(folder)
    _sync(folder.parent)
    shutil.rmtree(previous, ignore_errors=True)


def _clear_leftovers(folder: Path) -> None:
    """Remove what a killed process left half-written; the trainer's lock makes sure that nobody else writes."""
    for path in folder.parent.glob(f".{folder.name}.*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        if path.is_dir():
            # Some network file systems refuse to sync a folder.
            with suppress(OSError):
                os.fsync(handle)
        else:
            os.fsync(handle)
    finally:
        os.close(handle)


def _detached(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # safetensors takes no channels-last tensors, and no tensor twice.
    names = dict.fromkeys(distinct_names(tensors).values())
    return {name: tensors[name].detach().contiguous() for name in names}


def _optimised(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, nn.Parameter]:
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return {name: parameter for name, parameter in network.named_parameters() if id(parameter) in held}


def _optimizer_tensors(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}/{key}": value.detach().contiguous()
        for name, parameter in _optimised(network, optimizer).items()
        for key, value in optimizer.state[parameter].items()
    }


def _generators() -> dict[str, Tensor]:
    generators = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        generators["cuda"] = torch.cuda.get_rng_state()
    return generators


def _check_keys(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    remedy = "it was written by another network: use the run's own plan and configuration"
    for name in expected:
        if name not in found:
            raise CheckpointError(f"lacks {name}", path=path, remedy=remedy)
        if found[name].shape != expected[name].shape:
            raise CheckpointError(
                f"{name} has shape {tuple(found[name].shape)}, the network's has {tuple(expected[name].shape)}",
                path=path,
                found=tuple(found[name].shape),
                expected=tuple(expected[name].shape),
                remedy=remedy,
            )
    for name in found:
        if name not in expected:
            raise CheckpointError(f"holds {name}, which the network has not", path=path, remedy=remedy)
