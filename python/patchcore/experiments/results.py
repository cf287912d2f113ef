"""Reads what the points of an experiment have reached: from their run folders and from the reports of their runs."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from patchcore.config import Plan, resolve_config
from patchcore.config.patches import size_text
from patchcore.errors import PatchcoreError
from patchcore.experiments.folder import ExperimentFolder, Place
from patchcore.experiments.points import PATCH_SIZE, network_gflop, training_flop
from patchcore.experiments.protocol import Point, Protocol
from patchcore.files import json_lines, read_json
from patchcore.metrics.results import EVALUATION_SCHEMA
from patchcore.runs import whole_view
from patchcore.runs.events import STEP_TIME, VAL_DSC_MEAN, val_dsc_patch
from patchcore.runs.paths import RunPaths, read_object
from patchcore.types import IntTriple

__all__ = ["LAST_PART", "OWN_REPORT", "CaseResult", "LesionResult", "PointResult", "read_results", "report_of"]

LAST_PART = 0.2
"""Share of the steps at the end of a training in which its DSC must have settled."""
_RISE = 0.01
"""A training that gains more than this in its last part has not converged."""
OWN_REPORT = "experiment"
"""End of the name of an evaluation that was made for an experiment beside that of a user."""


@dataclass(frozen=True)
class CaseResult:
    """A case of the evaluation of a point, on its own grid.

    Attributes:
        case_id: Id of the case.
        patient: Its patient.
        role: What the run and its ancestors have done with the case.
        dsc: Class label → DSC; NaN if neither map contains the class.
        false_positives: Number of predicted components without a lesion voxel.
    """

    case_id: str
    patient: str
    role: str
    dsc: Mapping[str, float]
    false_positives: int


@dataclass(frozen=True)
class LesionResult:
    """A true lesion of the evaluation of a point."""

    case_id: str
    lesion: int
    volume_mm3: float
    diameter_mm: float
    size_bin: str
    dsc: float
    found: bool
    centroid_mm: tuple[float, float, float]


@dataclass(frozen=True)
class PointResult:
    """What a finished point has reached.

    Attributes:
        point: The point.
        added: Number of the extension that added it; 0: it is part of the first protocol.
        run_id: Id of its run.
        run: Its run folder.
        steps: Number of steps that were made: those of the point, or fewer if a setting has ended the training early.
        best_step: Step of its best validation; None without a validation.
        curve: (step, mean validation DSC on the training grid), in order of steps.
        validation_ids: Id of each validation of the curve.
        rise: Gain of the validation DSC in the last part of the training; NaN if it is not known.
        step_s: Median time of a training step [s]; NaN if it is not known.
        hours: Time of all training steps, without validation [h].
        memory_mib: Largest memory: of any GPU of the machine with all its processes, for a training on a GPU; else of
            the training's processes [MiB]; NaN if it is not known.
        pflop: FLOP of the training [1e15]; NaN if they are not known.
        host: Name of the machine.
        device: Name of the processor.
        attempts: Number of attempts.
        versions: Versions of the software.
        cases: Evaluated cases; empty if the run was not evaluated.
        lesions: Their true lesions.
        contours: Picture of the worst cases; None if there is none.
        problem: Why there is no evaluation; empty if there is one.
    """

    point: Point
    added: int
    run_id: str
    run: Path
    steps: int
    best_step: int | None
    curve: tuple[tuple[int, float], ...]
    rise: float
    step_s: float
    hours: float
    memory_mib: float
    pflop: float
    host: str
    device: str
    attempts: int
    versions: Mapping[str, Any]
    cases: tuple[CaseResult, ...]
    lesions: tuple[LesionResult, ...]
    contours: Path | None
    problem: str
    validation_ids: tuple[str, ...] = ()

    @property
    def converged(self) -> bool | None:
        """Whether the DSC rose by at most 0.01 in the last fifth; None if that is not known."""
        return None if math.isnan(self.rise) else self.rise <= _RISE


def read_results(folder: ExperimentFolder) -> list[PointResult]:
    """Return the results of all finished points, in the order of the experiment.

    A flexible network that is no part of a transfer has one result per patch size: a point with this size.

    Raises:
        PatchcoreError: A run folder is damaged.
        OSError: A file cannot be read.
    """
    number_of = {point.point_id: number for number, added in enumerate(folder.extensions, 1) for point in added.points}
    found = []
    for point_id, (place, entry) in folder.places().items():
        run = folder.run_of(point_id, entry) if place is Place.DONE else None
        if run is not None:
            point = folder.points[point_id]
            several = point.patch_sizes if folder.protocol.kind == "sweep" else ()
            for size in several or (point.patch_size,):
                one = point if not several else _at_size(point, folder.protocol.plan_of(point), folder.protocol, size)
                found.append(_result(folder, point, one, run, number_of.get(point_id, 0)))
    return found


def _at_size(point: Point, plan: Plan, protocol: Protocol, size: IntTriple) -> Point:
    """Return a flexible network at one patch size as a point of its own."""
    config = resolve_config(settings=[*protocol.settings, *point.settings])
    fixed = config.model_copy(update={"model": config.model.model_copy(update={"patch_sizes": ()})})
    return point.model_copy(
        update={
            "point_id": f"{point.point_id}_patch{size_text(size)}",
            "values": {**point.values, PATCH_SIZE: size_text(size)},
            "patch_size": size,
            "gflop_per_window": network_gflop(fixed, plan, size),
        }
    )


def _result(folder: ExperimentFolder, trained: Point, point: Point, run: Path, added: int) -> PointResult:
    """Return the result of a point.

    Args:
        folder: The experiment.
        trained: What was trained.
        point: The same; of a flexible network, at one patch size.
        run: The run.
        added: Number of the extension.
    """
    view = whole_view(run)
    attempts = range(1, view.attempts + 1)
    start = read_object(RunPaths(run).start(view.attempts)) or {}
    validations = [v for v in view.validations if v.subset == "all"]
    flexible = bool(trained.patch_sizes)
    metric = val_dsc_patch(point.patch_size) if flexible else VAL_DSC_MEAN
    curve = tuple((v.step, v.values.get(metric, math.nan)) for v in validations)
    times = view.series.get(STEP_TIME)
    seconds = times.values[np.isfinite(times.values)] if times is not None else np.empty(0)
    step_s = float(np.median(seconds)) if len(seconds) else math.nan
    flop = training_flop(trained, folder.protocol.settings)
    steps = min(view.step or point.steps, point.steps)
    config = resolve_config(settings=[*folder.protocol.settings, *point.settings])
    best = view.best_validation
    reports, cases, lesions, problem = _comparable(report_of(folder, point, run), mirrored=config.validation.mirror)
    on_gpu = str((start.get("versions") or {}).get("device", "")).startswith("cuda")
    contours = reports / "contours.png"
    return PointResult(
        point=point,
        added=added,
        run_id=run.name,
        run=run,
        steps=steps,
        best_step=None if best is None else best.step,
        curve=curve,
        rise=rise_at_end(curve, steps),
        step_s=step_s,
        hours=float(np.mean(seconds)) * steps / 3600 if len(seconds) else math.nan,
        memory_mib=max(
            (v for n in attempts if (v := _memory_mib(RunPaths(run).system(n), on_gpu)) > 0), default=math.nan
        ),
        pflop=math.nan if flop is None else flop * steps / point.steps / 1e15,
        host=str(start.get("host", "")),
        device=str((start.get("versions") or {}).get("processor", "")),
        attempts=view.attempts,
        versions=start.get("versions") or {},
        cases=cases,
        lesions=lesions,
        contours=contours if contours.exists() else None,
        problem=problem,
        # The cases of a validation have their DSC at the plan's patch size only.
        validation_ids=() if flexible else tuple(v.validation_id for v in validations),
    )


def rise_at_end(curve: tuple[tuple[int, float], ...], steps: int) -> float:
    """Return by how much the best DSC rose in the last fifth of the steps; NaN if there are too few validations.

    Example:
        >>> round(rise_at_end(((100, 0.3), (800, 0.5), (1000, 0.56)), 1000), 3)
        0.06
    """
    early = [dsc for step, dsc in curve if step <= (1 - LAST_PART) * steps and math.isfinite(dsc)]
    late = [dsc for step, dsc in curve if step > (1 - LAST_PART) * steps and math.isfinite(dsc)]
    return max(late) - max(early) if early and late else math.nan


def _memory_mib(path: Path, on_gpu: bool) -> float:
    """Return the largest memory in the samples of an attempt; NaN if there are none.

    On GPUs it is that of the training where the driver says it, else that of all processes on the GPUs it can use.
    """
    used: list[float] = []
    try:
        lines = json_lines(path)
    except OSError:
        return math.nan
    for line in lines:
        try:
            sample = json.loads(line)
            gpus = (sample.get("gpus") or ()) if on_gpu else ()
            gpus = [gpu for gpu in gpus if gpu.get("is_visible")] or gpus  # parts of a GPU have names of their own
            own = [gpu["trainer_memory_bytes"] for gpu in gpus if "trainer_memory_bytes" in gpu]
            of_gpus = own or [gpu["memory_used_bytes"] for gpu in gpus]
            used += [float(value) for value in of_gpus or [sample["trainer_rss_bytes"]]]
        except (ValueError, TypeError, KeyError, AttributeError):
            continue  # a torn line, or a sample without this quantity
    return max(used, default=math.nan) / 2**20


def report_of(folder: ExperimentFolder, point: Point, run: Path) -> Path:
    """Return the folder with the evaluation of a point; of a flexible network, at the patch size of the point."""
    end = f"-patch{size_text(point.patch_size)}" if point.patch_sizes else ""
    return folder.study_of(point) / "reports" / f"{run.name}{end}"


def _comparable(folder: Path, *, mirrored: bool) -> tuple[Path, tuple[CaseResult, ...], tuple[LesionResult, ...], str]:
    """Return the evaluation that can be compared with those of other points, and its folder.

    A user may have evaluated the run in another way since; then the one for the experiment has a folder of its own.
    """
    own = folder.with_name(f"{folder.name}-{OWN_REPORT}")
    found = _evaluation(folder, mirrored=mirrored)
    if found[-1] and own.exists():
        return own, *_evaluation(own, mirrored=mirrored)
    return folder, *found


def _evaluation(folder: Path, *, mirrored: bool) -> tuple[tuple[CaseResult, ...], tuple[LesionResult, ...], str]:
    """Return the cases and lesions of an evaluation, or why there are none.

    Args:
        folder: The report of a run.
        mirrored: Whether the trainings of the experiment are evaluated with mirrored windows.
    """
    try:
        report = read_json(folder / "evaluation.json", schema=EVALUATION_SCHEMA)
        if any(str(note).startswith("post-processing") for note in report.get("notes", ())):
            # A choice that was made on these cases must not be compared with trainings without one.
            return (), (), "it was evaluated with post-processing"
        if report["mirrored"] != mirrored:
            return (), (), f"it was evaluated {'without' if mirrored else 'with'} mirrored windows, unlike the others"
        cases = tuple(
            CaseResult(
                case_id=str(case["case_id"]),
                patient=str(case["patient"]),
                role=str(case["role"]),
                dsc={str(label): _number(value) for label, value in case["dsc_by_class"].items()},
                false_positives=int(case["false_positives"]),
            )
            for case in report["cases"]
        )
        with (folder / "lesions.csv").open(newline="", encoding="utf-8") as file:
            lesions = tuple(
                LesionResult(
                    case_id=row["case_id"],
                    lesion=int(row["lesion"]),
                    volume_mm3=float(row["volume_mm3"]),
                    diameter_mm=float(row["equivalent_diameter_mm"]),
                    size_bin=row["size_bin"],
                    dsc=float(row["dsc"] or "nan"),
                    found=row["found"].lower() in ("true", "1"),
                    centroid_mm=centroid_of(row),
                )
                for row in csv.DictReader(file)
            )
    except FileNotFoundError:
        return (), (), "it was not evaluated"
    except (PatchcoreError, OSError, KeyError, TypeError, ValueError) as error:
        return (), (), f"its evaluation cannot be read ({error})"
    return cases, lesions, ""


def centroid_of(row: Mapping[str, str]) -> tuple[float, float, float]:
    """Return the centroid of a lesion [mm] from a row of a table; NaN if the table has none."""
    x, y, z = (float(row.get(f"centroid_{axis}_mm") or "nan") for axis in "xyz")
    return x, y, z


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
