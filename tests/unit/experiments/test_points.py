"""Points of a sweep: all combinations, checked before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from patchcore.config import resolve_config
from patchcore.errors import ConfigError, PatchSizeError
from patchcore.experiments.options import resolve_options
from patchcore.experiments.points import make_points, parse_axes, settings_of_toml, training_flop
from tiny_plan import tiny_plan

SMALL = ("model.preset=tiny", "train.steps=100", "train.folds=3")


def test_axes_are_read_in_order() -> None:
    assert parse_axes(["patch_size=8, 12,8x8x4", "optim.lr=1e-3"]) == {
        "patch_size": ("8", "12", "8x8x4"),
        "optim.lr": ("1e-3",),
    }


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ([], "at least one axis"),
        (["patch_size"], "not an axis"),
        (["patch_size="], "not an axis"),
        (["patch_size=8,,12"], "not an axis"),
        (["patchsize=8"], "no such setting; did you mean patch_size"),
        (["optim.lrr=8"], "did you mean optim.lr"),
        (["seed=0,1"], "use --seeds"),
        (["train.fold=0,1"], "use --folds"),
        (["train.fold_seed=0,1"], "the same for all points"),
        (["patch_size=8,8"], "a value is given twice"),
        (["patch_size=8", "patch_size=12"], "the axis is given twice"),
    ],
)
def test_what_is_not_an_axis_is_refused(texts: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_axes(texts)


def test_points_are_all_combinations_with_each_seed_and_fold() -> None:
    axes = parse_axes(["patch_size=8,8x8x4", "optim.lr=1e-3,4e-4"])
    points = make_points(tiny_plan(), axes, seeds=(0, 1), folds=(0, 2), settings=SMALL, budget="steps")
    assert len(points) == len({point.point_id for point in points}) == 16
    last = points[-1]
    assert last.point_id == "patch8x8x4_lr-4e-4_seed1_fold2"
    assert last.patch_size == (8, 8, 4)
    assert last.settings == ("optim.lr=4e-4", "seed=1", "train.fold=2")
    assert {point.steps for point in points} == {100}


def test_equal_flops_are_counted_from_the_plans_patch_size() -> None:
    axes = parse_axes(["patch_size=4,8"])
    fine, own = make_points(tiny_plan(), axes, seeds=(0,), folds=(0,), settings=SMALL, budget="flops")
    assert tiny_plan().patch_size == own.patch_size
    assert own.steps == 100
    assert fine.gflop_per_window is not None
    assert own.gflop_per_window is not None
    assert fine.steps == round(100 * own.gflop_per_window / fine.gflop_per_window) < 100
    assert f"train.steps={fine.steps}" in fine.settings
    with pytest.raises(ConfigError, match=r"train.steps cannot be an axis"):
        make_points(
            tiny_plan(), parse_axes(["train.steps=5,6"]), seeds=(0,), folds=(0,), settings=SMALL, budget="flops"
        )
    with pytest.raises(ConfigError, match="the FLOP of dynunet are not known"):
        make_points(
            tiny_plan(), parse_axes(["model.network=unetr,dynunet"]), seeds=(0,), folds=(0,), settings=SMALL,
            budget="flops",
        )  # fmt: skip


def test_what_cannot_be_trained_is_refused_before_anything_starts() -> None:
    def points(axis: str, fold: int = 0) -> None:
        make_points(tiny_plan(), parse_axes([axis]), seeds=(0,), folds=(fold,), settings=SMALL, budget="steps")

    with pytest.raises(PatchSizeError, match="patch_size 12 does not divide window_size"):
        points("patch_size=8,12")
    with pytest.raises(PatchSizeError, match="patch size 11 is not a product"):
        points("patch_size=11")
    with pytest.raises(ConfigError, match="'8x8' is not a patch size"):
        points("patch_size=8x8")
    with pytest.raises(ConfigError, match="'eight' is not a patch size"):
        points("patch_size=eight")
    with pytest.raises(ConfigError, match="fold 3 does not exist"):
        points("patch_size=8", fold=3)
    with pytest.raises(ConfigError, match=r"optim\.lr"):
        points("optim.lr=fast")
    with pytest.raises(ConfigError, match="two points have the same values"):
        points("patch_size=8,8x8x8")
    with pytest.raises(ConfigError, match=r"one network for several patch sizes.*--flexible"):
        make_points(
            tiny_plan(), parse_axes(["patch_size=4,8"]), seeds=(0,), folds=(0,),
            settings=[*SMALL, "model.patch_sizes=[4,8]"], budget="steps",
        )  # fmt: skip


@pytest.mark.parametrize(
    ("setting", "remedy"),
    [("seed=5", "--seeds"), ("train.fold=1", "--folds"), ("train.epochs=3", "give a number of steps")],
)
def test_what_an_experiment_sets_itself_cannot_be_set(setting: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match=f"{setting}: an experiment sets this itself.*{remedy}"):
        resolve_options({"settings": [setting]}, "name")
    resolve_options({"settings": ["seed=0", "train.fold=0", "train.epochs=0"]}, "name")


def test_a_point_may_fail_at_least_once() -> None:
    with pytest.raises(ConfigError, match="--failures 0; expected 1 or more"):
        resolve_options({"failures_allowed": 0}, "name")


def test_a_toml_file_becomes_settings(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('seed = 3\n[optim]\nlr = 1e-3\n[model]\nnetwork = "unetr"\n', encoding="utf-8")
    assert settings_of_toml(path) == ["seed=3", "optim.lr=0.001", 'model.network="unetr"']
    path.write_text("[optim", encoding="utf-8")
    with pytest.raises(ConfigError, match="not TOML"):
        settings_of_toml(path)


def test_equal_flop_counts_the_windows_of_a_step() -> None:
    axes = parse_axes(["train.batch_size=2,4"])
    points = make_points(tiny_plan(), axes, seeds=(0,), folds=(0,), settings=SMALL, budget="flops")
    assert [point.steps for point in points] == [100, 50]
    assert len({training_flop(point, SMALL) for point in points}) == 1
    later = make_points(
        tiny_plan(), parse_axes(["train.batch_size=8"]), seeds=(0,), folds=(0,), settings=SMALL, budget="flops",
        flop=training_flop(points[0], SMALL),
    )  # fmt: skip
    assert [point.steps for point in later] == [25]


def test_a_flexible_sweep_has_one_point_for_all_sizes() -> None:
    axes = parse_axes(["patch_size=4,8x8x4,8", "optim.lr=1e-3,4e-4"])
    points = make_points(
        tiny_plan(), axes, seeds=(0, 1), folds=(0,), settings=SMALL, budget="steps", flexible=True
    )  # fmt: skip
    assert [point.point_id for point in points] == [
        "flexible_lr-1e-3_seed0", "flexible_lr-1e-3_seed1", "flexible_lr-4e-4_seed0", "flexible_lr-4e-4_seed1",
    ]  # fmt: skip
    first = points[0]
    assert first.patch_sizes == ((4, 4, 4), (8, 8, 4), (8, 8, 8))
    assert first.patch_size == tiny_plan().patch_size == (8, 8, 8)
    assert resolve_config(settings=first.settings).model.patch_sizes == first.patch_sizes
    apart = make_points(
        tiny_plan(), parse_axes(["patch_size=4,8x8x4,8"]), seeds=(0,), folds=(0,), settings=SMALL, budget="steps"
    )
    flop = [point.gflop_per_window for point in apart]
    assert None not in flop
    assert first.gflop_per_window == pytest.approx(sum(map(float, flop)) / 3, abs=1e-5)  # type: ignore[arg-type]
    shares = (*SMALL, "model.patch_size_shares=[1,0,3]")
    [uneven] = make_points(
        tiny_plan(), parse_axes(["patch_size=4,8x8x4,8"]), seeds=(0,), folds=(0,), settings=shares, budget="steps",
        flexible=True,
    )  # fmt: skip
    assert uneven.gflop_per_window == pytest.approx((float(flop[0]) + 3 * float(flop[2])) / 4, abs=1e-5)  # type: ignore[arg-type]
    # A plan with another patch size is trained with the first one.
    [other] = make_points(
        tiny_plan(), parse_axes(["patch_size=4,16"]), seeds=(0,), folds=(0,), settings=SMALL, budget="steps",
        flexible=True,
    )  # fmt: skip
    assert other.patch_size == (4, 4, 4)
