"""Evaluates a run: DSC of each case on the case's own grid, lesion recall and precision, and baselines."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from patchcore.config.patch_choice import PatchChoice
from patchcore.config.plan import TargetPlan
from patchcore.datasets.row_log import RowLog
from patchcore.errors import ConfigError, DataError, MissingExtraError, PatchcoreError
from patchcore.evaluation.cases import chosen_cases, held_out_cases, newest_finished
from patchcore.evaluation.panels import KeptPanels, draw_panels
from patchcore.evaluation.rows import CaseRow, Panel, row_of_json, row_to_json, score_case, score_settings
from patchcore.files import DISK_ERRORS, write_atomic, write_json_atomic
from patchcore.inference.opened import crop_note
from patchcore.inference.predictor import Predictor
from patchcore.lesions.size_bins import SIZE_BIN_NAMES, size_bin
from patchcore.metrics import (
    BallBaseline,
    DscCounts,
    LesionScore,
    ThresholdBaseline,
    best_threshold_dsc,
    lesion_score,
    mean_dsc,
)
from patchcore.metrics.froc import Froc, froc
from patchcore.metrics.results import EVALUATION_SCHEMA, CaseEvaluation, Evaluation, SizeBin
from patchcore.metrics.score_files import Scores
from patchcore.models.device import settings_kept
from patchcore.runs import resolve_run
from patchcore.runs.seen import Role, read_record, worst_role
from patchcore.runs.setup import divide_cases, read_setup, read_split
from patchcore.store.prepare import check_labels
from patchcore.study import CaseRecord, Study
from patchcore.types import AnyArray, BoolArray, PathLike

__all__ = ["evaluate"]

_PANELS = 6
_WAIT_S = 24 * 3600.0


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
    post: bool = True,
    patch_size: str | None = None,
    suffix: str = "",
    on_case: Callable[[str, float, int, int], None] | None = None,
) -> Evaluation:
    """Evaluate a run: DSC per case against the label map on the case's own grid, together with baselines.

    Each case is predicted as :func:`patchcore.predict` predicts it: the whole scan, even if training used crops around
    an organ. The report is written to ``STUDY/reports/<run>/``: ``evaluation.json``, ``dsc.csv``, ``contours.png`` (the
    worst cases), ``lesions.png`` (lesions found by size, and the FROC), and the tables of
    :meth:`patchcore.metrics.score_files.Scores.write`. The folder of other cases than the run's validation fold ends in
    ``-held-out``, ``-fold<K>``, ``-cases-<hash>`` or ``-external``. The report says of every case what the run and its
    ancestors have done with it. If the call is interrupted, the next call continues with the
    missing cases.

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
        post: Whether the run's post-processing (``patchcore tune``) is applied, if it has one.
        patch_size: Patch size of a flexible network to evaluate at; see :func:`patchcore.predict`. The name of the
            report's folder then ends in ``-patch<size>``.
        suffix: The name of the report's folder also ends in ``-<suffix>``; without one, the report replaces that of the
            last evaluation of the same cases, even if its other settings were different.
        on_case: Called with (case_id, DSC, number of the case, number of cases) after each case.

    Raises:
        RunError: The run does not exist, or no run has finished.
        CheckpointError: The run has no checkpoint.
        ConfigError: `held_out` was combined with `fold` or `case_ids`, or `suffix` is not part of a file name.
        PlanError: The study does not have the lesion label of the run's plan, or its labels are read differently now.
        DataError: A case or fold does not exist; no case could be used; or the run or an ancestor has used held-out
            cases, or other cases of their patients.

    Example:
        >>> import patchcore as pc  # doctest: +SKIP
        >>> pc.evaluate("study/").mean_dsc  # doctest: +SKIP
    """
    if held_out and (fold is not None or case_ids):
        raise ConfigError(
            "held_out cannot be combined with fold or case_ids", remedy="give only one of held_out, fold and case_ids"
        )
    if not re.fullmatch(r"[\w.-]*", suffix, flags=re.ASCII):
        raise ConfigError(
            "suffix is not part of a file name", found=suffix, remedy="use letters, digits and the signs . _ -"
        )
    study = study if isinstance(study, Study) else Study(study)
    path = newest_finished(study) if run is None else resolve_run(study.path, str(run))
    # Two evaluations of one run would write the same files; the second one waits.
    with settings_kept(), study.lock(f"evaluate-{path.name}", wait_s=_WAIT_S):
        return _evaluate(
            study,
            path,
            fold=fold,
            case_ids=case_ids,
            held_out=held_out,
            checkpoint=checkpoint,
            organ_label=organ_label,
            device=device,
            mirror=mirror,
            post=post,
            patch_size=None if patch_size is None else PatchChoice.parse(patch_size),
            suffix=suffix,
            on_case=on_case,
        )


def _evaluate(
    study: Study,
    path: Path,
    *,
    fold: int | None,
    case_ids: Sequence[str] | None,
    held_out: bool,
    checkpoint: str | None,
    organ_label: int | None,
    device: str | None,
    mirror: bool | None,
    post: bool,
    patch_size: PatchChoice | None,
    suffix: str,
    on_case: Callable[[str, float, int, int], None] | None,
) -> Evaluation:
    setup, seen = read_setup(path), read_record(path)
    target = setup.plan.target
    check_labels(study, target, [record for record in study.cases() if record.usable])
    if held_out:
        chosen = held_out_cases(study, seen)
    else:
        # A run that has not started, or is older than split.json: use the split that the study gives now.
        split = read_split(path) or divide_cases(study, setup.config)
        chosen = chosen_cases(study, split, setup.config, seen, fold, case_ids)
    options = {"checkpoint": checkpoint, "device": device, "mirror": mirror, "post": post, "patch_size": patch_size}
    predictor = Predictor.of_run(path, **options)  # type: ignore[arg-type]  # of one type each
    [source] = predictor.sources
    step = source.step
    which = ("last" if checkpoint == "last" else "", patch_size.name if patch_size else "", suffix)
    folder = study.reports_dir / "-".join(filter(None, (path.name, chosen.name, *which)))
    ball_mm3 = _median_lesion_mm3(study, target)
    log = RowLog(
        folder / "unfinished.jsonl",
        {
            "schema_version": EVALUATION_SCHEMA,
            "rows": 2,
            "weights": source.weights_sha256,
            "step": step,
            "target": target.model_dump(mode="json"),
            "mirror": predictor.mirror,
            "overlap": predictor.overlap,
            "ball_mm3": ball_mm3,
            "post": None if predictor.post is None else predictor.post.model_dump(mode="json"),
        },
        write=row_to_json,
        read=row_of_json,
    )
    kept = KeptPanels(folder / "unfinished-panels")
    rows: list[tuple[CaseRecord, Role, CaseRow]] = []
    panels: list[tuple[float, Panel, str]] = []
    failed: list[tuple[str, str]] = []
    for number, (record, role) in enumerate(zip(chosen.records, chosen.roles, strict=True), 1):
        try:
            row = log.find(record)
            panel = None if row is None else kept.read(record.case_id)
            if row is None or panel is None:
                row, panel = score_case(predictor, record, ball_mm3=ball_mm3)
                kept.write(record.case_id, panel)
                log.add(record, row)
        except (PatchcoreError, OSError, MemoryError) as error:
            if getattr(error, "errno", None) in DISK_ERRORS:
                raise
            # One damaged case does not cost the scores of the others.
            failed.append((record.case_id, str(error) or type(error).__name__))
            continue
        rows.append((record, role, row))
        dsc = mean_dsc(counts.dsc for counts in row.counts.values())
        # The worst cases are drawn; a case without lesion and prediction is right.
        panels.append((1.0 if math.isnan(dsc) else dsc, panel, f"{record.case_id}  DSC {dsc:.2f}"))
        panels = sorted(panels, key=lambda item: item[0])[:_PANELS]
        if on_case is not None:
            on_case(record.case_id, dsc, number, len(chosen.records))
    if not rows:
        raise DataError(
            f"none of {len(chosen.records)} cases could be evaluated; first error: {failed[0][1]}",
            path=study.path,
            remedy="run patchcore analyze again and read what it reports for each case",
        )
    threshold = None if organ_label is None else _threshold([record for record, _, _ in rows], target, organ_label)
    cases = _cases(rows, target, threshold)
    counts = DscCounts(target.classes)
    for record, _, row in rows:
        counts.add_counts(record.case_id, {label: row.counts[n] for n, label in enumerate(target.classes, 1)})
    summary = counts.summary()
    lesions, lesion_bins = lesion_score(row.match for _, _, row in rows)
    worst = worst_role(role for _, role, _ in rows)
    scores = Scores(
        tuple(row.score for _, _, row in rows),
        tuple(record.patient for record, _, _ in rows),
        score_settings(target),
        failed=tuple(failed),
    )
    curve = froc([row.candidates for _, _, row in rows])
    evaluation = Evaluation(
        run_id=path.name,
        checkpoint_step=step,
        role=f"named cases, {worst}" if chosen.named else worst,
        notes=(*seen.unknown, *filter(None, (crop_note(target),)), *_post_notes(predictor, rows)),
        lesion_label=target.lesion_label,
        cases=cases,
        mean_dsc=summary.mean,
        n=sum(not math.isnan(case.dsc) for case in cases),
        undefined=sum(math.isnan(case.dsc) for case in cases),
        global_dsc=summary.global_dsc,
        dsc_by_class={label: item.mean for label, item in summary.classes.items()},
        n_by_class={label: item.n for label, item in summary.classes.items()},
        bins=_bins(cases),
        lesions=lesions,
        lesion_bins=lesion_bins,
        ball=BallBaseline(ball_mm3, tuple(case.ball_dsc for case in cases)),
        threshold=threshold,
        mirrored=predictor.mirror,
        folder=folder,
        failed=tuple(failed),
        figure=draw_panels(panels, target, folder / "contours.png"),
        lesion_figure=_draw_lesions(scores, curve, folder / "lesions.png"),
        froc=curve,
        scores=scores,
    )
    _write(evaluation)
    log.remove()
    kept.remove()
    return evaluation


def _post_notes(predictor: Predictor, rows: Sequence[tuple[CaseRecord, Role, CaseRow]]) -> tuple[str, ...]:
    """Return what has to be said about post-processing, as sentences."""
    post = predictor.post
    if post is None:
        return ()
    notes = [f"post-processing: {post}"]
    tuned = sum(record.case_id in post.cases for record, _, _ in rows)
    if tuned and post.gain is not None:
        gain, what = post.gain, post.objective_in_words
        notes.append(
            f"it was chosen on {tuned} of these cases, so their scores are too high; the nested estimate, each patient "
            f"with the choice of the others, is {what} {gain.after:.3f} instead of {gain.before:.3f} without it (gain "
            f"{gain.gain:.3f} [{gain.low:.3f}, {gain.high:.3f}], {gain.patients} patients)"
        )
    return tuple(notes)


def _cases(
    rows: Sequence[tuple[CaseRecord, Role, CaseRow]], target: TargetPlan, threshold: ThresholdBaseline | None
) -> tuple[CaseEvaluation, ...]:
    cases = []
    for index, (record, role, row) in enumerate(rows):
        by_class = {label: row.counts[number].dsc for number, label in enumerate(target.classes, 1)}
        largest = max(row.match.true_mm3, default=0.0)
        cases.append(
            CaseEvaluation(
                case_id=record.case_id,
                patient=record.patient,
                role=role.value,
                dsc=mean_dsc(by_class.values()),
                lesion_dsc=by_class[target.lesion_label],
                dsc_by_class=by_class,
                volume_mm3=row.labelled_voxels * row.voxel_mm3,
                predicted_mm3=row.predicted_voxels * row.voxel_mm3,
                lesion_count=len(row.match.true_mm3),
                lesions_found=row.match.found,
                false_positives=row.match.false_positives,
                largest_lesion_mm3=largest,
                size_bin=size_bin(largest) if largest else None,
                ball_dsc=row.ball_dsc,
                threshold_dsc=None if threshold is None else threshold.dsc[index],
            )
        )
    return tuple(cases)


def _bins(cases: Sequence[CaseEvaluation]) -> tuple[SizeBin, ...]:
    bins = []
    for number, name in enumerate(SIZE_BIN_NAMES):
        values = [case.lesion_dsc for case in cases if case.size_bin == number and not math.isnan(case.lesion_dsc)]
        bins.append(SizeBin(name=name, mean_dsc=mean_dsc(values), n=len(values)))
    return tuple(bins)


def _median_lesion_mm3(study: Study, target: TargetPlan) -> float:
    volumes = [v for case in study.fingerprint().cases for v in case.volumes_mm3(target.lesion_label)]
    return float(np.median(volumes)) if volumes else target.median_volume_mm3


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
    masks = (record.read_label().array == target.lesion_label for record in records)
    return best_threshold_dsc(
        (image(record) for record in records),
        (organ(record) for record in records),
        masks,
        np.arange(math.floor(low), math.ceil(high) + 1, dtype=np.float64),
    )


def _draw_lesions(scores: Scores, curve: Froc, path: Path) -> Path | None:
    from patchcore.views.figures import lesions_found_figure

    path.unlink(missing_ok=True)
    rows = [row for case in scores.cases for row in case.lesions]
    with suppress(MissingExtraError, DataError):  # without lesions there is nothing to draw
        return lesions_found_figure(
            [row.equivalent_diameter_mm for row in rows],
            [row.dsc for row in rows],
            [row.found for row in rows],
            curve.false_per_case,
            curve.sensitivity,
            path,
        )
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
    evaluation.scores.write(evaluation.folder)
    content = {field.name: getattr(evaluation, field.name) for field in fields(evaluation) if field.name != "scores"}
    content |= {
        "cases": [asdict(case) for case in evaluation.cases],
        "bins": [asdict(size) for size in evaluation.bins],
        "mean_dsc_interval": asdict(evaluation.scores.mean_dsc()),
        "schema_version": EVALUATION_SCHEMA,
        "grid": "original",
        "lesions": _lesion_json(evaluation.lesions),
        "lesion_bins": [
            {"name": name} | _lesion_json(score)
            for name, score in zip(SIZE_BIN_NAMES, evaluation.lesion_bins, strict=True)
        ],
        "ball": asdict(evaluation.ball) | {"mean": evaluation.ball.mean},
        "folder": evaluation.folder.name,
        "figure": evaluation.figure.name if evaluation.figure else None,
        "lesion_figure": evaluation.lesion_figure.name if evaluation.lesion_figure else None,
        "froc": asdict(evaluation.froc),
    }
    if evaluation.threshold is not None:
        content["threshold"] = asdict(evaluation.threshold) | {"mean": evaluation.threshold.mean}
    write_json_atomic(evaluation.folder / "evaluation.json", content)
