"""Tests of store arrays: reading by other libraries, windows at any position, and every kind of damage."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorstore
import zarr

from patchcore.errors import (
    CorruptFileError,
    DataError,
    PatchcoreError,
    SchemaVersionError,
    UnsupportedDataError,
    WindowError,
)
from patchcore.store import StoredArray, write_array
from patchcore.store.window_reader import WindowReader
from patchcore.store.windows import read_windows
from patchcore.windows.format import WindowFormat

Array = npt.NDArray[Any]


def volume(shape: tuple[int, int, int] = (50, 61, 70), seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(-1000, 2000, shape).astype(np.int16)


def stored(folder: Path, array: Array, **options: Any) -> StoredArray:
    write_array(folder, array, **options)
    return StoredArray(folder)


@pytest.mark.parametrize(
    "array",
    [
        volume(),
        np.asfortranarray(volume()),
        volume().transpose(2, 0, 1)[::-1, :, ::-1],
        volume((1, 1, 1)),
        volume((24, 48, 24)),
        (volume() > 1900).astype(np.uint8),
        np.zeros((30, 30, 30), np.int16),
    ],
    ids=["C", "Fortran", "flipped view", "one voxel", "whole chunks", "labels", "nothing"],
)
def test_everybody_reads_what_is_written(tmp_path: Path, array: Array) -> None:
    ours = stored(tmp_path / "a", array, attributes={"source": ["x", 1]})
    np.testing.assert_array_equal(ours.read(), array)
    assert ours.attributes == {"source": ["x", 1]}
    ours.verify()
    theirs = zarr.open_array(tmp_path / "a", mode="r")
    np.testing.assert_array_equal(theirs[:], array)
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(tmp_path / "a")}}
    np.testing.assert_array_equal(tensorstore.open(spec).result().read().result(), array)


def test_several_shards(tmp_path: Path) -> None:
    array = volume((600, 30, 40))
    ours = stored(tmp_path / "a", array)
    assert ours.verify().shards == 2
    np.testing.assert_array_equal(ours.read(), array)
    corners = [[500, 0, 3], [520, -5, 20], [-10, 0, 0]]
    windows = read_windows([ours] * 3, corners, (40, 20, 30), WindowFormat(padding=-7))
    padded = np.pad(array, 40, constant_values=-7)
    for window, corner in zip(windows, corners, strict=True):
        part = tuple(slice(c + 40, c + 40 + w) for c, w in zip(corner, (40, 20, 30), strict=True))
        np.testing.assert_array_equal(window, padded[part])


def test_chunks_of_the_fill_value_take_no_room(tmp_path: Path) -> None:
    array = np.full((100, 100, 100), -1024, np.int16)
    array[50, 50, 50] = 7
    ours = stored(tmp_path / "a", array, fill=-1024)
    assert ours.verify().chunks == 1
    np.testing.assert_array_equal(ours.read(), array)
    scaled = read_windows([ours], [[40, 40, -5]], (20, 20, 20), WindowFormat((-2000, 0)))
    assert scaled[0, 0, 0, 0] == 0  # padding is the lower end of the range
    assert scaled[0, 0, 0, 6] == pytest.approx(976 / 2000)


def test_scaled_windows_are_numpys(tmp_path: Path) -> None:
    array = volume()
    ours = stored(tmp_path / "a", array)
    out = np.empty((2, 33, 20, 41), np.float32)
    again = read_windows([ours, ours], [[3, 5, 7], [17, 41, 29]], (33, 20, 41), WindowFormat((-200, 300)), out=out)
    assert again is out
    for window, (i, j, k) in zip(out, [(3, 5, 7), (17, 41, 29)], strict=True):
        part = array[i : i + 33, j : j + 20, k : k + 41]
        np.testing.assert_allclose(window, (np.clip(part, -200, 300) + 200.0) / 500, rtol=0, atol=2e-7)


def test_threads_change_nothing(tmp_path: Path) -> None:
    ours = stored(tmp_path / "a", volume())
    corners = np.random.default_rng(1).integers(-20, 60, (9, 3))
    one = read_windows([ours] * 9, corners, (32, 32, 32), WindowFormat((-100, 900)), threads=1)
    np.testing.assert_array_equal(one, read_windows([ours] * 9, corners, (32, 32, 32), WindowFormat((-100, 900))))


def _shard(folder: Path) -> Path:
    return folder / "c" / "0" / "0" / "0"


@pytest.mark.parametrize("place", ["first", "middle", "index", "checksum"])
def test_a_flipped_bit_is_found_and_its_file_named(tmp_path: Path, place: str) -> None:
    write_array(tmp_path / "a", volume())
    data = bytearray(_shard(tmp_path / "a").read_bytes())
    at = {"first": 40, "middle": len(data) // 2, "index": len(data) - 100, "checksum": len(data) - 1}[place]
    data[at] ^= 4
    _shard(tmp_path / "a").write_bytes(data)
    for look in (StoredArray.verify, StoredArray.read):
        with pytest.raises(CorruptFileError, match=r"a/c/0/0/0.*checksum"):
            look(StoredArray(tmp_path / "a"))


@pytest.mark.parametrize("length", [0, 3, 500, -1])
def test_a_shard_cut_short_is_refused(tmp_path: Path, length: int) -> None:
    write_array(tmp_path / "a", volume())
    path = _shard(tmp_path / "a")
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CorruptFileError, match=r"a/c/0/0/0"):
        StoredArray(tmp_path / "a").read()


def test_a_shard_cut_while_it_is_open_is_an_error_and_no_crash(tmp_path: Path) -> None:
    ours = stored(tmp_path / "a", volume())
    read_windows([ours], [[0, 0, 0]], (24, 24, 24), WindowFormat())
    path = _shard(tmp_path / "a")
    with path.open("r+b") as handle:
        handle.truncate(1000)
    with pytest.raises(CorruptFileError, match="ends early"):
        ours.read()


def test_seeded_damage_never_gives_other_voxels(tmp_path: Path) -> None:
    array = volume((30, 40, 50))
    write_array(tmp_path / "a", array)
    intact = _shard(tmp_path / "a").read_bytes()
    rng = np.random.default_rng(3)
    refused = 0
    for _ in range(300):
        data = bytearray(intact)
        for at in rng.integers(0, len(data), rng.integers(1, 4)):
            data[at] = rng.integers(0, 256)
        if rng.random() < 0.2:
            del data[rng.integers(0, len(data)) :]
        _shard(tmp_path / "a").write_bytes(data)
        try:
            found = StoredArray(tmp_path / "a").read()
        except PatchcoreError:
            refused += 1
        else:
            np.testing.assert_array_equal(found, array)
    assert refused > 250


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"zarr_format": 2}, SchemaVersionError, "Zarr format 2"),
        ({"node_type": "group"}, CorruptFileError, "does not describe a Zarr array"),
        ({"shape": [1, 2]}, UnsupportedDataError, "expected three axes"),
        ({"shape": "many"}, CorruptFileError, "does not describe a Zarr array"),
        ({"shape": [0, 2, 3]}, CorruptFileError, "does not describe a Zarr array"),
        ({"data_type": "complex64"}, UnsupportedDataError, "complex64"),
        ({"shape": [10_000_000] * 3}, DataError, "too many"),
        ({"codecs": [{"name": "unheard"}]}, UnsupportedDataError, "cannot open the folder as a Zarr array"),
        (
            {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [4096] * 3}}},
            UnsupportedDataError,
            "chunks of",
        ),
    ],
)
def test_other_metadata_is_refused(tmp_path: Path, change: dict[str, Any], error: type[Exception], words: str) -> None:
    write_array(tmp_path / "a", volume((5, 5, 5)))
    path = tmp_path / "a" / "zarr.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change))
    with pytest.raises(error, match=words):
        StoredArray(tmp_path / "a")


def test_wrong_calls_are_refused(tmp_path: Path) -> None:
    ours = stored(tmp_path / "a", volume((5, 5, 5)))
    labels = stored(tmp_path / "b", np.ones((5, 5, 5), np.uint8))
    with pytest.raises(WindowError, match="2 corners"):
        read_windows([ours], [[0, 0, 0], [1, 1, 1]], (2, 2, 2), WindowFormat())
    with pytest.raises(WindowError, match="lower first"):
        read_windows([ours], [[0, 0, 0]], (2, 2, 2), WindowFormat((5, 5)))
    with pytest.raises(WindowError, match="out: "):
        read_windows([ours], [[0, 0, 0]], (2, 2, 2), WindowFormat(), out=np.empty((1, 2, 2, 3), np.float32))
    with pytest.raises(UnsupportedDataError, match="expected int16 for images"):
        read_windows([labels], [[0, 0, 0]], (2, 2, 2), WindowFormat())
    label_out = np.empty((1, 2, 2, 2), np.uint8)
    with pytest.raises(UnsupportedDataError, match="uint8 for labels"):
        read_windows([ours], [[0, 0, 0]], (2, 2, 2), WindowFormat(), labels=[ours], label_out=label_out)
    with pytest.raises(UnsupportedDataError, match="int16"):
        write_array(tmp_path / "c", np.zeros((2, 2, 2)))
    with pytest.raises(FileExistsError):
        write_array(tmp_path / "a", volume((5, 5, 5)))


def test_a_missing_shard_has_the_fill_value_only_where_none_was_written(tmp_path: Path) -> None:
    """In Zarr, a missing shard means the fill value. Our arrays say which shards were written; others cannot."""
    write_array(tmp_path / "a", volume((5, 5, 5)), fill=3)
    shutil.rmtree(tmp_path / "a" / "c")
    with pytest.raises(CorruptFileError, match=r"a/c/0/0/0: the shard file is missing"):
        StoredArray(tmp_path / "a").read()
    zarr.open_array(tmp_path / "a").attrs.clear()
    assert (StoredArray(tmp_path / "a").read() == 3).all()
    # Without a record, the shards that exist when the array is opened belong to it.
    write_array(tmp_path / "b", volume((5, 5, 5)), fill=3)
    zarr.open_array(tmp_path / "b").attrs.clear()
    opened = StoredArray(tmp_path / "b")
    shutil.rmtree(tmp_path / "b" / "c")
    with pytest.raises(CorruptFileError, match=r"b/c/0/0/0: the shard file is missing"):
        opened.read()


def _sum(array: StoredArray, queue: Any) -> None:
    queue.put(float(read_windows([array] * 3, [[0, 0, 0]] * 3, (40, 40, 40), WindowFormat()).sum()))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_after_fork_and_spawn(tmp_path: Path, method: str) -> None:
    ours = stored(tmp_path / "a", volume())
    expected = float(read_windows([ours] * 3, [[0, 0, 0]] * 3, (40, 40, 40), WindowFormat()).sum())
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    worker = context.Process(target=_sum, args=(pickle.loads(pickle.dumps(ours)) if method == "spawn" else ours, queue))
    worker.start()
    assert queue.get(timeout=60) == expected
    worker.join(timeout=60)
    assert worker.exitcode == 0


CHAINS: dict[str, dict[str, Any]] = {
    "raw": {"compressors": None, "chunks": (16, 20, 24)},
    "zstd": {"compressors": zarr.codecs.ZstdCodec(level=3), "chunks": (32, 32, 32)},
    "gzip": {"compressors": zarr.codecs.GzipCodec(level=1), "chunks": (20, 30, 40)},
    "blosc in shards": {
        "compressors": zarr.codecs.BloscCodec(cname="zstd", clevel=1), "chunks": (16, 16, 16), "shards": (48, 48, 48),
    },
    "transposed": {"filters": zarr.codecs.TransposeCodec(order=(2, 1, 0)), "chunks": (32, 32, 32)},
}  # fmt: skip


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("dtype", ["int16", "uint16", "float32"])
def test_what_others_wrote_is_read_through_zarrs(tmp_path: Path, chain: str, dtype: str) -> None:
    image = np.abs(volume((50, 41, 37))).astype(dtype)
    label = (image % 3).astype(np.uint8)
    for name, array in (("image", image), ("label", label)):
        zarr.create_array(tmp_path / name, shape=array.shape, dtype=array.dtype, **CHAINS[chain])[:] = array
    stored, labels = StoredArray(tmp_path / "image"), StoredArray(tmp_path / "label")
    np.testing.assert_array_equal(stored.read(), image)
    assert stored.verify().bytes > 0
    corners = [(-5, 3, 30), (20, 20, 20), (100, 0, 0)]
    label_out = np.empty((3, 17, 18, 19), np.uint8)
    found = WindowReader([(stored, labels)]).read(0, corners, (17, 18, 19), padding=-7, label_out=label_out).image
    padded = np.pad(image.astype(np.float32), 128, constant_values=-7)
    padded_label = np.pad(label, 128)
    for window, its_label, corner in zip(found, label_out, corners, strict=True):
        part = tuple(slice(c + 128, c + 128 + n) for c, n in zip(corner, (17, 18, 19), strict=True))
        np.testing.assert_array_equal(window, padded[part])
        np.testing.assert_array_equal(its_label, padded_label[part])
    # Together with an array written by patchcore, in one call.
    write_array(tmp_path / "ours", image.astype(np.int16))
    form, own = WindowFormat((0, 50), "float16"), [(0, 50), (-7, 20)]
    reader = WindowReader([stored, StoredArray(tmp_path / "ours")])
    mixed, alone = (reader.read_as(cases, corners[:2], (9, 9, 9), form, ranges=own).image for cases in ([0, 1], 0))
    np.testing.assert_array_equal(mixed, alone)
    np.testing.assert_array_equal(reader.read_as(1, corners[:2], (9, 9, 9), form, ranges=own).image, alone)
    # A label map written by other software beside an image written by patchcore, and the other way round.
    write_array(tmp_path / "our label", label)
    for pair in ((tmp_path / "ours", labels), (stored, tmp_path / "our label")):
        beside = WindowReader([pair]).read(0, corners, (17, 18, 19), padding=-7)
        np.testing.assert_array_equal(beside.image, found)
        np.testing.assert_array_equal(beside.label, label_out)
    with pytest.raises(UnsupportedDataError, match="WindowReader"):
        read_windows([stored], corners[:1], (9, 9, 9), form)


def test_damage_in_what_others_wrote_is_reported(tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "a", shape=(40, 40, 40), dtype="int16", chunks=(20, 20, 20))
    array[:] = volume((40, 40, 40))
    chunk = next(path for path in (tmp_path / "a" / "c").rglob("*") if path.is_file())
    chunk.write_bytes(b"nonsense" + chunk.read_bytes()[:40])
    stored = StoredArray(tmp_path / "a")
    for read in (stored.read, stored.verify):
        with pytest.raises(CorruptFileError, match="cannot be decoded") as caught:
            read()
        assert str(tmp_path / "a") in str(caught.value)


def test_more_arrays_and_shards_than_files_may_be_open(tmp_path: Path) -> None:
    """In a process of its own, because a limit that was lowered cannot be raised again."""
    code = """
import resource, shutil, sys
import numpy as np
from pathlib import Path
from patchcore.store import StoredArray, write_array
root = Path(sys.argv[1])
volumes = [np.full((30, 30, 30), n, np.int16) for n in range(160)]
for n, volume in enumerate(volumes):
    write_array(root / str(n), volume, fill=-1)
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
arrays = [StoredArray(root / str(n)) for n in range(160)]
for _ in range(2):
    for n, array in enumerate(arrays):
        assert (array.read() == n).all()
first = (root / "159/c/0/0/0")
content = first.read_bytes()
first.unlink()
first.write_bytes(content)
shutil.move(root / "158", root / "moved")
shutil.copytree(root / "moved", root / "158")
for n in (159, 158):
    try:
        arrays[n].read()
    except Exception as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    assert "159/c/0/0/0: the shard file was replaced while it was in use" in done.stdout
    assert "158/c/0/0/0: the array was replaced while it was in use" in done.stdout
