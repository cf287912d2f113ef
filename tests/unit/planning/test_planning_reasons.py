"""Tests several labels, the joint proposal, the protocol of another study, sensitivity, and edited plans."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchcore.config.plan import Plan, read_plan
from patchcore.datasets.analyze import analyze
from patchcore.datasets.plan import plan_patch_size
from patchcore.datasets.sensitivity import plan_sensitivity
from patchcore.errors import DataError, PlanError, StudyError
from patchcore.phantoms import make_phantoms
from patchcore.planning import plan_from_samples
from patchcore.planning.joint import joint_edge
from patchcore.planning.samples import CaseSample, LesionSample
from patchcore.planning.sensitivity import sensitivity_of
from patchcore.study import Study

CASES = [CaseSample(f"c{n}", f"p{n // 2}", (1.0, 1.0, 1.0), (96, 96, 96)) for n in range(6)]


def lesions(volumes: list[float], label: int = 1) -> list[LesionSample]:
    return [LesionSample(f"c{n % 6}", label, volume, (volume ** (1 / 3),) * 3) for n, volume in enumerate(volumes)]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    root = tmp_path_factory.mktemp("organs")
    data = make_phantoms(root / "data", cases=3, preset="multi-organ", shape=(96, 96, 48), spacing=(3.0, 3.0, 5.0))
    return analyze(data, root / "study", lesion_label="liver_tumour")


def test_the_joint_candidate_has_the_least_worst_distance() -> None:
    assert joint_edge([8.0, 24.0], (8, 12, 16, 24)) == 12
    assert joint_edge([16.0], (8, 12, 16, 24)) == 16
    assert joint_edge([100.0, 90.0], (8, 12)) == 12


def test_each_label_gets_its_plan_and_all_a_joint_one(study: Study) -> None:
    # Names work as in analyze: spaces, underscores and case do not matter.
    plan = plan_patch_size(study, lesion_label=["Liver tumour", 5], hu_range="liver")
    assert [(item.lesion_label, item.classes) for item in plan.targets] == [(4, (4,)), (5, (5,))]
    assert plan.joint is not None
    assert (plan.joint.classes, len(plan.joint.targets)) == ((4, 5), 2)
    edge = joint_edge([item.ideal_edge for item in plan.targets], (8, 12, 16, 24))
    assert plan.joint.patch_size == (edge,) * 3
    for alone, item in zip(plan.targets, plan.joint.targets, strict=True):
        assert plan_patch_size(study, lesion_label=alone.lesion_label, hu_range="liver").target == alone
        assert item.ratio == pytest.approx(edge / alone.ideal_edge)
    trained = plan_patch_size(study, lesion_label=[4, 5], joint=True, hu_range="liver")
    assert (trained.target.classes, trained.patch_size) == ((4, 5), (edge,) * 3)
    assert trained.target.lesion_label == 4  # its lesion scores are those of the first label
    assert [item.chosen for item in trained.target.candidates].count(True) == 1
    assert read_plan(study.plan_path) == trained
    with pytest.raises(PlanError, match="named twice"):
        plan_patch_size(study, lesion_label=[4, 4])
    with pytest.raises(PlanError, match="a joint plan needs several"):
        plan_patch_size(study, lesion_label=4, joint=True)
    with pytest.raises(PlanError, match="no label is called"):
        plan_patch_size(study, lesion_label="gallbladder")


def test_another_studys_protocol_is_taken_over(study: Study, tmp_path: Path) -> None:
    small = make_phantoms(tmp_path / "small", cases=3, preset="small", shape=(64, 64, 40), spacing=(3.0, 3.0, 4.0))
    target = analyze(small, tmp_path / "target")
    model = plan_patch_size(target, candidates=(8,), window_size=48, hu_range=(-80, 170)).target
    plan = plan_patch_size(study, like=target)
    own = plan_patch_size(study, spacing=model.spacing, window_size=model.window_size, hu_range=model.hu_range)
    taken = plan.target
    assert (taken.patch_size, taken.spacing, taken.window_size, taken.hu_range) == (
        model.patch_size, model.spacing, model.window_size, model.hu_range,
    )  # fmt: skip
    assert taken.ideal_edges == own.target.ideal_edges, "p* is that of the study's own lesions"
    assert plan.like is not None
    assert (plan.like.study, plan.like.own_patch_size) == ("target", own.patch_size)
    assert [item.patch_size for item in taken.candidates if item.chosen] == [model.patch_size]
    with pytest.raises(PlanError, match="takes spacing"):
        plan_patch_size(study, like=target, spacing=(1.0, 1.0, 1.0))
    with pytest.raises(StudyError):
        plan_patch_size(study, like=tmp_path / "nowhere")


def test_sensitivity_varies_one_thing_at_a_time() -> None:
    samples = lesions([512.0] * 5 + [30_000.0])
    target = plan_from_samples(CASES, samples, lesion_label=1, hu_range="liver").target
    found = sensitivity_of(target, CASES, samples, by_connectivity={6: lesions([500.0] * 12)})
    by = {(item.kind, item.value): item for item in found.variations}
    assert by["spacing", "× 0.8"].edge == pytest.approx(target.ideal_edge / 0.8)
    assert by["connectivity", "6"].lesion_count == 12
    assert by["connectivity", "6"].edge == pytest.approx(500 ** (1 / 3))
    without = by["case", "c5"]
    assert (without.lesion_count, without.edge, without.patch_size) == (5, pytest.approx(8.0), (8, 8, 8))
    assert by["patient", "p2"].lesion_count == 4
    assert "case c5 excluded" in found.conclusion
    assert "it becomes" in found.conclusion
    even = lesions([1728.0] * 6)
    steady = sensitivity_of(plan_from_samples(CASES, even, lesion_label=1, hu_range="liver").target, CASES, even)
    assert {item.patch_size for item in steady.variations if item.kind != "spacing"} == {(12, 12, 12)}


def test_sensitivity_measures_again_and_keeps_the_plan(study: Study) -> None:
    before = plan_patch_size(study, lesion_label=[4, 5], hu_range="liver")
    seen: list[tuple[int, int]] = []
    plan = plan_sensitivity(study, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (6, 6)
    assert read_plan(study.plan_path) == plan
    for old, new in zip(before.targets, plan.targets, strict=True):
        assert new.sensitivity is not None
        assert {item.value for item in new.sensitivity.variations if item.kind == "connectivity"} == {"6", "18"}
        assert new.model_copy(update={"sensitivity": None}) == old


def test_specks_are_reported() -> None:
    samples = lesions([1.0] * 3 + [5000.0] * 9)
    warnings = " ".join(plan_from_samples(CASES, samples, lesion_label=1, hu_range="liver").target.warnings)
    assert "3 of 12 lesions are specks below 5 mm³" in warnings
    assert "3.75 mL to 5 mL" in warnings


def _plan() -> Plan:
    return plan_from_samples(CASES, lesions([1728.0] * 6), lesion_label=1, hu_range="liver")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"patch_size": [10, 10, 10]}, "the nearest legal edges: 9 and 12"),
        ({"patch_size": [16, 16, 9]}, "does not divide"),
        ({"patch_sise": [8, 8, 8]}, "unknown key (did you mean patch_size?)"),
        ({"spacing": [0, 1, 1]}, "between 0 and 1000"),
        ({"hu_range": [200, -100]}, "the first value must be lower"),
        ({"connectivity": 8}, "6, 18 or 26"),
        ({"rule": "mode"}, "'mean-volume', 'median'"),
        ({"classes": [2]}, "must contain the lesion label"),
    ],
)
def test_an_edited_plan_is_held_to_what_is_possible(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    data = _plan().model_dump(mode="json")
    data["targets"][0] |= change
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(data))
    with pytest.raises(PlanError) as caught:
        read_plan(path)
    assert words in str(caught.value)


def test_a_plan_of_the_first_schema_is_still_read(tmp_path: Path) -> None:
    data = _plan().model_dump(mode="json")
    del data["joint"], data["like"], data["targets"][0]["sensitivity"]
    for item in data["targets"][0]["candidates"]:
        assert "windows" not in item
        item["windows"] = []
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(data | {"schema_version": 1}))
    assert read_plan(path).patch_size == (12, 12, 12)


JUNK = st.one_of(
    st.none(), st.integers(-5, 5000), st.floats(), st.text(max_size=4), st.lists(st.integers(), max_size=4)
)


@given(st.data())
def test_whatever_is_put_into_a_plan_it_is_a_plan_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    value: Any = _PLAN
    tree = json.loads(json.dumps(value))
    node = data.draw(st.sampled_from([tree, tree["targets"][0], tree["targets"][0]["candidates"][0]]))
    key = data.draw(st.sampled_from(sorted(node)))
    node[key] = data.draw(JUNK)
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    path.write_text(json.dumps(tree))
    try:
        target = read_plan(path).target
    except DataError:
        return
    assert all(w % p == 0 for w, p in zip(target.window_size, target.patch_size, strict=True))


_PLAN = json.loads(_plan().model_dump_json())
