"""Makes small DICOM files for tests: CT series, enhanced CT, SEG in every encoding, RTSTRUCT."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian

CT = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"


def uid(*parts: object) -> str:
    """Return a UID that depends only on its parts."""
    return "2.25." + str(int(hashlib.sha256(repr(parts).encode()).hexdigest()[:30], 16))


def dataset(sop_class: str, patient: str, series: str, instance: str, modality: str = "CT") -> Dataset:
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = sop_class
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = instance
    made.PatientID = made.PatientName = patient
    made.PatientBirthDate = made.PatientSex = made.AccessionNumber = made.ReferringPhysicianName = ""
    made.StudyID = made.StudyDate = made.StudyTime = ""
    made.SeriesInstanceUID, made.StudyInstanceUID = series, uid(patient, "study")
    made.FrameOfReferenceUID, made.Modality = uid(patient, "frame"), modality
    made.SeriesNumber = made.InstanceNumber = 1
    return made


def pixels(made: Dataset, stored: np.ndarray, *, bits_stored: int = 16, signed: bool = True) -> None:
    made.Rows, made.Columns = stored.shape[-2:]
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit = 16, bits_stored, bits_stored - 1
    made.PixelRepresentation = int(signed)
    made.PixelData = stored.astype("<i2" if signed else "<u2").tobytes()


def ct_series(
    *,
    shape: tuple[int, int, int] = (40, 34, 5),
    patient: str = "PAT-1",
    name: str = "ct",
    orientation: Sequence[float] = (1, 0, 0, 0, 1, 0),
    spacing: tuple[float, float] = (0.8, 0.7),
    step: Sequence[float] = (0, 0, 2.5),
    origin: Sequence[float] = (-10.5, -20.25, 30),
    seed: int = 0,
) -> list[Dataset]:
    """Return the slices of a CT. `shape` is (columns, rows, slices). Stored values are HU + 1024."""
    random = np.random.default_rng(seed)
    made = []
    for k in range(shape[2]):
        item = dataset(CT, patient, uid(patient, name), uid(patient, name, k))
        item.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        item.ImageOrientationPatient = list(orientation)
        item.ImagePositionPatient = [round(float(o) + k * float(s), 6) for o, s in zip(origin, step, strict=True)]
        item.PixelSpacing, item.SliceThickness = list(spacing), 2.5
        item.InstanceNumber, item.AcquisitionNumber = k + 1, 1
        item.RescaleSlope, item.RescaleIntercept = 1, -1024
        pixels(item, random.integers(0, 2000, (shape[1], shape[0])), signed=False)
        made.append(item)
    return made


def stored_values(series: Sequence[Dataset]) -> np.ndarray:
    """Return the stored values, shape (columns, rows, slices) in the order of `series`."""
    return np.stack([np.frombuffer(s.PixelData, "<u2").reshape(s.Rows, s.Columns).T for s in series], axis=2)


def save(items: Sequence[Dataset], folder: Path, *, prefix: str = "f") -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for order, item in enumerate(items):
        path = folder / f"{prefix}{order}"
        pydicom.dcmwrite(path, item, enforce_file_format=True)
        paths.append(path)
    return paths


def enhanced(series: Sequence[Dataset]) -> Dataset:
    """Return an enhanced multi-frame CT of the slices, in the same order. Each frame has its own rescale values."""
    first = series[0]
    made = dataset(ENHANCED_CT, first.PatientID, uid(first.SeriesInstanceUID, "e"), uid(first.SOPInstanceUID, "e"))
    stack = np.stack([np.frombuffer(s.PixelData, "<u2").reshape(s.Rows, s.Columns) for s in series])
    pixels(made, stack, signed=False)
    made.NumberOfFrames = len(series)
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = first.PixelSpacing, first.SliceThickness
    orientation.ImageOrientationPatient = first.ImageOrientationPatient
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Items([measures]), Items([orientation])
    made.SharedFunctionalGroupsSequence = Items([shared])
    frames = []
    for item in series:
        frame, position, scaling = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = item.ImagePositionPatient
        scaling.RescaleSlope, scaling.RescaleIntercept = item.RescaleSlope, item.RescaleIntercept
        scaling.RescaleType = "HU"
        frame.PlanePositionSequence, frame.PixelValueTransformationSequence = Items([position]), Items([scaling])
        frames.append(frame)
    made.PerFrameFunctionalGroupsSequence = Items(frames)
    return made


def segmentation(
    series: Sequence[Dataset],
    masks: np.ndarray,
    names: Sequence[str],
    *,
    kind: str = "BINARY",
    syntax: str = ExplicitVRLittleEndian,
    omit_empty_frames: bool = True,
    key: object = "seg",
) -> Any:
    """Return a SEG made by highdicom.

    Args:
        series: The slices of the CT.
        masks: Shape (slices, rows, columns, segments): bool, or float for FRACTIONAL; no overlaps for LABELMAP.
        names: Names of the segments.
    """
    import highdicom
    from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentDescription
    from pydicom.sr.codedict import codes

    descriptions = [
        SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=codes.SCT.Tissue,
            algorithm_type=SegmentAlgorithmTypeValues.MANUAL,
        )
        for number, name in enumerate(names, start=1)
    ]
    array = masks if kind == "FRACTIONAL" else masks.astype(np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Segmentation(
            source_images=list(series),
            pixel_array=array,
            segmentation_type=kind,
            segment_descriptions=descriptions,
            series_instance_uid=uid(series[0].SeriesInstanceUID, key),
            series_number=7,
            sop_instance_uid=uid(series[0].SOPInstanceUID, key),
            instance_number=1,
            manufacturer="test",
            manufacturer_model_name="test",
            software_versions="1",
            device_serial_number="1",
            transfer_syntax_uid=syntax,
            omit_empty_frames=omit_empty_frames,
            content_label="TEST",
            fractional_type=highdicom.seg.SegmentationFractionalTypeValues.PROBABILITY,
        )


def rtstruct(series: Sequence[Dataset], rois: dict[str, list[np.ndarray]], *, named: bool = True) -> Dataset:
    """Return an RTSTRUCT. Contours are points in mm LPS, shape (N, 3)."""
    first = series[0]
    made = dataset(RTSTRUCT, first.PatientID, uid(first.SeriesInstanceUID, "rt"), uid(first.SOPInstanceUID, "rt"))
    made.Modality = "RTSTRUCT"
    reference, study, item = Dataset(), Dataset(), Dataset()
    item.SeriesInstanceUID = first.SeriesInstanceUID if named else uid("elsewhere")
    item.ContourImageSequence = Items([])
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = "1.2.840.10008.3.1.2.3.1", first.StudyInstanceUID
    study.RTReferencedSeriesSequence = Items([item])
    reference.FrameOfReferenceUID = first.FrameOfReferenceUID
    reference.RTReferencedStudySequence = Items([study])
    made.ReferencedFrameOfReferenceSequence = Items([reference])
    structures, contours = [], []
    for number, (name, polygons) in enumerate(rois.items(), start=1):
        roi, contour = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = number, name, first.FrameOfReferenceUID
        roi.ROIGenerationAlgorithm = "MANUAL"
        contour.ReferencedROINumber = number
        shapes = []
        for points in polygons:
            polygon = Dataset()
            polygon.ContourGeometricType, polygon.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
            polygon.ContourData = [f"{value:.6f}" for value in np.asarray(points).ravel()]
            shapes.append(polygon)
        contour.ContourSequence = Items(shapes)
        structures.append(roi)
        contours.append(contour)
    made.StructureSetROISequence, made.ROIContourSequence = Items(structures), Items(contours)
    return made
