"""The specification of phantoms, and the presets."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from patchcore.errors import DataError
from patchcore.types import IntTriple, Triple

__all__ = ["CT_SPACING", "PHANTOM_PRESETS", "STREAMED_VOXELS", "LesionSpec", "PhantomSpec", "choose_spec"]

STREAMED_VOXELS = 1 << 22
"""Larger volumes are drawn plane by plane (:mod:`.scene`), others as whole arrays (:mod:`.whole`)."""

_MOST_VOXELS = 1 << 30

CT_SPACING: Triple = (0.75, 0.75, 1.0)
"""Spacing [mm] of volumes larger than :data:`STREAMED_VOXELS` if no spacing is given."""

BACKGROUND, LIVER, TUMOUR = 0, 1, 2


@dataclass(frozen=True)
class LesionSpec:
    """The lesions of one organ.

    Attributes:
        organ: Name of the organ.
        label: Label of the lesions in label maps.
        name: Name of this label.
        count: Minimum and maximum number of lesions per case.
        median_volume_mm3: Median of the log-normal distribution of volumes.
        volume_sigma: Standard deviation of the logarithm of the volumes.
        volume_range_mm3: Volumes outside this range are drawn again.
        contrast_hu: Lesion HU minus organ HU: mean and standard deviation over lesions.
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
        """Draw a volume [mm³] from the log-normal distribution, truncated to `volume_range_mm3`.

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
        """Return a description of the distribution."""
        low, high = self.volume_range_mm3
        return (
            f"lesion volumes log-normal, median {self.median_volume_mm3:g} mm³, sigma {self.volume_sigma:g}, "
            f"kept within {low:g} to {high:g} mm³"
        )


@dataclass(frozen=True)
class PhantomSpec:
    """The properties of phantoms. Lengths in mm, intensities in HU, axes canonical RAS+.

    Attributes:
        shape: Size [voxels].
        spacing: mm per voxel. The in-plane spacing varies between cases by ± `spacing_jitter`.
        spacing_jitter: Relative variation of the spacing, in [0, 0.3].
        lesions: Minimum and maximum number of lesions in the liver per case.
        median_volume_mm3: Median of the log-normal distribution of lesion volumes.
        volume_sigma: Standard deviation of the logarithm of the lesion volumes.
        volume_range_mm3: Volumes outside this range are drawn again.
        liver_hu: HU of the liver: mean and standard deviation over cases.
        contrast_hu: Lesion HU minus liver HU: mean and standard deviation over lesions.
        texture_hu: Standard deviation of the smooth texture of the liver.
        noise_hu: Standard deviation of the noise.
        cysts: Maximum number of cysts per organ with lesions. Cysts are dark and sharp, and are not lesions.
        orientations: Axis codes of the stored axes. Cases use them in turn.
        kidney: Lesions of the kidneys, or None. If given, spleen and kidneys are labelled too, and the lesions of each
            organ have their own label.
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
        """Mean of the log-normal distribution, before truncation to `volume_range_mm3`."""
        return self.median_volume_mm3 * math.exp(self.volume_sigma**2 / 2)

    @property
    def streamed(self) -> bool:
        """Whether volumes are drawn plane by plane. This is so for large volumes and for several organs."""
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
        """The lesions of each organ with lesions."""
        return (self.liver,) if self.kidney is None else (self.liver, self.kidney)

    @property
    def organ_names(self) -> dict[int, str]:
        """Label → name, for organs. Organs have the first labels."""
        return dict(enumerate(("liver",) if self.kidney is None else ("liver", "spleen", "kidney"), 1))

    @property
    def label_names(self) -> dict[int, str]:
        """Label → name, for all labels except background."""
        return {**self.organ_names, **{group.label: group.name for group in self.groups}}

    def check(self) -> None:
        """Check that phantoms with these properties can be made.

        Raises:
            DataError: The volume is too small to contain a body with a liver, larger than any CT, too large for NIfTI,
                or has an orientation in which it cannot be drawn plane by plane.
        """
        size = np.array(self.shape) * np.array(self.spacing)
        if min(self.shape) < 16 or not np.all(np.isfinite(size)) or min(self.spacing) <= 0 or min(size) < 80:
            raise DataError(
                f"a phantom of {self.shape} voxels at {self.spacing} mm cannot contain a liver",
                found=(self.shape, self.spacing),
                remedy="use at least 16 voxels and 80 mm along each axis",
            )
        if math.prod(self.shape) > _MOST_VOXELS:
            raise DataError(
                f"a phantom of {self.shape} voxels is larger than any CT; the limit is {_MOST_VOXELS} voxels",
                found=self.shape,
                expected=f"at most {_MOST_VOXELS} voxels, e.g. 512 × 512 × 4096",
                remedy="use a smaller --shape",
            )
        if max(self.shape) > 32_767:
            raise DataError(
                f"a phantom of {self.shape} voxels cannot be written as NIfTI-1",
                found=self.shape,
                expected="at most 32767 voxels along each axis, the limit of NIfTI-1",
                remedy="use at most 32767 voxels along each axis",
            )
        odd = [codes for codes in self.orientations if self.streamed and codes[2] not in "SI"]
        if odd:
            raise DataError(
                f"a phantom that is drawn plane by plane cannot be stored as {odd[0]}",
                found=odd[0],
                remedy="use an orientation with S or I as the last axis",
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
"""Presets: ``large`` for pre-training and ``small`` for fine-tuning, like the two cohorts of the paper; ``mixed``;
``multi-organ``."""


def choose_spec(
    preset: str, *, spec: PhantomSpec | None = None, shape: IntTriple | None = None, spacing: Triple | None = None
) -> PhantomSpec:
    """Return a preset, or `spec` if given, with the given shape and spacing, after a check.

    Raises:
        DataError: There is no such preset, or phantoms with these properties cannot be made.

    Example:
        >>> choose_spec("large", shape=(512, 512, 300)).spacing
        (0.75, 0.75, 1.0)
    """
    if spec is None:
        if preset not in PHANTOM_PRESETS:
            raise DataError(
                f"{preset!r} is not a phantom preset",
                found=preset,
                remedy=f"choose one of {', '.join(PHANTOM_PRESETS)}",
            )
        spec = PHANTOM_PRESETS[preset]
    if shape is not None and spacing is None and math.prod(shape) > STREAMED_VOXELS:
        spacing = CT_SPACING
    spec = replace(spec, shape=shape or spec.shape, spacing=spacing or spec.spacing)
    spec.check()
    return spec
