"""Read the description of a data set from ``dataset.json``, in the form of MSD or nnU-Net."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from patchcore.errors import DataError
from patchcore.study.cases import Finding
from patchcore.study.checks import finding
from patchcore.types import PathLike

__all__ = ["channel_names", "count_findings", "ct_channel", "declared_labels", "label_names", "read_description"]

_LARGEST_JSON = 256 << 20


def read_description(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None if the file does not exist.

    Raises:
        DataError: The file is not a JSON object, or is too large for a description.
    """
    try:
        size = path.stat().st_size
        if size > _LARGEST_JSON:
            raise DataError(
                f"too large for a description of a data set ({size} bytes)", path=path, remedy="replace the file"
            )
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON ({error})", path=path, remedy="correct or remove the file") from None
    if not isinstance(value, dict):
        raise DataError("not a JSON object", path=path, remedy="correct or remove the file")
    return value


def declared_labels(description: Mapping[str, Any]) -> dict[int, str]:
    """Return the declared names of labels; regions (nnU-Net labels with several numbers) are skipped.

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
    """Return the labels that belong to nnU-Net regions; they are declared, but may have no name of their own."""
    declared = description.get("labels")
    values = declared.values() if isinstance(declared, Mapping) else ()
    members: set[int] = set()
    for value in values:
        if isinstance(value, list | tuple):
            members |= {item for item in value if isinstance(item, int) and not isinstance(item, bool)}
    return members


def all_labels(description: Mapping[str, Any]) -> dict[int, str]:
    """Return the names of all declared labels; a label that occurs only in a region is named ``label N``."""
    names = {number: f"label {number}" for number in sorted(region_members(description))}
    return names | declared_labels(description)


def label_names(dataset: PathLike) -> dict[int, str]:
    """Return the label names that ``dataset.json`` of a folder declares; empty if the file cannot be read."""
    try:
        description = read_description(Path(dataset) / "dataset.json")
    except (DataError, OSError):
        return {}
    return {} if description is None else declared_labels(description)


def channel_names(description: Mapping[str, Any] | None) -> dict[int, str]:
    """Return the names of the image channels by number, as nnU-Net or the Decathlon declares them."""
    channels = (description or {}).get("channel_names") or (description or {}).get("modality")
    if not isinstance(channels, dict):
        return {}
    return {int(key): str(name) for key, name in channels.items() if str(key).isdecimal() and len(str(key)) < 5}


def ct_channel(channels: Mapping[int, str]) -> tuple[int, str]:
    """Return the channel to read (the channel named CT, else the first), and a note for the layout's reason."""
    if len(channels) < 2:
        return 0, ""
    ct = sorted(number for number, name in channels.items() if name.strip().upper() == "CT")
    channel = ct[0] if ct else min(channels)
    return channel, f"; channel {channel} ({channels[channel]}) of {len(channels)} channels is used"


def count_findings(description: Mapping[str, Any], there: int) -> tuple[Finding, ...]:
    """Compare ``numTraining`` with the number of training cases that are there.

    Args:
        description: Content of ``dataset.json``.
        there: Number of training cases found.

    Example:
        >>> [item.message for item in count_findings({"numTraining": 131}, 4)]
        ['dataset.json declares 131 training cases (numTraining), but 4 are there']
    """
    declared = description.get("numTraining")
    if not isinstance(declared, int) or isinstance(declared, bool) or declared == there:
        return ()
    verb = "is" if there == 1 else "are"
    message = f"dataset.json declares {declared} training cases (numTraining), but {there} {verb} there"
    return (finding("case-count", message),)
