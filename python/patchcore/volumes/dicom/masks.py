"""Reads segments that were exported as CT series of their own: one series per structure, with values 0 and 255."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from patchcore.errors import DataError, PatchcoreError
from patchcore.types import BoolArray
from patchcore.volumes.dicom.grid import Grid, place
from patchcore.volumes.dicom.objects import guarded, open_dataset, text
from patchcore.volumes.dicom.pixels import Frames
from patchcore.volumes.dicom.segments import Piece, Segment
from patchcore.volumes.dicom.slices import slices_of

__all__ = ["looks_like_masks", "read_masks"]

_SAMPLED = 5


def read_masks(files: Sequence[Path], names: Sequence[str], grid: Grid) -> list[Segment]:
    """Read mask series as segments; every value other than 0 belongs to the segment.

    Args:
        files: The slices of all masks.
        names: Name of the mask of each file.
        grid: Grid of the CT.

    Raises:
        DataError: A file is damaged, or does not lie on the grid of the CT.
        OSError: A file cannot be read.
    """
    segments: dict[str, Segment] = {}
    for file, name in zip(files, names, strict=True):
        segment = segments.setdefault(name, Segment(len(segments) + 1, name, file))
        dataset = open_dataset(file)
        with guarded(file):
            (item,) = slices_of(dataset, file, uid=text(dataset, "SOPInstanceUID"), enhanced=False)
        try:
            placement, _off = place(item.plane, grid, slice_index=None, name=f"the slice of mask {name}")
        except DataError as error:
            raise type(error)(error.message, path=file, remedy=error.remedy) from None
        segment.pieces.append(Piece(f"{file.name} of {name}", placement, _reader(file)))
    return list(segments.values())


def looks_like_masks(files: Sequence[Path]) -> bool:
    """Return whether a CT series holds only two values, 0 and 255 or 0 and 1: a mask exported as a CT."""
    seen: set[int] = set()
    step = max(1, len(files) // _SAMPLED)
    for file in files[step // 2 :: step]:
        try:
            seen |= set(np.unique(_pixels(file)).tolist())
        except (PatchcoreError, OSError):
            return False
        if len(seen) > 2:
            return False
    return bool(seen) and (seen <= {0, 255} or seen <= {0, 1})


def _reader(file: Path) -> Callable[[], BoolArray]:
    return lambda: np.asarray(_pixels(file) != 0)


def _pixels(file: Path) -> Any:
    return Frames(open_dataset(file, pixels=True), file).frame(0)
