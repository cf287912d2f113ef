"""Computes how p* and the patch size change if spacing, lesion definition, cases or patients change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from patchcore.config.plan import Sensitivity, TargetPlan, Variation
from patchcore.planning.rules import choose_patch_size, geometric_edge, ideal_edges
from patchcore.planning.samples import CaseSample, Cohort, LesionSample, cohort_of
from patchcore.types import IntTriple, Rule, Triple

__all__ = ["MIN_VOLUMES_MM3", "sensitivity_of"]

MIN_VOLUMES_MM3 = (0.0, 1.0, 5.0, 10.0, 50.0, 100.0)
"""Minimum volumes to try, mm³. Volumes up to the plan's own minimum are skipped: smaller lesions were not measured."""

_FACTORS = (0.8, 1.25)


LEARNED_IS_NOT_TESTED: Final = (
    "the learned patch size follows from trainings, not from the measured lesions: no condition was changed; choose "
    "another --rule to test it"
)


def sensitivity_of(
    target: TargetPlan,
    cases: Sequence[CaseSample],
    lesions: Sequence[LesionSample],
    *,
    by_connectivity: Mapping[int, Sequence[LesionSample]] | None = None,
) -> Sensitivity:
    """Choose the patch size again under other conditions; one condition is changed at a time.

    Args:
        target: The target to test, with its rule, spacing, window and candidates.
        cases: All accepted cases.
        lesions: Lesions of these cases.
        by_connectivity: Lesions measured with other connectivities, by connectivity.

    Returns:
        One variation for each of: spacing 1 mm on all axes, the finest spacing of any case, all axes × 0.8 and
        × 1.25; each other connectivity; each minimum volume above the plan's; each excluded case or patient.
    """
    label, rule = target.lesion_label, target.rule
    if rule is Rule.LEARNED:
        return Sensitivity(variations=(), conclusion=LEARNED_IS_NOT_TESTED)
    candidates = tuple(
        tuple(sorted({item.patch_size[axis] for item in target.candidates} | {target.patch_size[axis]}))
        for axis in range(3)
    )

    def choose(cohort: Cohort, spacing: Triple) -> tuple[float, IntTriple]:
        edges = ideal_edges(rule, cohort, spacing)
        return geometric_edge(edges), choose_patch_size(edges, (candidates[0], candidates[1], candidates[2]))

    found: list[Variation] = []

    def add(kind: str, value: str, chosen: Sequence[LesionSample], spacing: Triple) -> None:
        if any(lesion.label == label for lesion in chosen):
            cohort = cohort_of(cases, chosen, label=label)
            edge, patch = choose(cohort, spacing)
            found.append(
                Variation.model_validate(
                    {"kind": kind, "value": value, "lesion_count": len(cohort), "edge": edge, "patch_size": patch}
                )
            )

    own = [lesion for lesion in lesions if lesion.label == label]
    fixed = target.spacing
    for name, spacing in _spacings(fixed, cases):
        add("spacing", name, own, spacing)
    for connectivity, others in sorted((by_connectivity or {}).items()):
        add("connectivity", str(connectivity), others, fixed)
    for least in MIN_VOLUMES_MM3:
        if least > target.min_volume_mm3:
            add("min-volume", f"{least:g} mm³", [item for item in own if item.volume_mm3 >= least], fixed)
    patient_of = {case.case_id: case.patient for case in cases}
    holders = list(dict.fromkeys(lesion.case_id for lesion in own))
    for case_id in holders:
        add("case", case_id, [item for item in own if item.case_id != case_id], fixed)
    patients = list(dict.fromkeys(patient_of[case_id] for case_id in holders))
    if len(patients) < len(holders):
        for patient in patients:
            add("patient", patient, [item for item in own if patient_of[item.case_id] != patient], fixed)
    return Sensitivity(variations=tuple(found), conclusion=_conclusion(target, found))


def _spacings(fixed: Triple, cases: Sequence[CaseSample]) -> list[tuple[str, Triple]]:
    finest = np.min([case.spacing for case in cases], axis=0).tolist()
    named = [("1 × 1 × 1 mm", (1.0, 1.0, 1.0)), ("the finest of any case", (finest[0], finest[1], finest[2]))]
    for factor in _FACTORS:
        named.append((f"× {factor:g}", (fixed[0] * factor, fixed[1] * factor, fixed[2] * factor)))
    return named


def _conclusion(target: TargetPlan, found: Sequence[Variation]) -> str:
    if not found:
        return "no condition could be changed"
    chosen = target.patch_size
    keeps = sum(item.patch_size == chosen for item in found)
    text = f"the patch size stays {_size(chosen)} in {keeps} of {len(found)} variations"
    other = [item for item in found if item.patch_size != chosen]
    if not other:
        edges = [item.edge for item in found]
        return f"{text}; p* stays between {min(edges):.1f} and {max(edges):.1f}"
    parts = []
    for patch, _ in Counter(item.patch_size for item in other).most_common(3):
        moved = [item for item in other if item.patch_size == patch]
        shown = ", ".join(_condition(item) for item in moved[:3]) + (" …" if len(moved) > 3 else "")
        parts.append(f"{_size(patch)} with {shown}")
    return f"{text}; it becomes {'; '.join(parts)}"


def _condition(item: Variation) -> str:
    if item.kind in ("case", "patient"):
        return f"{item.kind} {item.value} excluded"
    if item.kind == "min-volume":
        return f"lesions of at least {item.value}"
    return f"{item.kind} {item.value}" if item.value[0] != "t" else item.value.replace("the", f"{item.kind} of the", 1)


def _size(size: IntTriple) -> str:
    return str(size[0]) if len(set(size)) == 1 else " × ".join(map(str, size))
