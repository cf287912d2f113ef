"""Measures lesions: turns a label map, in memory or in a file, into a table of lesions.

Measuring creates no volume of component numbers. The Rust core finds spans (maximal stretches of one label along the
fastest axis of memory) at memory bandwidth and joins them by union-find. A file is decompressed and measured as a
stream; it is never held in memory as a whole.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from patchcore import _core
from patchcore.affines import spacing_of
from patchcore.arrays import thread_count
from patchcore.errors import CorruptFileError, DataError, HeaderError, PatchcoreError, UnsupportedDataError
from patchcore.lesions.table import Lesions
from patchcore.types import Affine, AnyArray, BoolArray, Int64Array, IntTriple, PathLike, Triple

__all__ = [
    "LesionSpans",
    "NiftiHeader",
    "label_components",
    "lesion_spans",
    "measure_lesions",
    "named_errors",
    "read_header",
    "read_voxels",
]

CONNECTIVITIES = (6, 18, 26)


@dataclass(frozen=True, eq=False)
class LesionSpans:
    """All lesions as spans, so that a voxel of a lesion can be drawn without the label map.

    Attributes:
        lesion: Lesion of each span, 0-based and ascending, int32, shape (S,).
        origin: First voxel of each span, int32, shape (S, 3), array axes.
        length: Number of voxels of each span, int32, shape (S,).
        axis: The array axis along which the spans lie.
        voxel_count: Number of voxels of each lesion, int64, shape (N,).
    """

    lesion: npt.NDArray[np.int32]
    origin: npt.NDArray[np.int32]
    length: npt.NDArray[np.int32]
    axis: int
    voxel_count: Int64Array

    def kept(self, chosen: BoolArray) -> LesionSpans:
        """Return the spans of the chosen lesions, renumbered from 0.

        Args:
            chosen: Which lesions to keep, shape (lesions,).
        """
        number = np.cumsum(chosen, dtype=np.int32) - np.int32(1)
        rows = chosen[self.lesion]
        return LesionSpans(
            lesion=number[self.lesion[rows]],
            origin=self.origin[rows],
            length=self.length[rows],
            axis=self.axis,
            voxel_count=self.voxel_count[chosen],
        )

    @property
    def lesion_count(self) -> int:
        """Number of lesions."""
        return len(self.voxel_count)


@dataclass(frozen=True, eq=False)
class NiftiHeader:
    """The NIfTI header of one 3D volume; lengths in mm, axes in stored order."""

    shape: IntTriple
    spacing: Triple
    affine: Affine
    axial_axis: int
    scaling: tuple[float, float]
    pixdim: Triple
    sform: Affine | None
    qform: Affine | None
    dtype: np.dtype[Any]
    data_offset: int
    data_bytes: int


def measure_lesions(
    source: AnyArray | PathLike,
    *,
    label: int | None = None,
    labels: Sequence[int] | None = None,
    spacing: Sequence[float] | None = None,
    affine: npt.ArrayLike | None = None,
    connectivity: int = 26,
    instances: bool = False,
    min_volume_mm3: float = 0.0,
    axial_axis: int | None = None,
    threads: int | None = None,
) -> Lesions:
    """Measure every lesion of a label map.

    Args:
        source: A label map or mask of shape (i, j, k): bool, any integer dtype, or floats with integer values; any
            memory order, strides and byte order. It must not change during the call. Or the path of a NIfTI-1 or
            NIfTI-2 file (.nii, .nii.gz, .hdr/.img).
        label: Measure only this label.
        labels: Measure only these labels; a component never contains two labels [default: all labels that are not 0].
        spacing: mm per voxel along each array axis, for an array without `affine` [default: 1 mm]. Not allowed for a
            file, which has its own spacing.
        affine: Voxel index → world mm, shape (4, 4). For a file, it replaces the file's own affine.
        connectivity: 6 (faces), 18 (faces and edges) or 26 (faces, edges and corners).
        instances: Each label is one lesion, wherever its voxels lie: for maps that give every lesion its own number.
        min_volume_mm3: Components smaller than this are specks: they are dropped and counted.
        axial_axis: Array axis that is normal to axial slices [default: the axis nearest to world S by the affine;
            without an affine, 2].
        threads: Number of threads for arrays; it does not change the result [default: all cores].

    Returns:
        The table of lesions; empty if there is no lesion.

    Raises:
        DataError: The spacing, affine, connectivity or labels are impossible.
        NonIntegralLabelError: The value of a voxel is not within 0.001 of an integer.
        UnsupportedDataError: The label map does not have three axes, or holds complex numbers or colours.
        HeaderError: The file's header is malformed, or contradicts the file.
        CorruptFileError: The file ends early or fails its checksum.
        OSError: The file cannot be read.

    Example:
        >>> import numpy as np
        >>> mask = np.zeros((64, 64, 32), np.uint8)
        >>> mask[10:20, 10:20, 5:10] = 1
        >>> lesions = measure_lesions(mask, spacing=(0.8, 0.8, 2.5))
        >>> lesions.voxel_count.tolist(), lesions.volume_mm3.round(6).tolist()
        ([500], [800.0])
    """
    chosen = _labels(label, labels)
    _check_connectivity(connectivity)
    if axial_axis not in (None, 0, 1, 2):
        raise DataError(f"axial_axis is {axial_axis!r}", found=axial_axis, remedy="use 0, 1 or 2")
    matrix = _affine(spacing, affine)
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if spacing is not None:
            raise DataError(
                "spacing was given for a file, which has its own", path=path, remedy="pass affine= or an array instead"
            )
        with named_errors(path):
            columns, header = _core.measure_file(
                path,
                labels=chosen,
                connectivity=connectivity,
                instances=instances,
                min_volume_mm3=float(min_volume_mm3),
                affine=None if matrix is None else matrix.tolist(),
                axial_axis=axial_axis,
            )
        shape, matrix = header["shape"], np.asarray(header["affine"]) if matrix is None else matrix
    else:
        array = _array(source)
        matrix_or_unit = np.eye(4) if matrix is None else matrix
        if affine is None and axial_axis is None:
            axial_axis = 2
        columns = _core.measure_array(
            array,
            matrix_or_unit.tolist(),
            labels=chosen,
            connectivity=connectivity,
            instances=instances,
            min_volume_mm3=float(min_volume_mm3),
            axial_axis=axial_axis,
            threads=thread_count(threads),
        )
        shape, matrix = array.shape, matrix_or_unit
    return Lesions(
        **columns,
        shape=(int(shape[0]), int(shape[1]), int(shape[2])),
        spacing=spacing_of(matrix),
        affine=matrix,
        connectivity=connectivity,
        min_volume_mm3=float(min_volume_mm3),
    )


def label_components(
    array: AnyArray,
    *,
    connectivity: int = 26,
    labels: Sequence[int] | None = None,
    threads: int | None = None,
) -> AnyArray:
    """Number the components of a label map from 1 to N by smallest C-order voxel index, across all labels.

    Args:
        array: An array, see :func:`measure_lesions`.
        connectivity: 6, 18 or 26.
        labels: Only these labels [default: all labels that are not 0].
        threads: Number of threads; it does not change the result [default: all cores].

    Returns:
        The component numbers: shape and memory order of the input, and the smallest unsigned dtype that holds N. For
        a mask, the result equals ``scipy.ndimage.label`` with the same connectivity.

    Raises:
        DataError: See :func:`measure_lesions`.

    Example:
        >>> import numpy as np
        >>> mask = np.zeros((4, 4, 4), bool)
        >>> mask[0, 0, 0] = mask[3, 3, 3] = True
        >>> label_components(mask).max(), label_components(mask).dtype
        (np.uint8(2), dtype('uint8'))
    """
    _check_connectivity(connectivity)
    image, _count = _core.label_components(
        _array(array), labels=_labels(None, labels), connectivity=connectivity, threads=thread_count(threads)
    )
    return image


def lesion_spans(
    source: AnyArray | PathLike,
    *,
    labels: Sequence[int] | None = None,
    connectivity: int = 26,
    instances: bool = False,
) -> LesionSpans:
    """Return all lesions of a label map as spans; numbered from 0 in the order of :func:`label_components`.

    Args:
        source: An array or a file, see :func:`measure_lesions`.
        labels: Only these labels [default: all labels that are not 0].
        connectivity: 6, 18 or 26.
        instances: See :func:`measure_lesions`.

    Returns:
        The spans, grouped by lesion. For a file, the spans lie along the first axis.

    Raises:
        DataError: See :func:`measure_lesions`.

    Example:
        >>> import numpy as np
        >>> mask = np.zeros((4, 4, 4), bool)
        >>> mask[1, 2, 1:3] = True
        >>> spans = lesion_spans(mask)
        >>> spans.origin.tolist(), spans.length.tolist(), spans.axis
        ([[1, 2, 1]], [2], 2)
    """
    _check_connectivity(connectivity)
    chosen = _labels(None, labels)
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        with named_errors(path):
            columns = _core.component_spans_of_file(path, labels=chosen, connectivity=connectivity, instances=instances)
    else:
        columns = _core.component_spans(_array(source), labels=chosen, connectivity=connectivity, instances=instances)
    return LesionSpans(**columns)


def read_header(path: PathLike) -> NiftiHeader:
    """Read and check the header of a NIfTI file; the voxels are not read.

    Args:
        path: .nii, .nii.gz, .hdr or .img.

    Returns:
        The header. The affine is chosen as in nibabel: sform, else qform, else voxel size.

    Raises:
        HeaderError: The header is malformed or promises more voxels than the file can hold.
        CorruptFileError: The file is shorter than its header says.
        UnsupportedDataError: The volume is not 3D, holds colours or complex numbers, or has lengths that are not in mm.
        OSError: The file cannot be read.
    """
    path = Path(path)
    with named_errors(path):
        fields = _core.read_nifti_header(path)
    return _header(fields)


def read_voxels(path: PathLike) -> tuple[AnyArray, NiftiHeader]:
    """Read all voxels of a NIfTI file as stored, to the last byte of the file; scaling is not applied.

    Args:
        path: ``.nii``, ``.nii.gz``, or the ``.hdr`` of a pair.

    Returns:
        The voxels in native byte order, shape (i, j, k), Fortran order; and the header.

    Raises:
        HeaderError: See :func:`read_header`.
        CorruptFileError: The file ends early or fails its checksum.
        UnsupportedDataError: The volume is not 3D, or has complex or RGB voxels.
        OSError: The file cannot be opened or read.
    """
    path = Path(path)
    with named_errors(path):
        words, fields = _core.read_nifti_voxels(path)
    header = _header(fields)
    voxels: AnyArray = words.view(np.uint8)[: header.data_bytes].view(header.dtype.newbyteorder("="))
    return voxels.reshape(header.shape, order="F"), header


def _header(fields: dict[str, Any]) -> NiftiHeader:
    forms = {name: fields[name] for name in ("affine", "sform", "qform")}
    fields |= {name: None if form is None else np.asarray(form) for name, form in forms.items()}
    fields |= {name: tuple(fields[name]) for name in ("shape", "spacing", "scaling", "pixdim")}
    fields["dtype"] = np.dtype(fields["dtype"])
    return NiftiHeader(**fields)


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Add the path of the file that was read to errors of the core."""
    try:
        yield
    except PatchcoreError as error:
        error.path = str(path)
        if isinstance(error, CorruptFileError):
            error.remedy = error.remedy or "download or export it again"
        raise
    except OSError as error:
        raise _with_filename(error, path) from None


def _with_filename(error: OSError, path: Path) -> OSError:
    if error.errno is None:
        return type(error)(f"{path}: {error}")
    return OSError(error.errno, error.strerror, str(path))


def _array(source: AnyArray) -> AnyArray:
    """Return the array that the core borrows; masked arrays are rejected, because the core ignores their mask."""
    if isinstance(source, np.ma.MaskedArray):
        raise UnsupportedDataError("the array is a masked array", remedy="pass array.filled(0)")
    return np.asarray(source)


def _labels(label: int | None, labels: Sequence[int] | None) -> list[int] | None:
    if label is not None and labels is not None:
        raise DataError("both label and labels were given", remedy="give only one of them")
    chosen = [label] if label is not None else labels
    if chosen is None:
        return None
    try:
        values = [operator.index(value) for value in chosen]
    except TypeError:
        raise DataError(f"labels are {list(chosen)}", expected="integers", remedy="give integers") from None
    if any(not -(2**63) <= value < 2**63 for value in values):
        raise DataError(f"labels are {values}; a label has 64 bits", remedy="give labels that fit into 64 bits")
    if not values or 0 in values:
        raise DataError(f"labels are {values}; 0 is background", remedy="give at least one label, none of them 0")
    return values


def _check_connectivity(connectivity: int) -> None:
    if connectivity not in CONNECTIVITIES:
        raise DataError(f"connectivity {connectivity} is not valid", expected=CONNECTIVITIES, remedy="use 6, 18 or 26")


def _affine(spacing: Sequence[float] | None, affine: npt.ArrayLike | None) -> Affine | None:
    if spacing is not None and affine is not None:
        raise DataError("both spacing and affine were given", remedy="give only one of them")
    if affine is not None:
        matrix = np.asarray(affine, np.float64)
        if matrix.shape != (4, 4):
            raise DataError(f"affine has shape {matrix.shape}", expected=(4, 4), remedy="pass a 4×4 matrix")
        return matrix
    if spacing is None:
        return None
    sizes = np.asarray(spacing, np.float64)
    if sizes.shape != (3,) or not np.all(np.isfinite(sizes) & (sizes > 0)):
        raise HeaderError(
            f"spacing is {tuple(spacing)}", remedy="give three positive lengths in mm, in array-axis order"
        )
    return np.diag([*sizes, 1.0])
