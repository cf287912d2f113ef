"""Find the cases of a data set: recognise its layout, and find the image of each label map."""

from patchcore.datasets.layouts.described import label_names
from patchcore.datasets.layouts.files import volume_stem
from patchcore.datasets.layouts.find import LAYOUTS, find_cases
from patchcore.study.layout import CaseFiles, Layout

__all__ = ["LAYOUTS", "CaseFiles", "Layout", "find_cases", "label_names", "volume_stem"]
