"""Defines the results of an evaluation: scores per case, per size bin and of the cohort."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from patchcore.metrics.baselines import BallBaseline, ThresholdBaseline
from patchcore.metrics.froc import Froc
from patchcore.metrics.lesions import LesionScore
from patchcore.metrics.score_files import Scores

__all__ = ["EVALUATION_SCHEMA", "CaseEvaluation", "Evaluation", "SizeBin"]

EVALUATION_SCHEMA = 2
"""Version of ``evaluation.json``. In version 1, the mean DSC was the mean over cases of the mean over classes."""


@dataclass(frozen=True)
class CaseEvaluation:
    """Scores of one case.

    Attributes:
        case_id: Id of the case.
        patient: The patient of the case.
        role: What the run and its ancestors have done with the case, e.g. ``used for selection``; see
            :class:`patchcore.runs.seen.Role`.
        dsc: Mean DSC over the classes, on the case's own grid; NaN if neither map contains any of the classes.
        lesion_dsc: DSC of the lesion class only; size bins and baselines use this value.
        dsc_by_class: Label → DSC; for a region, the label that identifies the region.
        volume_mm3: Labelled lesion volume.
        predicted_mm3: Predicted lesion volume.
        lesion_count: Number of lesions in the label map.
        lesions_found: Number of these lesions with at least one predicted voxel.
        false_positives: Number of predicted components without a lesion voxel, formed with the plan's connectivity.
        largest_lesion_mm3: Volume of the largest lesion; 0 without a lesion.
        size_bin: Index of the largest lesion's size bin in :data:`SIZE_BIN_NAMES`; None without a lesion.
        ball_dsc: DSC of the centre-ball baseline.
        threshold_dsc: DSC of the best HU threshold; None if it was not requested.
    """

    case_id: str
    patient: str
    role: str
    dsc: float
    lesion_dsc: float
    dsc_by_class: dict[int, float]
    volume_mm3: float
    predicted_mm3: float
    lesion_count: int
    lesions_found: int
    false_positives: int
    largest_lesion_mm3: float
    size_bin: int | None
    ball_dsc: float
    threshold_dsc: float | None = None


@dataclass(frozen=True)
class SizeBin:
    """Mean lesion DSC over the `n` cases with a DSC and with a largest lesion in this size bin."""

    name: str
    mean_dsc: float
    n: int


@dataclass(frozen=True)
class Evaluation:
    """Result of :func:`evaluate`.

    Attributes:
        run_id: Id of the run.
        checkpoint_step: Step of the evaluated checkpoint.
        role: The worst role of a case in the run, see :class:`patchcore.runs.seen.Role`; ``some …`` if the roles
            differ; ``named cases, …`` if the user named the cases.
        notes: What limits the scores, as sentences: weights of unknown origin, a training on crops.
        lesion_label: The label of the lesions.
        cases: Scores per case, in case_id order.
        mean_dsc: Mean over the classes of each class's mean DSC over the cases, as MSD and nnU-Net report it.
        n: Number of cases in which a class is labelled or predicted.
        undefined: Number of cases excluded from the mean, because nothing was predicted and nothing is labelled.
        global_dsc: DSC of the voxels of all cases together, averaged over the classes.
        dsc_by_class: Label → mean DSC.
        n_by_class: Label → number of cases in its mean.
        bins: Mean DSC by size of the largest lesion.
        lesions: Recall and precision over all lesions.
        lesion_bins: Recall by size of the true lesion, and precision by size of the predicted component.
        ball: The centre-ball baseline.
        threshold: The best fixed HU threshold within the organ; None if it was not requested.
        mirrored: Whether predictions were averaged over mirrored windows.
        folder: Folder of the report.
        failed: Cases that could not be used, each with the reason.
        figure: The contours of the worst cases; None if they could not be drawn.
        lesion_figure: Lesions found by size, and the FROC; None if it could not be drawn.
        froc: Share of the lesions found against false candidates per case.
        scores: Overlap, surfaces and lesions of every case, with intervals.
    """

    run_id: str
    checkpoint_step: int
    role: str
    notes: tuple[str, ...]
    lesion_label: int
    cases: tuple[CaseEvaluation, ...]
    mean_dsc: float
    n: int
    undefined: int
    global_dsc: float
    dsc_by_class: dict[int, float]
    n_by_class: dict[int, int]
    bins: tuple[SizeBin, ...]
    lesions: LesionScore
    lesion_bins: tuple[LesionScore, ...]
    ball: BallBaseline
    threshold: ThresholdBaseline | None
    mirrored: bool
    folder: Path
    failed: tuple[tuple[str, str], ...]
    figure: Path | None
    lesion_figure: Path | None
    froc: Froc
    scores: Scores
