"""Recipes: sets of settings that work well together. What a user sets overrides them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["RECIPES", "change_recipe", "without_unetr"]

RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "plain": {},
    "lesions": {
        "model": {"tokenizer": "pyramid", "deep_supervision": True, "dropout": 0.1},
        "optim": {"lr": 8e-4, "weight_decay": 0.05, "ema": 0.999},
        "loss": {"batch_dice": True},
        "augment": {"affine_share": 0.3},
    },
}
"""Recipe → section → setting → value."""

_OF_UNETR = ("tokenizer",)
"""Settings of the section ``model`` that only a UNETR has."""


def change_recipe(data: dict[str, Any], name: str) -> None:
    """Replace the settings of the earlier recipe by those of another one; an unknown name changes nothing.

    Args:
        data: Settings by section; changed in place.
        name: Name of the recipe.

    Example:
        >>> data = {"recipe": "lesions", "optim": {"lr": 8e-4, "clip_norm": 2.0}}
        >>> change_recipe(data, "plain")
        >>> data["optim"]
        {'clip_norm': 2.0}
    """
    earlier = RECIPES.get(str(data.get("recipe")), {})
    for section, values in earlier.items():
        if isinstance(data.get(section), dict):
            data[section] = {key: value for key, value in data[section].items() if key not in values}
    for section, values in RECIPES.get(name, {}).items():
        data[section] = data.get(section, {}) | values


def without_unetr(data: dict[str, Any], *given: Mapping[str, Any]) -> None:
    """Remove what a recipe sets for UNETR, if the network is another one.

    Args:
        data: Settings by section; changed in place.
        given: What a user has set: it stays, so that the conflict is reported.
    """
    model = data.get("model")
    if not isinstance(model, dict) or model.get("network", "unetr") == "unetr":
        return
    recipe = RECIPES.get(str(data.get("recipe")), {}).get("model", {})
    for key in _OF_UNETR:
        set_here = any(isinstance(part.get("model"), dict) and key in part["model"] for part in given)
        if not set_here and key in recipe and model.get(key) == recipe[key]:
            del model[key]
