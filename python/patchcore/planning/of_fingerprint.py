"""Computes a plan from a fingerprint: for one label, several labels, or with the protocol of another study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import ValidationError

from patchcore.config.explain import explain
from patchcore.config.plan import LikePlan, Plan, RegionPlan, TargetPlan
from patchcore.errors import DataError, PlanError
from patchcore.planning.candidates import DEFAULT_CANDIDATES
from patchcore.planning.joint import as_target, joint_plan
from patchcore.planning.like import taken_from
from patchcore.planning.plan import plan_from_samples
from patchcore.planning.reasons import count_of
from patchcore.planning.samples import FindLearned, samples_of
from patchcore.planning.window import WIDE_HU_RANGE
from patchcore.study.fingerprint import Fingerprint
from patchcore.study.lesion_label import label_number
from patchcore.types import IntTriple, Rule, Triple

__all__ = ["plan_from_fingerprint"]


def plan_from_fingerprint(
    fingerprint: Fingerprint,
    *,
    spacing: Triple | Literal["median", "fine"] | None = None,
    candidates: Sequence[int] = DEFAULT_CANDIDATES,
    rule: Rule | str = Rule.MEAN_VOLUME,
    window_size: IntTriple | int | None = None,
    hu_range: tuple[float, float] | str | None = None,
    lesion_label: int | str | Sequence[int | str] | None = None,
    joint: bool = False,
    like: tuple[str, Plan] | None = None,
    classes: Sequence[int] | None = None,
    regions: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    learned: FindLearned | None = None,
) -> Plan:
    """Choose the ViT patch size for the lesions of a cohort.

    Args:
        fingerprint: The measured cohort. Connectivity and minimum volume are taken from it.
        spacing: Training spacing, mm. For details of all arguments see :func:`patchcore.datasets.plan.plan_patch_size`.
        candidates: Patch edges to choose from, voxels.
        rule: How one size is computed from all lesions.
        learned: Returns what trainings have shown about patch sizes.
        window_size: Fixed window, voxels per canonical axis.
        hu_range: Intensity clip in HU, or the name of a preset.
        lesion_label: The label to plan for, by number or name, or several labels.
        joint: Make the joint proposal the first target.
        like: Name and plan of the study that patch size, spacing, window and HU range are taken from.
        classes: Labels that the network learns together.
        regions: Labels that are evaluated as one region, by region name.
        seed: Seed of the bootstrap.

    Raises:
        PlanError: A request is impossible, or the fingerprint lacks what the plan needs.
        PatchSizeError: The network cannot have one of the candidates.
        EmptyClassError: The label has no lesion in any accepted case.
    """
    if seed < 0:
        raise PlanError(f"seed {seed} is negative", found=seed, remedy="use 0 or more")
    labels = _lesion_labels(fingerprint, lesion_label)
    if joint and len(labels) < 2:
        raise PlanError("a joint plan needs several lesion labels", remedy="name several with --lesion-label")
    if like is not None:
        if spacing is not None or window_size is not None or hu_range is not None or joint:
            raise PlanError(
                "--like takes spacing, window and HU range from the other study",
                remedy="remove --spacing, --window, --hu-range and --joint, or remove --like",
            )
        wanted = like[1].target
        spacing, window_size, hu_range = wanted.spacing, wanted.window_size, wanted.hu_range
    cases, lesions = samples_of(fingerprint)
    # Without images, a placeholder HU range is enough: the label maps cannot be used for training.
    placeholder = hu_range is None and fingerprint.hu is None
    if placeholder:
        hu_range = WIDE_HU_RANGE
    names = {item.label: item.name for item in fingerprint.labels}
    plans = [
        plan_from_samples(
            cases,
            lesions,
            lesion_label=label,
            label_names=names,
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
            learned=learned,
        )
        for label in labels
    ]
    targets = tuple(item.target for item in plans)
    if fingerprint.held_count:
        warning = f"{count_of(fingerprint.held_count, 'case')} with doubtful geometry skipped: see patchcore analyze"
        targets = tuple(item.model_copy(update={"warnings": (*item.warnings, warning)}) for item in targets)
    measured = fingerprint.hu
    if hu_range is None and measured is not None and len(targets) > 1:
        warning = (
            f"hu_range was measured around the lesions of label {measured.label}; if these differ, give --hu-range"
        )
        targets = tuple(
            item
            if item.lesion_label == measured.label
            else item.model_copy(update={"warnings": (*item.warnings, warning)})
            for item in targets
        )
    if placeholder:
        warning = "the data set has no images: hu_range is set from air to bone; p* does not depend on it"
        targets = tuple(item.model_copy(update={"warnings": (*item.warnings, warning)}) for item in targets)
    proposal = taken = None
    if len(targets) > 1:
        # Targets of one study share a window: every patch size that one of them may have divides it.
        sizes = [candidate.patch_size for item in targets for candidate in item.candidates]
        targets = tuple(item.fitting(sizes) for item in targets)
        cubes = [item.patch_size[0] for item in targets[0].candidates if len(set(item.patch_size)) == 1]
        proposal = joint_plan(targets, cubes)
        if joint:
            targets = (as_target(proposal, targets), *targets)
    if like is not None:
        taken = LikePlan(
            study=like[0],
            fingerprint_hash=like[1].fingerprint_hash,
            lesion_label=like[1].target.lesion_label,
            own_patch_size=targets[0].patch_size,
        )
        targets = tuple(taken_from(item, like[1].target, like[0]) for item in targets)
    if classes is not None or regions is not None:
        targets = (_learning(targets[0], fingerprint, classes, regions or {}), *targets[1:])
    targets = tuple(
        item.model_copy(update={"class_names": {label: names[label] for label in item.classes if label in names}})
        for item in targets
    )
    try:
        plan = Plan(fingerprint_hash=fingerprint.fingerprint_hash, targets=targets, joint=proposal, like=taken)
        # A computed plan must pass the same validation as an edited one.
        return Plan.model_validate_json(plan.model_dump_json())
    except ValidationError as error:
        raise PlanError(explain(error, Plan)) from None


def _learning(
    target: TargetPlan, fingerprint: Fingerprint, classes: Sequence[int] | None, regions: Mapping[str, Sequence[int]]
) -> TargetPlan:
    """Return a target that learns several labels and is evaluated by regions, if there are any."""
    learned = (
        tuple(classes) if classes is not None else tuple(sorted({v for labels in regions.values() for v in labels}))
    )
    known = {item.label: item.name for item in fingerprint.labels}
    strange = [label for label in learned if label not in known]
    if strange:
        listed = ", ".join(f"{label} ({name})" for label, name in known.items())
        raise PlanError(
            f"no case has label {', '.join(map(str, strange))}",
            found=strange,
            remedy=f"choose from the labels {listed}",
        )
    planned = tuple(RegionPlan(name=name, labels=tuple(labels)) for name, labels in regions.items())
    return target.model_copy(update={"classes": learned, "regions": planned})


def _lesion_labels(fingerprint: Fingerprint, asked: int | str | Sequence[int | str] | None) -> list[int]:
    known = ", ".join(f"{item.label} ({item.name})" for item in fingerprint.labels)
    if asked is None:
        if fingerprint.lesion_label is None:
            raise PlanError(
                f"the lesion label is not known: {fingerprint.lesion_label_reason}",
                expected=known,
                remedy=f"name it with --lesion-label; labels in the data: {known or 'none'}",
            )
        return [fingerprint.lesion_label]
    wanted = [asked] if isinstance(asked, int | str) else list(asked)
    labels = [_label_number(fingerprint, item, known) for item in wanted]
    if not labels:
        raise PlanError(
            "no lesion label is named",
            expected=known,
            remedy=f"name at least one; labels in the data: {known or 'none'}",
        )
    if len(set(labels)) < len(labels):
        raise PlanError("a lesion label is named twice", found=labels, remedy="name each label once")
    return labels


def _label_number(fingerprint: Fingerprint, wanted: int | str, known: str) -> int:
    if isinstance(wanted, int):
        return wanted
    try:
        return label_number(wanted, {item.label: item.name for item in fingerprint.labels})
    except DataError as error:
        raise PlanError(error.message, found=wanted, expected=known, remedy=f"choose from the labels {known}") from None


def _percentiles(fingerprint: Fingerprint, label: int, *, several: bool) -> tuple[float, float] | None:
    """Return HU percentiles around the lesions of a label. Several labels share the ones measured around one label."""
    measured = fingerprint.hu
    if measured is None or (measured.label != label and not several):
        return None
    return measured.p0_5, measured.p99_5
