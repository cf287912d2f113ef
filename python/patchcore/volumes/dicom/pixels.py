"""Decodes DICOM frames: native, bit-packed or compressed. Sizes are checked before memory is allocated."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from patchcore.errors import CorruptFileError, HeaderError, MissingExtraError, UnsupportedDataError
from patchcore.volumes.dicom.grid import MAX_PIXELS
from patchcore.volumes.dicom.objects import guarded, numbers, text

__all__ = ["Frames"]

_NATIVE = {
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.2",
    "1.2.840.113619.5.2",
}
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_DEFLATED_FRAMES = "1.2.840.10008.1.2.8.1"
_RLE = "1.2.840.10008.1.2.5"
_JPEG_SOF = frozenset({*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0), 0xF7})


class Frames:
    """The frames of one data set, decoded one at a time.

    Args:
        dataset: Data set that was read with its pixels.
        path: File of the data set, for messages.

    Raises:
        HeaderError: Rows, columns, frames or bits are impossible, or more than the file holds.
        UnsupportedDataError: The image is in colour, its pixels are floating-point numbers, or the number of bits
            per pixel is not supported.
        CorruptFileError: There are no pixels, or they end early.
    """

    def __init__(self, dataset: Any, path: Path) -> None:
        self.path = path
        with guarded(path):
            self._read_header(dataset)

    def _read_header(self, dataset: Any) -> None:
        self.rows, self.columns = self._integer(dataset, "Rows"), self._integer(dataset, "Columns")
        self.count = self._integer(dataset, "NumberOfFrames", 1)
        self.allocated = self._integer(dataset, "BitsAllocated")
        self.stored = self._integer(dataset, "BitsStored", self.allocated)
        self.high_bit = self._integer(dataset, "HighBit", self.stored - 1, least=0)
        representation = self._integer(dataset, "PixelRepresentation", 0, least=0)
        if representation > 1:
            raise HeaderError(f"PixelRepresentation is {representation}, expected 0 or 1", path=self.path)
        self.signed = representation == 1
        samples = self._integer(dataset, "SamplesPerPixel", 1)
        self._photometric = text(dataset, "PhotometricInterpretation") or "MONOCHROME2"
        self._syntax = text(dataset.file_meta, "TransferSyntaxUID") if hasattr(dataset, "file_meta") else ""
        if not self._syntax:
            self._syntax = "1.2.840.10008.1.2"
        if self.rows * self.columns > MAX_PIXELS:
            raise HeaderError(f"a frame of {self.rows} × {self.columns} pixels is not plausible", path=self.path)
        if samples != 1:
            raise UnsupportedDataError("the image is in colour", path=self.path, remedy="export the original CT")
        if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
            raise UnsupportedDataError(
                "the pixels are floating-point numbers", path=self.path, remedy="export it as 16-bit integers"
            )
        if self.allocated not in (1, 8, 16, 32) or not 1 <= self.stored <= self.allocated:
            raise UnsupportedDataError(
                f"{self.stored} of {self.allocated} bits per pixel are not supported",
                path=self.path,
                remedy="export it as 16-bit integers",
            )
        if not self.stored - 1 <= self.high_bit < self.allocated:
            raise HeaderError(f"HighBit {self.high_bit} contradicts BitsStored {self.stored}", path=self.path)
        if "PixelData" not in dataset:
            raise CorruptFileError("the file has no pixels", path=self.path, remedy="download or export it again")
        data = dataset["PixelData"].value
        if not isinstance(data, bytes):
            raise CorruptFileError("the file has no pixels", path=self.path, remedy="download or export it again")
        self._data = data
        if self._syntax in _NATIVE:
            needed = (self.count * self.rows * self.columns * self.allocated + 7) // 8
            if needed > len(data):
                raise CorruptFileError(
                    f"the header promises {needed} bytes of pixels, but there are {len(data)}",
                    path=self.path,
                    found=len(data),
                    expected=needed,
                    remedy="the file is truncated: download or export it again",
                )
        else:
            from pydicom.encaps import generate_frames

            if self.count > len(data) // 8:
                raise CorruptFileError(
                    f"the header promises {self.count} frames, but {len(data)} bytes cannot hold them", path=self.path
                )
            extended = None
            if "ExtendedOffsetTable" in dataset and "ExtendedOffsetTableLengths" in dataset:
                extended = (dataset["ExtendedOffsetTable"].value, dataset["ExtendedOffsetTableLengths"].value)
            self._encoded = []
            for encoded in generate_frames(data, number_of_frames=self.count, extended_offsets=extended):
                self._encoded.append(encoded)
                if len(self._encoded) > self.count:
                    break
            if len(self._encoded) != self.count:
                raise CorruptFileError(
                    f"the header promises {self.count} frames, but there are {len(self._encoded)}", path=self.path
                )

    def _integer(self, dataset: Any, keyword: str, default: int | None = None, *, least: int = 1) -> int:
        found = numbers(dataset, keyword, 1, self.path)
        value = default if found is None else int(found[0])
        if value is None or value < least or value > 1 << 31:
            raise HeaderError(
                f"{keyword} is {'missing' if value is None else value}", path=self.path, remedy="export the file again"
            )
        return value

    @property
    def encapsulated(self) -> bool:
        """Whether each frame is compressed separately."""
        return self._syntax not in _NATIVE

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of a decoded frame."""
        if self.allocated == 1:
            return np.dtype(np.uint8)
        return np.dtype(f"{'i' if self.signed else 'u'}{self.allocated // 8}")

    def frame(self, index: int) -> npt.NDArray[Any]:
        """Return the stored values of a frame, shape (rows, columns); bits that are not part of a value are removed.

        Raises:
            CorruptFileError: The frame cannot be decoded, or its size contradicts the header.
            MissingExtraError: No decoder for the compression of the frame is installed.
        """
        with guarded(self.path):
            raw = self._decode(index) if self.encapsulated else self._native(index)
            return raw if self.allocated == 1 else self._values(raw)

    def _native(self, index: int) -> npt.NDArray[Any]:
        size = self.rows * self.columns
        if self.allocated == 1:
            # Frames follow each other without padding, so a frame may start in the middle of a byte.
            first, last = index * size, (index + 1) * size
            packed = np.frombuffer(self._data, np.uint8, (last + 7) // 8 - first // 8, first // 8)
            bits = np.unpackbits(packed, bitorder="little")[first % 8 :][:size]
            return bits.reshape(self.rows, self.columns)
        order = ">" if self._syntax == _BIG_ENDIAN else "<"
        width = self.allocated // 8
        flat = np.frombuffer(self._data, f"{order}u{width}", size, index * size * width)
        return flat.reshape(self.rows, self.columns)

    def _values(self, raw: npt.NDArray[Any]) -> npt.NDArray[Any]:
        width = self.allocated
        unsigned = raw.astype(f"u{width // 8}")
        if self.stored == width:
            return unsigned.view(self.dtype)
        # Shift up and down again: this removes the bits above the value and extends its sign.
        unsigned <<= width - 1 - self.high_bit
        values = unsigned.view(self.dtype)
        values >>= width - self.stored
        return values

    def _decode(self, index: int) -> npt.NDArray[Any]:
        encoded = self._encoded[index]
        if self._syntax == _DEFLATED_FRAMES:
            return self._inflate(encoded)
        if self._syntax != _RLE:
            self._check_codestream(encoded)
        elif len(encoded) < 64:
            raise CorruptFileError(f"frame {index + 1} ends early", path=self.path)
        from pydicom.pixels.decoders.base import get_decoder
        from pydicom.uid import UID

        try:
            decoder: Any = get_decoder(UID(self._syntax))
        except NotImplementedError:
            raise UnsupportedDataError(
                f"transfer syntax {self._syntax} is not supported", path=self.path, remedy="export it uncompressed"
            ) from None
        if not decoder.is_available:
            raise MissingExtraError(
                f"no decoder for {UID(self._syntax).name} is installed",
                path=self.path,
                remedy="install one with pip install 'patchcore[dicom]'",
            )
        _hush_gdcm()
        # For damaged data, CharLS and OpenJPEG raise an exception; GDCM, which would come first, may kill the process.
        safe = ("pyjpegls", "pylibjpeg", "pydicom")
        plugin = next((name for name in safe if name in decoder.available_plugins), "")
        if self._syntax == _RLE:
            if self.allocated == 1:
                return self._unrolled_bits(encoded, index)
            self._check_rle(encoded, index)
        array, _ = decoder.as_array(
            _one_frame(encoded),
            raw=True,
            index=0,
            decoding_plugin=plugin,
            rows=self.rows,
            columns=self.columns,
            number_of_frames=1,
            samples_per_pixel=1,
            photometric_interpretation=self._photometric,
            bits_allocated=max(self.allocated, 8),
            bits_stored=8 if self.allocated == 1 else self.stored,
            pixel_representation=int(self.signed),
            pixel_keyword="PixelData",
        )
        if array.shape != (self.rows, self.columns):
            raise CorruptFileError(
                f"frame {index + 1} decodes to shape {array.shape}, expected {(self.rows, self.columns)}",
                path=self.path,
            )
        return np.asarray(array)

    def _inflate(self, encoded: bytes) -> npt.NDArray[Any]:
        size = self.rows * self.columns
        needed = (size * self.allocated + 7) // 8
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(encoded, needed)
        if len(data) < needed:
            raise CorruptFileError(f"a frame inflates to {len(data)} bytes, expected {needed}", path=self.path)
        if self.allocated == 1:
            bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[:size]
            return bits.reshape(self.rows, self.columns)
        return np.frombuffer(data, f"<u{self.allocated // 8}").reshape(self.rows, self.columns)

    def _unrolled_bits(self, encoded: bytes, index: int) -> npt.NDArray[np.uint8]:
        """Decode a 1-bit frame with RLE: packed, eight pixels per byte, or with one byte per pixel."""
        size = self.rows * self.columns
        count, start = struct.unpack_from("<2L", encoded)
        if count != 1 or not 64 <= start <= len(encoded):
            raise CorruptFileError(f"frame {index + 1} is not valid RLE data", path=self.path)
        data = _unrolled(encoded[start:], size)
        if len(data) >= size:
            return np.frombuffer(data, np.uint8, size).reshape(self.rows, self.columns)
        if len(data) < (size + 7) // 8:
            raise CorruptFileError(
                f"frame {index + 1} decodes to {len(data)} bytes, expected {(size + 7) // 8}", path=self.path
            )
        bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[:size]
        return bits.reshape(self.rows, self.columns)

    def _check_rle(self, encoded: bytes, index: int) -> None:
        segments = struct.unpack_from("<16L", encoded)
        width = max(self.allocated, 8) // 8
        starts = segments[1 : 1 + width]
        # Two packed bytes decode to at most 128 bytes.
        if segments[0] != width or max(starts) > len(encoded) or 128 * len(encoded) < self.rows * self.columns:
            raise CorruptFileError(f"frame {index + 1} does not have the size given in the header", path=self.path)

    def _check_codestream(self, encoded: bytes) -> None:
        """Compare the size in the compressed data with the header before a decoder relies on it."""
        size = _jpeg_2000_size(encoded) if encoded[:2] == b"\xff\x4f" else _jpeg_size(encoded)
        if size != (self.rows, self.columns):
            found = "of unknown size" if size is None else f"of {size[0]} × {size[1]} pixels"
            raise CorruptFileError(
                f"a compressed frame is {found}, but the header says {self.rows} × {self.columns}",
                path=self.path,
                remedy="download or export it again",
            )


def _unrolled(packed: bytes, most: int) -> bytes:
    """Return the bytes of an RLE segment (PackBits), at most `most`; a last packet that is cut off is ignored."""
    out = bytearray()
    at = 0
    while at + 1 < len(packed) and len(out) < most:
        head = packed[at]
        if head < 128:
            out += packed[at + 1 : at + 2 + head]
            at += 2 + head
        else:
            # 128 means nothing.
            out += packed[at + 1 : at + 2] * (257 - head if head > 128 else 0)
            at += 2 if head > 128 else 1
    return bytes(out)


def _jpeg_2000_size(data: bytes) -> tuple[int, int] | None:
    if len(data) < 42 or data[2:4] != b"\xff\x51":
        return None
    x1, y1, x0, y0, tile_x, tile_y = struct.unpack_from(">6L", data, 8)
    parts = struct.unpack_from(">H", data, 40)[0]
    if parts != 1 or tile_x < 1 or tile_y < 1 or ((x1 - x0) // tile_x + 1) * ((y1 - y0) // tile_y + 1) > 4096:
        return None
    return (y1 - y0, x1 - x0)


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker in _JPEG_SOF:
            rows, columns = struct.unpack_from(">HH", data, at + 5)
            return (rows, columns) if data[at + 9 : at + 10] == b"\x01" else None
        at += 2 + int(struct.unpack_from(">H", data, at + 2)[0])
    return None


def _one_frame(encoded: bytes) -> bytes:
    """Return one frame as encapsulated pixel data, the format that pydicom's decoders need."""
    from pydicom.encaps import encapsulate

    return bytes(encapsulate([encoded]))


def _hush_gdcm() -> None:
    """Stop GDCM from writing messages to stderr from C++."""
    try:
        import gdcm
    except ImportError:
        return
    gdcm.Trace.WarningOff()
    gdcm.Trace.ErrorOff()
    gdcm.Trace.DebugOff()
