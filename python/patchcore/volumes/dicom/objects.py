"""Opens DICOM files with pydicom: without its warnings, within the file's length, with patchcore's own errors."""

from __future__ import annotations

import logging
import math
import threading
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from patchcore.errors import CorruptFileError, HeaderError, MissingExtraError, PatchcoreError
from patchcore.types import PathLike

__all__ = ["guarded", "is_dicom", "numbers", "open_dataset", "text"]

_DEFLATED = b"1.2.840.10008.1.2.1.99"
# A SEG or CT of a patient never inflates to more bytes than this.
_MAX_INFLATED = 1 << 30


class _Quiet:
    """Silences pydicom in all threads while any thread reads: warning filters are per process, not per thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth = 0
        self._restore = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            self._depth += 1
            if self._depth == 1:
                self._enter()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._depth -= 1
            if self._depth == 0:
                self._restore.close()

    def _enter(self) -> None:
        settings = _pydicom().config.settings
        self._restore.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        mode, logger = settings._reading_validation_mode, logging.getLogger("pydicom")
        level = logger.level
        self._restore.callback(setattr, settings, "_reading_validation_mode", mode)
        self._restore.callback(logger.setLevel, level)
        settings.reading_validation_mode = _pydicom().config.IGNORE
        logger.setLevel(logging.CRITICAL)


_quiet = _Quiet()


def _pydicom() -> Any:
    try:
        import pydicom
    except ImportError:
        raise MissingExtraError(
            "reading DICOM needs pydicom", remedy="install it with pip install 'patchcore[dicom]'"
        ) from None
    return pydicom


@contextmanager
def guarded(path: PathLike) -> Iterator[None]:
    """Turn any exception that pydicom raises in this block into an error that names the file.

    pydicom reads a value only when it is accessed, so every access to a data set belongs inside this block. The
    exception that a malformed value raises is not documented and differs by value, so all exceptions are caught.

    Raises:
        HeaderError: The content of the file is not valid.
        CorruptFileError: The file ends early, or inflates to an implausible size.
    """
    with _quiet:
        try:
            yield
        except (PatchcoreError, OSError) as error:
            if not isinstance(error, EOFError):
                raise
        except MemoryError:
            raise HeaderError("asks for more memory than is available", path=path, remedy="check the file") from None
        except (EOFError, zlib.error) as error:
            raise CorruptFileError(
                f"the file ends early or is damaged ({error})", path=path, remedy="download or export it again"
            ) from None
        except Exception as error:
            what = " ".join(str(error).split())[:160]
            raise HeaderError(
                f"not a readable DICOM file ({type(error).__name__}: {what})",
                path=path,
                remedy="download or export it again",
            ) from None


class _Clamped:
    """A binary file that never reads more bytes than it has: a length in a header can be wrong."""

    def __init__(self, handle: Any, size: int, name: str) -> None:
        self._handle, self._size, self.name = handle, size, name

    def read(self, count: int = -1) -> bytes:
        left = max(0, self._size - self._handle.tell())
        data: bytes = self._handle.read(left if count is None or count < 0 else min(count, left))
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._handle.seek(offset, whence))

    def tell(self) -> int:
        return int(self._handle.tell())


def is_dicom(path: Path) -> bool:
    """Return whether a file starts like DICOM: ``DICM`` after 128 bytes, or a data set without preamble.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as handle:
        head = handle.read(132)
    # Old exports start directly with the first element: group 0002 or 0008, small element number, little endian.
    return head[128:] == b"DICM" or (len(head) == 132 and head[:2] in (b"\x08\x00", b"\x02\x00") and head[3] == 0)


def open_dataset(path: PathLike, *, tags: Sequence[str] | None = None, pixels: bool = False) -> Any:
    """Read a DICOM file; access its values only within :func:`guarded`.

    Args:
        path: The file.
        tags: Keywords of the elements to keep [default: all].
        pixels: Whether to read the pixel data too.

    Returns:
        A ``pydicom.Dataset``.

    Raises:
        DataError: The file is not DICOM, or is damaged.
        OSError: The file cannot be read.
    """
    path = Path(path)
    with guarded(path), path.open("rb") as handle:
        size = path.stat().st_size
        pydicom = _pydicom()
        reader = _Clamped(handle, size, str(path))
        _check_inflated(handle, path)
        handle.seek(0)
        return pydicom.dcmread(
            reader, force=True, specific_tags=None if tags is None else list(tags), stop_before_pixels=not pixels
        )


def _check_inflated(handle: Any, path: Path) -> None:
    """Inflate a deflated file piece by piece, and reject it if it becomes too large: pydicom inflates all at once."""
    head = handle.read(1024)
    if _DEFLATED not in head or head[128:136] != b"DICM\x02\x00\x00\x00":
        return
    handle.seek(144 + int.from_bytes(head[140:144], "little"))
    inflate, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while data := (inflate.unconsumed_tail or handle.read(1 << 16)):
        total += len(inflate.decompress(data, 1 << 20))
        if total > _MAX_INFLATED:
            raise CorruptFileError(
                f"inflates to more than {_MAX_INFLATED >> 20} MiB",
                path=path,
                remedy="export the file again without deflate compression",
            )
        if inflate.eof:
            return


def text(dataset: Any, keyword: str) -> str:
    r"""Return an element as text, without padding; empty if it is missing. Several values are joined by ``\\``."""
    value = dataset.get(keyword)
    if value is None:
        return ""
    if not isinstance(value, str) and isinstance(value, Sequence):
        return "\\".join(str(item) for item in value)
    return str(value).strip("\0 ")


def numbers(dataset: Any, keyword: str, count: int, path: PathLike) -> tuple[float, ...] | None:
    """Return an element as finite floats; None if it is missing or empty.

    Raises:
        HeaderError: The element does not hold exactly `count` finite numbers.
    """
    value = dataset.get(keyword)
    if value is None or value == "":
        return None
    items = list(value) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else [value]
    if not items:
        return None
    try:
        found = tuple(float(item) for item in items)
    except (TypeError, ValueError, OverflowError):
        found = ()
    if len(found) != count or not all(math.isfinite(item) for item in found):
        raise HeaderError(
            f"{keyword} is {str(value)[:60]!r}, expected {count} finite number{'s' if count > 1 else ''}",
            path=path,
            remedy="correct the header, or export the file again",
        )
    return found
