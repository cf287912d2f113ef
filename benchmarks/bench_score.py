"""Compare surface distances and lesion tables with surface-distance, MeshMetrics and panoptica.

The peers run in an environment of their own, because one of them pins old versions: PATCHCORE_PEERS is its Python. It
needs panoptica 2.1.7, connected-components-3d, VTK and SimpleITK, and, in its PYTHONPATH, surface-distance and
MeshMetrics (GitHub commit 2a888b1). Without it, only patchcore's own times are shown.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage

from benchmarks.rows import Row, data_folder
from patchcore.metrics import MaskPair, ScoreSettings, score_case

PEERS = Path(__file__).with_name("score_peers.py")
MOST_MEMORY_MIB = 200


def _peer(task: str, arrays: dict[str, Any]) -> dict[str, Any] | None:
    """Run a task of score_peers.py in the peers' environment and return its answer."""
    python = os.environ.get("PATCHCORE_PEERS")
    if not python:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "masks.npz"
        np.savez(path, **arrays)
        done = subprocess.run([python, PEERS, task, path], check=False, capture_output=True, text=True)
    if done.returncode:
        print(f"{task}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def large_pair() -> tuple[str, np.ndarray, np.ndarray, np.ndarray] | None:
    """A label map of at least 150 MVox, against itself eroded by 2 voxels and shifted by 3 along axis 1."""
    folder = data_folder("kits19_labels")
    for path in sorted(folder.glob("*/segmentation.nii.gz")) if folder else ():
        image = nib.load(path)
        if np.prod(image.shape) >= 150e6:
            truth = np.ascontiguousarray(np.asanyarray(image.dataobj) > 0)
            prediction = np.roll(ndimage.binary_erosion(truth, iterations=2), 3, axis=1)
            return path.parent.name, truth, prediction, image.affine
    return None


def _surfaces(truth: np.ndarray, prediction: np.ndarray, affine: np.ndarray, *conventions: str) -> dict[str, Any]:
    return MaskPair(truth, prediction, affine=affine).surfaces(conventions=conventions)[0]


def _best(work: Any, repeats: int = 5) -> tuple[float, Any]:
    times, found = [], None
    for _ in range(repeats):
        began = time.perf_counter()
        found = work()
        times.append(time.perf_counter() - began)
    return sorted(times)[len(times) // 2], found


def surfaces() -> list[Row]:
    """Bar 2: all surface metrics of one pair of more than 150 MVox."""
    pair = large_pair()
    if pair is None:
        return []
    name, truth, prediction, affine = pair
    rows = []
    arrays = {"truth": truth, "prediction": prediction, "affine": affine}
    peers = {task: _peer(task, arrays) for task in ("surfel", "mesh")}
    names = {"surfel": "surface-distance", "mesh": "MeshMetrics"}
    for task, wanted in (("mesh", 50.0), ("surfel", None)):
        seconds, found = _best(lambda task=task: _surfaces(truth, prediction, affine, task)[task])
        for peer, least in ((task, wanted), ("surfel", 10.0)):
            answer = peers[peer]
            if answer is None or (peer == task and least is None):
                continue
            equal = None
            if peer == task or task == "surfel":
                own = [found.hd_mm, found.hd95_mm, found.nsd[1.0], found.truth_to_prediction_mm]
                equal = bool(np.allclose(own, answer["values"], rtol=2e-6, atol=1e-9))
            what = f"{task}, all metrics of {name}, {truth.size / 1e6:.0f} MVox"
            rows.append(Row("15.2", what, seconds, names[peer], answer["seconds"], least, equal))
    seconds, _ = _best(lambda: _surfaces(truth, prediction, affine, "mesh", "surfel", "voxel"))
    if peers["surfel"] is not None:
        what = f"three conventions together, {name}"
        rows.append(Row("15.2", what, seconds, "surface-distance", peers["surfel"]["seconds"], 4.0, None))
    rows.append(_memory(truth, prediction, affine))
    return rows


def _memory(truth: np.ndarray, prediction: np.ndarray, affine: np.ndarray) -> Row:
    """Memory above the inputs, read every millisecond while all conventions are measured."""
    status, stop, most = Path("/proc/self/statm"), threading.Event(), [0]

    def pages() -> int:
        return int(status.read_text().split()[1])

    before = pages()

    def watch() -> None:
        while not stop.wait(0.001):
            most[0] = max(most[0], pages() - before)

    thread = threading.Thread(target=watch)
    thread.start()
    _surfaces(truth, prediction, affine, "mesh", "surfel", "voxel")
    stop.set()
    thread.join()
    mib = most[0] * resource.getpagesize() / 2**20
    what = "memory above the inputs, three conventions"
    return Row("15.2", what, mib, "limit", MOST_MEMORY_MIB, 1.0, None, unit="MiB")


def many_lesions() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A phantom of 512 × 512 × 300 with 142 lesions, and a prediction that misses some and invents others."""
    generator = np.random.default_rng(7)
    truth, prediction = np.zeros((512, 512, 300), np.uint8), np.zeros((512, 512, 300), np.uint8)
    spacing = np.array([0.8, 0.8, 1.5])
    places = np.array([(x, y, z) for x in range(6) for y in range(6) for z in range(4)])
    for number, place in enumerate(generator.permutation(places)[:142]):
        centre = 42 + place * (85, 85, 73) + generator.integers(-8, 8, 3)
        radii_mm = generator.uniform(2, 16) * generator.uniform(0.8, 1.2, 3)
        _ball(truth, centre, radii_mm / spacing)
        if number % 7:
            _ball(prediction, centre + generator.integers(-1, 2, 3), radii_mm * generator.uniform(0.8, 1.15) / spacing)
        if number % 5 == 0:
            _ball(prediction, centre + np.array([0, 40, 0]), (3, 3, 2))
    return truth, prediction, np.diag([*spacing, 1.0])


def _ball(mask: np.ndarray, centre: np.ndarray, radii: Any) -> None:
    low = np.maximum(0, np.floor(centre - radii).astype(int))
    high = np.minimum(mask.shape, np.ceil(centre + radii).astype(int) + 1)
    axes = np.meshgrid(*[np.arange(a, b) for a, b in zip(low, high, strict=True)], indexing="ij")
    inside = sum(((axis - c) / r) ** 2 for axis, c, r in zip(axes, centre, radii, strict=True)) <= 1
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))][inside] = 1


def lesion_table() -> list[Row]:
    """Bar 3: one row per lesion, with Voronoi regions and HD95."""
    truth, prediction, affine = many_lesions()
    settings = ScoreSettings({"1": (1,)}, "1", modes=("overlap", "panoptica", "cc"))
    seconds, case = _best(lambda: score_case("phantom", truth, prediction, affine, settings), repeats=3)
    answer = _peer("panoptica", {"truth": truth, "prediction": prediction, "affine": affine})
    what = f"table of {len(case.lesions)} lesions with Voronoi regions, 512 × 512 × 300"
    if answer is None:
        return [Row("15.3", what, seconds, "panoptica", 0.0, None, None, note="no peers: set PATCHCORE_PEERS")]
    own = [case.modes["panoptica"][name] for name in ("tp", "fp", "fn", "sq")]
    equal = bool(np.allclose(own, answer["values"], rtol=1e-6))
    return [Row("15.3", what, seconds, "panoptica", answer["seconds"], 15.0, equal)]


def run() -> list[Row]:
    """Run all benchmarks of scoring."""
    return [*surfaces(), *lesion_table()]
