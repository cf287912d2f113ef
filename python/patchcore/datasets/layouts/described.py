"""What ``dataset.json`` says of a data set, in MSD's or nnU-Net's form."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from patchcore.errors import DataError
from patchcore.types import PathLike

__all__ = ["declared_labels", "label_names", "read_description"]

_LARGEST_JSON = 256 << 20


def read_description(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None where there is no such file.

    Raises:
        DataError: The file is no JSON object, or too large to be a description.
    """
    try:
        size = path.stat().st_size
        if size > _LARGEST_JSON:
            raise DataError(f"{size} bytes are no description of a data set", path=path, remedy="replace the file")
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON ({error})", path=path, remedy="correct or remove the file") from None
    if not isinstance(value, dict):
        raise DataError("holds no JSON object", path=path, remedy="correct or remove the file")
    return value


def declared_labels(description: Mapping[str, Any]) -> dict[int, str]:
    """Return the names of labels; regions (nnU-Net labels of several numbers) and the ignored label have none.

    Example:
        >>> declared_labels({"labels": {"0": "background", "1": "liver"}})
        {0: 'background', 1: 'liver'}
        >>> declared_labels({"labels": {"background": 0, "organ": [1, 2], "tumour": 2, "ignore": 3}})
        {0: 'background', 2: 'tumour', 3: 'ignore'}
    """
    declared = description.get("labels")
    items: Iterable[tuple[object, object]] = declared.items() if isinstance(declared, Mapping) else ()
    names: dict[int, str] = {}
    for key, value in items:
        if isinstance(value, int) and not isinstance(value, bool):
            names[value] = str(key)
        elif isinstance(value, str) and str(key).isdecimal() and len(str(key)) < 10:
            names[int(str(key))] = value
    return names


def region_members(description: Mapping[str, Any]) -> set[int]:
    """Return the numbers that nnU-Net regions are made of: declared, though without a name of their own."""
    declared = description.get("labels")
    values = declared.values() if isinstance(declared, Mapping) else ()
    members: set[int] = set()
    for value in values:
        if isinstance(value, list | tuple):
            members |= {item for item in value if isinstance(item, int) and not isinstance(item, bool)}
    return members


def all_labels(description: Mapping[str, Any]) -> dict[int, str]:
    """Return every declared label with a name: its own, or that of a region's part."""
    names = {number: f"label {number}" for number in sorted(region_members(description))}
    return names | declared_labels(description)


def label_names(dataset: PathLike) -> dict[int, str]:
    """Return the names of labels that ``dataset.json`` of a folder declares; empty without one that can be read."""
    try:
        description = read_description(Path(dataset) / "dataset.json")
    except (DataError, OSError):
        return {}
    return {} if description is None else declared_labels(description)
