"""BraTS of 2024: lesions of one tissue that touch the same lesion of another tissue are one lesion."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from patchcore.metrics.brats_tissues import Tissue, _renumbered, joined_groups
from patchcore.metrics.score import ScoreSettings, score_case
from patchcore.types import AnyArray

NETC, ET, RC = 1, 3, 4


def scene(core: int = 12) -> AnyArray:
    """Two enhancing cubes of 27 voxels, 12 voxels apart, and between them a bar of necrosis of `core` · 9 voxels."""
    labels = np.zeros((24, 9, 9), np.uint8)
    labels[3:6, 3:6, 3:6] = labels[18:21, 3:6, 3:6] = ET
    labels[6 : 6 + core, 3:6, 3:6] = NETC
    return labels


def found(truth: AnyArray, prediction: AnyArray, challenge: str, labels: tuple[int, ...] = (ET,)) -> dict[str, Any]:
    mode = f"brats:{challenge}"
    settings = ScoreSettings({"ET": labels}, "ET", conventions=(), modes=(mode,), rows=False)
    return dict(score_case("a", truth, prediction, np.eye(4), settings).modes[mode])


def half(labels: AnyArray) -> AnyArray:
    """The same without the second cube."""
    labels = labels.copy()
    labels[18:] = 0
    return labels


@pytest.mark.parametrize("challenge", ["GLI-2024", "MET-2024"])
def test_two_rims_of_one_core_are_one_lesion(challenge: str) -> None:
    joined = found(scene(), half(scene()), f"{challenge}/ET")
    assert (joined["tp"], joined["fn"], joined["fp"]) == (1, 0, 0)
    assert joined["dice"] == pytest.approx(2 * 27 / (54 + 27))
    for name in (challenge, f"{challenge}/WT", "PED-2024/ET"):
        alone = found(scene(), half(scene()), name)
        assert (alone["tp"], alone["fn"]) == (1, 1), name


def test_a_contact_on_one_side_joins_nothing() -> None:
    apart = found(scene(core=6), half(scene()), "GLI-2024/ET")
    assert (apart["tp"], apart["fn"]) == (1, 1)


def test_predicted_lesions_are_joined_by_predicted_tissue() -> None:
    truth = half(scene())
    with_core = found(truth, scene(), "GLI-2024/ET")
    assert (with_core["tp"], with_core["fp"]) == (1, 0)
    assert with_core["dice"] == pytest.approx(2 * 27 / (27 + 54))
    without = scene()
    without[without == NETC] = 0
    assert found(truth, without, "GLI-2024/ET")["fp"] == 1


def test_a_predicted_core_of_20_voxels_does_not_exist() -> None:
    truth = half(scene())
    thin = scene()
    thin[6:18, 3:6, 3:6] = 0
    thin[6:18, 4, 4] = NETC  # 12 voxels
    assert found(truth, thin, "GLI-2024/ET")["fp"] == 1
    assert found(thin, truth, "GLI-2024/ET")["fn"] == 0  # in the truth, it exists


def test_labels_other_than_the_challenges_are_scored_on_their_own() -> None:
    renamed = np.where(scene() == ET, 2, scene())
    assert found(renamed, half(renamed), "GLI-2024/ET", (2,))["fn"] == 1


def test_a_lesion_joins_the_first_one_that_it_touches() -> None:
    # From left to right along the first axis: ET, core, ET, core, ET; the middle one touches both cores.
    labels = np.zeros((46, 5, 5), np.uint8)
    for begin, stop, label in ((1, 4, ET), (4, 14, NETC), (14, 24, ET), (24, 34, NETC), (34, 37, ET)):
        labels[begin:stop, 1:4, 1:4] = label
    et, core, cavity = Tissue("ET", 3, 10), Tissue("NETC", 3, 20), Tissue("RC", 5, 20)
    joined = joined_groups(labels, np.eye(4), et, [core], predicted=False)
    assert joined[0] == joined[1] != joined[2]
    # The joined lesion and the third one touch one cavity: all three are one.
    labels[1:37, 4, 1:4] = RC
    joined = joined_groups(labels, np.eye(4), et, [core, cavity], predicted=False)
    assert joined[0] == joined[1] == joined[2]


@pytest.mark.parametrize(("voxels", "joins"), [(20, False), (21, True)])
def test_a_predicted_tissue_exists_from_one_voxel_more_on(voxels: int, joins: bool) -> None:
    truth, thin = half(scene()), scene()
    thin[6:18, 3:6, 3:6] = 0
    thin[6:18, 4, 4] = NETC
    thin[8 : 8 + voxels - 12, 4, 5] = NETC
    assert found(truth, thin, "GLI-2024/ET")["fp"] == (0 if joins else 1)


@pytest.mark.parametrize("changed", [{"min_volume_mm3": 1.0}, {"connectivity": 6}])
def test_lesions_that_are_not_those_of_the_challenge_are_not_joined(changed: Any) -> None:
    plain = ScoreSettings({"3": (ET,)}, "3", modes=("brats:GLI-2024/ET",))
    values = [
        score_case("a", scene(), half(scene()), np.eye(4), settings).modes["brats:GLI-2024/ET"]["fn"]
        for settings in (plain, replace(plain, **changed))
    ]
    assert values == [0, 1]


def test_joined_lesions_get_a_number_that_no_other_lesion_has() -> None:
    groups = _renumbered(np.arange(4), [(1, 1), (2, 1)]).tolist()
    assert groups[1] == groups[2]
    assert len({groups[0], groups[1], groups[3]}) == 3
