"""Parts shared by all figures: colours, canvas, log axis, and writing PNG and SVG with reproducible bytes."""

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

# These colours differ in lightness, so they can be distinguished with colour blindness and in grey.
INK, GREY, LIGHT_BLUE, BLUE, RED, ORANGE = "#222222", "#6e6e6e", "#9db8d6", "#1f4e79", "#c0392b", "#d98200"

_SETTINGS: dict[str, Any] = {
    # Outlined glyphs look the same on every machine; the fixed salt keeps ids, and so the bytes, the same.
    "svg.fonttype": "path",
    "svg.hashsalt": "patchcore",
    "font.family": ["DejaVu Sans"],
    "text.usetex": False,
}


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of `width` × `height` inches that needs no display.

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
    """Write a title and a grey note below it. Text from files is never parsed as mathematics."""
    height = figure.get_figheight()
    figure.text(left, 1 - 0.28 / height, text, color=INK, fontsize=12, va="center", parse_math=False)
    if note:
        figure.text(left, 1 - 0.53 / height, note, color=GREY, fontsize=8, va="center", parse_math=False)


def log_axis(axes: Axes, which: Literal["x", "y"], low: float, high: float) -> None:
    """Make an axis logarithmic from `low` to `high`, with plain numbers as tick labels."""
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
    """Write a figure atomically in each format. The same figure always gives the same bytes.

    Args:
        figure: The figure to write.
        path: Path of the figure; its folder is created, and the suffix is replaced by that of each format.
        formats: ``"png"``, ``"svg"`` or both.

    Returns:
        The files, in the order of `formats`.

    Raises:
        DataError: A format is unknown.
        OSError: A file cannot be written.
    """
    check_formats(formats)
    import matplotlib

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    written = []
    # By default the software version and the date are written, which would change the bytes.
    unnamed: dict[str, dict[str, Any]] = {
        "png": {"Software": None},
        "svg": {"Creator": None, "Date": None, "Format": None, "Type": None},
    }
    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        # Characters that the font lacks are drawn as boxes; a warning per figure is not needed.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        for kind in formats:
            target = path.with_suffix(f".{kind}")
            with replace_atomically(target) as temporary:
                figure.savefig(temporary, format=kind, metadata=unnamed[kind])
            written.append(target)
    return written


def check_formats(formats: Sequence[str]) -> None:
    """Check that every format is supported.

    Raises:
        DataError: A format is unknown, or no format is given.
    """
    if not formats or any(kind not in FORMATS for kind in formats):
        raise DataError(f"unknown figure format: {', '.join(formats) or 'none given'}", remedy="use png, svg or both")
