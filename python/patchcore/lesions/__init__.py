"""Lesion measurement: components of a label map, with volume, extent and diameter, from NumPy arrays or NIfTI files."""

from patchcore.lesions.measure import (
    LesionSpans,
    NiftiHeader,
    label_components,
    lesion_spans,
    measure_lesions,
    read_header,
)
from patchcore.lesions.table import Lesions

__all__ = [
    "LesionSpans",
    "Lesions",
    "NiftiHeader",
    "label_components",
    "lesion_spans",
    "measure_lesions",
    "read_header",
]
