"""Scores one case: overlap, surfaces and lesions of every class, with one row for each lesion and component.

This file is long because each column of the tables is described.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from patchcore import _core
from patchcore.affines import voxel_volume_mm3
from patchcore.arrays import thread_count
from patchcore.errors import ConfigError
from patchcore.lesions.size_bins import SIZE_BIN_NAMES, size_bin
from patchcore.lesions.table import Lesions
from patchcore.metrics.brats import Joined, brats_joined, brats_lesions, brats_rules
from patchcore.metrics.dice import VoxelCounts
from patchcore.metrics.matching import (
    MODE_CONNECTIVITY,
    autopet,
    cc_dsc,
    cc_metrics,
    lits_lesions,
    merged_counts,
    overlap_matching,
    panoptica,
)
from patchcore.metrics.pair import CONVENTIONS, MaskPair, SurfaceScore
from patchcore.types import Affine, AnyArray

__all__ = ["CaseScore", "ClassScore", "LesionRow", "MatchRow", "PredictedRow", "ScoreSettings", "score_case"]

MODES = ("overlap", "panoptica", "panoptica-many", "lits", "cc", "autopet", "brats:CHALLENGE-YEAR")
"""Names of lesion modes, as users write them."""


@dataclass(frozen=True)
class ScoreSettings:
    """What is scored, and how.

    Attributes:
        classes: Name of a class → label values that belong to it. A region has several.
        lesion_class: Name of the class of the lesions.
        ignore_label: Voxels with this true label count neither as labelled nor as predicted.
        conventions: Surface conventions; empty: surfaces are not compared.
        tolerances_mm: Tolerances of the normalised surface distance [mm].
        modes: Lesion modes, of :data:`MODES`.
        connectivity: Connectivity of components [default: that of each mode].
        min_volume_mm3: Components smaller than this do not exist, on both sides [mm³].
        instances: Each label of the lesion class is one lesion, wherever its voxels lie.
        rows: Whether to compute a row for each lesion and predicted component.
        panoptica_iou: IoU threshold of mode ``panoptica``.
        panoptica_many_iou: IoU threshold of mode ``panoptica-many``.
    """

    classes: Mapping[str, tuple[int, ...]]
    lesion_class: str
    ignore_label: int | None = None
    conventions: tuple[str, ...] = CONVENTIONS[:1]
    tolerances_mm: tuple[float, ...] = (1.0, 2.0)
    modes: tuple[str, ...] = ("overlap",)
    connectivity: int | None = None
    min_volume_mm3: float = 0.0
    instances: bool = False
    rows: bool = True
    panoptica_iou: float = 0.5
    panoptica_many_iou: float = 0.1

    def __post_init__(self) -> None:
        for mode in self.modes:
            self.connectivity_of(mode)
        if self.lesion_class not in self.classes:
            raise ConfigError(f"lesion class {self.lesion_class!r}", expected=", ".join(self.classes))

    def connectivity_of(self, mode: str) -> int:
        """Return the connectivity of the components in a mode.

        Raises:
            ConfigError: There is no such mode.
        """
        name, colon, rest = mode.partition(":")
        if name not in MODE_CONNECTIVITY or (name == "brats") != bool(colon):
            raise ConfigError(f"lesion mode {mode!r}", found=mode, expected=", ".join(MODES))
        if name == "brats":
            brats_rules(rest)
        return self.connectivity or MODE_CONNECTIVITY[name]


@dataclass(frozen=True)
class LesionRow:
    """One true lesion, scored against the union of the predicted components that overlap it.

    Attributes:
        case_id: Id of the case.
        lesion: Number of the lesion within the case, from 1.
        volume_mm3: Its volume [mm³].
        equivalent_diameter_mm: Diameter of the ball with this volume [mm].
        longest_axial_diameter_mm: Largest distance between voxel centres within one axial slice [mm].
        size_bin: Name of its size bin.
        centroid_x_mm: World position of its centre (RAS+) [mm].
        centroid_y_mm: As above.
        centroid_z_mm: As above.
        found: Whether at least one of its voxels is predicted.
        predicted_share: Share of its voxels that is predicted.
        dsc: DSC with the overlapping components; 0 if it was not found.
        iou: IoU with the overlapping components.
        cc_dsc: DSC within its Voronoi region, as CC-Metrics.
        hd95_mm: 95 % Hausdorff distance under the first surface convention [mm]; infinite if it was not found, NaN if
            surfaces are not compared.
        components: Number of overlapping components.
    """

    case_id: str
    lesion: int
    volume_mm3: float
    equivalent_diameter_mm: float
    longest_axial_diameter_mm: float
    size_bin: str
    centroid_x_mm: float
    centroid_y_mm: float
    centroid_z_mm: float
    found: bool
    predicted_share: float
    dsc: float
    iou: float
    cc_dsc: float
    hd95_mm: float
    components: int


@dataclass(frozen=True)
class PredictedRow:
    """One predicted component.

    Attributes:
        case_id: Id of the case.
        component: Number of the component within the case, from 1.
        volume_mm3: Its volume [mm³].
        equivalent_diameter_mm: Diameter of the ball with this volume [mm].
        size_bin: Name of its size bin.
        centroid_x_mm: World position of its centre (RAS+) [mm].
        centroid_y_mm: As above.
        centroid_z_mm: As above.
        true: Whether at least one of its voxels is lesion, also of a lesion below the minimum volume.
        lesion_share: Share of its voxels that is lesion.
        lesions: Number of lesions that it overlaps, without those below the minimum volume.
    """

    case_id: str
    component: int
    volume_mm3: float
    equivalent_diameter_mm: float
    size_bin: str
    centroid_x_mm: float
    centroid_y_mm: float
    centroid_z_mm: float
    true: bool
    lesion_share: float
    lesions: int


@dataclass(frozen=True)
class MatchRow:
    """A lesion and a predicted component that share a voxel. One lesion may be in several rows, and so may a component.

    Attributes:
        case_id: Id of the case.
        lesion: Number of the lesion.
        component: Number of the predicted component.
        shared_mm3: Volume that they share [mm³].
        dsc: DSC of the two.
        iou: IoU of the two.
    """

    case_id: str
    lesion: int
    component: int
    shared_mm3: float
    dsc: float
    iou: float


@dataclass(frozen=True)
class ClassScore:
    """The scores of one class in one case.

    Attributes:
        counts: Voxels predicted, labelled and both.
        voxel_mm3: Volume of a voxel [mm³].
        surface: Convention → score.
    """

    counts: VoxelCounts
    voxel_mm3: float
    surface: Mapping[str, SurfaceScore] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the scores as JSON values; a value that is not finite is None, with a ``reason`` in its object."""
        counts = self.counts
        found: dict[str, Any] = {
            "dsc": counts.dsc,
            "jaccard": counts.jaccard,
            "recall": counts.recall,
            "precision": counts.precision,
            "relative_volume_difference": counts.relative_volume_difference,
            "truth_mm3": counts.label * self.voxel_mm3,
            "prediction_mm3": counts.prediction * self.voxel_mm3,
        }
        if not (counts.label and counts.prediction):
            found["reason"] = _why_empty(counts)
        surface = {}
        for name, score in self.surface.items():
            values = asdict(score) | {"nsd": {f"{mm:g}": share for mm, share in score.nsd.items()}}
            del values["convention"], values["nsd_directed"]
            if not score.reason:
                del values["reason"]
            surface[name] = values
        return found | ({"surface": surface} if surface else {})


def _why_empty(counts: VoxelCounts) -> str:
    if counts.label or counts.prediction:
        return f"the {'predicted' if counts.label else 'true'} mask has no voxel"
    return "neither mask has a voxel"


@dataclass(frozen=True)
class CaseScore:
    """The scores of one case.

    Attributes:
        case_id: Id of the case.
        classes: Class → scores.
        lesion_class: Name of the class of the lesions.
        modes: Lesion mode → numbers.
        lesions: One row per true lesion.
        predicted: One row per predicted component.
        matches: One row per lesion and component that share a voxel.
        notes: What was decided about the case.
    """

    case_id: str
    classes: Mapping[str, ClassScore]
    lesion_class: str
    modes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    lesions: tuple[LesionRow, ...] = ()
    predicted: tuple[PredictedRow, ...] = ()
    matches: tuple[MatchRow, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def from_record(cls, value: Mapping[str, Any]) -> CaseScore:
        """Return the score whose :func:`dataclasses.asdict` was written as JSON."""

        def surface(score: Mapping[str, Any]) -> SurfaceScore:
            nsd = {float(mm): share for mm, share in score["nsd"].items()}
            directed = {float(mm): (a, b) for mm, (a, b) in score["nsd_directed"].items()}
            return SurfaceScore(**(dict(score) | {"nsd": nsd, "nsd_directed": directed}))

        classes = {
            name: ClassScore(
                VoxelCounts(**score["counts"]),
                score["voxel_mm3"],
                {convention: surface(values) for convention, values in score["surface"].items()},
            )
            for name, score in value["classes"].items()
        }
        return cls(
            case_id=value["case_id"],
            classes=classes,
            lesion_class=value["lesion_class"],
            modes=value["modes"],
            lesions=tuple(LesionRow(**row) for row in value["lesions"]),
            predicted=tuple(PredictedRow(**row) for row in value["predicted"]),
            matches=tuple(MatchRow(**row) for row in value["matches"]),
            notes=tuple(value["notes"]),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the case as JSON values: the scores of the lesion class, and those of each class in ``classes``."""
        found = {"case_id": self.case_id} | self.classes[self.lesion_class].to_json()
        found["lesions"] = {name: dict(values) for name, values in self.modes.items()}
        if "cc" in self.modes:
            found["cc_dice"] = self.modes["cc"]["dsc"]
        found["classes"] = {name: score.to_json() for name, score in self.classes.items()}
        if self.notes:
            found["notes"] = list(self.notes)
        return found


class _Pairs:
    """The components of the lesion class by connectivity, each found when it is needed."""

    def __init__(self, truth: AnyArray, prediction: AnyArray, affine: Affine, settings: ScoreSettings) -> None:
        self._arguments = (truth, prediction)
        self._affine, self._settings = affine, settings
        self._found: dict[int, MaskPair] = {}

    def of(self, connectivity: int) -> MaskPair:
        if connectivity not in self._found:
            pair = MaskPair(
                *self._arguments,
                affine=self._affine,
                labels=self._settings.classes[self._settings.lesion_class],
                connectivity=connectivity,
                instances=self._settings.instances,
                min_volume_mm3=self._settings.min_volume_mm3,
            )
            self._found[connectivity] = pair
        return self._found[connectivity]

    def joined(self, challenge: str) -> Joined | None:
        """Join the lesions of a BraTS tissue by the other tissues, where the challenge does so."""
        labels = self._settings.classes[self._settings.lesion_class]
        if self._settings.instances or self._settings.min_volume_mm3 or self._settings.connectivity not in (None, 26):
            return None  # components are then not those of the challenge
        return brats_joined(challenge, *self._arguments, self._affine, labels)


def score_case(
    case_id: str, truth: AnyArray, prediction: AnyArray, affine: Affine, settings: ScoreSettings
) -> CaseScore:
    """Score a prediction of one case.

    Args:
        case_id: Id of the case.
        truth: Label map, integers (i, j, k).
        prediction: Label map of the same shape.
        affine: Voxel index → world mm, float64 (4, 4).
        settings: What is scored.

    Raises:
        ShapeMismatchError: The shapes differ.
        ConfigError: A mode or a convention does not exist.
        DataError: The affine is impossible.

    Example:
        >>> truth = np.zeros((8, 8, 8), np.uint8)
        >>> truth[1:4, 1:4, 1:4] = 2
        >>> settings = ScoreSettings({"2": (2,)}, "2")
        >>> case = score_case("a", truth, np.roll(truth, 1, axis=0), np.eye(4), settings)
        >>> round(case.classes["2"].counts.dsc, 3), case.lesions[0].found, case.modes["overlap"]["recall"]
        (0.667, True, 1.0)
    """
    if settings.ignore_label is not None:
        ignored = truth == settings.ignore_label
        truth, prediction = np.where(ignored, 0, truth), np.where(ignored, 0, prediction)
    counts = count_labels(truth, prediction, settings.classes)
    pairs = _Pairs(truth, prediction, affine, settings)
    voxel_mm3 = voxel_volume_mm3(affine)
    classes = {}
    for name, labels in settings.classes.items():
        surface: Mapping[str, SurfaceScore] = {}
        if settings.conventions:
            whole = MaskPair(truth, prediction, affine=affine, labels=labels, connectivity=6)
            [surface] = whole.surfaces(conventions=settings.conventions, tolerances_mm=settings.tolerances_mm)
        classes[name] = ClassScore(counts[name], voxel_mm3, surface)
    modes = {mode: _mode(mode, pairs, settings) for mode in settings.modes}
    score = CaseScore(case_id, classes, settings.lesion_class, modes)
    if not settings.rows:
        return score
    pair = pairs.of(settings.connectivity or MODE_CONNECTIVITY["overlap"])
    lesions, predicted, matches = _rows(case_id, pair, settings.conventions[:1])
    return CaseScore(case_id, classes, settings.lesion_class, modes, lesions, predicted, matches)


def count_labels(truth: AnyArray, prediction: AnyArray, classes: Mapping[str, Sequence[int]]) -> dict[str, VoxelCounts]:
    """Count the voxels of each class in one pass over both label maps.

    Args:
        truth: Label map, integers (i, j, k).
        prediction: Label map of the same shape.
        classes: Class → label values that belong to it.
    """
    shared, in_truth, in_prediction = _core.label_overlaps(truth, prediction, threads=thread_count(None))
    found = {}
    for name, labels in classes.items():
        members = set(labels)
        found[name] = VoxelCounts(
            sum(voxels for a, b, voxels in shared if a in members and b in members),
            sum(voxels for label, voxels in in_prediction if label in members),
            sum(voxels for label, voxels in in_truth if label in members),
        )
    return found


def _mode(mode: str, pairs: _Pairs, settings: ScoreSettings) -> dict[str, Any]:
    name, _, rest = mode.partition(":")
    pair = pairs.of(settings.connectivity_of(mode))
    if name == "panoptica":
        return panoptica(pair, threshold=settings.panoptica_iou)
    if name == "panoptica-many":
        return panoptica(pair, threshold=settings.panoptica_many_iou, many_to_one=True)
    if name == "brats":
        return brats_lesions(pair, brats_rules(rest), pairs.joined(rest))
    return {"overlap": overlap_matching, "lits": lits_lesions, "cc": cc_metrics, "autopet": autopet}[name](pair)


def _rows(
    case_id: str, pair: MaskPair, conventions: Sequence[str]
) -> tuple[tuple[LesionRow, ...], tuple[PredictedRow, ...], tuple[MatchRow, ...]]:
    size, shared = merged_counts(pair)
    owners: list[list[int]] = [[] for _ in range(len(pair.truth))]
    hits = np.zeros(len(pair.prediction), np.int64)
    lesion_voxels = pair.on_specks.copy()
    matches = []
    for truth, prediction, voxels in pair.overlaps.tolist():
        owners[truth].append(prediction)
        hits[prediction] += 1
        lesion_voxels[prediction] += voxels
        both = int(pair.truth.voxel_count[truth] + pair.prediction.voxel_count[prediction])
        matches.append(
            MatchRow(
                case_id, truth + 1, prediction + 1, voxels * pair.voxel_mm3, 2 * voxels / both, voxels / (both - voxels)
            )
        )
    hd95 = np.full(len(pair.truth), math.nan)
    if conventions:
        groups = [([number], owners[number]) for number in range(len(pair.truth))]
        scores = pair.surfaces(groups, conventions=conventions, tolerances_mm=())
        hd95 = np.array([score[conventions[0]].hd95_mm for score in scores])
    within = cc_dsc(pair)
    count, lesions = pair.truth.voxel_count, []
    for number, place in enumerate(_places(pair.truth)):
        both = int(count[number] + size[number])
        lesions.append(
            LesionRow(
                case_id=case_id,
                lesion=number + 1,
                longest_axial_diameter_mm=float(pair.truth.longest_axial_diameter_mm[number]),
                found=bool(owners[number]),
                predicted_share=float(shared[number] / count[number]),
                dsc=float(2 * shared[number] / both),
                iou=float(shared[number] / (both - shared[number])),
                cc_dsc=float(within[number]),
                hd95_mm=float(hd95[number]),
                components=len(owners[number]),
                **place,
            )
        )
    predicted = [
        PredictedRow(
            case_id=case_id,
            component=number + 1,
            true=bool(lesion_voxels[number]),
            lesion_share=float(lesion_voxels[number] / pair.prediction.voxel_count[number]),
            lesions=int(hits[number]),
            **place,
        )
        for number, place in enumerate(_places(pair.prediction))
    ]
    return tuple(lesions), tuple(predicted), tuple(matches)


def _places(lesions: Lesions) -> list[dict[str, Any]]:
    """Return volume, diameter, size bin and position of each component."""
    return [
        {
            "volume_mm3": float(volume),
            "equivalent_diameter_mm": float(diameter),
            "size_bin": SIZE_BIN_NAMES[size_bin(float(volume))],
            "centroid_x_mm": float(x),
            "centroid_y_mm": float(y),
            "centroid_z_mm": float(z),
        }
        for volume, diameter, (x, y, z) in zip(
            lesions.volume_mm3, lesions.equivalent_diameter_mm, lesions.centroid_mm, strict=True
        )
    ]
