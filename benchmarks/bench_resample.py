"""Compare the resampling of a CT with scipy and SimpleITK, on two threads."""

from __future__ import annotations

import time
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import scipy.ndimage as ndi
import SimpleITK as sitk  # noqa: N813

from benchmarks.rows import Row, data_folder
from patchcore.resampling.image import resample_image

SHAPE, OLD, NEW = (512, 512, 400), (0.75, 0.75, 1.0), (1.5, 1.5, 2.0)
RATIO = np.asarray(NEW) / OLD
INTERIOR = (slice(8, -8),) * 3
Array = npt.NDArray[Any]


def _volume() -> Array | None:
    """Return a real CT, extended to 512 × 512 × 400 voxels by mirroring, in the memory order of the file."""
    folder = data_folder("lidc_0314")
    if folder is None:
        return None
    image = np.asanyarray(nib.load(folder / "image.nii.gz").dataobj).astype(np.int16)
    pad = [(0, max(0, wanted - have)) for wanted, have in zip(SHAPE, image.shape, strict=True)]
    grown = np.pad(image, pad, mode="symmetric")[tuple(slice(n) for n in SHAPE)]
    return np.asfortranarray(grown)


def _best(call: Any, repeats: int) -> tuple[float, Any]:
    times, result = [], None
    for _ in range(repeats):
        start = time.perf_counter()
        result = call()
        times.append(time.perf_counter() - start)
    return min(times), result


def _itk(image: Any, shape: tuple[int, ...], interpolator: int) -> Array:
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize([int(n) for n in shape])
    resampler.SetOutputSpacing(NEW)
    resampler.SetOutputOrigin([(new - old) / 2 for new, old in zip(NEW, OLD, strict=True)])
    resampler.SetInterpolator(interpolator)
    resampler.SetNumberOfThreads(2)
    return sitk.GetArrayFromImage(resampler.Execute(image)).transpose(2, 1, 0)


def run() -> list[Row]:
    """Resample with a B-spline, linearly, and with anti-aliasing."""
    volume = _volume()
    if volume is None:
        return []
    name = "512 × 512 × 400 → 1.5 × 1.5 × 2 mm"
    spline_s, spline = _best(lambda: resample_image(volume, OLD, NEW, antialias=False, threads=2), 3)
    linear_s, linear = _best(lambda: resample_image(volume, OLD, NEW, kernel="linear", antialias=False, threads=2), 3)
    offset = (RATIO - 1) / 2
    scipy_s, theirs = _best(
        lambda: ndi.affine_transform(
            volume, RATIO, offset, output_shape=spline.shape, output=np.float32, order=3, mode="mirror"
        ),
        1,
    )
    apart = float(np.abs(spline.astype(np.float32) - theirs)[INTERIOR].max())
    image = sitk.GetImageFromArray(volume.transpose(2, 1, 0))
    image.SetSpacing(OLD)
    itk_spline_s, itk_spline = _best(lambda: _itk(image, spline.shape, sitk.sitkBSpline), 1)
    itk_linear_s, itk_linear = _best(lambda: _itk(image, spline.shape, sitk.sitkLinear), 3)
    # SimpleITK truncates instead of rounding, and its spline uses another boundary condition.
    spline_apart = float(np.abs(spline.astype(np.int32) - itk_spline)[INTERIOR].max())
    linear_apart = float(np.abs(linear.astype(np.int32) - itk_linear)[INTERIOR].max())
    blurred_s, blurred = _best(lambda: resample_image(volume, OLD, NEW, threads=2), 3)
    sigma = np.sqrt((RATIO**2 - 1) / (8 * np.log(2)))

    def smooth() -> Array:
        soft = ndi.gaussian_filter(volume.astype(np.float32), sigma, mode="mirror", truncate=4)
        return ndi.affine_transform(
            soft, RATIO, offset, output_shape=spline.shape, output=np.float32, order=3, mode="mirror"
        )

    smooth_s, soft = _best(smooth, 1)
    soft_apart = float(np.abs(blurred.astype(np.float32) - soft)[INTERIOR].max())
    return [
        Row(
            "4", f"{name}, B-spline", spline_s, "scipy affine_transform", scipy_s, 8, apart <= 1, note=f"{apart:.2f} HU"
        ),
        Row(
            "4",
            f"{name}, B-spline",
            spline_s,
            "SimpleITK B-spline, 2 threads",
            itk_spline_s,
            8,
            spline_apart <= 2,
            note=f"{spline_apart:.0f} HU",
        ),
        Row(
            "4",
            f"{name}, linear",
            linear_s,
            "SimpleITK linear, 2 threads",
            itk_linear_s,
            1,
            linear_apart <= 1,
            note=f"{linear_apart:.0f} HU",
        ),
        Row(
            "",
            f"{name}, anti-aliased",
            blurred_s,
            "scipy Gaussian, then its B-spline",
            smooth_s,
            None,
            soft_apart <= 2,
            note=f"{soft_apart:.2f} HU",
        ),
    ]
