"""Shows results as HTML in notebooks. The package `views` registers a renderer per class; results look it up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["HtmlView", "load_renderers_with", "renders"]

_T = TypeVar("_T")

_RENDERERS: dict[type, Callable[[Any], str]] = {}
_LOADERS: list[Callable[[], object]] = []


class HtmlView:
    """Mixin: Jupyter shows the object with the renderer registered for its class."""

    def _repr_html_(self) -> str | None:
        """Return the HTML that Jupyter shows; None if no renderer is registered."""
        for load in _LOADERS:
            load()
        renderer = _RENDERERS.get(type(self))
        return None if renderer is None else renderer(self)


def renders(kind: type[_T]) -> Callable[[Callable[[_T], str]], Callable[[_T], str]]:
    """Register the decorated function as the renderer of a class."""

    def register(function: Callable[[_T], str]) -> Callable[[_T], str]:
        _RENDERERS[kind] = function
        return function

    return register


def load_renderers_with(load: Callable[[], object]) -> None:
    """Register a function that imports the modules with renderers. It is called before renderers are looked up."""
    _LOADERS[:] = [load]
