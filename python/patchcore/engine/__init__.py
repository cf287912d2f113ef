"""Training, prediction and evaluation. Names are loaded on first use: :func:`train` needs no torch in its process."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# OpenMP reads this when torch is loaded, which no import before this one does. Its threads otherwise spin while they
# wait, and where anything else wants a core, a step takes five to twenty times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

if TYPE_CHECKING:
    from patchcore.engine.augment import Augmenter as Augmenter
    from patchcore.engine.evaluation import CaseEvaluation as CaseEvaluation
    from patchcore.engine.evaluation import Evaluation as Evaluation
    from patchcore.engine.evaluation import evaluate as evaluate
    from patchcore.engine.launch import TrainedRun as TrainedRun
    from patchcore.engine.launch import create_run as create_run
    from patchcore.engine.launch import train as train
    from patchcore.engine.prediction import Prediction as Prediction
    from patchcore.engine.prediction import Predictor as Predictor
    from patchcore.engine.prediction import predict as predict
    from patchcore.engine.torch_data import WindowDataset as WindowDataset
    from patchcore.engine.torch_data import WindowLoader as WindowLoader

_HOMES = {
    "Augmenter": "augment",
    "CaseEvaluation": "evaluation",
    "Evaluation": "evaluation",
    "Prediction": "prediction",
    "Predictor": "prediction",
    "TrainedRun": "launch",
    "WindowDataset": "torch_data",
    "WindowLoader": "torch_data",
    "create_run": "launch",
    "evaluate": "evaluation",
    "predict": "prediction",
    "train": "launch",
}

__all__ = [
    "Augmenter",
    "CaseEvaluation",
    "Evaluation",
    "Prediction",
    "Predictor",
    "TrainedRun",
    "WindowDataset",
    "WindowLoader",
    "create_run",
    "evaluate",
    "predict",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        home = import_module(f"{__name__}.{_HOMES[name]}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("patchcore"):
            raise
        from patchcore.errors import MissingExtraError

        raise MissingExtraError(
            f"patchcore.engine.{name} needs {error.name}", remedy="pip install 'patchcore[train]'"
        ) from error
    return getattr(home, name)


def __dir__() -> list[str]:
    return sorted(__all__)
