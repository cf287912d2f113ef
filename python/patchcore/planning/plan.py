"""Computes a plan from lesions: first the window, then the patch size, with the reasons."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from patchcore.config.cost import check_window, network_cost
from patchcore.config.plan import CandidatePlan, IdealEdge, Plan, RuleOutcome, TargetPlan
from patchcore.errors import EmptyClassError, PlanError
from patchcore.planning.bootstrap import edge_interval
from patchcore.planning.candidates import DEFAULT_CANDIDATES, check_candidates
from patchcore.planning.reasons import format_size, plan_reason, plan_warnings
from patchcore.planning.rules import average_volume, choose_patch_size, ideal_edges
from patchcore.planning.samples import CaseSample, Cohort, FindLearned, LesionSample, cohort_of
from patchcore.planning.window import (
    choose_window,
    divisible_candidates,
    fit_short_axes,
    hu_range_of,
    median_extent,
    padding_share,
)
from patchcore.types import IntTriple, Rule, Triple

__all__ = ["plan_from_samples"]

_AIR_HU, _BONE_HU = -900.0, 1000.0


def plan_from_samples(
    cases: Sequence[CaseSample],
    lesions: Sequence[LesionSample],
    *,
    lesion_label: int,
    label_names: Mapping[int, str] | None = None,
    fingerprint_hash: str = "",
    connectivity: Literal[6, 18, 26] = 26,
    min_volume_mm3: float = 0.0,
    hu_percentiles: tuple[float, float] | None = None,
    spacing: Triple | Literal["median", "fine"] | None = None,
    candidates: Sequence[int] = DEFAULT_CANDIDATES,
    rule: Rule | str = Rule.MEAN_VOLUME,
    window_size: IntTriple | int | None = None,
    hu_range: tuple[float, float] | str | None = None,
    resamples: int = 2000,
    seed: int = 0,
    learned: FindLearned | None = None,
) -> Plan:
    """Choose the ViT patch size for lesions given as plain records. Reads and writes no file.

    The window is chosen first: per axis 96 voxels, or 48 if the median extent of the cases at the training spacing
    is below 72. All candidates divide it. Then p* is computed. With v̄ the mean lesion volume and s the training
    spacing, p* = ∛(v̄ / (s₁·s₂·s₃)): the edge of the cube with the mean lesion volume. The patch size is the candidate
    nearest to p* on a log scale (see :mod:`patchcore.planning.rules` for the source and for the other rules). At last,
    an axis on which the median case has fewer than 48 voxels gets the smallest multiple of the patch edge that covers
    it.

    Args:
        cases: All accepted cases, canonical RAS+ axes.
        lesions: Lesions of these cases, of any label.
        lesion_label: The label to plan for; the network learns it.
        label_names: Names of the labels.
        fingerprint_hash: Stored in the plan, to detect later that the data have changed.
        connectivity: Connectivity with which lesions were separated.
        min_volume_mm3: Components below this volume were excluded.
        hu_percentiles: 0.5 and 99.5 percentile of HU in lesions dilated by 10 mm; None without images.
        spacing: Training spacing, mm; ``median`` or None: the per-axis median over `cases`; ``fine``: see
            :meth:`patchcore.planning.samples.Cohort.fine_spacing`.
        candidates: Patch edges, voxels.
        rule: How one size is computed from all lesions.
        window_size: A window fixed by the user. Only then are candidates that do not divide it excluded.
        hu_range: Intensity clip in HU, or the name of a preset.
        resamples: Number of bootstrap cohorts.
        seed: Seed of the bootstrap.
        learned: Returns what trainings have shown; needed for rule ``learned``, and listed beside the other rules.

    Raises:
        PlanError: There is no case, the spacing, window or HU range is impossible, the rule is unknown, or it is
            ``learned`` and nothing was learned yet.
        PatchSizeError: The network cannot have one of the candidates.
        EmptyClassError: The label has no lesion.

    Example:
        >>> cases = [CaseSample(str(i), str(i), (1.0, 1.0, 1.0), (96, 96, 96)) for i in range(3)]
        >>> lesions = [LesionSample(str(i), 1, 1728.0, (14.0, 15.0, 16.0)) for i in range(3)]
        >>> plan_from_samples(cases, lesions, lesion_label=1, hu_range="liver").patch_size
        (12, 12, 12)
    """
    rule = _rule(rule)
    edges_offered = check_candidates(candidates)
    if not cases:
        raise PlanError(
            "no accepted case to plan from", remedy="run patchcore analyze to see why cases were quarantined"
        )
    if lesion_label == 0:
        raise PlanError("label 0 is background", found=0, remedy="name a non-zero --lesion-label")
    cohort = cohort_of(cases, lesions, label=lesion_label)
    if not len(cohort):
        known = sorted({lesion.label for lesion in lesions})
        raise EmptyClassError(
            f"label {lesion_label} has no lesion in any accepted case",
            found=lesion_label,
            expected=known,
            remedy=f"labels with lesions: {', '.join(map(str, known)) or 'none'}; choose one with --lesion-label",
        )
    spacing = _spacing(spacing, cohort)
    found = None if learned is None else learned(spacing, lesion_label)
    window = choose_window(cohort, spacing, edges_offered) if window_size is None else _window(window_size)
    per_axis = divisible_candidates(window, edges_offered)
    if rule is Rule.LEARNED:
        if found is None:
            raise PlanError(
                "rule learned needs a finished sweep over patch sizes, or a finished training of a flexible network, "
                f"for label {lesion_label} and at the spacing of the plan, {format_size(spacing)} mm",
                remedy="run patchcore sweep STUDY --over patch_size=8,12,16,24 first, or choose another --rule",
            )
        check_window(window, found.patch_size)
    # A cubic patch must divide all three axes. Some rules may use a different candidate per axis.
    cubes = tuple(p for p in edges_offered if all(p in axis for axis in per_axis))
    if not cubes and not rule.is_per_axis:
        raise PlanError(
            f"none of the candidates {', '.join(map(str, edges_offered))} divides every axis of window {window}",
            found=window,
            remedy="use a window with edges that are multiples of 48, other --candidates, or --rule extent",
        )

    outcomes = tuple(
        _outcome(each, cohort, spacing, per_axis if each.is_per_axis else (cubes, cubes, cubes))
        for each in Rule
        if each is not Rule.LEARNED and (cubes or each.is_per_axis)
    )
    if found is not None:
        a, b, c = map(float, found.patch_size)
        outcomes += (RuleOutcome(rule=Rule.LEARNED, volume_mm3=None, edge=(a, b, c), patch_size=found.patch_size),)
    # p* is a number of the lesions, whatever patch size the trainings prefer.
    formula = Rule.MEAN_VOLUME if rule is Rule.LEARNED else rule
    outcome = next(item for item in outcomes if item.rule is rule)
    extent = median_extent(cohort, spacing) if window_size is None else None
    shared, window = window, window if extent is None else fit_short_axes(window, extent, outcome.patch_size)
    ideals = tuple(
        IdealEdge(
            spacing=at,
            edge=ideal_edges(formula, cohort, at),
            interval=edge_interval(formula, cohort, at, resamples=resamples, seed=seed),
        )
        for at in (spacing, (1.0, 1.0, 1.0), None)
    )
    name = (label_names or {}).get(lesion_label, f"label {lesion_label}")
    offered = cubes or tuple(sorted(set().union(*per_axis)))
    padding = padding_share(cohort, spacing, window)
    warnings = plan_warnings(
        rule,
        cohort,
        spacing=spacing,
        edges=ideals[0].edge,
        interval=ideals[0].interval,
        patch_size=outcome.patch_size,
        candidates=offered,
        rules=outcomes,
        window_size=window,
        padding=padding,
    )
    excluded = [p for p in edges_offered if p not in offered]
    if excluded:
        listed = ", ".join(map(str, excluded))
        warnings += (f"candidates excluded because they do not divide the fixed window: {listed}",)
    low, high = hu_range_of(hu_range, hu_percentiles)
    if hu_range is None and low <= _AIR_HU and high >= _BONE_HU:
        warnings += (
            f"the measured HU range, {low:g} to {high:g}, reaches from air to bone, so soft tissue has little "
            "contrast: consider a preset, e.g. --hu-range soft-tissue",
        )
    target = TargetPlan(
        lesion_label=lesion_label,
        label_name=name,
        classes=(lesion_label,),
        rule=rule,
        patch_size=outcome.patch_size,
        spacing=spacing,
        window_size=window,
        median_extent=extent,
        hu_range=(low, high),
        connectivity=connectivity,
        min_volume_mm3=min_volume_mm3,
        lesion_count=len(cohort),
        patient_count=cohort.patient_count,
        mean_volume_mm3=float(cohort.volume_mm3.mean()),
        median_volume_mm3=float(np.median(cohort.volume_mm3)),
        ideal_edges=ideals,
        candidates=_candidate_plans(cohort, spacing, shared, cubes, outcome.patch_size),
        rules=outcomes,
        padding_share=padding,
        reason=plan_reason(
            rule,
            cohort,
            lesion_label=lesion_label,
            label_name=name,
            spacing=spacing,
            edges=ideals[0].edge,
            interval=ideals[0].interval,
            patch_size=outcome.patch_size,
            candidates=offered,
            learned=found,
        ),
        warnings=warnings,
    )
    return Plan(fingerprint_hash=fingerprint_hash, targets=(target,))


def _rule(rule: Rule | str) -> Rule:
    try:
        return Rule(rule)
    except ValueError:
        legal = ", ".join(Rule)
        raise PlanError(
            f"{rule!r} is not a valid rule", found=rule, expected=legal, remedy=f"choose one of {legal}"
        ) from None


def _spacing(asked: Triple | str | None, cohort: Cohort) -> Triple:
    if asked in (None, "median"):
        return cohort.median_spacing()
    if asked == "fine":
        return cohort.fine_spacing()
    a, b, c = (0.0, 0.0, 0.0) if isinstance(asked, str) or asked is None else (float(s) for s in asked)
    if not all(math.isfinite(s) and 0 < s < 1000 for s in (a, b, c)):
        raise PlanError(
            f"spacing {asked} is impossible",
            found=asked,
            remedy="give three values in mm, e.g. 1,1,2.5, or median or fine",
        )
    return (a, b, c)


def _window(asked: IntTriple | int) -> IntTriple:
    a, b, c = (asked, asked, asked) if isinstance(asked, int) else asked
    if min(a, b, c) < 1:
        raise PlanError(f"window size {asked} is impossible", found=asked, remedy="use positive multiples of 48")
    return (int(a), int(b), int(c))


def _outcome(
    rule: Rule,
    cohort: Cohort,
    spacing: Triple,
    candidates: tuple[Sequence[int], Sequence[int], Sequence[int]],
) -> RuleOutcome:
    edges = ideal_edges(rule, cohort, spacing)
    return RuleOutcome(
        rule=rule,
        volume_mm3=None if rule is Rule.EXTENT else average_volume(rule, cohort.volume_mm3),
        edge=edges,
        patch_size=choose_patch_size(edges, candidates),
    )


def _candidate_plans(
    cohort: Cohort, spacing: Triple, window: IntTriple, cubes: Sequence[int], chosen: IntTriple
) -> tuple[CandidatePlan, ...]:
    """Describe every cubic candidate, and the chosen patch size if it is not a cube."""
    sizes: list[IntTriple] = [(p, p, p) for p in cubes]
    if chosen not in sizes:
        sizes.append(chosen)
    plans = []
    for size in sizes:
        cost = network_cost(window, size)
        volume = math.prod(size) * math.prod(spacing)
        plans.append(
            CandidatePlan(
                patch_size=size,
                volume_mm3=volume,
                tokens=cost.tokens,
                attention_gflop=cost.attention_flop / 1e9,
                attention_share=cost.attention_share,
                smaller_lesions_share=float(np.mean(cohort.volume_mm3 < volume)),
                chosen=size == chosen,
            )
        )
    return tuple(plans)
