"""Writes a prediction as DICOM SEG: one segment per lesion, and one per other class, beside the CT that it refers to.

Frames are matched with slices by SOP instance, so that no order or direction of slices can flip anything; positions are
those of the CT.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from patchcore.errors import DataError, MissingExtraError
from patchcore.files import replace_atomically
from patchcore.lesions.measure import LesionSpans
from patchcore.lesions.spans import span_places

__all__ = ["SegKind", "Segmented", "write_seg"]

SegKind = Literal["binary", "labelmap"]

# SNOMED CT codes of the organs that public data sets label.
_ORGANS = {
    "adrenal": ("23451007", "Adrenal gland"),
    "aorta": ("15825003", "Aorta"),
    "bladder": ("89837001", "Urinary bladder"),
    "brain": ("12738006", "Brain"),
    "colon": ("71854001", "Colon"),
    "esophagus": ("32849002", "Esophagus"),
    "heart": ("80891009", "Heart"),
    "kidney": ("64033007", "Kidney"),
    "liver": ("10200004", "Liver"),
    "lung": ("39607008", "Lung"),
    "pancreas": ("15776009", "Pancreas"),
    "prostate": ("41216001", "Prostate"),
    "spleen": ("78961009", "Spleen"),
    "stomach": ("69695003", "Stomach"),
}
_MOST_SEGMENTS = 65535


@dataclass(frozen=True)
class Segmented:
    """What a SEG shows.

    Attributes:
        classes: uint8 class indices, axes (columns, rows, slices).
        lesions: The lesions; each is its own segment, the largest first.
        others: Class index of every other class → its name.
        lesion_name: Name of the lesions' class.
    """

    classes: npt.NDArray[np.uint8]
    lesions: LesionSpans
    others: Mapping[int, str]
    lesion_name: str


def write_seg(
    path: Path,
    segmented: Segmented,
    files: Sequence[Path],
    slices: Sequence[tuple[str, int]],
    *,
    kind: SegKind = "binary",
    models: Sequence[str] = (),
    version: str = "",
) -> None:
    """Write a SEG, completely or not at all.

    Args:
        path: The file to write.
        segmented: What it shows.
        files: Files of the CT series.
        slices: SOP instance and frame of each slice, in the order of the array.
        kind: ``binary``, one bit per voxel and segment, which every viewer reads; or ``labelmap``, one number per
            voxel, compressed with JPEG-LS: far smaller, but new.
        models: Names of the models, for the description.
        version: Version of patchcore.

    Raises:
        DataError: There is no segment, or there are too many.
        MissingExtraError: highdicom is not installed.
        OSError: A file cannot be read or written.
    """
    try:
        import highdicom
        from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless
    except ImportError:
        raise MissingExtraError(
            "DICOM SEG needs pydicom and highdicom", remedy="pip install 'patchcore[dicom]'"
        ) from None
    from highdicom.seg import Segmentation

    labels, names = _label_map(segmented)
    if not names:
        raise DataError(
            "the prediction is empty, and a DICOM SEG needs a segment", path=path, remedy="the label map says the same"
        )
    sources, array = _frames(files, slices, labels)
    first = sources[0]
    source = ", ".join(models)[:64]
    described = [
        _description(number, name, is_lesion, source, version) for number, (name, is_lesion) in enumerate(names, 1)
    ]
    syntax = JPEGLSLossless if kind == "labelmap" else ExplicitVRLittleEndian
    with warnings.catch_warnings(), _plain_errors(path):
        warnings.simplefilter("ignore")  # on attributes of the CT that highdicom copies
        made = Segmentation(
            source_images=sources,
            pixel_array=array,
            segmentation_type=kind.upper(),
            segment_descriptions=described,
            series_instance_uid=highdicom.UID(),
            series_number=_series_number(first),
            series_description=f"patchcore: {segmented.lesion_name}"[:64],
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer="patchcore",
            manufacturer_model_name=(source or "patchcore")[:64],
            software_versions=version or "0",
            device_serial_number="0",
            content_label="LESIONS",
            transfer_syntax_uid=syntax,
            omit_empty_frames=kind == "binary",
        )
    with replace_atomically(path) as temporary:
        made.save_as(temporary, enforce_file_format=True)


@contextmanager
def _plain_errors(path: Path) -> Iterator[None]:
    """Say what is wrong with a CT whose attributes do not allow a SEG."""
    try:
        yield
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise DataError(
            f"a DICOM SEG cannot be made of this series: {error}",
            path=path,
            remedy="leave out --seg: the label map is complete",
        ) from None


def _label_map(segmented: Segmented) -> tuple[npt.NDArray[Any], list[tuple[str, bool]]]:
    """Return one number per segment, and the segments: (name, whether it is a lesion)."""
    classes, spans = segmented.classes, segmented.lesions
    present = [index for index in segmented.others if np.any(classes == index)]
    count = spans.lesion_count + len(present)
    if count > _MOST_SEGMENTS:
        raise DataError(f"{count} segments; a DICOM SEG holds at most {_MOST_SEGMENTS}")
    labels = np.zeros(classes.shape, dtype=np.uint8 if count < 256 else np.uint16)
    # The same numbers as in the tables of lesions.
    number_of = np.empty(spans.lesion_count, dtype=np.int64)
    number_of[np.argsort(-spans.voxel_count, kind="stable")] = np.arange(1, spans.lesion_count + 1)
    for lesion, place in span_places(spans):
        labels[place] = number_of[lesion]
    names = [(f"{segmented.lesion_name} {number}", True) for number in range(1, spans.lesion_count + 1)]
    for index in present:
        names.append((segmented.others[index], False))
        labels[classes == index] = len(names)
    return labels, names


def _frames(
    files: Sequence[Path], slices: Sequence[tuple[str, int]], labels: npt.NDArray[Any]
) -> tuple[list[Any], npt.NDArray[Any]]:
    """Return the CT's data sets and the label map as (frames, rows, columns), frame by frame beside each other."""
    from pydicom import dcmread

    by_uid = {}
    for file in files:
        dataset = dcmread(file)
        if "SpecificCharacterSet" in dataset and not dataset.SpecificCharacterSet:
            del dataset.SpecificCharacterSet  # empty: the default, which is the meaning of its absence
        by_uid[str(dataset.SOPInstanceUID)] = dataset
    if len(by_uid) == 1 and slices[0][1] > 0:
        [dataset] = by_uid.values()
        array = np.zeros((int(dataset.NumberOfFrames), labels.shape[1], labels.shape[0]), labels.dtype)
        for at, (_uid, frame) in enumerate(slices):
            array[frame - 1] = labels[:, :, at].T
        return [dataset], array
    sources = [by_uid[uid] for uid, _frame in slices]
    return sources, np.ascontiguousarray(labels.transpose(2, 1, 0))


def _series_number(first: Any) -> int:
    """Return a number for the new series, beside that of the CT."""
    try:
        number = int(first.get("SeriesNumber") or 0)
    except (TypeError, ValueError):
        number = 0
    return 1000 + max(0, min(number, 30_000))


def _description(number: int, name: str, is_lesion: bool, model: str, version: str) -> Any:
    import highdicom
    from highdicom.seg import SegmentAlgorithmTypeValues, SegmentDescription
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    if is_lesion:
        category, kind = (
            Code("49755003", "SCT", "Morphologically Abnormal Structure"),
            Code("52988006", "SCT", "Lesion"),
        )
    else:
        found = next((code for word, code in _ORGANS.items() if word in name.casefold()), None)
        category = Code("123037004", "SCT", "Anatomical Structure") if found else Code("85756007", "SCT", "Tissue")
        kind = Code(found[0], "SCT", found[1]) if found else Code("85756007", "SCT", "Tissue")
    return SegmentDescription(
        segment_number=number,
        segment_label=name[:64],
        segmented_property_category=category,
        segmented_property_type=kind,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name="patchcore", family=codes.DCM.ArtificialIntelligence, version=version or "0", source=model or None
        ),
        tracking_uid=highdicom.UID(),
        tracking_id=name[:64],
    )
