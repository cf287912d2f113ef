"""Figures as PNG and SVG: lesion volumes with patch sizes, burden, spacing, lesions found, and predictions on the CT.

Matplotlib is loaded only when a figure is drawn. It needs no display and its global state is not used.
"""

from patchcore.views.figures.burden import burden_figure
from patchcore.views.figures.contours import Panel, best_slice, contours_figure
from patchcore.views.figures.lesions_found import lesions_found_figure
from patchcore.views.figures.spacing import spacing_figure
from patchcore.views.figures.volumes import lesion_volumes_figure

__all__ = [
    "Panel",
    "best_slice",
    "burden_figure",
    "contours_figure",
    "lesion_volumes_figure",
    "lesions_found_figure",
    "spacing_figure",
]
