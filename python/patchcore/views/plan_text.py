"""Text of a plan for the terminal: tables, reason and warnings."""

from __future__ import annotations

import textwrap

from patchcore.config.plan import JointPlan, Plan, TargetPlan, Variation
from patchcore.planning.reasons import count_of, format_edges, format_size, format_volume

__all__ = ["plan_summary"]


def plan_summary(plan: Plan, *, width: int = 80) -> str:
    """Return the plan as text for a terminal. No line is wider than `width`.

    Args:
        plan: The plan; all its targets are shown.
        width: Columns, at least 72.
    """
    width = max(72, width)
    parts = [_target_summary(target, width) for target in plan.targets]
    if plan.joint is not None:
        parts.append(_joint_summary(plan.joint, width))
    return "\n\n".join(parts)


def _joint_summary(joint: JointPlan, width: int) -> str:
    lines = [
        f"Joint        {format_size(joint.patch_size)} voxels for labels {', '.join(map(str, joint.classes))}",
        "",
        "Label                     own p*   own patch   joint / p*",
    ]
    for item in joint.targets:
        name = f"{item.lesion_label} {item.label_name}"
        lines.append(
            f"  {name[:22]:<22} {item.ideal_edge:>7.1f} {format_size(item.own_patch_size):>11} {item.ratio:>12.2f}"
        )
    lines += [
        "",
        *textwrap.wrap(joint.reason, width),
        "To train all labels with this patch size: patchcore plan … --joint",
    ]
    return "\n".join(lines)


def _sensitivity_lines(target: TargetPlan, width: int) -> list[str]:
    found = target.sensitivity
    if found is None:
        return []
    lines = ["", "Changed setting                          lesions      p*   patch size"]
    excluded = [item for item in found.variations if item.kind in ("case", "patient")]
    for item in found.variations:
        if item not in excluded:
            lines.append(_variation(f"{item.kind} {item.value}", item))
    for kind in ("case", "patient"):
        same = [item for item in excluded if item.kind == kind]
        if same:
            for name, item in (
                ("lowest p*", min(same, key=lambda item: item.edge)),
                ("highest p*", max(same, key=lambda item: item.edge)),
            ):
                lines.append(_variation(f"without {kind} {item.value} ({name})", item))
    return [*lines, "", *textwrap.wrap(f"Sensitivity: {found.conclusion}.", width)]


def _variation(name: str, item: Variation) -> str:
    return f"  {name[:38]:<38} {item.lesion_count:>7} {item.edge:>7.1f}   {format_size(item.patch_size)}"


def _learned(target: TargetPlan) -> str:
    regions = ", ".join(f"{region.name} ({', '.join(map(str, region.labels))})" for region in target.regions)
    return f"Learns       labels {', '.join(map(str, target.classes))}" + (
        f", evaluated as {regions}" if regions else ""
    )


def _target_summary(target: TargetPlan, width: int) -> str:
    padding = f" ({target.padding_share:.0%} of an average window is padding)" if target.padding_share > 0.005 else ""
    lines = [
        f"Patch size   {format_size(target.patch_size)} voxels   rule {target.rule}",
        f"Lesions      {target.lesion_count} of label {target.lesion_label} ({target.label_name}), "
        f"{count_of(target.patient_count, 'patient')}",
        f"Volume       mean {format_volume(target.mean_volume_mm3)}, median {format_volume(target.median_volume_mm3)}",
        f"Spacing      {format_size(target.spacing)} mm",
        f"Window       {format_size(target.window_size)} voxels{padding}",
        f"HU range     {target.hu_range[0]:g} to {target.hu_range[1]:g}",
        *([_learned(target)] if len(target.classes) > 1 else []),
        "",
        "Ideal edge p*                          voxels               95 % interval",
    ]
    for name, ideal in zip(
        ("at the training spacing", "at 1 mm", "at each case's own spacing"), target.ideal_edges, strict=False
    ):
        sure = f"{ideal.interval[0]:.1f} to {ideal.interval[1]:.1f}" if ideal.interval else "one patient only"
        lines.append(f"  {name:<36} {format_edges(ideal.edge):<20} {sure}")
    lines += ["", "Candidate        volume   tokens   attention  of network  smaller lesions"]
    for c in target.candidates:
        lines.append(
            f"{'→' if c.chosen else ' '} {format_size(c.patch_size):<11} {format_volume(c.volume_mm3):>9} "
            f"{c.tokens:>8,} {_gflop(c.attention_gflop):>11} {c.attention_share:>11.1%} "
            f"{c.smaller_lesions_share:>15.0%}"
        )
    lines += ["", "Rule                       volume   p* (voxels)          patch size"]
    for outcome in target.rules:
        volume = "—" if outcome.volume_mm3 is None else format_volume(outcome.volume_mm3)
        mark = "→" if outcome.rule is target.rule else " "
        lines.append(
            f"{mark} {outcome.rule:<18} {volume:>12}   {format_edges(outcome.edge):<20} "
            f"{format_size(outcome.patch_size)}"
        )
    lines += ["", *textwrap.wrap(target.reason, width)]
    for warning in target.warnings:
        lines += textwrap.wrap(f"Warning: {warning}.", width, subsequent_indent="  ")
    lines += _sensitivity_lines(target, width)
    return "\n".join(lines)


def _gflop(value: float) -> str:
    return f"{value / 1000:.3g} TFLOP" if value >= 1000 else f"{value:.3g} GFLOP"
