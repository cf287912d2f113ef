"""Findings of pydantic as one line that a person can act on."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

__all__ = ["explain"]


def explain(error: ValidationError, schema: type[BaseModel]) -> str:
    """Return the findings of a validation as one line; an unknown key is answered with the nearest known one.

    Args:
        error: What pydantic raised.
        schema: The model that was validated. Suggestions come from the part of it that holds the unknown key.

    Example:
        >>> from patchcore.config.run import RunConfig
        >>> try:
        ...     RunConfig.model_validate({"train": {"step": 100}})
        ... except ValidationError as error:
        ...     explain(error, RunConfig)
        'train.step: unknown key, perhaps steps'
    """
    parts = []
    found = error.errors(include_url=False)
    # A list with a faulty entry is also reported as too short: that is not a fault of its own.
    inner = {item["loc"][: len(item["loc"]) - depth] for item in found for depth in range(1, len(item["loc"]) + 1)}
    for item in found:
        if item["type"] == "too_short" and item["loc"] in inner:
            continue
        where = ".".join(str(p) for p in item["loc"])
        what = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            what = _unknown(str(item["loc"][-1]), _keys_at(schema, item["loc"][:-1]))
        parts.append(f"{where}: {what}" if where else what)
    return "; ".join(parts)


def _unknown(key: str, keys: Sequence[str]) -> str:
    near = get_close_matches(key, sorted(keys), n=1)
    return f"unknown key, perhaps {near[0]}" if near else "unknown key"


def _keys_at(schema: type[BaseModel], place: Sequence[int | str]) -> list[str]:
    """Return the keys of the part of a model that a place names; without names for list entries, by their index."""
    model: type[BaseModel] | None = schema
    for step in place:
        if isinstance(step, int):
            continue
        field = None if model is None else model.model_fields.get(step)
        model = None if field is None else _model_in(field.annotation)
    return [] if model is None else list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the first model that a type names: ``tuple[Part, ...]`` and ``Part | None`` hold Part."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part)) is not None), None)
