"""Phantom CTs: made-up abdomens whose every lesion is known.

A body with skin, fat, muscle and ribs, a spine, a spleen and a liver of irregular shape with texture and vessels, in
air; lesions of volumes drawn from a stated log-normal distribution anywhere in the liver; partial volume at every
surface; correlated CT noise. Lesions overlap the liver in HU, cysts, bowel and vessels are there to be mistaken for
them, and both the liver's HU and the lesions' contrast vary between cases, so that no fixed threshold finds the
lesions while a network, which sees shape and neighbourhood, can.

The same spec and seed give the same bytes. Volumes up to :data:`.STREAMED_VOXELS` (about 160³) are drawn as whole
arrays; larger ones, and those of several organs, plane by plane in some megabytes of memory.
"""

from patchcore.phantoms.case import PhantomCase, PhantomLesion
from patchcore.phantoms.make import PHANTOM_LAYOUTS, PhantomProgress, make_phantom, make_phantoms
from patchcore.phantoms.spec import PHANTOM_PRESETS, LesionSpec, PhantomSpec

__all__ = [
    "PHANTOM_LAYOUTS",
    "PHANTOM_PRESETS",
    "LesionSpec",
    "PhantomCase",
    "PhantomLesion",
    "PhantomProgress",
    "PhantomSpec",
    "make_phantom",
    "make_phantoms",
]
