"""Writes and reads checkpoints. A checkpoint folder is always complete, even if the process or the disk fails.

    checkpoints/last/   model.safetensors      by parameter name
                        ema.safetensors        moving average of the weights, if there is one
                        optimizer.safetensors  by parameter name / state name
                        rng.safetensors        states of torch's random generators, uint8
                        state.json             everything else, and the size of each file
    checkpoints/best/   model.safetensors, state.json

A new checkpoint is written next to the old one and synced. Two renames then put it in place: ``last`` →
``last.previous``, new → ``last``. Between the two renames ``last.previous`` is the valid checkpoint, and the loader
falls back to it. Pickle is not used.
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

from patchcore.errors import CheckpointError, ConfigError, DataError, SchemaVersionError
from patchcore.files import finite, read_json
from patchcore.models.weights import distinct_names
from patchcore.types import PathLike

__all__ = [
    "CHECKPOINT_SCHEMA",
    "Checkpoint",
    "fill_network",
    "find_checkpoint",
    "find_weights",
    "load_checkpoint",
    "save_checkpoint",
]

CHECKPOINT_SCHEMA = 1
_MODEL, _OPTIMIZER, _RNG, _STATE = "model.safetensors", "optimizer.safetensors", "rng.safetensors", "state.json"
_EMA = "ema.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint; the sizes of its files have been checked.

    Attributes:
        path: Folder of the checkpoint.
        state: Content of ``state.json``.
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
        """Load the weights into a network.

        With an optimiser, its state and torch's random generators are restored, too, to continue the training. Without
        an optimiser, the weights for prediction are loaded: the moving average if there is one.

        Args:
            network: Network to fill.
            optimizer: Optimiser over the parameters of `network`.
            average: Network to fill with the moving average, or with the weights if there is no average.

        Raises:
            CheckpointError: A file is damaged or belongs to another network. The message names the first difference.
        """
        self._fill(network, _MODEL if optimizer is not None else self._predicting)
        if average is not None:
            self._fill(average, self._predicting)
        if optimizer is not None:
            self._restore_optimizer(network, optimizer)
            self._restore_generators()

    def _fill(self, network: nn.Module, name: str) -> None:
        fill_network(network, self._read(name), self.path / name)

    @property
    def identity(self) -> list[int]:
        """Values that change with the weights for prediction: step, size and time of their file."""
        stat = (self.path / self._predicting).stat()
        return [int(self.state.get("step", 0)), stat.st_size, stat.st_mtime_ns]

    def weights(self) -> dict[str, Tensor]:
        """Return the weights for prediction by parameter name: the moving average if there is one.

        Raises:
            CheckpointError: The file is damaged.
        """
        return self._read(self._predicting)

    @property
    def _predicting(self) -> str:
        """File name of the weights for prediction."""
        return _EMA if _EMA in self.state.get("files", {}) else _MODEL

    def _restore_optimizer(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        path = self.path / _OPTIMIZER
        stored = self._read(_OPTIMIZER)
        # Parameters that were frozen so far have no state.
        untouched = set(self.state.get("optimizer_untouched", ()))
        for name, parameter in _optimised(network, optimizer).items():
            prefix = f"{name}/"
            found = {key[len(prefix) :]: stored.pop(key) for key in list(stored) if key.startswith(prefix)}
            if not found and self.state.get("step", 0) and name not in untouched:
                raise CheckpointError(f"the optimiser state of {name} is missing", path=path)
            state: dict[str, Tensor] = {}
            for key, value in found.items():
                if value.ndim and value.shape != parameter.shape:
                    raise CheckpointError(
                        f"{name}/{key} has shape {tuple(value.shape)}",
                        path=path,
                        found=tuple(value.shape),
                        expected=tuple(parameter.shape),
                    )
                # The state gets the memory format of the parameter: the fused step needs the same format for both.
                like = torch.empty_like(parameter) if value.ndim else torch.empty((), device=parameter.device)
                state[key] = like.to(value.dtype).copy_(value)
            optimizer.state[parameter] = state
        if stored:
            raise CheckpointError(
                f"contains an optimiser state of {next(iter(stored))}, but the network has no such parameter", path=path
            )

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
                f"damaged ({error})", path=self.path / name, remedy="resume from another checkpoint, or train again"
            ) from error
        return tensors


def fill_network(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Load weights into a network; every parameter must be there, with its shape.

    Args:
        network: The network.
        weights: The weights by parameter name.
        path: File of the weights, for messages.

    Raises:
        CheckpointError: The weights belong to another network. The message names the first difference.
    """
    state = network.state_dict()
    names = distinct_names(state)
    _check_keys(path, dict(weights), {name: state[name] for name in dict.fromkeys(names.values())})
    network.load_state_dict({name: weights[first] for name, first in names.items()})


def save_checkpoint(
    folder: PathLike,
    network: nn.Module,
    state: Mapping[str, Any],
    *,
    optimizer: torch.optim.Optimizer | None = None,
    average: nn.Module | None = None,
) -> Path:
    """Write a checkpoint. The previous checkpoint is kept until the new one is complete.

    Args:
        folder: Folder of the checkpoint, e.g. ``RUN/checkpoints/last``.
        network: Network with the weights to save.
        state: JSON values for ``state.json``.
        optimizer: Optimiser to save, with torch's generators. Without it, the checkpoint is only for evaluation.
        average: Moving average of the weights; saved in its own file.

    Returns:
        The folder of the checkpoint.

    Raises:
        CheckpointError: It cannot be written (disk full, no permission). The previous checkpoint is unchanged.
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
            remedy="free disk space or correct the permissions, then resume: the previous checkpoint is complete",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def find_checkpoint(folder: PathLike) -> Checkpoint | None:
    """Return the checkpoint of that name, else the previous one that it replaces; None if neither exists.

    Raises:
        CheckpointError: The checkpoint is damaged, and there is no other valid one.
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


def find_weights(run: Path, which: str | None) -> Checkpoint:
    """Return the checkpoint of a run to predict with: ``best`` or ``last``; None: best if it exists, else last.

    Raises:
        CheckpointError: The run has no such checkpoint, or it is damaged.
        ConfigError: There is no checkpoint of this name.
    """
    if which not in (None, "best", "last"):
        raise ConfigError(f"{which!r} is not a valid checkpoint", expected=("best", "last"), remedy="use best or last")
    for name in ("best", "last") if which is None else (which,):
        found = find_checkpoint(run / "checkpoints" / name)
        if found is not None:
            return found
    raise CheckpointError(
        f"the run has no {which or 'best or last'} checkpoint yet",
        path=run,
        remedy="train until the first validation, or request a checkpoint with patchcore runs checkpoint",
    )


def load_checkpoint(folder: PathLike) -> Checkpoint:
    """Open a checkpoint and check the sizes of its files against ``state.json``.

    Raises:
        CheckpointError: There is no checkpoint, or a file is missing or truncated.
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
                f"{what}, {size} bytes were written",
                path=path,
                found=found,
                expected=size,
                remedy="copy the checkpoint again, or use another one",
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
    """Remove incomplete checkpoints of a killed process. The trainer's lock ensures that no other process writes."""
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
    # safetensors accepts neither channels-last tensors nor the same tensor under two names.
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
    remedy = "it belongs to another network: use the plan and configuration of the run"
    for name in expected:
        if name not in found:
            raise CheckpointError(f"has no tensor {name}", path=path, remedy=remedy)
        if found[name].shape != expected[name].shape:
            raise CheckpointError(
                f"{name} has shape {tuple(found[name].shape)}, but {tuple(expected[name].shape)} in the network",
                path=path,
                found=tuple(found[name].shape),
                expected=tuple(expected[name].shape),
                remedy=remedy,
            )
    for name in found:
        if name not in expected:
            raise CheckpointError(f"has a tensor {name}, which the network does not have", path=path, remedy=remedy)
