"""The choice of a post-processing: what it counts, what it keeps, and that it claims nothing from noise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from patchcore.config.plan import RegionPlan
from patchcore.config.postprocess import Postprocess
from patchcore.evaluation.choose import PEAKS, THRESHOLDS, VOLUMES_MM3, Choice, Components, Rules, TuningCase, choose
from patchcore.evaluation.tune import _measure, _organ
from patchcore.inference.postprocess import Removed, postprocess
from patchcore.inference.segment import Segmentation, lesion_mask, lesion_members
from patchcore.metrics import match_lesions
from tiny_plan import tiny_target


def case(name: str, components: Any, *, lesions: int = 2, patient: str | None = None) -> TuningCase:
    """Components are (voxels, peak, lesion or None)."""
    rows = tuple((number, lesion, size) for number, (size, _, lesion) in enumerate(components) if lesion is not None)
    found = Components(
        tuple(size for size, _, _ in components),
        tuple(peak for _, peak, _ in components),
        (True,) * len(components),
        rows,
    )
    return TuningCase(name, patient or name, 1.0, 0.0, (600.0,) * lesions, 600 * lesions, (found,) * len(THRESHOLDS))


def cohort(count: int) -> list[TuningCase]:
    """In every case two large lesions are found, and three specks are false."""
    specks = [(30, 0.6, None), (40, 0.7, None), (20, 0.55, None)]
    return [case(f"c{number}", [(500, 0.99, 0), (400, 0.98, 1), *specks]) for number in range(count)]


def test_it_removes_what_is_false_and_changes_as_little_as_it_can() -> None:
    choice, gain = choose(cohort(6), Rules())
    # A least volume of 65 mm³ or a least probability of 0.8 are equally good: the first changes less in this order.
    assert choice == Choice(peak=0.8)
    assert (gain.before, gain.after) == (pytest.approx(2 * 0.4 / 1.4), 1.0)
    assert gain.low == pytest.approx(gain.gain)
    assert gain.patients == 6


def test_lesions_that_are_found_are_not_given_away() -> None:
    cases = cohort(6)
    cases[0] = case("c0", [(25, 0.58, 0), (400, 0.98, 1), *[(100, 0.9, None)] * 20])
    choice, _ = choose(cases, Rules(may_lose=0.0))
    assert len(cases[0].score(choice).found) == 2
    choice, _ = choose(cases, Rules(may_lose=0.1))
    assert len(cases[0].score(choice).found) == 1
    with_cap, _ = choose(cohort(3), Rules(most_mm3=20.0))
    assert with_cap.min_volume_mm3 <= 20


def test_one_patient_and_noise_are_no_evidence() -> None:
    one = [case(f"c{number}", [(500, 0.9, 0), (30, 0.6, None)], patient="p") for number in range(4)]
    choice, gain = choose(one, Rules())
    assert choice != Choice()
    assert (gain.before, gain.after, gain.low, gain.high, gain.patients) == (gain.before, gain.before, -1.0, 1.0, 1)
    assert claimed_from_noise(patients=12) <= 2
    assert claimed_from_noise(patients=4) <= 4


def claimed_from_noise(*, patients: int) -> int:
    """How often of 40 a gain is claimed where sizes and probabilities say nothing about what is true."""
    random = np.random.default_rng(0)
    claimed = 0
    for _ in range(40):
        cases = []
        for number in range(patients):
            rows = [
                (int(random.integers(10, 900)), float(random.uniform(0.5, 1)), lesion) for lesion in (0, 1, None, None)
            ]
            cases.append(case(f"c{number}", rows))
        _, gain = choose(cases, Rules(may_lose=1.0))
        claimed += gain.low > 0
    return claimed


def test_cases_of_one_patient_stay_together() -> None:
    # Each patient needs what only its own second scan shows.
    cases = []
    for patient in range(5):
        for scan in range(2):
            false = [(30, PEAKS[patient + 1] - 0.01, None)] * 3
            cases.append(case(f"{patient}-{scan}", [(500, 0.999, 0), *false], patient=f"p{patient}"))
    rules = Rules(most_mm3=0.0)
    _, gain = choose(cases, rules)
    _, as_others = choose([replace(one, patient=one.case_id) for one in cases], rules)
    assert (gain.patients, as_others.patients) == (5, 10)
    # The last patient gets 0.9 from the others, which leaves its three false lesions of 0.94; alone it would get 0.95.
    lesions, found, predicted, true = 20, 10, 10 + 6, 10
    recall, precision = found / lesions, true / predicted
    assert gain.after == pytest.approx(2 * recall * precision / (recall + precision))
    assert as_others.after == pytest.approx(2 * 0.5 * 1 / 1.5)


def test_dsc_counts_a_case_without_lesion() -> None:
    healthy = [case(f"h{number}", [(50, 0.6, None)], lesions=0) for number in range(5)]
    ill = [case(f"i{number}", [(500, 0.9, 0)], lesions=1) for number in range(5)]
    choice, gain = choose([*healthy, *ill], Rules("dsc", has_thresholds=True))
    assert choice == Choice(peak=0.7)
    assert gain.before == pytest.approx((0 + 1000 / 1100) / 2)
    assert gain.after == pytest.approx((1 + 1000 / 1100) / 2)


class FakePredictor:
    """Returns a prepared prediction."""

    def __init__(self, target: Any, found: Segmentation) -> None:
        self.target, self.found = target, found

    def segment(self, *_: Any, **__: Any) -> Any:
        return self.found, None


class FakeRecord:
    case_id, patient = "a", "p"

    def __init__(self, truth: Any) -> None:
        self.truth = truth

    def read_image(self) -> Any:
        return type("Image", (), {"array": self.truth, "affine": np.diag([1.0, 1.0, 2.0, 1.0])})

    def read_label(self) -> Any:
        return type("Label", (), {"array": self.truth, "affine": np.diag([1.0, 1.0, 2.0, 1.0])})


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    organ=st.booleans(),
    volume=st.sampled_from(VOLUMES_MM3[:6]),
    peak=st.sampled_from(PEAKS),
    least=st.sampled_from([0.0, 10.0]),
    ignored=st.booleans(),
)
def test_counts_equal_those_of_the_processed_prediction(
    seed: int, organ: bool, volume: float, peak: float, least: float, ignored: bool
) -> None:
    random = np.random.default_rng(seed)
    shape = (18, 16, 14)
    smooth = ndimage.gaussian_filter(random.standard_normal((3, *shape)), (0, 1, 1, 1))
    truth = (smooth[0] > 0.05).astype(np.uint8)
    truth[smooth[0] > 0.25] = 2
    if ignored:
        truth[:4] = 9
    raw = np.exp(4 * np.stack([np.zeros(shape), smooth[1], smooth[2] - 0.3 + smooth[0]]))
    share = raw / raw.sum(0)
    classes = share.argmax(0).astype(np.uint8)
    steps = np.rint(share[2] * 65535).astype(np.uint16)
    target = tiny_target(min_volume_mm3=least, ignore_label=9 if ignored else None, connectivity=26)
    predictor = FakePredictor(target, Segmentation(classes, steps, 1, 0))
    measured = _measure(predictor, FakeRecord(truth), 1)  # type: ignore[arg-type]
    choice = Choice(organ=organ, min_volume_mm3=volume, peak=peak)
    chosen = Postprocess(
        weights_sha256="",
        objective="dsc",
        organ_label=1 if organ else None,
        min_volume_mm3=volume,
        min_peak=peak or None,
    )
    final = classes.copy()
    if not ignored:  # an ignored part is cut out after the post-processing, but before it in a tuning
        postprocess(final, target, chosen, voxel_mm3=2.0, probability=steps)
        counts = measured.score(choice)
        match = match_lesions(final == 2, truth == 2, voxel_mm3=2.0, min_volume_mm3=least)
        assert counts.lesions == len(match.true_mm3)
        assert len(counts.found) == match.found
        assert counts.predicted == len(match.predicted_mm3)
        assert counts.predicted - counts.true == match.false_positives
        size = int((final == 2).sum() + (truth == 2).sum())
        assert counts.dsc == pytest.approx(2 * int(((final == 2) & (truth == 2)).sum()) / size if size else 1.0)
    plain = measured.score(Choice())
    seen = truth != 9
    match = match_lesions((classes == 2) & seen, truth == 2, voxel_mm3=2.0, min_volume_mm3=least)
    assert (len(plain.found), plain.predicted) == (match.found, len(match.predicted_mm3))
    for number, threshold in enumerate(THRESHOLDS):
        if threshold is not None:
            mask = (steps > np.floor(threshold * 65535)) & seen
            assert sum(measured.at[number].voxels) == int(mask.sum())


def test_nothing_found_counts_as_nothing() -> None:
    rows = np.array([[3.0, 0, 2, 0, 0, 1], [3, 0, 0, 0, 0, 1], [2, 1, 2, 1, 0.5, 1]])
    assert Rules().values(rows).tolist() == [0.0, 0.0, 0.5]
    assert Rules("dsc").values(rows).tolist() == [0.0, 0.0, 0.5]


def test_thresholds_are_not_combined_with_the_organ_or_the_peak() -> None:
    choices = Rules("dsc", has_organ=True, has_thresholds=True).choices()
    with_threshold = [choice for choice in choices if choice.threshold]
    assert {choice.threshold for choice in with_threshold} == set(range(1, len(THRESHOLDS)))
    assert {(choice.organ, choice.peak) for choice in with_threshold} == {(False, 0.0)}
    assert {choice.organ for choice in choices} == {False, True}
    assert choices[0] == Choice()


def test_components_follow_the_plans_connectivity() -> None:
    classes = np.zeros((12, 12, 12), np.uint8)
    classes[1:4, 1:4, 1:4] = classes[4, 4, 4] = 2  # they touch at a corner
    steps = np.full(classes.shape, 60000, np.uint16)
    chosen = Postprocess(weights_sha256="", objective="dsc", min_volume_mm3=10)
    for connectivity, left in ((6, 27), (26, 28)):
        final = classes.copy()
        postprocess(final, tiny_target(connectivity=connectivity), chosen, voxel_mm3=1.0, probability=steps)
        assert int((final == 2).sum()) == left


def test_all_members_of_a_region_are_lesion() -> None:
    regions = (RegionPlan(name="organ", labels=(1, 2, 3)), RegionPlan(name="lesion", labels=(2, 3)))
    target = tiny_target(classes=3, regions=False).model_copy(
        update={"classes": (1, 2, 3), "lesion_label": 2, "regions": regions}
    )
    mask = lesion_mask(np.array([[[0, 1, 2, 3]]], np.uint8), target)
    assert mask.tolist() == [[[index in lesion_members(target) for index in range(4)]]]


def test_the_only_other_label_is_the_organ() -> None:
    assert _organ(tiny_target(classes=2), None) == 1
    assert _organ(tiny_target(classes=3), None) is None
    assert _organ(tiny_target(classes=3), 2) == 2
    assert _organ(tiny_target(classes=2, regions=True), None) is None


def test_nothing_predicted_is_nothing_removed() -> None:
    chosen = Postprocess(weights_sha256="", objective="dsc", min_volume_mm3=10)
    empty = np.zeros((4, 4, 4), np.uint8)
    assert postprocess(empty, tiny_target(), chosen, voxel_mm3=1.0) == Removed()


def test_the_samples_of_patients_are_always_the_same() -> None:
    cases = cohort(5)
    cases[0] = case("c0", [(25, 0.58, 0), (400, 0.98, 1), *[(100, 0.9, None)] * 20])
    cases[1] = case("c1", [(500, 0.6, 0), (30, 0.9, None)])
    drawn: list[int] = []
    real = np.random.default_rng

    def default_rng(seed: int) -> Any:
        drawn.append(seed)
        return real(seed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.random, "default_rng", default_rng)
        choose(cases, Rules())
    assert drawn == [0, 0]
