"""Chooses the post-processing of a run on its validation cases: threshold, organ, least lesion volume.

A choice is kept only if it helps patients that had no part in it: every patient is scored with what the others chose,
and the 95 % interval of the gain, over patients, must lie above 0.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from patchcore.affines import voxel_volume_mm3
from patchcore.config.plan import TargetPlan
from patchcore.config.postprocess import POSTPROCESS_FILE, Objective, Postprocess
from patchcore.datasets.row_log import RowLog
from patchcore.errors import ConfigError, DataError, PatchcoreError
from patchcore.evaluation.cases import chosen_cases
from patchcore.evaluation.choose import (
    LEAST_PATIENTS,
    THRESHOLDS,
    CaseCounts,
    Choice,
    Components,
    Rules,
    TuningCase,
    choose,
    nested_counts,
)
from patchcore.files import DISK_ERRORS, write_json_atomic
from patchcore.inference.postprocess import inside_organ, lesion_peaks
from patchcore.inference.predictor import Predictor
from patchcore.inference.segment import PROBABILITY_STEPS, lesion_mask, lesion_members
from patchcore.lesions.measure import lesion_spans
from patchcore.lesions.size_bins import SIZE_BIN_NAMES, size_bin
from patchcore.metrics.froc import name_lesions, shared_voxels
from patchcore.models.device import settings_kept
from patchcore.runs import resolve_run
from patchcore.runs.seen import read_record
from patchcore.runs.setup import read_setup, read_split
from patchcore.store.prepare import check_labels, class_indices
from patchcore.study import CaseRecord, Study
from patchcore.types import BoolArray, PathLike

__all__ = ["Tuning", "tune"]

_OBJECTIVES: Final = ("lesion-f1", "dsc")


@dataclass(frozen=True)
class Tuning:
    """Result of a tuning.

    Attributes:
        settings: What was written to ``postprocess.json``.
        path: The file.
        before: Counts of the tuning cases without post-processing: lesions, found, components, true components.
        after: The same with the choice, on the cases that made it.
        nested: The same with the choice of the other patients.
        failed: Cases that could not be used, with the reason.
    """

    settings: Postprocess
    path: Path
    before: tuple[int, int, int, int]
    after: tuple[int, int, int, int]
    nested: tuple[int, int, int, int]
    failed: tuple[tuple[str, str], ...] = ()


def tune(
    run: PathLike,
    *,
    objective: Objective = "lesion-f1",
    may_lose: float = 0.01,
    organ_label: int | None = None,
    checkpoint: str | None = None,
    device: str | None = None,
    mirror: bool | None = None,
    on_case: Callable[[str, int, int], None] | None = None,
) -> Tuning:
    """Choose the post-processing of a run on its validation cases, and write ``RUN/postprocess.json``.

    ``predict``, ``evaluate`` and ``export`` use it for this checkpoint and refuse it for another. The least volume is
    never larger than a quarter of the volume that 95 % of the study's lesions exceed. An interrupted call continues
    with the missing cases.

    Args:
        run: The run folder.
        objective: ``lesion-f1``: harmonic mean of recall and precision of all lesions together; whole lesions are
            removed, and the others stay as they are. ``dsc``: mean DSC of the lesions over cases, where a case without
            lesion and prediction counts as 1; thresholds of the probability are tried, too.
        may_lose: Share of the lesions found without post-processing that a choice may lose at most; rounded down.
        organ_label: The organ of the lesions, a label that the network learns; default: the only other class, if there
            is exactly one.
        checkpoint: ``best`` or ``last``; default: best if it exists, else last.
        device: ``auto``, ``cpu`` or ``cuda``; default: the run's.
        mirror: Whether to average over mirrored windows; default: as in the run's validation.
        on_case: Called with (case_id, number of the case, number of cases) after each case.

    Raises:
        RunError: The path is not a run folder.
        CheckpointError: The run has no checkpoint, or it is damaged.
        ConfigError: The objective does not exist, or the network does not learn the organ.
        PlanError: The study's labels are read differently now.
        DataError: No validation case could be used.
        OSError: Something cannot be read or written.

    Example:
        >>> import patchcore as pc  # doctest: +SKIP
        >>> str(pc.tune("study/runs/…").settings)  # doctest: +SKIP
        'lesions of at least 35 mm³'
    """
    if objective not in _OBJECTIVES:
        raise ConfigError(f"{objective!r} is not an objective", expected=_OBJECTIVES, remedy="use one of them")
    if not 0 <= may_lose <= 1:
        raise ConfigError(f"may_lose is {may_lose}", expected="0 to 1", remedy="give a share, e.g. 0.01")
    path = resolve_run(None, str(run))
    study = Study(path.parent.parent)
    setup, seen = read_setup(path), read_record(path)
    target = setup.plan.target
    split = read_split(path)
    if split is None:
        raise DataError("the run does not say which cases validated it", path=path, remedy="train again")
    check_labels(study, target, [record for record in study.cases() if record.usable])
    records = chosen_cases(study, split, setup.config, seen, None, None).records
    organ = _organ(target, organ_label)
    with settings_kept():
        predictor = Predictor.of_run(path, checkpoint=checkpoint, device=device, mirror=mirror, post=False)
        [source] = predictor.sources
        log = RowLog(
            path / "tune.unfinished.jsonl",
            {
                "schema_version": 1,
                "weights": source.weights_sha256,
                "target": target.model_dump(mode="json"),
                "mirror": predictor.mirror,
                "overlap": predictor.overlap,
                "organ": organ,
                "thresholds": THRESHOLDS,
            },
            write=asdict,
            read=_from_json,
        )
        cases, failed = [], []
        for number, record in enumerate(records, 1):
            try:
                case = log.find(record)
                if case is None:
                    case = _measure(predictor, record, organ)
                    log.add(record, case)
            except (PatchcoreError, OSError, MemoryError) as error:
                if getattr(error, "errno", None) in DISK_ERRORS:
                    raise
                failed.append((record.case_id, str(error) or type(error).__name__))
                continue
            cases.append(case)
            if on_case is not None:
                on_case(record.case_id, number, len(records))
    if not cases:
        reason = f"; first error: {failed[0][1]}" if failed else ""
        raise DataError(
            f"none of {len(records)} validation cases could be used{reason}",
            path=path,
            remedy="read the error, and run patchcore check",
        )
    rules = Rules(
        objective,
        may_lose,
        has_organ=organ is not None,
        most_mm3=_most_mm3(study, target),
        # A region inside the lesions is painted at 0.5 whatever the threshold of the lesions is.
        has_thresholds=objective == "dsc" and len(lesion_members(target)) == 1,
    )
    choice, gain = choose(cases, rules)
    plain = [case.score(Choice()) for case in cases]
    chosen = [case.score(choice) for case in cases]
    lost = Counter(
        SIZE_BIN_NAMES[size_bin(case.true_mm3[lesion])]
        for case, before, after in zip(cases, plain, chosen, strict=True)
        for lesion in before.found - after.found
    )
    settings = Postprocess(
        weights_sha256=source.weights_sha256,
        objective=objective,
        threshold=THRESHOLDS[choice.threshold],
        organ_label=organ if choice.organ else None,
        min_volume_mm3=choice.min_volume_mm3,
        min_peak=choice.peak or None,
        mirror=predictor.mirror,
        gain=gain,
        kept=gain.low > 0 and gain.patients >= LEAST_PATIENTS,
        lost={name: lost[name] for name in SIZE_BIN_NAMES if lost[name]},
        cases=tuple(case.case_id for case in cases),
    )
    file = path / POSTPROCESS_FILE
    write_json_atomic(file, settings.model_dump(mode="json"))
    log.remove()
    return Tuning(
        settings,
        file,
        before=_sums(plain),
        after=_sums(chosen),
        nested=_sums(nested_counts(cases, rules)),
        failed=tuple(failed),
    )


def _organ(target: TargetPlan, organ_label: int | None) -> int | None:
    others = [label for label in target.classes if label != target.lesion_label]
    if organ_label is not None and organ_label not in others:
        raise ConfigError(
            f"the network does not learn an organ of label {organ_label}",
            expected=others or None,
            remedy="leave out --organ-label",
        )
    if organ_label is None and len(others) == 1 and not target.regions:
        return others[0]
    return organ_label


def _most_mm3(study: Study, target: TargetPlan) -> float:
    """Return a quarter of the volume that 95 % of the study's lesions exceed.

    A small lesion of which a quarter is predicted must stay: few tuning cases cannot show that it exists.
    """
    volumes = [volume for case in study.fingerprint().cases for volume in case.volumes_mm3(target.lesion_label)]
    return float(np.quantile(volumes, 0.05)) / 4 if volumes else 0.0


def _measure(predictor: Predictor, record: CaseRecord, organ: int | None) -> TuningCase:
    """Predict a case and find the components at every threshold."""
    target = predictor.target
    image, truth = record.read_image(), record.read_label()
    if truth.array.shape != image.array.shape:
        raise DataError(
            f"label shape {truth.array.shape} does not match image {image.array.shape}",
            case_id=record.case_id,
            remedy="export both files again, or exclude the case",
        )
    found, _ = predictor.segment(image.array, image.affine, keep_probability=True)
    assert found.lesion_probability is not None
    lesions = lesion_mask(class_indices(truth.array, target.classes), target)
    seen = None if target.ignore_label is None else truth.array != target.ignore_label
    voxel_mm3 = voxel_volume_mm3(truth.affine)
    true = lesion_spans(lesions, connectivity=target.connectivity)
    names, true_mm3, large = name_lesions(
        true, lesions.shape, voxel_mm3=voxel_mm3, min_volume_mm3=target.min_volume_mm3
    )
    organ_mask = None if organ is None else found.classes == target.classes.index(organ) + 1
    at = []
    for threshold in THRESHOLDS:
        if threshold is None:
            mask = lesion_mask(found.classes, target)
        else:
            mask = found.lesion_probability > math.floor(threshold * PROBABILITY_STEPS)
        if seen is not None:
            mask &= seen
        at.append(_components(mask, found.lesion_probability, names, organ_mask, target.connectivity))
    return TuningCase(
        record.case_id,
        record.patient,
        voxel_mm3,
        target.min_volume_mm3,
        tuple(true_mm3[large].tolist()),
        int(true.voxel_count.sum()),
        tuple(at),
    )


def _components(
    mask: BoolArray,
    probability: npt.NDArray[np.uint16],
    names: npt.NDArray[np.int32],
    organ: BoolArray | None,
    connectivity: int,
) -> Components:
    spans = lesion_spans(mask, connectivity=connectivity)
    inside = np.ones(spans.lesion_count, dtype=np.bool_)
    if organ is not None and spans.lesion_count:
        inside = inside_organ(organ & ~mask, mask, spans)
    rows = tuple((a, b, c) for a, b, c in shared_voxels(spans, mask, names).tolist())
    peaks = lesion_peaks(spans, probability)
    return Components(tuple(spans.voxel_count.tolist()), tuple(peaks.tolist()), tuple(inside.tolist()), rows)


def _sums(counts: Sequence[CaseCounts]) -> tuple[int, int, int, int]:
    lesions, found, predicted, true = np.asarray([one.row()[:4] for one in counts]).sum(0).astype(int).tolist()
    return lesions, found, predicted, true


def _from_json(value: Mapping[str, Any]) -> TuningCase:
    at = tuple(
        Components(
            tuple(one["voxels"]), tuple(one["peaks"]), tuple(one["inside"]), tuple((a, b, c) for a, b, c in one["hits"])
        )
        for one in value["at"]
    )
    return TuningCase(**(dict(value) | {"at": at, "true_mm3": tuple(value["true_mm3"])}))
