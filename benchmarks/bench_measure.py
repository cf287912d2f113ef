"""Compare lesion measurement with connected-components-3d, np.count_nonzero and nibabel."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import cc3d
import nibabel as nib
import numpy as np
import scipy.ndimage as ndi

import patchcore as pc
from benchmarks.rows import Row, data_folder, in_turns

TUMOUR = 2
LARGE_VOXELS = 100_000_000
MOST_MEMORY_MIB = 64

Mask = np.ndarray


def _cc3d_table(mask: Mask, connectivity: int = 26) -> dict:
    components = cc3d.connected_components(mask, connectivity=connectivity)
    return cc3d.statistics(components)


def _equal(lesions: pc.Lesions, peer: dict) -> bool:
    """Return whether the components have equal voxel counts, boxes and centroids, in any order."""
    boxes = [
        (int(count), *(int(n) for part in box for n in (part.start, part.stop)))
        for count, box in zip(peer["voxel_counts"][1:], peer["bounding_boxes"][1:], strict=True)
    ]
    ours = np.column_stack([lesions.voxel_count, np.stack([lesions.bbox_start, lesions.bbox_stop], -1).reshape(-1, 6)])
    if sorted(boxes) != sorted(map(tuple, ours.tolist())):
        return False
    theirs = np.asarray(peer["centroids"][1:]).reshape(-1, 3)
    by_place = np.lexsort(theirs.round(3).T), np.lexsort(lesions.centroid_voxel.round(3).T)
    return np.allclose(theirs[by_place[0]], lesions.centroid_voxel[by_place[1]], atol=1e-2)


def _kits() -> list[Path]:
    folder = data_folder("kits19_labels")
    return sorted(folder.glob("*/segmentation.nii.gz")) if folder else []


def in_memory() -> list[Row]:
    """Bar 1: tumour masks of more than 100 MVox, as bool arrays in memory."""
    rows = []
    for path in _kits():
        image = nib.load(path)
        if np.prod(image.shape) < LARGE_VOXELS:
            continue
        # Keep the memory order in which nibabel reads the array.
        mask = np.asanyarray(image.dataobj) == TUMOUR
        name = f"{path.parent.name}, {mask.size / 1e6:.0f} MVox"
        equal = _equal(pc.measure_lesions(mask), _cc3d_table(mask))
        ours, count = in_turns(lambda m=mask: pc.measure_lesions(m), lambda m=mask: np.count_nonzero(m), repeats=15)
        # cc3d is a hundred times slower, so two runs are enough.
        start = time.perf_counter()
        for _ in range(2):
            _cc3d_table(mask)
        peer = (time.perf_counter() - start) / 2
        rows += [
            Row("1", f"mask → table, {name}", ours, "cc3d label + statistics", peer, 100, equal),
            Row("1", f"mask → table, {name}", ours, "np.count_nonzero", count, 1 / 1.3, None),
        ]
    return rows


def noise_and_blobs() -> list[Row]:
    """Bar 2: noise and blobs, the worst cases for spans."""
    rng = np.random.default_rng(0)
    noise = rng.random((256, 256, 256), np.float32)
    field = ndi.gaussian_filter(rng.standard_normal((512, 512, 256), np.float32), 6)
    blobs = field > np.quantile(field[::4, ::4, ::4], 0.97)
    cases = [
        ("50 % noise 256³", noise < 0.5, 1.0),
        ("10 % noise 256³", noise < 0.1, 1.0),
        ("blobs 512 × 512 × 256", blobs, 5.0),
    ]
    rows = []
    for name, mask, wanted in cases:
        for connectivity in (26, 18, 6):
            equal = _equal(pc.measure_lesions(mask, connectivity=connectivity), _cc3d_table(mask, connectivity))
            ours, peer = in_turns(
                lambda m=mask, c=connectivity: pc.measure_lesions(m, connectivity=c),
                lambda m=mask, c=connectivity: _cc3d_table(m, c),
                repeats=5,
                warm_up=False,
            )
            what = f"mask → table, {name}, connectivity {connectivity}"
            rows.append(Row("2", what, ours, "cc3d label + statistics", peer, wanted, equal))
    return rows


def _nibabel_cc3d(path: Path) -> dict:
    return _cc3d_table(np.asanyarray(nib.load(path).dataobj) == TUMOUR)


def peak_memory_mib(path: Path) -> float:
    """Return the peak memory of measuring a file [MiB], above the interpreter with patchcore loaded."""
    code = (
        # Do not use getrusage: its maximum survives exec, so it would include the memory of the parent process.
        "import re, sys, patchcore.lesions.measure as v\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) / 1024\n"
        "before = peak()\n"
        f"v.measure_lesions(sys.argv[1], label={TUMOUR})\n"
        "print(peak() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True, encoding="utf-8")
    return float(done.stdout)


def from_files() -> list[Row]:
    """Bar 3: .nii.gz → table, and its memory."""
    rows = []
    for path in _kits():
        shape = nib.load(path).shape
        name = f"{path.parent.name}, {np.prod(shape) / 1e6:.0f} MVox"
        equal = _equal(pc.measure_lesions(path, label=TUMOUR), _nibabel_cc3d(path))
        ours, peer = in_turns(
            lambda p=path: pc.measure_lesions(p, label=TUMOUR),
            lambda p=path: _nibabel_cc3d(p),
            repeats=3,
            warm_up=False,
        )
        memory = peak_memory_mib(path)
        fits = equal and memory <= MOST_MEMORY_MIB
        rows.append(
            Row(
                "3",
                f".nii.gz → table, {name}",
                ours,
                "nibabel + cc3d",
                peer,
                10,
                fits,
                note=f"{memory:.0f} MiB",
            )
        )
    return rows


def label_image() -> list[Row]:
    """For information: only the label image."""
    rows = []
    for path in _kits()[:4]:
        mask = np.asanyarray(nib.load(path).dataobj) == TUMOUR
        ours, peer = in_turns(
            lambda m=mask: pc.label_components(m),
            lambda m=mask: cc3d.connected_components(m),
            repeats=3,
            warm_up=False,
        )
        equal = pc.label_components(mask).max() == cc3d.connected_components(mask).max()
        rows.append(Row("", f"label image, {path.parent.name}", ours, "cc3d", peer, None, bool(equal)))
    return rows


def run() -> list[Row]:
    """Run all benchmarks of measuring."""
    return in_memory() + noise_and_blobs() + from_files() + label_image()
