"""Taking another study's protocol over: its patch size, spacing, window and HU range."""

from __future__ import annotations

from patchcore.config.plan import TargetPlan
from patchcore.planning.reasons import format_size

__all__ = ["taken_from"]


def taken_from(target: TargetPlan, model: TargetPlan, study: str) -> TargetPlan:
    """Return a target with the patch size of another study's; p*, rules and candidates stay its own lesions'.

    Args:
        target: Planned at the other's spacing and window.
        model: The other study's target.
        study: Its name, for the reason.
    """
    own, taken = target.patch_size, model.patch_size
    candidates = [item.model_copy(update={"chosen": item.patch_size == taken}) for item in target.candidates]
    if all(item.patch_size != taken for item in candidates):
        same = [item for item in model.candidates if item.patch_size == taken]
        candidates += [item.model_copy(update={"chosen": True}) for item in same]
    reason = (
        f"Patch size {format_size(taken)}, spacing, window and HU range are taken from {study} "
        f"({model.lesion_count} lesions of {model.label_name}, p* {model.ideal_edge:.1f}). "
        f"Of this study: {target.reason}"
    )
    warnings = target.warnings
    if own != taken:
        told = f"its own lesions, p* {target.ideal_edge:.1f}, would have a patch size of {format_size(own)}"
        warnings = (*warnings, f"{told}: crossing patch sizes is the variant to compare with")
    update = {"patch_size": taken, "candidates": tuple(candidates), "reason": reason, "warnings": warnings}
    return target.model_copy(update=update)
