"""Evaluates a run: DSC of each case on the case's own grid, lesion recall and precision, and baselines."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from patchcore.affines import voxel_volume_mm3
from patchcore.config.plan import TargetPlan
from patchcore.errors import ConfigError, DataError, MissingExtraError
from patchcore.evaluation.cases import chosen_cases, held_out_cases, newest_finished
from patchcore.files import write_atomic, write_json_atomic
from patchcore.inference.geometry import label_on_grid, uncropped
from patchcore.inference.predict import Predictor
from patchcore.lesions.size_bins import SIZE_BIN_NAMES, size_bin
from patchcore.metrics import (
    BallBaseline,
    DscCounts,
    LesionMatch,
    LesionScore,
    ThresholdBaseline,
    best_threshold_dsc,
    dsc_ball_baseline,
    lesion_score,
    match_lesions,
    mean_dsc,
)
from patchcore.metrics.results import CaseEvaluation, Evaluation, SizeBin
from patchcore.resampling.grid import Grid
from patchcore.runs import resolve_run
from patchcore.runs.setup import divide_cases, read_setup, read_split
from patchcore.store.prepare import PreparedCase, class_indices, prepare_cases
from patchcore.study import CaseRecord, Study
from patchcore.types import AnyArray, BoolArray, PathLike

__all__ = ["evaluate"]

_PANELS = 6


@dataclass(frozen=True, eq=False)
class _Scored:
    """Results of one case, with the arrays for the figure (on its own grid, in canonical order)."""

    case: PreparedCase
    record: CaseRecord
    match: LesionMatch
    labelled_voxels: int
    predicted_voxels: int
    voxel_mm3: float
    panel: tuple[AnyArray, AnyArray, AnyArray, str] | None


def evaluate(
    study: Study | PathLike,
    run: str | PathLike | None = None,
    *,
    fold: int | None = None,
    case_ids: Sequence[str] | None = None,
    held_out: bool = False,
    checkpoint: str | None = None,
    organ_label: int | None = None,
    device: str | None = None,
    mirror: bool | None = None,
    on_case: Callable[[str, float, int, int], None] | None = None,
) -> Evaluation:
    """Evaluate a run: DSC per case against the label map on the case's own grid, together with baselines.

    Class probabilities are interpolated to the case's grid slab by slab, and then the class is chosen per voxel. The
    report is written to ``STUDY/reports/<run>/`` (held-out cases: ``STUDY/reports/<run>-held-out/``) as
    ``evaluation.json``, ``dsc.csv`` and ``contours.png``.

    Args:
        study: The study.
        run: Folder or id of the run; default: the newest finished run.
        fold: The fold to evaluate; default: the run's validation fold.
        case_ids: Evaluate these cases instead of a fold.
        held_out: Evaluate the held-out test cases instead of a fold. They were not used for any choice.
        checkpoint: ``best`` or ``last``; default: best.
        organ_label: Also find the best fixed HU threshold within this organ (voxels of its label and of the lesions).
        device: ``auto``, ``cpu`` or ``cuda``; default: the device of the run.
        mirror: Whether to average over mirrored windows; default: as in the run's validation.
        on_case: Called with (case_id, DSC, number of the case, number of cases) after each case.

    Raises:
        RunError: The run does not exist, or no run has finished.
        CheckpointError: The run has no checkpoint.
        ConfigError: `held_out` was combined with `fold` or `case_ids`.
        DataError: A case or fold does not exist; no case could be used; or the run has used held-out cases, or other
            cases of their patients.

    Example:
        >>> import patchcore as pc  # doctest: +SKIP
        >>> pc.evaluate("study/").mean_dsc  # doctest: +SKIP
    """
    if held_out and (fold is not None or case_ids):
        raise ConfigError(
            "held_out cannot be combined with fold or case_ids", remedy="give only one of held_out, fold and case_ids"
        )
    study = study if isinstance(study, Study) else Study(study)
    path = newest_finished(study) if run is None else resolve_run(study.path, str(run))
    setup = read_setup(path)
    target = setup.plan.target
    predictor, found = Predictor.of_run(path, checkpoint=checkpoint, device=device, mirror=mirror)
    # Older runs have no split.json: use the split that the study gives now.
    split = read_split(path) or divide_cases(study, setup.config)
    if held_out:
        records, role = held_out_cases(study, split), "held out"
    else:
        records, role = chosen_cases(study, split, setup.config, fold, case_ids)
    prepared = prepare_cases(study, target, records)
    by_id = {record.case_id: record for record in records}

    counts = DscCounts(target.classes, target.evaluated)
    scored = []
    for number, case in enumerate(prepared.cases, 1):
        # The figure shows the first few cases: keep the arrays of these cases only.
        scored.append(_score(predictor, case, by_id[case.case_id], counts, keep=number <= _PANELS))
        if on_case is not None:
            on_case(case.case_id, mean_dsc(counts.per_case()[case.case_id].values()), number, len(prepared.cases))

    kept = [item.record for item in scored]
    ball_mm3 = _median_lesion_mm3(study, target)
    ball = dsc_ball_baseline(*_masks(kept, target), volume_mm3=ball_mm3)
    threshold = None if organ_label is None else _threshold(kept, target, organ_label)
    folder = study.reports_dir / (f"{path.name}-held-out" if held_out else path.name)
    folder.mkdir(parents=True, exist_ok=True)
    cases = _cases(scored, counts, target, ball, threshold)
    summary = counts.summary()
    lesions, lesion_bins = lesion_score(item.match for item in scored)
    evaluation = Evaluation(
        run_id=path.name,
        checkpoint_step=int(found.state.get("step", 0)),
        role=role,
        cases=cases,
        mean_dsc=mean_dsc(case.dsc for case in cases),
        n=sum(not math.isnan(case.dsc) for case in cases),
        undefined=sum(math.isnan(case.dsc) for case in cases),
        global_dsc=summary.global_dsc,
        dsc_by_class={label: item.mean for label, item in summary.classes.items()},
        bins=_bins(cases),
        lesions=lesions,
        lesion_bins=lesion_bins,
        ball=ball,
        threshold=threshold,
        mirrored=predictor.mirror,
        folder=folder,
        failed=tuple((item.case_id, str(item.error)) for item in prepared.failed),
        figure=_draw(scored, cases, target, folder / "contours.png"),
    )
    _write(evaluation)
    return evaluation


def _score(predictor: Predictor, case: PreparedCase, record: CaseRecord, counts: DscCounts, *, keep: bool) -> _Scored:
    target = predictor.target
    truth = record.read_label()
    grid = Grid.of(record.shape, record.affine_array, target.spacing)
    whole = uncropped(predictor.probabilities(case.image()), grid.shape, case.crop_start)
    indices = label_on_grid(whole, grid, target.region_indices)
    expected = class_indices(truth.array, target.classes)
    if target.ignore_label is not None:
        # Voxels that are ignored count neither as labelled nor as predicted.
        indices = np.where(truth.array == target.ignore_label, 0, indices)
    by_label = np.asarray((0, *target.classes))
    counts.add(case.case_id, by_label[indices], by_label[expected])
    lesion_class = target.classes.index(target.lesion_label) + 1
    voxel_mm3 = voxel_volume_mm3(truth.affine)
    predicted, labelled = indices == lesion_class, expected == lesion_class
    match = match_lesions(
        predicted,
        labelled,
        voxel_mm3=voxel_mm3,
        connectivity=target.connectivity,
        min_volume_mm3=target.min_volume_mm3,
    )
    panel = None
    if keep:
        views = (record.read_image().array, expected, indices)
        image, label, prediction = (np.ascontiguousarray(grid.canonical(view)) for view in views)
        panel = (image, label, prediction, case.case_id)
    return _Scored(
        case=case,
        record=record,
        match=match,
        labelled_voxels=int(np.count_nonzero(labelled)),
        predicted_voxels=int(np.count_nonzero(predicted)),
        voxel_mm3=voxel_mm3,
        panel=panel,
    )


def _cases(
    scored: Sequence[_Scored],
    counts: DscCounts,
    target: TargetPlan,
    ball: BallBaseline,
    threshold: ThresholdBaseline | None,
) -> tuple[CaseEvaluation, ...]:
    per_case = counts.per_case()
    rows = []
    for index, item in enumerate(scored):
        by_class = per_case[item.case.case_id]
        largest = max(item.match.true_mm3, default=0.0)
        rows.append(
            CaseEvaluation(
                case_id=item.case.case_id,
                patient=item.case.patient,
                dsc=mean_dsc(by_class.values()),
                lesion_dsc=by_class[target.lesion_label],
                dsc_by_class=by_class,
                volume_mm3=item.labelled_voxels * item.voxel_mm3,
                predicted_mm3=item.predicted_voxels * item.voxel_mm3,
                lesion_count=len(item.match.true_mm3),
                lesions_found=item.match.found,
                false_positives=item.match.false_positives,
                largest_lesion_mm3=largest,
                size_bin=size_bin(largest) if largest else None,
                ball_dsc=ball.dsc[index],
                threshold_dsc=None if threshold is None else threshold.dsc[index],
            )
        )
    return tuple(rows)


def _bins(cases: Sequence[CaseEvaluation]) -> tuple[SizeBin, ...]:
    bins = []
    for number, name in enumerate(SIZE_BIN_NAMES):
        values = [case.lesion_dsc for case in cases if case.size_bin == number and not math.isnan(case.lesion_dsc)]
        bins.append(SizeBin(name=name, mean_dsc=mean_dsc(values), n=len(values)))
    return tuple(bins)


def _median_lesion_mm3(study: Study, target: TargetPlan) -> float:
    volumes = [v for case in study.fingerprint().cases for v in case.volumes_mm3(target.lesion_label)]
    return float(np.median(volumes)) if volumes else target.median_volume_mm3


def _masks(records: Sequence[CaseRecord], target: TargetPlan) -> tuple[Any, Any]:
    """Return generators of lesion masks and of spacings, so that one case is in memory at a time."""
    masks = (record.read_label().array == target.lesion_label for record in records)
    return masks, (record.spacing for record in records)


def _threshold(records: Sequence[CaseRecord], target: TargetPlan, organ_label: int) -> ThresholdBaseline:
    def image(record: CaseRecord) -> AnyArray:
        return record.read_image().array

    def organ(record: CaseRecord) -> BoolArray:
        label = record.read_label().array
        inside: BoolArray = (label == organ_label) | (label == target.lesion_label)
        return inside

    if not any(organ_label in record.labels for record in records):
        raise DataError(
            f"no case contains organ label {organ_label}",
            found=sorted({label for record in records for label in record.labels}),
            remedy="choose one of the labels found",
        )
    low, high = target.hu_range
    masks, _ = _masks(records, target)
    return best_threshold_dsc(
        (image(record) for record in records),
        (organ(record) for record in records),
        masks,
        np.arange(math.floor(low), math.ceil(high) + 1, dtype=np.float64),
    )


def _draw(scored: Sequence[_Scored], cases: Sequence[CaseEvaluation], target: TargetPlan, path: Path) -> Path | None:
    from patchcore.views.figures import contours_figure

    panels = []
    for item, case in zip(scored, cases, strict=True):
        if item.panel is not None:
            image, label, prediction, title = item.panel
            panels.append((image, label, prediction, f"{title}  DSC {case.dsc:.2f}"))
    with suppress(MissingExtraError):
        return contours_figure(panels, path, hu_range=target.hu_range)
    return None


def _lesion_json(score: LesionScore) -> dict[str, Any]:
    return asdict(score) | {"recall": score.recall, "precision": score.precision}


def _write(evaluation: Evaluation) -> None:
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    labels = list(evaluation.dsc_by_class)
    plain = [name for name in CaseEvaluation.__dataclass_fields__ if name != "dsc_by_class"]
    writer.writerow([*plain, *(f"dsc_{label}" for label in labels)])
    for case in evaluation.cases:
        values = [getattr(case, name) for name in plain] + [case.dsc_by_class[label] for label in labels]
        writer.writerow(["" if value is None or value != value else value for value in values])
    write_atomic(evaluation.folder / "dsc.csv", rows.getvalue())
    content = asdict(evaluation) | {
        "schema_version": 1,
        "grid": "original",
        "lesions": _lesion_json(evaluation.lesions),
        "lesion_bins": [
            {"name": name} | _lesion_json(score)
            for name, score in zip(SIZE_BIN_NAMES, evaluation.lesion_bins, strict=True)
        ],
        "ball": asdict(evaluation.ball) | {"mean": evaluation.ball.mean},
        "folder": evaluation.folder.name,
        "figure": evaluation.figure.name if evaluation.figure else None,
    }
    if evaluation.threshold is not None:
        content["threshold"] = asdict(evaluation.threshold) | {"mean": evaluation.threshold.mean}
    write_json_atomic(evaluation.folder / "evaluation.json", content)
