"""Test that every check is triggered by a file or a set of cases, and that a clean case triggers no check."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from patchcore.datasets.check import CheckReport, check_dataset
from patchcore.datasets.checks import CHECKS, LEVELS, finding_of, header_findings, image_findings, spacing_findings
from patchcore.errors import HeaderError, UnsupportedDataError
from patchcore.volumes.ct import examine_ct_array, examine_ct_file
from patchcore.volumes.dicom.grid import SlicesError
from patchcore.volumes.types import CtExamination
from patchcore.volumes.volume import read_header

AFFINE = np.diag([-0.8, -0.8, 2.5, 1.0])
AFFINE[:3, 3] = 100, 80, -40
SHAPE = (24, 20, 12)
FORM_CODES = 252
Array = np.ndarray[Any, Any]


def ct(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> Array:
    """Soft tissue with air around it."""
    rng = np.random.default_rng(seed)
    array = rng.normal(40, 30, shape)
    array[: shape[0] // 4] = rng.normal(-1000, 10, array[: shape[0] // 4].shape)
    return array.astype(np.int16)


def mask(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> Array:
    label = np.zeros(shape, np.uint8)
    label[8 : 12 + seed % 8, 4:9, 3:6] = 1
    return label


def save(path: Path, array: Array, affine: Any = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


class Cohort:
    """A data set of two folders with three clean cases; tests damage one of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for seed, name in enumerate(("P1_a", "P1_b", "P2_a")):
            self.put(name, ct(seed), mask(seed))

    def put(self, name: str, image: Array | None, label: Array, affine: Any = AFFINE, other: Any = None) -> None:
        if image is not None:
            save(self.image(name), image, affine)
        save(self.label(name), label, affine if other is None else other)

    def image(self, name: str = "P2_a") -> Path:
        return self.root / "images" / f"{name}.nii"

    def label(self, name: str = "P2_a") -> Path:
        return self.root / "labels" / f"{name}.nii"

    def check(self, **options: Any) -> CheckReport:
        return check_dataset(self.root, threads=1, **options)


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return Cohort(tmp_path / "data")


def sheared() -> Array:
    affine = AFFINE.copy()
    affine[1, 2] = 0.3
    return affine


def moved(voxels: float) -> Array:
    affine = AFFINE.copy()
    affine[0, 3] += voxels * 0.8
    return affine


def patch(path: Path, offset: int, data: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[offset : offset + len(data)] = data
    path.write_bytes(content)


def forms(path: Path, *, pixdim: float = 0.8, qform: Any = None) -> None:
    """Make a header with an sform that differs from its pixdim or qform."""
    image: Any = nibabel.load(path)
    array = image.get_fdata().astype(np.asanyarray(image.dataobj).dtype)
    made = nibabel.Nifti1Image(array, AFFINE)
    made.set_sform(AFFINE, code=1)
    made.set_qform(AFFINE if qform is None else qform, code=1)
    nibabel.save(made, path)
    if pixdim != 0.8:
        patch(path, 80, struct.pack("<f", pixdim))


def both_forms(cohort: Cohort, **options: Any) -> None:
    forms(cohort.image(), **options)


def cut(cohort: Cohort) -> None:
    """Truncate a compressed image within its voxels."""
    path = cohort.image()
    data = gzip.compress(path.read_bytes())
    path.unlink()
    path.with_suffix(".nii.gz").write_bytes(data[: len(data) // 2])


def fractional(cohort: Cohort) -> None:
    label = mask(2).astype(np.float32)
    label[9, 5, 4] = 0.5
    save(cohort.label(), label)


def coarse(cohort: Cohort) -> None:
    """Store the HU with 8 bits, a slope of 7.11 and an intercept of −1024."""
    stored = np.clip(np.rint((ct(2) + 1024) / 7.11), 0, 255).astype(np.uint8)
    made: Any = nibabel.Nifti1Image(stored, AFFINE)
    nibabel.save(made, cohort.image())
    # Slope and intercept are at bytes 112 and 116 of a NIfTI-1 header.
    patch(cohort.image(), 112, struct.pack("<ff", 7.11, -1024.0))


def relabel(function: Callable[[Array], Array]) -> Callable[[Cohort], None]:
    return lambda cohort: cohort.put("P2_a", ct(2), function(mask(2)))


def numbered(label: Array) -> Array:
    numbers = np.zeros_like(label)
    numbers[2:4, 2:4, 2:4], numbers[9:11, 2:4, 2:4], numbers[14:16, 5:7, 2:4] = 1, 2, 3
    return numbers


def large(affine: Any, image: bool = True) -> Callable[[Cohort], None]:
    shape = (256, 256, 6)
    return lambda cohort: cohort.put("P2_a", ct(2, shape) if image else None, mask(2, shape), affine)


def image(values: Callable[[Array], Array]) -> Callable[[Cohort], None]:
    return lambda cohort: cohort.put("P2_a", values(ct(2).astype(np.float32)), mask(2))


def with_nan(array: Array) -> Array:
    array[3, 3, 3] = np.nan
    return array


TRIPS: dict[str, Callable[[Cohort], Any]] = {
    "files": lambda cohort: cohort.label().unlink(),
    "unreadable": cut,
    "header": lambda cohort: patch(cohort.image(), 80, struct.pack("<3f", *[float("nan")] * 3)),
    "unsupported": lambda cohort: save(cohort.image(), np.zeros((*SHAPE, 2), np.int16)),
    "pair-shape": lambda cohort: save(cohort.label(), mask(2, (24, 20, 11))),
    "pair-affine": lambda cohort: save(cohort.label(), mask(2), moved(0.2)),
    "identity-affine": large(np.eye(4)),
    "unit-spacing": large(np.array([[-1, 0, 0, 9], [0, -1, 0, 9], [0, 0, 1, 9], [0, 0, 0, 1.0]])),
    "spacing": lambda cohort: cohort.put("P2_a", ct(2), mask(2), np.diag([0.8, 0.8, 25, 1])),
    "extent": lambda cohort: cohort.put("P2_a", ct(2), mask(2), np.diag([0.2, 0.2, 0.2, 1])),
    "header-spacing": lambda cohort: both_forms(cohort, pixdim=0.9),
    "header-place": lambda cohort: both_forms(cohort, qform=moved(5)),
    "sheared-affine": lambda cohort: cohort.put("P2_a", ct(2), mask(2), sheared()),
    "unplaced": lambda cohort: [patch(path, FORM_CODES, bytes(4)) for path in (cohort.image(), cohort.label())],
    "few-slices": lambda cohort: cohort.put("P2_a", ct(2, (24, 20, 1)), mask(2)[:, :, 4:5]),
    "hu-not-finite": image(with_nan),
    "hu-constant": image(np.zeros_like),
    "hu-8-bit": image(lambda array: np.clip((array + 1050) / 8, 0, 255).astype(np.uint8)),
    "hu-coarse": coarse,
    "hu-normalised": image(lambda array: (array + 1100) / 2000),
    "hu-offset": image(lambda array: np.clip(array + 1024, 0, None)),
    "hu-scale": image(lambda array: array * 10),
    "not-ct": image(lambda array: np.abs(array) * 3),
    "hu-no-air": lambda cohort: cohort.put("P2_a", np.clip(ct(2, (256, 256, 6)), -200, 300), mask(2, (256, 256, 6))),
    "label-fractional": fractional,
    "label-rounded": relabel(lambda label: label * np.float32(0.99999994)),
    "label-255": relabel(lambda label: label * np.uint8(255)),
    "label-instances": relabel(numbered),
    "label-negative": lambda cohort: save(cohort.label(), -mask(2).astype(np.int16)),
    "label-empty": lambda cohort: save(cohort.label(), np.zeros(SHAPE, np.uint8)),
    "duplicate-image": lambda cohort: cohort.put("P2_a", ct(0), mask(2)),
    "same-label": lambda cohort: save(cohort.label(), mask(0)),
}


def names(report: CheckReport, case_id: str = "P2_a") -> list[str]:
    return [item.check for record in report.cases if record.case_id == case_id for item in record.findings]


def test_a_clean_data_set_trips_none(cohort: Cohort) -> None:
    report = cohort.check()
    assert [record.findings for record in report.cases] == [(), (), ()]
    assert report.findings == ()
    assert report.ok
    assert [record.status for record in report.cases] == ["accepted"] * 3


@pytest.mark.parametrize("check", TRIPS)
def test_each_check_is_tripped_by_a_file_and_alone(cohort: Cohort, check: str) -> None:
    TRIPS[check](cohort)
    report = cohort.check()
    assert names(report) == [check]
    record = next(record for record in report.cases if record.case_id == "P2_a")
    info = CHECKS[check]
    assert record.status == {"error": "quarantined", "geometry": "held", "warning": "accepted"}[info.level]
    assert report.ok == (info.level == "warning")
    (item,) = record.findings
    assert item.level == info.level
    assert item.message
    assert item.remedy
    assert all(other.status == "accepted" for other in report.cases if other is not record), "the other cases continue"


def test_every_check_is_tried_somewhere() -> None:
    elsewhere = {"slices", "changed", "dicom-note", "label-undeclared", "duplicate-label", "patients-unknown"}
    elsewhere |= {"case-count", "lesion-outside", "roi-outside", "several-readers", "contour-gaps", "contour-missing"}
    elsewhere |= {f"contours-{name}" for name in ("overlap", "repeated", "open", "between", "interpolated")}
    assert set(CHECKS) == set(TRIPS) | elsewhere | {"one-patient"}
    assert {info.level for info in CHECKS.values()} == set(LEVELS)


def test_a_duplicate_is_found_whatever_the_compression(cohort: Cohort) -> None:
    cohort.put("P2_a", ct(0), mask(2))
    path = cohort.image()
    path.with_suffix(".nii.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=1))
    path.unlink()
    report = cohort.check()
    assert names(report) == ["duplicate-image"]
    message = report.cases[2].findings[0].message
    assert "P1_a" in message
    assert "another patient" in message
    assert cohort.check(exclude=["P1_a"]).ok, "an excluded case is not an original"


def test_a_file_that_changes_while_it_is_read(cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    def grow(path: Path, *rest: Any) -> CtExamination:
        found = examine_ct_file(path, *rest)
        with cohort.image("P1_a").open("ab") as handle:
            handle.write(b"more")
        return found

    monkeypatch.setattr("patchcore.volumes.volume.examine_ct_file", grow)
    assert "changed" in names(cohort.check(), "P1_a")


def test_the_check_of_an_error_is_reported_by_its_kind() -> None:
    assert finding_of(SlicesError("2 slices are missing")).check == "slices"
    assert finding_of(HeaderError("spacing is nan")).check == "header"
    assert finding_of(UnsupportedDataError("4D")).check == "unsupported"
    assert finding_of(MemoryError()).level == "error"
    assert finding_of(PermissionError(13, "Permission denied", "/a/b/c.nii")).message == "b/c.nii: Permission denied"
    assert finding_of(ZeroDivisionError("x")).check == "unreadable"


def test_what_was_decided_about_dicom_files_is_reported(tmp_path: Path) -> None:
    header = replace(read_header(save(tmp_path / "a.nii", ct())), notes=("two acquisitions; the second was kept",))
    (item,) = header_findings(header, header, case_id="a")[:1]
    assert (item.check, item.level) == ("dicom-note", "warning")
    assert item.message == "two acquisitions; the second was kept"


@pytest.mark.parametrize(
    ("shape", "affine"),
    [
        ((512, 512, 75), AFFINE),
        ((44, 44, 5), np.diag([0.46, 0.46, 2.5, 1])),
        ((43, 43, 2), np.diag([-0.6, 0.6, 0.5, 1])),
        ((796, 512, 100), np.diag([1, 0.9, 0.9, 1.0])),
        ((120, 100, 110), np.diag([3.0, 3.0, 3.0, 1])),
        ((512, 512, 1200), np.diag([-0.97, -0.97, 1.5, 1])),
    ],
    ids=["ct", "crop", "smallest crop", "kits", "thinned", "whole body"],
)
def test_grids_that_a_ct_may_have(shape: tuple[int, int, int], affine: Array) -> None:
    assert spacing_findings(shape, affine) == []


@pytest.mark.parametrize("factor", [1e-3, 1e-1, 10, 1e3])
def test_lengths_in_another_unit(factor: float) -> None:
    affine = AFFINE.copy()
    affine[:3] *= factor
    assert {item.level for item in spacing_findings((512, 512, 75), affine)} == {"geometry"}


def test_a_tilted_gantry_is_reported_from_rounding(tmp_path: Path) -> None:
    for degrees, expected in ((0.05, []), (0.2, ["sheared-affine"]), (20, ["sheared-affine"])):
        affine = AFFINE.copy()
        affine[1, 2] = 2.5 * np.tan(np.radians(degrees))
        header = read_header(save(tmp_path / "a.nii", ct(), affine))
        found = header_findings(header, header, case_id="a")
        assert [item.check for item in found] == expected


@pytest.mark.parametrize(
    "array",
    [
        np.random.default_rng(0).normal(-850, 80, (40, 40, 6)),
        np.random.default_rng(0).uniform(-200, 300, (40, 40, 6)).astype(np.int16),
        np.where(np.random.default_rng(0).random((40, 40, 6)) < 0.4, -3024, ct(0, (40, 40, 6))),
        np.where(np.random.default_rng(0).random((40, 40, 6)) < 0.001, 30_000, ct(0, (40, 40, 6))),
        ct(0, (256, 256, 6)),
    ],
    ids=["lung", "soft tissue crop", "padding", "metal", "whole slices"],
)
def test_what_may_be_a_ct(array: Array) -> None:
    assert image_findings(examine_ct_array(array)) == []


@pytest.mark.parametrize(
    ("change", "check"),
    [
        (lambda hu: np.where(hu < -900, -2000, hu + 1024), "hu-offset"),
        (lambda hu: hu - 1024, "hu-offset"),
        (lambda hu: hu * 2, "hu-scale"),
        (lambda hu: (hu - hu.mean()) / hu.std(), "hu-normalised"),
        (lambda hu: (hu > 0).astype(np.int16) * 2, "not-ct"),
    ],
    ids=["padded", "twice", "doubled", "by deviation", "a label map"],
)
def test_how_hu_go_wrong(change: Callable[[Array], Array], check: str) -> None:
    wrong = change(ct(0, (60, 40, 6)).astype(np.float64))
    assert [item.check for item in image_findings(examine_ct_array(wrong))] == [check]
