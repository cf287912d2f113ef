"""Trying a study's plan under other conditions, label maps measured anew where connectivity changes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from patchcore.config.plan import Plan, TargetPlan
from patchcore.lesions.measure import measure_lesions
from patchcore.planning.plan import samples_of
from patchcore.planning.samples import LesionSample
from patchcore.planning.sensitivity import sensitivity_of
from patchcore.study.cases import CaseRecord, to_canonical
from patchcore.study.study import Study
from patchcore.types import PathLike
from patchcore.volumes.dicom.sources import is_index

__all__ = ["plan_sensitivity", "remeasure"]

_CONNECTIVITIES = (6, 18, 26)


def plan_sensitivity(
    source: Study | PathLike,
    *,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Plan:
    """Add to a study's plan how its choice moves with spacing, connectivity, minimum volume and left-out cases.

    Args:
        source: A study that has a plan, or its path.
        threads: Cases measured at once; all cores by default.
        progress: Called with cases measured and their number.

    Returns:
        The plan with `sensitivity` of every target, as it was written to ``plan.json``.

    Raises:
        StudyError: There is no plan, or nothing was measured.
        DataError: A label map has changed or cannot be read any more.
    """
    study = source if isinstance(source, Study) else Study(source)
    plan, fingerprint = study.plan(), study.fingerprint()
    cases, lesions = samples_of(fingerprint)
    records = study.accepted()
    others = [value for value in _CONNECTIVITIES if value != fingerprint.connectivity]
    total, done = len(others) * len(records), 0
    by_connectivity: dict[int, list[LesionSample]] = {}
    for connectivity in others:
        before = done

        def tell(count: int, before: int = before) -> None:
            if progress is not None:
                progress(before + count, total)

        by_connectivity[connectivity] = remeasure(
            records,
            connectivity=connectivity,
            min_volume_mm3=fingerprint.min_volume_mm3,
            threads=threads,
            progress=tell,
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
    """Measure the lesions of cases anew, as samples for planning, in the order of the cases.

    Raises:
        DataError: A label map cannot be read.
    """

    def one(record: CaseRecord) -> list[LesionSample]:
        if is_index(record.label):
            from patchcore.datasets.dicom.measure import measure_segments

            columns = measure_segments(
                record.label,
                connectivity=connectivity,
                min_volume_mm3=min_volume_mm3,
                affine=record.affine_array,
            ).lesions
        else:
            table = measure_lesions(
                record.label, connectivity=connectivity, min_volume_mm3=min_volume_mm3, affine=record.affine_array
            )
            names = ("label", "volume_mm3", "extent_mm")
            columns = {name: np.asarray(getattr(table, name)).tolist() for name in names}
        rows = zip(columns["label"], columns["volume_mm3"], columns["extent_mm"], strict=True)
        axes = record.canonical_axes
        return [
            LesionSample(record.case_id, int(label), float(volume), to_canonical(tuple(extent), axes))
            for label, volume, extent in rows
        ]

    found: list[LesionSample] = []
    executor = ThreadPoolExecutor(threads or os.cpu_count() or 1, thread_name_prefix="remeasure")
    try:
        for count, samples in enumerate(executor.map(one, records), start=1):
            found += samples
            if progress is not None:
                progress(count)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
    return found
