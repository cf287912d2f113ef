"""Finding the cases of a data set: which layout it has, why, and which image belongs to which label map."""

from patchcore.data.layouts.model import CaseFiles, Layout
from patchcore.data.layouts.two_folders import find_cases, label_names, volume_stem

__all__ = ["CaseFiles", "Layout", "find_cases", "label_names", "volume_stem"]
