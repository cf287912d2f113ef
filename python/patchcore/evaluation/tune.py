"""Chooses the post-processing of a run on its validation cases: threshold, organ, least lesion volume.

A choice is kept only if it helps patients that had no part in it: every patient is scored with what the others chose,
and the 95 % interval of the gain, over patients, must lie above 0.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from patchcore.affines import voxel_volume_mm3
from patchcore.config.plan import TargetPlan
from patchcore.config.postprocess import POSTPROCESS_FILE, Gain, Objective, Postprocess
from patchcore.errors import ConfigError, DataError, PatchcoreError
from patchcore.evaluation.cases import chosen_cases
from patchcore.evaluation.row_log import RowLog
from patchcore.files import DISK_ERRORS, write_json_atomic
from patchcore.inference.postprocess import inside_organ, lesion_peaks
from patchcore.inference.predict import Predictor
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
from patchcore.types import BoolArray, Float64Array, Int64Array, PathLike

__all__ = ["Choice", "Components", "Rules", "Tuning", "TuningCase", "choose", "tune"]

THRESHOLDS: Final = (None, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Probabilities above which a voxel is lesion; None: if lesion is the most likely class."""
PEAKS: Final = (0.0, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
"""Highest probabilities that a lesion must reach at least."""
VOLUMES_MM3: Final = (0.0, 5.0, 10.0, 20.0, 35.0, 65.0, 100.0, 150.0, 250.0, 500.0, 1000.0, 2000.0)
"""Least volumes of a lesion [mm³]; 65 mm³ is a ball of 5 mm."""
RESAMPLES: Final = 2000
LEAST_PATIENTS: Final = 3
"""With fewer patients nothing is kept."""
_MOST_FOLDS: Final = 20
_OBJECTIVES: Final = ("lesion-f1", "dsc")


@dataclass(frozen=True, order=True)
class Choice:
    """One way to post-process. Of equally good ones the first in this order is taken: that which changes least."""

    threshold: int = 0
    """Index into :data:`THRESHOLDS`."""
    organ: bool = False
    min_volume_mm3: float = 0.0
    peak: float = 0.0


@dataclass(frozen=True)
class Components:
    """The predicted components of a case at one threshold.

    Attributes:
        voxels: Number of voxels of each component.
        peaks: Its highest probability of a lesion.
        inside: Whether it is connected with the largest piece of the organ.
        hits: Rows (component, true lesion, common voxels); the lesion is −1 if it is below the plan's least volume.
    """

    voxels: tuple[int, ...]
    peaks: tuple[float, ...]
    inside: tuple[bool, ...]
    hits: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class TuningCase:
    """What has to be known of a case in order to score every choice.

    Attributes:
        case_id: The case.
        patient: Its patient.
        voxel_mm3: Volume of a voxel [mm³].
        least_mm3: Smaller components count as no lesion, whatever is chosen: the plan's least volume.
        true_mm3: Volume of each true lesion [mm³].
        true_voxels: Number of voxels of all lesions.
        at: The predicted components at each threshold.
    """

    case_id: str
    patient: str
    voxel_mm3: float
    least_mm3: float
    true_mm3: tuple[float, ...]
    true_voxels: int
    at: tuple[Components, ...]

    def score(self, choice: Choice) -> CaseCounts:
        """Return the counts of the case under a choice."""
        found = self.at[choice.threshold]
        voxels = np.asarray(found.voxels, dtype=np.int64)
        left = voxels * self.voxel_mm3 >= choice.min_volume_mm3
        left &= np.asarray(found.peaks) >= choice.peak
        if choice.organ:
            left &= np.asarray(found.inside, dtype=np.bool_)
        hits = np.asarray(found.hits, dtype=np.int64).reshape(-1, 3)
        size = int(voxels[left].sum()) + self.true_voxels
        # Nothing there and nothing predicted is right: removing false lesions must be worth something.
        dsc = 2 * int(hits[left[hits[:, 0]], 2].sum()) / size if size else 1.0
        # Smaller components count as no lesion, whatever is chosen, but their voxels count in the DSC.
        kept = left & (voxels * self.voxel_mm3 >= self.least_mm3)
        hits = hits[kept[hits[:, 0]]]
        lesions = frozenset(hits[hits[:, 1] >= 0, 1].tolist())
        return CaseCounts(len(self.true_mm3), lesions, int(kept.sum()), len(set(hits[:, 0].tolist())), dsc)


@dataclass(frozen=True)
class CaseCounts:
    """Counts of a case under one choice: lesions, which of them are found, components, true components, and DSC."""

    lesions: int
    found: frozenset[int]
    predicted: int
    true: int
    dsc: float

    def row(self) -> list[float]:
        """Return the values that are summed over cases."""
        return [self.lesions, len(self.found), self.predicted, self.true, self.dsc, 1.0]


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
    rules = Rules(objective, may_lose, has_organ=False)
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
    rules = replace(
        rules,
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
        nested=_sums(_nested(cases, rules)),
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


@dataclass(frozen=True)
class Rules:
    """How a choice is made.

    Attributes:
        objective: What is maximised.
        may_lose: Share of the found lesions that a choice may lose.
        has_organ: Whether lesions outside the organ may be removed.
        most_mm3: The largest least volume that may be chosen [mm³].
        has_thresholds: Whether thresholds of the probability are tried. They are not combined with the organ: a voxel
            below the threshold becomes organ, which a prediction without it does not show.
    """

    objective: Objective = "lesion-f1"
    may_lose: float = 0.01
    has_organ: bool = False
    most_mm3: float = math.inf
    has_thresholds: bool = False

    def choices(self) -> list[Choice]:
        """Return all choices, that which changes nothing first."""
        organs = (False, True) if self.has_organ else (False,)
        volumes = [volume for volume in VOLUMES_MM3 if volume == 0 or volume <= self.most_mm3]
        found = [Choice(0, organ, volume, peak) for organ in organs for volume in volumes for peak in PEAKS]
        if self.has_thresholds:
            found += [Choice(at, False, volume) for at in range(1, len(THRESHOLDS)) for volume in volumes]
        return sorted(found)

    def values(self, rows: Float64Array) -> Float64Array:
        """Return the objective of sums over cases, (…, values)."""
        lesions, found, predicted, true, dsc, count = np.moveaxis(rows, -1, 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            if self.objective == "dsc":
                return np.asarray(dsc / count)
            recall = np.where(lesions > 0, found / lesions, 1.0)
            precision = np.where(predicted > 0, true / predicted, 1.0)
            # Nothing found counts as 0, not as undefined.
            total = recall + precision
            return np.where(total > 0, 2 * recall * precision / total, 0.0)

    def best(self, sums: Float64Array) -> Int64Array:
        """Return the number of the best choice, given the sums of all, (…, choices, values); of equals the first."""
        values = self.values(sums)
        found = sums[..., _FOUND]
        least = found[..., :1] - np.floor(self.may_lose * found[..., :1] + 1e-9)
        values = np.where(found < least, -1.0, values)
        best: Int64Array = np.argmax(values >= values.max(-1, keepdims=True) - 1e-12, axis=-1)
        return best


_FOUND: Final = 1
"""Place of the number of found lesions among the values that are summed."""


def choose(cases: Sequence[TuningCase], rules: Rules) -> tuple[Choice, Gain]:
    """Return the best choice for some cases, and the gain that it promises for other patients.

    Args:
        cases: The cases.
        rules: How a choice is made.

    Returns:
        The choice of all cases together, and the nested estimate: each patient is scored with the choice of the others,
        in folds of patients if there are many. Its interval has the 2.5th and 97.5th percentile of the gain over
        samples of patients (seeded); the choices are made anew in each sample, because they are uncertain, too. With
        fewer than two patients it reaches from −1 to 1.
    """
    table = _table(cases, rules)
    patients = sorted({case.patient for case in cases})
    of_patient = np.zeros((len(patients), *table.shape[1:]))
    np.add.at(of_patient, [patients.index(case.patient) for case in cases], table)
    folds = _folds(patients)
    once = np.ones((1, len(patients)))
    before, after = _nested_values(of_patient, folds, once, rules)
    low, high = -1.0, 1.0
    if len(patients) > 1:
        random = np.random.default_rng(0)
        drawn = random.multinomial(len(patients), np.full(len(patients), 1 / len(patients)), size=RESAMPLES)
        without, with_choice = _nested_values(of_patient, folds, drawn.astype(np.float64), rules)
        low, high = np.percentile(with_choice - without, [2.5, 97.5]).tolist()
    gain = Gain(
        before=float(before[0]),
        after=float(after[0]),
        gain=float(after[0] - before[0]),
        low=low,
        high=high,
        patients=len(patients),
    )
    return rules.choices()[int(rules.best(table.sum(0)))], gain


def _nested_values(
    of_patient: Float64Array, folds: Int64Array, weights: Float64Array, rules: Rules
) -> tuple[Float64Array, Float64Array]:
    """Return the objective without and with the nested choice, for samples of patients.

    Args:
        of_patient: Sums of each patient under every choice, (patients, choices, values).
        folds: Fold of each patient.
        weights: How often each patient is in each sample, (samples, patients).
        rules: How a choice is made.
    """
    total = np.einsum("rp,pcv->rcv", weights, of_patient)
    after = np.zeros((len(weights), of_patient.shape[2]))
    for fold in np.unique(folds):
        own = folds == fold
        part = np.einsum("rp,pcv->rcv", weights[:, own], of_patient[own])
        # Where no other patient is in the sample, nothing is changed.
        chosen = np.where(weights[:, ~own].sum(1) > 0, rules.best(total - part), 0)
        after += part[np.arange(len(weights)), chosen]
    return rules.values(total[:, 0]), rules.values(after)


def _table(cases: Sequence[TuningCase], rules: Rules) -> Float64Array:
    """Return the counts of every case under every choice, (cases, choices, values)."""
    choices = rules.choices()
    return np.asarray([[case.score(choice).row() for choice in choices] for case in cases])


def _folds(patients: Sequence[str]) -> Int64Array:
    """Return the fold of each patient: one each, or 20 folds."""
    return np.asarray(np.random.default_rng(0).permutation(len(patients)) % _MOST_FOLDS, dtype=np.int64)


def _nested(cases: Sequence[TuningCase], rules: Rules) -> list[CaseCounts]:
    """Return the counts of each case under the choice of the patients in other folds."""
    choices, table = rules.choices(), _table(cases, rules)
    patients = sorted({case.patient for case in cases})
    fold_of = dict(zip(patients, _folds(patients).tolist(), strict=True))
    folds = np.asarray([fold_of[case.patient] for case in cases])
    counts = []
    for case, fold in zip(cases, folds, strict=True):
        others = folds != fold
        number = int(rules.best(table[others].sum(0))) if others.any() else 0
        counts.append(case.score(choices[number]))
    return counts


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
