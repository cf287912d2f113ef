"""Draws phantoms as whole arrays. Used for volumes up to :data:`.STREAMED_VOXELS`."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from patchcore.phantoms.abdomen import draw_abdomen
from patchcore.phantoms.case import PhantomCase, PhantomLesion
from patchcore.phantoms.shapes import Blob, add_blob, correlated_noise, random_blob
from patchcore.phantoms.spec import BACKGROUND, LIVER, TUMOUR, PhantomSpec
from patchcore.types import Triple

__all__ = ["draw_whole"]


def draw_whole(spec: PhantomSpec, *, seed: int, index: int = 0) -> PhantomCase:
    """Draw one phantom.

    Args:
        spec: Properties of the phantom.
        seed: Seed of the data set.
        index: Index of the case in the data set. Each case is drawn independently of the others.
    """
    rng = np.random.default_rng([seed, index])
    jitter = 1 + spec.spacing_jitter * rng.uniform(-1, 1)
    spacing = (spec.spacing[0] * jitter, spec.spacing[1] * jitter, spec.spacing[2])
    size = np.array(spec.shape) * np.array(spacing)
    abdomen = draw_abdomen(
        spec.shape, spacing, liver_hu=float(rng.normal(*spec.liver_hu)), texture_hu=spec.texture_hu, rng=rng
    )
    image = abdomen.image
    label = np.where(abdomen.liver, LIVER, BACKGROUND).astype(np.uint8)
    for _ in range(int(rng.integers(0, spec.cysts + 1))):
        cyst = _place(spacing, label, float(rng.uniform(400, 2000)), rng, roughness=0.05)
        if cyst is not None:
            add_blob(image, cyst, float(rng.uniform(5, 15)))
    lesions = []
    for _ in range(int(rng.integers(spec.lesions[0], spec.lesions[1] + 1))):
        volume = spec.liver.draw_volume(rng)
        contrast = float(rng.normal(*spec.contrast_hu))
        blob = _place(spacing, label, volume, rng, roughness=0.18)
        if blob is None:
            continue
        mask = add_blob(image, blob, abdomen.liver_hu + contrast)
        label[blob.box][mask] = TUMOUR
        count = int(np.count_nonzero(mask))
        lesions.append(PhantomLesion(volume, count, count * math.prod(spacing), blob.centre_voxel(spacing), contrast))
    image += correlated_noise(spec.shape, spec.noise_hu, rng)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -size / 2 + rng.uniform(-20, 20, 3)
    return PhantomCase(
        image=np.clip(np.rint(image), -1024, 3071).astype(np.int16),
        label=label,
        affine=affine,
        spacing=spacing,
        lesions=tuple(lesions),
    )


def _place(
    spacing: Triple,
    label: npt.NDArray[np.uint8],
    volume_mm3: float,
    rng: np.random.Generator,
    *,
    roughness: float,
) -> Blob | None:
    """Return a blob with this volume in the liver, apart from all lesions; None if no place is found."""
    free = np.argwhere(label == LIVER)
    if not len(free):
        return None
    # At least two voxels apart, so that neighbours stay two components with every connectivity.
    taken = ndimage.binary_dilation(label == TUMOUR, iterations=2, structure=np.ones((3, 3, 3), dtype=bool))
    for trial in range(80):
        centre = (free[rng.integers(len(free))] + rng.uniform(-0.5, 0.5, 3)) * np.array(spacing)
        blob = random_blob(volume_mm3, centre, label.shape, spacing, rng, roughness=roughness)
        if blob is None:
            continue
        mask = blob.occupancy >= 0.5
        # Prefer places inside the liver. In the last trials, a large blob may stick out of the liver.
        wanted = 0.97 if trial < 50 else 0.8
        in_liver = np.count_nonzero(label[blob.box][mask] == LIVER)
        pieces = ndimage.label(mask, structure=np.ones((3, 3, 3)))[1]
        if pieces == 1 and in_liver >= wanted * np.count_nonzero(mask) and not taken[blob.box][mask].any():
            return blob
    return None
