"""Studies and runs for the tests of the dashboard, made without a data set or a network."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from patchcore.config.plan import CandidatePlan, IdealEdge, Plan, RuleOutcome, TargetPlan
from patchcore.files import write_json_atomic
from patchcore.runs import RunWriter, new_run, run_state, start_attempt
from patchcore.types import Rule

__all__ = [
    "HERE",
    "add_plan",
    "attempt_in_process",
    "environment",
    "fake_run",
    "make_study",
    "start",
    "state_of",
    "wait_until",
]

HERE = Path(__file__).parent


def make_study(folder: Path) -> Path:
    """Make an empty study."""
    (folder / "runs").mkdir(parents=True)
    write_json_atomic(folder / "study.json", {"schema_version": 1, "dataset_root": "dataset"})
    return folder


def add_plan(study: Path) -> Plan:
    """Add a plan for patch size 12, 200 lesions and three cases, one of them quarantined."""
    plan = _plan()
    write_json_atomic(study / "plan.json", plan.model_dump(mode="json"))
    volumes = np.exp(np.random.default_rng(0).normal(6.5, 1.2, 200))
    rows = [f"case_{i % 3},patient,2,{i},10,{volume:.3f}" for i, volume in enumerate(volumes)]
    header = "case_id,patient,label,lesion,voxel_count,volume_mm3"
    (study / "lesions.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    (study / "cases.jsonl").write_text(
        '{"case_id": "case_0", "patient": "p0", "status": "accepted", "reason": null, "remedy": null}\n'
        '{"case_id": "case_1", "patient": "p1", "status": "accepted", "reason": null, "remedy": null}\n'
        '{"case_id": "case_2", "patient": "p2", "status": "quarantined", "reason": "label is 4D",'
        ' "remedy": "export one channel"}\n',
        encoding="utf-8",
    )
    return plan


def fake_run(study: Path, *, slug: str = "fake", steps: int = 40, step_s: float = 0.0) -> Path:
    """Make a run for :mod:`fake_trainer`."""
    config = {"train": {"steps": steps}, "fake": {"steps": steps, "step_s": step_s}}
    return new_run(
        study, kind="train", config=config, plan={}, seed=0, slug=slug, argv=["test"], trainer="fake_trainer"
    )


def environment() -> dict[str, str]:
    """Return environment variables with which ``python -m fake_trainer`` works."""
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}


def start(run: Path) -> int:
    """Start an attempt with the fake trainer."""
    return start_attempt(run, env=environment())


def attempt_in_process(run: Path, attempt: int = 1) -> RunWriter:
    """Open a writer in this process for an attempt without a supervisor."""
    (run / "attempts" / str(attempt)).mkdir(parents=True)
    return RunWriter(run, attempt, heartbeat_s=0.2)


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    """Wait until a condition is true. Fail with `what` after the time limit."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: did not happen within {timeout_s:g} s")
        time.sleep(0.05)


def state_of(run: Path) -> str:
    """Return the word of the run's state."""
    return run_state(run).state.value


def _plan() -> Plan:
    candidates = tuple(
        CandidatePlan(
            patch_size=(edge, edge, edge),
            volume_mm3=float(edge**3),
            tokens=(96 // edge) ** 3,
            attention_gflop=1000 / edge,
            attention_share=1 / edge,
            smaller_lesions_share=edge / 30,
            chosen=edge == 12,
        )
        for edge in (8, 12, 16, 24)
    )
    target = TargetPlan(
        lesion_label=2,
        label_name="tumour",
        classes=(2,),
        rule=Rule.MEAN_VOLUME,
        patch_size=(12, 12, 12),
        spacing=(1.0, 1.0, 1.0),
        window_size=(96, 96, 96),
        hu_range=(-100.0, 250.0),
        connectivity=26,
        min_volume_mm3=0.0,
        lesion_count=200,
        patient_count=3,
        mean_volume_mm3=1400.0,
        median_volume_mm3=700.0,
        ideal_edges=(IdealEdge(spacing=(1.0, 1.0, 1.0), edge=(11.2, 11.2, 11.2), interval=(9.8, 12.7)),),
        candidates=candidates,
        rules=(
            RuleOutcome(rule=Rule.MEAN_VOLUME, volume_mm3=1400.0, edge=(11.2,) * 3, patch_size=(12, 12, 12)),
            RuleOutcome(rule=Rule.MEDIAN, volume_mm3=700.0, edge=(8.9,) * 3, patch_size=(8, 8, 8)),
        ),
        padding_share=0.1,
        reason="The mean lesion fills a cube of 11.2 voxels; 12 is the nearest candidate.",
        warnings=("40 % of the lesions are smaller than one patch",),
    )
    return Plan(fingerprint_hash="0" * 64, targets=(target,))
