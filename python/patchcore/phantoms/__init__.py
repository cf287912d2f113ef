"""Makes phantoms: synthetic abdominal CTs with known lesions.

A phantom shows a body in air, with skin, fat, muscle, ribs, a spine, a spleen, and an irregular liver with texture and
vessels. Lesions lie anywhere in the liver. Their volumes are drawn from a given log-normal distribution. All surfaces
have partial volume effects, and the image has correlated CT noise.

No fixed threshold finds the lesions: their HU overlap with the liver, cysts, bowel and vessels look similar to them,
and the HU of the liver and the contrast of the lesions vary between cases. A network can find the lesions, because it
sees shape and neighbourhood.

The same spec and seed give the same bytes. Volumes up to :data:`.STREAMED_VOXELS` (about 160³) are drawn as whole
arrays. Larger volumes, and volumes with several organs, are drawn plane by plane with some megabytes of memory.
"""

from patchcore.phantoms.case import PhantomCase, PhantomLesion
from patchcore.phantoms.make import PHANTOM_LAYOUTS, PhantomProgress, cases_without_room, make_phantom, make_phantoms
from patchcore.phantoms.spec import PHANTOM_PRESETS, LesionSpec, PhantomSpec

__all__ = [
    "PHANTOM_LAYOUTS",
    "PHANTOM_PRESETS",
    "LesionSpec",
    "PhantomCase",
    "PhantomLesion",
    "PhantomProgress",
    "PhantomSpec",
    "cases_without_room",
    "make_phantom",
    "make_phantoms",
]
