"""Makes pictures small enough for a page."""

from __future__ import annotations

import io
from pathlib import Path

__all__ = ["small_png"]

_WIDTHS = (1000, 800, 600)
_COLOURS = 64


def small_png(path: Path, most_bytes: int) -> bytes | None:
    """Return a picture as a PNG of at most this size, with fewer colours and pixels if needed; None if it stays larger.

    None as well if Pillow is not installed, which comes with matplotlib, or if the file is no picture.
    """
    try:
        from PIL import Image
    except ImportError:
        return None
    try:
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
    except OSError:
        return None
    for width in _WIDTHS:
        shown = picture
        if picture.width > width:
            shown = picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)
        data = io.BytesIO()
        shown.quantize(_COLOURS).save(data, "PNG", optimize=True)
        if data.tell() <= most_bytes:
            return data.getvalue()
    return None
