"""Table of all checks: name, level, what the check looks for, and the remedy."""

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
        level: ``error`` quarantines the case; ``geometry`` holds it until the user corrects or accepts the geometry;
            ``warning`` is only reported.
        looks_for: What the check looks for, in one sentence.
        remedy: How to solve the problem.
        cured_by_spacing: Whether ``--spacing CASE=…`` solves the problem.
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
            "files of a case: no label map, two images for one label map, or names that cannot be distinguished",
            "add, remove or rename files so that every label map has one image",
        ),
        "unreadable": _error(
            "a file that is missing, not readable, incomplete, fails its checksum or does not fit into memory",
            "download or export it again",
        ),
        "changed": _error("a file that changed while it was read", "check again when no program writes to it"),
        "header": _error(
            "a header that is malformed, contradicts its file, or has a spacing that is not positive and finite",
            "correct the header, or export the file again",
        ),
        "unsupported": _error(
            "a volume that is not 3D, has complex or colour voxels, or uses metres or micrometres",
            "export each 3D volume as one file of int16 or float32, with lengths in mm",
        ),
        "slices": _error(
            "slices that are missing or not equally spaced",
            "export the series again, or resample it to equal spacing",
        ),
        "dicom-note": _warning(
            "choices that were made when DICOM files were converted to a volume", "make sure that this is what you want"
        ),
        "contour-gaps": _geometry(
            "an ROI that is drawn on every second slice, or more rarely: one lesion counts as several flat ones",
            "interpolate between drawn slices with --interpolate-contours, or accept the ROI as it is drawn",
            spacing=False,
        ),
        "lesion-outside": _error(
            "a lesion with contours or voxels outside the CT: its volume would be too small",
            "add the CT that the segmentation was drawn on",
        ),
        "roi-outside": _warning(
            "a segment with contours or voxels outside the CT, which are skipped; an error if it is the lesion label",
            "make sure that it is not needed",
        ),
        "contour-missing": _warning(
            "an ROI without a contour on one slice between two drawn ones",
            "draw the contour, or interpolate it with --interpolate-contours",
        ),
        "contours-overlap": _warning(
            "contours of one ROI that overlap, neither inside the other: they are joined",
            "correct them if this is wrong",
        ),
        "contours-repeated": _warning("contours that are drawn twice: they count once", "nothing needs to be done"),
        "contours-open": _warning(
            "points and open contours, which enclose nothing and are skipped", "close them if they are lesions"
        ),
        "contours-between": _warning(
            "contours between the slices of the CT: each slice takes the nearest plane of contours",
            "make sure that the contours were drawn on this CT",
        ),
        "contours-interpolated": _warning(
            "slices without contours that --interpolate-contours has filled", "look at some of them"
        ),
        "several-readers": _warning(
            "a lesion that several readers drew", "choose what counts with --readers majority, union or each"
        ),
        # Image and label map
        "pair-shape": _error("an image and a label map of different shapes", "re-export the pair"),
        "pair-affine": _error(
            "an image and a label map with corners more than 0.1 voxel apart",
            "resample the label map onto the image's grid, or correct the wrong header",
        ),
        # Geometry
        "identity-affine": _geometry(
            "an identity affine (1 × 1 × 1 mm) with a CT-sized matrix, or unlike the other cases: a lost header",
            _GIVE,
        ),
        "unit-spacing": _geometry(
            "a spacing of exactly 1 × 1 × 1 mm with a CT-sized matrix: often a lost header",
            f"{_GIVE}, or accept it if the volume was resampled to 1 mm",
        ),
        "spacing": _geometry(
            "a spacing that no CT has: in-plane outside 0.1 … 5 mm, or between slices outside 0.1 … 15 mm", _GIVE
        ),
        "extent": _geometry(
            "a volume with a longest side below 10 mm, or a side above 2.5 m: spacing in another unit", _GIVE
        ),
        "header-spacing": _geometry(
            "a NIfTI header with spacings of sform, qform and pixdim that differ by more than 0.1 %",
            f"{_GIVE}, or accept the spacing of the sform",
        ),
        "sheared-affine": _geometry(
            "axes that are not orthogonal within 0.1° (gantry tilt): lengths and resampling are wrong, volumes are not",
            "resample the case to an orthogonal grid, or accept the tilt",
            spacing=False,
        ),
        "header-place": _warning(
            "a NIfTI header with sform and qform of different position or orientation; the sform is used",
            "correct the header if you also use tools that read the qform",
        ),
        "unplaced": _warning(
            "a header without the position of the volume: identity affine, or neither sform nor qform",
            "make sure that the spacing is correct; volumes in mm³ depend on it",
        ),
        "few-slices": _warning(
            "a volume with a single slice: lesions cannot be measured across slices",
            "make sure that the export is complete",
        ),
        # HU
        "hu-not-finite": _error("voxels that are NaN or infinite", "export the CT with every voxel in HU"),
        "hu-constant": _error("an image with a single value", "export the CT again"),
        "hu-8-bit": _error("an image with 8 bits or values of 0 … 255: a picture, not HU", _EXPORT_HU),
        "hu-normalised": _error("values scaled to 0 … 1, to −1 … 1, or by mean and standard deviation", _EXPORT_HU),
        "hu-offset": _error(
            "HU shifted by 1024: air at 0, soft tissue near 1060; or shifted twice: soft tissue near −1000",
            "apply the rescale intercept (−1024) exactly once",
        ),
        "hu-scale": _error("HU with a wrong scale: values outside the range of a CT", _EXPORT_HU),
        "not-ct": _error("values that are not HU: similar to MR, or a label map instead of the image", _EXPORT_HU),
        "hu-coarse": _warning(
            "a CT in HU that is stored with 8 bits: neighbouring values are several HU apart",
            "use the original CT if you have it; edges of soft tissue may be lost",
        ),
        "hu-no-air": _warning(
            "complete slices without air: HU that were clipped or scaled down",
            "make sure that the values are HU; clipped values limit the plan's hu_range",
        ),
        # Labels
        "label-fractional": _error(
            "a label map with a value that is not an integer, nor within 0.001 of one",
            "threshold a soft mask (for example at 0.5); resample label maps with nearest neighbour",
        ),
        "label-rounded": _warning("labels within 0.001 of an integer: they are rounded", "nothing needs to be done"),
        "label-255": _warning(
            "a mask with the values 0 and 255: 255 is read as 1",
            "keep 255 with --lesion-label 255, if other label maps use it as well",
        ),
        "label-instances": _warning(
            "labels 1 to n with one component each: every lesion may have a number of its own",
            "measure each number as one lesion with --instances; ignore this if the labels are organs",
        ),
        "label-negative": _error("a negative label", "number labels from 1; 0 is background"),
        "label-undeclared": _error(
            "a label that is missing in the label names of the data set, if it declares any",
            "declare the label in the description of the data set, or correct the label map",
        ),
        "label-empty": _warning(
            "a label map without a labelled voxel: a case without lesions, or a failed export",
            "make sure that the case has no lesion",
        ),
        # The cohort
        "case-count": _warning(
            "a dataset.json whose numTraining differs from the number of cases: a download that is not complete",
            "download the missing cases, or correct numTraining",
        ),
        "duplicate-image": _error(
            "an image that is identical to that of another case", "keep only one of the two cases"
        ),
        "duplicate-label": _error(
            "a label map without an image that is identical to that of another case", "keep only one of the two cases"
        ),
        "same-label": _warning(
            "a label map that is identical to that of another case with a different image",
            "make sure that each label map belongs to its image",
        ),
        "patients-unknown": _warning(
            "no patients with several cases are known: scans of one patient may end up in different folds",
            "group cases with --patient-regex if patients have several scans",
        ),
        "one-patient": _warning(
            "all cases, or more than half of them, belong to one patient: they cannot be split into folds evenly",
            "distinguish patients with --patient-regex",
        ),
    }
)
"""All checks by name, in the order in which they are applied."""

_BY_ERROR: tuple[tuple[type[Exception], str], ...] = (
    (ShapeMismatchError, "pair-shape"),
    (AffineMismatchError, "pair-affine"),
    (NonIntegralLabelError, "label-fractional"),
    (UnsupportedDataError, "unsupported"),
    (HeaderError, "header"),
    (CorruptFileError, "unreadable"),
    (DataError, "header"),
)


def finding(check: str, message: str, *, remedy: str | None = None, label: int | None = None) -> Finding:
    """Return a finding with the level of its check, and with the remedy of the check unless `remedy` is given.

    Args:
        check: Name of the check.
        message: What was found, without a final full stop.
        remedy: What can be done about it.
        label: Label that the finding concerns; None if it concerns the whole case.

    Example:
        >>> finding("label-empty", "no voxel is labelled").level
        'warning'
    """
    info = CHECKS[check]
    remedy = info.remedy if remedy is None else remedy
    return Finding(check=check, level=info.level, message=message, remedy=remedy, label=label)


def finding_of(error: Exception) -> Finding:
    """Convert an error to a finding of level ``error``.

    The attribute ``check`` of an error may name its check; otherwise the type of the error decides.

    Args:
        error: A :class:`~patchcore.errors.DataError`, ``OSError`` or ``MemoryError``; any other error counts as a
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
    """Return the findings sorted by level, and within a level in the order of :data:`CHECKS`."""
    order = {name: index for index, name in enumerate(CHECKS)}
    return tuple(sorted(findings, key=lambda item: (LEVELS.index(item.level), order.get(item.check, len(order)))))


def _os_error(error: OSError) -> str:
    what = error.strerror or str(error)
    if not error.filename:
        return what
    path = Path(str(error.filename))
    return f"{path.parent.name}/{path.name}: {what}"
