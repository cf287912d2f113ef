"""Writes the reason and the warnings of a plan. They are part of ``plan.json``."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from patchcore.config.plan import RuleOutcome
from patchcore.planning.candidates import wider_candidate
from patchcore.planning.rules import average_volume, geometric_edge, ideal_edge, nearest_candidate
from patchcore.planning.samples import Cohort, Learned
from patchcore.types import Float64Array, IntTriple, Rule, Triple

__all__ = ["count_of", "format_edges", "format_size", "format_volume", "plan_reason", "plan_warnings"]

_FEW_LESIONS = 20
_SKEW = 3.0
_GIANT_SHARE = 1 / 3
_SPECK_MM3 = 5.0
_SPECK_SHARE = 0.05
_FAR_FROM_A_CUBE = 2.0

_AVERAGES = {
    Rule.MEAN_VOLUME: "mean volume",
    Rule.MEDIAN: "median volume",
    Rule.GEOMETRIC_MEAN: "geometric mean volume",
}


def format_volume(volume_mm3: float) -> str:
    """Return a volume as text in mL or mm³.

    Example:
        >>> format_volume(48_900.0), format_volume(29.4)
        ('48.9 mL', '29.4 mm³')
    """
    if volume_mm3 >= 1e6:
        return f"{volume_mm3 / 1000:,.0f} mL"
    return f"{volume_mm3 / 1000:.3g} mL" if volume_mm3 >= 100 else f"{volume_mm3:.3g} mm³"


def format_size(size: Sequence[float]) -> str:
    """Return ``8``, or ``24 × 24 × 8`` if the axes differ.

    Example:
        >>> format_size((8, 8, 8)), format_size((0.977, 0.977, 3.27))
        ('8', '0.977 × 0.977 × 3.27')
    """
    parts = [f"{edge:.3g}" for edge in size]
    return parts[0] if len(set(parts)) == 1 else " × ".join(parts)


def format_edges(edges: Sequence[float]) -> str:
    """Return p* with one digit: ``25.0``, or one number per axis if the axes differ."""
    parts = [f"{edge:.1f}" for edge in edges]
    return parts[0] if len(set(parts)) == 1 else " × ".join(parts)


def count_of(number: int, word: str) -> str:
    """Return ``1 lesion``, ``2 lesions``."""
    return f"{number} {word}" + ("" if number == 1 else "s")


def plan_reason(
    rule: Rule,
    cohort: Cohort,
    *,
    lesion_label: int,
    label_name: str,
    spacing: Triple,
    edges: Triple,
    interval: tuple[float, float] | None,
    patch_size: IntTriple,
    candidates: Sequence[int],
    learned: Learned | None = None,
) -> str:
    """Explain in plain language, with the numbers, how the patch size was chosen."""
    who = (
        f"{count_of(len(cohort), 'lesion')} of label {lesion_label} ({label_name}) in "
        f"{count_of(cohort.patient_count, 'patient')}"
    )
    grid = f"the training spacing of {format_size(spacing)} mm"
    sure = f" (95 % interval {interval[0]:.1f} to {interval[1]:.1f})" if interval else ""
    listed = ", ".join(map(str, candidates))
    if rule is Rule.EXTENT:
        extent = format_size(cohort.extent_mm.mean(axis=0))
        return (
            f"{who}: mean extent {extent} mm. At {grid} this is {format_edges(edges)} voxels"
            f"{sure}. Per axis, the nearest candidate (on a log scale) among {listed} is chosen: patch size "
            f"{format_size(patch_size)}."
        )
    if rule is Rule.LEARNED and learned is not None:
        found = ", ".join(f"{format_size(size)}: {dsc:.3f}" for size, dsc in sorted(learned.dsc.items()))
        return (
            f"{who}. Patch size {format_size(patch_size)} had the best mean validation DSC in {learned.source} "
            f"({found}). Whether the difference is more than chance, patchcore report or patchcore compare says."
        )
    volume = average_volume(rule, cohort.volume_mm3)
    if rule is Rule.MEAN_VOLUME_MM:
        return (
            f"{who}: mean volume {format_volume(volume)}, a cube with an edge of {math.cbrt(volume):.3g} mm. At {grid} "
            f"this is {format_edges(edges)} voxels{sure}. Per axis, the nearest candidate (on a log scale) among "
            f"{listed} is chosen: patch size {format_size(patch_size)}."
        )
    voxel_mm3 = float(np.prod(spacing))
    return (
        f"{who}: {_AVERAGES[rule]} {format_volume(volume)}. At {grid} a voxel is "
        f"{voxel_mm3:.3g} mm³, so this volume is {volume / voxel_mm3:,.0f} voxels, "
        f"a cube with edge p* = {edges[0]:.1f} voxels{sure}. "
        f"The nearest candidate (on a log scale) among {listed} is {format_size(patch_size)}."
    )


def plan_warnings(
    rule: Rule,
    cohort: Cohort,
    *,
    spacing: Triple,
    edges: Triple,
    interval: tuple[float, float] | None,
    patch_size: IntTriple,
    candidates: Sequence[int],
    rules: Sequence[RuleOutcome],
    window_size: IntTriple,
    padding: float,
) -> tuple[str, ...]:
    """Return reasons to doubt the plan, the most important first; empty if there are none."""
    found = [_beyond(edges, candidates), *_poor_summary(rule, cohort, spacing, candidates), _flat(patch_size, spacing)]
    if len(cohort) < _FEW_LESIONS:
        found.append(f"only {count_of(len(cohort), 'lesion')}: p* is uncertain")
    if rule is Rule.LEARNED:
        pass  # p* has not decided
    elif interval is None:
        found.append("all lesions are from one patient: the uncertainty of p* cannot be estimated")
    else:
        low, high = (nearest_candidate(edge, candidates) for edge in interval)
        if low != high:
            found.append(
                f"the interval of p*, {interval[0]:.1f} to {interval[1]:.1f}, covers candidates from {low} "
                f"to {high}: data from more patients could change the choice"
            )
    others = [outcome for outcome in rules if outcome.rule is not rule and outcome.patch_size != patch_size]
    if others:
        listed = ", ".join(f"{outcome.rule} {format_size(outcome.patch_size)}" for outcome in others)
        found.append(f"other rules choose other patch sizes: {listed}")
    found.append(_thick(cohort, spacing))
    if padding >= 0.5:
        found.append(_padded(cohort, spacing, patch_size, window_size, padding))
    return tuple(text for text in found if text)


def _flat(patch_size: IntTriple, spacing: Triple) -> str:
    """Warn if a patch is far from a cube in mm, a shape that hardly any lesion has."""
    mm = [edge * step for edge, step in zip(patch_size, spacing, strict=True)]
    if max(mm) < _FAR_FROM_A_CUBE * min(mm):
        return ""
    return (
        f"a patch of {format_size(patch_size)} voxels is {format_size([round(edge) for edge in mm])} mm, far from a "
        f"cube: --rule {Rule.MEAN_VOLUME_MM} chooses each edge by its spacing"
    )


def _thick(cohort: Cohort, spacing: Triple) -> str:
    """Warn that the median spacing would merge the slices of cases with thin ones."""
    fine = cohort.fine_spacing()
    if spacing != cohort.median_spacing() or fine == spacing:
        return ""
    axis = next(axis for axis in range(3) if fine[axis] != spacing[axis])
    share = float((cohort.case_spacing[:, axis] < spacing[axis] * 0.99).mean())
    return (
        f"{share:.0%} of the cases have a finer spacing than {spacing[axis]:g} mm along {'xyz'[axis]}: --spacing fine "
        f"trains at {fine[axis]:g} mm, so that they keep it"
    )


def _padded(cohort: Cohort, spacing: Triple, patch_size: IntTriple, window_size: IntTriple, padding: float) -> str:
    """Warn that a window is mostly padding, and offer the smallest window that the median case fills."""
    extents = np.median(cohort.case_extents(spacing), axis=0)
    fitting = [
        min(window, math.ceil(extent / patch) * patch)
        for extent, patch, window in zip(extents, patch_size, window_size, strict=True)
    ]
    offer = "" if tuple(fitting) == window_size else f": --window {','.join(map(str, fitting))} has less padding"
    return f"{padding:.0%} of an average window is padding{offer}"


def _beyond(edges: Triple, candidates: Sequence[int]) -> str:
    """Warn that p* lies outside the candidates, and offer a wider list if that helps."""
    edge = geometric_edge(edges)
    smallest, largest = min(candidates), max(candidates)
    if smallest <= edge <= largest:
        return ""
    where = (
        f"above the largest candidate ({largest})" if edge > largest else f"below the smallest candidate ({smallest})"
    )
    wider = wider_candidate(edge, candidates)
    if wider is None:
        return f"p* {edge:.1f} lies {where}; no other common patch edge is nearer"
    listed = ",".join(map(str, sorted((*candidates, wider))))
    return f"p* {edge:.1f} lies {where}: add {wider} with --candidates {listed}"


def _poor_summary(rule: Rule, cohort: Cohort, spacing: Triple, candidates: Sequence[int]) -> list[str]:
    """Warn if the mean volume does not represent the lesions well, because they differ much in size."""
    volumes = cohort.volume_mm3
    if rule is not Rule.MEAN_VOLUME or len(volumes) < 2:
        return []
    found = []
    mean, median, largest = float(volumes.mean()), float(np.median(volumes)), float(volumes.max())
    if mean > _SKEW * median:
        found.append(
            f"the mean volume, {format_volume(mean)}, is {mean / median:.1f} times the median, "
            f"{format_volume(median)}: a few large lesions determine the patch size"
        )
    share = largest / float(volumes.sum())
    rest = np.delete(volumes, int(volumes.argmax()))
    with_all, without = (_choice(values, spacing, candidates) for values in (volumes, rest))
    if len(volumes) > 2 and (share > _GIANT_SHARE or with_all != without):
        moved = f"the choice is {without} instead of {with_all}" if with_all != without else "the choice stays the same"
        found.append(
            f"the largest lesion, {format_volume(largest)}, has {share:.0%} of the total lesion volume; "
            f"without this lesion {moved}"
        )
    found += _specks(volumes, spacing, candidates)
    return found


def _specks(volumes: Float64Array, spacing: Triple, candidates: Sequence[int]) -> list[str]:
    """Warn if very small components, probably annotation noise, lower the mean volume."""
    large = volumes[volumes >= _SPECK_MM3]
    count = len(volumes) - len(large)
    if count < _SPECK_SHARE * len(volumes) or not len(large) or not count:
        return []
    mean, without = float(volumes.mean()), float(large.mean())
    choices = _choice(volumes, spacing, candidates), _choice(large, spacing, candidates)
    moved = "" if choices[0] == choices[1] else f", and the choice from {choices[0]} to {choices[1]}"
    return [
        f"{count} of {len(volumes)} lesions are specks below {_SPECK_MM3:g} mm³; without specks the mean changes from "
        f"{format_volume(mean)} to {format_volume(without)}{moved}: exclude them with patchcore analyze "
        f"--min-volume-mm3 {_SPECK_MM3:g}"
    ]


def _choice(volumes: Float64Array, spacing: Triple, candidates: Sequence[int]) -> int:
    return nearest_candidate(ideal_edge(float(volumes.mean()), spacing), candidates)
