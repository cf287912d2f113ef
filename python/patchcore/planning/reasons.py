"""Sentences of a plan: why this patch size, and warnings. They are part of ``plan.json``."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from patchcore.config.plan import RuleOutcome
from patchcore.planning.candidates import wider_candidate
from patchcore.planning.rules import average_volume, geometric_edge, nearest_candidate
from patchcore.planning.samples import Cohort
from patchcore.types import Float64Array, IntTriple, Rule, Triple

__all__ = ["count_of", "format_edges", "format_size", "format_volume", "plan_reason", "plan_warnings"]

_FEW_LESIONS = 20
_SKEW = 3.0
_GIANT_SHARE = 1 / 3
_SPECK_MM3 = 5.0
_SPECK_SHARE = 0.05

_AVERAGES = {
    Rule.MEAN_VOLUME: "mean volume",
    Rule.MEDIAN: "median volume",
    Rule.GEOMETRIC_MEAN: "geometric mean volume",
}


def format_volume(volume_mm3: float) -> str:
    """Return a volume with a unit that suits it.

    Example:
        >>> format_volume(48_900.0), format_volume(29.4)
        ('48.9 mL', '29.4 mm³')
    """
    if volume_mm3 >= 1e6:
        return f"{volume_mm3 / 1000:,.0f} mL"
    return f"{volume_mm3 / 1000:.3g} mL" if volume_mm3 >= 100 else f"{volume_mm3:.3g} mm³"


def format_size(size: Sequence[float]) -> str:
    """Return ``8``, or ``24 × 24 × 8`` where the axes differ.

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
) -> str:
    """Say in plain language, with the numbers, how the patch size came about."""
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
            f"{who} have a mean extent of {extent} mm. At {grid} that is {format_edges(edges)} voxels"
            f"{sure}. Per axis, the candidate nearest in log scale among {listed} gives a patch size of "
            f"{format_size(patch_size)}."
        )
    volume = average_volume(rule, cohort.volume_mm3)
    voxel_mm3 = float(np.prod(spacing))
    return (
        f"{who} have a {_AVERAGES[rule]} of {format_volume(volume)}. At {grid} a voxel is "
        f"{voxel_mm3:.3g} mm³, so that volume is {volume / voxel_mm3:,.0f} voxels: "
        f"a cube with an edge of p* = {edges[0]:.1f} voxels{sure}. "
        f"The candidate nearest in log scale among {listed} is {format_size(patch_size)}."
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
    """List what makes this plan less sure than it looks, most telling first; empty where nothing does."""
    found = [_beyond(edges, candidates), *_poor_summary(rule, cohort, spacing, candidates)]
    if len(cohort) < _FEW_LESIONS:
        found.append(f"only {count_of(len(cohort), 'lesion')}: p* rests on few")
    if interval is None:
        found.append("all lesions are of one patient: nothing can be said of how sure p* is")
    else:
        low, high = (nearest_candidate(edge, candidates) for edge in interval)
        if low != high:
            found.append(
                f"the interval of p*, {interval[0]:.1f} to {interval[1]:.1f}, reaches from candidate {low} "
                f"to {high}: more patients could change the choice"
            )
    others = [outcome for outcome in rules if outcome.rule is not rule and outcome.patch_size != patch_size]
    if others:
        listed = ", ".join(f"{outcome.rule} {format_size(outcome.patch_size)}" for outcome in others)
        found.append(f"other rules would choose otherwise: {listed}")
    if padding >= 0.5:
        found.append(_padded(cohort, spacing, patch_size, window_size, padding))
    return tuple(text for text in found if text)


def _padded(cohort: Cohort, spacing: Triple, patch_size: IntTriple, window_size: IntTriple, padding: float) -> str:
    """Say that a window is mostly padding, and offer the smallest that the median case fills."""
    extents = np.median(cohort.case_extents(spacing), axis=0)
    fitting = [
        min(window, math.ceil(extent / patch) * patch)
        for extent, patch, window in zip(extents, patch_size, window_size, strict=True)
    ]
    offer = "" if tuple(fitting) == window_size else f"; --window {','.join(map(str, fitting))} would hold less"
    return f"{padding:.0%} of an average window is padding{offer}"


def _beyond(edges: Triple, candidates: Sequence[int]) -> str:
    """Say that p* lies outside the candidates, and offer to widen the list where that would help."""
    edge = geometric_edge(edges)
    smallest, largest = min(candidates), max(candidates)
    if smallest <= edge <= largest:
        return ""
    where = f"above the largest candidate, {largest}" if edge > largest else f"below the smallest candidate, {smallest}"
    wider = wider_candidate(edge, candidates)
    if wider is None:
        return f"p* {edge:.1f} lies {where}; no other common edge is nearer"
    listed = ",".join(map(str, sorted((*candidates, wider))))
    return f"p* {edge:.1f} lies {where}: widen the list with --candidates {listed} to offer {wider}"


def _poor_summary(rule: Rule, cohort: Cohort, spacing: Triple, candidates: Sequence[int]) -> list[str]:
    """Say where a mean volume hides how unlike the lesions are."""
    volumes = cohort.volume_mm3
    if rule is not Rule.MEAN_VOLUME or len(volumes) < 2:
        return []
    found = []
    mean, median, largest = float(volumes.mean()), float(np.median(volumes)), float(volumes.max())
    if mean > _SKEW * median:
        found.append(
            f"the mean lesion, {format_volume(mean)}, is {mean / median:.1f} times the median, "
            f"{format_volume(median)}: a few large lesions set the patch size"
        )
    share = largest / float(volumes.sum())
    rest = np.delete(volumes, int(volumes.argmax()))
    with_all, without = (_choice(values, spacing, candidates) for values in (volumes, rest))
    if len(volumes) > 2 and (share > _GIANT_SHARE or with_all != without):
        moved = (
            f"would choose {without} instead of {with_all}" if with_all != without else "would not change the choice"
        )
        found.append(
            f"the largest lesion, {format_volume(largest)}, is {share:.0%} of all lesion volume; leaving it out {moved}"
        )
    found += _specks(volumes, spacing, candidates)
    return found


def _specks(volumes: Float64Array, spacing: Triple, candidates: Sequence[int]) -> list[str]:
    """Say how much a few voxels of annotation noise, counted as lesions, pull the mean down."""
    large = volumes[volumes >= _SPECK_MM3]
    count = len(volumes) - len(large)
    if count < _SPECK_SHARE * len(volumes) or not len(large) or not count:
        return []
    mean, without = float(volumes.mean()), float(large.mean())
    choices = _choice(volumes, spacing, candidates), _choice(large, spacing, candidates)
    moved = "" if choices[0] == choices[1] else f", and the choice from {choices[0]} to {choices[1]}"
    return [
        f"{count} of {len(volumes)} lesions are specks below {_SPECK_MM3:g} mm³; without them the mean would move from "
        f"{format_volume(mean)} to {format_volume(without)}{moved}: patchcore analyze --min-volume-mm3 {_SPECK_MM3:g} "
        "leaves them out"
    ]


def _choice(volumes: Float64Array, spacing: Triple, candidates: Sequence[int]) -> int:
    edge = float(np.cbrt(volumes.mean() / np.prod(spacing)))
    return nearest_candidate(edge, candidates)
