"""Names of segments: finds the label that a segment belongs to, and whether the segment is a lesion."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

__all__ = ["label_numbers", "label_of", "lesion_like", "readers_of", "segment_labels"]

_LESION = re.compile(r"tumou?r|lesion|cancer|metasta|nodule", re.IGNORECASE)
_READER = re.compile(
    r"^(?P<lesion>.*?\w)[\s\-–_:;,(\[]+(?:annotation|annotator|reader|rater|observer|radiologist|expert)"
    r"(?:[\s\-–_:#]*)(?P<reader>[\w.\-]+)[)\]]?$",
    re.IGNORECASE,
)
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


def readers_of(segment: str) -> tuple[str, str] | None:
    """Return the lesion and the reader that a segment is named after; None if its name has no reader.

    Example:
        >>> readers_of("Nodule 1 - Annotation IL057_127364"), readers_of("Lesion 2 (reader B)"), readers_of("Liver 2")
        (('Nodule 1', 'IL057_127364'), ('Lesion 2', 'B'), None)
    """
    match = _READER.match(_plain(segment))
    return None if match is None else (match["lesion"], match["reader"])


def label_of(segment: str) -> str:
    """Return the name of the label that a segment belongs to: its name without a reader and a trailing number.

    A trailing number is removed if a separator precedes it, or if the rest of the name contains a word for lesions;
    ``L1``, a vertebra, keeps its number. Default names of unnamed segments (``Segment_1``) keep their number too.

    Example:
        >>> [label_of(name) for name in ("Tumor_1", "Lesion 3", "Tumor2", "Liver_Remnant", "L1", "Segment_2")]
        ['Tumor', 'Lesion', 'Tumor', 'Liver Remnant', 'L1', 'Segment 2']
        >>> label_of("Nodule 1 - Annotation IL057_127364"), label_of("Tumor_"), label_of("Liver__Remnant")
        ('Nodule', 'Tumor', 'Liver Remnant')
    """
    drawn = readers_of(segment)
    name = _plain((segment if drawn is None else drawn[0]).replace("_", " "))
    match = _NUMBERED.match(name)
    if match is None:
        return name
    base = match["base"].rstrip(" -#.:(")
    if not base or base.casefold() in _GENERIC or not (match["gap"] or lesion_like(base)):
        return name
    return base


def segment_labels(segments: Sequence[str], *, each_reader: bool = False) -> dict[str, str]:
    """Return the label of each segment of a case.

    Args:
        segments: Names of all segments of the case.
        each_reader: Whether every reader of a lesion has a label of their own; the readers of a lesion are numbered in
            the order of their names, because public data sets hide who they are.

    Example:
        >>> names = ["Nodule 1 - Annotation A7", "Nodule 1 - Annotation A9", "Nodule 2 - Annotation B3"]
        >>> list(segment_labels(names, each_reader=True).values())
        ['Nodule reader 1', 'Nodule reader 2', 'Nodule reader 1']
    """
    found = {name: label_of(name) for name in segments}
    if not each_reader:
        return found
    readers: dict[str, set[str]] = {}
    for name in found:
        if (drawn := readers_of(name)) is not None:
            readers.setdefault(drawn[0].casefold(), set()).add(drawn[1])
    for name in found:
        if (drawn := readers_of(name)) is not None:
            number = sorted(readers[drawn[0].casefold()]).index(drawn[1]) + 1
            found[name] = f"{found[name]} reader {number}"
    return found


def label_numbers(labels: Iterable[str]) -> dict[str, int]:
    """Number the labels of a cohort from 1, sorted by name.

    Args:
        labels: Names of the labels of all cases; upper and lower case do not distinguish them.

    Returns:
        Label number by label name. If a name has several spellings, the first one in character order is used.

    Example:
        >>> label_numbers(["Tumor", "Liver", "Tumor", "liver"])
        {'Liver': 1, 'Tumor': 2}
    """
    spelling: dict[str, str] = {}
    for name in sorted(set(labels)):
        spelling.setdefault(name.casefold(), name)
    return {spelling[key]: number for number, key in enumerate(sorted(spelling), start=1)}


def _plain(name: str) -> str:
    return " ".join(unicodedata.normalize("NFC", name).split())
