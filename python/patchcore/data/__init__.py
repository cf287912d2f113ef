"""Data sets: layouts, checks, reading, analysis. Names are imported when first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from patchcore.data.analysis import Analysis, AnalyzeProgress, analyze, analyze_dataset
    from patchcore.data.layouts import CaseFiles, Layout, find_cases
    from patchcore.data.reading import CtImage, LabelMap, read_image, read_label
    from patchcore.study.folds import make_folds

__all__ = [
    "Analysis",
    "AnalyzeProgress",
    "CaseFiles",
    "CtImage",
    "LabelMap",
    "Layout",
    "analyze",
    "analyze_dataset",
    "find_cases",
    "make_folds",
    "read_image",
    "read_label",
]

_HOME = {
    "Analysis": "patchcore.data.analysis",
    "AnalyzeProgress": "patchcore.data.analysis",
    "CaseFiles": "patchcore.data.layouts",
    "CtImage": "patchcore.data.reading",
    "LabelMap": "patchcore.data.reading",
    "Layout": "patchcore.data.layouts",
    "analyze": "patchcore.data.analysis",
    "analyze_dataset": "patchcore.data.analysis",
    "find_cases": "patchcore.data.layouts",
    "make_folds": "patchcore.study.folds",
    "read_image": "patchcore.data.reading",
    "read_label": "patchcore.data.reading",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
