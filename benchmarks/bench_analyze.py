"""Measure ``patchcore analyze`` on a whole cohort, compared with a scipy loop and with inflating the files only.

``PATCHCORE_BENCH_MASKS`` is the number of phantom masks in the cohort [default: 500],
``PATCHCORE_BENCH_CTS`` that of phantom CTs [default: 40].
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import scipy.ndimage as ndi

from benchmarks.rows import Row, data_folder
from patchcore import _core
from patchcore.phantoms import make_phantoms
from patchcore.study import Study
from patchcore.volumes.ct import DILATION_MM

MASKS = int(os.environ.get("PATCHCORE_BENCH_MASKS", "500"))
SHAPE, SPACING = (512, 512, 300), (0.75, 0.75, 1.0)
CTS = int(os.environ.get("PATCHCORE_BENCH_CTS", "40"))
CT_SHAPE, CT_SPACING = (512, 512, 200), (0.75, 0.75, 1.5)
MOST_MEMORY_MIB = 300
TUMOUR = 2
EVERYTHING = np.ones((3, 3, 3), bool)


def _analyze(dataset: Path, study: Path) -> tuple[float, float]:
    """Return the seconds of the command, and its peak memory above the interpreter's own memory [MiB]."""
    code = (
        "import re, sys\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) / 1024\n"
        "before = peak()\n"
        "from patchcore.cli import main\n"
        "code = main(sys.argv[1:])\n"
        "print('above', peak() - before, file=sys.stderr)\n"
        "sys.exit(code)\n"
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, "analyze", str(dataset), str(study)],
        check=True,
        capture_output=True,
        encoding="utf-8",
    )
    taken = time.perf_counter() - start
    found = re.search(r"above ([\d.]+)", done.stderr)
    assert found is not None
    return taken, float(found[1])


def _measuring(paths: list[Path]) -> float:
    """Return the seconds of measuring only, with one file per core at a time."""
    from patchcore.lesions.measure import measure_lesions

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        start = time.perf_counter()
        list(pool.map(measure_lesions, paths))
        return time.perf_counter() - start


def _scipy_volumes(path: Path) -> list[tuple[int, float]]:
    """Return the voxel counts and volumes of the tumours, computed by the usual scipy loop."""
    image = nib.load(path)
    array = np.asanyarray(image.dataobj)
    voxel = abs(np.linalg.det(image.affine[:3, :3]))
    found = []
    for label in np.unique(array):
        if label == 0:
            continue
        components, count = ndi.label(array == label, structure=EVERYTHING)
        sizes = np.bincount(components.ravel(), minlength=count + 1)[1:]
        ndi.find_objects(components)
        ndi.center_of_mass(components, components, np.arange(1, count + 1)) if count else []
        if label == TUMOUR:
            found = [(int(size), float(size * voxel)) for size in sizes]
    return sorted(found)


def _scipy(paths: list[Path]) -> tuple[float, dict[str, list[tuple[int, float]]]]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        start = time.perf_counter()
        found = list(pool.map(_scipy_volumes, paths))
        return time.perf_counter() - start, {path.parent.name: item for path, item in zip(paths, found, strict=True)}


def _ours(study: Path) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    with (study / "lesions.csv").open(newline="") as handle:
        for row in csv.DictReader(handle):
            if int(row["label"]) == TUMOUR:
                found.setdefault(row["case_id"], []).append((int(row["voxel_count"]), float(row["volume_mm3"])))
    return {case: sorted(items) for case, items in found.items()}


def _same(ours: dict[str, list[tuple[int, float]]], peer: dict[str, list[tuple[int, float]]]) -> bool:
    if ours.keys() != {case for case, items in peer.items() if items}:
        return False
    return all(
        len(items) == len(peer[case])
        and all(a[0] == b[0] and abs(a[1] - b[1]) <= 1e-9 * b[1] for a, b in zip(items, peer[case], strict=True))
        for case, items in ours.items()
    )


def kits() -> list[Row]:
    """Bar 1: the KiTS label maps."""
    dataset = data_folder("kits19_labels")
    if dataset is None:
        return []
    paths = sorted(dataset.glob("*/segmentation.nii.gz"))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "study"
        taken, memory = _analyze(dataset, study)
        _measuring(paths)
        measuring = _measuring(paths)
        peer, expected = _scipy(paths)
        equal = _same(_ours(study), expected)
        fits = equal and memory <= MOST_MEMORY_MIB
        note = f"{memory:.0f} MiB"
        rows.append(Row("1", "20 KiTS label maps, measuring only", measuring, "scipy.ndimage loop", peer, 30, equal))
        rows.append(
            Row("1", "20 KiTS label maps, the command", taken, "scipy.ndimage loop", peer, None, fits, note=note)
        )
        version = min(_timed("--version") for _ in range(5))
        again = min(_timed("analyze", str(dataset), str(study)) for _ in range(5))
        rows.append(
            Row("1", "the command a second time", again, "patchcore --version", version, at_most_s=0.2, equal=None)
        )
    return rows


def _timed(*arguments: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "patchcore", *arguments], check=True, capture_output=True)
    return time.perf_counter() - start


def _inflating(paths: list[Path]) -> float:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        start = time.perf_counter()
        list(pool.map(_core.inflated_bytes, paths))
        return time.perf_counter() - start


def cohort() -> list[Row]:
    """Bar 2: many phantom masks, compared with inflating the same files with zlib-rs on the same cores."""
    folder = Path(tempfile.gettempdir()) / f"patchcore-bench-{MASKS}-masks"
    dataset, study = folder / "masks", folder / "study"
    make = not (dataset / "phantoms.json").exists()
    if make:
        make_phantoms(dataset, cases=MASKS, layout="labels-only", shape=SHAPE, spacing=SPACING)
    paths = sorted((dataset / "labels").glob("*.nii.gz"))
    _inflating(paths)
    inflating, ours, memory = [], [], 0.0
    for _ in range(3):
        shutil.rmtree(study, ignore_errors=True)
        taken, memory = _analyze(dataset, study)
        ours.append(taken)
        inflating.append(_inflating(paths))
    with (dataset / "true_lesions.csv").open(newline="") as handle:
        truth: dict[str, list[int]] = {}
        for row in csv.DictReader(handle):
            truth.setdefault(row["case_id"], []).append(int(row["voxel_count"]))
    found = {case: [count for count, _ in items] for case, items in _ours(study).items()}
    equal = found == {case: sorted(counts) for case, counts in truth.items()}
    name = f"{len(paths)} masks of {' × '.join(map(str, SHAPE))}, the command"
    best, peer = sorted(ours)[1], sorted(inflating)[1]
    return [Row("2", name, best, "inflating with zlib-rs, 2 cores", peer, 1 / 1.5, equal, note=f"{memory:.0f} MiB")]


def images() -> list[Row]:
    """Bar: CTs with their label maps, against inflating the same files with zlib-rs on the same cores."""
    folder = Path(tempfile.gettempdir()) / f"patchcore-bench-{CTS}-cts"
    dataset, study = folder / "cts", folder / "study"
    if not (dataset / "phantoms.json").exists():
        make_phantoms(dataset, cases=CTS, shape=CT_SHAPE, spacing=CT_SPACING)
    paths = sorted(dataset.rglob("*.nii.gz"))
    _inflating(paths)
    inflating, ours, memory = [], [], 0.0
    for _ in range(3):
        shutil.rmtree(study, ignore_errors=True)
        taken, memory = _analyze(dataset, study)
        ours.append(taken)
        inflating.append(_inflating(paths))
    equal = _same_hu(study)
    name = f"{CTS} CTs of {' × '.join(map(str, CT_SHAPE))} with label maps, the command"
    best, peer = sorted(ours)[1], sorted(inflating)[1]
    note = f"{memory:.0f} MiB; before this reader 5.4 times the peer"
    return [Row("2", name, best, "inflating with zlib-rs, 2 cores", peer, 1 / 1.5, equal, note=note)]


def _same_hu(study: Path) -> bool:
    """Whether the HU within and around the lesions equal those that NumPy and scipy count, for all cases together."""
    opened = Study(study)
    fingerprint = opened.fingerprint()
    assert fingerprint.hu is not None
    within, around = [], []
    for case in opened.accepted():
        image, label = case.read_image().array, case.read_label().array == fingerprint.hu.label
        within.append(image[label])
        places = np.argwhere(label)
        margin = np.ceil(DILATION_MM / np.asarray(case.spacing)).astype(int) + 1
        low, high = np.maximum(places.min(0) - margin, 0), places.max(0) + margin + 1
        part = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        distance = ndi.distance_transform_edt(~label[part], sampling=case.spacing)
        around.append(image[part][distance <= DILATION_MM * (1 + 1e-9)])
    for found, voxels in ((fingerprint.hu.within, within), (fingerprint.hu.around, around)):
        values = np.concatenate(voxels)
        if found.voxel_count != len(values) or abs(found.mean - values.mean()) > 1e-9 * abs(values.mean()):
            return False
    return True


def run() -> list[Row]:
    """Run both benchmarks."""
    return kits() + cohort() + images()
