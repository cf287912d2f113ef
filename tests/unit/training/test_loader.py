"""Batches depend on seed and step only; HU augmentation, optimiser and progress work as documented."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from patchcore.config import resolve_config
from patchcore.config.run import AugmentConfig
from patchcore.errors import ConfigError, CorruptFileError, DataError
from patchcore.lesions.measure import lesion_spans
from patchcore.models.device import Placement
from patchcore.store import write_array
from patchcore.store.prepare import PreparedCase
from patchcore.training import loader as loader_module
from patchcore.training.augment import draw_augmentation, shifted_range
from patchcore.training.hard_points import read_hard_points
from patchcore.training.loader import Batch, BatchLoader, BatchSource, LoaderSettings
from patchcore.training.optim import learning_rate, make_optimizer
from patchcore.training.progress import Progress, case_set_id
from patchcore.windows.extract import extract_windows
from patchcore.windows.sampling import DrawKind
from tiny_plan import tiny_target


def make_case(folder: Path, number: int) -> PreparedCase:
    generator = np.random.default_rng(number)
    shape = (20 + number, 14, 9)
    label = np.zeros(shape, dtype=np.uint8)
    label[3:6, 4:7, 2:5] = 1
    label[10:12, 9:11, 6:8] = 1
    image = generator.integers(-200, 400, shape).astype(np.int16)
    spans = lesion_spans(label, labels=[1])
    path = folder / f"case_{number}"
    path.mkdir()
    write_array(path / "image", image)
    write_array(path / "label", label)
    np.save(path / "spans.npy", np.column_stack([spans.lesion, spans.origin, spans.length]).astype(np.int32))
    return PreparedCase(
        case_id=path.name,
        patient=path.name,
        path=path,
        shape=shape,
        spacing=(1.0, 1.0, 1.0),
        class_voxels=(int(label.sum()),),
        lesion_voxels=tuple(spans.voxel_count.tolist()),
        span_axis=spans.axis,
    )


@pytest.fixture
def cases(tmp_path: Path) -> list[PreparedCase]:
    return [make_case(tmp_path, number) for number in range(3)]


def source_of(cases: list[PreparedCase], *settings: str) -> BatchSource:
    config = resolve_config(settings=settings)
    return BatchSource(
        cases,
        (8, 8, 8),
        (-100.0, 200.0),
        classes=(2, 1),
        settings=LoaderSettings(seed=7, batch_size=3, sampling=config.sampling, augment=config.augment),
    )


def test_a_later_start_gives_the_same_batches(cases: list[PreparedCase]) -> None:
    source = source_of(cases)
    with BatchLoader(source, 0, 6) as loader:
        whole = [loader.next() for _ in range(6)]
    with BatchLoader(source_of(cases), 4, 6) as loader:
        resumed = [loader.next() for _ in range(2)]
    assert [batch.step for batch in whole] == list(range(6))
    for a, b in zip(whole[4:], resumed, strict=True):
        assert torch.equal(a.image, b.image)
        assert torch.equal(a.label, b.label)
        assert np.array_equal(a.augmentation, b.augmentation)


def test_no_batch_equals_another(cases: list[PreparedCase]) -> None:
    source = source_of(cases)
    images = [source.batch(step).image for step in range(4)]
    assert not any(torch.equal(a, b) for n, a in enumerate(images) for b in images[:n])


def test_leaving_early_ends_the_thread(cases: list[PreparedCase]) -> None:
    with BatchLoader(source_of(cases), 0, 10**9) as loader:
        loader.next()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("windows")]


def test_a_damaged_case_is_reported_where_the_batch_is_asked_for(cases: list[PreparedCase]) -> None:
    for case in cases:
        (case.path / "image" / "c" / "0" / "0" / "0").write_bytes(b"")
    with BatchLoader(source_of(cases), 0, 5) as loader, pytest.raises(CorruptFileError, match="case_"):
        loader.next()


def test_a_damaged_case_is_not_taken_for_one_whose_name_begins_like_its(tmp_path: Path) -> None:
    cases = [make_case(tmp_path, 1), make_case(tmp_path, 10)]
    (cases[1].path / "image" / "c" / "0" / "0" / "0").write_bytes(b"")
    source = source_of(cases)
    seen = set()
    for step in range(20):
        try:
            source.batch(step)
        except CorruptFileError as error:
            seen.add(error.case_id)
    assert seen == {"case_10"}


def test_lesions_seen_are_those_in_the_windows(cases: list[PreparedCase]) -> None:
    source = source_of(cases, "sampling.lesion_share=0.5")
    drawn = set()
    for step in range(20):
        batch = source.batch(step)
        drawn |= batch.lesions_drawn
        assert batch.lesions_drawn <= batch.lesions_seen
        shown = {int(batch.draws.case[n]) for n, window in enumerate(batch.label) if window.any()}
        assert shown == {case for case, _ in batch.lesions_seen}
    assert len(drawn) == 6


def test_ranks_share_the_windows_of_one(cases: list[PreparedCase]) -> None:
    whole = source_of(cases).batch(5)
    for rank in range(3):
        part = BatchSource(
            cases,
            (8, 8, 8),
            (-100.0, 200.0),
            classes=(2, 1),
            settings=LoaderSettings(seed=7, batch_size=3, augment=AugmentConfig(), rank=rank, world_size=3),
        )
        assert torch.equal(part.batch(5).image[0], whole.image[rank])
    with pytest.raises(ConfigError, match="rank 2 of 2"):
        BatchSource(cases, (8, 8, 8), (-100.0, 200.0), classes=(2, 1), settings=LoaderSettings(rank=2, world_size=2))


def test_the_time_that_is_waited_is_known(cases: list[PreparedCase], monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(cases)
    make = source.batch
    with BatchLoader(source, 0, 20) as loader:
        loader.next()
        time.sleep(max(0.3, 3 * loader.waited_s))
        loader.next()
        assert loader.waited_share < 0.5

    def slow(step: int) -> Batch:
        time.sleep(0.05)
        return make(step)

    monkeypatch.setattr(source, "batch", slow)
    with BatchLoader(source, 0, 6) as loader:
        for _ in range(6):
            loader.next()
        assert loader.waited_share > 0.5
        with pytest.raises(StopIteration):
            loader.next()


def test_several_threads_give_the_same_batches_in_order(cases: list[PreparedCase]) -> None:
    with BatchLoader(source_of(cases), 0, 30, threads=4) as many, BatchLoader(source_of(cases), 0, 30) as one:
        for step in range(30):
            a, b = many.next(), one.next()
            assert a.step == b.step == step
            assert torch.equal(a.image, b.image)


def test_organs_hard_points_and_cases_without_lesions(cases: list[PreparedCase], tmp_path: Path) -> None:
    np.save(cases[1].path / "class_spans.npy", np.array([[2, 0, 0, 0, 3]], np.int32))
    for number in (0, 2):
        np.save(cases[number].path / "class_spans.npy", np.empty((0, 5), np.int32))
    hard = tmp_path / "hard.csv"
    hard.write_text("case_id,x_mm,y_mm,z_mm,weight\ncase_2,19,1,1,1\nanother,0,0,0,9\n")
    source = source_of(
        cases, "sampling.organ_label=1", "sampling.organ_share=0.3", f"sampling.hard_points={hard}",
        "sampling.hard_share=0.2",
    )  # fmt: skip
    draws = [source.batch(step).draws for step in range(100)]
    kind = np.concatenate([draw.kind for draw in draws])
    case = np.concatenate([draw.case for draw in draws])
    voxel = np.concatenate([draw.voxel for draw in draws])
    assert set(case[kind == DrawKind.ORGAN]) == {1}
    assert (voxel[kind == DrawKind.ORGAN] <= [2, 0, 0]).all() or (voxel[kind == DrawKind.ORGAN] <= [0, 0, 2]).all()
    assert (voxel[kind == DrawKind.HARD] == [19, 1, 1]).all()
    for wanted, share in ((DrawKind.ORGAN, 0.3), (DrawKind.HARD, 0.2), (DrawKind.LESION, 0.5)):
        assert abs((kind == wanted).mean() - share) < 0.1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("case_id,x_mm\n", "missing columns: y_mm"),
        ("case_id,x_mm,y_mm,z_mm,weight\ncase_0,1,1,x,1\n", "line 2: coordinates and weight must be numbers"),
        ("case_id,x_mm,y_mm,z_mm,weight\ncase_0,1,1,400,1\n", "mm is outside its case"),
        ("case_id,x_mm,y_mm,z_mm,weight\nother,1,1,1,1\n", "contains no training case"),
    ],
)
def test_hard_points_that_are_none(cases: list[PreparedCase], tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "hard.csv").write_text(text)
    with pytest.raises(DataError, match=words):
        read_hard_points(tmp_path / "hard.csv", cases)


def test_shares_that_cannot_be(cases: list[PreparedCase]) -> None:
    with pytest.raises(ConfigError, match="is not one of the plan's classes"):
        source_of(cases, "sampling.organ_label=7")
    with pytest.raises(ConfigError, match=r"is set without sampling\.organ_label"):
        source_of(cases, "sampling.organ_share=0.1")
    with pytest.raises(DataError, match="every case has a lesion"):
        source_of(cases, "sampling.lesion_free_share=0.1")


def test_moving_the_range_is_shifting_and_scaling_hu() -> None:
    hu: npt.NDArray[np.float32] = np.linspace(-300, 500, 8**3, dtype=np.float32).reshape(8, 8, 8)
    low, high = -100.0, 200.0
    config = AugmentConfig(hu_shift=0.2, hu_scale=0.3)
    for draw in draw_augmentation(3, 11, np.arange(5, dtype=np.uint32)):
        shift, scale = (2 * draw[3] - 1) * 0.2 * 300, 1 + (2 * draw[4] - 1) * 0.3
        expected = (((hu - 50) * scale + 50 + shift).clip(low, high) - low) / (high - low)
        moved = shifted_range(draw, (low, high), config)
        found = extract_windows(hu, (0, 0, 0), (8, 8, 8), hu_range=moved).image[0]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_weight_decay_is_for_matrices_and_frozen_weights_stay_outside() -> None:
    from patchcore.models import UNETR

    network = UNETR(1, 2, 16, 8, hidden_size=48, mlp_dim=96, num_heads=4, feature_size=4)
    decayed, plain = make_optimizer(network, resolve_config().optim).param_groups
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    assert all(parameter.ndim >= 2 for parameter in decayed["params"])
    assert plain["weight_decay"] == 0.0
    optimised = {names[id(parameter)] for group in (decayed, plain) for parameter in group["params"]}
    assert {name for name in names.values() if name not in optimised} == {
        name for name in names.values() if "norm_cross_attn" in name
    }
    assert "vit.patch_embedding.position_embeddings" in {names[id(parameter)] for parameter in plain["params"]}


def test_learning_rate_rises_then_falls() -> None:
    config = resolve_config(settings=["optim.lr=1.0", "optim.warmup_steps=10", "optim.min_lr_share=0.1"]).optim
    rates = [learning_rate(step, 100, config) for step in range(101)]
    assert rates[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert rates[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(rates[10:]))
    # Warm-up takes at most half of a short run.
    assert max(learning_rate(step, 6, config) for step in range(6)) == 1.0


def test_best_is_chosen_on_one_set_of_cases() -> None:
    progress = Progress()
    assert progress.improves(float("nan"), "a")
    progress = Progress.from_state(
        json.loads(json.dumps({"step": 3, "best": {"dsc_mean": 0.5, "step": 2, "case_set": "a"}}))
    )
    assert not progress.improves(0.5, "a")
    assert not progress.improves(float("nan"), "a")
    assert progress.improves(0.6, "a")
    assert progress.improves(0.1, "b")
    assert case_set_id(["x", "y"]) == case_set_id(["y", "x"]) != case_set_id(["x"])


def test_a_case_without_lesions_has_none_of_any_label(cases: list[PreparedCase]) -> None:
    """One label has lesions in every case but the last, the other in the first case only."""
    empty = lesion_spans(np.zeros(cases[2].shape, np.uint8))
    np.save(cases[2].path / "spans.npy", np.empty((0, 5), np.int32))
    cases[2] = replace(cases[2], lesion_voxels=())
    one = np.zeros(cases[0].shape, np.uint8)
    one[15:17, 2:4, 2:4] = 1
    other = [lesion_spans(one), empty, empty]
    settings = LoaderSettings(
        batch_size=2, sampling=resolve_config(settings=["sampling.lesion_free_share=0.4"]).sampling
    )
    source = BatchSource(cases, (8, 8, 8), (-100.0, 200.0), classes=(1, 2), settings=settings, other_lesions=[other])
    draws = [source.draw(step, np.arange(2, dtype=np.uint32)) for step in range(60)]
    free = [int(case) for one in draws for case, kind in zip(one.case, one.kind, strict=True) if kind == 4]
    assert set(free) == {2}
    assert len(free) > 20


def test_lesions_of_every_label_are_drawn_equally_often(cases: list[PreparedCase]) -> None:
    """One label has two lesions in every case; the other has one lesion, in one case only."""
    few = np.zeros(cases[1].shape, np.uint8)
    few[15:17, 2:4, 2:4] = 1
    none = [lesion_spans(np.zeros(case.shape, np.uint8)) for case in cases]
    other = [none[0], lesion_spans(few), none[2]]
    settings = LoaderSettings(
        seed=3, batch_size=3, sampling=resolve_config(settings=["sampling.lesion_share=1"]).sampling
    )
    source = BatchSource(cases, (8, 8, 8), (-100.0, 200.0), classes=(1, 2), settings=settings, other_lesions=[other])
    positions = np.arange(3, dtype=np.uint32)
    draws = [source.draw(step, positions) for step in range(200)]
    drawn = [(int(case), int(lesion)) for one in draws for case, lesion in zip(one.case, one.lesion, strict=True)]
    second = [pair for pair in drawn if pair == (1, 2)]
    assert len(second) == 300
    assert set(drawn) == {(case, lesion) for case in range(3) for lesion in range(2)} | {(1, 2)}
    for one in draws[:20]:
        for case, lesion, corner in zip(one.case, one.lesion, one.corner, strict=True):
            if (case, lesion) == (1, 2):
                part = tuple(slice(max(0, c), c + 8) for c in corner.tolist())
                assert few[part].any()
    # A position is drawn alone as with the others, and every lesion in a window is counted.
    for step in range(6):
        whole = source.draw(step, positions)
        for position in range(3):
            alone = source.draw(step, positions[position : position + 1])
            assert alone.corner.tolist() == whole.corner[position : position + 1].tolist()
            assert alone.lesion.tolist() == whole.lesion[position : position + 1].tolist()
        batch = source.batch(step)
        assert batch.lesions_drawn <= batch.lesions_seen


def test_the_settings_of_sampling_and_the_rank_reach_the_sampler(
    cases: list[PreparedCase], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, object]] = []

    class Recorder(loader_module.WindowSampler):
        def __init__(self, *arguments: object, **options: object) -> None:
            given.append(options)
            super().__init__(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(loader_module, "WindowSampler", Recorder)
    config = resolve_config(
        settings=["sampling.alpha=0.25", "sampling.lesion_share=0.5", "train.batch_size=4", "seed=5"]
    )
    target = tiny_target(classes=1)
    source = loader_module.training_windows(cases, config, target, Placement(torch.device("cpu"), None, 1, 2), rank=1)
    [options] = given
    assert (options["alpha"], options["lesion_share"], options["seed"]) == (0.25, 0.5, 5)
    assert source.positions.tolist() == [1, 3]
    assert source.settings.rank == 1


def test_labels_take_turns_from_the_first(cases: list[PreparedCase]) -> None:
    source = source_of(cases, "sampling.lesion_share=1", "sampling.organ_share=0")
    one = source._samplers[0]
    count = sum(len(case.lesion_voxels) for case in cases)
    source._samplers = [one, (one[0], np.full(len(cases), count))]
    draws = source.draw(0, np.arange(3, dtype=np.uint32))
    assert [bool(lesion >= count) for lesion in draws.lesion] == [False, True, False]
    draws = source.draw(1, np.arange(3, dtype=np.uint32))
    assert [bool(lesion >= count) for lesion in draws.lesion] == [True, False, True]


def test_other_lesions_follow_the_plans_connectivity(cases: list[PreparedCase], tmp_path: Path) -> None:
    label = np.zeros(cases[0].shape, np.uint8)
    label[2:4, 2:4, 2:4] = label[4:6, 4:6, 4:6] = 1  # they touch at a corner
    path = tmp_path / "touching"
    path.mkdir()
    write_array(path / "label", label)
    touching = replace(cases[0], path=path)
    for connectivity, count in ((6, 2), (26, 1)):
        target = tiny_target(connectivity=connectivity, lesion_labels=(1, 2))
        [[spans]] = loader_module.other_lesions([touching], target)
        assert len(spans.voxel_count) == count


def test_progress_is_kept_in_full() -> None:
    progress = Progress()
    progress.step, progress.epoch_steps, progress.stale = 7, 3, 2
    again = Progress.from_state(json.loads(json.dumps(progress.to_state())))
    assert (again.step, again.epoch_steps, again.stale) == (7, 3, 2)
