"""Defines the errors of patchcore. Each states what was found, where, what was expected and what to do.

:class:`PatchcoreError` has two families. :class:`DataError` (also a ``ValueError``) means that the input is wrong.
:class:`RunError` (also a ``RuntimeError``) means that the state of a training or its folder does not allow the request.
Failed reads and writes raise Python's own ``OSError`` family instead.
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
    "NoLocksError",
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
        case_id: The case in which it was found.
        path: The file or folder in which it was found.
        found: The wrong value.
        expected: The right value or values.
        remedy: What the user can do, in one sentence.
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
        if self.remedy:
            return f"{text}; {self.remedy}"
        return (
            text
            if self.expected is None or self._expected_text() in self.message
            else f"{text}; expected {self._expected_text()}"
        )

    def _expected_text(self) -> str:
        if isinstance(self.expected, list | tuple | set | frozenset):
            return ", ".join(map(str, self.expected))
        return str(self.expected)

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
    """The input is wrong."""


class HeaderError(DataError):
    """A file header is malformed, contradicts the file, or has impossible values (NaN spacing, size 0)."""


class CorruptFileError(DataError):
    """A file is truncated or its checksum is wrong."""


class UnsupportedDataError(DataError):
    """A valid file or array of a kind that cannot be used here (4D, complex, RGB)."""


class NonIntegralLabelError(DataError):
    """A label map contains a value that is not an integer."""


class ShapeMismatchError(DataError):
    """Arrays that must have the same shape have different shapes."""


class AffineMismatchError(DataError):
    """Image and label map have different affines, so they do not lie in the same place."""


class EmptyClassError(DataError):
    """A class to learn or measure has no voxel in any case."""


class WindowError(DataError):
    """A window or its output buffer is not valid (window size, corner, buffer, HU range)."""


class PatchSizeError(WindowError):
    """The network cannot have this patch size, or the patch size does not divide the window."""


class PlanError(DataError):
    """A plan cannot be computed, or was edited to impossible values."""


class ConfigError(DataError):
    """A configuration has unknown keys or impossible values."""


class SchemaVersionError(DataError):
    """A file was written by a newer patchcore."""


class StudyError(DataError):
    """A study folder is missing, incomplete or not writable."""


class RunError(PatchcoreError, RuntimeError):
    """A run cannot do what was requested."""


class LockedError(RunError):
    """Another process holds a lock that this process needs."""


class NoLocksError(RunError):
    """The file system of a folder does not support locks."""


class CheckpointError(RunError):
    """A checkpoint is missing, truncated or belongs to another network."""


class MissingExtraError(PatchcoreError, ImportError):
    """An optional dependency is not installed. The message names the extra that installs it."""
