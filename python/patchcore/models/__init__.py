"""Networks, above all UNETR at any patch size. Sizes and costs need no torch; networks are imported on first use."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from patchcore.config.cost import NetworkCost, legal_patch_sizes, network_cost, token_count, upsampling_factors

# OpenMP reads this variable when torch is loaded; no earlier import loads torch. With the default, waiting threads
# spin, and a step takes five to twenty times as long when another process needs a core.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

if TYPE_CHECKING:
    from patchcore.models.unetr import UNETR, trainable_parameters

__all__ = [
    "UNETR",
    "NetworkCost",
    "legal_patch_sizes",
    "network_cost",
    "token_count",
    "trainable_parameters",
    "upsampling_factors",
]

_NEEDS_TORCH = ("UNETR", "trainable_parameters")


def __getattr__(name: str) -> Any:
    if name not in _NEEDS_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from patchcore.models import unetr
    except ModuleNotFoundError as error:
        from patchcore.errors import MissingExtraError

        raise MissingExtraError(
            f"patchcore.models.{name} needs {error.name}", remedy="pip install 'patchcore[train]'"
        ) from error
    return getattr(unetr, name)


def __dir__() -> list[str]:
    return sorted(__all__)
