"""Writes files atomically (completely or not at all), and reads JSON with a schema version."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from patchcore.errors import DataError, SchemaVersionError
from patchcore.types import PathLike

__all__ = [
    "DISK_ERRORS",
    "finite",
    "json_lines",
    "read_json",
    "read_whole",
    "replace_atomically",
    "write_atomic",
    "write_json_atomic",
]

_REOPENED = 3

DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})
"""Error numbers that only the disk that is written to can cause: they concern all cases, not a single one."""

_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")


@contextmanager
def replace_atomically(path: PathLike) -> Iterator[Path]:
    """Yield a temporary path next to `path`. On success the temporary file is synced and replaces `path`.

    On any failure, including a full disk and Ctrl-C, the temporary file is removed and `path` stays unchanged.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "a.txt"
        >>> with replace_atomically(target) as temporary:
        ...     _ = temporary.write_text("whole")
        >>> target.read_text()
        'whole'
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    # The rename is durable only after the folder is synced. Some network file systems refuse to sync a folder.
    with suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_atomic(path: PathLike, data: bytes | str) -> None:
    """Write a file completely or not at all. Text is encoded as UTF-8.

    Raises:
        OSError: The folder is missing, not writable or full. The file at `path` is unchanged.
    """
    with replace_atomically(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def finite(value: Any) -> Any:
    """Return `value` with NaN and infinity replaced by None at any depth, because JSON does not support them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def write_json_atomic(path: PathLike, value: Any) -> None:
    """Write `value` as indented JSON, completely or not at all. NaN and infinity become null."""
    write_atomic(path, json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_whole(path: PathLike) -> bytes:
    """Return the bytes of a small file; a file that is replaced on a network file system meanwhile is opened again.

    Raises:
        OSError: The file cannot be read.
    """
    for _ in range(_REOPENED):
        try:
            return Path(path).read_bytes()
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
    return Path(path).read_bytes()


def read_json(path: PathLike, *, schema: int | None = None) -> Any:
    """Read a JSON file. With `schema`, an object with a newer ``schema_version`` is an error.

    Raises:
        DataError: The file is not JSON, or has no ``schema_version`` although `schema` is given.
        SchemaVersionError: The file was written by a newer patchcore.
        FileNotFoundError: The file does not exist.
    """
    path = Path(path)
    try:
        text = read_whole(path).decode("utf-8")
        value = json.loads(text)
        if _HALF_CHARACTER.search(text):
            # An unpaired surrogate cannot be written to a file again: encoding it raises a ValueError here.
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"not JSON ({error})", path=path, remedy="correct it, or delete it and run the command that wrote it again"
        ) from None
    if schema is not None:
        version = value.get("schema_version") if isinstance(value, dict) else None
        if not isinstance(version, int):
            raise DataError("has no schema_version", path=path, remedy="use a file written by patchcore")
        if version > schema:
            raise SchemaVersionError(
                f"schema version {version}, but this patchcore reads versions up to {schema}",
                path=path,
                remedy="update patchcore",
            )
    return value


def json_lines(path: Path) -> list[bytes]:
    """Return the lines of a JSON Lines file.

    Bytes are split instead of text, because a name may contain characters that Unicode treats as line ends.

    Raises:
        OSError: The file cannot be read.
    """
    return path.read_bytes().splitlines()
