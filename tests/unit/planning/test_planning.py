"""Tests plans: rules, window, costs, reasons and warnings."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from patchcore.config import Plan, read_plan
from patchcore.config.cost import network_cost
from patchcore.config.patches import legal_patch_sizes
from patchcore.errors import DataError, EmptyClassError, PatchSizeError, PlanError
from patchcore.files import write_json_atomic
from patchcore.models.registry import window_units
from patchcore.planning import CaseSample, LesionSample, plan_from_samples
from patchcore.planning.candidates import check_candidates, wider_candidate
from patchcore.planning.rules import ideal_edge
from patchcore.planning.samples import Learned
from patchcore.planning.sensitivity import sensitivity_of
from patchcore.planning.window import hu_range_of
from patchcore.types import Rule, Triple
from patchcore.views.plan_text import plan_summary
from real_data import SHARED


def cohort(
    volumes: list[float],
    *,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    shape: tuple[int, int, int] = (128, 128, 128),
    extent: tuple[float, float, float] = (10.0, 10.0, 10.0),
) -> tuple[list[CaseSample], list[LesionSample]]:
    """Return one patient and one case per lesion."""
    cases = [CaseSample(f"c{i}", f"p{i}", spacing, shape) for i in range(len(volumes))]
    return cases, [LesionSample(f"c{i}", 1, v, extent) for i, v in enumerate(volumes)]


def plan(volumes: list[float], **options: object) -> Plan:
    grid = {k: options.pop(k) for k in ("spacing_of_cases", "shape", "extent") if k in options}
    if "spacing_of_cases" in grid:
        grid["spacing"] = grid.pop("spacing_of_cases")
    options = {"lesion_label": 1, "hu_range": "liver", "resamples": 200} | options
    return plan_from_samples(*cohort(volumes, **grid), **options)  # type: ignore[arg-type]


def test_mean_lesion_of_a_cube_gives_that_cube() -> None:
    made = plan([1000.0, 2456.0])
    assert made.target.ideal_edge == pytest.approx(12.0)
    assert made.patch_size == (12, 12, 12)


def test_rules_stand_side_by_side() -> None:
    volumes = [500.0, 512.0, 600.0, 30_000.0]
    outcomes = {o.rule.value: o for o in plan(volumes, extent=(30.0, 11.0, 5.0)).target.rules}
    assert outcomes["mean-volume"].volume_mm3 == pytest.approx(np.mean(volumes))
    assert outcomes["median"].volume_mm3 == pytest.approx(np.median(volumes))
    assert outcomes["geometric-mean"].volume_mm3 == pytest.approx(np.exp(np.log(volumes).mean()))
    assert outcomes["extent"].edge == pytest.approx((30.0, 11.0, 5.0))
    assert outcomes["extent"].patch_size == (24, 12, 8)


def sliced(thickness: list[float], *, axis: int = 2, slices: int = 40, mm: float = 0.7) -> list[CaseSample]:
    """Return cases of 256 voxels per axis, but of some slices along one axis, each with a spacing of its own there."""
    cases = []
    for number, thick in enumerate(thickness):
        spacing, shape = [mm, mm, mm], [256, 256, 256]
        spacing[axis], shape[axis] = thick, slices
        cases.append(CaseSample(f"c{number}", f"p{number}", tuple(spacing), tuple(shape)))  # type: ignore[arg-type]
    return cases


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(
    ("thickness", "slices", "expected"),
    [
        ([2.5] * 6 + [1.25] * 4, 40, 1.25),
        # The 10th percentile of the cases, not the finest one.
        ([2.5] * 9 + [1.0] * 2, 40, 1.0),
        ([2.5] * 20 + [1.0], 40, 2.5),
        # Not finer than within a slice.
        ([2.5] * 6 + [0.4] * 4, 40, 0.7),
        # Less than three times the spacing within a slice, or more than a third of its voxels: the median.
        ([2.0] * 6 + [1.25] * 4, 40, 2.0),
        ([2.5] * 6 + [1.25] * 4, 86, 2.5),
    ],
)
def test_a_fine_spacing_keeps_thin_slices(axis: int, thickness: list[float], slices: int, expected: float) -> None:
    cases = sliced(thickness, axis=axis, slices=slices)
    lesions = [LesionSample(case.case_id, 1, 1000.0, (10.0,) * 3) for case in cases]
    options: dict[str, Any] = {"lesion_label": 1, "hu_range": "liver", "resamples": 100}
    wanted = [0.7, 0.7, 0.7]
    wanted[axis] = expected
    fine = plan_from_samples(cases, lesions, spacing="fine", **options).target
    assert fine.spacing == pytest.approx(wanted)
    plain = plan_from_samples(cases, lesions, **options).target
    assert plain.spacing == plan_from_samples(cases, lesions, spacing="median", **options).target.spacing
    median = float(np.median(thickness))
    assert plain.spacing[axis] == median
    hints = [text for text in plain.warnings if "--spacing fine" in text]
    share = np.mean([thick < median for thick in thickness])
    assert hints == (
        []
        if expected == median
        else [
            f"{share:.0%} of the cases have a finer spacing than 2.5 mm along {'xyz'[axis]}: --spacing fine trains at "
            f"{expected:g} mm, so that they keep it"
        ]
    )
    assert not any("--spacing fine" in text for text in fine.warnings)


def test_each_cases_own_spacing_counts_its_own_voxels() -> None:
    cases = [CaseSample("a", "a", (1, 1, 1), (128,) * 3), CaseSample("b", "b", (2, 2, 2), (128,) * 3)]
    lesions = [LesionSample("a", 1, 1000.0, (10,) * 3), LesionSample("b", 1, 8000.0, (20,) * 3)]
    target = plan_from_samples(cases, lesions, lesion_label=1, hu_range="liver").target
    at_training, at_1mm, own = target.ideal_edges
    assert at_training.spacing == (1.5, 1.5, 1.5)
    assert at_training.edge[0] == pytest.approx((4500 / 1.5**3) ** (1 / 3))
    assert at_1mm.edge[0] == pytest.approx(4500 ** (1 / 3))
    assert own.spacing is None
    assert own.edge == pytest.approx((10.0, 10.0, 10.0))


def test_cases_without_lesions_count_for_spacing_and_window_alone() -> None:
    cases, lesions = cohort([1000.0], shape=(128, 128, 128))
    empty = [CaseSample(f"e{i}", f"e{i}", (1.0, 1.0, 5.0), (128, 128, 12)) for i in range(2)]
    made = plan_from_samples(cases + empty, lesions, lesion_label=1, hu_range="liver")
    assert made.spacing == (1.0, 1.0, 5.0)
    assert made.window_size == (96, 96, 16)
    assert made.target.patient_count == 1


@pytest.mark.parametrize(("extent", "edge"), [(71, 48), (72, 96), (300, 96), (48, 48), (47, 48)])
def test_window_is_96_or_48_where_the_median_case_is_below_72(extent: int, edge: int) -> None:
    made = plan([1000.0] * 3, shape=(128, 128, extent))
    assert made.window_size == (96, 96, edge)


@pytest.mark.parametrize(
    ("volume", "extent", "patch", "edge"),
    [(512.0, 10, 8, 16), (512.0, 8, 8, 8), (512.0, 33, 8, 40), (1728.0, 20, 12, 24), (1728.0, 3, 12, 12)],
)
def test_a_short_axis_gets_the_smallest_multiple_of_the_patch_that_covers_the_median_case(
    volume: float, extent: int, patch: int, edge: int
) -> None:
    made = plan([volume] * 3, shape=(128, 60, extent))
    assert made.patch_size == (patch,) * 3
    assert made.window_size == (96, 48, edge)
    assert made.target.median_extent == (128, 60, extent)
    assert [candidate.patch_size[0] for candidate in made.target.candidates] == [8, 12, 16, 24]
    assert made.target.padding_share == pytest.approx(1 - min(extent, edge) / edge)


def test_a_sweep_over_other_sizes_gets_a_window_that_all_divide() -> None:
    made = plan([512.0] * 3, shape=(128, 60, 10))
    assert made.window_size == (96, 48, 16)
    assert made.fitting([]) is made
    assert made.fitting([(8, 8, 8), (16, 16, 16)]) is made
    wider = made.fitting([(8, 8, 8), (12, 12, 12)])
    assert wider.window_size == (96, 48, 24)
    assert wider.target.padding_share == pytest.approx(1 - 10 / 24)
    assert made.fitting([(8, 8, 8), (12, 12, 4)]).window_size == (96, 48, 16)
    assert made.fitting([(8, 8, 8), (12, 12, 12), (16, 16, 16), (24, 24, 24)]).window_size == (96, 48, 48)
    # Networks that need multiples of 16 or 32 share the window of a comparison; a window beyond 96 helps nobody.
    assert window_units(["unetr", "mednext", "swin-unetr", "dynunet"]) == [(16, 16, 16), (32, 32, 32)]
    assert made.fitting([(8, 8, 8), *window_units(["mednext"])]).window_size == (96, 48, 16)
    assert made.fitting([(12, 12, 12), *window_units(["mednext"])]).window_size == (96, 48, 48)
    assert made.fitting([(12, 12, 12), *window_units(["swin-unetr"])]).window_size == (96, 48, 96)
    assert made.fitting([(9, 9, 9), *window_units(["swin-unetr"])]) is made
    fixed = plan([512.0] * 3, shape=(128, 60, 10), window_size=(96, 48, 8))
    assert fixed.target.median_extent is None
    assert fixed.fitting([(12, 12, 12)]) is fixed


def test_padding_is_the_share_outside_the_case() -> None:
    assert plan([1000.0], shape=(96, 96, 24), window_size=(96, 96, 48)).target.padding_share == pytest.approx(0.5)
    assert plan([1000.0], shape=(96, 96, 24)).target.padding_share == 0
    assert plan([1000.0], shape=(96, 96, 48)).target.padding_share == 0


def test_mostly_padded_window_offers_a_smaller_one_that_the_plan_takes() -> None:
    made = plan([1728.0] * 2, shape=(96, 96, 10), window_size=(96, 96, 48))
    offer = next(w for w in made.target.warnings if "padding" in w)
    window = tuple(int(n) for n in re.search(r"--window (\d+),(\d+),(\d+)", offer).groups())  # type: ignore[union-attr]
    again = plan([1728.0] * 2, shape=(96, 96, 10), window_size=window)
    assert again.patch_size == made.patch_size
    assert again.target.padding_share < 0.5


def test_only_a_fixed_window_filters_candidates() -> None:
    free = plan([1728.0] * 3)
    assert [c.patch_size[0] for c in free.target.candidates] == [8, 12, 16, 24]
    fixed = plan([1728.0] * 3, window_size=64)
    assert fixed.window_size == (64, 64, 64)
    assert [c.patch_size[0] for c in fixed.target.candidates] == [8, 16]
    assert any("excluded" in w and "12, 24" in w for w in fixed.target.warnings)
    with pytest.raises(PlanError, match="divides window size 50 along axis 2"):
        plan([1728.0], window_size=(96, 96, 50))


def test_extent_rule_takes_candidates_per_axis_of_a_fixed_window() -> None:
    made = plan([1728.0] * 2, window_size=(64, 48, 36), rule="extent", extent=(12.0, 12.0, 12.0))
    assert made.patch_size == (16, 12, 12)
    with pytest.raises(PlanError, match="divides every axis"):
        plan([1728.0] * 2, window_size=(64, 48, 36), candidates=(12, 16))


def test_wider_candidates_widen_the_window() -> None:
    made = plan([50_000.0] * 2, candidates=(8, 16, 32), shape=(60, 60, 60))
    assert made.patch_size == (32, 32, 32)
    assert made.window_size == (96, 96, 96)
    with pytest.raises(PlanError, match="no window of at most 192 voxels"):
        plan([1000.0], candidates=(9, 32))


@pytest.mark.parametrize(
    ("volume", "chosen", "said"),
    [
        (40.0**3, 24, "--candidates 8,12,16,24,48"),
        (25.0**3, 24, "no other common patch edge is nearer"),
        (4.0**3, 8, "--candidates 4,8,12,16,24"),
    ],
)
def test_beyond_the_candidates_the_outermost_is_taken_and_said(volume: float, chosen: int, said: str) -> None:
    made = plan([volume] * 3)
    assert made.patch_size == (chosen,) * 3
    assert any(said in w for w in made.target.warnings)


def test_within_the_candidates_nothing_is_said_of_beyond() -> None:
    assert not any("candidate," in w for w in plan([12.0**3] * 30).target.warnings)


def test_clean_cohort_has_no_warning() -> None:
    made = plan([12.0**3] * 30, extent=(12.0, 12.0, 12.0))
    assert made.target.warnings == ()
    assert made.target.ideal_edges[0].interval == pytest.approx((12.0, 12.0))


def test_poor_means_are_reported() -> None:
    said = " | ".join(plan([600.0] * 30 + [200_000.0]).target.warnings)
    assert "times the median" in said
    assert "without this lesion the choice is 8 instead of 16" in said
    assert "other rules choose other patch sizes: median 8, geometric-mean 8" in said
    assert "covers candidates from 8 to 24" in said
    assert "only 2 lesions" in " | ".join(plan([600.0, 700.0]).target.warnings)
    assert "one patient" in " | ".join(plan([600.0]).target.warnings)


def test_interval_resamples_patients_not_lesions() -> None:
    cases = [CaseSample("a", "one", (1, 1, 1), (99,) * 3), CaseSample("b", "two", (1, 1, 1), (99,) * 3)]
    few = [LesionSample("b", 1, 8000.0, (20,) * 3)]
    many = [LesionSample("a", 1, 1000.0, (10,) * 3)] * 50
    interval = plan_from_samples(cases, many + few, lesion_label=1, hu_range="liver").target.ideal_edges[0].interval
    # With two patients, one of four cohorts contains patient two only. If lesions were resampled, this would almost
    # never happen.
    assert interval == pytest.approx((10.0, 20.0))


def test_seed_fixes_the_interval() -> None:
    volumes = list(np.linspace(500, 9000, 25))
    first, second, other = (plan(volumes, seed=s) for s in (3, 3, 4))
    assert first == second
    assert first.target.ideal_edges[0].interval != other.target.ideal_edges[0].interval


def test_encoder_cost_by_hand() -> None:
    cost = network_cost((96, 96, 96), (16, 16, 16))
    n, d, m = 216, 768, 3072
    assert cost.tokens == n
    assert cost.attention_flop == 12 * 4 * n * n * d
    rest = 12 * (8 * n * d * d + 4 * n * d * m) + 2 * n * d * 16**3
    assert cost.linear_flop + cost.embedding_flop == rest
    assert cost.attention_share == cost.attention_flop / cost.flop
    eight = network_cost((96, 96, 96), (8, 8, 8))
    assert eight.attention_flop == 64 * cost.attention_flop
    with pytest.raises(PatchSizeError, match="not a product of four"):
        network_cost((96, 96, 96), (7, 8, 8))
    with pytest.raises(PatchSizeError, match="does not divide"):
        network_cost((96, 96, 96), (9, 8, 8))


def test_a_plan_has_the_cost_that_models_shows() -> None:
    for candidate in plan([500.0] * 25).target.candidates:
        cost = network_cost((96, 96, 96), candidate.patch_size)
        found = (candidate.tokens, candidate.attention_gflop, candidate.attention_share)
        assert found == (cost.tokens, cost.attention_flop / 1e9, cost.attention_share)


def test_share_of_lesions_smaller_than_a_patch() -> None:
    made = plan([600.0, 1000.0, 2000.0, 20_000.0])
    assert [c.smaller_lesions_share for c in made.target.candidates] == [0.0, 0.5, 0.75, 0.75]
    assert sum(c.chosen for c in made.target.candidates) == 1


def test_candidates_are_checked_with_legal_ones_named() -> None:
    assert check_candidates([24, 8, 8]) == (8, 24)
    assert set(legal_patch_sizes(32)) >= {2, 3, 4, 6, 8, 9, 12, 16, 18, 24, 27, 32}
    with pytest.raises(PatchSizeError, match=r"use the nearest legal sizes: 9 and 12(?! and)"):
        check_candidates([8, 10])
    with pytest.raises(PatchSizeError, match="no candidate"):
        check_candidates([])
    assert wider_candidate(5.7, (8, 12)) == 6


def test_hu_range() -> None:
    assert hu_range_of(None, (-101.0, 149.0)) == (-150.0, 150.0)
    assert hu_range_of(None, (-100.0, 150.0)) == (-100.0, 150.0)
    assert hu_range_of(None, (0.0, 0.0)) == (-50.0, 50.0)
    assert hu_range_of("lung", (0.0, 1.0)) == (-1000.0, 400.0)
    assert hu_range_of((-5, 5), None) == (-5.0, 5.0)
    for wrong in ("liverr", (5.0, 5.0), (float("nan"), 5.0), None):
        with pytest.raises(PlanError):
            hu_range_of(wrong, None)


def test_a_range_from_air_to_bone_is_reported_where_it_was_measured() -> None:
    measured = plan([1728.0] * 30, hu_range=None, hu_percentiles=(-1000.0, 1350.0))
    assert measured.hu_range == (-1000.0, 1350.0)
    assert any("--hu-range soft-tissue" in w for w in measured.target.warnings)
    asked = plan([1728.0] * 30, hu_range=(-1000.0, 1350.0))
    assert not any("soft-tissue" in w for w in asked.target.warnings)


def test_bad_input_is_named() -> None:
    cases, lesions = cohort([1000.0])
    with pytest.raises(EmptyClassError, match=r"label 2 has no lesion.*labels with lesions: 1"):
        plan_from_samples(cases, lesions, lesion_label=2, hu_range="liver")
    with pytest.raises(PlanError, match="background"):
        plan_from_samples(cases, lesions, lesion_label=0, hu_range="liver")
    with pytest.raises(PlanError, match="no accepted case"):
        plan_from_samples([], [], lesion_label=1)
    with pytest.raises(PlanError, match="choose one of mean-volume"):
        plan([1000.0], rule="mode")
    for spacing in ((0, 1, 1), (float("nan"), 1, 1), (1, 1, -2), (1, 1000, 1)):
        with pytest.raises(PlanError, match="impossible"):
            plan([1000.0], spacing=spacing)
    with pytest.raises(PlanError, match="impossible"):
        plan([1000.0], window_size=0)
    with pytest.raises(DataError, match="c0"):
        plan([float("nan")])
    with pytest.raises(DataError, match="not among"):
        plan_from_samples(cases, [LesionSample("x", 1, 5.0, (1, 1, 1))], lesion_label=1)


def test_plan_survives_json(tmp_path: Path) -> None:
    made = plan([600.0] * 5 + [20_000.0], rule="extent", extent=(20.0, 14.0, 5.0), fingerprint_hash="abc")
    write_json_atomic(tmp_path / "plan.json", made.model_dump(mode="json"))
    assert read_plan(tmp_path / "plan.json") == made


def test_reason_and_summary_show_the_numbers() -> None:
    made = plan([48_000.0] * 8, spacing_of_cases=(1.0, 1.0, 3.0), label_names={1: "tumour"})
    for part in ("8 lesions of label 1 (tumour)", "48 mL", "p* = 25.2", "1 × 1 × 3 mm", "16,000 voxels"):
        assert part in made.reason
    text = plan_summary(made)
    assert max(len(line) for line in text.splitlines()) <= 80
    for part in ("→ 24", "mean-volume", "geometric-mean", "Warning: ", "at each case's own", "GFLOP"):
        assert part in text


def real_cohort(folder: Path) -> tuple[list[CaseSample], list[LesionSample]]:
    nib = pytest.importorskip("nibabel")
    cases, lesions = [], []
    for path in sorted(folder.glob("*.nii.gz")):
        scan = nib.as_closest_canonical(nib.load(path))
        spacing = np.linalg.norm(scan.affine[:3, :3], axis=0)
        case_id = path.name.removesuffix(".nii.gz")
        patient = case_id.split("_")[0] if case_id.startswith("LIDC") else case_id
        labels, _ = ndimage.label(np.asanyarray(scan.dataobj) > 0, np.ones((3, 3, 3)))
        cases.append(CaseSample(case_id, patient, tuple(spacing.tolist()), scan.shape))
        for count, box in zip(np.bincount(labels.ravel())[1:], ndimage.find_objects(labels), strict=True):
            extent = [float((s.stop - s.start) * mm) for s, mm in zip(box, spacing, strict=True)]
            lesions.append(LesionSample(case_id, 1, float(count * spacing.prod()), tuple(extent)))
    return cases, lesions


@pytest.mark.parametrize(
    ("name", "spacing", "edge", "patch"),
    [("sts", None, 25.0, 24), ("lidc_nodules", None, 10.4, 12), ("lidc_nodules", (1.0, 1.0, 2.5), 8.5, 8)],
)
def test_real_cohorts(name: str, spacing: tuple[float, float, float] | None, edge: float, patch: int) -> None:
    folder = SHARED / "data" / name / "mask"
    if not folder.is_dir():
        pytest.skip("the real data are not available")
    made = plan_from_samples(*real_cohort(folder), lesion_label=1, spacing=spacing, hu_range="wide", resamples=50)
    assert round(made.target.ideal_edge, 1) == edge
    assert made.patch_size == (patch,) * 3


def test_kidney_tumours_lie_beyond_the_candidates() -> None:
    path = SHARED / "reference" / "kits19_lesions.csv"
    if not path.is_file():
        pytest.skip("the reference volumes are not available")
    cases, lesions = {}, []
    for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines()):
        # The file stores the slice axis first; in canonical axes it is last.
        spacing = tuple(float(s) for s in reversed(row["spacing"].split("x")))
        shape = tuple(int(n) for n in reversed(row["shape"].split("x")))
        cases[row["case"]] = CaseSample(row["case"], row["case"], spacing, shape)
        lesions.append(LesionSample(row["case"], 2, float(row["volume_mm3"]), (1.0, 1.0, 1.0)))
    target = plan_from_samples(list(cases.values()), lesions, lesion_label=2, hu_range="abdomen").target
    assert round(target.ideal_edge, 1) == 36.7
    assert target.patch_size == (24, 24, 24)
    median = next(o for o in target.rules if o.rule == "median")
    assert round(median.edge[0], 1) == 14.1
    assert any("above the largest candidate" in w for w in target.warnings)


def test_an_edge_of_one_is_no_candidate_and_two_is() -> None:
    assert check_candidates((2,)) == (2,)
    with pytest.raises(PatchSizeError, match="candidate patch size 1 is not a product"):
        check_candidates((1,))


def test_the_reason_has_the_interval_at_the_training_spacing() -> None:
    target = plan([400.0, 900.0, 2500.0, 700.0, 1500.0], spacing=(2.0, 2.0, 2.0)).target
    interval = target.ideal_edges[0].interval
    assert interval is not None
    assert interval != target.ideal_edges[1].interval
    assert all(f"{edge:.1f}" in target.reason for edge in interval)


def test_a_candidate_has_its_volume_in_mm3() -> None:
    plan = plan_from_samples(
        [CaseSample("a", "a", (2.0, 3.0, 0.5), (96, 96, 96))],
        [LesionSample("a", 1, 5000.0, (8, 8, 8))],
        lesion_label=1,
        hu_range="liver",
        resamples=20,
    )
    assert [item.volume_mm3 for item in plan.target.candidates] == [
        item.patch_size[0] ** 3 * 3.0 for item in plan.target.candidates
    ]


def test_the_ideal_edge_is_counted_in_voxels() -> None:
    assert ideal_edge(8000.0, (1.0, 1.0, 1.0)) == pytest.approx(20.0)
    assert ideal_edge(8000.0, (2.0, 2.0, 2.0)) == pytest.approx(10.0)
    assert ideal_edge(8000.0, (0.5, 1.0, 2.0)) == pytest.approx(20.0)


def test_a_cube_in_mm_has_an_edge_for_each_spacing() -> None:
    spacing = (0.75, 0.75, 3.0)
    cases = [CaseSample(str(i), str(i), spacing, (128, 128, 48)) for i in range(3)]
    lesions = [LesionSample(str(i), 1, 18.0**3, (20.0, 20.0, 20.0)) for i in range(3)]
    cubic = plan_from_samples(cases, lesions, lesion_label=1, hu_range="liver")
    assert cubic.patch_size == (16, 16, 16)
    assert any("is 12 × 12 × 48 mm, far from a cube" in text for text in cubic.target.warnings)
    flat = plan_from_samples(
        cases, lesions, lesion_label=1, hu_range="liver", rule="mean-volume-mm", candidates=(6, 8, 12, 16, 24)
    )
    assert flat.target.ideal_edges[0].edge == pytest.approx((24.0, 24.0, 6.0))
    assert flat.target.ideal_edges[1].edge == pytest.approx((18.0, 18.0, 18.0))
    assert flat.target.ideal_edges[2].edge == pytest.approx((24.0, 24.0, 6.0))
    assert flat.patch_size == (24, 24, 6)
    assert "a cube with an edge of 18 mm" in flat.target.reason
    assert not any("far from a cube" in text for text in flat.target.warnings)
    cases = [CaseSample(str(i), str(i), (0.75, 1.5, 3.0), (128, 64, 48)) for i in range(3)]
    three = plan_from_samples(
        cases, lesions, lesion_label=1, hu_range="liver", rule="mean-volume-mm", candidates=(6, 8, 12, 16, 24)
    )
    assert three.patch_size == (24, 12, 6)
    both = {outcome.rule: outcome.patch_size for outcome in flat.target.rules}
    assert both[Rule.MEAN_VOLUME] == (16, 16, 16)
    assert Rule.LEARNED not in both


def test_what_trainings_have_shown_is_a_rule() -> None:
    cases = [CaseSample(str(i), str(i), (1.0, 1.0, 1.0), (96, 96, 96)) for i in range(3)]
    lesions = [LesionSample(str(i), 1, 1728.0, (14.0, 15.0, 16.0)) for i in range(3)]
    learned = Learned((8, 8, 8), "the experiment sizes", {(8, 8, 8): 0.7, (16, 16, 16): 0.65})
    asked = []

    def find(spacing: Triple, label: int) -> Learned:
        asked.append((spacing, label))
        return learned

    made = plan_from_samples(cases, lesions, lesion_label=1, hu_range="liver", rule="learned", learned=find)
    assert asked == [((1.0, 1.0, 1.0), 1)]
    varied = sensitivity_of(made.target, cases, lesions)
    assert (varied.variations, "follows from trainings" in varied.conclusion) == ((), True)
    assert made.patch_size == (8, 8, 8)
    assert "best mean validation DSC in the experiment sizes (8: 0.700, 16: 0.650)" in made.target.reason
    assert made.target.ideal_edge == pytest.approx(12.0)
    beside = plan_from_samples(cases, lesions, lesion_label=1, hu_range="liver", learned=find)
    assert beside.patch_size == (12, 12, 12)
    assert {outcome.rule: outcome.patch_size for outcome in beside.target.rules}[Rule.LEARNED] == (8, 8, 8)
    with pytest.raises(PlanError, match="needs a finished sweep"):
        plan_from_samples(cases, lesions, lesion_label=1, hu_range="liver", rule="learned")
