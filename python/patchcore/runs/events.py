"""Encodes and decodes the events of a run, one JSON line per event, and defines the names of the metrics.

A line is ``{"v", "seq", "t", "mono", "kind", "step", "epoch", …}`` in UTF-8 and ends in a newline. It is shorter than
:data:`MAX_LINE_BYTES`, so that one ``os.write`` writes the whole line. Non-finite numbers become ``null``.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, NoReturn, TypeGuard

from patchcore.config.patches import size_text

__all__ = [
    "DATA_WAIT",
    "DICE_LOSS",
    "EVENT_VERSION",
    "GRAD_NORM",
    "LEARNING_RATE",
    "LESIONS_DRAWN",
    "LESIONS_SEEN",
    "MAX_LINE_BYTES",
    "PATCH_SIZE",
    "STEP_TIME",
    "TRAIN_LOSS",
    "TRAIN_WINDOW_DSC",
    "VAL_DSC_GLOBAL",
    "VAL_DSC_MEAN",
    "VAL_LESION_PRECISION",
    "VAL_LESION_RECALL",
    "VAL_SELECTION",
    "WINDOWS_PER_SECOND",
    "Event",
    "EventKind",
    "decode_event",
    "encode_event",
    "next_seq",
    "plain",
    "val_dsc_bin",
    "val_dsc_class",
    "val_dsc_patch",
    "val_precision_bin",
    "val_recall_bin",
]

EVENT_VERSION: Final = 1
MAX_LINE_BYTES: Final = 4096

TRAIN_LOSS: Final = "train/loss"
TRAIN_WINDOW_DSC: Final = "train/window_dsc"
DICE_LOSS: Final = "train/dice_loss"
GRAD_NORM: Final = "train/grad_norm"
VAL_DSC_MEAN: Final = "val/dsc_mean"
VAL_SELECTION: Final = "val/selection"
"""What the best checkpoint of a flexible network is chosen by: the mean DSC over its patch sizes."""
ON_REQUEST: Final = ", on request"
"""Ends the name of the cases of a validation on request: it is never the best one."""
VAL_DSC_GLOBAL: Final = "val/dsc_global"
VAL_LESION_RECALL: Final = "val/lesion_recall"
VAL_LESION_PRECISION: Final = "val/lesion_precision"
PATCH_SIZE: Final = "train/patch_size"
"""Longest edge of the patch of a step of a flexible network."""
DATA_WAIT: Final = "time/data_wait"
STEP_TIME: Final = "time/step"
LEARNING_RATE: Final = "lr"
LESIONS_DRAWN: Final = "train/lesions_drawn"
LESIONS_SEEN: Final = "train/lesions_seen"
WINDOWS_PER_SECOND: Final = "time/windows_per_s"

_HEAD = ("v", "seq", "t", "mono", "kind", "step", "epoch")
_LARGEST_INTEGER = 2**53


def val_dsc_patch(size: Sequence[int]) -> str:
    """Return the name of the mean validation DSC of a flexible network at a patch size: ``val/dsc/patch/8x8x4``.

    Example:
        >>> val_dsc_patch((12, 12, 12))
        'val/dsc/patch/12'
    """
    return f"val/dsc/patch/{size_text(size)}"


def dsc_by_patch(values: Mapping[str, float]) -> dict[str, float]:
    """Return the validation DSC of a flexible network by patch size, small patches first; empty for a fixed one.

    Example:
        >>> dsc_by_patch({"val/dsc_mean": 0.7, "val/dsc/patch/12": 0.6, "val/dsc/patch/8x8x4": 0.7})
        {'8x8x4': 0.7, '12': 0.6}
    """
    start = val_dsc_patch(())
    found = {name.removeprefix(start): value for name, value in values.items() if name.startswith(start)}

    def volume(size: str) -> int:
        edges = [int(edge) for edge in re.findall(r"[0-9]{1,4}", size)[:3]]
        return math.prod(edges) if len(edges) == 3 else math.prod(edges) ** 3

    return {size: found[size] for size in sorted(found, key=volume)}


def val_dsc_class(label: int) -> str:
    """Return the name of the mean validation DSC of one class, e.g. ``val/dsc/2``."""
    return f"val/dsc/{label}"


def val_dsc_bin(index: int) -> str:
    """Return the name of the validation DSC of a lesion-size bin (0: < 5 mm … 3: ≥ 20 mm): ``val/dsc/bin/0``."""
    return f"val/dsc/bin/{index}"


def val_recall_bin(index: int) -> str:
    """Return the name of the recall of a size bin, by true lesion size: ``val/lesion_recall/bin/0``."""
    return f"{VAL_LESION_RECALL}/bin/{index}"


def val_precision_bin(index: int) -> str:
    """Return the name of the precision of a size bin, by predicted component size: ``val/lesion_precision/bin/0``."""
    return f"{VAL_LESION_PRECISION}/bin/{index}"


class EventKind(StrEnum):
    """The kinds of events. Readers ignore unknown kinds."""

    METRIC = "metric"
    VALIDATION = "validation"
    CASE = "case"
    CHECKPOINT = "checkpoint"
    STATE = "state"
    ALERT = "alert"
    ACK = "ack"


@dataclass(frozen=True, slots=True)
class Event:
    """One event.

    Attributes:
        kind: One of :class:`EventKind`, or a kind of a later version.
        seq: Number of the event within the attempt, increasing.
        t: Seconds since 1970 by the writer's clock.
        mono: Seconds by the writer's monotonic clock; only differences within one attempt are meaningful.
        step: Optimiser step; None if the event belongs to no step.
        epoch: Epoch, or None.
        data: All other fields.
        v: Version of the format.
    """

    kind: str
    seq: int
    t: float
    mono: float
    step: int | None = None
    epoch: int | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    v: int = EVENT_VERSION


def encode_event(event: Event) -> bytes:
    r"""Encode an event as one line shorter than :data:`MAX_LINE_BYTES`, newline included.

    If the line is too long, texts are shortened first. If that is not enough, the largest fields are removed. In both
    cases ``"truncated": true`` is added.

    Example:
        >>> encode_event(Event("metric", 0, 1.0, 2.0, 3, 0, {"values": {"lr": float("nan")}}))
        b'{"v":1,"seq":0,"t":1.0,"mono":2.0,"kind":"metric","step":3,"epoch":0,"values":{"lr":null}}\n'
    """
    head = {name: plain(getattr(event, name)) for name in _HEAD}
    data = {str(key): plain(value) for key, value in event.data.items() if key not in _HEAD}
    line = _dump(head | data)
    longest = 1024
    while len(line) >= MAX_LINE_BYTES and longest >= 32:
        data = {key: _shorten(value, longest) for key, value in data.items()} | {"truncated": True}
        line = _dump(head | data)
        longest //= 2
    if len(line) >= MAX_LINE_BYTES:
        line = _dump(head | _smallest_fields(data, MAX_LINE_BYTES - 1 - len(_dump(head))))
    return line


def decode_event(line: bytes) -> Event:
    """Decode one line.

    Raises:
        ValueError: The line is not UTF-8, not JSON (NaN is not valid JSON), or not an event.
    """
    try:
        record: Any = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(record, dict):
        raise ValueError("not an object")
    kind, seq, step, epoch, t, mono, version = (
        record.get(name) for name in ("kind", "seq", "step", "epoch", "t", "mono", "v")
    )
    if not isinstance(kind, str) or not _is_count(seq):
        raise ValueError("kind or seq is missing or invalid")
    if not all(value is None or _is_count(value) for value in (step, epoch)):
        raise ValueError("step or epoch is not a non-negative integer")
    if not (_is_time(t) and _is_time(mono)):
        raise ValueError("t or mono is not a valid time")
    return Event(
        kind=kind,
        seq=seq,
        t=float(t),
        mono=float(mono),
        step=step,
        epoch=epoch,
        data={key: value for key, value in record.items() if key not in _HEAD},
        v=version if _is_count(version) else 0,
    )


def next_seq(path: Path) -> int:
    """Return the next event number: 0, or one more than the largest in the file if a trainer restarts in an attempt.

    Raises:
        OSError: The file cannot be read.
    """
    seq = -1
    with path.open("rb") as handle:
        for line in handle:
            try:
                seq = max(seq, decode_event(line).seq)
            except ValueError:
                continue
    return seq + 1


def plain(value: Any) -> Any:
    """Convert `value` to JSON types: non-finite numbers to None, arrays to lists, paths and other objects to text."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    convert = getattr(value, "tolist", None)  # NumPy scalars and arrays, torch tensors
    return plain(convert()) if callable(convert) else str(value)


def _dump(value: Any) -> bytes:
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    # A lone surrogate (from a file name that cannot be decoded) has no UTF-8 form and is replaced.
    return text.encode("utf-8", "replace") + b"\n"


def _smallest_fields(data: dict[str, Any], room_bytes: int) -> dict[str, Any]:
    """Return the fields that fit, chosen from the smallest on, in their original order, with ``truncated``."""
    kept = {"truncated"}
    room_bytes -= len(_dump({"truncated": True}))
    for size, key in sorted((len(_dump({key: value})), key) for key, value in data.items()):
        room_bytes -= size
        if room_bytes < 0:
            break
        kept.add(key)
    return {key: value for key, value in data.items() if key in kept}


def _shorten(value: Any, longest: int) -> Any:
    if isinstance(value, str):
        return value if len(value) <= longest else value[: longest - 1] + "…"
    if isinstance(value, dict):
        return {key: _shorten(item, longest) for key, item in value.items()}
    if isinstance(value, list):
        return [_shorten(item, longest) for item in value]
    return value


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _LARGEST_INTEGER


def _is_time(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and abs(value) < _LARGEST_INTEGER


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
