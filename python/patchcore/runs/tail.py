"""Reads a growing text file in steps. The position is stored as inode, offset and partial line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

__all__ = ["LineTail"]

_LONGEST_LINE: Final = 1 << 20


class LineTail:
    """Returns the complete lines that were added to a file since the last call.

    A last line without a newline is kept until its rest arrives. If the file becomes smaller, or another file gets its
    name, reading starts again at the beginning.

    Args:
        path: The file; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.overlong = 0
        self._inode: tuple[int, int] | None = None
        self._offset = 0
        self._partial = b""
        self._skipping = False

    def read(self, most_bytes: int) -> tuple[list[bytes], int]:
        """Read at most `most_bytes` more bytes.

        Returns:
            The complete lines without their newlines, and the number of bytes read. The number is 0 if nothing was
            added.
        """
        try:
            handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return [], 0
        try:
            status = os.fstat(handle)
            inode = (status.st_dev, status.st_ino)
            if inode != self._inode or status.st_size < self._offset:
                self._inode, self._offset, self._partial, self._skipping = inode, 0, b"", False
            data = os.pread(handle, most_bytes, self._offset) if status.st_size > self._offset else b""
        except OSError:  # a network file system may be unavailable for a moment
            return [], 0
        finally:
            os.close(handle)
        self._offset += len(data)
        return self._split(data), len(data)

    def _split(self, data: bytes) -> list[bytes]:
        *lines, self._partial = (self._partial + data).split(b"\n")
        if self._skipping and lines:
            del lines[0]
            self._skipping = False
        if len(self._partial) > _LONGEST_LINE:
            self.overlong += not self._skipping
            self._skipping, self._partial = True, b""
        return lines
