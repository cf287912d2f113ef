"""Test how a plan changes under other conditions; another connectivity measures the label maps again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from patchcore.config.plan import Plan, TargetPlan
from patchcore.datasets.labels import measure_labels
from patchcore.lesions.measure import CONNECTIVITIES
from patchcore.planning.samples import LesionSample, samples_of
from patchcore.planning.sensitivity import sensitivity_of
from patchcore.study.cases import CaseRecord, to_canonical
from patchcore.study.study import Study
from patchcore.threads import for_each
from patchcore.types import PathLike, Rule

__all__ = ["plan_sensitivity", "remeasure"]


def plan_sensitivity(
    source: Study | PathLike,
    *,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Plan:
    """Add to a plan how its choice changes with spacing, connectivity, minimum volume and excluded cases.

    Args:
        source: A study that has a plan, or its path.
        threads: Number of cases measured at the same time; all cores by default.
        progress: Called with the number of measured cases and the total.

    Returns:
        The plan with `sensitivity` of every target, as it was written to ``plan.json``.

    Raises:
        StudyError: There is no plan, or the study was not measured.
        DataError: A label map can no longer be read.
    """
    study = source if isinstance(source, Study) else Study(source)
    plan, fingerprint = study.plan(), study.fingerprint()
    cases, lesions = samples_of(fingerprint)
    records = study.accepted()
    others = [value for value in CONNECTIVITIES if value != fingerprint.connectivity]
    if all(target.rule is Rule.LEARNED for target in plan.targets):
        others = []  # nothing is varied
    total, done = len(others) * len(records), 0
    by_connectivity: dict[int, list[LesionSample]] = {}
    for connectivity in others:
        before = done

        def report(count: int, before: int = before) -> None:
            if progress is not None:
                progress(before + count, total)

        by_connectivity[connectivity] = remeasure(
            records,
            connectivity=connectivity,
            min_volume_mm3=fingerprint.min_volume_mm3,
            threads=threads,
            progress=report,
        )
        done += len(records)

    def tried(target: TargetPlan) -> TargetPlan:
        found = sensitivity_of(target, cases, lesions, by_connectivity=by_connectivity)
        return target.model_copy(update={"sensitivity": found})

    plan = plan.model_copy(update={"targets": tuple(tried(target) for target in plan.targets)})
    study.write_plan(plan)
    return plan


def remeasure(
    records: Sequence[CaseRecord],
    *,
    connectivity: int,
    min_volume_mm3: float,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[LesionSample]:
    """Measure the lesions of cases again; return them as samples for planning, in the order of the cases.

    Raises:
        DataError: A label map cannot be read.
    """

    def one(record: CaseRecord) -> list[LesionSample]:
        lesions = measure_labels(
            record.label,
            connectivity=connectivity,
            min_volume_mm3=min_volume_mm3,
            affine=record.affine_array,
            relabel=record.relabel,
            instances=record.instances,
            ignore_label=record.ignore_label,
        ).lesions
        rows = zip(lesions.label.tolist(), lesions.volume_mm3.tolist(), lesions.extent_mm.tolist(), strict=True)
        axes = record.canonical_axes
        return [
            LesionSample(record.case_id, label, volume, to_canonical(tuple(extent), axes))
            for label, volume, extent in rows
        ]

    count = 0

    def done(_: int, __: list[LesionSample]) -> None:
        nonlocal count
        count += 1
        if progress is not None:
            progress(count)

    found = for_each(one, records, threads=threads, name="remeasure", done=done)
    return [sample for samples in found for sample in samples]
