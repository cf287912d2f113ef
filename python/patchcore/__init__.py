"""patchcore: measure every lesion, choose the ViT patch size that fits, train a UNETR of that size.

Names are imported when first used; ``import patchcore`` itself loads neither torch, monai nor textual.

Example:
    >>> import numpy as np
    >>> import patchcore as pc
    >>> mask = np.zeros((32, 32, 32), bool)
    >>> mask[4:8, 4:8, 4:8] = True
    >>> pc.measure_lesions(mask, spacing=(1, 1, 2)).volume_mm3.tolist()
    [128.0]
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from patchcore.config import AugmentConfig as AugmentConfig
    from patchcore.config import SamplingConfig as SamplingConfig
    from patchcore.data import analyze as analyze
    from patchcore.data.checking import check_dataset as check_dataset
    from patchcore.data.dicom.convert import import_dicom as import_dicom
    from patchcore.data.layouts import find_cases as find_cases
    from patchcore.data.phantoms import make_phantoms as make_phantoms
    from patchcore.data.prepare import prepare as prepare
    from patchcore.data.sensitivity import plan_sensitivity as plan_sensitivity
    from patchcore.data.window_reader import WindowReader as WindowReader
    from patchcore.engine import Augmenter as Augmenter
    from patchcore.engine import WindowDataset as WindowDataset
    from patchcore.engine import WindowLoader as WindowLoader
    from patchcore.engine import evaluate as evaluate
    from patchcore.engine import predict as predict
    from patchcore.engine import train as train
    from patchcore.experiments.compare import compare as compare
    from patchcore.planning import plan_patch_size as plan_patch_size
    from patchcore.resampling import resample_image as resample_image
    from patchcore.store import StoredArray as StoredArray
    from patchcore.study import Study as Study
    from patchcore.volumetry import Lesions as Lesions
    from patchcore.volumetry import label_components as label_components
    from patchcore.volumetry import measure_lesions as measure_lesions
    from patchcore.windows import WindowSampler as WindowSampler
    from patchcore.windows import extract_windows as extract_windows
    from patchcore.windows import window_grid as window_grid

__version__: str

_HOMES = {
    "AugmentConfig": "patchcore.config",
    "Augmenter": "patchcore.engine",
    "Lesions": "patchcore.volumetry",
    "StoredArray": "patchcore.store",
    "SamplingConfig": "patchcore.config",
    "Study": "patchcore.study",
    "WindowDataset": "patchcore.engine",
    "WindowLoader": "patchcore.engine",
    "WindowReader": "patchcore.data.window_reader",
    "WindowSampler": "patchcore.windows",
    "analyze": "patchcore.data",
    "check_dataset": "patchcore.data.checking",
    "compare": "patchcore.experiments",
    "evaluate": "patchcore.engine",
    "extract_windows": "patchcore.windows",
    "find_cases": "patchcore.data.layouts",
    "import_dicom": "patchcore.data.dicom.convert",
    "label_components": "patchcore.volumetry",
    "make_phantoms": "patchcore.data.phantoms",
    "measure_lesions": "patchcore.volumetry",
    "plan_patch_size": "patchcore.planning",
    "plan_sensitivity": "patchcore.data.sensitivity",
    "predict": "patchcore.engine",
    "prepare": "patchcore.data.prepare",
    "resample_image": "patchcore.resampling",
    "train": "patchcore.engine",
    "window_grid": "patchcore.windows",
}

__all__ = [
    "AugmentConfig",
    "Augmenter",
    "Lesions",
    "SamplingConfig",
    "StoredArray",
    "Study",
    "WindowDataset",
    "WindowLoader",
    "WindowReader",
    "WindowSampler",
    "__version__",
    "analyze",
    "check_dataset",
    "compare",
    "evaluate",
    "extract_windows",
    "find_cases",
    "import_dicom",
    "label_components",
    "make_phantoms",
    "measure_lesions",
    "plan_patch_size",
    "plan_sensitivity",
    "predict",
    "prepare",
    "resample_image",
    "train",
    "window_grid",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from patchcore._core import __version__

        return __version__
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'patchcore' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
