"""Errors of patchcore: what was found, where, what was expected and what to do about it.

Two families hang under :class:`PatchcoreError`: :class:`DataError` (also a ``ValueError``: the input is wrong) and
:class:`RunError` (also a ``RuntimeError``: a training or its folder is in a state that forbids what was asked). Failing
reads and writes raise Python's own ``OSError`` family instead.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "AffineMismatchError",
    "CheckpointError",
    "ConfigError",
    "CorruptFileError",
    "DataError",
    "EmptyClassError",
    "ExitCode",
    "HeaderError",
    "LockedError",
    "MissingExtraError",
    "NonIntegralLabelError",
    "PatchSizeError",
    "PatchcoreError",
    "PlanError",
    "RunError",
    "SchemaVersionError",
    "ShapeMismatchError",
    "StudyError",
    "UnsupportedDataError",
    "WindowError",
]


class PatchcoreError(Exception):
    """Base of every error that patchcore raises on purpose.

    Args:
        message: What was found, in one sentence without a final full stop.
        case_id: The case it was found in.
        path: The file or folder it was found in.
        found: The offending value.
        expected: What would have been right.
        remedy: What the reader can do, in one sentence.
    """

    def __init__(
        self,
        message: str,
        *,
        case_id: str | None = None,
        path: Any = None,
        found: Any = None,
        expected: Any = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.case_id = case_id
        self.path = None if path is None else str(path)
        self.found = found
        self.expected = expected
        self.remedy = remedy

    def __str__(self) -> str:
        where = ": ".join(part for part in (self.case_id, self.path) if part and part not in self.message)
        text = f"{where}: {self.message}" if where else self.message
        return f"{text}; {self.remedy}" if self.remedy else text

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.message, dict(self.__dict__)))


def _rebuild(kind: type[PatchcoreError], message: str, state: dict[str, Any]) -> PatchcoreError:
    error = kind(message)
    error.__dict__.update(state)
    return error


class ExitCode:
    """Exit codes of every command."""

    DONE = 0
    ERROR = 1
    USAGE = 2
    QUARANTINED = 3
    STOPPED = 75
    INTERRUPTED = 130


class DataError(PatchcoreError, ValueError):
    """The input is not what it has to be."""


class HeaderError(DataError):
    """A file header is malformed, contradicts the file, or carries impossible values (NaN spacing, size 0)."""


class CorruptFileError(DataError):
    """A file ends early or fails its checksum."""


class UnsupportedDataError(DataError):
    """A valid file or array of a kind that cannot be used here (4D, complex, RGB)."""


class NonIntegralLabelError(DataError):
    """A label map holds a value that is no integer."""


class ShapeMismatchError(DataError):
    """Arrays that must share a shape do not."""


class AffineMismatchError(DataError):
    """Image and label do not lie in the same place."""


class EmptyClassError(DataError):
    """A class that is to be learnt or measured has no voxel anywhere."""


class WindowError(DataError):
    """A window or its destination does not fit (window size, corner, buffer, HU range)."""


class PatchSizeError(WindowError):
    """A patch size that the network cannot have, or that does not divide the window."""


class PlanError(DataError):
    """A plan that cannot be computed, or was edited into something impossible."""


class ConfigError(DataError):
    """A configuration with unknown keys or impossible values."""


class SchemaVersionError(DataError):
    """A file written by a newer patchcore."""


class StudyError(DataError):
    """A study folder that is missing, incomplete or not writable."""


class RunError(PatchcoreError, RuntimeError):
    """A run cannot do what was asked of it."""


class LockedError(RunError):
    """Another process holds the lock that this one needs."""


class CheckpointError(RunError):
    """A checkpoint is missing, truncated or belongs to another network."""


class MissingExtraError(PatchcoreError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""
