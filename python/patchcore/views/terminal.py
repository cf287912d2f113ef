"""Make text from files safe to print on a terminal."""

from __future__ import annotations

import unicodedata

__all__ = ["plain"]

# Control, format (bidirectional overrides), surrogate, private and unassigned characters can move the cursor or
# recolour the terminal, or their width is undefined.
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})


def plain(value: object, limit: int = 2000) -> str:
    r"""Return `value` as one line of printable text of at most `limit` characters.

    Example:
        >>> plain("loss\x1b[31m\n0.5")
        'loss�[31m 0.5'
    """
    text = str(value)
    cut = text[:limit]
    if not cut.isprintable():
        cut = "".join(map(_visible, cut))
    return cut + "…" if len(text) > limit else cut


def _visible(char: str) -> str:
    if char in "\t\n\r":
        return " "
    return "�" if unicodedata.category(char) in _UNSAFE else char
