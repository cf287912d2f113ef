"""Planning a study: the plan and its figure are written into the study's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from patchcore.config.plan import Plan
from patchcore.errors import PlanError
from patchcore.planning.candidates import DEFAULT_CANDIDATES
from patchcore.planning.of_fingerprint import plan_from_fingerprint
from patchcore.study import Study
from patchcore.types import IntTriple, PathLike, Rule, Triple
from patchcore.views.study_figures import draw_plan

__all__ = ["plan_patch_size"]


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
    figure: bool = True,
) -> Plan:
    """Choose the ViT patch size for a study's lesions and write ``plan.json`` into it, whole or not at all.

    Connectivity and minimum volume are the fingerprint's; see :func:`patchcore.planning.plan.plan_from_samples`
    for the rules.

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
        figure: Whether to draw ``figures/plan.png`` and ``.svg`` too, if matplotlib is installed.

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
    study = source if isinstance(source, Study) else Study(source)
    fingerprint = study.fingerprint()
    model = None
    if like is not None:
        other = like if isinstance(like, Study) else Study(like)
        if other.path.resolve() == study.path.resolve():
            raise PlanError("--like names the study itself", path=study.path, remedy="name another study")
        model = (other.path.name, other.plan())
    plan = plan_from_fingerprint(
        fingerprint,
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
        draw_plan(study, fingerprint, plan)
    return plan
