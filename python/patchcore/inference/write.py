"""Writes predictions as NIfTI on the grid of their scan, completely or not at all."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from patchcore.files import replace_atomically
from patchcore.inference.scans import ScanInput
from patchcore.inference.segment import PROBABILITY_STEPS
from patchcore.types import Affine
from patchcore.volumes.nifti_write import gzipped, placed_image

__all__ = ["write_like", "write_probability"]


def write_like(path: Path, labels: npt.NDArray[np.uint8], scan: ScanInput, affine: Affine) -> None:
    """Write a label map on the grid of a scan, with the header of a NIfTI scan.

    Raises:
        OSError: The file cannot be written.
    """
    _save(path, labels, scan, affine, slope=1.0)


def write_probability(path: Path, steps: npt.NDArray[np.uint16], scan: ScanInput, affine: Affine) -> None:
    """Write probabilities in steps of 1/65535; a reader that applies the slope of the header gets 0 to 1.

    Raises:
        OSError: The file cannot be written.
    """
    _save(path, steps, scan, affine, slope=1 / PROBABILITY_STEPS)


def _header(scan: ScanInput, affine: Affine) -> tuple[Any, Any, bool]:
    """Return the header for a file beside a scan, the affine, and whether it is NIfTI-2."""
    import nibabel

    if scan.slices is None:
        original: Any = nibabel.load(scan.path)
        header = original.header.copy()
        header["cal_min"] = header["cal_max"] = 0
        # The header of an .hdr/.img pair would record the file type of a pair.
        return header, original.affine, isinstance(original, nibabel.Nifti2Pair)
    return placed_image(np.zeros((1, 1, 1), np.uint8), affine).header, affine, False


def _save(path: Path, array: npt.NDArray[Any], scan: ScanInput, affine: Affine, *, slope: float) -> None:
    import nibabel

    header, image_affine, two = _header(scan, affine)
    header.set_data_dtype(array.dtype)
    image = (nibabel.Nifti2Image if two else nibabel.Nifti1Image)(array, image_affine, header)
    image.update_header()
    # The values are written as they are, with the slope beside them: nibabel would choose a slope of its own.
    image.header.set_slope_inter(slope, 0)
    data = array.astype(array.dtype.newbyteorder(image.header.endianness), copy=False)
    with replace_atomically(path) as temporary, temporary.open("wb") as raw:
        is_packed = path.name.endswith(".gz")
        with gzipped(raw) if is_packed else nullcontext(raw) as stream:
            image.header.write_to(stream)
            # Slices one after the other, so that no second copy of the volume is made.
            for index in range(data.shape[2]):
                stream.write(np.asfortranarray(data[:, :, index]).tobytes(order="F"))
