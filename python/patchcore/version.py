"""The version of the installed package, without loading the compiled core."""

from __future__ import annotations

from importlib import metadata

__all__ = ["package_version"]


def package_version() -> str:
    """Return the version of the installed patchcore, or ``"unknown"`` if it is not installed as a package.

    Example:
        >>> package_version() != ""
        True
    """
    try:
        return metadata.version("patchcore")
    except metadata.PackageNotFoundError:
        return "unknown"
