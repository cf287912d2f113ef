"""What explains the best patch size of a lesion: volume, spread of the volumes, extent, texture or contrast?"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from patchcore.experiments.results import LesionResult, PointResult, centroid_of
from patchcore.experiments.scores import Scores
from patchcore.metrics.choice import best_sizes, choices, rank_correlation
from patchcore.planning.reasons import count_of
from patchcore.types import Float64Array
from patchcore.views.document import Block, Bullets, Column, Heading, Paragraph, Table

__all__ = ["explanation"]

_FEWEST: Final = 20
"""With fewer lesions that were found at some size, nothing is said."""
_SAME: Final = 1e-4
"""A lesion of the evaluation is that of ``lesions.csv`` with the same volume, to this share; of several the nearest."""

_ONE, _VOLUME = "one size for all", "volume"
_TEXTURE: Final = {
    "cm_joint_entr_3D_comb": "joint entropy (GLCM)",
    "cm_contrast_3D_comb": "contrast (GLCM)",
    "rlm_sre_3D_comb": "short runs emphasis (GLRLM)",
    "szm_sze_3D": "small zones emphasis (GLSZM)",
    "ngt_coarseness_3D": "coarseness (NGTDM)",
    "ih_entropy": "entropy (histogram)",
    "morph_sphericity": "sphericity",
}
"""Columns of ``texture.csv``, one or two of each family: with all 482, chance alone would find some that fit."""


@dataclass(frozen=True)
class _Feature:
    group: str
    name: str
    values: Float64Array


def explanation(study: Path, scores: Scores, results: Sequence[PointResult], label: int) -> list[Block]:
    """Return the part of a report about the best patch size of each lesion; empty if there are too few lesions.

    Args:
        study: The study of the experiment.
        scores: Scores of the patch sizes; its settings differ in nothing else.
        results: The results that the scores are from.
        label: Label of the lesions.
    """
    edges = [math.prod(setting.patch_size) ** (1 / 3) for setting in scores.settings]
    dsc = np.asarray([lesion.dsc for lesion in scores.lesions], dtype=np.float64).T
    if dsc.size == 0:
        return []
    best = best_sizes(dsc, edges)
    found = np.isfinite(best)
    listed = [row for row in _read(study / "lesions.csv") if row.get("label") == str(label)]
    rows = _rows_of(study, scores, results, label, listed)
    known = np.asarray([row is not None for row in rows], dtype=bool) & found
    if known.sum() < _FEWEST:
        return []
    patient_of = dict(zip(scores.case_ids, scores.patients, strict=True))
    patients = [patient_of[lesion.case_id] for lesion, use in zip(scores.lesions, known, strict=True) if use]
    used = [row for row, use in zip(rows, known, strict=True) if use and row is not None]
    if len(set(patients)) < 2:
        return []
    features = _features(used, listed)
    table = _correlations(features, best[known], patients)
    groups: dict[str, list[Float64Array]] = {_ONE: [], _VOLUME: []}
    for feature in features:
        groups.setdefault(feature.group if feature.group == _VOLUME else f"volume, {feature.group}", [])
    for name, columns in groups.items():
        if name != _ONE:
            wanted = {_VOLUME, name.removeprefix("volume, ")}
            columns += [feature.values for feature in features if feature.group in wanted]
    groups["all of them"] = [feature.values for feature in features]
    chosen = choices(dsc[:, known], groups, patients, reference=_VOLUME)
    models = Table(
        "explain_models",
        "Choosing a patch size for each lesion, scored on other patients",
        (
            Column("chosen_by", "the size is chosen by"),
            Column("dsc", "mean DSC of lesions", ".3f"),
            Column("gain", "against volume alone [95 %]", "+.3f", ("gain_low", "gain_high")),
        ),
        tuple(
            {"chosen_by": one.name, "n": one.n, "patients": one.patients, "dsc": one.dsc, "gain": one.gain,
             "gain_low": one.low, "gain_high": one.high}
            for one in chosen
        ),
        "A ridge regression predicts the DSC of a lesion at each size; it learns from nine tenths of the patients and "
        "chooses for the others.",
    )  # fmt: skip
    notes = [f"{count_of(int((~found).sum()), 'lesion')} that no size has found"] if (~found).any() else []
    if lost := int((found & ~known).sum()):
        notes.append(f"{count_of(lost, 'lesion')} that lesions.csv of the study does not have in this form")
    if not any(feature.group == "texture" for feature in features):
        notes.append("texture and contrast: patchcore texture STUDY computes them")
    blocks: list[Block] = [
        Heading("What explains the best patch size of a lesion"),
        Paragraph(_in_words(table, models)),
    ]
    blocks += [Paragraph("Not used:"), Bullets(tuple(notes))] if notes else []
    return [*blocks, table, models]


def _rows_of(
    study: Path, scores: Scores, results: Sequence[PointResult], label: int, listed: Sequence[Mapping[str, str]]
) -> list[Mapping[str, str] | None]:
    """Return the row of ``lesions.csv`` of each lesion of the scores, with its texture if that is known; else None.

    Args:
        study: The study.
        scores: The scores; their lesions are looked for.
        results: The results that the scores are from.
        label: Label of the lesions.
        listed: The rows of ``lesions.csv`` of this label.
    """
    by_case: dict[str, list[Mapping[str, str]]] = defaultdict(list)
    texture: dict[tuple[str, str], dict[str, str]] = {}
    for row in _read(study / "texture.csv"):
        if row.get("label") == str(label):
            texture[row["case_id"].removeprefix("'"), row["lesion"]] = row
    for one in listed:
        case_id = one["case_id"].removeprefix("'")
        by_case[case_id].append({**texture.get((case_id, one["lesion"]), {}), **one})
    measured = {(one.case_id, one.lesion): one for result in results for one in result.lesions}
    found = [measured.get((lesion.case_id, lesion.number)) for lesion in scores.lesions]
    return [None if lesion is None else _same_lesion(lesion, by_case[lesion.case_id]) for lesion in found]


def _same_lesion(lesion: LesionResult, rows: Sequence[Mapping[str, str]]) -> Mapping[str, str] | None:
    volume = lesion.volume_mm3
    same = [row for row in rows if abs(float(row["volume_mm3"]) - volume) <= _SAME * volume]
    if len(same) < 2:
        return same[0] if same else None
    distances = [math.dist(centroid_of(row), lesion.centroid_mm) for row in same]
    return None if any(map(math.isnan, distances)) else same[int(np.argmin(distances))]


def _read(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except (FileNotFoundError, UnicodeDecodeError, csv.Error):
        return []


def _features(rows: Sequence[Mapping[str, str]], listed: Sequence[Mapping[str, str]]) -> list[_Feature]:
    """Return the features of lesions; without a table of textures, those of ``lesions.csv`` only.

    Args:
        rows: The row of each lesion.
        listed: The rows of all lesions of all patients, also of those that no network has found.
    """

    def column(name: str) -> Float64Array:
        return np.asarray([float(row.get(name) or "nan") for row in rows], dtype=np.float64)

    volume = np.log10(column("volume_mm3"))
    extents = np.sort(np.stack([column(f"extent_{axis}_mm") for axis in "ijk"]), axis=0)
    of_patient: dict[str, list[float]] = defaultdict(list)
    for row in listed:
        of_patient[row["patient"]].append(math.log10(float(row["volume_mm3"])))
    spread = np.asarray([np.std(of_patient[row["patient"]]) for row in rows])
    count = np.asarray([float(len(of_patient[row["patient"]])) for row in rows])
    features = [
        _Feature(_VOLUME, "volume", volume),
        _Feature("spread of volume", "spread of log volume in the patient", spread),
        _Feature("spread of volume", "number of lesions of the patient", count),
        _Feature("extent", "longest edge", extents[2]),
        _Feature("extent", "longest edge / shortest edge", extents[2] / extents[0]),
    ]
    if any(row.get("contrast_hu") for row in rows):
        contrast = column("contrast_hu")
        features += [_Feature("texture", name, column(key)) for key, name in _TEXTURE.items()]
        features += [
            _Feature("contrast", "contrast to the surroundings", np.abs(contrast)),
            _Feature("contrast", "contrast / spread of HU", np.abs(contrast) / np.sqrt(column("stat_var"))),
        ]
    return [
        _Feature(feature.group, feature.name, np.where(np.isfinite(feature.values), feature.values, math.nan))
        for feature in features
    ]


def _correlations(features: Sequence[_Feature], best: Float64Array, patients: Sequence[str]) -> Table:
    rows = []
    for feature in features:
        found = rank_correlation(feature.values, best, patients)
        rows.append(
            {"group": feature.group, "feature": feature.name, "n": found.n, "patients": found.patients,
             "rho": found.rho, "rho_low": found.low, "rho_high": found.high}
        )  # fmt: skip
    return Table(
        "explain",
        "Rank correlation with the best patch size of a lesion",
        (
            Column("group", ""),
            Column("feature", "feature"),
            Column("n", "lesions"),
            Column("rho", "Spearman's ρ [95 %]", "+.2f", ("rho_low", "rho_high"), heat=True),
        ),
        tuple(rows),
        "The best size of a single lesion is noisy, so that even a perfect feature would not reach 1. The interval is "
        "a bootstrap over patients; it is not corrected for the number of features.",
    )


def _in_words(correlations: Table, models: Table) -> str:
    rows = {row["chosen_by"]: row for row in models.rows}
    strongest = max(correlations.rows, key=lambda row: abs(row["rho"]) if math.isfinite(row["rho"]) else -1.0)
    better = [name for name, row in rows.items() if name not in (_ONE, _VOLUME) and row["gain_low"] > 0]
    one = rows[_ONE]
    if one["gain_high"] < 0:
        volume = f"Choosing by volume is better than one size for all ({one['gain']:+.3f} DSC for one size)"
    elif one["gain_low"] > 0:
        volume = f"One size for all is better than choosing by volume ({one['gain']:+.3f} DSC)"
    else:
        volume = "Choosing by volume is within noise of one size for all"
    more = (
        f"better than volume alone: {', '.join(better)}"
        if better
        else "nothing that was tried adds to volume beyond noise"
    )
    if math.isnan(strongest["rho"]):
        return f"{volume}; {more}. Nothing can be correlated with the best size: it is the same for every lesion."
    return (
        f"{volume}; {more}. The strongest correlation with the best size has: {strongest['feature']}, "
        f"ρ {strongest['rho']:+.2f}."
    )
