"""Results of an evaluation: scores per case, per size bin and of the cohort."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from patchcore.metrics.baselines import BallBaseline, ThresholdBaseline
from patchcore.metrics.lesions import LesionScore

__all__ = ["CaseEvaluation", "Evaluation", "SizeBin"]


@dataclass(frozen=True)
class CaseEvaluation:
    """One case.

    Attributes:
        case_id: The case.
        patient: Its patient.
        dsc: Mean over the classes of DSC on the case's own grid; NaN where neither map has any.
        lesion_dsc: DSC of the lesions' class alone: what bins of size and baselines are of.
        dsc_by_class: DSC by label; of a region by the label that is its own.
        volume_mm3: Labelled lesion volume.
        predicted_mm3: Predicted lesion volume.
        lesion_count: Lesions in the label map.
        lesions_found: Of these, with at least one predicted voxel.
        false_positives: Predicted components without a voxel of a lesion; connectivity is the plan's.
        largest_lesion_mm3: Volume of the largest, 0 where there is none.
        size_bin: Index into :data:`SIZE_BIN_NAMES` of the largest lesion, None where there is none.
        ball_dsc: DSC of the centre-ball baseline.
        threshold_dsc: DSC of the best HU threshold, None where it was not asked for.
    """

    case_id: str
    patient: str
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
    """Mean DSC of the lesions in cases whose largest is of one size; `n` cases have a DSC."""

    name: str
    mean_dsc: float
    n: int


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` found.

    Attributes:
        run_id: The run.
        checkpoint_step: Step of its checkpoint.
        role: What the cases were to the run: ``used for selection``, ``used for training``, ``new to the run`` or
            ``held out``; ``some used for …`` where they were not alike; ``named cases, …`` where they were named.
        cases: In case_id order.
        mean_dsc: Mean over the cases that have a DSC.
        n: How many those are.
        undefined: Cases left out of the mean: nothing predicted and nothing labelled.
        global_dsc: DSC of all voxels taken together.
        dsc_by_class: Mean DSC by label.
        bins: By size of the largest lesion.
        lesions: Recall and precision over all lesions.
        lesion_bins: The same by size: recall by the true lesion's, precision by the predicted component's.
        ball: The centre-ball baseline.
        threshold: The best fixed HU threshold within the organ, where asked for.
        mirrored: Whether windows were also predicted mirrored, and averaged.
        folder: Where the report was written.
        failed: Cases that could not be used, with why.
        figure: The picture of contours, None where it could not be drawn.
    """

    run_id: str
    checkpoint_step: int
    role: str
    cases: tuple[CaseEvaluation, ...]
    mean_dsc: float
    n: int
    undefined: int
    global_dsc: float
    dsc_by_class: dict[int, float]
    bins: tuple[SizeBin, ...]
    lesions: LesionScore
    lesion_bins: tuple[LesionScore, ...]
    ball: BallBaseline
    threshold: ThresholdBaseline | None
    mirrored: bool
    folder: Path
    failed: tuple[tuple[str, str], ...]
    figure: Path | None
