"""What phantoms are made to look like, and the presets."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from patchcore.errors import DataError
from patchcore.types import IntTriple, Triple

__all__ = ["CT_SPACING", "PHANTOM_PRESETS", "STREAMED_VOXELS", "LesionSpec", "PhantomSpec", "choose_spec"]

STREAMED_VOXELS = 1 << 22
_MOST_VOXELS = 1 << 30
"""Volumes above this are drawn plane by plane (:mod:`.scene`), smaller ones at once (:mod:`.whole`)."""

CT_SPACING: Triple = (0.75, 0.75, 1.0)
"""mm; of volumes above :data:`STREAMED_VOXELS` whose spacing is not given."""

BACKGROUND, LIVER, TUMOUR = 0, 1, 2


@dataclass(frozen=True)
class LesionSpec:
    """The lesions of one organ.

    Attributes:
        organ: Name of the organ.
        label: Number of the lesions in label maps.
        name: Name of that label.
        count: Fewest and most lesions of a case.
        median_volume_mm3: median of the log-normal distribution of volumes.
        volume_sigma: standard deviation of the logarithm of volumes.
        volume_range_mm3: volumes outside are drawn again.
        contrast_hu: mean and standard deviation over lesions of lesion minus organ, HU.
    """

    organ: str = "liver"
    label: int = TUMOUR
    name: str = "tumour"
    count: tuple[int, int] = (1, 4)
    median_volume_mm3: float = 6000.0
    volume_sigma: float = 0.8
    volume_range_mm3: tuple[float, float] = (1000.0, 40_000.0)
    contrast_hu: tuple[float, float] = (-52.0, 5.0)

    def draw_volume(self, rng: np.random.Generator) -> float:
        """Draw a volume, mm³, from the log-normal distribution cut off at `volume_range_mm3`.

        Example:
            >>> 1000 <= LesionSpec().draw_volume(np.random.default_rng(0)) <= 40_000
            True
        """
        low, high = self.volume_range_mm3
        while True:
            volume = float(self.median_volume_mm3 * math.exp(self.volume_sigma * rng.standard_normal()))
            if low <= volume <= high:
                return volume

    def describe(self) -> str:
        """Return the distribution in words."""
        low, high = self.volume_range_mm3
        return (
            f"lesion volumes log-normal, median {self.median_volume_mm3:g} mm³, sigma {self.volume_sigma:g}, "
            f"kept within {low:g} to {high:g} mm³"
        )


@dataclass(frozen=True)
class PhantomSpec:
    """What phantoms are made to look like. Lengths in mm, intensities in HU, axes canonical RAS+.

    Attributes:
        shape: voxels.
        spacing: mm per voxel; each case's in-plane spacing varies by ± `spacing_jitter` of it.
        spacing_jitter: relative, in [0, 0.3].
        lesions: fewest and most lesions of a case's liver.
        median_volume_mm3: median of the log-normal distribution of lesion volumes.
        volume_sigma: standard deviation of the logarithm of lesion volumes.
        volume_range_mm3: volumes outside are drawn again.
        liver_hu: mean and standard deviation over cases of the liver's HU.
        contrast_hu: mean and standard deviation over lesions of lesion minus liver.
        texture_hu: standard deviation of the liver's smooth texture.
        noise_hu: standard deviation of the noise.
        cysts: most cysts of a case, which are dark, sharp and no lesions.
        orientations: axis codes that cases are stored in, in turn.
        kidney: lesions of the kidneys; where given, spleen and kidneys are labelled too, and lesions carry
            the label of their organ's.
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
    kidney: LesionSpec | None = None

    @property
    def mean_volume_mm3(self) -> float:
        """Mean of the log-normal distribution, before it is cut off at `volume_range_mm3`."""
        return self.median_volume_mm3 * math.exp(self.volume_sigma**2 / 2)

    @property
    def streamed(self) -> bool:
        """Whether volumes are drawn plane by plane: big ones, and those with several organs."""
        return self.kidney is not None or math.prod(self.shape) > STREAMED_VOXELS

    @property
    def liver(self) -> LesionSpec:
        """The lesions of the liver."""
        several = self.kidney is not None
        return LesionSpec(
            organ="liver",
            label=4 if several else TUMOUR,
            name="liver_tumour" if several else "tumour",
            count=self.lesions,
            median_volume_mm3=self.median_volume_mm3,
            volume_sigma=self.volume_sigma,
            volume_range_mm3=self.volume_range_mm3,
            contrast_hu=self.contrast_hu,
        )

    @property
    def groups(self) -> tuple[LesionSpec, ...]:
        """The lesions of every organ that has some."""
        return (self.liver,) if self.kidney is None else (self.liver, self.kidney)

    @property
    def organ_names(self) -> dict[int, str]:
        """Names of the labels of organs, which come first."""
        return dict(enumerate(("liver",) if self.kidney is None else ("liver", "spleen", "kidney"), 1))

    @property
    def label_names(self) -> dict[int, str]:
        """What the numbers in label maps mean, background left out."""
        return {**self.organ_names, **{group.label: group.name for group in self.groups}}

    def check(self) -> None:
        """Raise where no phantom can be made like this.

        Raises:
            DataError: The volume is too small to hold a body with a liver, too large for NIfTI, or is to be
                stored in an orientation in which it cannot be streamed.
        """
        size = np.array(self.shape) * np.array(self.spacing)
        if min(self.shape) < 16 or not np.all(np.isfinite(size)) or min(self.spacing) <= 0 or min(size) < 80:
            raise DataError(
                f"a phantom of {self.shape} voxels at {self.spacing} mm holds no liver",
                found=(self.shape, self.spacing),
                remedy="give at least 16 voxels and 80 mm along each axis",
            )
        if math.prod(self.shape) > _MOST_VOXELS:
            raise DataError(
                f"a phantom of {self.shape} voxels is larger than any CT",
                found=self.shape,
                expected=f"at most {_MOST_VOXELS} voxels, as 512 × 512 × 4096",
                remedy="name a smaller --shape",
            )
        if max(self.shape) > 32_767:
            raise DataError(
                f"a phantom of {self.shape} voxels cannot be written",
                found=self.shape,
                expected="at most 32767 voxels along each axis, as NIfTI-1 counts them",
                remedy="ask for fewer voxels",
            )
        odd = [codes for codes in self.orientations if self.streamed and codes[2] not in "SI"]
        if odd:
            raise DataError(
                f"a phantom that is drawn plane by plane cannot be stored as {odd[0]}",
                found=odd[0],
                remedy="store it in an orientation whose last axis is S or I",
            )


PHANTOM_PRESETS: dict[str, PhantomSpec] = {
    "large": PhantomSpec(lesions=(1, 3), median_volume_mm3=12_000.0, volume_sigma=0.7),
    "mixed": PhantomSpec(),
    "small": PhantomSpec(
        lesions=(2, 5), median_volume_mm3=1500.0, volume_sigma=0.7, volume_range_mm3=(200.0, 12_000.0)
    ),
    "multi-organ": PhantomSpec(
        shape=(128, 128, 96),
        spacing=(2.5, 2.5, 3.0),
        median_volume_mm3=8000.0,
        volume_range_mm3=(800.0, 60_000.0),
        kidney=LesionSpec(
            organ="kidney",
            label=5,
            name="kidney_tumour",
            count=(0, 2),
            median_volume_mm3=2000.0,
            volume_sigma=0.6,
            volume_range_mm3=(400.0, 8000.0),
            contrast_hu=(-70.0, 8.0),
        ),
    ),
}
"""``large`` to pre-train and ``small`` to fine-tune on, as the paper's two cohorts; ``mixed``; ``multi-organ``."""


def choose_spec(
    preset: str, *, spec: PhantomSpec | None = None, shape: IntTriple | None = None, spacing: Triple | None = None
) -> PhantomSpec:
    """Return a preset, or `spec`, with another shape or spacing, checked.

    Raises:
        DataError: There is no such preset, or no phantom can be made like this.

    Example:
        >>> choose_spec("large", shape=(512, 512, 300)).spacing
        (0.75, 0.75, 1.0)
    """
    if spec is None:
        if preset not in PHANTOM_PRESETS:
            raise DataError(
                f"{preset!r} is no phantom preset", found=preset, remedy=f"choose one of {', '.join(PHANTOM_PRESETS)}"
            )
        spec = PHANTOM_PRESETS[preset]
    if shape is not None and spacing is None and math.prod(shape) > STREAMED_VOXELS:
        spacing = CT_SPACING
    spec = replace(spec, shape=shape or spec.shape, spacing=spacing or spec.spacing)
    spec.check()
    return spec
