"""Measure sampling from a store of a thousand lesions, and the time that a training loop waits for its windows.

Each step of the loop sleeps 25 ms, the time a fast GPU needs for two windows of 96³. The bar allows a waiting time of 3
% of a step. For information, the waiting time of common loaders on the same cases is shown as well.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import chisquare

import patchcore as pc
from benchmarks.rows import Row, data_folder
from patchcore.config.run import SamplingConfig
from patchcore.resampling.grid import Grid
from patchcore.store.case import Placed
from patchcore.store.facts import write_spans, write_table
from patchcore.store.prepared_case import PreparedCase
from patchcore.training.loader import BatchSource, LoaderSettings
from patchcore.windows.sampling import DrawKind

WINDOW = (96, 96, 96)
DRAWS = 100_000
CASES, LESIONS_A_CASE = 45, 25
STEP_S, STEPS, WARM = 0.025, 150, 10
BAR = 0.03


def run() -> list[Row]:
    """Bars 6 and 7."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        return [_sampler(Path(name) / "lesions"), *_waiting(Path(name))]


def _case(folder: Path, number: int) -> PreparedCase:
    """Create a case with 25 lesions of different sizes in an organ. Every ninth case has the organ but no lesions."""
    rng = np.random.default_rng(number)
    label = np.zeros((128, 128, 96), np.uint8)
    label[16:112, 16:112, 16:80] = 2
    count = 0 if number % 9 == 0 else LESIONS_A_CASE
    for n in range(count):
        edge = int(rng.integers(1, 12))
        low = np.array([18 + 18 * (n % 5), 18 + 18 * (n // 5), 20])
        label[tuple(slice(a, a + edge) for a in low)] = 1
    folder = folder / f"case_{number}"
    folder.mkdir(parents=True)
    grid = Grid.of(label.shape, np.eye(4), (1.0, 1.0, 1.0))
    placed = Placed(grid, (0, 0, 0), grid.shape)
    done = placed.write_labels(label, folder / "label", classes=(1, 2), lesion_label=1, connectivity=26, voxel_mm3=1.0)
    spans = done.spans
    table = np.column_stack([spans.lesion, spans.origin, spans.length]).astype(np.int32)
    write_spans(folder, table, spans.voxel_count, spans.axis, 1.0)
    write_table(folder / "class_spans.npy", done.other_classes)
    return PreparedCase(
        case_id=folder.name,
        patient=folder.name,
        path=folder,
        shape=grid.shape,
        spacing=(1.0, 1.0, 1.0),
        class_voxels=done.class_voxels,
        lesion_voxels=tuple(spans.voxel_count.tolist()),
        span_axis=spans.axis,
    )


def _sampler(folder: Path) -> Row:
    cases = [_case(folder, number) for number in range(CASES)]
    hard = folder / "hard.csv"
    hard.write_text("case_id,x_mm,y_mm,z_mm,weight\ncase_1,9,9,9,1\ncase_2,5,5,5,3\n")
    shares = {"lesion": 0.4, "organ": 0.2, "hard": 0.1, "lesion_free": 0.1}
    sampling = SamplingConfig(
        organ_label=2, hard_points=str(hard), **{f"{name}_share": share for name, share in shares.items()}
    )
    source = BatchSource(cases, WINDOW, (-100.0, 200.0), classes=(1, 2), settings=LoaderSettings(sampling=sampling))
    positions = np.arange(DRAWS, dtype=np.uint32)
    times = []
    for step in range(5):
        start = time.perf_counter()
        draws = source.draw(step, positions)
        times.append(time.perf_counter() - start)
    kinds = np.bincount(draws.kind, minlength=5)
    expected = np.array([1 - sum(shares.values()), *shares.values()]) * DRAWS
    assert [kind.name for kind in DrawKind] == ["ANYWHERE", "LESION", "ORGAN", "HARD", "LESION_FREE"]
    drawn = draws.kind == DrawKind.LESION
    lesion = draws.case[drawn] * LESIONS_A_CASE + draws.lesion[drawn]
    by_lesion = np.bincount(lesion, minlength=CASES * LESIONS_A_CASE)
    there = np.repeat([bool(case.lesion_voxels) for case in cases], LESIONS_A_CASE)
    found = [
        float(chisquare(kinds, expected).pvalue),
        # All cases with lesions have the same number of lesions, so all lesions are equally likely.
        float(chisquare(by_lesion[there], np.full(int(there.sum()), drawn.sum() / there.sum())).pvalue),
    ]
    inside = ((draws.corner <= draws.voxel) & (draws.voxel < draws.corner + WINDOW)).all(axis=1)
    equal = min(found) > 1e-3 and bool((inside | (draws.voxel < 0).all(axis=1)).all())
    note = f"chi-square: kinds p = {found[0]:.2f}, lesions p = {found[1]:.2f}"
    what = f"10⁵ draws of five kinds from a store of {int(there.sum())} lesions"
    return Row("6", what, float(np.median(times)), "one second", 1.0, 1, equal, note=note)


def _study(folder: Path) -> Path | None:
    """Create a study of real soft-tissue sarcomas at 1 mm, with volumes large enough for windows of 96³."""
    data = data_folder("sts")
    if data is None:
        return None
    study = pc.analyze(data, folder / "study")
    pc.plan_patch_size(study, spacing=(1.0, 1.0, 1.0), window_size=WINDOW)
    pc.prepare(study)
    return study.path


def _loop(batches: Iterator[Any]) -> float:
    """Return the seconds per step that a loop waits for its data after warm-up."""
    waited = 0.0
    for step in range(WARM + STEPS):
        start = time.perf_counter()
        next(batches)
        if step >= WARM:
            waited += time.perf_counter() - start
        time.sleep(STEP_S)
    return waited / STEPS


def _waiting(folder: Path) -> list[Row]:
    study = _study(folder)
    if study is None:
        return []
    allowed = BAR * STEP_S
    rows = []
    for what, given in (
        ("waiting for 2 windows of 96³ per step of 25 ms", {}),
        ("the same without a chunk cache", {"sampling": pc.SamplingConfig(cache_mib=0)}),
    ):
        with pc.WindowLoader(study, steps=WARM + STEPS, **given) as loader:
            found = _loop(iter(loader))
            cases = loader.cases
        rows.append(Row("7", what, found, "3 % of a step", allowed, 1, None, note=f"{found / STEP_S:.2%} waited"))
    for name, batches in (
        ("MONAI, 2 workers", _monai(cases)),
        ("torch DataLoader with our data set, 2 workers", _ours(study)),
    ):
        theirs = _loop(batches)
        note = f"{theirs / STEP_S:.1%} waited"
        rows.append(Row("", "the same with our loader", rows[0].ours_s, name, theirs, None, None, note=note))
    return rows


def _forever(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


def _monai(cases: Any) -> Iterator[Any]:
    """MONAI as in its tutorials: cached volumes, cropped by positive and negative voxels in two workers."""
    import torch
    from monai.data import DataLoader, Dataset, MetaTensor
    from monai.transforms import Compose, RandCropByPosNegLabeld, ScaleIntensityRanged

    items: list[dict[str, Any]] = []
    for case in cases:
        volumes: list[npt.NDArray[Any]] = [case.image().astype(np.float32), case.label()]
        padded = [np.pad(v, [(0, max(0, w - n)) for n, w in zip(v.shape, WINDOW, strict=True)]) for v in volumes]
        names = ("image", "label")
        items.append({n: MetaTensor(torch.from_numpy(v)[None]) for n, v in zip(names, padded, strict=True)})
    steps = Compose(
        [
            RandCropByPosNegLabeld(["image", "label"], "label", WINDOW, num_samples=1),
            ScaleIntensityRanged(["image"], -100, 200, 0, 1, clip=True),
        ]
    )
    loader = DataLoader(Dataset(items * 40, steps), batch_size=2, shuffle=True, num_workers=2, prefetch_factor=4)
    return _forever(loader)


def _ours(study: Path) -> Iterator[Any]:
    from torch.utils.data import DataLoader

    dataset = pc.WindowDataset(study, length=2 * (WARM + STEPS))
    return _forever(DataLoader(dataset, batch_size=2, num_workers=2))
