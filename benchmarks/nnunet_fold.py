"""Trains nnU-Net on one fold of a study, for as many epochs as given, and scores its predictions of that fold.

    python benchmarks/nnunet_fold.py STUDY FOLDER --fold 1 --nnunet ENVIRONMENT/bin --epochs 45 [--run RUN]

nnU-Net is in an environment of its own (``pip install nnunetv2``). Its raw data set is made of links to the study's
files; it plans, preprocesses, trains and predicts the validation cases with its own commands, and with the study's
division into folds. With ``--run`` (may be repeated, e.g. one per seed), the paired differences of these evaluated runs
to nnU-Net are printed, one by one and of their mean DSC per case. Steps that have ended are not done again.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import time
from pathlib import Path

import numpy as np

from patchcore.config import resolve_config
from patchcore.files import write_json_atomic
from patchcore.metrics.score_files import score
from patchcore.metrics.statistics import compare_pairs
from patchcore.study import Study

DATASET = "Dataset501_patchcore"
TRAINER = """from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
import torch

class ShortTrainer(nnUNetTrainer):
    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cpu")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = {epochs}
        self.num_iterations_per_epoch = {iterations}
        self.num_val_iterations_per_epoch = 1
"""


def environment(folder: Path) -> dict[str, str]:
    places = {f"nnUNet_{name}": str(folder / name) for name in ("raw", "preprocessed", "results")}
    threads = str(os.cpu_count() or 1)
    return os.environ | places | {
        "nnUNet_extTrainer": str(folder / "trainer"), "nnUNet_compile": "f", "nnUNet_n_proc_DA": "1",
        "OMP_NUM_THREADS": threads,
    }  # fmt: skip


def write_raw(study: Study, folder: Path) -> None:
    """Link the cases into nnU-Net's layout."""
    raw = folder / "raw" / DATASET
    for name in ("imagesTr", "labelsTr"):
        (raw / name).mkdir(parents=True, exist_ok=True)
    records = study.accepted()
    for record in records:
        for path, link in (
            (record.required_image().path, raw / "imagesTr" / f"{record.case_id}_0000.nii.gz"),
            (record.label.path, raw / "labelsTr" / f"{record.case_id}.nii.gz"),
        ):
            if not str(path).endswith(".nii.gz"):
                raise SystemExit(f"{path}: this comparison needs compressed NIfTI files")
            if not link.exists():
                link.symlink_to(Path(path).resolve())
    labels = sorted({label for record in records for label in record.labels})
    write_json_atomic(
        raw / "dataset.json",
        {
            "channel_names": {"0": "CT"},
            "labels": {"background": 0} | {f"label_{label}": label for label in labels},
            "numTraining": len(records),
            "file_ending": ".nii.gz",
        },
    )


def write_splits(study: Study, folder: Path) -> list[list[str]]:
    settings = resolve_config().train
    folds = study.folds(settings.folds, settings.fold_seed)
    splits = [
        {"train": [case for other in folds if other is not fold for case in other], "val": fold} for fold in folds
    ]
    write_json_atomic(folder / "preprocessed" / DATASET / "splits_final.json", splits)
    return folds


def minutes_of_training(results: Path) -> float:
    """Return the sum of the times of the epochs in nnU-Net's own log [min]."""
    lines = [line for log in results.glob("training_log_*.txt") for line in log.read_text().splitlines()]
    return sum(float(line.split("Epoch time:")[1].split()[0]) for line in lines if "Epoch time:" in line) / 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--nnunet", type=Path, required=True, help="folder of nnU-Net's commands")
    parser.add_argument("--epochs", type=int, default=45)
    parser.add_argument("--iterations", type=int, default=19, help="per epoch")
    parser.add_argument("--run", action="append", default=[], help="evaluated run of the study to compare with")
    given = parser.parse_args()
    study, folder = Study(given.study), given.folder.resolve()
    commands, env = given.nnunet.resolve(), environment(folder)

    def call(command: str, *arguments: str) -> None:
        began = time.perf_counter()
        subprocess.run([commands / command, *arguments], env=env, check=True)
        print(f"{command}: {(time.perf_counter() - began) / 60:.1f} min", flush=True)

    if not (folder / "raw" / DATASET / "dataset.json").exists():
        write_raw(study, folder)
    if not (folder / "preprocessed" / DATASET / "nnUNetPlans_3d_fullres").exists():
        call("nnUNetv2_plan_and_preprocess", "-d", "501", "-c", "3d_fullres", "-np", "2")
    fold = write_splits(study, folder)[given.fold]
    (folder / "trainer").mkdir(exist_ok=True)
    text = TRAINER.format(epochs=given.epochs, iterations=given.iterations)
    (folder / "trainer" / "short_trainer.py").write_text(text)
    results = folder / "results" / DATASET / "ShortTrainer__nnUNetPlans__3d_fullres" / f"fold_{given.fold}"
    predictions = results / "validation"
    if not (predictions / "summary.json").exists():
        call("nnUNetv2_train", "501", "3d_fullres", str(given.fold), "-tr", "ShortTrainer", "-device", "cpu")
    truth = folder / "truth"
    truth.mkdir(exist_ok=True)
    for case_id in fold:
        link = truth / f"{case_id}.nii.gz"
        if not link.exists():
            link.symlink_to(folder / "raw" / DATASET / "labelsTr" / link.name)
    patients = {record.case_id: record.patient for record in study.accepted()}
    scores = score(truth, predictions, conventions=(), patients_of=lambda names: [patients[name] for name in names])
    if scores.failed or scores.only_truth:
        raise SystemExit(f"not scored: {scores.failed} {scores.only_truth}")
    [label] = scores.settings.classes
    peer = {case.case_id: case.classes[label].counts.dsc for case in scores.cases}
    print(f"nnU-Net: mean DSC {scores.mean_dsc()}, {minutes_of_training(results):.1f} min of training")
    ours = []
    for run in given.run:
        with (study.path / "reports" / run / "cases.csv").open(newline="") as file:
            ours.append({row["case_id"]: float(row["dsc"]) for row in csv.DictReader(file) if row["class"] == label})
        if ours[-1].keys() != peer.keys():
            raise SystemExit(f"{run} was evaluated on other cases")
    names = sorted(peer)
    means = [{name: float(np.mean([run[name] for run in ours])) for name in names}] if len(ours) > 1 else []
    for name, run in zip([*given.run, "mean of the runs"], [*ours, *means], strict=False):
        found = compare_pairs(
            [run[case] for case in names], [peer[case] for case in names], [patients[c] for c in names]
        )
        print(f"{name}: mean DSC {np.mean(list(run.values())):.4f}; minus nnU-Net: {found.difference}")
    write_json_atomic(folder / "dsc.json", {"nnunet": peer, "runs": dict(zip(given.run, ours, strict=True))})


if __name__ == "__main__":
    main()
