"""Phantom CTs: made-up abdomens whose every lesion is known.

A body with skin, fat and muscle, a spine, a spleen and a liver-like organ of irregular shape with texture
and vessels, in air; lesions of volumes drawn from a stated log-normal distribution anywhere in the liver;
partial volume at every surface; correlated CT noise. Lesions overlap the liver in HU, cysts and vessels are
there to be mistaken for them, and both the liver's HU and the lesions' contrast vary between cases, so that
no fixed threshold finds the lesions while a network, which sees shape and neighbourhood, can.

The same spec and seed give the same bytes.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from patchcore.data.phantom_abdomen import draw_abdomen
from patchcore.data.phantom_shapes import Blob, add_blob, correlated_noise, random_blob
from patchcore.errors import DataError
from patchcore.files import write_atomic, write_json_atomic
from patchcore.types import Float64Array, IntTriple, PathLike, Triple

__all__ = ["PHANTOM_PRESETS", "PhantomCase", "PhantomLesion", "PhantomSpec", "make_phantom", "make_phantoms"]

BACKGROUND, LIVER, TUMOUR = 0, 1, 2


@dataclass(frozen=True)
class PhantomSpec:
    """What phantoms are made to look like. Lengths in mm, intensities in HU, axes canonical RAS+.

    Attributes:
        shape: voxels.
        spacing: mm per voxel; each case's in-plane spacing varies by ± `spacing_jitter` of it.
        spacing_jitter: relative, in [0, 0.3].
        lesions: fewest and most lesions of a case.
        median_volume_mm3: median of the log-normal distribution of lesion volumes.
        volume_sigma: standard deviation of the logarithm of lesion volumes.
        volume_range_mm3: volumes outside are drawn again.
        liver_hu: mean and standard deviation over cases of the liver's HU.
        contrast_hu: mean and standard deviation over lesions of lesion minus liver.
        texture_hu: standard deviation of the liver's smooth texture.
        noise_hu: standard deviation of the noise.
        cysts: most cysts of a case, which are dark, sharp and no lesions.
        orientations: axis codes that cases are stored in, in turn.
    """

    shape: IntTriple = (96, 96, 64)
    spacing: Triple = (2.0, 2.0, 2.5)
    spacing_jitter: float = 0.06
    lesions: tuple[int, int] = (1, 4)
    median_volume_mm3: float = 6000.0
    volume_sigma: float = 0.8
    volume_range_mm3: tuple[float, float] = (1000.0, 40_000.0)
    liver_hu: tuple[float, float] = (105.0, 6.0)
    contrast_hu: tuple[float, float] = (-52.0, 5.0)
    texture_hu: float = 3.0
    noise_hu: float = 20.0
    cysts: int = 1
    orientations: tuple[str, ...] = ("RAS", "LPS")

    @property
    def mean_volume_mm3(self) -> float:
        """Mean of the log-normal distribution, before it is cut off at `volume_range_mm3`."""
        return self.median_volume_mm3 * math.exp(self.volume_sigma**2 / 2)


PHANTOM_PRESETS: dict[str, PhantomSpec] = {
    "large": PhantomSpec(lesions=(1, 3), median_volume_mm3=12_000.0, volume_sigma=0.7),
    "mixed": PhantomSpec(),
    "small": PhantomSpec(
        lesions=(2, 5), median_volume_mm3=1500.0, volume_sigma=0.7, volume_range_mm3=(200.0, 12_000.0)
    ),
}
"""``large`` to pre-train and ``small`` to fine-tune on, as the paper's two cohorts; ``mixed``: the demo."""


@dataclass(frozen=True)
class PhantomLesion:
    """One lesion: the volume meant, what the voxels hold, and where its centre lies (voxels, RAS+)."""

    intended_mm3: float
    voxel_count: int
    volume_mm3: float
    centre: Triple
    contrast_hu: float


@dataclass(frozen=True)
class PhantomCase:
    """One phantom in canonical RAS+ axes.

    Attributes:
        image: int16, HU.
        label: uint8; 0 background, 1 liver, 2 tumour.
        affine: float64 (4, 4), voxel index to world mm.
        spacing: mm per voxel.
        lesions: every lesion; each is one 26-connected component of label 2.
    """

    image: npt.NDArray[np.int16]
    label: npt.NDArray[np.uint8]
    affine: Float64Array
    spacing: Triple
    lesions: tuple[PhantomLesion, ...]


def make_phantom(spec: PhantomSpec, *, seed: int, index: int = 0) -> PhantomCase:
    """Make one phantom.

    Args:
        spec: What it is made to look like.
        seed: Of the data set.
        index: Of the case within it; every case is drawn independently of the others.

    Raises:
        DataError: The volume is too small to hold a body with a liver.

    Example:
        >>> case = make_phantom(PhantomSpec(shape=(48, 48, 32), spacing=(4.0, 4.0, 5.0)), seed=0)
        >>> case.image.shape, case.image.dtype.name, sorted(set(case.label.ravel().tolist()))
        ((48, 48, 32), 'int16', [0, 1, 2])
    """
    _check(spec)
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
        volume = _draw_volume(spec, rng)
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


def make_phantoms(
    out: PathLike,
    *,
    cases: int = 12,
    seed: int = 0,
    preset: str = "mixed",
    spec: PhantomSpec | None = None,
    shape: IntTriple | None = None,
    spacing: Triple | None = None,
) -> Path:
    """Write a data set of phantoms: ``images/``, ``labels/``, ``dataset.json``, ``true_lesions.csv``.

    Args:
        out: Folder to make; must be new or empty.
        cases: Number of cases, each of its own patient.
        seed: The same seed and spec give the same bytes.
        preset: ``small``, ``large`` or ``mixed``; ignored where `spec` is given.
        spec: Anything else.
        shape: Overrides the spec's, voxels, canonical axes.
        spacing: Overrides the spec's, mm.

    Returns:
        The folder.

    Raises:
        DataError: An unknown preset, no case, a folder that is not empty, or a volume too small for a liver.
        OSError: The folder cannot be written.
    """
    if spec is None:
        if preset not in PHANTOM_PRESETS:
            legal = ", ".join(PHANTOM_PRESETS)
            raise DataError(f"{preset!r} is no phantom preset", found=preset, remedy=f"choose one of {legal}")
        spec = PHANTOM_PRESETS[preset]
    spec = replace(spec, shape=shape or spec.shape, spacing=spacing or spec.spacing)
    _check(spec)
    if cases < 1:
        raise DataError(f"{cases} cases cannot be made", found=cases, remedy="ask for at least one")
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError("is not an empty folder", path=out, remedy="name a new folder for the phantoms")
    for name in ("images", "labels"):
        (out / name).mkdir(parents=True, exist_ok=True)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(
        [
            "case_id",
            "lesion",
            "intended_mm3",
            "voxel_count",
            "volume_mm3",
            "world_x",
            "world_y",
            "world_z",
            "contrast_hu",
        ]
    )
    for index in range(cases):
        case_id = f"phantom-{index + 1:03d}"
        case = make_phantom(spec, seed=seed, index=index)
        codes = spec.orientations[index % len(spec.orientations)]
        _write_nifti(out / "images" / f"{case_id}.nii.gz", case.image, case.affine, codes)
        _write_nifti(out / "labels" / f"{case_id}.nii.gz", case.label, case.affine, codes)
        for number, lesion in enumerate(case.lesions, 1):
            world = case.affine[:3, :3] @ np.array(lesion.centre) + case.affine[:3, 3]
            numbers = (lesion.volume_mm3, *world, lesion.contrast_hu)
            writer.writerow(
                [
                    case_id,
                    number,
                    f"{lesion.intended_mm3:.3f}",
                    lesion.voxel_count,
                    *(f"{x:.3f}" for x in numbers),
                ]
            )
    write_atomic(out / "true_lesions.csv", table.getvalue())
    # Last, so that a folder with it is whole.
    write_json_atomic(
        out / "dataset.json",
        {
            "name": "phantoms",
            "description": (
                f"Phantom CTs; lesion volumes log-normal, median {spec.median_volume_mm3:g} mm³, sigma "
                f"{spec.volume_sigma:g}, kept within {spec.volume_range_mm3[0]:g} to "
                f"{spec.volume_range_mm3[1]:g} mm³"
            ),
            "labels": {"background": BACKGROUND, "liver": LIVER, "tumour": TUMOUR},
            "channel_names": {"0": "CT"},
            "file_ending": ".nii.gz",
            "numTraining": cases,
        },
    )
    return out


def _check(spec: PhantomSpec) -> None:
    size = np.array(spec.shape) * np.array(spec.spacing)
    if min(spec.shape) < 16 or not np.all(np.isfinite(size)) or min(spec.spacing) <= 0 or min(size) < 80:
        raise DataError(
            f"a phantom of {spec.shape} voxels at {spec.spacing} mm holds no liver",
            found=(spec.shape, spec.spacing),
            remedy="give at least 16 voxels and 80 mm along each axis",
        )


def _draw_volume(spec: PhantomSpec, rng: np.random.Generator) -> float:
    low, high = spec.volume_range_mm3
    while True:
        volume = float(spec.median_volume_mm3 * math.exp(spec.volume_sigma * rng.standard_normal()))
        if low <= volume <= high:
            return volume


def _place(
    spacing: Triple,
    label: npt.NDArray[np.uint8],
    volume_mm3: float,
    rng: np.random.Generator,
    *,
    roughness: float,
) -> Blob | None:
    """Return a blob of the volume lying in the liver and apart from all lesions, or None where none fits."""
    free = np.argwhere(label == LIVER)
    if not len(free):
        return None
    # Two voxels apart, so that neighbours stay two components at every connectivity.
    taken = ndimage.binary_dilation(label == TUMOUR, iterations=2, structure=np.ones((3, 3, 3), dtype=bool))
    for trial in range(80):
        centre = (free[rng.integers(len(free))] + rng.uniform(-0.5, 0.5, 3)) * np.array(spacing)
        blob = random_blob(volume_mm3, centre, label.shape, spacing, rng, roughness=roughness)
        if blob is None:
            continue
        mask = blob.occupancy >= 0.5
        # Rather inside; a large one may bulge out of the liver where nothing else is left.
        wanted = 0.97 if trial < 50 else 0.8
        in_liver = np.count_nonzero(label[blob.box][mask] == LIVER)
        pieces = ndimage.label(mask, structure=np.ones((3, 3, 3)))[1]
        if pieces == 1 and in_liver >= wanted * np.count_nonzero(mask) and not taken[blob.box][mask].any():
            return blob
    return None


def _write_nifti(path: Path, array: npt.NDArray[np.generic], affine: Float64Array, codes: str) -> None:
    """Store a canonical array in another orientation, gzipped without a time stamp or name."""
    ornt = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt(("R", "A", "S")), nib.orientations.axcodes2ornt(tuple(codes))
    )
    stored = nib.orientations.apply_orientation(array, ornt)
    moved = affine @ nib.orientations.inv_ornt_aff(ornt, array.shape)
    image = nib.Nifti1Image(np.ascontiguousarray(stored), moved)
    image.header.set_xyzt_units("mm")
    image.set_qform(moved, code=1)
    image.set_sform(moved, code=1)
    write_atomic(path, gzip.compress(image.to_bytes(), compresslevel=3, mtime=0))
