"""Compare reading windows from the store with nnU-Net's blosc2 layout, tensorstore on the same files, and MONAI's crop.

The data is a real CT with its lesion mask, extended to 400 × 512 × 512 voxels by mirroring. All use one thread unless
stated otherwise, and each side reads at its own random corners. "dropped" means that the files were removed from the
page cache before every window. This does not affect nnU-Net: it maps its files into memory, and mapped pages stay in
memory.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blosc2
import nibabel as nib
import numpy as np
import numpy.typing as npt
import tensorstore as ts

from benchmarks.rows import Row, data_folder
from patchcore.lesions.measure import lesion_spans
from patchcore.store import StoredArray, write_array
from patchcore.store.windows import read_windows
from patchcore.windows.format import WindowFormat
from patchcore.windows.sampling import SamplerCase, WindowSampler

SHAPE, WINDOW, HU_RANGE = (400, 512, 512), (96, 96, 96), (-1000.0, 400.0)
REPEATS = 40
Array = npt.NDArray[Any]


def _volumes() -> tuple[Array, Array] | None:
    folder = data_folder("lidc_0314")
    if folder is None:
        return None

    def grown(name: str) -> Array:
        array = np.asanyarray(nib.load(folder / name).dataobj).astype(np.int16).transpose(2, 1, 0)
        pad = [(0, max(0, wanted - have)) for wanted, have in zip(SHAPE, array.shape, strict=True)]
        return np.ascontiguousarray(np.pad(array, pad, mode="symmetric")[tuple(slice(n) for n in SHAPE)])

    return grown("image.nii.gz"), (grown("mask.nii.gz") > 0).astype(np.uint8)


def nnunet_blocks(shape: tuple[int, ...], patch: tuple[int, ...], element_bytes: int) -> tuple[list[int], list[int]]:
    """Return chunks and blocks as in nnU-Net v2: blocks fit into 80 % of 32 KiB, chunks fit into 80 % of 1.4 MB."""
    block = [2 ** math.ceil(math.log2(edge)) for edge in patch]
    while math.prod(block) * element_bytes > 0.8 * 32768:
        axis = max(range(3), key=lambda n: (block[n] / patch[n], -n))
        block[axis] = min(2 ** math.floor(math.log2(block[axis] - 1)), shape[axis])
    block = [min(a, b) for a, b in zip(block, shape, strict=True)]
    chunk = list(block)
    while math.prod(chunk) * element_bytes < 0.8 * 1441792 and chunk != list(shape):
        axis = min((n for n in range(3) if chunk[n] < shape[n]), key=lambda n: chunk[n] / block[n])
        chunk[axis] = min(chunk[axis] + block[axis], shape[axis])
        if np.mean([a / b for a, b in zip(chunk, patch, strict=True)]) > 1.5:
            chunk[axis] -= block[axis]
            break
    return chunk, block


def _nnunet_file(array: Array, path: Path) -> None:
    chunks, blocks = nnunet_blocks(array.shape, WINDOW, array.dtype.itemsize)
    blosc2.asarray(
        array,
        chunks=chunks,
        blocks=blocks,
        cparams=blosc2.CParams(codec=blosc2.Codec.ZSTD, clevel=8, nthreads=1),
        urlpath=str(path),
        mmap_mode="w+",
    )


def _medians(
    sides: dict[str, Callable[[Array], object]], between: Callable[[], None] | None = None
) -> dict[str, float]:
    rng = np.random.default_rng(0)
    limits = np.subtract(SHAPE, WINDOW) + 1
    times: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        side(rng.integers(0, limits))
    for _ in range(REPEATS):
        for name, side in sides.items():
            corner = rng.integers(0, limits)
            if between is not None:
                between()
            start = time.perf_counter()
            side(corner)
            times[name].append(time.perf_counter() - start)
    return {name: float(np.median(found)) for name, found in times.items()}


def _files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _drop(files: list[Path]) -> None:
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def run() -> list[Row]:
    """Bars 1 and 3: reading windows and writing arrays."""
    volumes = _volumes()
    if volumes is None:
        return []
    image, label = volumes
    scaled = ((np.clip(image, *HU_RANGE) - HU_RANGE[0]) / (HU_RANGE[1] - HU_RANGE[0])).astype(np.float32)
    normalised = ((image.astype(np.float32) - image.mean()) / image.std()).astype(np.float32)
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        start = time.perf_counter()
        write_array(folder / "image", image, threads=1)
        write_array(folder / "label", label, threads=1)
        written_s = time.perf_counter() - start
        start = time.perf_counter()
        # nnU-Net stores normalised values. Like nnU-Net, the peer keeps the full HU range here.
        _nnunet_file(normalised, folder / "image.b2nd")
        _nnunet_file(label.astype(np.int8), folder / "label.b2nd")
        nnunet_written_s = time.perf_counter() - start
        sizes = [
            sum(path.stat().st_size for path in files)
            for files in (
                _files_below(folder / "image") + _files_below(folder / "label"),
                [folder / "image.b2nd", folder / "label.b2nd"],
            )
        ]
        arrays = [StoredArray(folder / "image")], [StoredArray(folder / "label")]
        out = np.empty((1, *WINDOW), np.float32)
        label_out = np.empty((1, *WINDOW), np.uint8)

        def ours(corner: Array, threads: int = 1) -> None:
            read_windows(
                arrays[0],
                corner[None],
                WINDOW,
                WindowFormat(HU_RANGE),
                labels=arrays[1],
                out=out,
                label_out=label_out,
                threads=threads,
            )

        # Warm: every chunk was read before, so its checksum was already compared.
        for array in (*arrays[0], *arrays[1]):
            array.verify()
        # Measured before the peers start their own threads.
        batch = 8
        many = np.empty((batch, *WINDOW), np.float32), np.empty((batch, *WINDOW), np.uint8)

        def batched(corner: Array, threads: int) -> None:
            limits = np.subtract(SHAPE, WINDOW) + 1
            corners = (corner[None] + np.arange(batch)[:, None] * 61) % limits
            images, labels = arrays[0] * batch, arrays[1] * batch
            read_windows(
                images,
                corners,
                WINDOW,
                WindowFormat(HU_RANGE),
                labels=labels,
                out=many[0],
                label_out=many[1],
                threads=threads,
            )

        # Measure each thread count in one sequence, as a loader reads: the time to wake threads should not be measured
        # here.
        threads = {
            name: _medians({name: lambda corner, count=count: batched(corner, count)})[name]
            for name, count in (("one", 1), ("two", 2))
        }

        def first_read(corner: Array) -> None:
            opened = [StoredArray(folder / "image")], [StoredArray(folder / "label")]
            read_windows(
                opened[0],
                corner[None],
                WINDOW,
                WindowFormat(HU_RANGE),
                labels=opened[1],
                out=out,
                label_out=label_out,
                threads=1,
            )

        dparams = {"nthreads": 1}
        b2_image = blosc2.open(str(folder / "image.b2nd"), mode="r", dparams=dparams, mmap_mode="r")
        b2_label = blosc2.open(str(folder / "label.b2nd"), mode="r", dparams=dparams, mmap_mode="r")

        def cut(corner: Array) -> tuple[slice, ...]:
            return tuple(slice(int(c), int(c) + w) for c, w in zip(corner, WINDOW, strict=True))

        def nnunet(corner: Array) -> tuple[Array, Array]:
            return b2_image[cut(corner)], b2_label[cut(corner)]

        one = {"data_copy_concurrency": {"limit": 1}, "file_io_concurrency": {"limit": 1}}
        context = ts.Context(one)
        opened = [
            ts.open(
                {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder / what)}}, context=context
            ).result()
            for what in ("image", "label")
        ]
        low, high = HU_RANGE

        def tensorstore(corner: Array) -> tuple[Array, Array]:
            raw = opened[0][cut(corner)].read().result()
            window = np.clip(raw, low, high, dtype=np.float32, casting="unsafe")
            window -= np.float32(low)
            window *= np.float32(1 / (high - low))
            return window, opened[1][cut(corner)].read().result()

        equal = True
        rng = np.random.default_rng(1)
        for _ in range(5):
            corner = rng.integers(0, np.subtract(SHAPE, WINDOW) + 1)
            ours(corner)
            theirs, their_label = tensorstore(corner)
            equal &= bool(np.allclose(out[0], theirs, rtol=0, atol=1e-6) and (label_out[0] == their_label).all())
            equal &= bool(np.allclose(out[0], scaled[cut(corner)], rtol=0, atol=1e-6))
            found, found_label = nnunet(corner)
            equal &= bool((found == normalised[cut(corner)]).all() and (label_out[0] == found_label).all())
        files = _files_below(folder)
        warm = _medians({"ours": ours, "nnunet": nnunet, "tensorstore": tensorstore})
        first = _medians({"ours": first_read, "nnunet": nnunet, "tensorstore": tensorstore})
        cold = _medians({"ours": ours, "nnunet": nnunet, "tensorstore": tensorstore}, lambda: _drop(files))
        rows = []
        for state, found in (("warm", warm), ("first read, checksums compared", first), ("dropped", cold)):
            what = f"96³ window + label from the store, {state}"
            wanted = (5, 2) if state == "warm" else (None, None)
            rows.append(Row("1", what, found["ours"], "nnU-Net's blosc2 layout", found["nnunet"], wanted[0], equal))
            rows.append(
                Row("1", what, found["ours"], "tensorstore, same store", found["tensorstore"], wanted[1], equal)
            )
        rows.append(Row("1", f"{batch} windows, 2 threads", threads["two"], "1 thread", threads["one"], 1.8, equal))
        rows.append(_sampling(image, label, arrays))
        smaller = sizes[0] <= sizes[1]
        note = f"{sizes[0] / 1e6:.0f} MB, nnU-Net {sizes[1] / 1e6:.0f} MB"
        rows.append(Row("3", "writing image + label", written_s, "nnU-Net's", nnunet_written_s, 5, smaller, note=note))
    return rows


def _sampling(image: Array, label: Array, arrays: tuple[list[StoredArray], list[StoredArray]]) -> Row:
    import torch
    from monai.data import MetaTensor
    from monai.transforms import RandCropByPosNegLabeld

    spans = lesion_spans(label, labels=[1])
    sampler = WindowSampler([SamplerCase(SHAPE, spans)], WINDOW, seed=0)
    crop = RandCropByPosNegLabeld(["image", "label"], "label", WINDOW, num_samples=1, image_key="image")
    data = {
        "image": MetaTensor(torch.from_numpy(image.astype(np.float32))[None]),
        "label": MetaTensor(torch.from_numpy(label)[None]),
    }
    positions = np.zeros(1, np.uint32)
    out, label_out = np.empty((1, *WINDOW), np.float32), np.empty((1, *WINDOW), np.uint8)
    ours, theirs = [], []
    for step in range(31):
        start = time.perf_counter()
        draws = sampler.draw(step, positions)
        read_windows(
            arrays[0],
            draws.corner,
            WINDOW,
            WindowFormat(HU_RANGE),
            labels=arrays[1],
            out=out,
            label_out=label_out,
            threads=1,
        )
        ours.append(time.perf_counter() - start)
        if step < 4:
            start = time.perf_counter()
            crop(dict(data))
            theirs.append(time.perf_counter() - start)
    return Row(
        "1",
        "window drawn by lesion, read and scaled",
        float(np.median(ours[1:])),
        "MONAI RandCropByPosNegLabeld on a cached volume",
        float(np.median(theirs[1:])),
        100,
        None,
    )
