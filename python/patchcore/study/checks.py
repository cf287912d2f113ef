"""The one table of checks: the name of each, how serious it is, what it looks for, and what can be done about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from patchcore.errors import (
    AffineMismatchError,
    CorruptFileError,
    DataError,
    HeaderError,
    NonIntegralLabelError,
    ShapeMismatchError,
    UnsupportedDataError,
)
from patchcore.study.cases import Finding, FindingLevel

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["CHECKS", "LEVELS", "CheckInfo", "finding", "finding_of", "most_serious_first"]

LEVELS: Final[tuple[FindingLevel, ...]] = ("error", "geometry", "warning")
"""Most serious first."""


@dataclass(frozen=True)
class CheckInfo:
    """One check.

    Attributes:
        level: ``error`` quarantines the case; ``geometry`` holds it until the user has decided; ``warning`` only tells.
        looks_for: What trips it, in one sentence.
        remedy: What can be done about what it finds.
        cured_by_spacing: Whether ``--spacing CASE=…`` settles it.
    """

    level: FindingLevel
    looks_for: str
    remedy: str
    cured_by_spacing: bool = False


def _error(looks_for: str, remedy: str) -> CheckInfo:
    return CheckInfo("error", looks_for, remedy)


def _geometry(looks_for: str, remedy: str, *, spacing: bool = True) -> CheckInfo:
    return CheckInfo("geometry", looks_for, remedy, cured_by_spacing=spacing)


def _warning(looks_for: str, remedy: str) -> CheckInfo:
    return CheckInfo("warning", looks_for, remedy)


_EXPORT_HU = "export the CT in Hounsfield units (rescale slope and intercept applied)"
_GIVE = "give the true spacing with --spacing CASE=A,B,C"

CHECKS: Final[Mapping[str, CheckInfo]] = MappingProxyType(
    {
        # Files
        "files": _error(
            "the files of a case: no label map, two images for one label map, names that cannot be told apart",
            "add, remove or rename files so that every label map has one image",
        ),
        "unreadable": _error(
            "a file that is missing, may not be read, ends early, fails its checksum or does not fit into memory",
            "download or export it again",
        ),
        "changed": _error("a file that changed while it was read", "check again once nothing writes to it"),
        "header": _error(
            "a header that is malformed, contradicts its file, or has spacing that is not positive and finite",
            "correct the header, or export the file again",
        ),
        "unsupported": _error(
            "a volume that is not 3D, has complex or coloured voxels, or lengths in metres or micrometres",
            "export each 3D volume as one file of int16 or float32, with lengths in mm",
        ),
        "slices": _error(
            "slices that are missing or not equally spaced",
            "export the series again, or resample it to equal spacing",
        ),
        "dicom-note": _warning(
            "what was decided on the way from DICOM files to a volume", "make sure that it is what you meant"
        ),
        # Image and label map
        "pair-shape": _error("an image and a label map of different shapes", "re-export the pair"),
        "pair-affine": _error(
            "an image and a label map whose corners lie more than 0.1 voxel apart",
            "resample the label map onto the image's grid, or correct the wrong header",
        ),
        # Geometry
        "identity-affine": _geometry(
            "an identity affine (1 × 1 × 1 mm) on a matrix as large as a CT slice, or unlike the others: a lost header",
            _GIVE,
        ),
        "unit-spacing": _geometry(
            "spacing of exactly 1 × 1 × 1 mm on a matrix as large as a CT slice: often a lost header",
            f"{_GIVE}, or accept it if the volume was resampled to 1 mm",
        ),
        "spacing": _geometry(
            "spacing that no CT has: in-plane outside 0.1 … 5 mm, between slices outside 0.1 … 15 mm", _GIVE
        ),
        "extent": _geometry(
            "a volume whose longest side is below 10 mm, or with a side above 2.5 m: spacing in another unit", _GIVE
        ),
        "header-spacing": _geometry(
            "sform, qform and pixdim of a NIfTI header whose spacings differ by more than 0.1 %",
            f"{_GIVE}, or accept that of the sform",
        ),
        "sheared-affine": _geometry(
            "axes that are not orthogonal within 0.1° (gantry tilt): volumes are right, lengths and resampling are not",
            "resample it onto an orthogonal grid, or accept the tilt",
            spacing=False,
        ),
        "header-place": _warning(
            "sform and qform of a NIfTI header that place or turn the volume differently; the sform is used",
            "correct the header if tools that use the qform are to agree",
        ),
        "unplaced": _warning(
            "a header that does not say where the volume lies: identity affine, or neither sform nor qform",
            "make sure that its spacing was ever set; volumes in mm³ follow from it",
        ),
        "few-slices": _warning(
            "a volume of one slice: lesions cannot be measured across it", "make sure that the export is whole"
        ),
        # HU
        "hu-not-finite": _error("voxels that are NaN or infinite", "export the CT with every voxel in HU"),
        "hu-constant": _error("an image of one value only", "export the CT again"),
        "hu-8-bit": _error("an image of 8 bits or of values 0 … 255: a picture, not HU", _EXPORT_HU),
        "hu-normalised": _error("values scaled to 0 … 1, −1 … 1 or by mean and deviation", _EXPORT_HU),
        "hu-offset": _error(
            "HU that are shifted by 1024: air at 0, soft tissue near 1060; or shifted twice, soft tissue near −1000",
            "apply the rescale intercept (−1024) exactly once",
        ),
        "hu-scale": _error("HU that are scaled wrongly: values beyond the scale of a CT", _EXPORT_HU),
        "not-ct": _error("values that are no HU: MR-like, or a label map in the place of the image", _EXPORT_HU),
        "hu-no-air": _warning(
            "whole slices without air: HU that were clipped, or scaled down",
            "make sure that the values are HU; clipped ones limit the plan's hu_range",
        ),
        # Labels
        "label-fractional": _error(
            "a label map with a value that is no integer",
            "resample label maps with nearest neighbour, and export them as integers",
        ),
        "label-negative": _error("a negative label", "number labels from 1; 0 is background"),
        "label-undeclared": _error(
            "a label that the data set does not declare, where it declares any",
            "declare it in the data set's description, or correct the label map",
        ),
        "label-empty": _warning(
            "a label map without a labelled voxel: a negative case, or an export that failed",
            "make sure that the case has no lesion",
        ),
        # The cohort
        "duplicate-image": _error("an image that another case has too", "keep one of the two cases"),
        "duplicate-label": _error(
            "a label map without an image that another case has too", "keep one of the two cases"
        ),
        "same-label": _warning(
            "a label map that is equal to that of another case with another image",
            "make sure that each label map belongs to its image",
        ),
        "patients-untold": _warning(
            "no case is known to share a patient with another: scans of one patient may end in several folds",
            "group cases with --patient-regex if patients have several scans",
        ),
        "one-patient": _warning(
            "all cases count as scans of one patient: they cannot be split into folds",
            "tell patients apart with --patient-regex",
        ),
    }
)
"""Every check by its name, in the order in which a case meets them."""

_BY_ERROR: tuple[tuple[type[Exception], str], ...] = (
    (ShapeMismatchError, "pair-shape"),
    (AffineMismatchError, "pair-affine"),
    (NonIntegralLabelError, "label-fractional"),
    (UnsupportedDataError, "unsupported"),
    (HeaderError, "header"),
    (CorruptFileError, "unreadable"),
    (DataError, "header"),
)


def finding(check: str, message: str, *, remedy: str | None = None) -> Finding:
    """Return a finding of a check, at the check's level; its remedy is the check's unless told otherwise.

    Example:
        >>> finding("label-empty", "no voxel is labelled").level
        'warning'
    """
    info = CHECKS[check]
    return Finding(check=check, level=info.level, message=message, remedy=info.remedy if remedy is None else remedy)


def finding_of(error: Exception) -> Finding:
    """Return what an error says of a case: always of level error.

    An error may carry the name of its check as an attribute ``check``; else the kind of error decides.

    Args:
        error: A :class:`~patchcore.errors.DataError`, ``OSError`` or ``MemoryError``; any other is taken as a
            file that could not be read.

    Example:
        >>> finding_of(ShapeMismatchError("label shape (2, 2, 2) does not match image (2, 2, 3)")).check
        'pair-shape'
    """
    check = getattr(error, "check", None)
    if not (isinstance(check, str) and check in CHECKS and CHECKS[check].level == "error"):
        check = next((name for kind, name in _BY_ERROR if isinstance(error, kind)), "unreadable")
    if isinstance(error, DataError):
        message = error.message
        if error.path is not None:
            message = f"{Path(error.path).parent.name}/{Path(error.path).name}: {message}"
        return finding(check, message, remedy=error.remedy)
    if isinstance(error, MemoryError):
        return finding(check, "does not fit into memory", remedy="use a machine with more memory")
    if isinstance(error, OSError):
        return finding(check, _os_error(error), remedy="make the file readable")
    return finding(check, f"{type(error).__name__}: {error}")


def most_serious_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return findings by level, and in the order of :data:`CHECKS` within a level."""
    order = {name: index for index, name in enumerate(CHECKS)}
    return tuple(sorted(findings, key=lambda item: (LEVELS.index(item.level), order.get(item.check, len(order)))))


def _os_error(error: OSError) -> str:
    what = error.strerror or str(error)
    if not error.filename:
        return what
    path = Path(str(error.filename))
    return f"{path.parent.name}/{path.name}: {what}"
