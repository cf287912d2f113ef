"""Test HU histograms against NumPy, dilation against a slow reference, and the hash of the fingerprint."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from fingerprints import build, histogram, measures
from patchcore.datasets.fingerprint import summarise_burden, summarise_volumes
from patchcore.datasets.hu import add_histograms, summarise_hu
from patchcore.datasets.lesion_table import lesions_csv, spreadsheet_text
from patchcore.datasets.measures import MeasureLog
from patchcore.errors import SchemaVersionError, StudyError
from patchcore.lesions.measure import lesion_spans
from patchcore.lesions.size_bins import count_by_size
from patchcore.study.cases import FileStamp
from patchcore.study.fingerprint import FINGERPRINT_SCHEMA, PERCENTILES, read_fingerprint, write_fingerprint
from patchcore.volumes.ct import DILATION_MM, examine_ct_array

hu_values = hnp.arrays(np.int16, st.integers(1, 200), elements=st.integers(-1024, 3071))


@settings(deadline=None)
@given(st.lists(hu_values, min_size=1, max_size=5))
def test_summed_histograms_say_what_numpy_says_of_all_voxels(parts: list[np.ndarray[Any, Any]]) -> None:
    voxels = np.concatenate(parts).astype(np.float64)
    summary = summarise_hu(add_histograms(histogram(part) for part in parts))
    assert summary.voxel_count == voxels.size
    assert summary.mean == pytest.approx(voxels.mean(), abs=1e-9)
    assert summary.std == pytest.approx(voxels.std(), abs=1e-6)
    assert (summary.min, summary.max) == (voxels.min(), voxels.max())
    for name, value in summary.percentiles.items():
        assert value == pytest.approx(np.percentile(voxels, float(name)), abs=1e-6)
    backwards = summarise_hu(add_histograms(histogram(part) for part in reversed(parts)))
    assert backwards == summary


def test_float_hu_are_rounded_and_outliers_bounded() -> None:
    found = histogram(np.array([-0.6, 0.4, 1e9], dtype=np.float32))
    assert found.start == -1
    assert found.voxel_count == 3
    assert found.counts.size < 100_000
    assert add_histograms([]).voxel_count == 0


@settings(max_examples=30, deadline=None)
@given(
    hnp.arrays(np.bool_, (70, 6, 5), elements=st.sampled_from([False] * 40 + [True])),
    st.tuples(*[st.sampled_from([0.5, 1.0, 2.5, 5.0, 7.0])] * 3),
)
def test_dilation_takes_exactly_the_voxels_within_reach(
    mask: np.ndarray[Any, Any], spacing: tuple[float, float, float]
) -> None:
    # Every voxel has its own value: the histogram says which voxels were counted.
    volume = np.arange(mask.size, dtype=np.int16).reshape(mask.shape, order="F")
    spans = lesion_spans(np.asfortranarray(mask))
    found = examine_ct_array(volume, spans, spacing)
    distance = ndimage.distance_transform_edt(~mask, sampling=spacing) if mask.any() else np.full(mask.shape, np.inf)
    for seen, expected in ((found.within, mask), (found.around, distance <= DILATION_MM * (1 + 1e-9))):
        values = np.sort(volume[expected])
        assert (seen.start + np.flatnonzero(seen.counts)).tolist() == values.tolist()
        assert seen.voxel_count == len(values)


def test_volumes_are_summarised() -> None:
    volumes = np.array([1.0, 10.0, 100.0, 1000.0])
    summary = summarise_volumes(volumes)
    assert summary is not None
    assert summary.mean_mm3 == volumes.mean()
    assert summary.median_mm3 == 55.0
    assert summary.geometric_mean_mm3 == pytest.approx(10**1.5)
    assert summary.percentiles_mm3 == {str(p): np.percentile(volumes, p) for p in PERCENTILES}
    assert summarise_volumes(np.zeros(0)) is None
    assert count_by_size(np.zeros(0)) == (0, 0, 0, 0)


def text_of_cell(cell: str) -> str:
    """Return the text that :func:`spreadsheet_text` made a cell of: it can be undone exactly."""
    formula = ("=", "+", "-", "@", "\t", "\r", "\n")
    return cell[1:] if cell.startswith("'") and cell.lstrip("'").startswith(formula) else cell


def test_cohort_is_in_canonical_order_however_cases_are_stored() -> None:
    fingerprint = build(measures("p1_a"), measures("p1_b", orientation="SLP"))
    a, b = fingerprint.cases
    assert (a.spacing, a.shape, a.lesions[0].extent_mm) == ((1, 2, 4), (10, 20, 30), (1, 2, 4))
    assert (b.spacing, b.shape, b.lesions[0].extent_mm) == ((2, 4, 1), (20, 30, 10), (2, 4, 1))
    assert fingerprint.spacing.median == (1.5, 3.0, 2.5)
    label = fingerprint.label(1)
    assert (label.lesion_count, label.case_count, label.patient_count, label.border_share) == (2, 2, 1, 1.0)
    assert fingerprint.patient_count == 1
    assert fingerprint.hu.around.voxel_count == 6


def test_the_hash_follows_the_content_alone() -> None:
    first = build(measures("p1_a"), measures("p2_b"))
    assert build(measures("p2_b"), measures("p1_a")).fingerprint_hash == first.fingerprint_hash
    assert build(measures("p1_a"), measures("p2_b", volume=9.0)).fingerprint_hash != first.fingerprint_hash


def test_a_fingerprint_reads_back_and_newer_or_broken_ones_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "fingerprint.json"
    written = write_fingerprint(path, build(measures()))
    assert read_fingerprint(path) == written
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | {"schema_version": FINGERPRINT_SCHEMA + 1}))
    with pytest.raises(SchemaVersionError, match="update patchcore"):
        read_fingerprint(path)
    path.write_text(json.dumps(content | {"schema_version": FINGERPRINT_SCHEMA - 1}))
    with pytest.raises(SchemaVersionError, match="measure again with patchcore analyze"):
        read_fingerprint(path)
    path.write_text(json.dumps({"schema_version": FINGERPRINT_SCHEMA, "dataset": "d"}))
    with pytest.raises(StudyError, match="layout"):
        read_fingerprint(path)


def test_only_accepted_cases_shape_the_fingerprint() -> None:
    item = measures()
    for status in ("test", "held", "quarantined", "excluded"):
        with pytest.raises(ValueError, match="p1_a"):
            build(replace(item, record=item.record.model_copy(update={"status": status})))


def test_burden_adds_up_lesions_by_case_and_by_patient() -> None:
    items = [measures("p1_b", volume=8.0), measures("p1_a", volume=1.0), measures("p2_a", volume=3.0)]
    label = build(*items).label(1)
    case, patient = label.burden_per_case, label.burden_per_patient
    assert (case.names, case.volumes_mm3, case.lesion_counts) == (("p1_a", "p1_b", "p2_a"), (1, 8, 3), (1, 1, 1))
    assert (patient.names, patient.volumes_mm3, patient.lesion_counts) == (("p1", "p2"), (9, 3), (2, 1))
    assert (patient.volume.mean_mm3, patient.volume.max_mm3, patient.lesions.mean, patient.lesions.max) == (
        6,
        9,
        1.5,
        2,
    )
    assert patient.lesions.percentiles["75"] == np.percentile([1, 2], 75)
    assert summarise_burden([], np.zeros(0)) is None


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0.1, 1e6)), min_size=1, max_size=30))
def test_burden_loses_no_lesion(lesions: list[tuple[str, float]]) -> None:
    volumes = np.array([volume for _, volume in lesions])
    burden = summarise_burden([name for name, _ in lesions], volumes)
    assert burden is not None
    assert sum(burden.volumes_mm3) == pytest.approx(volumes.sum())
    assert sum(burden.lesion_counts) == len(lesions)
    assert burden.names == tuple(sorted({name for name, _ in lesions}))


def test_labels_are_kept_apart_and_one_without_lesions_is_named() -> None:
    item = measures("p1_a")
    two = replace(
        item.lesions.rows(np.array([0, 0])),
        label=np.array([1, 3]),
        volume_mm3=np.array([8.0, 5.0]),
        touches_border=np.array([True, False]),
    )
    both = replace(item, record=item.record.model_copy(update={"labels": (1, 2, 3)}), lesions=two)
    fingerprint = build(both, measures("p2_b"))
    assert [(x.label, x.name, x.lesion_count, x.case_count) for x in fingerprint.labels] == [
        (1, "tumour", 2, 2),
        (2, "label 2", 0, 0),
        (3, "label 3", 1, 1),
    ]
    assert fingerprint.label(3).border_share == 0
    assert fingerprint.label(3).volume.mean_mm3 == 5
    assert fingerprint.label(2).volume is fingerprint.label(2).burden_per_case is None
    assert fingerprint.spacing.percentiles["25"] == fingerprint.spacing.median == (1, 2, 4)


def test_the_lesion_table_reads_back_exactly() -> None:
    header, row = (line.split(",") for line in lesions_csv([measures()], label_names={1: "tumour"}).splitlines())
    values = dict(zip(header, row, strict=True))
    assert float(values["centroid_z_mm"]) == 1 / 3
    assert (values["case_id"], values["patient"], values["lesion"]) == ("p1_a", "p1", "1")
    assert values["touches_border"] == "true"
    assert float(values["extent_k_mm"]) == 4.0
    assert (values["label_name"], values["spacing_k_mm"]) == ("tumour", "4.0")


@pytest.mark.parametrize(
    "case_id", ["=cmd|' /C calc'!A0", "+1", "-x_1", "@SUM(A1)", "\t=1", "a,b\n=2", "'=1", "'s", "Müller_1"]
)
def test_no_case_id_is_run_as_a_formula_and_each_reads_back(case_id: str) -> None:
    item = measures()
    item = replace(item, record=item.record.model_copy(update={"case_id": case_id, "patient": case_id}))
    text = lesions_csv([item], label_names={1: case_id})
    (row,) = csv.DictReader(io.StringIO(text, newline=""))
    for name in ("case_id", "patient", "label_name"):
        assert row[name][0] not in "=+-@\t\r\n"
        assert text_of_cell(row[name]) == case_id
    assert float(row["centroid_x_mm"]) == -1.0, "numbers stay numbers"


@given(st.text("'=+-@\ta", max_size=6))
def test_guarding_text_is_undone_exactly(text: str) -> None:
    assert text_of_cell(spreadsheet_text(text)) == text


def test_the_log_gives_back_what_is_unchanged_and_ignores_a_torn_line(tmp_path: Path) -> None:
    log = MeasureLog(tmp_path / "measures.jsonl")
    item = measures()
    log.append(item)
    log.append(measures("p2_b", hu=False))
    log.close()
    with log.path.open("a") as handle:
        handle.write('{"v": 1, "record": {"case_id": "torn')
    again = MeasureLog(log.path)
    found = again.find(item.record, connectivity=26, min_volume_mm3=0.0)
    assert found is not None
    assert found.to_json() == item.to_json()
    assert again.find(item.record, connectivity=6, min_volume_mm3=0.0) is None
    assert again.find(item.record, connectivity=26, min_volume_mm3=1.0) is None
    touched = item.record.model_copy(update={"image_stamp": FileStamp(size=5, mtime_ns=7)})
    assert again.find(touched, connectivity=26, min_volume_mm3=0.0) is None
    again.append(measures("p3_c"))
    again.close()
    third = MeasureLog(log.path).find(measures("p3_c").record, connectivity=26, min_volume_mm3=0.0)
    assert third is not None, "the line after an incomplete line starts on a new line"
    again.compact([item])
    assert len(log.path.read_text(encoding="utf-8").splitlines()) == 1
