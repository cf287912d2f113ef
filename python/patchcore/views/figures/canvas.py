"""What all figures share: colours, canvas, ticks of a log axis, and writing PNG and SVG with stable bytes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from patchcore.errors import DataError, MissingExtraError
from patchcore.files import replace_atomically
from patchcore.types import PathLike
from patchcore.views.log_scale import log_ticks, plain_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "BLUE",
    "FORMATS",
    "GREY",
    "INK",
    "LIGHT_BLUE",
    "ORANGE",
    "RED",
    "Format",
    "check_formats",
    "log_axis",
    "new_figure",
    "save",
    "title",
]

Format = Literal["png", "svg"]
FORMATS: tuple[Format, ...] = ("png", "svg")

# Told apart in all common kinds of colour blindness, and in grey, by their lightness.
INK, GREY, LIGHT_BLUE, BLUE, RED, ORANGE = "#222222", "#6e6e6e", "#9db8d6", "#1f4e79", "#c0392b", "#d98200"

_SETTINGS: dict[str, Any] = {
    # Glyphs as outlines look the same everywhere; the salt keeps ids, and so the bytes, the same.
    "svg.fonttype": "path",
    "svg.hashsalt": "patchcore",
    "font.family": ["DejaVu Sans"],
    "text.usetex": False,
}


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of `width` × `height` inches, tied to no display.

    Raises:
        MissingExtraError: Matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(
            "figures need matplotlib", remedy="install it with: pip install 'patchcore[figures]'"
        ) from error
    figure = Figure(figsize=(width, height), dpi=140)
    FigureCanvasAgg(figure)
    return figure


def title(figure: Figure, text: str, note: str = "", *, left: float = 0.09) -> None:
    """Write a title, and a grey line below it; text from files is never read as mathematics."""
    height = figure.get_figheight()
    figure.text(left, 1 - 0.28 / height, text, color=INK, fontsize=12, va="center", parse_math=False)
    if note:
        figure.text(left, 1 - 0.53 / height, note, color=GREY, fontsize=8, va="center", parse_math=False)


def log_axis(axes: Axes, which: Literal["x", "y"], low: float, high: float) -> None:
    """Make an axis logarithmic from `low` to `high` with ticks that read as plain numbers."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullFormatter

    major, minor = log_ticks(low, high)
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    (axes.set_xlim if which == "x" else axes.set_ylim)(low, high)
    axis.set_major_locator(FixedLocator(major))
    axis.set_major_formatter(FixedFormatter([plain_number(value) for value in major]))
    axis.set_minor_locator(FixedLocator(minor))
    axis.set_minor_formatter(NullFormatter())


def save(figure: Figure, path: PathLike, *, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write a figure in each format beside `path`, each whole or not at all; the same figure, the same bytes.

    Args:
        figure: What to write.
        path: Its suffix is replaced by each format's; its folder is made.
        formats: Among ``"png"`` and ``"svg"``.

    Returns:
        The files, in the order of `formats`.

    Raises:
        DataError: Another format.
        OSError: A file cannot be written.
    """
    check_formats(formats)
    import matplotlib

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    written = []
    # The defaults name the software's version and the date, which would change the bytes.
    unnamed: dict[str, dict[str, Any]] = {
        "png": {"Software": None},
        "svg": {"Creator": None, "Date": None, "Format": None, "Type": None},
    }
    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        # A case id in a script that the font lacks is drawn as boxes: no reason to warn at every drawing.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        for kind in formats:
            target = path.with_suffix(f".{kind}")
            with replace_atomically(target) as temporary:
                figure.savefig(temporary, format=kind, metadata=unnamed[kind])
            written.append(target)
    return written


def check_formats(formats: Sequence[str]) -> None:
    """Refuse a format that figures are not written in.

    Raises:
        DataError: One is unknown, or none is given.
    """
    if not formats or any(kind not in FORMATS for kind in formats):
        raise DataError(f"figures are not written as {', '.join(formats) or 'nothing'}", remedy="use png, svg or both")
