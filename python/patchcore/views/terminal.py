"""Make text safe to print on a terminal, in any locale."""

from __future__ import annotations

import codecs
import io
import sys
import unicodedata

__all__ = ["plain", "write_utf8"]

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


def write_utf8() -> None:
    """Let stdout and stderr write UTF-8 where the locale (LC_ALL=C) has only ASCII, as click does for its own output.

    Without it, a "×" or "→" in a table ends the command with an error.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and codecs.lookup(stream.encoding).name == "ascii":
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
