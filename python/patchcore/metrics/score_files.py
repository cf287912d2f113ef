"""Scores label maps in files, made by any tool: one pair, or two folders whose names are matched.

This file is long because it also holds the results of several cases, with their means and their tables.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from patchcore.case_ids import default_patient
from patchcore.errors import ConfigError, DataError, PatchcoreError
from patchcore.files import finite, write_atomic, write_json_atomic
from patchcore.lesions.size_bins import SIZE_BIN_NAMES
from patchcore.metrics.dice import VoxelCounts
from patchcore.metrics.grids import on_grid_of
from patchcore.metrics.score import CaseScore, LesionRow, MatchRow, PredictedRow, ScoreSettings, score_case
from patchcore.metrics.statistics import MeanEstimate, estimate_mean, mean_over_classes
from patchcore.types import PathLike
from patchcore.volumes.volume import read_label

__all__ = ["Scores", "SizeRow", "match_names", "score"]

SCORE_SCHEMA = 1
_ENDING = re.compile(r"\.(nii|nii\.gz|hdr)$", re.IGNORECASE)
_Row = TypeVar("_Row")


@dataclass(frozen=True)
class SizeRow:
    """Lesions of one size bin over all cases.

    Attributes:
        size_bin: Name of the bin.
        lesions: Number of true lesions.
        found: Number of them with a predicted voxel.
        recall: found / lesions; NaN without lesions.
        predicted: Number of predicted components.
        true: Number of them with a lesion voxel.
        precision: true / predicted; NaN without components.
        dsc: Mean DSC of the lesions, 0 for those that were not found.
    """

    size_bin: str
    lesions: int
    found: int
    recall: float
    predicted: int
    true: int
    precision: float
    dsc: float


@dataclass(frozen=True)
class Scores:
    """The scores of several cases.

    Attributes:
        cases: The scores of each case.
        patients: Patient of each case.
        settings: What was scored.
        only_truth: Names that have a label map but no prediction.
        only_prediction: Names that have a prediction but no label map.
        failed: Cases that could not be scored, with the reason.
        notes: What the reader of the numbers has to know.
    """

    cases: tuple[CaseScore, ...]
    patients: tuple[str, ...]
    settings: ScoreSettings
    only_truth: tuple[str, ...] = ()
    only_prediction: tuple[str, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    def mean_dsc(self, name: str | None = None) -> MeanEstimate:
        """Return the mean DSC of a class with its intervals; without a name, the mean over classes (classes first)."""
        by_class = {
            label: [case.classes[label].counts.dsc for case in self.cases]
            for label in (self.settings.classes if name is None else (name,))
        }
        if len(by_class) == 1:
            return estimate_mean(next(iter(by_class.values())), self.patients, within=(0, 1))
        return mean_over_classes(by_class, self.patients, within=(0, 1))

    def global_dsc(self, name: str) -> float:
        """Return the DSC of the voxels of all cases together."""
        return sum((case.classes[name].counts for case in self.cases), VoxelCounts()).dsc

    def mean_surface(self, convention: str, value: str, name: str | None = None) -> MeanEstimate:
        """Return the mean of a surface value, e.g. ``hd95_mm``, over the cases in which it is finite."""
        label = name or self.settings.lesion_class
        values = [getattr(case.classes[label].surface[convention], value) for case in self.cases]
        return estimate_mean([v if math.isfinite(v) else math.nan for v in values], self.patients, within=(0, math.inf))

    def mean_nsd(self, convention: str, tolerance_mm: float, name: str | None = None) -> MeanEstimate:
        """Return the mean normalised surface distance at a tolerance."""
        label = name or self.settings.lesion_class
        return estimate_mean(
            [case.classes[label].surface[convention].nsd[tolerance_mm] for case in self.cases],
            self.patients,
            within=(0, 1),
        )

    def by_size(self) -> tuple[SizeRow, ...]:
        """Return the lesions of each size bin, and of all bins together (the last row, named ``all``)."""
        rows = []
        for name in (*SIZE_BIN_NAMES, "all"):
            lesions = [row for case in self.cases for row in case.lesions if name in (row.size_bin, "all")]
            parts = [row for case in self.cases for row in case.predicted if name in (row.size_bin, "all")]
            found, true = sum(row.found for row in lesions), sum(row.true for row in parts)
            rows.append(
                SizeRow(
                    name,
                    len(lesions),
                    found,
                    found / len(lesions) if lesions else math.nan,
                    len(parts),
                    true,
                    true / len(parts) if parts else math.nan,
                    math.fsum(row.dsc for row in lesions) / len(lesions) if lesions else math.nan,
                )
            )
        return tuple(rows)

    def to_json(self) -> dict[str, Any]:
        """Return everything but the rows of lesions as JSON values; numbers that are not finite are None."""
        classes = {}
        for name in self.settings.classes:
            found: dict[str, Any] = {"dsc": asdict(self.mean_dsc(name)), "global_dsc": self.global_dsc(name)}
            if self.settings.conventions:
                found["surface"] = {
                    convention: {
                        value: asdict(self.mean_surface(convention, value, name))
                        for value in ("hd_mm", "hd95_mm", "masd_mm", "assd_mm", "rmsd_mm")
                    }
                    | {
                        "nsd": {
                            f"{mm:g}": asdict(self.mean_nsd(convention, mm, name)) for mm in self.settings.tolerances_mm
                        }
                    }
                    for convention in self.settings.conventions
                }
            classes[name] = found
        summary: dict[str, Any] = {"mean_dsc": asdict(self.mean_dsc()), "classes": classes}
        if self.settings.rows:
            summary["by_size"] = [asdict(row) for row in self.by_size()]
        settings = asdict(self.settings)
        found = {
            "schema_version": SCORE_SCHEMA,
            "cases": [case.to_json() for case in self.cases],
            "summary": summary,
            "only_truth": list(self.only_truth),
            "only_prediction": list(self.only_prediction),
            "failed": [{"case_id": case_id, "reason": reason} for case_id, reason in self.failed],
            "notes": list(self.notes),
            "settings": settings,
        }
        plain: dict[str, Any] = finite(found)
        return plain

    def write(self, folder: PathLike) -> None:
        """Write ``score.json``, ``cases.csv``, ``lesions.csv``, ``predicted.csv`` and ``matches.csv`` into a folder.

        Raises:
            OSError: A file cannot be written.
        """
        out = Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        write_atomic(out / "cases.csv", self._cases_csv())
        rows: tuple[tuple[str, type, list[Any]], ...] = (
            ("lesions", LesionRow, [row for case in self.cases for row in case.lesions]),
            ("predicted", PredictedRow, [row for case in self.cases for row in case.predicted]),
            ("matches", MatchRow, [row for case in self.cases for row in case.matches]),
        )
        for name, kind, values in rows if self.settings.rows else ():
            write_atomic(out / f"{name}.csv", _csv([field.name for field in fields(kind)], map(_cells, values)))
        write_json_atomic(out / "score.json", self.to_json())

    def _cases_csv(self) -> str:
        surface = [
            (convention, value)
            for convention in self.settings.conventions
            for value in ("hd_mm", "hd95_mm", "masd_mm", "assd_mm", "rmsd_mm")
        ]
        nsd = [(convention, mm) for convention in self.settings.conventions for mm in self.settings.tolerances_mm]
        names = [
            "case_id", "patient", "class", "dsc", "jaccard", "recall", "precision", "relative_volume_difference",
            "truth_mm3", "prediction_mm3",
        ]  # fmt: skip
        header = [
            *names,
            *(f"{convention}_{value}" for convention, value in surface),
            *(f"{convention}_nsd_{mm:g}mm" for convention, mm in nsd),
        ]
        rows = []
        for case, patient in zip(self.cases, self.patients, strict=True):
            for label, score in case.classes.items():
                plain = score.to_json()
                values = [case.case_id, patient, label, *(plain[name] for name in names[3:])]
                values += [getattr(score.surface[convention], value) for convention, value in surface]
                values += [score.surface[convention].nsd[mm] for convention, mm in nsd]
                rows.append(values)
        return _csv(header, map(_plain_cells, rows))


def _cells(row: Any) -> list[Any]:
    return _plain_cells([getattr(row, field.name) for field in fields(row)])


def _plain_cells(values: Sequence[Any]) -> list[Any]:
    return ["" if isinstance(value, float) and math.isnan(value) else value for value in values]


def _csv(header: Sequence[str], rows: Any) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return out.getvalue()


def match_names(truth: Sequence[str], prediction: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Match names of label maps with names of predictions.

    Equal names belong together. If no name occurs on both sides, what all names of a side have in common at their begin
    and end is removed first: ``case_1_truth`` and ``case_1_prediction`` are both ``case_1``.

    Returns:
        Common name → name of the label map, name of the prediction.

    Example:
        >>> match_names(["a_1_truth", "a_2_truth"], ["pred-a_2", "pred-a_1"])
        {'a_1': ('a_1_truth', 'pred-a_1'), 'a_2': ('a_2_truth', 'pred-a_2')}
    """
    both = set(truth) & set(prediction)
    if both or not truth or not prediction:
        return {name: (name, name) for name in sorted(both)}
    # As many matches as possible, with as little removed as possible.
    best: dict[str, tuple[str, str]] = {}
    for left in _shorter(truth):
        for right in _shorter(prediction):
            common = sorted(set(left) & set(right))
            if (len(common), sum(map(len, common))) > (len(best), sum(map(len, best))):
                best = {name: (left[name], right[name]) for name in common}
    return best


_SPLIT = re.compile(r"[^0-9A-Za-z]")


def _shorter(names: Sequence[str]) -> Iterator[dict[str, str]]:
    """Yield short name → name, for every part of the common begin and end that may be removed.

    A part ends at a character that is neither a letter nor a digit.
    """
    prefix, suffix = _common(names), _common([name[::-1] for name in names])[::-1]
    for head in (0, *(match.end() for match in _SPLIT.finditer(prefix))):
        for tail in (0, *(len(suffix) - match.start() for match in _SPLIT.finditer(suffix))):
            short = {name[head : len(name) - tail]: name for name in names}
            if len(short) == len(names) and "" not in short:
                yield short


def _common(names: Sequence[str]) -> str:
    """Return what all of several names begin with; nothing for a single name."""
    first, last = min(names), max(names)
    length = next(
        (at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last))
    )
    return first[:length] if len(names) > 1 else ""


def _files(folder: Path) -> dict[str, Path]:
    """Return the label maps below a folder by name: the path below it without the ending."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if any(part.startswith(".") for part in path.relative_to(folder).parts) or not _ENDING.search(path.name):
            continue
        name = _ENDING.sub("", path.relative_to(folder).as_posix().removesuffix(".gz").removesuffix(".GZ"))
        if name in found:
            raise DataError(
                f"{found[name].name} and {path.name} have the same name",
                path=folder,
                remedy="remove one of them, or move it to another folder",
            )
        found[name] = path
    return found


def score(
    truth: PathLike,
    prediction: PathLike,
    *,
    lesion_labels: Sequence[int] | None = None,
    regions: Mapping[str, Sequence[int]] | None = None,
    ignore_label: int | None = None,
    conventions: Sequence[str] = ("mesh",),
    tolerances_mm: Sequence[float] = (1.0, 2.0),
    modes: Sequence[str] = ("overlap",),
    connectivity: int | None = None,
    min_volume_mm3: float = 0.0,
    instances: bool = False,
    resample: bool = False,
    rows: bool = True,
    patients_of: Callable[[Sequence[str]], Sequence[str]] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Score predictions against label maps, both in files of any tool.

    Two files are one case. Of two folders, the names are matched (:func:`match_names`); names on one side only are
    listed. Grids that differ only by flips or axis order are matched exactly.

    Args:
        truth: A label map (NIfTI), or a folder of them.
        prediction: A label map, or a folder of them.
        lesion_labels: Labels of the lesions, scored as one class [default: the only non-zero label].
        regions: Name → labels that are scored together, e.g. ``{"liver": (1, 2)}``. Without regions, each label is a
            class of its own.
        ignore_label: Voxels with this true label count neither as labelled nor as predicted.
        conventions: Surface conventions: ``mesh``, ``surfel``, ``voxel``; empty: none.
        tolerances_mm: Tolerances of the normalised surface distance [mm].
        modes: Lesion modes: ``overlap``, ``panoptica``, ``panoptica-many``, ``lits``, ``cc``, ``autopet``,
            ``brats:CHALLENGE-YEAR``.
        connectivity: 6, 18 or 26 [default: that of each mode].
        min_volume_mm3: Components smaller than this do not exist, on both sides [mm³].
        instances: Each label of the lesions is one lesion, wherever its voxels lie.
        resample: Take the nearest voxel of predictions on another grid; without it, such a case fails.
        rows: Whether to compute a row for each lesion and predicted component.
        patients_of: Returns the patient of each case id, because the bootstrap draws patients [default:
            :func:`patchcore.case_ids.default_patient`].
        on_progress: Called with (cases done, all cases) after each case.

    Returns:
        The scores. A case that cannot be scored does not stop the others.

    Raises:
        DataError: The paths are not two files or two folders, no names match, no case could be scored, or the lesion
            label is not clear or occurs nowhere. The error of a single pair is raised as it is.
        ConfigError: A convention, a mode or another setting is not valid.
        OSError: A folder cannot be read.

    Example:
        >>> import patchcore as pc  # doctest: +SKIP
        >>> scores = pc.score("labelsTs/", "predictions/", lesion_labels=[2])  # doctest: +SKIP
        >>> print(scores.mean_dsc("2"))  # doctest: +SKIP
        0.712 [0.651, 0.768] (n = 40)
    """
    pairs, only_truth, only_prediction = _pairs(Path(truth), Path(prediction))
    classes, lesion_class, notes = _classes(pairs, lesion_labels, regions, ignore_label, instances)
    settings = ScoreSettings(
        classes=classes,
        lesion_class=lesion_class,
        ignore_label=ignore_label,
        conventions=tuple(conventions),
        tolerances_mm=tuple(map(float, tolerances_mm)),
        modes=tuple(modes),
        connectivity=connectivity,
        min_volume_mm3=min_volume_mm3,
        instances=instances,
        rows=rows,
    )
    cases: list[CaseScore] = []
    failed: list[tuple[str, str]] = []
    for number, (case_id, (label, predicted)) in enumerate(pairs.items(), 1):
        try:
            true = read_label(label)
            voxels = on_grid_of(true, read_label(predicted), resample=resample)
            cases.append(score_case(case_id, true.array, voxels, true.affine, settings))
        except ConfigError:
            raise
        except (PatchcoreError, OSError, MemoryError) as error:
            if len(pairs) == 1:
                raise
            # One damaged file does not cost the scores of the other cases.
            failed.append((case_id, str(error) or type(error).__name__))
        if on_progress is not None:
            on_progress(number, len(pairs))
    if not cases:
        raise DataError(
            f"none of {len(pairs)} cases could be scored; first error: {failed[0][1]}",
            path=Path(truth),
            remedy="correct the files that the message names",
        )
    names = [case.case_id for case in cases]
    patients = tuple(map(default_patient, names) if patients_of is None else patients_of(names))
    return Scores(tuple(cases), patients, settings, only_truth, only_prediction, tuple(failed), tuple(notes))


def _pairs(truth: Path, prediction: Path) -> tuple[dict[str, tuple[Path, Path]], tuple[str, ...], tuple[str, ...]]:
    for path in (truth, prediction):
        if not path.exists():
            raise DataError("does not exist", path=path, remedy="check the path")
    if truth.is_dir() != prediction.is_dir():
        raise DataError(
            f"{truth} is a {_kind(truth)}, but {prediction} is a {_kind(prediction)}",
            remedy="give two files or two folders",
        )
    if not truth.is_dir():
        return {_ENDING.sub("", truth.name.removesuffix(".gz")): (truth, prediction)}, (), ()
    left, right = _files(truth), _files(prediction)
    for path, found in ((truth, left), (prediction, right)):
        if not found:
            raise DataError("contains no NIfTI file", path=path, remedy="give a folder of .nii or .nii.gz files")
    names = match_names(list(left), list(right))
    if not names:
        raise DataError(
            f"no label map has the name of a prediction: {next(iter(left))} … and {next(iter(right))} …",
            path=prediction,
            remedy="rename the predictions like the label maps",
        )
    used = [set(one) for one in zip(*names.values(), strict=True)]
    pairs = {name: (left[a], right[b]) for name, (a, b) in names.items()}
    return pairs, tuple(sorted(set(left) - used[0])), tuple(sorted(set(right) - used[1]))


def _kind(path: Path) -> str:
    return "folder" if path.is_dir() else "file"


def _classes(
    pairs: Mapping[str, tuple[Path, Path]],
    lesion_labels: Sequence[int] | None,
    regions: Mapping[str, Sequence[int]] | None,
    ignore_label: int | None,
    instances: bool,
) -> tuple[dict[str, tuple[int, ...]], str, list[str]]:
    """Return the classes, the name of the lesion class, and notes."""
    from patchcore.lesions.measure import measure_lesions

    present: list[set[int]] = [set(), set()]
    for files in pairs.values():
        for side, path in zip(present, files, strict=True):
            try:
                side |= set(measure_lesions(path, connectivity=6, instances=True).label.tolist())
            except (PatchcoreError, OSError):
                continue  # the case fails when it is scored
    in_truth, in_prediction = (side - {ignore_label} for side in present)
    labels = sorted(in_truth | in_prediction)
    notes = [
        f"label {label} occurs in no {'prediction' if label in in_truth else 'label map'}"
        for label in sorted(in_truth ^ in_prediction)
        if not instances
    ]
    if instances:
        return {"lesion": tuple(labels) or (1,)}, "lesion", notes
    classes = {name: tuple(int(label) for label in members) for name, members in (regions or {}).items()}
    for name, members in classes.items():
        if labels and not set(members) & set(labels):
            raise DataError(f"region {name}: no file has a voxel of the labels {members}", found=labels)
    if lesion_labels:
        chosen = tuple(sorted(set(map(int, lesion_labels))))
        if labels and not set(chosen) & set(labels):
            raise DataError(
                f"no file has a voxel of the lesion label {', '.join(map(str, chosen))}",
                found=labels,
                remedy=f"choose one of the labels found with --lesion-label: {', '.join(map(str, labels))}",
            )
    elif classes:
        # As in plan: the innermost region stands last.
        name = list(classes)[-1]
        return classes, name, notes
    elif len(labels) > 1:
        raise DataError(
            f"the lesion label is not clear: found {', '.join(map(str, labels))}",
            found=labels,
            remedy=f"choose it with --lesion-label, e.g. --lesion-label {labels[-1]}",
        )
    else:
        chosen = (labels[0],) if labels else (1,)
    known = next((name for name, members in classes.items() if tuple(sorted(members)) == chosen), None)
    if known is not None:
        return classes, known, notes
    if not classes:
        classes = {str(label): (label,) for label in labels if label not in chosen}
    name = "+".join(map(str, chosen))
    return {name: chosen} | classes, name, notes
