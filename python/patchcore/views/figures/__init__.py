"""Figures as PNG and SVG: lesions beside the patches, burden, spacing, and how predictions lie on the CT.

Matplotlib is loaded only when a figure is drawn, and drawn on without a display or global state.
"""

from patchcore.views.figures.burden import burden_figure
from patchcore.views.figures.contours import Panel, best_slice, contours_figure
from patchcore.views.figures.spacing import spacing_figure
from patchcore.views.figures.volumes import lesion_volumes_figure

__all__ = [
    "Panel",
    "best_slice",
    "burden_figure",
    "contours_figure",
    "lesion_volumes_figure",
    "spacing_figure",
]
