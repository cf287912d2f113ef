"""Predictions are on the scan's own grid exactly, and evaluation compares label maps on this grid."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from tiny_training import TINY, write_balls
from torch import Tensor, nn

from linear_reference import interpolate
from patchcore.config import Plan
from patchcore.config.run import TrainConfig
from patchcore.errors import CheckpointError, ConfigError, DataError, RunError
from patchcore.evaluation.evaluate import evaluate
from patchcore.inference.geometry import label_on_grid
from patchcore.inference.outputs import Wanted
from patchcore.inference.predict import _predict_scan, predict
from patchcore.inference.predictor import Predictor
from patchcore.inference.scans import ScanInput
from patchcore.inference.sliding_window import predict_volume
from patchcore.models.device import place
from patchcore.resampling.grid import Grid
from patchcore.study import Study
from patchcore.volumes.volume import NiftiFile

MakeRun = Callable[..., Path]
RunAttempt = Callable[..., int]

LPS = np.diag([-0.8, -0.8, 2.5, 1.0])
SLICES_FIRST = np.array([[0, 0, -0.7, 60], [0, 0.7, 0, -20], [3.0, 0, 0, 5], [0, 0, 0, 1]], dtype=float)
OBLIQUE = np.array([[0.9, 0.1, 0, 3], [-0.1, 0.9, 0, 4], [0, 0, -1.7, 90], [0, 0, 0, 1]], dtype=float)


class Threshold(nn.Module):
    """Returns the intensity within the HU range as the probability of class 1."""

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([1 - image, image], dim=1).clamp(1e-6, 1).log()


@pytest.fixture
def plan(tiny_study: Path) -> Plan:
    return Study(tiny_study).plan()


def predictor(plan: Plan, spacing: tuple[float, float, float]) -> Predictor:
    target = plan.target.model_copy(
        update={"spacing": spacing, "hu_range": (0.0, 200.0), "classes": (3,), "lesion_label": 3}
    )
    return Predictor.of_network(Threshold(), target, place(TrainConfig(device="cpu", threads=1)))


def blocks(shape: tuple[int, int, int]) -> Any:
    mask = np.zeros(shape, dtype=bool)
    mask[3:9, 5:14, 2:6] = True
    mask[-4:-1, :3, -3:] = True
    mask[12, 12, 4] = True
    return mask


@pytest.mark.parametrize("affine", [LPS, SLICES_FIRST, OBLIQUE], ids=["LPS", "slices first", "oblique"])
@pytest.mark.usefixtures("torch_settings")
def test_own_spacing_gives_the_mask_back_exactly(affine: Any, plan: Plan, tmp_path: Path) -> None:
    mask = blocks((31, 27, 19))
    source = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image((mask * 200).astype(np.int16), affine), source)
    spacing = Grid.of((31, 27, 19), affine, (1, 1, 1)).canonical_spacing
    scan = ScanInput("scan", source, "scan", NiftiFile(source))
    wanted = Wanted(labels=True, tables=False, probabilities=False, seg=None)
    prediction = _predict_scan(predictor(plan, spacing), scan, tmp_path / "out.nii.gz", wanted, None)
    result: Any = nibabel.load(tmp_path / "out.nii.gz")
    assert np.array_equal(np.asanyarray(result.dataobj), mask * 3)
    assert np.array_equal(result.affine, nibabel.load(source).affine)
    assert result.get_data_dtype() == np.uint8
    assert prediction.voxel_count == {3: int(mask.sum())}


@pytest.mark.parametrize("affine", [LPS, SLICES_FIRST, OBLIQUE], ids=["LPS", "slices first", "oblique"])
@pytest.mark.usefixtures("torch_settings")
def test_another_spacing_keeps_place_and_volume(affine: Any, plan: Plan) -> None:
    grid = np.stack(np.meshgrid(*map(np.arange, (40, 36, 30)), indexing="ij"), axis=-1)
    mask = (((grid - (17, 15, 14)) * (1.0, 1.1, 1.3)) ** 2).sum(-1) < 81
    label = predictor(plan, (1.3, 1.1, 1.6)).label_map((mask * 200).astype(np.int16), affine)
    found = np.argwhere(label == 3)
    assert np.abs(found.mean(0) - np.argwhere(mask).mean(0)).max() < 0.15
    assert abs(len(found) / mask.sum() - 1) < 0.06


def test_interpolating_first_keeps_small_lesions() -> None:
    spacing, training = (0.8, 0.8, 1.0), (2.0, 2.0, 2.0)
    shape = (40, 40, 30)
    affine = np.diag([*spacing, 1.0])
    grid = Grid.of(shape, affine, training)
    positions = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1) * spacing
    generator = np.random.default_rng(0)
    scores: dict[str, list[float]] = {"probabilities": [], "labels": []}
    for _ in range(20):
        ball = ((positions - generator.uniform(10, 18, size=3)) ** 2).sum(-1) < 2.5**2
        soft = interpolate(grid.canonical(ball), grid.ratio, grid.shape)
        ways = {"probabilities": np.stack([1 - soft, soft]), "labels": np.stack([soft <= 0.5, soft > 0.5])}
        for name, channels in ways.items():
            back = label_on_grid(channels.astype(np.float32), grid)
            scores[name].append(2 * (back & ball).sum() / (back.sum() + ball.sum()))
    assert np.mean(scores["probabilities"]) > np.mean(scores["labels"])


@pytest.fixture
def trained(make_run: MakeRun, run_attempt: RunAttempt) -> Path:
    run = make_run("train.steps=100", "train.steps_per_epoch=100", "optim.lr=3e-3", "model.dropout=0")
    assert run_attempt(run) == 0
    return run


def test_predicts_files_and_folders_and_evaluates(trained: Path, tiny_study: Path, tmp_path: Path) -> None:
    study = Study(tiny_study)
    images = study.dataset_root / "images"
    scan = sorted(images.iterdir())[0]
    [single] = predict(trained, scan, tmp_path / "one.nii.gz")
    assert single.path == tmp_path / "one.nii.gz"

    [measured] = predict(trained, scan, tmp_path / "with.nii.gz", tables=True)
    assert measured.lesions is not None
    stored = json.loads((tmp_path / "with.lesions.json").read_text(encoding="utf-8"))["lesions"]
    assert math.fsum(row["volume_mm3"] for row in stored) == pytest.approx(measured.volume_mm3[1])
    assert [row["lesion"] for row in stored] == list(range(1, len(stored) + 1))
    with (tmp_path / "with.lesions.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    voxels = np.asanyarray(nibabel.load(tmp_path / "with.nii.gz").dataobj)
    [x, y, z] = (float(rows[0][f"centroid_{axis}_mm"]) for axis in "xyz")
    affine = nibabel.load(tmp_path / "with.nii.gz").affine
    place = np.rint(np.linalg.solve(affine, [x, y, z, 1]))[:3].astype(int)
    assert voxels[tuple(place)] == 1

    mixed = tmp_path / "scans"
    mixed.mkdir()
    (mixed / "good.nii.gz").write_bytes(scan.read_bytes())
    (mixed / "short.nii.gz").write_bytes(scan.read_bytes()[:-40])
    results = predict(trained, mixed, tmp_path / "out")
    assert [result.error is None for result in results] == [True, False]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["good.nii.gz", "predictions.json"]
    assert (tmp_path / "out" / "good.nii.gz").stat().st_size > 0

    with pytest.raises(DataError, match="already exists"):
        predict(trained, scan, tmp_path / "one.nii.gz")
    with pytest.raises(DataError, match="overwrite the input"):
        predict(trained, mixed / "good.nii.gz", mixed / "good.nii.gz", overwrite=True)
    with pytest.raises(ConfigError, match="is neither a NIfTI file name"):
        predict(trained, scan, tmp_path / "one.png")
    (trained / "checkpoints" / "best" / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="has 0 bytes"):
        predict(trained, scan, tmp_path / "two.nii.gz")


def test_evaluates_on_the_cases_own_grid(trained: Path, tiny_study: Path) -> None:
    evaluation = evaluate(tiny_study, trained)
    assert evaluation.role == "used for selection"
    assert evaluation.n == len(evaluation.cases) == 2
    assert evaluation.mean_dsc > 0.5
    assert evaluation.mean_dsc == pytest.approx(np.mean([case.dsc for case in evaluation.cases]))
    assert 0 <= evaluation.ball.mean < 1
    study = Study(tiny_study)
    for case in evaluation.cases:
        label: Any = nibabel.load(study.case(case.case_id).label)
        voxels = int((np.asanyarray(label.dataobj) == 1).sum())
        assert case.volume_mm3 == pytest.approx(voxels * 1.5 * 1.5 * 2.0)
        assert case.lesion_count == 1
    report = json.loads((evaluation.folder / "evaluation.json").read_text(encoding="utf-8"))
    assert report["mean_dsc"] == evaluation.mean_dsc
    assert report["ball"]["mean"] == evaluation.ball.mean
    with (evaluation.folder / "dsc.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["case_id"] for row in rows] == [case.case_id for case in evaluation.cases]
    assert evaluation.figure is not None
    assert evaluation.figure.stat().st_size > 1000

    other = evaluate(tiny_study, trained, fold=1)
    assert other.role == "used for training"
    with pytest.raises(DataError, match="not among the accepted and the test cases: nobody"):
        evaluate(tiny_study, trained, case_ids=["nobody"])


def test_nothing_to_evaluate(tiny_study: Path, make_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no finished training"):
        evaluate(tiny_study)
    run = make_run()
    with pytest.raises(CheckpointError, match="no best or last checkpoint"):
        predict(run, sorted((Study(tiny_study).dataset_root / "images").iterdir())[0], tmp_path / "a.nii.gz")


def test_held_out_cases_are_evaluated_apart(
    tmp_path: Path, torch_settings: None, run_attempt: Callable[..., int]
) -> None:
    from patchcore.datasets.analyze import analyze
    from patchcore.datasets.plan import plan_patch_size
    from patchcore.training.launch import create_run

    data = write_balls(tmp_path / "data")
    rows = ["case_id,image,label,split"]
    for number in range(6):
        name = f"case{number:02d}.nii.gz"
        rows.append(f"case{number:02d},images/{name},labels/{name},{'test' if number in (1, 4) else 'train'}")
    (data / "cases.csv").write_text("\n".join(rows) + "\n")
    study = analyze(data, tmp_path / "study", layout="manifest")
    assert [record.case_id for record in study.held_out()] == ["case01", "case04"]
    plan_patch_size(study, candidates=(8,), window_size=(16, 16, 16), hu_range=(-50, 250))
    run = create_run(study, settings=[*TINY, "train.folds=2"])
    assert run_attempt(run) == 0
    split = json.loads((run / "split.json").read_text(encoding="utf-8"))
    assert not {"case01", "case04"} & {*split["train"], *split["validation"]}
    validation, held_out = evaluate(study, run), evaluate(study, run, held_out=True)
    assert [case.case_id for case in held_out.cases] == ["case01", "case04"]
    assert held_out.role == "held out"
    assert held_out.folder != validation.folder
    with pytest.raises(ConfigError, match="held_out cannot be combined with fold or case_ids"):
        evaluate(study, run, held_out=True, fold=1)
    # The role of a case is its role when the run started.
    (seen, unseen), (selecting, _) = split["train"], split["validation"]
    (run / "split.json").write_text(json.dumps(split | {"train": [seen, "case01"]}))
    (run / "seen.json").unlink()  # as in runs of an older patchcore: the record is made from the split
    with pytest.raises(DataError, match=r"has used 1 of the 2 held-out cases.*case01 \(used for training\)"):
        evaluate(study, run, held_out=True)
    for names, role in (
        ((seen,), "used for training"),
        ((selecting,), "used for selection"),
        ((seen, selecting), "some used for training"),
        ((unseen, selecting), "some used for selection"),
        ((unseen,), "new to the run"),
    ):
        assert evaluate(study, run, case_ids=names).role == f"named cases, {role}"
    report = json.loads((held_out.folder / "evaluation.json").read_text(encoding="utf-8"))
    assert report["lesions"]["lesions"] == 2
    assert sum(item["lesions"] for item in report["lesion_bins"]) == 2


def test_a_patient_on_both_sides_is_not_held_out(
    tmp_path: Path, torch_settings: None, run_attempt: Callable[..., int]
) -> None:
    from patchcore.datasets.analyze import analyze
    from patchcore.datasets.plan import plan_patch_size
    from patchcore.training.launch import create_run

    data = write_balls(tmp_path / "data")
    rows = ["case_id,image,label,split,patient"]
    for number in range(6):
        name = f"case{number:02d}.nii.gz"
        split = "test" if number == 1 else "train"
        rows.append(f"case{number:02d},images/{name},labels/{name},{split},p{number // 2}")
    (data / "cases.csv").write_text("\n".join(rows) + "\n")
    study = analyze(data, tmp_path / "study", layout="manifest")
    summary = " ".join((tmp_path / "study" / "summary.txt").read_text(encoding="utf-8").split())
    assert "Warning: p0 has both training and test cases" in summary
    assert json.loads((tmp_path / "study" / "summary.json").read_text(encoding="utf-8"))["patients_on_both_sides"] == [
        "p0"
    ]
    plan_patch_size(study, candidates=(8,), window_size=(16, 16, 16), hu_range=(-50, 250))
    run = create_run(study, settings=[*TINY, "train.folds=2", "train.steps=1"])
    assert run_attempt(run) == 0
    with pytest.raises(DataError, match="p0 has both training and test cases"):
        evaluate(study, run, held_out=True)


def test_a_run_of_several_ranks_is_predicted_with_one(make_run: MakeRun, run_attempt: RunAttempt) -> None:
    run = make_run("train.steps=1")
    assert run_attempt(run) == 0
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    record["config"]["train"] |= {"ranks": 2, "batch_size": 2}
    (run / "run.json").chmod(0o644)
    (run / "run.json").write_text(json.dumps(record))
    predictor = Predictor.of_run(run)
    assert predictor.models[0].networks == 1
    assert predictor.class_indices(np.zeros((8, 8, 8), np.int16), np.eye(4)).shape == (8, 8, 8)


def test_mirrored_windows_are_averaged(plan: Plan, torch_settings: None) -> None:
    class Leaning(nn.Module):
        """Prefers high indices along the first axis; averaging over mirrored windows cancels this."""

        def forward(self, image: Tensor) -> Tensor:
            ramp = torch.linspace(-1, 1, image.shape[2]).view(1, 1, -1, 1, 1).expand(image.shape)
            return torch.cat([-ramp, ramp], dim=1) * 3

    image = np.zeros((16, 16, 16), dtype=np.int16)
    placement = place(TrainConfig(device="cpu", threads=1))

    def probabilities(network: nn.Module, *, mirror: bool) -> Any:
        return predict_volume(network, image, plan.target, placement, mirror=mirror)

    assert probabilities(Leaning(), mirror=False)[1].max() > 0.95
    np.testing.assert_allclose(probabilities(Leaning(), mirror=True)[1], 0.5, atol=1e-6)
    # Mirrored predictions are mirrored back: an asymmetric image keeps its position.
    image[3:6, 2, 9] = 200
    plain, mirrored = (probabilities(Threshold(), mirror=mirror) for mirror in (False, True))
    np.testing.assert_allclose(mirrored, plain, atol=1e-6)


def test_without_held_out_cases_it_says_so(tiny_study: Path, trained: Path) -> None:
    with pytest.raises(DataError, match="has no held-out test cases"):
        evaluate(tiny_study, trained, held_out=True)
