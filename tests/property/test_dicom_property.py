"""RTSTRUCT and SEG over generated variants, compared with the slow independent readers of ``dicom_reference``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.pixels import pixel_array
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

import dicom_files as files
import dicom_reference as reference
from patchcore.datasets.dicom.find import find_dicom
from patchcore.datasets.dicom.measure import MeasuredSegments, measure_segments
from patchcore.datasets.layouts.indices import with_indices
from patchcore.study.layout import CaseFiles
from patchcore.volumes.dicom.options import SegmentOptions
from patchcore.volumes.dicom.volumes import read_labelled
from patchcore.volumes.volume import read_label

SHAPE, ORIGIN, SPACING = (22, 18, 7), (-10.5, -20.25, 30.0), (0.7, 0.8, 2.5)


def series(**more: Any) -> list[Dataset]:
    return files.ct_series(shape=SHAPE, **more)


def case_of(root: Path, items: list[Dataset], options: SegmentOptions | None = None) -> CaseFiles:
    files.save(items, root / "in")
    found = find_dicom(root / "in", options=options or SegmentOptions())
    (case,) = with_indices(found, root / "x").cases
    assert case.problem is None, case.problem
    return case


def polygon(draw: st.DrawFn, *, on_grid: bool) -> list[tuple[float, float]]:
    """A convex polygon, a star, a box, or a polygon that crosses itself, in voxels."""
    kind = draw(st.sampled_from(("box", "star", "free", "keyhole")))
    x, y = draw(st.floats(2, 18)), draw(st.floats(2, 14))
    radius = draw(st.floats(0.3, 9))
    if kind == "free":
        count = draw(st.integers(3, 9))
        points = [(draw(st.floats(-2, 24)), draw(st.floats(-2, 20))) for _ in range(count)]
    elif kind == "star":
        count = draw(st.integers(4, 24))
        turn = draw(st.floats(0, 6.28))
        points = [
            (
                x + radius * (1 - 0.5 * (n % 2)) * np.cos(turn + 6.2832 * n / count),
                y + radius * np.sin(turn + 6.2832 * n / count),
            )
            for n in range(count)
        ]
    else:
        points = [
            (x - radius, y - radius),
            (x + radius, y - radius),
            (x + radius, y + radius),
            (x - radius, y + radius),
        ]
        if kind == "keyhole":
            inner = [(x + 0.4 * (a - x), y + 0.4 * (b - y)) for a, b in points]
            points = [*points, points[0], *inner[::-1], inner[-1]]
    if on_grid:
        # Corners on voxel centres and half way, so that the rules for ties decide.
        points = [(round(2 * a) / 2, round(2 * b) / 2) for a, b in points]
    return [(float(round(a, 4)), float(round(b, 4))) for a, b in points]


@st.composite
def planes(draw: st.DrawFn) -> dict[int, list[list[tuple[float, float]]]]:
    """Contours per slice: nested, overlapping, repeated, apart."""
    found = {}
    for index in draw(st.lists(st.integers(0, SHAPE[2] - 1), min_size=1, max_size=3, unique=True)):
        on_grid = draw(st.booleans())
        contours = [polygon(draw, on_grid=on_grid) for _ in range(draw(st.integers(1, 4)))]
        for _ in range(draw(st.integers(0, 2))):
            first = draw(st.sampled_from(contours))
            scale = draw(st.sampled_from((1.0, 0.5, 0.8)))
            middle = np.mean(first, axis=0)
            contours.append([tuple(map(float, np.round(middle + scale * (np.asarray(p) - middle), 4))) for p in first])
            if draw(st.booleans()):
                contours[-1] = contours[-1][::-1]
        found[index] = contours
    return found


def points_mm(contour: list[tuple[float, float]], k: float) -> np.ndarray:
    voxels = np.column_stack([np.asarray(contour, float), np.full(len(contour), k)])
    return voxels * SPACING + ORIGIN


@settings(max_examples=60)
@given(contours=planes(), xor=st.booleans(), offset=st.sampled_from((0.0, 0.0, 0.04, -0.08)))
def test_contours_equal_the_independent_rasteriser(
    contours: dict[int, list[list[tuple[float, float]]]], xor: bool, offset: float
) -> None:
    made = series()
    rois = {"Tumour": [points_mm(contour, k + offset) for k, listed in contours.items() for contour in listed]}
    structure = files.rtstruct(made, rois)
    for item in structure.ROIContourSequence[0].ContourSequence:
        item.ContourGeometricType = "CLOSEDPLANAR_XOR" if xor else "CLOSED_PLANAR"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        case = case_of(root, [*made, structure])
        try:
            ((_, expected),) = reference.read_rtstruct(root / "in" / f"f{SHAPE[2]}", ORIGIN, SPACING, SHAPE)
        except reference.DoubtfulError:
            assume(False)
        label = read_label(case.label).array != 0
        sure = ~expected.doubtful
        np.testing.assert_array_equal(label & sure, expected.mask & sure)
        if sure.all():
            assert [row["voxel_count"] for row in measure_segments(case.label).segments] == [int(expected.mask.sum())]


ORIENTATIONS = (
    (1, 0, 0, 0, 1, 0),
    (-1, 0, 0, 0, -1, 0),
    (0, 1, 0, 0, 0, -1),
    (0, 0.6, -0.8, 1, 0, 0),
    (0, -1, 0, 1, 0, 0),
)


def rotated(orientation: tuple[float, ...], *, reverse: bool) -> list[Dataset]:
    normal = np.cross(orientation[:3], orientation[3:])
    return files.ct_series(shape=SHAPE, orientation=orientation, step=normal * (-2.5 if reverse else 2.5))


def to_mm(made: list[Dataset], voxels: np.ndarray) -> np.ndarray:
    """Return LPS mm of voxels (column, row, slice), from the headers of the slices."""
    first, second = made[0], made[1]
    along = np.asarray(first.ImageOrientationPatient, float)
    origin = np.asarray(first.ImagePositionPatient, float)
    step = np.asarray(second.ImagePositionPatient, float) - origin
    rows_mm, columns_mm = (float(v) for v in first.PixelSpacing)
    frame = np.column_stack([along[:3] * columns_mm, along[3:] * rows_mm, step])
    return voxels @ frame.T + origin


@settings(max_examples=40)
@given(
    contours=planes(), orientation=st.sampled_from(ORIENTATIONS), reverse=st.booleans(), shuffle=st.randoms(),
)  # fmt: skip
def test_turned_and_mirrored_series_and_renumbered_slices_change_nothing(
    contours: dict[int, list[list[tuple[float, float]]]], orientation: tuple[float, ...], reverse: bool, shuffle: Any
) -> None:
    contours = {
        k: [[(a + 0.013, b + 0.017) for a, b in contour] for contour in listed] for k, listed in contours.items()
    }
    made = rotated(orientation, reverse=reverse)
    rois = {
        "Tumour": [
            to_mm(made, np.column_stack([np.asarray(contour), np.full(len(contour), float(k))]))
            for k, listed in contours.items()
            for contour in listed
        ]
    }
    structure = files.rtstruct(made, rois)
    numbers = list(range(len(made)))
    shuffle.shuffle(numbers)
    for item, number in zip(made, numbers, strict=True):
        item.InstanceNumber = number
    shape = (SHAPE[0], SHAPE[1])
    try:
        drawn = {k: reference.combine(listed, shape, xor=False) for k, listed in contours.items()}
    except reference.DoubtfulError:
        assume(False)
    with tempfile.TemporaryDirectory() as folder:
        order = [*made, structure]
        shuffle.shuffle(order)
        label = read_label(case_of(Path(folder), order).label).array != 0
    # The slices are sorted along the normal: an archive that runs the other way is mirrored.
    label = label[:, :, ::-1] if reverse else label
    for k in range(SHAPE[2]):
        expected = drawn[k].mask if k in drawn else np.zeros(shape, bool)
        # Points are written with six decimals and turned: a centre within 1e-4 of an edge may change sides.
        sure = ~(_near_an_edge(contours.get(k, []), shape))
        np.testing.assert_array_equal(label[:, :, k] & sure, expected & sure)


def _near_an_edge(contours: list[list[tuple[float, float]]], shape: tuple[int, int]) -> np.ndarray:
    near = np.zeros(shape, bool)
    for contour in contours:
        for column, row in np.ndindex(shape):
            edges = zip(contour, contour[1:] + contour[:1], strict=True)
            near[column, row] |= any(reference._distance(column, row, a, b) < 1e-4 for a, b in edges)
    return near


BINARY_SYNTAXES = (ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless, DeflatedExplicitVRLittleEndian)
BYTE_SYNTAXES = (*BINARY_SYNTAXES, JPEGLSLossless)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(("BINARY", "FRACTIONAL", "LABELMAP")),
    syntax=st.integers(0, 4),
    columns=st.sampled_from((40, 32, 35)),
    omit=st.booleans(),
)
def test_every_kind_and_transfer_syntax_of_seg(seed: int, kind: str, syntax: int, columns: int, omit: bool) -> None:
    uids = BINARY_SYNTAXES if kind == "BINARY" else BYTE_SYNTAXES
    uid = uids[syntax % len(uids)]
    random = np.random.default_rng(seed)
    shape = (columns, 33, 5)
    made = files.ct_series(shape=shape)
    masks = random.random((shape[2], shape[1], shape[0], 2)) < 0.3
    masks[random.integers(0, 5)] = False
    if kind == "LABELMAP":
        masks[..., 1] &= ~masks[..., 0]
    given_masks = masks.astype(float) * 0.5 if kind == "FRACTIONAL" else masks
    deflate = uid == DeflatedExplicitVRLittleEndian
    seg = files.segmentation(
        made,
        given_masks,
        ["Liver", "Tumour"],
        kind=kind,
        # GDCM, which would write RLE, ends the process for some small frames.
        syntax=ExplicitVRLittleEndian if deflate or uid == RLELossless else uid,
        omit_empty_frames=omit,
    )
    if uid == JPEG2000Lossless:
        # OpenJPEG's encoder loses some noisy frames of one bit: every decoder then reads zeros.
        assume(np.count_nonzero(pixel_array(seg)) == masks.sum())
    if uid == RLELossless:
        compress(seg, packed=bool(seed % 2))
    if deflate:
        seg.file_meta.TransferSyntaxUID = uid
    with tempfile.TemporaryDirectory() as folder:
        case = case_of(Path(folder), [*made, seg])
        found = {segment.number: segment for segment in read_labelled(case.label).segments}
        for number in (1, 2):
            volume = np.zeros(shape, np.uint8)
            found[number].paint(volume, 1)
            np.testing.assert_array_equal(volume != 0, masks[..., number - 1].transpose(2, 1, 0))
        if not deflate and not (kind == "BINARY" and uid == RLELossless):
            # pydicom cannot read what is compressed with one bit per pixel.
            path = Path(folder) / "in" / f"f{shape[2]}"
            read = reference.read_seg(path, ORIGIN, SPACING, shape)
            for number, mask in read.items():
                np.testing.assert_array_equal(mask, masks[..., number - 1].transpose(2, 1, 0))


def compress(seg: Any, *, packed: bool) -> None:
    """Compress a SEG with RLE; one of 1 bit packed, or with one byte per pixel."""
    from pydicom.encaps import encapsulate

    count, size = int(seg.NumberOfFrames), int(seg.Rows) * int(seg.Columns)
    values = np.frombuffer(seg.PixelData, np.uint8)
    values = np.unpackbits(values, bitorder="little") if seg.BitsAllocated == 1 else values
    frames = []
    for frame in values[: count * size].reshape(count, size):
        data = (np.packbits(frame, bitorder="little") if packed and seg.BitsAllocated == 1 else frame).tobytes()
        packets = bytearray()
        for at in range(0, len(data), 100):
            piece = data[at : at + 100]
            same = len(set(piece)) == 1 and len(piece) > 1
            packets += bytes([257 - len(piece), piece[0]]) if same else bytes([len(piece) - 1]) + piece
        packets += b"\0" * (len(packets) % 2)
        frames.append(np.array([1, 64, *[0] * 14], "<u4").tobytes() + bytes(packets))
    seg.PixelData = encapsulate(frames)
    seg["PixelData"].VR = "OB"
    seg["PixelData"].is_undefined_length = True
    seg.file_meta.TransferSyntaxUID = RLELossless


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), readers=st.sampled_from(("majority", "union", "each")), count=st.integers(1, 5))
def test_readers_of_one_lesion(seed: int, readers: str, count: int) -> None:
    random = np.random.default_rng(seed)
    made = files.ct_series(shape=(14, 12, 4))
    drawn = random.random((count, 4, 12, 14)) < 0.5
    # All readers drew this voxel: they mean one lesion.
    drawn[:, 2, 6, 7] = True
    ids = [f"IL057_{127364 + n}" if n % 2 else f"MI014_{n}" for n in range(count)]
    items = [
        files.segmentation(made, mask[..., None], [f"Nodule 1 - Annotation {name}"], key=name)
        for mask, name in zip(drawn, ids, strict=True)
    ]
    with tempfile.TemporaryDirectory() as folder:
        case = case_of(Path(folder), [*made, *items], SegmentOptions(readers=readers))
        measured = measure_segments(case.label)
        notes = [note for note in measured.notes if note.check == "several-readers"]
    votes = drawn.sum(axis=0)
    if readers == "each":
        expected = {
            f"Nodule reader {sorted(ids).index(name) + 1}": int(m.sum()) for name, m in zip(ids, drawn, strict=True)
        }
        assert {row["label_name"]: row["voxel_count"] for row in measured.segments} == expected
        assert not notes
        return
    held = votes >= (1 if readers == "union" else (count + 1) // 2)
    assert [(row["label_name"], row["voxel_count"]) for row in measured.segments] == [("Nodule", int(held.sum()))]
    assert len(notes) == (count > 1)


def test_segments_that_do_not_overlap_are_not_readers_of_one_lesion(tmp_path: Path) -> None:
    made = series()
    masks = np.zeros((SHAPE[2], SHAPE[1], SHAPE[0], 3), bool)
    for number in range(3):
        masks[2:4, 4:7, 5 * number : 5 * number + 3, number] = True
    seg = files.segmentation(made, masks, [f"Lesion annotation {number}" for number in (1, 2, 3)])
    measured = measure_segments(case_of(tmp_path, [*made, seg]).label)
    assert measured.lesions.voxel_count.tolist() == [18, 18, 18]
    assert not any(note.check == "several-readers" for note in measured.notes)


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
def test_fractions_from_the_threshold_on_count(tmp_path: Path, threshold: float) -> None:
    made = series()
    fractions = np.random.default_rng(0).integers(0, 256, (SHAPE[2], SHAPE[1], SHAPE[0], 1)) / 255
    seg = files.segmentation(made, fractions, ["Tumour"], kind="FRACTIONAL")
    case = case_of(tmp_path, [*made, seg], SegmentOptions(fractional_threshold=threshold))
    measured: MeasuredSegments = measure_segments(case.label)
    assert measured.segments[0]["voxel_count"] == int((fractions * 255 >= threshold * 255).sum())
    assert any(f"at least {threshold:g}" in note.text for note in measured.notes)


@settings(max_examples=25)
@given(
    step=st.integers(1, 4),
    low=st.floats(1.5, 5),
    high=st.floats(9, 16),
    grow=st.floats(0, 0.8),
    interpolate=st.booleans(),
)
def test_drawn_on_every_nth_slice(step: int, low: float, high: float, grow: float, interpolate: bool) -> None:
    made = files.ct_series(shape=(22, 18, 17))
    drawn = list(range(2, 15, step))

    def box(k: int) -> list[tuple[float, float]]:
        a, b = low - grow * k / 15, high + grow * k / 15
        return [(a, a), (b, a), (b, b), (a, b)]

    structure = files.rtstruct(made, {"Tumour": [points_mm(box(k), k) for k in drawn]})
    with tempfile.TemporaryDirectory() as folder:
        case = case_of(Path(folder), [*made, structure], SegmentOptions(interpolate_contours=interpolate))
        measured = measure_segments(case.label)
        label = read_label(case.label).array != 0
    checks = {note.check for note in measured.notes}
    if step == 1 or interpolate:
        assert "contour-gaps" not in checks
        assert len(measured.lesions) == 1
        assert label.any(axis=(0, 1)).tolist() == [drawn[0] <= k <= drawn[-1] for k in range(17)]
        # A region between two drawn ones lies within the larger one, and holds the smaller one.
        for k in range(drawn[0], drawn[-1]):
            below, above = max(d for d in drawn if d <= k), min(d for d in drawn if d >= k)
            assert not (label[:, :, k] & ~(label[:, :, below] | label[:, :, above])).any()
            assert not (label[:, :, below] & label[:, :, above] & ~label[:, :, k]).any()
        assert ("contours-interpolated" in checks) == (step > 1)
    else:
        assert "contour-gaps" in checks
        assert len(measured.lesions) == len(drawn)
