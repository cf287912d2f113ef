"""Read windows of a CT from wherever it lies, and put a grid of them back together.

    python examples/05_read_windows.py [IMAGE.nii.gz MASK.nii.gz]

Without files, a phantom is made on the fly. Nothing has to be prepared: a plain .nii is read in part, a compressed one
is decoded once, and the same calls read a store.
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

    # Any window, also partly outside: clipped to a HU range and scaled to [0, 1], with its labels, in one call.
    corners = [(-8, 0, 0), tuple(n // 2 for n in shape)]
    windows = reader.read(0, corners, SIZE, hu_range=(-100, 300))
    assert windows.label is not None
    print(f"windows {windows.image.shape} {windows.image.dtype}, {int((windows.label > 0).sum())} labelled voxels")

    # The same as bfloat16, ready for torch: half the memory, rounded as torch rounds.
    half = reader.read(0, corners, SIZE, hu_range=(-100, 300), dtype="bfloat16", with_labels=False)
    print(f"bfloat16: {half.image.nbytes} bytes instead of {windows.image.nbytes}")

    # A grid covers the volume for inference; here the "network" hands back what it was given.
    corners = reader.grid(0, SIZE, overlap=0.5)
    blender = WindowBlender(shape, 1, SIZE)
    for start in range(0, len(corners), 8):
        part = corners[start : start + 8]
        blender.add(part, reader.read(0, part, SIZE, with_labels=False).image[:, None])
    again = blender.result()[0]
    whole = reader.read(0, (0, 0, 0), shape, dtype="int16", with_labels=False).image[0]
    print(f"{len(corners)} windows put together: off by {np.abs(again - whole).max():.2g} HU at most")


if __name__ == "__main__":
    given = [Path(argument) for argument in sys.argv[1:3]] + [None, None]
    with tempfile.TemporaryDirectory() as temporary:
        main(given[0], given[1], Path(temporary))
