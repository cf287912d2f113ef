"""From a fingerprint to a plan: the window first, then the patch size, with everything that speaks for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import ValidationError

from patchcore.config.plan import CandidatePlan, IdealEdge, LikePlan, Plan, RegionPlan, RuleOutcome, TargetPlan, explain
from patchcore.errors import EmptyClassError, PlanError
from patchcore.planning.bootstrap import edge_interval
from patchcore.planning.candidates import DEFAULT_CANDIDATES, check_candidates, encoder_cost
from patchcore.planning.joint import as_target, joint_plan
from patchcore.planning.like import taken_from
from patchcore.planning.reasons import plan_reason, plan_warnings
from patchcore.planning.rules import average_volume, choose_patch_size, ideal_edges
from patchcore.planning.samples import CaseSample, Cohort, LesionSample, cohort_of
from patchcore.planning.window import WIDE_HU_RANGE, choose_window, divisible_candidates, hu_range_of, padding_share
from patchcore.types import IntTriple, PathLike, Rule, Triple

if TYPE_CHECKING:
    from patchcore.study import Study
    from patchcore.study.fingerprint import Fingerprint

__all__ = ["plan_from_samples", "plan_patch_size", "samples_of"]

_AIR_HU, _BONE_HU = -900.0, 1000.0


def plan_patch_size(
    source: Study | PathLike,
    *,
    spacing: Triple | None = None,
    candidates: Sequence[int] = DEFAULT_CANDIDATES,
    rule: Rule | str = Rule.MEAN_VOLUME,
    window_size: IntTriple | int | None = None,
    hu_range: tuple[float, float] | str | None = None,
    lesion_label: int | str | Sequence[int | str] | None = None,
    joint: bool = False,
    like: Study | PathLike | None = None,
    classes: Sequence[int] | None = None,
    regions: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
) -> Plan:
    """Choose the ViT patch size for a study's lesions and write ``plan.json`` into it, whole or not at all.

    Connectivity and minimum volume are the fingerprint's; see :func:`plan_from_samples` for the rules.

    Args:
        source: A study, or the path of one, that ``patchcore analyze`` has measured.
        spacing: Training spacing, mm per voxel, canonical RAS+ axes; None: the per-axis median over the
            cases.
        candidates: Patch edges to choose among, voxels.
        rule: How one size is made of all lesions.
        window_size: Fixes the window, voxels per canonical axis; candidates that do not divide it are left
            out.
        hu_range: Intensity clip in HU, or a preset's name; None: measured around the lesions.
        lesion_label: The label to plan for, by number or name, or several: each gets its own target, and all
            together a joint proposal; None: the fingerprint's.
        joint: Make the joint proposal the first target, the one that is trained: it learns all labels.
        like: A study whose plan's patch size, spacing, window and HU range are taken over, so that a network
            trained here can go on there: the protocol of transfer.
        classes: Labels that the network learns together, in channel order, the lesion label among them; None: the
            lesion label alone, with `regions` all labels in them.
        regions: By name, labels that count as one thing, whole things first: ``{"liver": (1, 2), "tumour": (2,)}``.
            Dice and DSC are of these then.
        seed: Of the bootstrap.

    Returns:
        The plan that was written.

    Raises:
        PlanError: Something impossible was asked for, or cannot be told from the fingerprint.
        PatchSizeError: A candidate that the network cannot have.
        EmptyClassError: The label has no lesion in any accepted case.
        StudyError: There is no study, or nothing was measured yet; `like` has no plan.

    Example:
        >>> plan = plan_patch_size("study/")  # doctest: +SKIP
        >>> plan.patch_size  # doctest: +SKIP
        (24, 24, 24)
    """
    from patchcore.study import Study as StudyFolder

    if seed < 0:
        raise PlanError(f"seed {seed}", found=seed, remedy="use 0 or more")
    study = source if isinstance(source, StudyFolder) else StudyFolder(source)
    fingerprint = study.fingerprint()
    labels = _lesion_labels(fingerprint, lesion_label)
    if joint and len(labels) < 2:
        raise PlanError("one lesion label needs no joint plan", remedy="name several with --lesion-label")
    model = None
    if like is not None:
        other = like if isinstance(like, StudyFolder) else StudyFolder(like)
        if other.path.resolve() == study.path.resolve():
            raise PlanError("--like names the study itself", path=study.path, remedy="name another study")
        model = (other.path.name, other.plan())
        if spacing is not None or window_size is not None or hu_range is not None or joint:
            raise PlanError(
                "--like takes spacing, window and HU range from the other study",
                remedy="leave --spacing, --window, --hu-range and --joint out, or leave --like out",
            )
        wanted = model[1].target
        spacing, window_size, hu_range = wanted.spacing, wanted.window_size, wanted.hu_range
    cases, lesions = samples_of(fingerprint)
    # Label maps alone are planned for, too: nothing will be trained on them.
    placeholder = hu_range is None and fingerprint.hu is None
    if placeholder:
        hu_range = WIDE_HU_RANGE
    plans = [
        plan_from_samples(
            cases,
            lesions,
            lesion_label=label,
            label_names={item.label: item.name for item in fingerprint.labels},
            fingerprint_hash=fingerprint.fingerprint_hash,
            connectivity=fingerprint.connectivity,
            min_volume_mm3=fingerprint.min_volume_mm3,
            hu_percentiles=_percentiles(fingerprint, label, several=len(labels) > 1),
            spacing=spacing,
            candidates=candidates,
            rule=rule,
            window_size=window_size,
            hu_range=hu_range,
            seed=seed,
        )
        for label in labels
    ]
    targets = tuple(item.target for item in plans)
    if fingerprint.held_count:
        told = f"{_count(fingerprint.held_count, 'case')} with doubtful geometry left out: patchcore analyze says which"
        targets = tuple(item.model_copy(update={"warnings": (*item.warnings, told)}) for item in targets)
    if placeholder:
        told = "there are no images: hu_range is air to bone, and p* does not depend on it"
        targets = tuple(item.model_copy(update={"warnings": (*item.warnings, told)}) for item in targets)
    proposal = taken = None
    if len(targets) > 1:
        cubes = [item.patch_size[0] for item in targets[0].candidates if len(set(item.patch_size)) == 1]
        proposal = joint_plan(targets, cubes)
        if joint:
            targets = (as_target(proposal, targets), *targets)
    if model is not None:
        taken = LikePlan(
            study=model[0],
            fingerprint_hash=model[1].fingerprint_hash,
            lesion_label=model[1].target.lesion_label,
            own_patch_size=targets[0].patch_size,
        )
        targets = tuple(taken_from(item, model[1].target, model[0]) for item in targets)
    if classes is not None or regions is not None:
        targets = (_learning(targets[0], fingerprint, classes, regions or {}), *targets[1:])
    try:
        plan = Plan(fingerprint_hash=fingerprint.fingerprint_hash, targets=targets, joint=proposal, like=taken)
        # What is computed is held to the same standard as what is edited.
        plan = Plan.model_validate_json(plan.model_dump_json())
    except ValidationError as error:
        raise PlanError(explain(error)) from None
    study.write_plan(plan)
    return plan


def _learning(
    target: TargetPlan, fingerprint: Fingerprint, classes: Sequence[int] | None, regions: Mapping[str, Sequence[int]]
) -> TargetPlan:
    """Have a target learn several labels, judged by regions where there are any."""
    learned = (
        tuple(classes) if classes is not None else tuple(sorted({v for labels in regions.values() for v in labels}))
    )
    known = {item.label: item.name for item in fingerprint.labels}
    strange = [label for label in learned if label not in known]
    if strange:
        listed = ", ".join(f"{label} ({name})" for label, name in known.items())
        raise PlanError(
            f"no case holds label {', '.join(map(str, strange))}", found=strange, remedy=f"measured were {listed}"
        )
    told = tuple(RegionPlan(name=name, labels=tuple(labels)) for name, labels in regions.items())
    return target.model_copy(update={"classes": learned, "regions": told})


def samples_of(fingerprint: Fingerprint) -> tuple[list[CaseSample], list[LesionSample]]:
    """Return the cases and lesions of a fingerprint as planning takes them."""
    cases = [CaseSample(case.case_id, case.patient, case.spacing, case.shape) for case in fingerprint.cases]
    lesions = [
        LesionSample(case.case_id, lesion.label, lesion.volume_mm3, lesion.extent_mm)
        for case in fingerprint.cases
        for lesion in case.lesions
    ]
    return cases, lesions


def _lesion_labels(fingerprint: Fingerprint, asked: int | str | Sequence[int | str] | None) -> list[int]:
    known = ", ".join(f"{item.label} ({item.name})" for item in fingerprint.labels)
    if asked is None:
        if fingerprint.lesion_label is None:
            raise PlanError(
                f"which label is the lesion cannot be told: {fingerprint.lesion_label_reason}",
                expected=known,
                remedy=f"name it with --lesion-label; measured were {known or 'none'}",
            )
        return [fingerprint.lesion_label]
    wanted = [asked] if isinstance(asked, int | str) else list(asked)
    labels = [_label_number(fingerprint, item, known) for item in wanted]
    if not labels:
        raise PlanError("no lesion label is named", expected=known, remedy=f"measured were {known or 'none'}")
    if len(set(labels)) < len(labels):
        raise PlanError("a lesion label is named twice", found=labels, remedy="name each once")
    return labels


def _label_number(fingerprint: Fingerprint, wanted: int | str, known: str) -> int:
    if isinstance(wanted, int):
        return wanted
    text = wanted.strip()
    if text.isdecimal() and len(text) < 10:
        return int(text)
    fitting = [item.label for item in fingerprint.labels if item.name.casefold() == text.casefold()]
    if len(fitting) != 1:
        raise PlanError(f"no label is called {text!r}", found=text, expected=known, remedy=f"measured were {known}")
    return fitting[0]


def _percentiles(fingerprint: Fingerprint, label: int, *, several: bool) -> tuple[float, float] | None:
    """Return HU percentiles around the label's lesions; of several labels all take what was measured around one."""
    measured = fingerprint.hu
    if measured is None or (measured.label != label and not several):
        return None
    return measured.p0_5, measured.p99_5


def _count(number: int, word: str) -> str:
    return f"{number} {word}" + ("" if number == 1 else "s")


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
    spacing: Triple | None = None,
    candidates: Sequence[int] = DEFAULT_CANDIDATES,
    rule: Rule | str = Rule.MEAN_VOLUME,
    window_size: IntTriple | int | None = None,
    hu_range: tuple[float, float] | str | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Plan:
    """Choose the ViT patch size for lesions given as plain records. Pure: reads and writes nothing.

    The window comes first: per axis 96 voxels, or 48 where the cases' median extent at the training spacing
    is below 72. Then p*: with v̄ the lesions' mean volume and s the training spacing, p* = ∛(v̄ /
    (s₁·s₂·s₃)), the edge of the cube that has the mean lesion's volume; the patch size is the candidate
    nearest to p* in log scale (see :mod:`patchcore.planning.rules` for the source and for the other rules).

    Args:
        cases: Every accepted case, canonical RAS+ axes.
        lesions: Their lesions, of any label.
        lesion_label: The label that is planned for and that the network learns.
        label_names: Names of labels.
        fingerprint_hash: Kept in the plan, to tell when the data behind it have changed.
        connectivity: With which the lesions were told apart.
        min_volume_mm3: Below which components were left out.
        hu_percentiles: 0.5 and 99.5 percentile of HU in the lesions dilated by 10 mm, if there are images.
        spacing: Training spacing, mm; None: the per-axis median over `cases`.
        candidates: Patch edges, voxels.
        rule: How one size is made of all lesions.
        window_size: A window fixed by the user; only then are candidates that do not divide it left out.
        hu_range: Intensity clip in HU, or a preset's name.
        resamples: Bootstrap cohorts.
        seed: Of the bootstrap.

    Raises:
        PlanError: No case, an impossible spacing, window or HU range, or an unknown rule.
        PatchSizeError: A candidate that the network cannot have.
        EmptyClassError: No lesion of the label.

    Example:
        >>> cases = [CaseSample(str(i), str(i), (1.0, 1.0, 1.0), (96, 96, 96)) for i in range(3)]
        >>> lesions = [LesionSample(str(i), 1, 1728.0, (14.0, 15.0, 16.0)) for i in range(3)]
        >>> plan_from_samples(cases, lesions, lesion_label=1, hu_range="liver").patch_size
        (12, 12, 12)
    """
    rule = _rule(rule)
    edges_offered = check_candidates(candidates)
    if not cases:
        raise PlanError("no accepted case to plan from", remedy="patchcore analyze lists why cases were quarantined")
    if lesion_label == 0:
        raise PlanError("label 0 is background", found=0, remedy="name a non-zero --lesion-label")
    cohort = cohort_of(cases, lesions, label=lesion_label)
    if not len(cohort):
        known = sorted({lesion.label for lesion in lesions})
        raise EmptyClassError(
            f"label {lesion_label} has no lesion in any accepted case",
            found=lesion_label,
            expected=known,
            remedy=f"labels with lesions: {', '.join(map(str, known)) or 'none'}; choose with --lesion-label",
        )
    spacing = _spacing(spacing, cohort)
    window = choose_window(cohort, spacing, edges_offered) if window_size is None else _window(window_size)
    per_axis = divisible_candidates(window, edges_offered)
    # A cube of one candidate has to divide all three axes; only the extent rule may mix candidates.
    cubes = tuple(p for p in edges_offered if all(p in axis for axis in per_axis))
    if not cubes and rule is not Rule.EXTENT:
        raise PlanError(
            f"no candidate of {', '.join(map(str, edges_offered))} divides every axis of window {window}",
            found=window,
            remedy="choose a window of multiples of 48, other --candidates, or --rule extent",
        )

    outcomes = tuple(
        _outcome(each, cohort, spacing, per_axis if each is Rule.EXTENT else (cubes, cubes, cubes))
        for each in Rule
        if cubes or each is Rule.EXTENT
    )
    outcome = next(item for item in outcomes if item.rule is rule)
    ideals = tuple(
        IdealEdge(
            spacing=at,
            edge=ideal_edges(rule, cohort, at),
            interval=edge_interval(rule, cohort, at, resamples=resamples, seed=seed),
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
        edges=outcome.edge,
        interval=ideals[0].interval,
        patch_size=outcome.patch_size,
        candidates=offered,
        rules=outcomes,
        window_size=window,
        padding=padding,
    )
    left_out = [p for p in edges_offered if p not in offered]
    if left_out:
        listed = ", ".join(map(str, left_out))
        warnings += (f"left out of the candidates because they do not divide the fixed window: {listed}",)
    low, high = hu_range_of(hu_range, hu_percentiles)
    if hu_range is None and low <= _AIR_HU and high >= _BONE_HU:
        warnings += (
            f"the measured HU range, {low:g} to {high:g}, reaches from air to bone and leaves soft tissue "
            "little contrast: consider a preset, e.g. --hu-range soft-tissue",
        )
    target = TargetPlan(
        lesion_label=lesion_label,
        label_name=name,
        classes=(lesion_label,),
        rule=rule,
        patch_size=outcome.patch_size,
        spacing=spacing,
        window_size=window,
        hu_range=(low, high),
        connectivity=connectivity,
        min_volume_mm3=min_volume_mm3,
        lesion_count=len(cohort),
        patient_count=cohort.patient_count,
        mean_volume_mm3=float(cohort.volume_mm3.mean()),
        median_volume_mm3=float(np.median(cohort.volume_mm3)),
        ideal_edges=ideals,
        candidates=_candidate_plans(cohort, spacing, window, cubes, outcome.patch_size),
        rules=outcomes,
        padding_share=padding,
        reason=plan_reason(
            rule,
            cohort,
            lesion_label=lesion_label,
            label_name=name,
            spacing=spacing,
            edges=outcome.edge,
            interval=ideals[0].interval,
            patch_size=outcome.patch_size,
            candidates=offered,
        ),
        warnings=warnings,
    )
    return Plan(fingerprint_hash=fingerprint_hash, targets=(target,))


def _rule(rule: Rule | str) -> Rule:
    try:
        return Rule(rule)
    except ValueError:
        legal = ", ".join(Rule)
        raise PlanError(f"{rule!r} is no rule", found=rule, expected=legal, remedy=f"choose one of {legal}") from None


def _spacing(asked: Triple | None, cohort: Cohort) -> Triple:
    if asked is None:
        return cohort.median_spacing()
    a, b, c = (float(s) for s in asked)
    if not all(math.isfinite(s) and 0 < s < 1000 for s in (a, b, c)):
        raise PlanError(f"spacing {asked} is impossible", found=asked, remedy="give three values in mm, e.g. 1,1,2.5")
    return (a, b, c)


def _window(asked: IntTriple | int) -> IntTriple:
    a, b, c = (asked, asked, asked) if isinstance(asked, int) else asked
    if min(a, b, c) < 1:
        raise PlanError(f"window size {asked} is impossible", found=asked, remedy="give positive multiples of 48")
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
    """Describe every cube, and the chosen patch too where it is none."""
    sizes: list[IntTriple] = [(p, p, p) for p in cubes]
    if chosen not in sizes:
        sizes.append(chosen)
    plans = []
    for size in sizes:
        cost = encoder_cost(window, size)
        volume = math.prod(size) * math.prod(spacing)
        plans.append(
            CandidatePlan(
                patch_size=size,
                volume_mm3=volume,
                tokens=cost.tokens,
                attention_gflop=cost.attention_gflop,
                attention_share=cost.attention_share,
                smaller_lesions_share=float(np.mean(cohort.volume_mm3 < volume)),
                chosen=size == chosen,
            )
        )
    return tuple(plans)
