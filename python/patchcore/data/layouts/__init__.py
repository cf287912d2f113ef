"""Finding the cases of a data set: which layout it has, why, and which image belongs to which label map."""

from patchcore.data.layouts.described import label_names
from patchcore.data.layouts.files import volume_stem
from patchcore.data.layouts.find import LAYOUTS, find_cases
from patchcore.data.layouts.model import CaseFiles, Layout

__all__ = ["LAYOUTS", "CaseFiles", "Layout", "find_cases", "label_names", "volume_stem"]
