"""Draws image planes of a phantom: paints the tissues one over the other, then adds noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from patchcore.phantoms.anatomy import Anatomy
from patchcore.phantoms.fields import PlaneReader, smooth_lattice
from patchcore.phantoms.placing import Grid, OrganReader, Placed
from patchcore.phantoms.shapes import draw_tree
from patchcore.types import Float32Array

__all__ = ["Painter"]

_FINE, _WIDE, _WIDE_SHARE = 0.55, 1.6, 0.6


class Painter:
    """Draws planes of HU.

    Args:
        grid: Voxel grid of the volume.
        anatomy: The organs.
        organ_hu: Mean HU of liver, spleen and kidney.
        texture_hu: Standard deviation of the texture of the liver.
        noise_hu: Standard deviation of the noise.
        bodies: Cysts and lesions, in the order of painting.
        seed: Seed of the data set and index of the case.
    """

    def __init__(
        self,
        grid: Grid,
        anatomy: Anatomy,
        *,
        organ_hu: Mapping[str, float],
        texture_hu: float,
        noise_hu: float,
        bodies: Sequence[Placed],
        seed: tuple[int, int],
    ) -> None:
        rng = np.random.default_rng([*seed, 5])
        self._grid, self._anatomy, self._bodies = grid, anatomy, bodies
        self._hu, self._texture_hu, self._noise_hu = organ_hu, texture_hu, noise_hu
        x, y, self._z = (grid.positions(axis) for axis in range(3))
        # Width of surfaces: one voxel in the plane, because edges are visible there.
        self._blur_mm = float(np.mean(grid.spacing[:2]))
        row, column = x.astype(np.float32)[None, :], y.astype(np.float32)[:, None]
        self._body_mm = anatomy.body_mm(row, column)
        self._rib_turn = np.asarray(0.6 * np.abs(np.arctan2(row, column + 1e-3)), dtype=np.float32)
        self._wobble = PlaneReader(anatomy.wobble, x, y, self._z)
        self._fat = PlaneReader(smooth_lattice(6.0, [*seed, 11]), x, y, self._z)
        self._organs = {name: OrganReader(field, grid) for name, field in {**anatomy.others, **anatomy.organs}.items()}
        self._textures = {
            name: PlaneReader(smooth_lattice(scale, [*seed, number]), x[area[1]], y[area[0]], self._z)
            for number, (name, scale) in enumerate((("liver", 10.0), ("bowel", 9.0)), 12)
            for area in (self._organs[name].area,)
        }
        points, radii = draw_tree(np.array([0.12, -0.1, 0.1]) * anatomy.half_mm, rng)
        self._vessel_points, self._vessel_radii = np.array(points), np.array(radii)
        self._vessel_hu = float(rng.uniform(35, 55))
        self._bone_phase = float(rng.uniform(0, 2 * np.pi))
        self._key = np.random.SeedSequence([*seed, 99]).generate_state(2, np.uint64)

    def plane(self, k: int) -> npt.NDArray[np.int16]:
        """Return the HU of plane `k`, int16 (y, x)."""
        image = self._trunk(k)
        self._paint_bowel(image, k)
        for name in ("spleen", "kidney"):
            self._paint_organ(image, name, k, self._hu[name])
        self._paint_liver(image, k)
        self._paint_organ(image, "gallbladder", k, 10.0)
        bone = 0.5 + 0.5 * np.cos(2 * np.pi * self._z[k] / 32.0 + self._bone_phase)
        self._paint_organ(image, "spine", k, 140.0 + 180.0 * bone)
        self._paint_organ(image, "spine", k, 90.0 + 110.0 * bone, within_mm=3.0)
        self._paint_organ(image, "aorta", k, self._hu["liver"] + 50.0)
        self._paint_organ(image, "cava", k, self._hu["liver"] + 30.0)
        for body in self._bodies:
            x, y, z = body.box
            if z.start <= k < z.stop:
                _blend(image[y, x], body.occupancy[k - z.start], body.hu)
        image += self._noise(k)
        return np.clip(np.rint(image), -1024, 3071).astype(np.int16)

    def _inside(self, distance_mm: Float32Array) -> Float32Array:
        return np.asarray(
            np.clip(np.float32(0.5) - distance_mm * np.float32(1 / self._blur_mm), 0, 1), dtype=np.float32
        )

    def _trunk(self, k: int) -> Float32Array:
        """Return the body in air: skin, fat, muscle with ribs, and fat or lungs inside."""
        image = np.full(self._grid.shape[1::-1], -1000.0, dtype=np.float32)
        body = self._body_mm + np.float32(2.0) * self._wobble.plane(k)
        cavity_mm = self._anatomy.fat_mm + self._anatomy.wall_mm
        _blend(image, self._inside(body), 20.0)
        _blend(image, self._inside(body + np.float32(2.0)), -105.0)
        _blend(image, self._inside(body + np.float32(self._anatomy.fat_mm)), 55.0)
        half_z = self._anatomy.half_mm[2]
        if self._z[k] > -0.3 * half_z:
            turn = np.cos(self._rib_turn * 6 + np.float32(2 * np.pi * self._z[k] / 28.0))
            band = self._inside(np.abs(body + np.float32(cavity_mm - 5.0)) - np.float32(3.0))
            _blend(image, band * np.clip((turn - np.float32(0.55)) * 4, 0, 1), 280.0)
        inner = self._inside(body + np.float32(cavity_mm))
        fat = self._fat.plane(k)
        chest = float(np.clip((self._z[k] - half_z) / 15.0, 0, 1))
        _blend(image, inner, -95.0 + 12.0 * fat)
        if chest > 0:
            # Above the abdomen of a long scan: lungs on both sides of a strip as wide as the heart.
            lungs = self._inside(np.float32(0.16 * self._anatomy.half_mm[0]) - np.abs(self._row))
            _blend(image, self._inside(body + np.float32(cavity_mm + 2)) * lungs * np.float32(chest), -840.0 + 40 * fat)
        return image

    @property
    def _row(self) -> Float32Array:
        return self._grid.positions(0).astype(np.float32)[None, :]

    def _paint_organ(
        self, image: Float32Array, name: str, k: int, hu: float | Float32Array, within_mm: float = 0.0
    ) -> None:
        organ = self._organs[name]
        if organ.has(k):
            _blend(image[organ.area], self._inside(organ.distance(k) + np.float32(within_mm)), hu)

    def _paint_bowel(self, image: Float32Array, k: int) -> None:
        """Paint bowel loops nearly as bright as lesions, so that HU alone do not separate them."""
        organ = self._organs["bowel"]
        if organ.has(k):
            loops = self._textures["bowel"].plane(k)
            share = self._inside(organ.distance(k)) * self._inside((np.float32(0.2) - loops) * 12)
            _blend(image[organ.area], share, 28.0 + 10.0 * loops)

    def _paint_liver(self, image: Float32Array, k: int) -> None:
        organ = self._organs["liver"]
        if not organ.has(k):
            return
        view = image[organ.area]
        distance = organ.distance(k)
        hu = self._hu["liver"]
        _blend(view, self._inside(distance), hu + self._texture_hu * self._textures["liver"].plane(k))
        vessels = self._vessels(organ, k)
        if vessels is not None:
            _blend(view, self._inside(vessels) * (distance < -self._blur_mm), hu + self._vessel_hu)

    def _vessels(self, organ: OrganReader, k: int) -> Float32Array | None:
        """Return the distance to the vessels in plane `k`, over the area of the liver; None without vessels."""
        dz = self._vessel_points[:, 2] - self._z[k]
        near = np.flatnonzero(np.abs(dz) < self._vessel_radii + 1)
        if not len(near):
            return None
        rows, columns = organ.area
        out = np.full((rows.stop - rows.start, columns.stop - columns.start), 1e3, dtype=np.float32)
        x, y = self._grid.positions(0), self._grid.positions(1)
        for i in near:
            px, py = self._vessel_points[i, :2]
            reach = self._vessel_radii[i] + 2
            c = self._grid.range(0, px - reach, px + reach)
            r = self._grid.range(1, py - reach, py + reach)
            c = slice(max(c.start, columns.start), min(c.stop, columns.stop))
            r = slice(max(r.start, rows.start), min(r.stop, rows.stop))
            if c.stop <= c.start or r.stop <= r.start:
                continue
            distance = np.sqrt((x[c] - px)[None, :] ** 2 + (y[r] - py)[:, None] ** 2 + dz[i] ** 2)
            view = out[r.start - rows.start : r.stop - rows.start, c.start - columns.start : c.stop - columns.start]
            np.minimum(view, (distance - self._vessel_radii[i]).astype(np.float32), out=view)
        return out

    def _noise(self, k: int) -> Float32Array:
        """Return CT-like noise: band-passed in the plane, as after filtered back-projection, and white along z."""
        # The counters of two planes are 2¹²⁸ apart, so planes never share random numbers.
        bits = np.random.Philox(key=self._key, counter=[0, 0, k, 0])
        white = np.random.Generator(bits).standard_normal(self._grid.shape[1::-1], dtype=np.float32)
        return np.asarray(_band_pass(white) * np.float32(self._noise_hu / _band_pass_sd()), dtype=np.float32)


def _blend(view: Float32Array, occupancy: Float32Array, hu: float | Float32Array) -> None:
    """Blend in a tissue by the share of each pixel that it fills."""
    view += occupancy * ((np.float32(hu) if isinstance(hu, float) else hu) - view)


def _band_pass(white: Float32Array) -> Float32Array:
    fine = ndimage.gaussian_filter(white, _FINE)
    return np.asarray(fine - np.float32(_WIDE_SHARE) * ndimage.gaussian_filter(white, _WIDE), dtype=np.float32)


@cache
def _band_pass_sd() -> float:
    """Return the standard deviation after the band pass of white noise with standard deviation 1."""
    delta = np.zeros((33, 33), dtype=np.float32)
    delta[16, 16] = 1
    return float(np.linalg.norm(_band_pass(delta)))
