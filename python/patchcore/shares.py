"""A share of the cases of a data set: what one of several processes, perhaps on several hosts, works on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from patchcore.errors import ConfigError

__all__ = ["Share"]

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """Every `count`-th case, from number `number` on, which is counted from 1.

    Raises:
        ConfigError: The number is not between 1 and the count.

    Example:
        >>> Share(2, 3).of(["a", "b", "c", "d", "e"])
        ['b', 'e']
        >>> Share.parse("2/3")
        Share(number=2, count=3)
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise _wrong(f"{self.number}/{self.count}")

    @classmethod
    def parse(cls, text: str) -> Share:
        """Return the share that a text such as ``2/8`` names.

        Raises:
            ConfigError: It names none.
        """
        number, _, count = text.partition("/")
        if not (number.isdecimal() and count.isdecimal()):
            raise _wrong(text)
        return cls(int(number), int(count))

    def of(self, items: Sequence[T]) -> list[T]:
        """Return the items of this share."""
        return list(items[self.number - 1 :: self.count])

    @property
    def name(self) -> str:
        """A name for files."""
        return f"{self.number}-of-{self.count}"


def _wrong(text: str) -> ConfigError:
    return ConfigError(f"{text!r} is not a share of the cases", remedy="give e.g. 2/8, the second of eight shares")
