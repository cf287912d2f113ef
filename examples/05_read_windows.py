"""Read windows of a CT from files, arrays or a store, and blend a grid of windows back to a volume.

    python examples/05_read_windows.py [IMAGE.nii.gz MASK.nii.gz]

Without files, the script creates a phantom. The files need no preparation: from a .nii only the needed parts are read,
a .nii.gz is decoded once, and the same calls also read a store.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

import patchcore as pc
from patchcore.windows.blending import WindowBlender

SIZE = (32, 32, 16)


def main(image: Path | None, mask: Path | None, folder: Path) -> None:
    if image is None or mask is None:
        pc.make_phantoms(folder / "data", preset="large", cases=1, seed=2, shape=(80, 80, 40))
        found = pc.find_cases(folder / "data").cases[0]
        assert found.image is not None
        image, mask = found.image.path, found.label.path
    reader = pc.WindowReader([(image, mask)])
    shape = reader.shape(0)
    print(f"{image.name}: {shape} voxels")

    # One call reads windows and their labels, clips the HU and scales them to [0, 1]. Windows may lie partly outside.
    corners = [(-8, 0, 0), tuple(n // 2 for n in shape)]
    windows = reader.read(0, corners, SIZE, hu_range=(-100, 300))
    assert windows.label is not None
    print(f"windows {windows.image.shape} {windows.image.dtype}, {int((windows.label > 0).sum())} labelled voxels")

    # The same windows as bfloat16 for torch: half the memory, with the same rounding as in torch.
    half = reader.read(0, corners, SIZE, hu_range=(-100, 300), dtype="bfloat16", with_labels=False)
    print(f"bfloat16: {half.image.nbytes} bytes instead of {windows.image.nbytes}")

    # A grid of windows covers the volume for inference. Here the "network" simply returns its input.
    corners = reader.grid(0, SIZE, overlap=0.5)
    blender = WindowBlender(shape, 1, SIZE)
    for start in range(0, len(corners), 8):
        part = corners[start : start + 8]
        blender.add(part, reader.read(0, part, SIZE, with_labels=False).image[:, None])
    again = blender.result()[0]
    whole = reader.read(0, (0, 0, 0), shape, dtype="int16", with_labels=False).image[0]
    print(f"{len(corners)} windows blended: largest difference {np.abs(again - whole).max():.2g} HU")


if __name__ == "__main__":
    given = [Path(argument) for argument in sys.argv[1:3]] + [None, None]
    with tempfile.TemporaryDirectory() as temporary:
        main(given[0], given[1], Path(temporary))
