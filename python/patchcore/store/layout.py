"""How arrays of a store are cut, and what their ``zarr.json`` says.

A shard is one file of 24³ chunks; each chunk is Blosc (byte shuffle where an element has several bytes, lz4hc level 3)
and then a crc32c. On real CT that is 1.77 times smaller than raw, and a window of 96³ takes one core 1.05 ms; chunks of
32³ are 1.79 times smaller and take it 1.26 ms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchcore import _core
from patchcore.errors import CorruptFileError, SchemaVersionError, UnsupportedDataError
from patchcore.files import read_json
from patchcore.types import IntTriple

__all__ = ["CHUNK", "ArrayLayout", "array_metadata", "group_metadata", "read_layout", "shard_shape"]

CHUNK: IntTriple = (_core.CHUNK[0], _core.CHUNK[1], _core.CHUNK[2])
"""Voxels of a chunk along each axis."""

_MOST_SHARD_BYTES = 64 << 20
_LONGEST_SHARD = 512
_BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
_CHECKSUM = {"name": "crc32c"}


@dataclass(frozen=True)
class ArrayLayout:
    """What a ``zarr.json`` says of an array.

    Attributes:
        shape: Voxels.
        shard: Voxels of a shard; of a chunk where there are no shards.
        dtype: ``"int16"`` or ``"uint8"``, or another where `ours` is false.
        fill: What voxels have where no chunk is.
        attributes: The user's.
        ours: Whether it is laid out as patchcore writes; others are read through zarrs.
    """

    shape: IntTriple
    shard: IntTriple
    dtype: str
    fill: int
    attributes: Mapping[str, Any]
    ours: bool = True


def shard_shape(shape: Sequence[int], element_bytes: int, *, thin_axis: int = 2) -> IntTriple:
    """Return the shape of shards: at most 64 MiB of voxels, whole across, and as thick as fits along one axis.

    Whole slabs across are what a volume that is read slice by slice can be written as, one shard after the other.

    Args:
        shape: Voxels of the array.
        element_bytes: Bytes of a voxel.
        thin_axis: The axis along which slabs follow each other.

    Example:
        >>> shard_shape((512, 512, 2000), 2)
        (528, 528, 120)
        >>> shard_shape((40, 50, 60), 1)
        (48, 72, 72)
    """
    shard = [min(_up(_LONGEST_SHARD, edge), _up(n, edge)) for n, edge in zip(shape, CHUNK, strict=True)]
    across = math.prod(shard) // shard[thin_axis] * element_bytes
    edge = CHUNK[thin_axis]
    shard[thin_axis] = min(shard[thin_axis], max(edge, _MOST_SHARD_BYTES // across // edge * edge))
    return (shard[0], shard[1], shard[2])


def array_metadata(
    shape: Sequence[int],
    shard: Sequence[int],
    dtype: str,
    *,
    fill: int = 0,
    attributes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the ``zarr.json`` of an array with axes x, y, z."""
    shuffled = dtype != "uint8"
    blosc = {
        "name": "blosc",
        "configuration": {
            "cname": "lz4hc",
            "clevel": 3,
            "shuffle": "shuffle" if shuffled else "noshuffle",
            "typesize": 2 if shuffled else 1,
            "blocksize": 0,
        },
    }
    sharding = {
        "chunk_shape": list(CHUNK),
        "codecs": [_BYTES if shuffled else {"name": "bytes"}, blosc, _CHECKSUM],
        "index_codecs": [_BYTES, _CHECKSUM],
        "index_location": "end",
    }
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(shard)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill,
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "attributes": dict(attributes or {}),
        "dimension_names": ["x", "y", "z"],
    }


def group_metadata(attributes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the ``zarr.json`` of a group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes or {})}


def read_layout(folder: Path) -> ArrayLayout:
    """Read an array's ``zarr.json``.

    Raises:
        CorruptFileError: It is no metadata of an array.
        UnsupportedDataError: A valid array of another dtype or number of axes, or of chunks too large to be held.
        SchemaVersionError: Another version of Zarr.
        FileNotFoundError: There is none.
    """
    path = folder / "zarr.json"
    data: Any = read_json(path)
    if not isinstance(data, dict) or data.get("node_type") != "array":
        raise CorruptFileError("is no metadata of a Zarr array", path=path, remedy="run patchcore prepare again")
    if data.get("zarr_format") != 3:
        raise SchemaVersionError(
            f"Zarr format {data.get('zarr_format')!r}", path=path, expected=3, remedy="convert the array to Zarr v3"
        )
    try:
        shape, shard = (_lengths(part) for part in (data["shape"], data["chunk_grid"]["configuration"]["chunk_shape"]))
        dtype, fill = str(data["data_type"]), data["fill_value"]
        attributes = dict(data.get("attributes", {}))
        if len(shape) != 3 or len(shard) != 3 or dtype not in _DTYPES:
            raise UnsupportedDataError(
                f"an array of shape {shape} and dtype {dtype}; read are three axes of {', '.join(_DTYPES)}",
                path=path,
                remedy="write one channel of one volume, as int16 HU or uint8 class indices",
            )
        whole = isinstance(fill, int) and not isinstance(fill, bool)
        expected = array_metadata(shape, shard, dtype, fill=fill if whole else 0)
        whole_chunks = all(n % edge == 0 for n, edge in zip(shard, CHUNK, strict=True))
        ours = (
            dtype in ("int16", "uint8")
            and whole_chunks
            and all(_normal(data.get(name)) == _normal(expected[name]) for name in expected if name not in _FREE)
        )
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, UnsupportedDataError):
            raise
        raise CorruptFileError(
            f"is no metadata of an array ({error!r})", path=path, remedy="run patchcore prepare again"
        ) from None
    if not ours and math.prod(shard) * 4 > _MOST_FOREIGN_BYTES:
        raise UnsupportedDataError(
            f"chunks of {shard} voxels",
            path=path,
            expected=f"at most {_MOST_FOREIGN_BYTES >> 20} MiB",
            remedy="write the array in smaller chunks",
        )
    (a, b, c), (x, y, z) = shape, shard
    return ArrayLayout((a, b, c), (x, y, z), dtype, int(fill) if whole else 0, attributes, ours)


_DTYPES = ("int8", "uint8", "int16", "uint16", "int32", "float32")
_MOST_FOREIGN_BYTES = 1 << 30
_FREE = ("attributes", "dimension_names")


def _normal(value: Any) -> Any:
    """Leave out what decoding does not depend on: how well an array was compressed."""
    if isinstance(value, dict):
        return {key: _normal(item) for key, item in value.items() if key not in ("clevel", "blocksize")}
    if value == "lz4hc":
        return "lz4"
    return [_normal(item) for item in value] if isinstance(value, list) else value


def _lengths(values: Any) -> tuple[int, ...]:
    lengths = tuple(values)
    if not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in lengths):
        raise ValueError(f"{values} are no lengths")
    return lengths


def _up(n: int, edge: int) -> int:
    return -(-n // edge) * edge
