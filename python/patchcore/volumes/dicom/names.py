"""Names of segments: finds the label that a segment belongs to, and whether the segment is a lesion."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

__all__ = ["label_key", "label_numbers", "label_of", "lesion_like"]

_LESION = re.compile(r"tumou?r|lesion|cancer|metasta|nodule", re.IGNORECASE)
_NUMBERED = re.compile(r"^(?P<base>.*?)(?P<gap>[\s_\-#.:]*)\(?\d+\)?$", re.DOTALL)
# Default names that editors give to unnamed segments; only the number distinguishes one organ from another.
_GENERIC = frozenset({"segment", "label", "roi", "region", "structure", "object", "class", "contour", "mask"})


def lesion_like(name: str) -> bool:
    """Return whether a name contains a word for lesions: tumo(u)r, lesion, cancer, metastasis, nodule.

    Example:
        >>> lesion_like("Liver tumour"), lesion_like("Liver Remnant")
        (True, False)
    """
    return _LESION.search(name) is not None


def label_of(segment: str) -> str:
    """Return the name of the label that a segment belongs to: the segment's name without a trailing number.

    A trailing number is removed if a separator precedes it, or if the rest of the name contains a word for lesions;
    ``L1``, a vertebra, keeps its number. Default names of unnamed segments (``Segment_1``) keep their number too.

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
    """Return a key that is equal for all segments of one label: case, underscores and trailing numbers are ignored."""
    return label_of(segment).casefold()


def label_numbers(segments: Iterable[str]) -> dict[str, int]:
    """Number the labels of a cohort from 1, sorted by name.

    Args:
        segments: Names of all segments of all cases.

    Returns:
        Label number by label name. If a name has several spellings, the first one in character order is used.

    Example:
        >>> label_numbers(["Tumor_2", "Liver", "Tumor_1", "liver"])
        {'Liver': 1, 'Tumor': 2}
    """
    spelling: dict[str, str] = {}
    for name in sorted({label_of(segment) for segment in segments}):
        spelling.setdefault(name.casefold(), name)
    return {spelling[key]: number for number, key in enumerate(sorted(spelling), start=1)}
