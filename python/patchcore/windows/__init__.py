"""Extracts, samples and blends windows of volumes."""

from patchcore.windows.blending import WindowBlender, gaussian_importance, window_grid
from patchcore.windows.extract import Windows, extract_windows
from patchcore.windows.sampling import (
    DrawKind,
    HardPoints,
    LesionSpansLike,
    Purpose,
    SamplerCase,
    WindowDraws,
    WindowSampler,
    uniforms,
)

__all__ = [
    "DrawKind",
    "HardPoints",
    "LesionSpansLike",
    "Purpose",
    "SamplerCase",
    "WindowBlender",
    "WindowDraws",
    "WindowSampler",
    "Windows",
    "extract_windows",
    "gaussian_importance",
    "uniforms",
    "window_grid",
]
