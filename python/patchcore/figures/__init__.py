"""Figures as PNG and SVG: lesions beside the patches, burden, spacing, and how predictions lie on the CT.

Matplotlib is loaded only when a figure is drawn, and drawn on without a display or global state.
"""

from patchcore.figures.burden import burden_figure
from patchcore.figures.contours import Panel, best_slice, contours_figure
from patchcore.figures.spacing import spacing_figure
from patchcore.figures.volumes import lesion_volumes_figure

__all__ = [
    "Panel",
    "best_slice",
    "burden_figure",
    "contours_figure",
    "lesion_volumes_figure",
    "spacing_figure",
]
