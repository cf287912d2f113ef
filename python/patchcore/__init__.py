"""patchcore measures every lesion, chooses the ViT patch size that fits, and trains a UNETR with that patch size.

Names are imported on first use. ``import patchcore`` itself does not load torch, monai or textual.

Example:
    >>> import numpy as np
    >>> import patchcore as pc
    >>> mask = np.zeros((32, 32, 32), bool)
    >>> mask[4:8, 4:8, 4:8] = True
    >>> pc.measure_lesions(mask, spacing=(1, 1, 2)).volume_mm3.tolist()
    [128.0]
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from patchcore.notebook import load_renderers_with

if TYPE_CHECKING:
    from patchcore.config import AugmentConfig as AugmentConfig
    from patchcore.config import SamplingConfig as SamplingConfig
    from patchcore.datasets.analyze import analyze as analyze
    from patchcore.datasets.check import check_dataset as check_dataset
    from patchcore.datasets.dicom.convert import import_dicom as import_dicom
    from patchcore.datasets.layouts import find_cases as find_cases
    from patchcore.datasets.plan import plan_patch_size as plan_patch_size
    from patchcore.datasets.sensitivity import plan_sensitivity as plan_sensitivity
    from patchcore.datasets.texture import texture as texture
    from patchcore.evaluation.compare import compare as compare
    from patchcore.evaluation.evaluate import evaluate as evaluate
    from patchcore.evaluation.tune import tune as tune
    from patchcore.experiments.manage import list_experiments as list_experiments
    from patchcore.experiments.manage import retry_experiment as retry_experiment
    from patchcore.experiments.manage import show_experiment as show_experiment
    from patchcore.experiments.manage import stop_experiment as stop_experiment
    from patchcore.experiments.report import report as report
    from patchcore.experiments.sweep import sweep as sweep
    from patchcore.experiments.transfer import transfer as transfer
    from patchcore.inference.export import export_model as export_model
    from patchcore.inference.predict import predict as predict
    from patchcore.lesions.measure import label_components as label_components
    from patchcore.lesions.measure import measure_lesions as measure_lesions
    from patchcore.lesions.table import Lesions as Lesions
    from patchcore.lesions.texture import texture_features as texture_features
    from patchcore.metrics.score_files import score as score
    from patchcore.phantoms import make_phantoms as make_phantoms
    from patchcore.resampling.image import resample_image as resample_image
    from patchcore.store import StoredArray as StoredArray
    from patchcore.store.prepare import prepare as prepare
    from patchcore.store.window_reader import WindowReader as WindowReader
    from patchcore.study import Study as Study
    from patchcore.training.augment import Augmenter as Augmenter
    from patchcore.training.launch import train as train
    from patchcore.training.torch_data import WindowDataset as WindowDataset
    from patchcore.training.torch_data import WindowLoader as WindowLoader
    from patchcore.windows.blending import window_grid as window_grid
    from patchcore.windows.extract import extract_windows as extract_windows
    from patchcore.windows.sampling import WindowSampler as WindowSampler

__version__: str

load_renderers_with(partial(import_module, "patchcore.views.html"))

_HOMES = {
    "AugmentConfig": "patchcore.config",
    "Augmenter": "patchcore.training.augment",
    "Lesions": "patchcore.lesions.table",
    "SamplingConfig": "patchcore.config",
    "StoredArray": "patchcore.store",
    "Study": "patchcore.study",
    "WindowDataset": "patchcore.training.torch_data",
    "WindowLoader": "patchcore.training.torch_data",
    "WindowReader": "patchcore.store.window_reader",
    "WindowSampler": "patchcore.windows.sampling",
    "analyze": "patchcore.datasets.analyze",
    "check_dataset": "patchcore.datasets.check",
    "compare": "patchcore.evaluation.compare",
    "evaluate": "patchcore.evaluation.evaluate",
    "export_model": "patchcore.inference.export",
    "extract_windows": "patchcore.windows.extract",
    "find_cases": "patchcore.datasets.layouts",
    "import_dicom": "patchcore.datasets.dicom.convert",
    "label_components": "patchcore.lesions.measure",
    "list_experiments": "patchcore.experiments.manage",
    "make_phantoms": "patchcore.phantoms",
    "measure_lesions": "patchcore.lesions.measure",
    "plan_patch_size": "patchcore.datasets.plan",
    "plan_sensitivity": "patchcore.datasets.sensitivity",
    "predict": "patchcore.inference.predict",
    "prepare": "patchcore.store.prepare",
    "report": "patchcore.experiments.report",
    "resample_image": "patchcore.resampling.image",
    "score": "patchcore.metrics.score_files",
    "retry_experiment": "patchcore.experiments.manage",
    "show_experiment": "patchcore.experiments.manage",
    "stop_experiment": "patchcore.experiments.manage",
    "sweep": "patchcore.experiments.sweep",
    "texture": "patchcore.datasets.texture",
    "texture_features": "patchcore.lesions.texture",
    "train": "patchcore.training.launch",
    "transfer": "patchcore.experiments.transfer",
    "tune": "patchcore.evaluation.tune",
    "window_grid": "patchcore.windows.blending",
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
    "export_model",
    "extract_windows",
    "find_cases",
    "import_dicom",
    "label_components",
    "list_experiments",
    "make_phantoms",
    "measure_lesions",
    "plan_patch_size",
    "plan_sensitivity",
    "predict",
    "prepare",
    "report",
    "resample_image",
    "retry_experiment",
    "score",
    "show_experiment",
    "stop_experiment",
    "sweep",
    "texture",
    "texture_features",
    "train",
    "transfer",
    "tune",
    "window_grid",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from patchcore._core import __version__

        return __version__
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'patchcore' has no attribute {name!r}")
    try:
        value = getattr(import_module(home), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("patchcore"):
            raise
        from patchcore.errors import MissingExtraError

        raise MissingExtraError(
            f"patchcore.{name} needs {error.name}", remedy="pip install 'patchcore[train]'"
        ) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
