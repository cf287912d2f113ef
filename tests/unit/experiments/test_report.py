"""Reports: what is compared with what, the numbers of every table, and the words about them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from results_made import lesion, point, protocol, result

from patchcore.experiments import tables
from patchcore.experiments.equal_cost import costs_differ, regrets_at_equal, steps_at_equal
from patchcore.experiments.folder import ExperimentFolder
from patchcore.experiments.protocol import Extension
from patchcore.experiments.report import _budget, _values
from patchcore.experiments.results import _evaluation, rise_at_end
from patchcore.experiments.scores import Scores, gather, settings_of_points
from patchcore.experiments.verdict import transfer_verdicts, verdicts
from patchcore.metrics import compare_pairs, estimate_mean, holm, mean_over_classes
from patchcore.metrics.regret import cross_fitted_regret, seed_fitted_regret
from patchcore.metrics.results import EVALUATION_SCHEMA

NAN = math.nan


def scores_of(*results: object) -> Scores:
    found = gather(settings_of_points(results))  # type: ignore[arg-type]
    assert found is not None
    return found


def test_settings_are_the_points_that_differ_in_seed_and_fold_only() -> None:
    results = [result(point(patch, seed), {"a": 0.5}) for seed in (0, 1) for patch in (4, 8)]
    settings = settings_of_points(results)
    assert [(setting.label, len(setting.points)) for setting in settings] == [("patch 4", 2), ("patch 8", 2)]
    other = point(8, values={"patch_size": "8x8x4", "optim.lr": "1e-3"}, patch_size=(8, 8, 4))
    assert settings_of_points([result(other, {})])[0].label == "patch 8 × 8 × 4, lr 1e-3"


def test_seeds_are_averaged_per_case_before_anything_else() -> None:
    found = scores_of(
        result(point(4, 0), {"a": 0.2, "b": 0.4}),
        result(point(4, 1), {"a": 0.6, "b": 0.4}),
        result(point(8, 0), {"a": 0.5, "b": 0.7}),
        result(point(8, 1), {"a": 0.5, "b": 0.9}),
    )
    assert found.dsc[:, :, 0] == pytest.approx(np.array([[0.4, 0.4], [0.5, 0.8]]))
    assert found.seed_deviation(0) == pytest.approx(np.std([0.3, 0.5], ddof=1))
    assert found.mean(1).mean == pytest.approx(0.65)
    assert found.mean(1).interval == estimate_mean([0.5, 0.8], ["a", "b"], within=(0, 1)).interval


def test_only_what_all_settings_have_is_compared() -> None:
    found = scores_of(
        result(point(4, 0, 0), {"a": 0.2, "b": 0.4}),
        result(point(4, 0, 1), {"c": 0.9}),
        result(point(8, 0, 0), {"a": 0.5}),
        result(point(8, 1, 0), {"a": 0.1}),
        result(point(12, 0, 0), {}),
    )
    assert found.cells == ((0, 0),)
    assert found.case_ids == ("a",)
    assert [setting.label for setting in found.settings] == ["patch 4", "patch 8"]
    assert found.excluded == (
        "patch 12 has no finished and evaluated training yet",
        "not compared: 2 combinations of seed and fold that not all settings have finished",
        "not compared: 1 case that some settings were not evaluated on",
    )
    assert gather(settings_of_points([result(point(4, 0), {"a": 1}), result(point(8, 1), {"a": 1})])) is None
    assert gather(settings_of_points([result(point(4), {})])) is None
    assert gather(settings_of_points([result(point(4), {"a": 0}), result(point(8), {"b": 0})])) is None


def test_a_case_that_somebody_has_trained_on_is_not_compared() -> None:
    seen = result(point(8), {"a": 0.9}, role="used for training")
    both = result(point(8, fold=1), {"b": 0.7})
    found = scores_of(result(point(4), {"a": 0.5}), result(point(4, fold=1), {"b": 0.5}), seen, both)
    assert found.case_ids == ("b",)
    assert "not compared: 1 case that a run or its ancestor has trained on" in found.excluded[0]


def test_who_predicts_nothing_where_nothing_is_counts_as_right() -> None:
    found = scores_of(
        result(point(4), {"a": NAN, "b": NAN, "c": 0.5}), result(point(8), {"a": 0.0, "b": NAN, "c": 0.5})
    )
    assert found.dsc[:, :, 0].tolist()[0][0] == 1.0
    assert found.dsc[1, 0, 0] == 0.0
    assert np.isnan(found.dsc[:, 1, 0]).all()


def test_several_classes_come_first() -> None:
    found = scores_of(
        result(point(4), {"a": (0.2, 0.8), "b": (NAN, 0.4)}), result(point(8), {"a": (0.5, 0.5), "b": (NAN, 0.2)})
    )
    assert found.classes == ("1", "2")
    assert found.mean(0).mean == pytest.approx((0.2 + 0.6) / 2)
    expected = mean_over_classes({"1": [0.2, NAN], "2": [0.8, 0.4]}, ["a", "b"], within=(0, 1))
    assert found.mean(0) == expected
    table = tables.dsc_table(found)
    assert table.rows[0]["dsc_1"] == pytest.approx(0.2)
    assert table.rows[0]["dsc_2"] == pytest.approx(0.6)
    assert found.case_dsc[0] == pytest.approx([0.5, 0.4])


def many(patches: dict[int, float], seeds: int = 1, cases: int = 24, noise: float = 0.03) -> Scores:
    results = []
    for seed in range(seeds):
        for patch, mean in patches.items():
            generator = np.random.default_rng(100 * seed + patch)
            values = np.clip(mean + generator.normal(0, noise, cases), 0, 1)
            results.append(result(point(patch, seed), {f"p{n:02}": value for n, value in enumerate(values)}))
    return scores_of(*results)


def test_the_tables_hold_what_the_functions_return() -> None:
    found = many({4: 0.6, 8: 0.7, 12: 0.65}, seeds=2)
    table = tables.differences_table(found, [(0, 1), (2, 1)])
    expected = [compare_pairs(found.dsc[n, :, 0], found.dsc[1, :, 0], found.patients) for n in (0, 2)]
    for row, one in zip(table.rows, expected, strict=True):
        assert row["difference"] == one.difference.mean
        assert (row["difference_low"], row["difference_high"]) == one.difference.interval
        assert (row["difference_bootstrap_low"], row["difference_t_low"]) == (one.difference.low, one.difference.t_low)
        assert (row["wilcoxon_p"], row["false_order"]) == (one.wilcoxon_p, one.false_order)
    assert [row["holm_p"] for row in table.rows] == holm([one.wilcoxon_p for one in expected])
    regret = tables.regret_table(found, 1)
    one = cross_fitted_regret(found.case_dsc, found.patients, 0)
    assert (regret.rows[0]["regret"], regret.rows[0]["regret_low"]) == (one.mean, one.low)
    between = seed_fitted_regret(np.stack([t[:, :, 0] for t in found.by_seed.values()]), found.patients, 0)
    assert regret.rows[0]["seed_regret"] == pytest.approx(between.mean)
    assert regret.marked == {1}


def test_lesions_are_binned_by_size_and_averaged_over_seeds() -> None:
    first = [lesion("a", 1, 4.0, 0.0), lesion("a", 2, 7.0, 0.6), lesion("b", 1, 8.0, 0.2)]
    second = [lesion("a", 1, 4.0, 0.4), lesion("a", 2, 7.0, 0.8), lesion("b", 1, 8.0, 0.0)]
    cases = {"a": 0.5, "b": 0.5}
    found = scores_of(
        result(point(4, 0), cases, lesions=first), result(point(4, 1), cases, lesions=second),
        result(point(8, 0), cases, lesions=first), result(point(8, 1), cases, lesions=first),
    )  # fmt: skip
    [four, eight] = tables.sizes_table(found).rows
    assert (four["dsc_0"], four["n_0"], four["recall_0"]) == (pytest.approx(0.2), 1, 0.5)
    assert (four["dsc_1"], four["n_1"]) == (pytest.approx((0.7 + 0.1) / 2), 2)
    assert (eight["dsc_0"], eight["recall_1"]) == (0.0, 1.0)
    assert math.isnan(eight["dsc_3"])
    assert tables.dsc_table(found).rows[0]["recall"] == pytest.approx((0.5 + 1 + 0.5) / 3)
    assert tables.dsc_table(found).rows[0]["false_per_case"] == 2.0


def test_the_front_holds_what_nobody_beats() -> None:
    def costs(patch: int, dsc: float, hours: float, memory: float) -> object:
        return result(point(patch), {"a": dsc, "b": dsc}, hours=hours, memory_mib=memory)

    found = scores_of(
        costs(4, 0.7, 2.0, 300), costs(8, 0.7, 1.0, 300), costs(12, 0.6, 0.5, 200), costs(16, 0.5, 0.9, 250)
    )
    assert [row["pareto"] for row in tables.cost_table(found).rows] == [False, True, True, False]
    unknown = scores_of(costs(4, 0.7, NAN, NAN), costs(8, 0.6, 1.0, 300))
    assert [row["pareto"] for row in tables.cost_table(unknown).rows] == [True, False]


def test_equal_cost_is_read_where_the_cheapest_ends() -> None:
    curve = ((25, 0.1), (50, 0.3), (75, 0.2), (100, 0.6))
    dear = result(point(4), {"a": 0.6}, curve=curve, pflop=4.0, hours=2.0)
    cheap = result(point(8), {"a": 0.5}, curve=curve, pflop=3.0, hours=1.0)
    [first, second] = tables.equal_cost_table(settings_of_points([dear, cheap])).rows
    assert (first["dsc_equal_flop"], first["steps_equal_flop"]) == (0.3, 75)
    assert (first["dsc_equal_time"], first["steps_equal_time"]) == (0.3, 50)
    assert (second["dsc_equal_flop"], second["steps_equal_time"]) == (0.6, 100)
    [alone] = tables.equal_cost_table(settings_of_points([result(point(4), {}, pflop=NAN, hours=NAN)])).rows
    assert math.isnan(alone["dsc_equal_flop"])


def test_an_evaluation_with_other_mirroring_is_not_compared(tmp_path: Path) -> None:
    report = {"schema_version": EVALUATION_SCHEMA, "mirrored": True, "notes": [], "cases": []}
    (tmp_path / "evaluation.json").write_text(json.dumps(report), encoding="utf-8")
    (tmp_path / "lesions.csv").write_text("case_id,lesion\n", encoding="utf-8")
    assert _evaluation(tmp_path, mirrored=True) == ((), (), "")
    assert _evaluation(tmp_path, mirrored=False)[2] == "it was evaluated with mirrored windows, unlike the others"


def test_costs_that_differ_by_rounding_alone_are_equal() -> None:
    curve = ((25, 0.1), (100, 0.6))
    dear, cheap = (result(point(size), {"a": 0.6}, curve=curve, pflop=pflop) for size, pflop in ((4, 2.003), (8, 2.0)))
    settings = settings_of_points([dear, cheap])
    assert steps_at_equal(settings, "flop") == [[100], [100]]
    assert not costs_differ(settings, "flop")
    dearer = settings_of_points([replace(dear, pflop=2.2), cheap])
    assert steps_at_equal(dearer, "flop") == [[pytest.approx(90.9, abs=0.1)], [100]]
    assert costs_differ(dearer, "flop")


def test_equal_cost_of_a_training_that_ended_early_counts_its_own_steps() -> None:
    early = result(point(4), {"a": 0.6}, steps=50, pflop=2.0)
    whole = result(point(8), {"a": 0.6}, pflop=1.0)
    assert steps_at_equal(settings_of_points([early, whole]), "flop") == [[25], [100]]
    assert [row["steps"] for row in tables.cost_table(scores_of(early, whole)).rows] == [50, 100]


def with_cases(path: Path, patch: int, steps: Mapping[int, Sequence[float]], *, hours: float, pflop: float) -> object:
    """Return a result with the cases of its validations: step → DSC of cases p00, p01 …; NaN: not defined."""
    (path / "cases").mkdir(parents=True)
    for step, values in steps.items():
        lines = [
            json.dumps({"case_id": f"p{n:02}", "dsc": None if math.isnan(dsc) else dsc}) + "\n"
            for n, dsc in enumerate(values)
        ]
        (path / "cases" / f"v{step}.jsonl").write_text("".join(lines), encoding="utf-8")
    curve = tuple((step, float(np.nanmean(values))) for step, values in steps.items())
    last = list(steps.values())[-1]
    return result(
        point(patch), {f"p{n:02}": dsc for n, dsc in enumerate(last)}, curve=curve, run=path, hours=hours, pflop=pflop,
        validation_ids=tuple(f"v{step}" for step in steps),
    )  # fmt: skip


def test_regret_at_equal_cost_comes_from_the_cases_of_the_validations(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    early, late, coarse = (np.clip(mean + generator.normal(0, 0.02, 20), 0, 1) for mean in (0.5, 0.8, 0.7))
    dear = with_cases(tmp_path / "4", 4, {50: early, 100: late}, hours=2.0, pflop=2.0)
    cheap = with_cases(tmp_path / "8", 8, {50: coarse - 0.3, 100: coarse}, hours=1.0, pflop=2.0)
    found = scores_of(dear, cheap)
    names = [f"p{n:02}" for n in range(20)]
    expected = cross_fitted_regret(np.stack([early, coarse]), names, 0)
    at_equal = regrets_at_equal(found, "time")
    assert at_equal is not None
    assert at_equal[0] == expected
    assert expected.mean == pytest.approx(0.2, abs=0.02)
    table = tables.regret_table(found, 1)
    assert [row["regret_equal_time"] for row in table.rows] == [expected.mean, at_equal[1].mean]
    # At the end the finer one is better; its FLOP are equal, so that measure has no column.
    assert table.rows[0]["regret"] < 0.01 < table.rows[1]["regret"]
    assert "regret_equal_flop" not in table.rows[0]
    rules = tables.rules_table(found, protocol([point()]).plan)
    chosen = next(row for row in rules.rows if row["patch_size"] == "8")
    assert chosen["regret_equal_time"] == at_equal[1].mean
    assert {"regret_equal_time", "regret_equal_time_low"} <= set(tables.NOT_REPEATABLE)


def test_who_predicts_nothing_where_nothing_is_counts_as_right_at_equal_cost(tmp_path: Path) -> None:
    dear = with_cases(tmp_path / "4", 4, {50: [0.5, NAN, NAN, 0.4], 100: [0.6, NAN, NAN, 0.6]}, hours=2.0, pflop=2.0)
    cheap = with_cases(tmp_path / "8", 8, {100: [0.4, 0.0, NAN, 0.4]}, hours=1.0, pflop=2.0)
    at_equal = regrets_at_equal(scores_of(dear, cheap), "time")
    assert at_equal is not None
    expected = cross_fitted_regret([[0.5, 1.0, NAN, 0.4], [0.4, 0.0, NAN, 0.4]], ["p00", "p01", "p02", "p03"], 1)
    assert at_equal[1].mean == expected.mean
    assert at_equal[1].n == 3
    # Without a validation before the limit there is nothing to say.
    late = with_cases(tmp_path / "12", 12, {100: [0.6, NAN, NAN, 0.6]}, hours=2.0, pflop=2.0)
    assert regrets_at_equal(scores_of(late, cheap), "time") is None


def test_a_training_that_still_rises_has_not_converged() -> None:
    assert rise_at_end(((80, 0.50), (100, 0.515)), 100) == pytest.approx(0.015)
    assert rise_at_end(((81, 0.5), (100, 0.6)), 100) != rise_at_end(((80, 0.5), (100, 0.6)), 100)
    assert math.isnan(rise_at_end(((90, 0.5),), 100))
    late = result(point(4), {"a": 0.5}, curve=((80, 0.4), (100, 0.6)))
    assert late.converged is False
    assert tables.converged(settings_of_points([late])[0]) == "not converged (1 of 1)"
    even = result(point(4), {"a": 0.5}, curve=((80, 0.5), (100, 0.509)))
    assert even.converged is True
    never = settings_of_points([result(point(4), {"a": 0.5}, curve=())])[0]
    assert tables.converged(never) == "not known"


@pytest.mark.parametrize(
    ("patches", "words"),
    [
        ({4: 0.6, 8: 0.8}, "No other setting has a higher mean: the choice was the best"),
        ({4: 0.8, 8: 0.6}, "This choice lost: patch 4 has 0.8"),
    ],
)
def test_the_choice_of_the_rule_is_put_into_words(patches: dict[int, float], words: str) -> None:
    found = many(patches, seeds=2)
    [text] = verdicts(found, protocol([point()]), 1)
    assert text.startswith("The rule mean-volume chose patch 8, mean DSC 0.")
    assert words in text
    assert "cross-fitted" in text


def test_noise_is_called_noise() -> None:
    results = []
    for patch, values in ((4, [0.5, 0.7] * 12), (8, [0.7, 0.49] * 12)):
        results.append(result(point(patch), {f"p{n:02}": value for n, value in enumerate(values)}))
    texts = verdicts(scores_of(*results), protocol([point()]), 1)
    assert "the choice is within noise of the best" in texts[0]
    assert texts[1].startswith("Only one seed")


def test_limits_are_said() -> None:
    late = ((80, 0.4), (100, 0.6))
    found = scores_of(result(point(4), {"a": 0.5, "b": 0.6}, curve=late), result(point(8), {"a": 0.4, "b": 0.5}))
    texts = verdicts(found, protocol([point()]), None)
    assert texts[0].startswith("Highest mean DSC: patch 4, 0.550")
    assert "The patch size of the plan was not trained" in texts[0]
    assert texts[1].startswith("Only 2 patients")
    assert texts[-1].startswith("Not converged: patch 4.")
    alone = verdicts(scores_of(result(point(4), {"a": 0.5})), protocol([point()]), 0)
    assert "There is nothing to compare yet" in alone[0]
    one = verdicts(scores_of(*(result(point(p), {"a-1": 0.5, "a-2": 0.6}) for p in (4, 8))), protocol([point()]), 0)
    assert "too few patients" in one[0]
    two = {4: {"a": 0.6, "b": 0.55}, 8: {"a": 0.7, "b": 0.69}}
    lost = verdicts(scores_of(*(result(point(p), values) for p, values in two.items())), protocol([point()]), 0)
    assert "too few patients" in lost[0]  # every sample of two patients is the same, so nothing is known


def transfer_points(gain: float, seeds: int = 1) -> list[object]:
    found = []
    for kind, source, mean in (("fine-tuning", "large", 0.6 + gain), ("scratch", "", 0.5), ("scratch-both", "", 0.6)):
        values = {"training": kind, "source": source, "target": "small", "patch_size": "8"}
        generator = np.random.default_rng(len(kind))
        scores = {f"p{n:02}": mean + value for n, value in enumerate(generator.normal(0, 0.02, 20))}
        found.append(result(point(8, values=values, point_id=kind), scores))
    return found


@pytest.mark.parametrize(("gain", "words"), [(0.1, "better than"), (-0.08, "worse than"), (0.0, "within noise of")])
def test_a_transfer_is_compared_with_both_controls(gain: float, words: str) -> None:
    found = scores_of(*transfer_points(gain))
    assert [setting.label for setting in found.settings] == [
        "fine-tuning from large, patch 8", "scratch, patch 8", "scratch, both budgets, patch 8",
    ]  # fmt: skip
    table = tables.gains_table(found, "small")
    [row] = table.rows
    expected = compare_pairs(found.case_dsc[0], found.case_dsc[2], found.patients).difference
    assert (row["gain_scratch_both"], row["gain_scratch_both_low"]) == (expected.mean, expected.patient_low)
    assert row["gain_scratch"] == pytest.approx(0.1 + gain, abs=0.02)
    text = transfer_verdicts(found, table)[0]
    assert text.startswith("Pre-training on large, patch 8:")
    assert f"{words} training from scratch with all steps" in text


def test_rules_are_scored_where_their_size_was_trained() -> None:
    found = many({4: 0.6, 8: 0.7})
    table = tables.rules_table(found, protocol([point()]).plan)
    sizes = {row["rule"]: (row["patch_size"], row["regret"]) for row in table.rows}
    known = {"4": 0, "8": 1}
    for size, regret in sizes.values():
        if size in known:
            assert regret == cross_fitted_regret(found.case_dsc, found.patients, known[size]).mean
        else:
            assert math.isnan(regret)


def test_every_number_has_a_row() -> None:
    results = [result(point(4), {"a": (0.5, 0.6)}, lesions=[lesion("a", 1, 4, 0.3)], added=1), result(point(8), {})]
    assert len(tables.cases_table(results).rows) == 2
    assert tables.lesions_table(results).rows[0]["dsc"] == 0.3
    assert len(tables.curves_table(results).rows) == 6
    rows = tables.points_table(results).rows
    assert rows[0]["added_by_extension"] == 1
    assert rows[1]["added_by_extension"] is None
    own = [name for name in tables.NOT_REPEATABLE if name != "pareto" and "equal_time" not in name]
    assert set(own) <= set(rows[0])


def test_the_worst_cases_come_first() -> None:
    values = {f"p{n:02}": n / 20 for n in range(15)}
    found = scores_of(result(point(4), values | {"p03": NAN}), result(point(8), values | {"p03": NAN}))
    table = tables.worst_table(found, 1)
    assert [row["case_id"] for row in table.rows][:4] == ["p00", "p01", "p02", "p04"]
    assert len(table.rows) == 10


def test_with_a_second_axis_the_choice_of_the_rule_is_not_scored() -> None:
    results = []
    for patch, rate in ((4, "1e-3"), (8, "1e-3"), (8, "1e-4")):
        values = {"patch_size": str(patch), "optim.lr": rate}
        results.append(result(point(patch, values=values), {"a": patch / 20, "b": patch / 20}))
    axes = {"patch_size": ("4", "8"), "optim.lr": ("1e-3", "1e-4")}
    texts = verdicts(scores_of(*results), protocol([point()], over=axes), None)
    assert "the choice of the rule alone is not scored" in texts[0]
    assert "was not trained" not in texts[0]


def test_cases_without_lesion_count_alike_in_all_seeds_and_are_named() -> None:
    found = scores_of(
        result(point(4, 0), {"a": 0.0, "b": 0.5}), result(point(4, 1), {"a": NAN, "b": 0.5}),
        result(point(8, 0), {"a": NAN, "b": 0.5}), result(point(8, 1), {"a": NAN, "b": 0.5}),
    )  # fmt: skip
    assert found.dsc[:, 0, 0].tolist() == [0.5, 1.0]
    assert found.excluded[0].startswith("3 scores of cases without lesion count as 1")
    nothing = [result(point(patch), {"a": NAN}) for patch in (4, 8)]
    assert gather(settings_of_points(nothing)) is None


def test_one_patient_says_nothing_about_a_transfer() -> None:
    points = []
    for kind, source in (("fine-tuning", "large"), ("scratch", "")):
        values = {"training": kind, "source": source, "target": "small", "patch_size": "8"}
        points.append(result(point(8, values=values, point_id=kind), {"a-1": 0.5, "a-2": 0.6}))
    found = scores_of(*points)
    text = transfer_verdicts(found, tables.gains_table(found, "small"))[0]
    assert "too few patients to say more" in text
    assert "nan" not in text


def test_tests_use_one_value_per_patient() -> None:
    first = {f"p{number}-{scan}": 0.5 + 0.01 * number for number in range(8) for scan in range(3)}
    found = scores_of(result(point(4), first), result(point(8), dict.fromkeys(first, 0.5)))
    [row] = tables.differences_table(found, [(0, 1)]).rows
    expected = compare_pairs([0.5 + 0.01 * number for number in range(8)], [0.5] * 8)
    assert row["n"] == 24
    assert (row["wilcoxon_p"], row["false_order"]) == pytest.approx((expected.wilcoxon_p, expected.false_order))


def test_the_means_of_a_training_and_of_its_seeds_are_classes_first() -> None:
    """The second class is in one case only; pooled, it would count less than the first."""
    nan = math.nan
    first = {"a": [0.5, nan], "b": [0.7, 0.2], "c": [nan, nan]}
    other = {"a": [0.6, nan], "b": [0.8, 0.5], "c": [nan, nan]}
    results = [result(point(4, seed), scores) for seed, scores in ((0, first), (1, other))]
    [one, _] = tables.points_table(results).rows
    assert (one["dsc"], one["n"]) == (pytest.approx((0.6 + 0.2) / 2), 2)
    found = scores_of(*results)
    assert found.seed_deviation(0) == pytest.approx(np.std([(0.6 + 0.2) / 2, (0.7 + 0.5) / 2], ddof=1))


def test_the_protocol_names_what_was_added_and_the_steps_of_a_transfer(tmp_path: Path) -> None:
    folder = ExperimentFolder.create(tmp_path, protocol([point(4), point(8)]))
    assert (_values(folder, "patch_size"), _budget(folder)) == (["4", "8"], "equal steps")
    facts = {"created": "2026-01-02T00:00:00Z", "user": "a@b", "patchcore": "0", "finished": 2}
    folder.extend(Extension(**facts, points=(point(12, seed=3),)))  # type: ignore[arg-type]
    assert _values(folder, "patch_size") == ["4", "8", "12"]
    kinds = (("pre-training", 200), ("fine-tuning", 50), ("scratch", 50))
    points = [point(8, values={"training": kind}, steps=steps, point_id=kind) for kind, steps in kinds]
    other = ExperimentFolder.create(tmp_path, protocol(points, name="t", kind="transfer"))
    assert _budget(other) == "steps: pre-training 200, fine-tuning 50, scratch 50"


def test_several_targets_are_named_in_labels() -> None:
    values = {"training": "scratch", "source": "", "target": "small", "patch_size": "8"}
    points = [result(point(8, values=values), {"a": 0.5})]
    assert settings_of_points(points, name_target=True)[0].label == "scratch to small, patch 8"
