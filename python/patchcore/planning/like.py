"""Takes over the protocol of another study: its patch size, spacing, window and HU range."""

from __future__ import annotations

from patchcore.config.plan import TargetPlan
from patchcore.planning.reasons import format_size

__all__ = ["taken_from"]


def taken_from(target: TargetPlan, model: TargetPlan, study: str) -> TargetPlan:
    """Return a target with the patch size of another study. p*, rules and candidates stay those of its own lesions.

    Args:
        target: The target, planned at the spacing and window of the other study.
        model: The target of the other study.
        study: Name of the other study, for the reason.
    """
    own, taken = target.patch_size, model.patch_size
    candidates = [item.model_copy(update={"chosen": item.patch_size == taken}) for item in target.candidates]
    if all(item.patch_size != taken for item in candidates):
        same = [item for item in model.candidates if item.patch_size == taken]
        candidates += [item.model_copy(update={"chosen": True}) for item in same]
    reason = (
        f"Patch size {format_size(taken)}, spacing, window and HU range are taken from {study} "
        f"({model.lesion_count} lesions of {model.label_name}, p* {model.ideal_edge:.1f}). "
        f"For this study alone: {target.reason}"
    )
    warnings = target.warnings
    if own != taken:
        text = f"the lesions of this study (p* {target.ideal_edge:.1f}) would give patch size {format_size(own)}"
        warnings = (*warnings, f"{text}: compare with a transfer that changes the patch size")
    update = {"patch_size": taken, "candidates": tuple(candidates), "reason": reason, "warnings": warnings}
    return target.model_copy(update=update)
