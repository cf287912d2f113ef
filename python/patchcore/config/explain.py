"""Turns the errors of a pydantic validation into one readable line."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

__all__ = ["explain", "first_line"]


def explain(error: ValidationError, schema: type[BaseModel]) -> str:
    """Return the errors of a validation as one line. For an unknown key, the most similar known key is suggested.

    Args:
        error: The error that pydantic raised.
        schema: The model that was validated. Suggestions come from the section that contains the unknown key.

    Example:
        >>> from patchcore.config.run import RunConfig
        >>> try:
        ...     RunConfig.model_validate({"train": {"step": 100}})
        ... except ValidationError as error:
        ...     explain(error, RunConfig)
        'train.step: unknown key (did you mean steps?)'
    """
    parts = []
    found = error.errors(include_url=False)
    # pydantic also reports a list with an invalid entry as too short. That second error is skipped.
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
    return f"unknown key (did you mean {near[0]}?)" if near else "unknown key"


def _keys_at(schema: type[BaseModel], place: Sequence[int | str]) -> list[str]:
    """Return the keys of the section of a model at a place. Indices of list entries in the place are skipped."""
    model: type[BaseModel] | None = schema
    for step in place:
        if isinstance(step, int):
            continue
        field = None if model is None else model.model_fields.get(step)
        model = None if field is None else _model_in(field.annotation)
    return [] if model is None else list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the first model inside a type annotation, e.g. Part in ``tuple[Part, ...]`` and in ``Part | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part)) is not None), None)


def first_line(error: BaseException) -> str:
    r"""Return the first line of an error of another library; its type if it says nothing.

    Example:
        >>> first_line(ValueError("too long\nby far")), first_line(KeyError())
        ('too long', 'KeyError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]
