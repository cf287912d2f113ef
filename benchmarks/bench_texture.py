"""Compare the features of 20 lesions in a CT of 512 × 512 × 300 voxels with mirp.

mirp runs in an environment of its own: PATCHCORE_PEERS is its Python, with mirp 2. Without it, only patchcore's own
time is shown. mirp takes voxels of 1 mm in arrays, so the phantom has them. It gets the box around each lesion. Moran's
I and Geary's C are not compared, because mirp estimates them from a part of the voxels, nor is the mesh, which IBSI
leaves open within a tolerance.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from benchmarks.rows import Row
from patchcore.datasets.texture import _around
from patchcore.lesions.measure import lesion_spans
from patchcore.lesions.texture import texture_features

PEER = Path(__file__).with_name("texture_peers.py")
SHAPE = (512, 512, 300)
COMPARED = {
    "stat_mean": "stat_mean",
    "stat_kurt": "stat_kurt",
    "cm_contrast_3D_avg": "cm_contrast_d1_3d_avg",
    "cm_joint_entr_2_5D_comb": "cm_joint_entr_d1_2.5d_v_mrg",
    "rlm_sre_3D_comb": "rlm_sre_3d_v_mrg",
    "szm_zs_entr_3D": "szm_zs_entr_3d",
    "dzm_zd_var_3D": "dzm_zd_var_3d",
    "ngt_busyness_3D": "ngt_busyness_3d",
    "ngl_dc_entr_3D": "ngl_dc_entr_d1_a0.0_3d",
    "morph_vol_approx": "morph_vol_approx",
    "morph_pca_maj_axis": "morph_pca_maj_axis",
}
"""Names of features here → names of mirp, without what it adds about bins."""


def phantom(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return HU (int16) and labels (uint8) of 20 ellipsoids with half-axes from 4 to 26 voxels."""
    generator = np.random.default_rng(seed)
    noise = generator.normal(0, 60, SHAPE).astype(np.float32)
    image = (ndimage.gaussian_filter(noise, 1.0) * 4 + 40).clip(-900, 390).astype(np.int16)
    labels = np.zeros(SHAPE, np.uint8)
    for number in range(20):
        half = generator.uniform(4, 5 + number * 1.1, 3)
        cell = np.array([number % 4, number // 4 % 3, number // 12]) * (120, 160, 140) + 60
        low = np.maximum(0, (cell - half - 1).astype(int))
        high = np.minimum(SHAPE, (cell + half + 2).astype(int))
        places = np.stack(np.meshgrid(*[np.arange(a, b) for a, b in zip(low, high, strict=True)], indexing="ij"), -1)
        inside = (((places - cell) / half) ** 2).sum(-1) < 1
        labels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))][inside] = number + 1
    return image, labels


def ours(image: np.ndarray, labels: np.ndarray) -> list[dict[str, float]]:
    """Find the lesions and compute their features."""
    spans = lesion_spans(labels)
    found = []
    for lesion in range(spans.lesion_count):
        values, mask, spacing = _around(spans, lesion, image, np.eye(4))
        found.append(texture_features(values, mask, spacing=spacing, bin_width=25, intensity_range=(-1000, 400)))
    order = {tuple(labels[tuple(spans.origin[spans.lesion == n][0])].reshape(-1)): n for n in range(len(found))}
    return [found[order[number,]] for number in range(1, len(found) + 1)]


def run() -> list[Row]:
    """Measure both."""
    image, labels = phantom()
    began = time.perf_counter()
    found = ours(image, labels)
    seconds = time.perf_counter() - began
    peer = _peer(image, labels)
    if peer is None:
        return [Row("17.4", "482 features of 20 lesions", seconds, "mirp (not installed)", seconds, None, None)]
    equal = _alike(found, peer["features"])
    return [Row("17.4", "482 features of 20 lesions", seconds, "mirp", peer["seconds"], 10, equal)]


def _peer(image: np.ndarray, labels: np.ndarray) -> dict[str, Any] | None:
    python = os.environ.get("PATCHCORE_PEERS")
    if not python:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "arrays.npz"
        np.savez(path, image=image, labels=labels, spacing=np.ones(3))
        done = subprocess.run([python, PEER, path], check=False, capture_output=True, text=True)
    if done.returncode:
        print(f"mirp: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _alike(ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> bool:
    """Return whether the compared features agree to 0.1 %; those that differ are named."""
    alike = True
    for number, (a, b) in enumerate(zip(ours, theirs, strict=True), 1):
        for name, other in COMPARED.items():
            value = next((value for key, value in b.items() if key == other or key.startswith(f"{other}_fbs")), None)
            if value is None or abs(a[name] - value) > 1e-3 * max(abs(value), 1e-6):
                print(f"lesion {number}: {name} {a[name]:.6g}, mirp {value}", file=sys.stderr)
                alike = False
    return alike
