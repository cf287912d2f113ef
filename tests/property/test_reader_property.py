"""The reader returns the same windows from a store, a plain or compressed NIfTI file, or an array."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchcore.store import write_array
from patchcore.store.window_reader import WindowReader


def windows_of(volume: Any, corners: Any, size: Any, fill: float) -> Any:
    """Slow reference: pads the whole volume."""
    pad = 128
    padded = np.pad(volume, pad, constant_values=fill)
    return np.stack([padded[tuple(slice(c + pad, c + pad + n) for c, n in zip(corner, size, strict=True))]
                     for corner in corners])  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 45)] * 3),
    size=st.tuples(*[st.integers(1, 40)] * 3),
    dtype=st.sampled_from(("float32", "float16", "bfloat16", "int16")),
    ranged=st.booleans(),
    scaled=st.booleans(),
    cache=st.sampled_from((0, 1 << 24)),
    seed=st.integers(0, 999),
)
def test_wherever_voxels_lie(
    shape: Any, size: Any, dtype: Any, ranged: bool, scaled: bool, cache: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(-1500, 2500, shape, dtype=np.int16)
    label = rng.integers(0, 4, shape, dtype=np.uint8)
    corners = rng.integers(-40, 60, (7, 3))
    hu_range = (-300.0, 700.0) if ranged and dtype != "int16" else None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_array(folder / "image", image, fill=-1024)
        write_array(folder / "label", label)
        for suffix in (".nii", ".nii.gz"):
            nifti = nibabel.Nifti1Image(image - np.int16(5 * scaled), np.eye(4))
            if scaled:
                nifti.header.set_slope_inter(1, 5)
            nibabel.save(nifti, folder / f"image{suffix}")
            nibabel.save(nibabel.Nifti1Image(label.astype(np.float32), np.eye(4)), folder / f"label{suffix}")
        cases = [
            (folder / "image", folder / "label"),
            (folder / "image.nii", folder / "label.nii"),
            (folder / "image.nii.gz", folder / "label.nii.gz"),
            (image, label),
            (np.asfortranarray(image), np.asfortranarray(label)),
        ]
        reader = WindowReader(cases, cache_bytes=cache)
        hu = windows_of(image, corners, size, -1024).astype(np.float32)
        if hu_range is not None:
            low, high = hu_range
            hu = np.clip((hu - np.float32(low)) * np.float32(1 / (high - low)), 0, 1)
            outside = windows_of(np.ones(shape), corners, size, 0) == 0
            hu[outside] = 0
        if dtype == "bfloat16":
            expected: Any = torch.from_numpy(hu).to(torch.bfloat16).view(torch.uint16).numpy()
        else:
            expected = hu.astype(dtype)
        labels = windows_of(label, corners, size, 0)
        for _ in range(2):
            for number in range(len(cases)):
                found = reader.read(number, corners, size, hu_range=hu_range, dtype=dtype)
                np.testing.assert_array_equal(found.image, expected, err_msg=str(number))
                np.testing.assert_array_equal(found.label, labels)
        mixed = reader.read(np.arange(7) % len(cases), corners, size, hu_range=hu_range, dtype=dtype)
        np.testing.assert_array_equal(mixed.image, expected)
        np.testing.assert_array_equal(mixed.label, labels)
        if cache:
            assert reader.cache_counts.hits > 0 or not reader.cache_counts.misses
