"""Plan a study: choose the patch size, and write the plan and its figure into the study folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

from patchcore.config.plan import Plan
from patchcore.datasets.learned import learned_patch_size
from patchcore.errors import PatchcoreError, PlanError
from patchcore.planning.candidates import DEFAULT_CANDIDATES
from patchcore.planning.of_fingerprint import plan_from_fingerprint
from patchcore.planning.samples import Learned, cohort_of, samples_of
from patchcore.study import Study
from patchcore.types import IntTriple, PathLike, Rule, Triple
from patchcore.views.study_figures import draw_plan

__all__ = ["compute_plan", "plan_patch_size"]


def plan_patch_size(
    source: Study | PathLike,
    *,
    spacing: Triple | Literal["median", "fine"] | None = None,
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
    figure: bool = True,
) -> Plan:
    """Choose the ViT patch size for the lesions of a study and write ``plan.json`` into it, completely or not at all.

    Connectivity and minimum volume come from the fingerprint. See :func:`patchcore.planning.plan.plan_from_samples`
    for the rules.

    Args:
        source: A study that ``patchcore analyze`` has measured, or its path.
        spacing: Training spacing, mm per voxel, canonical RAS+ axes; ``median`` or None: the per-axis median over the
            cases; ``fine``: a finer one along a coarse axis, so that cases with thin slices keep them.
        candidates: Patch edges to choose from, voxels.
        rule: Rule that computes one size from all lesions.
        window_size: Fixes the window, voxels per canonical axis; candidates that do not divide it are excluded.
        hu_range: Intensity clip in HU, or the name of a preset; None: measured around the lesions.
        lesion_label: Label to plan for, by number or name. With several labels, each label gets its own target, and
            all labels together get a joint proposal. None: the label of the fingerprint.
        joint: Make the joint proposal the first target. The first target is trained: the network learns all labels.
        like: Another study. Patch size, spacing, window and HU range are taken from its plan, so that a network
            trained here can be trained further there (the transfer protocol).
        classes: Labels that the network learns together, in channel order, including the lesion label. None: only the
            lesion label, or with `regions` all labels of the regions.
        regions: Region name → labels that count as one structure, whole structures first:
            ``{"liver": (1, 2), "tumour": (2,)}``. Dice and DSC are then computed for the regions.
        seed: Random seed of the bootstrap.
        figure: Whether to draw ``figures/plan.png`` and ``.svg`` too, if matplotlib is installed.

    Returns:
        The plan that was written.

    Raises:
        PlanError: An option is not possible, or the fingerprint lacks the information that it needs.
        PatchSizeError: The network does not support a candidate.
        EmptyClassError: The label has no lesion in any accepted case.
        StudyError: There is no study, the study was not measured yet, or `like` has no plan.

    Example:
        >>> plan = plan_patch_size("study/")  # doctest: +SKIP
        >>> plan.patch_size  # doctest: +SKIP
        (24, 24, 24)
    """
    study = source if isinstance(source, Study) else Study(source)
    model = None
    if like is not None:
        other = like if isinstance(like, Study) else Study(like)
        if other.path.resolve() == study.path.resolve():
            raise PlanError("--like names the study itself", path=study.path, remedy="give another study")
        model = (other.path.name, other.plan())
    plan = compute_plan(
        study,
        spacing=spacing,
        candidates=candidates,
        rule=rule,
        window_size=window_size,
        hu_range=hu_range,
        lesion_label=lesion_label,
        joint=joint,
        like=model,
        classes=classes,
        regions=regions,
        seed=seed,
    )
    study.write_plan(plan)
    if figure:
        draw_plan(study, study.fingerprint(), plan)
    return plan


def compute_plan(study: Study, *, like: tuple[str, Plan] | None = None, **options: Any) -> Plan:
    """Return the plan of a study without writing it.

    Args:
        study: A measured study.
        like: Name and plan of another study, as for :func:`plan_patch_size`.
        options: As for :func:`patchcore.planning.of_fingerprint.plan_from_fingerprint`.

    Raises:
        PlanError: As for :func:`plan_patch_size`.
        StudyError: The study was not measured yet.
    """
    fingerprint = study.fingerprint()
    if options.get("spacing") == "fine":
        options["spacing"] = cohort_of(samples_of(fingerprint)[0], (), label=0).fine_spacing()
    elif options.get("spacing") == "median":
        options["spacing"] = None

    def learned(spacing: Triple, label: int) -> Learned | None:
        return learned_patch_size(study, spacing=spacing, lesion_label=label)

    plan = plan_from_fingerprint(fingerprint, like=like, learned=learned, **options)
    accepted = study.accepted()
    # All accepted cases were read by one rule.
    how: dict[str, Any] = {}
    if accepted:
        how = {"ignore_label": accepted[0].ignore_label, "label_rule": accepted[0].label_rule}
    # How scans are resampled and cropped was chosen with patchcore prepare; a new plan keeps it.
    if study.plan_path.exists():
        with suppress(PatchcoreError):
            how["store"] = study.plan().target.store
    return plan.model_copy(update={"targets": tuple(item.model_copy(update=how) for item in plan.targets)})
