"""Show what became of every file that looks like a volume: it belongs to a case, or it is ignored for a reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from patchcore.study.cases import CaseStatus
from patchcore.study.layout import IgnoredFile, Layout

__all__ = ["STATUS_WORDS", "case_sums", "files_json", "files_lines", "shown"]

STATUS_WORDS: Final[Mapping[CaseStatus, str]] = MappingProxyType(
    {
        "accepted": "accepted",
        "test": "kept for testing",
        "held": "held",
        "quarantined": "quarantined",
        "excluded": "excluded",
    }
)
"""Words for the status of a case, in the order in which they are shown."""

_GROUPS = 8


def files_lines(layout: Layout, root: Path) -> list[str]:
    """Return the sums of the files as lines of text; the first line gives the totals.

    Args:
        layout: The layout with its ignored files.
        root: Folder of the data set; other folders are shown relative to it.
    """
    count = len(layout.ignored)
    belong = "belongs" if layout.used_count == 1 else "belong"
    total = f"{layout.used_count} {belong} to cases, {count or 'none'} {'is' if count == 1 else 'are'} ignored"
    groups: dict[tuple[str, str], list[IgnoredFile]] = {}
    for item in layout.ignored:
        groups.setdefault((_where(item.path.parent, root), item.reason), []).append(item)
    ordered = sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
    lines = [total + (":" if ordered else "")]
    for (where, reason), items in ordered[:_GROUPS]:
        example = items[0].path.name if len(items) == 1 else f"{len(items)} such as {items[0].path.name}"
        lines.append(f"  {shown(where)}: {shown(example)}: {reason}")
    if len(ordered) > _GROUPS:
        rest = sum(len(items) for _, items in ordered[_GROUPS:])
        lines.append(f"  and {rest} more; --json lists all")
    return lines


def files_json(layout: Layout) -> dict[str, Any]:
    """Return the sums and every ignored file as plain data."""
    return {
        "in_cases": layout.used_count,
        "ignored_count": len(layout.ignored),
        "ignored": [{"path": shown(item.path), "reason": item.reason} for item in layout.ignored],
    }


def shown(name: str | Path) -> str:
    r"""Return a name from a file system as printable text; what cannot be printed is written as an escape.

    Example:
        >>> shown("a\nb.nii"), shown("M\udcfcller.zip")
        ('a\\nb.nii', 'M\\udcfcller.zip')
    """
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in str(name))


def _where(folder: Path, root: Path) -> str:
    try:
        inner = folder.relative_to(root)
    except ValueError:
        return str(folder)
    return "here" if inner == Path() else f"{inner}/"


def case_sums(statuses: Sequence[CaseStatus]) -> str:
    """Return the number of cases per status as a sum.

    Example:
        >>> case_sums(["accepted", "accepted", "held"])
        '3 cases: 2 accepted, 1 held'
    """
    total = len(statuses)
    parts = [f"{statuses.count(key)} {word}" for key, word in STATUS_WORDS.items() if key in statuses]
    return f"{total} case{'' if total == 1 else 's'}" + (f": {', '.join(parts)}" if parts else "")
