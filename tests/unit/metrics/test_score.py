"""Scores of one case and of files: values by hand, empty masks, names, grids, and bad input."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from scipy.special import stdtr

from commands import patchcore
from patchcore.errors import ConfigError, DataError, ShapeMismatchError
from patchcore.metrics import (
    CaseScore,
    MaskPair,
    ScoreSettings,
    compare_pairs,
    holm,
    mean_over_classes,
    score_case,
    statistics,
    surface_scores,
)
from patchcore.metrics.brats import BratsRules, brats_lesions, brats_rules
from patchcore.metrics.intervals import patient_error
from patchcore.metrics.matching import (
    autopet,
    cc_dsc,
    cc_metrics,
    lits_detection,
    lits_lesions,
    overlap_matching,
    panoptica,
)
from patchcore.metrics.score_files import match_names, score
from patchcore.metrics.statistics import estimate_mean


def scene() -> tuple[np.ndarray, np.ndarray]:
    """Two lesions joined by one component, one found exactly, one missed, one false component; 1 mm voxels."""
    truth, prediction = np.zeros((40, 12, 12), np.uint8), np.zeros((40, 12, 12), np.uint8)
    truth[2:5, 2:5, 2:5] = truth[6:9, 2:5, 2:5] = 1
    prediction[2:9, 2:5, 2:5] = 1
    truth[14:18, 3:7, 3:7] = prediction[14:18, 3:7, 3:7] = 1
    truth[24:26, 3:5, 3:5] = 1
    prediction[34:37, 5:8, 5:8] = 1
    return truth, prediction


def pair(connectivity: int = 26, affine: Any = None) -> MaskPair:
    return MaskPair(*scene(), affine=np.eye(4) if affine is None else affine, connectivity=connectivity)


def test_overlap_matching_by_hand() -> None:
    found = overlap_matching(pair())
    assert (found["lesions"], found["found"], found["predicted"], found["true"]) == (4, 3, 3, 2)
    assert found["recall"] == 0.75
    assert found["precision"] == pytest.approx(2 / 3)
    assert found["f1"] == found["rq"] == pytest.approx(2 * 0.75 * (2 / 3) / (0.75 + 2 / 3))
    assert found["sq"] == pytest.approx((27 / 63 + 27 / 63 + 1) / 3)
    assert (found["false_positive_mm3"], found["false_negative_mm3"]) == (27.0, 8.0)
    assert autopet(pair(18, np.diag([1, 1, 2.0, 1]))) == {"false_positive_ml": 0.054, "false_negative_ml": 0.016}


def test_panoptica_by_hand() -> None:
    strict, loose = panoptica(pair()), panoptica(pair(), threshold=0.4)
    assert (strict["tp"], strict["fp"], strict["fn"], strict["sq"]) == (1, 2, 3, 1.0)
    # One component can be matched to one lesion only.
    assert (loose["tp"], loose["fp"], loose["fn"]) == (2, 1, 2)
    assert loose["rq"] == pytest.approx(2 / 3.5)
    with pytest.raises(ConfigError, match="IoU threshold 0"):
        panoptica(pair(), threshold=0)


def test_several_components_on_one_lesion_are_merged_only_if_that_is_asked_for() -> None:
    truth, prediction = np.zeros((12, 4, 4), np.uint8), np.zeros((12, 4, 4), np.uint8)
    truth[1:11] = 1
    prediction[1:5] = prediction[6:11] = 1
    both = MaskPair(truth, prediction, affine=np.eye(4))
    one, many = panoptica(both, threshold=0.1), panoptica(both, threshold=0.1, many_to_one=True)
    assert (one["tp"], one["fp"], one["sq"]) == (1, 1, 0.5)
    assert (many["tp"], many["fp"], many["n_pred_instances"], many["sq"]) == (1, 0, 1, 0.9)


def test_lits_merges_lesions_that_one_component_joins() -> None:
    counts, detected = lits_detection(pair(6), min_overlap=0.5)
    # Both joined lesions count: 54 of 63 voxels.
    assert counts == {"tp": 3, "fp": 0, "fn": 1}
    assert detected == [([0, 1], [0]), ([2], [1])]
    found = lits_lesions(pair(6))
    assert found["dice"] == pytest.approx((2 * 54 / (54 + 63) + 1) / 2)
    assert found["voe"] == pytest.approx(1 - found["jaccard"])
    assert found["rvd"] == pytest.approx(9 / 54 / 2)
    truth, _ = scene()
    nothing = lits_lesions(MaskPair(truth, np.zeros_like(truth), affine=np.eye(4)))
    assert (nothing["dice"], nothing["voe"], nothing["assd_mm"]) == (0, 1, 9001)


def test_brats_by_hand() -> None:
    found = brats_lesions(pair(), BratsRules(1, 7.0))
    # The joined lesions are 1 voxel apart, so their dilations touch: one lesion. The component at 34 is false.
    assert (found["tp"], found["fp"], found["fn"]) == (2, 1, 1)
    assert found["dice"] == pytest.approx((2 * 54 / (54 + 63) + 1 + 0) / 4)
    # The missed and the false lesion cost 374 mm each; the others are near.
    assert 2 * 374 / 4 <= found["hd95_mm"] < 2 * 374 / 4 + 1
    # Small lesions are excluded; a component on a small lesion is not false.
    assert brats_lesions(pair(), BratsRules(1, 8.0))["fn"] == 0
    # Merged predictions must be larger than the least size: the false component has 27 voxels.
    assert [brats_lesions(pair(), BratsRules(1, size, merge_predictions=True))["fp"] for size in (26.0, 27.0)] == [1, 0]
    # Where false lesions do not count, the mean is over the lesions.
    lenient = brats_lesions(pair(), BratsRules(1, 7.0, false_count=False))
    assert lenient["dice"] == pytest.approx((2 * 54 / (54 + 63) + 1 + 0) / 3)
    truth, prediction = np.zeros((9, 9, 9), np.uint8), np.zeros((9, 9, 9), np.uint8)
    truth[4, 4, 4] = prediction[4, 4, 4] = 1
    tiny = brats_lesions(MaskPair(truth, prediction, affine=np.eye(4)), BratsRules(1, 2.0))
    assert tiny == {"tp": 0, "fp": 0, "fn": 0, "dice": 1.0, "hd95_mm": 0.0}
    of_2024 = brats_lesions(pair(), brats_rules("SSA-2024"))
    assert set(of_2024) == {"tp", "fp", "fn", "dice", "hd95_mm", "nsd_0.5", "nsd_1"}
    # Predicted components of at most 50 voxels are dropped, so none is false any more.
    assert of_2024["fp"] == 0
    assert brats_lesions(pair(), brats_rules("GLI-2024/ET"))["fn"] == 0
    with pytest.raises(ConfigError, match="BraTS challenge 'GLI-2019'"):
        brats_rules("GLI-2019")


@pytest.mark.parametrize("convention", ["mesh", "surfel", "voxel"])
def test_surfaces_of_cubes_by_hand(convention: str) -> None:
    truth = np.zeros((12, 12, 12), bool)
    truth[3:9, 3:9, 3:9] = True
    shifted = surface_scores(truth, np.roll(truth, 2, axis=2), (1, 1, 3), conventions=(convention,))[convention]
    assert shifted.hd_mm == 6.0
    assert shifted.reason == ""
    assert surface_scores(truth, truth, (1, 1, 3), conventions=(convention,))[convention].assd_mm == 0


def test_empty_masks_have_a_declared_score() -> None:
    empty, one = np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)
    one[1, 1, 1] = 1
    conventions = ("mesh", "surfel", "voxel")
    none = surface_scores(empty, empty, (1, 1, 1), conventions=conventions)
    assert (none["mesh"].hd_mm, none["mesh"].nsd[1.0]) == (0, 1)
    assert math.isnan(none["surfel"].hd_mm)
    assert none["voxel"].reason == "both masks are empty"
    for truth, prediction, side in ((empty, one, "true"), (one, empty, "predicted")):
        for found in surface_scores(truth, prediction, (1, 1, 1), conventions=conventions).values():
            assert (found.hd_mm, found.nsd[2.0], found.reason) == (math.inf, 0, f"the {side} mask is empty")
    nothing = MaskPair(empty, empty, affine=np.eye(4))
    assert math.isnan(overlap_matching(nothing)["f1"])
    assert math.isnan(cc_metrics(nothing)["dsc"])
    assert overlap_matching(MaskPair(empty, one, affine=np.eye(4)))["f1"] == 0
    assert cc_metrics(MaskPair(empty, one, affine=np.eye(4)))["dsc"] == 0
    case = score_case(
        "a", empty, one, np.eye(4), ScoreSettings({"1": (1,)}, "1", modes=("overlap", "cc", "brats:GLI-2023"))
    )
    plain = case.to_json()
    assert plain["dsc"] == 0
    assert plain["reason"] == "the true mask has no voxel"
    assert plain["lesions"] == {name: dict(values) for name, values in case.modes.items()}
    assert set(plain["lesions"]) == {"overlap", "cc", "brats:GLI-2023"}
    assert plain["cc_dice"] == plain["lesions"]["cc"]["dsc"] == 0
    assert plain["classes"] == {"1": case.classes["1"].to_json()}


def test_specks_and_instances() -> None:
    truth, prediction = scene()
    kept = MaskPair(truth, prediction, affine=np.diag([1, 1, 0.5, 1]), min_volume_mm3=13.5)
    assert kept.truth.voxel_count.tolist() == [27, 27, 64]
    assert kept.overlaps[:, 0].tolist() == [0, 1, 2]
    truth[24:26, 3:5, 3:5] = 7
    truth[2:5, 2:5, 2:5] = 7
    found = MaskPair(truth, prediction, affine=np.eye(4), instances=True)
    assert sorted(found.truth.voxel_count.tolist()) == [35, 91]
    # Labels of one mask are one object where they touch.
    truth[5, 2:5, 2:5] = 2
    assert len(MaskPair(truth, prediction, affine=np.eye(4)).truth) == 3
    assert len(MaskPair(truth, prediction, affine=np.eye(4), labels=[1]).truth) == 2


def test_what_cannot_be_is_refused() -> None:
    truth, prediction = scene()
    with pytest.raises(ShapeMismatchError, match="does not match"):
        MaskPair(truth, prediction[1:], affine=np.eye(4))
    with pytest.raises(ConfigError, match="surface convention 'meshes'"):
        pair().surfaces(conventions=("meshes",))
    with pytest.raises(ConfigError, match="numbers from 0 up"):
        pair().surfaces(tolerances_mm=(-1.0,))
    with pytest.raises(DataError, match="spacing"):
        surface_scores(truth, prediction, (1, 0, 1))
    for mode in ("hd", "brats", "brats:X", "overlap:1"):
        with pytest.raises(ConfigError):
            ScoreSettings({"1": (1,)}, "1", modes=(mode,))
    with pytest.raises(ConfigError, match="lesion class"):
        ScoreSettings({"1": (1,)}, "2")


def test_rows_of_lesions_components_and_matches() -> None:
    truth, prediction = scene()
    affine = np.diag([1.0, 1, 1, 1])
    affine[:3, 3] = (100, 0, 0)
    case = score_case("a", truth, prediction, affine, ScoreSettings({"1": (1,)}, "1"))
    assert [(row.lesion, row.found, row.components) for row in case.lesions] == [
        (1, True, 1), (2, True, 1), (3, True, 1), (4, False, 0),
    ]  # fmt: skip
    assert case.lesions[0].dsc == pytest.approx(2 * 27 / (27 + 63))
    assert (case.lesions[2].iou, case.lesions[2].hd95_mm) == (1, 0)
    assert (case.lesions[3].dsc, case.lesions[3].hd95_mm) == (0, math.inf)
    assert case.lesions[0].centroid_x_mm == 103
    assert case.lesions[0].size_bin == "< 5 mm"
    assert [(row.true, row.lesions) for row in case.predicted] == [(True, 2), (True, 1), (False, 0)]
    assert [(row.lesion, row.component, row.shared_mm3) for row in case.matches] == [(1, 1, 27), (2, 1, 27), (3, 2, 64)]


def write(path: Path, voxels: np.ndarray, affine: Any = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)
    return path


def test_flips_and_axis_order_are_matched_and_other_grids_are_not(tmp_path: Path) -> None:
    truth, prediction = scene()
    affine = np.diag([0.8, 1.2, 2.0, 1])
    affine[:3, 3] = (-30, 5, 7)
    label = write(tmp_path / "t.nii.gz", truth, affine)
    plain = score(label, write(tmp_path / "p.nii.gz", prediction, affine)).cases[0]
    turned = np.ascontiguousarray(prediction.transpose(1, 2, 0)[::-1])
    # Voxel (i, j, k) of the turned array is (k, 11 − i, j) of the other one.
    back = affine @ np.array([[0, 0, 1, 0], [-1, 0, 0, 11], [0, 1, 0, 0], [0, 0, 0, 1.0]])
    again = score(label, write(tmp_path / "turned.nii.gz", turned, back)).cases[0]
    assert again.to_json() == plain.to_json()
    moved = affine.copy()
    moved[0, 3] += 0.8
    for voxels, other in (
        (prediction, moved),
        (prediction[1:], affine),
        (prediction, affine @ np.diag([1, 1, 1.1, 1])),
    ):
        path = write(tmp_path / "other.nii.gz", voxels, other)
        with pytest.raises(DataError, match=r"differ only by flips or axis order are matched.*--resample"):
            score(label, path)
    # Moved by one voxel, and read again at the same places.
    shifted = np.zeros_like(prediction)
    shifted[1:] = prediction[:-1]
    found = score(label, write(tmp_path / "other.nii.gz", prediction, moved), resample=True).cases[0]
    expected = score(label, write(tmp_path / "shifted.nii.gz", shifted, affine)).cases[0]
    assert found.classes["1"].counts == expected.classes["1"].counts


def test_names_are_matched() -> None:
    assert match_names(["a", "b"], ["b", "c"]) == {"b": ("b", "b")}
    assert match_names(["case_1_gt", "case_2_gt"], ["case_1_pred", "case_2_pred"]) == {
        "case_1": ("case_1_gt", "case_1_pred"), "case_2": ("case_2_gt", "case_2_pred"),
    }  # fmt: skip
    assert match_names(["segmentation-3", "segmentation-10"], ["3", "10"]) == {
        "10": ("segmentation-10", "10"), "3": ("segmentation-3", "3"),
    }  # fmt: skip
    assert match_names(["a"], ["b"]) == {}


def test_folders_of_any_tool(tmp_path: Path) -> None:
    truth, prediction = scene()
    two = np.where(truth > 0, np.uint8(2), np.uint8(0))
    two[30:34] = 1
    for number in range(4):
        write(tmp_path / "truth" / f"P{number // 2}_{number}.nii.gz", two)
        write(tmp_path / "out" / f"P{number // 2}_{number}.nii.gz", np.where(prediction > 0, np.uint8(2), np.uint8(0)))
    (tmp_path / "truth" / "P0_0.nii.gz").rename(tmp_path / "truth" / "alone.nii.gz")
    (tmp_path / "out" / "P0_1.nii.gz").write_bytes(b"damaged")
    write(tmp_path / "out" / ".hidden.nii.gz", prediction)
    with pytest.raises(DataError, match=r"the lesion label is not clear: found 1, 2.*--lesion-label 2"):
        score(tmp_path / "truth", tmp_path / "out")
    with pytest.raises(DataError, match="no file has a voxel of the lesion label 5"):
        score(tmp_path / "truth", tmp_path / "out", lesion_labels=[5])
    found = score(tmp_path / "truth", tmp_path / "out", lesion_labels=[2], modes=("overlap", "cc"))
    assert [case.case_id for case in found.cases] == ["P1_2", "P1_3"]
    assert found.patients == ("P1", "P1")
    assert (found.only_truth, found.only_prediction) == (("alone",), ("P0_0",))
    assert [case_id for case_id, _ in found.failed] == ["P0_1"]
    assert found.notes == ("label 1 occurs in no prediction",)
    assert found.cases[0].classes["1"].counts.dsc == 0
    assert found.by_size()[-1].lesions == 8
    found.write(tmp_path / "report")
    stored = json.loads((tmp_path / "report" / "score.json").read_text(encoding="utf-8"))
    assert stored["cases"][0]["cc_dice"] == pytest.approx(found.cases[0].modes["cc"]["dsc"])
    assert stored["summary"]["classes"]["2"]["dsc"]["n"] == 2
    rows = list(csv.DictReader((tmp_path / "report" / "lesions.csv").read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 8
    assert {row["found"] for row in rows} == {"True", "False"}
    region = score(tmp_path / "truth", tmp_path / "out", regions={"all": (1, 2), "tumour": (2,)})
    assert region.settings.lesion_class == "tumour"
    assert list(region.cases[0].classes) == ["all", "tumour"]
    ignored = score(tmp_path / "truth", tmp_path / "out", lesion_labels=[2], ignore_label=1)
    assert list(ignored.cases[0].classes) == ["2"]


def test_the_command(tmp_path: Path) -> None:
    truth, prediction = scene()
    label, predicted = write(tmp_path / "t.nii.gz", truth), write(tmp_path / "p.nii.gz", prediction)
    shown = patchcore("score", label, predicted, "-o", tmp_path / "out")
    assert shown.returncode == 0, shown.stderr
    assert "mean DSC of class 1: 0.843 (n = 1); global DSC 0.843" in shown.stdout
    assert "lesions all: recall 0.750 (3/4), precision 0.667 (2/3)" in shown.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "cases.csv",
        "lesions.csv",
        "matches.csv",
        "predicted.csv",
        "score.json",
    ]
    plain = patchcore(
        "score", label, predicted, "--json", "--surface", "mesh,surfel,voxel", "--tolerance", "1,2",
        "--lesions", "panoptica,panoptica-many,lits,cc,autopet,brats:MET-2023",
    )  # fmt: skip
    case = json.loads(plain.stdout)["cases"][0]
    assert set(case["surface"]) == {"mesh", "surfel", "voxel"}
    assert set(case["surface"]["mesh"]) >= {"hd_mm", "hd95_mm", "masd_mm", "assd_mm", "nsd"}
    assert set(case["surface"]["mesh"]["nsd"]) == {"1", "2"}
    assert set(case["lesions"]) == {"panoptica", "panoptica-many", "lits", "cc", "autopet", "brats:MET-2023"}
    empty = write(tmp_path / "e.nii.gz", np.zeros_like(truth))
    case = json.loads(patchcore("score", label, empty, "--json").stdout)["cases"][0]
    assert case["surface"]["mesh"]["hd_mm"] is None
    assert case["surface"]["mesh"]["reason"] == "the predicted mask is empty"
    assert case["reason"] == "the predicted mask has no voxel"
    for arguments, words in (
        ((label, tmp_path), "is a file, but"),
        ((label, tmp_path / "none.nii.gz"), "does not exist"),
        ((label, predicted, "--surface", "voxels"), "surface convention 'voxels'"),
        ((label, predicted, "--lesions", "dice"), "lesion mode 'dice'"),
        ((label, predicted, "--tolerance", "x"), "is not a list of numbers"),
        ((label, predicted, "--connectivity", "7"), "connectivity 7"),
    ):
        refused = patchcore("score", *arguments)
        assert refused.returncode == 2, refused.stderr
        assert words in refused.stderr


def test_holm_and_comparisons_without_enough_pairs() -> None:
    adjusted = holm([0.04, math.nan, 0.01, 0.5])
    assert adjusted[0] == pytest.approx(0.08)
    assert math.isnan(adjusted[1])
    assert adjusted[2:] == [0.03, 0.5]
    few = compare_pairs([0.1, 0.2], [0.1, 0.2])
    assert math.isnan(few.wilcoxon_p)
    assert few.false_order == 0.5
    assert math.isnan(compare_pairs([0.1], [0.2]).false_order)
    assert compare_pairs([0.3, 0.4], [0.1, 0.2]).false_order < 1e-6


def test_similar_cases_of_few_patients_are_no_evidence() -> None:
    differences = [0.03, -0.01, 0.04, 0.02, -0.02, 0.05, 0.01]
    once = compare_pairs(differences, [0.0] * 7, "abcdefg")
    eight = compare_pairs(differences * 8, [0.0] * 56, "abcdefg" * 8)
    assert (eight.wilcoxon_p, eight.false_order) == pytest.approx((once.wilcoxon_p, once.false_order))
    assert eight.difference.interval == pytest.approx(once.difference.interval)
    assert math.isnan(compare_pairs(differences, [0.0] * 7, "aaaaaaa").false_order)
    assert math.isnan(compare_pairs(differences, [0.0] * 7, "abcdeee").wilcoxon_p)


def test_the_probability_of_a_false_order_is_that_of_the_order_shown() -> None:
    """One patient with many cases decides the mean over cases; the mean over patients has the other sign."""
    found = compare_pairs([0.1] * 30 + [-0.04, -0.05, -0.03] * 3, [0.0] * 39, [*("a" * 30), *"bcdefghij"])
    assert found.difference.mean > 0
    sums, counts = np.array([[3.0, *[-0.12] * 9]]), np.array([[30.0, *[1.0] * 9]])
    sums[0, 1:] = [-0.04, -0.05, -0.03] * 3
    t = found.difference.mean / patient_error(sums, counts)
    assert found.false_order == pytest.approx(stdtr(9, -t))
    assert 0.01 < found.false_order < 0.5


def test_the_least_size_of_a_prediction_is_in_voxels_except_for_one_challenge() -> None:
    truth, prediction = np.zeros((30, 12, 12), np.uint8), np.zeros((30, 12, 12), np.uint8)
    truth[2:8, 2:8, 2:8] = prediction[2:8, 2:8, 2:8] = 1
    prediction[20:24, 2:6, 2:6] = 1  # 64 voxels of 0.5 mm³: 32 mm³
    both = MaskPair(truth, prediction, affine=np.diag([0.5, 1.0, 1.0, 1.0]))
    merged = BratsRules(1, 50.0, merge_predictions=True)
    assert brats_lesions(both, merged)["fp"] == 1  # 64 > 50 voxels
    assert brats_lesions(both, replace(merged, false_count=False))["fp"] == 0  # 32 mm³ < 50 mm³


def test_a_component_on_one_voxel_of_a_speck_is_not_false() -> None:
    truth, prediction = np.zeros((12, 6, 6), np.uint8), np.zeros((12, 6, 6), np.uint8)
    truth[1:4, 1:4, 1:4] = prediction[1:4, 1:4, 1:4] = 1
    truth[8, 2, 2] = 1  # a speck, below the least volume
    prediction[8:10, 2:4, 2:4] = 1
    settings = ScoreSettings({"1": (1,)}, "1", modes=("overlap",), min_volume_mm3=4.0)
    score = score_case("a", truth, prediction, np.eye(4), settings)
    assert score.modes["overlap"]["precision"] == 1.0
    assert [row.true for row in score.predicted] == [True, True]


def test_the_distance_of_a_lesion_has_the_first_convention() -> None:
    truth, prediction = ball((14, 14, 14), (6.2, 6.8, 7.1), 4.3), ball((14, 14, 14), (7.4, 6.1, 6.6), 3.6)
    found = {}
    for convention in ("mesh", "surfel", "voxel"):
        settings = ScoreSettings({"1": (1,)}, "1", conventions=(convention,))
        score = score_case("a", truth, prediction, np.diag([1.0, 1.3, 0.7, 1.0]), settings)
        found[convention] = score.lesions[0].hd95_mm
        assert found[convention] == pytest.approx(score.classes["1"].surface[convention].hd95_mm)
    assert len({round(value, 6) for value in found.values()}) > 1


def ball(shape: tuple[int, int, int], centre: tuple[float, ...], radius: float) -> np.ndarray:
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return (((index - centre) ** 2).sum(-1) < radius**2).astype(np.uint8)


def test_an_interval_has_the_percentiles_of_the_bootstrap() -> None:
    values, patients = [0.1, 0.9, 0.4, 0.7, 0.2, 0.6], list("aabbcc")
    found = estimate_mean(values, patients, seed=3, resamples=500)
    sums, counts = np.array([1.0, 1.1, 0.8]), np.array([2, 2, 2])
    drawn = np.random.default_rng(3).integers(0, 3, size=(500, 3))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])))
    assert str(found) == f"{found.mean:.3f} [{found.patient_low:.3f}, {found.patient_high:.3f}] (n = 6)"
    assert str(estimate_mean([])) == "not defined (n = 0)"
    assert str(estimate_mean([0.25])) == "0.250 (n = 1)"


def test_a_perfect_prediction_has_a_surface_dice_of_one_and_an_affine_may_have_integers() -> None:
    truth = np.zeros((14, 12, 12), np.uint8)
    truth[3:10, 3:9, 3:9] = 1
    same = MaskPair(truth, truth, affine=np.diag([1, 1, 2, 1]))
    found = brats_lesions(same, brats_rules("SSA-2024"))
    assert found["nsd_0.5"] == pytest.approx(1.0, abs=1e-6)
    assert found["nsd_1"] == pytest.approx(1.0, abs=1e-6)
    assert same.voxel_mm3 == 2.0
    assert same.affine.dtype == np.float64


def blocks(*places: int, size: int = 3, length: int = 40) -> np.ndarray:
    """Blocks along the first axis that begin at these places."""
    mask = np.zeros((length, size, size), np.uint8)
    for place in places:
        mask[place : place + size] = 1
    return mask


def of(truth: np.ndarray, prediction: np.ndarray, **options: Any) -> MaskPair:
    return MaskPair(truth, prediction, affine=np.eye(4), **options)


def test_without_components_on_one_side_nothing_matches_and_without_any_nothing_is_defined() -> None:
    nothing, one = blocks(), blocks(3)
    for truth, prediction in ((one, nothing), (nothing, one)):
        found = overlap_matching(of(truth, prediction))
        assert found["sq"] == 0.0
        other = panoptica(of(truth, prediction))
        assert (other["rq"], other["sq"]) == (0.0, 0.0)
    assert math.isnan(overlap_matching(of(nothing, nothing))["sq"])
    assert math.isnan(panoptica(of(nothing, nothing))["rq"])


def test_an_iou_of_exactly_one_can_be_asked_for() -> None:
    same = of(blocks(3), blocks(3))
    assert panoptica(same, threshold=1.0)["tp"] == 1
    with pytest.raises(ConfigError, match="IoU threshold"):
        panoptica(same, threshold=1.5)


def test_lits_without_a_detected_lesion_has_the_penalties() -> None:
    found = lits_lesions(of(blocks(3), blocks(20)))
    assert (found["dice"], found["jaccard"], found["voe"], found["rvd"]) == (0.0, 0.0, 1.0, 9001.0)


def test_a_lesion_that_no_voxel_is_nearest_to_does_not_divide_by_more_than_its_voxels() -> None:
    truth = np.zeros((5, 5, 5), np.uint8)
    truth[2, 2, 2] = 1
    assert cc_dsc(of(truth, np.zeros_like(truth))).tolist() == [0.0]
    assert cc_dsc(of(truth, truth)).tolist() == [1.0]


def test_brats_counts_a_false_component_as_a_zero_and_an_empty_case_as_right() -> None:
    rules = brats_rules("GLI-2023")
    truth, prediction = blocks(3, 12, size=4), blocks(3, 30, size=4)
    found = brats_lesions(of(truth, prediction), rules)
    assert found["dice"] == pytest.approx((1 + 0 + 0) / 3)
    assert brats_lesions(of(blocks(size=4), blocks(size=4)), rules)["dice"] == 1.0


def test_what_is_ignored_is_background_on_both_sides() -> None:
    truth, prediction = np.zeros((8, 4, 4), np.uint8), np.zeros((8, 4, 4), np.uint8)
    truth[:2], truth[4:6], prediction[:2], prediction[4:] = 1, 9, 1, 1
    settings = ScoreSettings({"1": (1,)}, "1", ignore_label=9)
    score = score_case("a", truth, prediction, np.eye(4), settings)
    assert (score.classes["1"].counts.label, score.classes["1"].counts.prediction) == (32, 64)
    plain = score_case("a", truth, prediction, np.eye(4), ScoreSettings({"1": (1,)}, "1"))
    assert plain.classes["1"].counts.prediction == 96


def test_volumes_are_in_mm3() -> None:
    truth = blocks(3)
    score = score_case("a", truth, truth, np.diag([2.0, 3.0, 0.5, 1.0]), ScoreSettings({"1": (1,)}, "1"))
    assert score.to_json()["classes"]["1"]["truth_mm3"] == pytest.approx(27 * 3.0)


def test_a_region_counts_what_is_of_it_on_both_sides() -> None:
    truth, prediction = np.array([[[1, 2, 2, 3]]]), np.array([[[2, 1, 3, 3]]])
    score = score_case("a", truth, prediction, np.eye(4), ScoreSettings({"r": (1, 2), "3": (3,)}, "3"))
    counts = score.classes["r"].counts
    assert (counts.intersection, counts.prediction, counts.label) == (2, 2, 3)


def test_panoptica_with_several_components_is_a_mode() -> None:
    truth, prediction = blocks(3, size=6), blocks(3, size=6)
    prediction[5] = 0
    settings = ScoreSettings({"1": (1,)}, "1", modes=("panoptica", "panoptica-many"), connectivity=6)
    modes = score_case("a", truth, prediction, np.eye(4), settings).modes
    assert modes["panoptica-many"] == panoptica(of(truth, prediction, connectivity=6), threshold=0.1, many_to_one=True)


def test_a_score_comes_back_from_json_with_its_notes() -> None:
    truth = blocks(3)
    score = score_case("a", truth, truth, np.eye(4), ScoreSettings({"1": (1,)}, "1"))
    noted = asdict(replace(score, notes=("flipped",)))
    assert CaseScore.from_record(noted).notes == ("flipped",)


def test_the_number_of_samples_can_be_chosen() -> None:
    few = compare_pairs([0.1, 0.5, 0.9], [0.2, 0.2, 0.2], resamples=7).difference
    assert few.high == pytest.approx(estimate_mean([-0.1, 0.3, 0.7], resamples=7).high)
    assert few.high != pytest.approx(estimate_mean([-0.1, 0.3, 0.7], resamples=8).high, abs=1e-4)


def test_blocks_of_samples_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values, classes = [0.1, 0.5, 0.9], {"1": [0.1, 0.5, 0.9], "2": [0.3, 0.3, 0.4]}
    whole = estimate_mean(values, resamples=50), mean_over_classes(classes, resamples=50)
    for cells in (1, 9, 100):  # one sample at a time, three, and all
        monkeypatch.setattr(statistics, "_CELLS", cells)
        assert (estimate_mean(values, resamples=50), mean_over_classes(classes, resamples=50)) == whole


def test_a_perfect_prediction_has_an_f1_of_one() -> None:
    found = overlap_matching(of(blocks(3), blocks(3)))
    assert (found["recall"], found["precision"], found["f1"], found["pq"]) == (1.0, 1.0, 1.0, 1.0)
