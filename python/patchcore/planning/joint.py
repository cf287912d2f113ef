"""Chooses one patch size for lesions of several labels.

A network has one patch size. A patch twice as large as a label's p* fits as badly as a patch half as large. Distances
are therefore measured on a log scale, as for one label. No label should suffer for the others, so the candidate with
the smallest worst distance is chosen (minimax). With an average, labels with a good fit could hide one with a bad fit.
"""

from __future__ import annotations

from collections.abc import Sequence

from patchcore.config.plan import JointPlan, JointTarget, TargetPlan
from patchcore.errors import PlanError
from patchcore.planning.rules import log_distance

__all__ = ["as_target", "joint_edge", "joint_plan"]


def joint_edge(ideal_edges: Sequence[float], candidates: Sequence[int]) -> int:
    """Return the candidate with the smallest maximum of |log(candidate / p*)| over all p*; the smaller one on a tie.

    Args:
        ideal_edges: p* of each label, voxels, positive; at least one.
        candidates: Patch edges; at least one.

    Example:
        >>> joint_edge([9.0, 26.0], (8, 12, 16, 24))
        16
        >>> joint_edge([128**0.5], (8, 16))
        8
    """
    return min(sorted(candidates), key=lambda p: max(log_distance(p, edge) for edge in ideal_edges))


def joint_plan(targets: Sequence[TargetPlan], candidates: Sequence[int]) -> JointPlan:
    """Propose one patch size for all targets.

    Args:
        targets: Two or more targets of one study. They share spacing and window.
        candidates: Patch edges that divide the window.

    Raises:
        PlanError: There are fewer than two targets, or their spacings or windows differ.
    """
    if len(targets) < 2:
        raise PlanError("a joint plan needs several lesion labels", remedy="name several with --lesion-label")
    first = targets[0]
    if any((item.spacing, item.window_size) != (first.spacing, first.window_size) for item in targets):
        raise PlanError("a joint plan needs targets with the same spacing and window", remedy="plan them together")
    edge = joint_edge([item.ideal_edge for item in targets], candidates)
    fits = tuple(
        JointTarget(
            lesion_label=item.lesion_label,
            label_name=item.label_name,
            ideal_edge=item.ideal_edge,
            own_patch_size=item.patch_size,
            ratio=edge / item.ideal_edge,
        )
        for item in targets
    )
    parts = [f"{fit.label_name}: p* {fit.ideal_edge:.1f}, the patch is {fit.ratio:.2f} times p*" for fit in fits]
    listed = ", ".join(map(str, candidates))
    return JointPlan(
        patch_size=(edge, edge, edge),
        spacing=first.spacing,
        window_size=first.window_size,
        hu_range=(min(item.hu_range[0] for item in targets), max(item.hu_range[1] for item in targets)),
        classes=tuple(item.lesion_label for item in targets),
        targets=fits,
        reason=f"Among {listed}, {edge} has the smallest worst distance to p* on a log scale: {'; '.join(parts)}.",
    )


def as_target(joint: JointPlan, targets: Sequence[TargetPlan]) -> TargetPlan:
    """Return the joint plan as a target to train.

    It learns all labels, and windows are drawn for the lesions of each label equally often. Lesion scores of a
    validation are those of the first label.
    """
    first = targets[0]
    candidates = tuple(
        item.model_copy(update={"chosen": item.patch_size == joint.patch_size}) for item in first.candidates
    )
    return first.model_copy(
        update={
            "label_name": " + ".join(item.label_name for item in targets),
            "classes": joint.classes,
            "lesion_labels": joint.classes,
            "patch_size": joint.patch_size,
            "hu_range": joint.hu_range,
            "candidates": candidates,
            "reason": joint.reason,
        }
    )
