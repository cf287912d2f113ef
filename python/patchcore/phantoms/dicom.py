"""Writes phantoms as DICOM: a CT series and a DICOM SEG per case, as in TCIA's Colorectal-Liver-Metastases.

Segments have the names of that collection: ``Liver``, then ``Tumor_1`` to ``Tumor_n``, one segment per lesion. UIDs
are computed from the seed and dates are fixed, so the same seed gives the same bytes.
"""

from __future__ import annotations

import hashlib
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from patchcore.affines import spacing_of
from patchcore.errors import MissingExtraError
from patchcore.phantoms.case import PhantomLesion, Planes
from patchcore.phantoms.volumes import Turn

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["require_dicom", "segment_names", "write_dicom_case"]

_DATE, _TIME = "20200101", "120000"
_MAKER, _SERIAL = "patchcore", "phantom"
_CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
_EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
_IMPLEMENTATION = "2.25.198704"


def require_dicom() -> None:
    """Check that the packages for writing DICOM are installed.

    Raises:
        MissingExtraError: pydicom or highdicom is missing.
    """
    try:
        import highdicom
        import pydicom
    except ImportError as error:
        raise MissingExtraError(
            f"writing DICOM needs {error.name}", remedy="install patchcore[dicom], or choose another --layout"
        ) from error
    del highdicom, pydicom


def segment_names(organs: dict[int, str], lesions: tuple[PhantomLesion, ...]) -> list[str]:
    """Return the names of the segments of a case, in the order of the segment numbers.

    Args:
        organs: Label → name, for organs.
        lesions: All lesions.

    Example:
        >>> lesion = PhantomLesion(1.0, 1, 1.0, (0.0, 0.0, 0.0), -50.0)
        >>> segment_names({1: "liver"}, (lesion, lesion))
        ['Liver', 'Tumor_1', 'Tumor_2']
    """
    several = len({lesion.organ for lesion in lesions} | set(organs.values())) > 1
    names = [name.capitalize() for name in organs.values()]
    counts: dict[str, int] = {}
    for lesion in lesions:
        kind = f"{lesion.organ.capitalize()}_Tumor" if several else "Tumor"
        counts[kind] = counts.get(kind, 0) + 1
        names.append(f"{kind}_{counts[kind]}")
    return names


def write_dicom_case(
    folder: Path,
    case: Planes,
    *,
    organs: dict[int, str],
    patient: str,
    seed: tuple[int, int],
    advance: Callable[[int], None] | None = None,
) -> None:
    """Write ``ct/1-001.dcm`` … and ``seg/1-1.dcm`` of one phantom into a folder, completely or not at all.

    Slices are drawn and written one at a time. Only the label planes that contain a label are in memory together.

    Args:
        folder: The new folder. If it exists, the case counts as written.
        case: The phantom.
        organs: Label → name, for organs.
        patient: Id of the patient.
        seed: Seed of the data set and index of the case.
        advance: Called with the number of planes written since the last call. It may raise to stop.

    Raises:
        OSError: A file cannot be written. Incomplete files are removed.
    """
    if folder.exists():
        if advance is not None:
            advance(case.shape[2])
        return
    temporary = folder.with_name(f".{folder.name}.tmp")
    # Remove the files of a killed process. No other process writes to this data set.
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        (temporary / "ct").mkdir(parents=True)
        (temporary / "seg").mkdir()
        # Axial slices are stored with the columns towards L and the rows towards P.
        turn = Turn("LPS", case.shape, case.affine)
        common = _common(case, turn, patient, seed)
        held: list[tuple[Dataset, npt.NDArray[np.uint8]]] = []
        for k in range(case.shape[2]):
            data = _slice(common, turn, k, case.image_plane(turn.number(k)), seed)
            data.save_as(temporary / "ct" / f"1-{k + 1:03d}.dcm", enforce_file_format=True)
            label = np.ascontiguousarray(turn.plane(case.label_plane(turn.number(k))), dtype=np.uint8)
            if label.any():
                # SEG needs only the geometry of the source slices, not their pixels.
                del data.PixelData
                held.append((data, label))
            if advance is not None:
                advance(1)
        seg = _segmentation(case, turn, held, organs, seed)
        seg.save_as(temporary / "seg" / "1-1.dcm", enforce_file_format=True)
        temporary.replace(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _uid(*parts: object) -> str:
    """Return a UID computed from the parts, in the UUID form: 2.25 and 128 bits."""
    digest = hashlib.sha256("/".join(map(str, ("patchcore phantom", *parts))).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def _common(case: Planes, turn: Turn, patient: str, seed: tuple[int, int]) -> dict[str, Any]:
    """Return the attributes that all slices of a series share."""
    a, b, c = case.spacing
    return {
        "SpecificCharacterSet": "ISO_IR 192",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "SOPClassUID": _CT_STORAGE,
        "StudyDate": _DATE,
        "SeriesDate": _DATE,
        "AcquisitionDate": _DATE,
        "ContentDate": _DATE,
        "StudyTime": _TIME,
        "SeriesTime": _TIME,
        "AcquisitionTime": _TIME,
        "ContentTime": _TIME,
        "AccessionNumber": "",
        "Modality": "CT",
        "Manufacturer": _MAKER,
        "ManufacturerModelName": "phantom",
        "DeviceSerialNumber": _SERIAL,
        "SoftwareVersions": "1",
        "ReferringPhysicianName": "",
        "StudyDescription": "Phantom abdomen",
        "SeriesDescription": "Phantom CT",
        "PatientName": patient,
        "PatientID": patient,
        "PatientBirthDate": "",
        "PatientSex": "O",
        "BodyPartExamined": "ABDOMEN",
        "SliceThickness": _decimal(c),
        "KVP": "120",
        "PatientPosition": "HFS",
        "StudyInstanceUID": _uid(*seed, "study"),
        "SeriesInstanceUID": _uid(*seed, "ct"),
        "StudyID": "1",
        "SeriesNumber": 1,
        "AcquisitionNumber": 1,
        "FrameOfReferenceUID": _uid(*seed, "frame"),
        "PositionReferenceIndicator": "",
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": turn.shape[1],
        "Columns": turn.shape[0],
        "PixelSpacing": [_decimal(b), _decimal(a)],
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "RescaleIntercept": "0",
        "RescaleSlope": "1",
        "RescaleType": "HU",
    }


def _slice(common: dict[str, Any], turn: Turn, k: int, plane: npt.NDArray[np.int16], seed: tuple[int, int]) -> Dataset:
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID

    position = turn.affine @ [0, 0, k, 1]
    uid = _uid(*seed, "ct", k)
    data = Dataset()
    for name, value in common.items():
        setattr(data, name, value)
    data.SOPInstanceUID = uid
    data.InstanceNumber = k + 1
    # World axes are RAS+ here and LPS+ in DICOM.
    data.ImagePositionPatient = [_decimal(-position[0]), _decimal(-position[1]), _decimal(position[2])]
    data.SliceLocation = _decimal(position[2])
    data.PixelData = np.ascontiguousarray(turn.plane(plane), dtype="<i2").tobytes()
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(_CT_STORAGE)
    meta.MediaStorageSOPInstanceUID = UID(uid)
    meta.TransferSyntaxUID = UID(_EXPLICIT_LITTLE)
    meta.ImplementationClassUID = UID(_IMPLEMENTATION)
    data.file_meta = meta
    return data


def _segmentation(
    case: Planes,
    turn: Turn,
    held: list[tuple[Dataset, npt.NDArray[np.uint8]]],
    organs: dict[int, str],
    seed: tuple[int, int],
) -> Any:
    import highdicom as hd
    from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
    from pydicom.sr.codedict import codes

    pixels = np.stack([label for _, label in held])
    first = held[0][0].InstanceNumber - 1
    _number_lesions(pixels, case.lesions, turn, first, offset=len(organs))
    tumour = hd.sr.CodedConcept("108369006", "SCT", "Neoplasm")
    structure = hd.sr.CodedConcept("91723000", "SCT", "Anatomical Structure")
    coded = {
        "liver": hd.sr.CodedConcept("10200004", "SCT", "Liver"),
        "spleen": hd.sr.CodedConcept("78961009", "SCT", "Spleen"),
        "kidney": hd.sr.CodedConcept("64033007", "SCT", "Kidney"),
    }
    names = segment_names(organs, case.lesions)
    kinds = [(structure, coded[name]) for name in organs.values()]
    kinds += [(codes.SCT.MorphologicallyAbnormalStructure, tumour)] * len(case.lesions)
    descriptions = [
        SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=category,
            segmented_property_type=kind,
            algorithm_type=SegmentAlgorithmTypeValues.MANUAL,
        )
        for number, (name, (category, kind)) in enumerate(zip(names, kinds, strict=True), 1)
    ]
    with warnings.catch_warnings():
        # highdicom warns about frames without a voxel, which are omitted on purpose.
        warnings.simplefilter("ignore")
        seg = Segmentation(
            source_images=[data for data, _ in held],
            pixel_array=pixels,
            segmentation_type=SegmentationTypeValues.BINARY,
            segment_descriptions=descriptions,
            series_instance_uid=_uid(*seed, "seg series"),
            series_number=2,
            sop_instance_uid=_uid(*seed, "seg"),
            instance_number=1,
            manufacturer=_MAKER,
            manufacturer_model_name="phantom",
            software_versions="1",
            device_serial_number=_SERIAL,
            series_description="Phantom SEG",
            omit_empty_frames=True,
        )
    for name in ("ContentDate", "SeriesDate", "InstanceCreationDate"):
        setattr(seg, name, _DATE)
    for name in ("ContentTime", "SeriesTime", "InstanceCreationTime"):
        setattr(seg, name, _TIME)
    for item in seg.get("DimensionOrganizationSequence", []):
        item.DimensionOrganizationUID = _uid(*seed, "dimensions")
    for item in seg.get("DimensionIndexSequence", []):
        item.DimensionOrganizationUID = _uid(*seed, "dimensions")
    for item in seg.get("ContributingEquipmentSequence", []):
        item.ContributionDateTime = _DATE + _TIME
    seg.file_meta.ImplementationClassUID = _IMPLEMENTATION
    return seg


def _number_lesions(
    pixels: npt.NDArray[np.uint8], lesions: tuple[PhantomLesion, ...], turn: Turn, first: int, *, offset: int
) -> None:
    """Replace lesion labels by segment numbers in place, one number per lesion. Organ labels stay unchanged.

    Args:
        pixels: Labels, uint8 (planes, rows, columns).
        lesions: All lesions.
        turn: Conversion from canonical axes to stored axes.
        first: Stored number of the first plane in `pixels`.
        offset: Number of segments before the lesion segments.
    """
    from scipy import ndimage

    spacing = spacing_of(turn.affine)
    for number, lesion in enumerate(lesions, offset + 1):
        centre = turn.point(lesion.centre) - [0, 0, first]
        radius = np.ceil(3.5 * np.cbrt(lesion.intended_mm3 * 0.75 / np.pi) / spacing).astype(int) + 2
        here = np.rint(centre).astype(int)
        low, high = np.maximum(here - radius, 0), here + radius + 1
        # Bodies are star-shaped and do not touch: the component at the centre is the whole lesion.
        view = pixels[low[2] : high[2], low[1] : high[1], low[0] : high[0]]
        parts = ndimage.label(view == lesion.label, structure=np.ones((3, 3, 3)))[0]
        view[parts == parts[tuple((here - low)[::-1])]] = number


def _decimal(value: float) -> str:
    """Return a number as a decimal string of at most 16 characters."""
    return f"{value:.10f}"[:16].rstrip("0").rstrip(".")
