"""Names of segments: which share a label, how a label is called, which are lesions."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

__all__ = ["label_key", "label_numbers", "label_of", "lesion_like"]

_LESION = re.compile(r"tumou?r|lesion|cancer|metasta|nodule", re.IGNORECASE)
_NUMBERED = re.compile(r"^(?P<base>.*?)(?P<gap>[\s_\-#.:]*)\(?\d+\)?$", re.DOTALL)
# What editors call a segment that nobody named: there the number is all that tells one organ from another.
_GENERIC = frozenset({"segment", "label", "roi", "region", "structure", "object", "class", "contour", "mask"})


def lesion_like(name: str) -> bool:
    """Return whether a name is that of lesions: tumo(u)r, lesion, cancer, metastasis, nodule.

    Example:
        >>> lesion_like("Liver tumour"), lesion_like("Liver Remnant")
        (True, False)
    """
    return _LESION.search(name) is not None


def label_of(segment: str) -> str:
    """Return the name of the label that a segment belongs to: its own without a trailing number.

    A number counts as trailing where a separator stands before it, or where the rest is named like a lesion: ``L1`` is
    a vertebra. What an editor calls unnamed segments (``Segment_1``) keeps its number.

    Example:
        >>> [label_of(name) for name in ("Tumor_1", "Lesion 3", "Tumor2", "Liver_Remnant", "L1", "Segment_2")]
        ['Tumor', 'Lesion', 'Tumor', 'Liver Remnant', 'L1', 'Segment 2']
    """
    name = " ".join(unicodedata.normalize("NFC", segment).replace("_", " ").split())
    match = _NUMBERED.match(name)
    if match is None:
        return name
    base = match["base"].rstrip(" -#.:(")
    if not base or base.casefold() in _GENERIC or not (match["gap"] or lesion_like(base)):
        return name
    return base


def label_key(segment: str) -> str:
    """Return what is equal for segments of one label: case, underscores and trailing numbers do not count."""
    return label_of(segment).casefold()


def label_numbers(segments: Iterable[str]) -> dict[str, int]:
    """Number the labels of a cohort from 1, by name.

    Args:
        segments: Names of all segments of all cases.

    Returns:
        Label number by label name; of several spellings the first in the order of characters.

    Example:
        >>> label_numbers(["Tumor_2", "Liver", "Tumor_1", "liver"])
        {'Liver': 1, 'Tumor': 2}
    """
    spelling: dict[str, str] = {}
    for name in sorted({label_of(segment) for segment in segments}):
        spelling.setdefault(name.casefold(), name)
    return {spelling[key]: number for number, key in enumerate(sorted(spelling), start=1)}
