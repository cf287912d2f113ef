"""Scores one case, and keeps the scores of an evaluation that was interrupted."""

from __future__ import annotations

from dataclasses import asdict, astuple, dataclass
from typing import Any

import numpy as np

from patchcore.affines import voxel_volume_mm3
from patchcore.config.plan import TargetPlan
from patchcore.errors import DataError
from patchcore.inference.predictor import Predictor
from patchcore.inference.segment import PROBABILITY_STEPS, lesion_mask
from patchcore.metrics import (
    CaseScore,
    DscCounts,
    LesionMatch,
    ScoreSettings,
    VoxelCounts,
    dsc_ball_baseline,
    match_lesions,
)
from patchcore.metrics import score_case as score_maps
from patchcore.metrics.froc import Candidates, find_candidates
from patchcore.resampling.grid import Grid
from patchcore.store.prepare import class_indices
from patchcore.study import CaseRecord
from patchcore.types import AnyArray
from patchcore.views.figures.contours import best_slice

__all__ = ["CaseRow", "Panel", "row_of_json", "row_to_json", "score_case", "score_settings"]


@dataclass(frozen=True)
class Panel:
    """The slice of a case that the figure shows: image (HU), label and predicted class indices, each (x, y, 1)."""

    image: AnyArray
    label: AnyArray
    prediction: AnyArray


@dataclass(frozen=True)
class CaseRow:
    """What was counted in one case.

    Attributes:
        case_id: Id of the case.
        counts: Class index → voxel counts.
        match: True lesions and predicted components.
        labelled_voxels: Number of labelled lesion voxels.
        predicted_voxels: Number of predicted lesion voxels.
        voxel_mm3: Volume of a voxel of the case's own grid [mm³].
        ball_dsc: DSC of the centre-ball baseline.
        score: Overlap, surfaces and lesions of every class, with one row for each lesion and component.
        candidates: Candidates for lesions with their highest probabilities, for the FROC.
    """

    case_id: str
    counts: dict[int, VoxelCounts]
    match: LesionMatch
    labelled_voxels: int
    predicted_voxels: int
    voxel_mm3: float
    ball_dsc: float
    score: CaseScore
    candidates: Candidates


def score_settings(target: TargetPlan) -> ScoreSettings:
    """Return what an evaluation scores: the classes of a plan, on maps of class indices."""
    members = target.evaluated_indices
    return ScoreSettings(
        classes={str(label): tuple(members.get(index, (index,))) for index, label in enumerate(target.classes, 1)},
        lesion_class=str(target.lesion_label),
        modes=("overlap", "cc"),
        connectivity=target.connectivity,
        min_volume_mm3=target.min_volume_mm3,
    )


def score_case(predictor: Predictor, record: CaseRecord, *, ball_mm3: float) -> tuple[CaseRow, Panel]:
    """Predict a case as ``patchcore predict`` does, and compare the prediction with the label map.

    The whole scan is predicted, even if the store was cropped to an organ: outside of the organ, too, a prediction is
    wrong.

    Args:
        predictor: The network.
        record: The case.
        ball_mm3: Volume of the centre-ball baseline.

    Returns:
        The row, and the slice for the figure.

    Raises:
        DataError: A file of the case is damaged, or image and label map differ in shape.
        OSError: A file cannot be read.
        MemoryError: The case does not fit into memory.
    """
    target = predictor.target
    image = record.read_image()
    found, _ = predictor.segment(image.array, image.affine, keep_probability=True)
    indices, probability = found.classes, found.lesion_probability
    assert probability is not None
    truth = record.read_label()
    if truth.array.shape != indices.shape:
        raise DataError(
            f"label shape {truth.array.shape} does not match image {indices.shape}",
            case_id=record.case_id,
            remedy="export both files again, or exclude the case",
        )
    expected = class_indices(truth.array, target.classes)
    if target.ignore_label is not None:
        # Voxels that are ignored count neither as labelled nor as predicted.
        ignored = truth.array == target.ignore_label
        indices[ignored] = 0
        probability[ignored] = 0
    affine = truth.affine
    del truth
    counts = DscCounts(range(1, len(target.classes) + 1), target.evaluated_indices)
    counts.add(record.case_id, indices, expected)
    predicted, labelled = lesion_mask(indices, target), lesion_mask(expected, target)
    voxel_mm3 = voxel_volume_mm3(affine)
    match = match_lesions(
        predicted,
        labelled,
        voxel_mm3=voxel_mm3,
        connectivity=target.connectivity,
        min_volume_mm3=target.min_volume_mm3,
    )
    row = CaseRow(
        case_id=record.case_id,
        counts=counts.counts(record.case_id),
        match=match,
        labelled_voxels=int(np.count_nonzero(labelled)),
        predicted_voxels=int(np.count_nonzero(predicted)),
        voxel_mm3=voxel_mm3,
        ball_dsc=dsc_ball_baseline([labelled], [record.spacing], volume_mm3=ball_mm3).dsc[0],
        score=score_maps(record.case_id, expected, indices, affine, score_settings(target)),
        candidates=find_candidates(
            probability,
            labelled,
            voxel_mm3=voxel_mm3,
            connectivity=target.connectivity,
            min_volume_mm3=target.min_volume_mm3,
            scale=PROBABILITY_STEPS,
        ),
    )
    grid = Grid.of(record.shape, record.affine_array, target.spacing)
    label, prediction = grid.canonical(expected), grid.canonical(indices)
    at = best_slice(label, prediction)
    views = (grid.canonical(image.array), label, prediction)
    return row, Panel(*(np.ascontiguousarray(view[:, :, at : at + 1]) for view in views))


def row_to_json(row: CaseRow) -> dict[str, Any]:
    """Return JSON values of a row."""
    return asdict(row) | {"counts": {str(index): astuple(counts) for index, counts in row.counts.items()}}


def row_of_json(value: dict[str, Any]) -> CaseRow:
    """Return the row of JSON values."""
    counts = {int(index): VoxelCounts(*numbers) for index, numbers in value["counts"].items()}
    read = {
        "match": LesionMatch.from_json(value["match"]),
        "score": CaseScore.from_record(value["score"]),
        "candidates": Candidates.from_json(value["candidates"]),
    }
    return CaseRow(**(value | {"counts": counts} | read))
