"""Parsers for option values that several commands use: ``1,1,2.5``, ``96``, ``-200,300``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from patchcore.errors import ConfigError
from patchcore.types import IntTriple, Triple

__all__ = [
    "float_list",
    "hu_range",
    "int_list",
    "int_triple",
    "name_list",
    "regions",
    "spacing",
    "triple",
    "two_numbers",
]


def triple(text: str, option: str) -> Triple:
    """Read three numbers, or one number for all axes.

    Raises:
        ConfigError: The text is anything else; the message names `option`.

    Example:
        >>> triple("1,1,2.5", "--spacing"), triple("2", "--spacing")
        ((1.0, 1.0, 2.5), (2.0, 2.0, 2.0))
    """
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) == 1:
        values *= 3
    if len(values) != 3:
        raise ConfigError(f"{option} {text!r} is not three numbers", remedy=f"write e.g. {option} 1,1,2.5")
    return (values[0], values[1], values[2])


def spacing(text: str | None) -> Triple | Literal["fine"] | None:
    """Read a training spacing: three numbers, one number for all axes, ``median`` or ``fine``.

    Raises:
        ConfigError: The text is anything else.

    Example:
        >>> spacing("fine"), spacing("1,1,2.5")
        ('fine', (1.0, 1.0, 2.5))
    """
    if text in (None, "median"):
        return None
    if text == "fine":
        return "fine"
    try:
        return triple(str(text), "--spacing")
    except ConfigError:
        raise ConfigError(
            f"--spacing {text!r} is not a spacing", found=text, remedy="write e.g. --spacing 1,1,2.5, or median or fine"
        ) from None


def int_triple(text: str, option: str) -> IntTriple:
    """Read three whole numbers, or one whole number for all axes.

    Raises:
        ConfigError: The text is anything else; the message names `option`.

    Example:
        >>> int_triple("96", "--window")
        (96, 96, 96)
    """
    values = int_list(text, option)
    if len(values) == 1:
        values *= 3
    if len(values) != 3:
        raise ConfigError(f"{option} {text!r} is not three whole numbers", remedy=f"write e.g. {option} 96,96,48")
    return (values[0], values[1], values[2])


def int_list(text: str, option: str) -> tuple[int, ...]:
    """Read whole numbers separated by commas.

    Raises:
        ConfigError: The text is anything else; the message names `option`.

    Example:
        >>> int_list("8,12,16", "--candidates")
        (8, 12, 16)
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(
            f"{option} {text!r} contains something that is not a whole number",
            remedy=f"write e.g. {option} 8,12,16,24",
        ) from None


def hu_range(text: str) -> tuple[float, float] | str:
    """Read two numbers, or the name of a preset.

    Raises:
        ConfigError: The text contains numbers, but not exactly two.

    Example:
        >>> hu_range("-200,300"), hu_range("liver")
        ((-200.0, 300.0), 'liver')
    """
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        return text
    if len(values) != 2:
        raise ConfigError(
            f"--hu-range {text!r} is not two numbers",
            remedy="write e.g. --hu-range=-200,300, or a preset such as liver",
        )
    return values[0], values[1]


def two_numbers(text: str, option: str) -> tuple[float, float]:
    """Read two numbers.

    Raises:
        ConfigError: The text is anything else; the message names `option`.

    Example:
        >>> two_numbers("-500,400", "--hu-range")
        (-500.0, 400.0)
    """
    values = float_list(text, option)
    if len(values) != 2:
        raise ConfigError(f"{option} {text!r} is not two numbers", remedy=f"write e.g. {option}=-500,400")
    return values[0], values[1]


def _region(text: str) -> tuple[str, tuple[int, ...]]:
    name, equals, labels = text.partition("=")
    if not (name and equals):
        raise ConfigError(
            f"--region {text!r} is not a valid region", found=text, remedy="write e.g. --region liver=1,2"
        )
    return name, tuple(int_list(labels, "--region"))


def regions(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Read regions ``NAME=LABEL,LABEL``.

    Raises:
        ConfigError: A text is anything else, or a name occurs twice.

    Example:
        >>> regions(["liver=1,2", "tumour=2"])
        {'liver': (1, 2), 'tumour': (2,)}
    """
    found = list(map(_region, texts))
    if len({name for name, _ in found}) < len(found):
        raise ConfigError(
            "--region gives the same name twice", found=[name for name, _ in found], remedy="use each name once"
        )
    return dict(found)


def float_list(text: str, option: str) -> tuple[float, ...]:
    """Read numbers separated by commas.

    Raises:
        ConfigError: The text is anything else; the message names `option`.

    Example:
        >>> float_list("1,2.5", "--tolerance")
        (1.0, 2.5)
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"{option} {text!r} is not a list of numbers", remedy=f"write e.g. {option} 1,2") from None


def name_list(text: str) -> tuple[str, ...]:
    """Read names separated by commas.

    Example:
        >>> name_list("mesh, voxel")
        ('mesh', 'voxel')
    """
    return tuple(part.strip() for part in text.split(",") if part.strip())
