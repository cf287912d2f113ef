"""Reads an indexed DICOM volume: header, CT in HU, label map. Axes are in stored order: columns, rows, slices.

HU are computed with the rescale slope and intercept of each slice. PhotometricInterpretation does not change HU:
MONOCHROME1 changes only how a CT is displayed. Padding (PixelPaddingValue) becomes air, −1024 HU. In the label map,
lesions are painted last.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from patchcore.affines import orientation_code, spacing_of
from patchcore.errors import DataError, HeaderError
from patchcore.types import PathLike
from patchcore.volumes.dicom.grid import LPS_TO_RAS, Grid, Plane
from patchcore.volumes.dicom.masks import read_masks
from patchcore.volumes.dicom.names import label_of, lesion_like
from patchcore.volumes.dicom.notes import Note
from patchcore.volumes.dicom.objects import guarded, numbers, open_dataset, text
from patchcore.volumes.dicom.options import SegmentOptions
from patchcore.volumes.dicom.pixels import Frames
from patchcore.volumes.dicom.readers import with_readers
from patchcore.volumes.dicom.rtstruct import read_rois
from patchcore.volumes.dicom.segments import Segment, read_segments
from patchcore.volumes.dicom.slices import ENHANCED, Slice, frame_group, slices_of
from patchcore.volumes.dicom.sources import DicomSource, read_source
from patchcore.volumes.dicom.structures import read_structures
from patchcore.volumes.types import CtImage, LabelMap, VolumeHeader

__all__ = [
    "Labelled",
    "read_dicom_header",
    "read_dicom_image",
    "read_dicom_label",
    "read_labelled",
]

_AIR_HU = -1024.0
_INT16 = np.iinfo(np.int16)


@dataclass(frozen=True)
class Labelled:
    """All segments of a case on one grid.

    Attributes:
        grid: Grid of the CT, or of the SEG if there is no CT.
        segments: Segments of all files of the case.
        numbers: Label number by label name, for the whole cohort.
        notes: Sentences about the files that the user has to read.
    """

    grid: Grid
    segments: tuple[Segment, ...]
    numbers: Mapping[str, int]
    notes: tuple[Note, ...]

    def label_number(self, segment: Segment) -> int:
        """Return the number of a segment's label."""
        return self.numbers[segment.label]


def read_dicom_header(path: PathLike) -> VolumeHeader:
    """Read the geometry of an indexed volume from its index.

    The geometry is compared with the files only when the voxels are read.

    Raises:
        DataError: The file is not a valid index.
        OSError: The index or its first file cannot be accessed.
    """
    source = read_source(path)
    grid = _grid(source, path)
    source.files[0].stat()
    return VolumeHeader(
        path=Path(path),
        data_path=source.files[0],
        shape=grid.shape,
        affine=grid.affine,
        spacing=spacing_of(grid.affine),
        orientation=orientation_code(grid.affine),
        dtype=np.dtype(np.int16) if source.kind == "ct" else _label_dtype(source),
        offset=0,
        slope=1.0,
        intercept=0.0,
        notes=source.notes,
    )


def read_dicom_image(path: PathLike) -> CtImage:
    """Read an indexed CT series in HU.

    Returns:
        The image; int16 if every slice rescales to integers in the range of int16, otherwise float32.

    Raises:
        DataError: A file is damaged, or differs from the indexed file.
        MissingExtraError: The decoder for the compression of a file is not installed.
        OSError: A file cannot be read.
    """
    source = read_source(path)
    if source.kind != "ct":
        raise DataError("is not the index of a CT", path=path, remedy="read it as a label map")
    grid = _grid(source, path)
    wanted = _slice_index(source)
    array: npt.NDArray[Any] | None = None
    seen = 0
    for file in source.files:
        dataset = open_dataset(file, pixels=True)
        frames = Frames(dataset, file)
        with guarded(file):
            uid = text(dataset, "SOPInstanceUID")
            found = slices_of(dataset, file, uid=uid, enhanced=text(dataset, "SOPClassUID") in ENHANCED)
            if len(found) != frames.count:
                raise HeaderError(f"has {frames.count} frames, but {len(found)} frame positions", path=file)
            for position, item in enumerate(found):
                index = wanted.get((item.uid, item.frame))
                if index is None:
                    continue
                _check_place(item, index, grid)
                hu = _hu(dataset, frames, position, file)
                if array is None:
                    array = np.empty(grid.shape, dtype=np.int16, order="F")
                if hu.dtype != np.int16 and array.dtype == np.int16:
                    array = array.astype(np.float32, order="F")
                array[:, :, index] = hu.T
                seen += 1
    if array is None or seen != grid.shape[2]:
        raise HeaderError("the files differ from the indexed files", path=path, remedy="run patchcore analyze again")
    return CtImage(array, grid.affine, spacing_of(grid.affine))


def read_dicom_label(path: PathLike) -> LabelMap:
    """Read an indexed SEG or RTSTRUCT as a label map on the CT's grid; if labels overlap, lesions win.

    Raises:
        DataError: A file is damaged, does not fit the CT's grid, or differs from the indexed file.
        MissingExtraError: The decoder for the compression of a file is not installed.
        OSError: A file cannot be read.
    """
    source = read_source(path)
    labelled = read_labelled(path)
    array = np.zeros(labelled.grid.shape, dtype=_label_dtype(source), order="F")
    numbered = [(labelled.label_number(segment), segment) for segment in labelled.segments]
    # The lesions that the user chose are painted last and win, then labels named like lesions, then larger numbers.
    chosen = source.details.get("lesions") or ()
    for number, segment in sorted(numbered, key=lambda pair: (pair[0] in chosen, lesion_like(pair[1].label), pair[0])):
        segment.paint(array, number)
    return LabelMap(array, labelled.grid.affine, spacing_of(labelled.grid.affine))


def read_labelled(path: PathLike) -> Labelled:
    """Read the segments of an indexed SEG or RTSTRUCT.

    Raises:
        DataError: See :func:`read_dicom_label`.
        OSError: A file cannot be read.
    """
    source = read_source(path)
    if source.kind == "ct":
        raise DataError("is the index of a CT", path=path, remedy="read it as an image")
    grid = _grid(source, path)
    labels = source.details.get("labels")
    if not isinstance(labels, dict) or not all(isinstance(value, int) for value in labels.values()):
        raise _broken(path)
    index = _slice_index(source)
    options = SegmentOptions.from_json(source.details.get("options") or {})
    segments: list[Segment] = []
    notes = [Note(note) for note in source.notes]
    if source.kind in ("masks", "structures"):
        names = source.details.get("names")
        if not isinstance(names, list) or len(names) != len(source.files):
            raise _broken(path)
        read = read_masks if source.kind == "masks" else read_structures
        segments += read(source.files, [str(name) for name in names], grid)
    else:
        for file in source.files:
            if source.kind == "seg":
                found, said = read_segments(
                    file,
                    grid,
                    index,
                    plane_of=lambda k: _plane(grid, k),
                    fractional_threshold=options.fractional_threshold,
                )
            else:
                found, said = read_rois(file, grid, interpolate=options.interpolate_contours)
            segments += found
            notes += [replace(note, text=f"{file.name}: {note.text}") for note in said]
    label_of_segment = _labels_of_segments(source, labels)
    for segment in segments:
        if segment.name not in label_of_segment:
            raise HeaderError(
                f"segment {segment.name} is not in the index of the data set",
                path=segment.path,
                remedy="run patchcore analyze again",
            )
        segment.label = label_of_segment[segment.name]
    segments, said = with_readers(segments, options.readers, grid.shape)
    numbered = [
        replace(note, label=labels[label_of_segment[note.segment]]) if note.segment in label_of_segment else note
        for note in (*notes, *said)
    ]
    return Labelled(grid, tuple(segments), dict(labels), tuple(numbered))


def _labels_of_segments(source: DicomSource, labels: Mapping[str, int]) -> dict[str, str]:
    """Return the label of each segment; both spelt as in the index."""
    spelt = {name.casefold(): name for name in labels}
    listed = source.details.get("segments")
    pairs = listed if isinstance(listed, dict) else {name: label_of(name) for name in labels}
    return {name: spelt[str(label).casefold()] for name, label in pairs.items() if str(label).casefold() in spelt}


def _hu(dataset: Any, frames: Frames, index: int, path: Path) -> npt.NDArray[Any]:
    stored = frames.frame(index)
    transform = frame_group(dataset, index, "PixelValueTransformationSequence")
    scaling = dataset if transform is None else transform
    slope, intercept = (numbers(scaling, name, 1, path) for name in ("RescaleSlope", "RescaleIntercept"))
    m, b = (1.0 if slope is None else slope[0]), (0.0 if intercept is None else intercept[0])
    if m == 0:
        raise HeaderError("RescaleSlope is 0", path=path, remedy="export the series again")
    padding = _padding(dataset, frames, path)
    low, high = float(stored.min()), float(stored.max())
    ends = (low * m + b, high * m + b, _AIR_HU)
    if m == int(m) and b == int(b) and _INT16.min <= min(ends) and max(ends) <= _INT16.max:
        hu: npt.NDArray[Any] = (stored.astype(np.int64) * int(m) + int(b)).astype(np.int16)
    else:
        hu = (stored.astype(np.float64) * m + b).astype(np.float32)
    if padding is not None:
        hu[(stored >= padding[0]) & (stored <= padding[1])] = _AIR_HU
    return hu


def _padding(dataset: Any, frames: Frames, path: Path) -> tuple[int, int] | None:
    """Return the smallest and the largest stored value that mean padding; None if there is no padding value."""
    value = numbers(dataset, "PixelPaddingValue", 1, path)
    if value is None:
        return None
    limit = numbers(dataset, "PixelPaddingRangeLimit", 1, path)
    ends = []
    for end in (value[0], value[0] if limit is None else limit[0]):
        number = int(end)
        # Some files store the value as US (unsigned) although the pixels are SS (signed), or the reverse.
        if frames.signed and number >= 1 << (frames.allocated - 1):
            number -= 1 << frames.allocated
        elif not frames.signed and number < 0:
            number += 1 << frames.allocated
        ends.append(number)
    return min(ends), max(ends)


def _check_place(item: Slice, index: int, grid: Grid) -> None:
    expected = _plane(grid, index)
    if item.plane.shape != expected.shape or not np.allclose(
        item.plane.position, expected.position, rtol=0, atol=max(0.11 * float(np.linalg.norm(grid.affine[:3, 2])), 0.1)
    ):
        raise HeaderError(
            "the position or size of a slice has changed since it was indexed",
            path=item.path,
            remedy="run patchcore analyze again",
        )


def _plane(grid: Grid, index: int) -> Plane:
    lps = LPS_TO_RAS @ grid.affine
    spacing = spacing_of(lps)
    position = lps[:3, 3] + index * lps[:3, 2]
    along = np.concatenate([lps[:3, 0] / spacing[0], lps[:3, 1] / spacing[1]])
    return Plane(
        tuple(position.tolist()),
        tuple(along.tolist()),
        (float(spacing[1]), float(spacing[0])),
        (grid.shape[1], grid.shape[0]),
    )


def _grid(source: DicomSource, path: PathLike) -> Grid:
    try:
        affine = np.asarray(source.details["affine"], dtype=np.float64)
        shape = tuple(source.details["shape"])
    except (KeyError, TypeError, ValueError):
        raise _broken(path) from None
    good = affine.shape == (4, 4) and np.isfinite(affine).all() and abs(np.linalg.det(affine)) > 0
    if not good or len(shape) != 3 or not all(isinstance(n, int) and 0 < n < 1 << 17 for n in shape):
        raise _broken(path)
    if math.prod(shape) > 1 << 36:
        raise _broken(path)
    return Grid((shape[0], shape[1], shape[2]), affine)


def _slice_index(source: DicomSource) -> dict[tuple[str, int], int]:
    slices = source.details.get("slices") or ()
    return {(str(uid), int(frame)): index for index, (uid, frame) in enumerate(slices)}


def _label_dtype(source: DicomSource) -> np.dtype[Any]:
    return np.dtype(np.uint8 if max((0, *source.details.get("labels", {}).values())) < 256 else np.uint16)


def _broken(path: PathLike) -> HeaderError:
    return HeaderError("is not a complete index of DICOM files", path=path, remedy="run patchcore analyze again")
