"""Compare label images with connected-components-3d, and measure a mask of eight gigavoxels with little memory."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import cc3d
import nibabel as nib
import numpy as np

import patchcore as pc
from benchmarks.rows import Row, data_folder, in_turns

TUMOUR = 2
EDGE = 2048
MOST_MEMORY_MIB = 1024

Mask = np.ndarray


def same_components(ours: Mask, theirs: Mask) -> bool:
    """Return whether two label images are equal except for the numbering of the components."""
    count = int(ours.max())
    if count != int(theirs.max()) or not np.array_equal(ours != 0, theirs != 0):
        return False
    number = np.zeros(count + 1, np.int64)
    number[ours] = theirs
    return len(np.unique(number)) == count + 1 and np.array_equal(number[ours], theirs)


def _row(what: str, mask: Mask, connectivity: int, wanted: float, repeats: int) -> Row:
    def ours() -> Mask:
        return pc.label_components(mask, connectivity=connectivity)

    def peer() -> Mask:
        return cc3d.connected_components(mask, connectivity=connectivity)

    equal = same_components(ours(), peer())
    times = in_turns(ours, peer, repeats=repeats, warm_up=False)
    return Row("3", f"label image, {what}", times[0], "cc3d", times[1], wanted, equal)


def kits() -> list[Row]:
    """Every KiTS tumour mask, connectivity 26."""
    folder = data_folder("kits19_labels")
    rows = []
    for path in sorted(folder.glob("*/segmentation.nii.gz")) if folder else []:
        mask = (np.asanyarray(nib.load(path).dataobj) == TUMOUR).view(np.uint8)
        rows.append(_row(path.parent.name, mask, 26, 3.0, 3))
    return rows


def noise() -> list[Row]:
    """Random noise in which half of all voxels are set: the worst case for spans."""
    rows = []
    for edge, repeats in ((256, 5), (512, 3)):
        mask = (np.random.default_rng(0).random((edge,) * 3, np.float32) < 0.5).view(np.uint8)
        rows += [_row(f"50 % noise {edge}³, connectivity {c}", mask, c, 1.0, repeats) for c in (26, 18, 6)]
    return rows


BIG = """
import re, sys, threading, time, numpy as np, patchcore as pc
edge = int(sys.argv[2])
def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
mask = np.memmap(sys.argv[1], np.uint8, "r", shape=(edge,) * 3)
pc.measure_lesions(np.ones((2, 2, 2), bool))
before = most = anonymous()
done = threading.Event()
def watch():
    global most
    while not done.wait(0.01):
        most = max(most, anonymous())
watcher = threading.Thread(target=watch, daemon=True)
watcher.start()
start = time.perf_counter()
lesions = pc.measure_lesions(mask)
taken = time.perf_counter() - start
done.set()
watcher.join()
start = time.perf_counter()
np.count_nonzero(mask)
print(taken, time.perf_counter() - start, max(most, anonymous()) - before, lesions.voxel_count.tolist())
"""


def paint_sparse(path: Path, edge: int) -> list[int]:
    """Write a sparse mask with objects before and after voxel index 2³¹ and 2³²; return their voxel counts in order."""
    with path.open("wb") as file:
        file.truncate(edge**3)
    mask = np.memmap(path, np.uint8, "r+", shape=(edge,) * 3)
    mask[:, 1000, 1000] = 1
    mask[3:7, 10:20, 30:33] = 1
    mask[600:604, 5:9, 7] = 1
    mask[1500:1503, 100:105, edge - 8 :] = 1
    mask[-1, -1, -1] = 1
    mask.flush()
    return [edge, 120, 16, 120, 1]


def gigavoxels() -> list[Row]:
    """Measure eight gigavoxels in a sparse file through a NumPy memory map."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mask.raw"
        expected = paint_sparse(path, EDGE)
        done = subprocess.run(
            [sys.executable, "-c", BIG, str(path), str(EDGE)], check=True, capture_output=True, encoding="utf-8"
        )
    ours, peer, memory, counts = done.stdout.split(maxsplit=3)
    equal = counts.strip() == str(expected) and float(memory) <= MOST_MEMORY_MIB
    what = f"mask → table, {EDGE}³ memory-mapped"
    return [Row("3", what, float(ours), "np.count_nonzero", float(peer), None, equal, note=f"{float(memory):.0f} MiB")]


def run() -> list[Row]:
    """Run all three benchmarks."""
    return kits() + noise() + gigavoxels()
