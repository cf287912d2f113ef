"""Build the fingerprint of a cohort from the measures of its cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from patchcore.datasets.hu import add_histograms, summarise_hu
from patchcore.datasets.layouts import Layout
from patchcore.datasets.measures import CaseMeasures
from patchcore.lesions.size_bins import count_by_size
from patchcore.lesions.table import join_lesions, no_lesions
from patchcore.study.cases import to_canonical
from patchcore.study.fingerprint import (
    PERCENTILES,
    AxisSummary,
    Burden,
    CaseFingerprint,
    CountSummary,
    Fingerprint,
    HuFingerprint,
    LabelFingerprint,
    LesionFingerprint,
    VolumeSummary,
)
from patchcore.types import Float64Array, Triple
from patchcore.volumes.ct import DILATION_MM

__all__ = ["build_fingerprint", "summarise_burden", "summarise_volumes"]


def build_fingerprint(
    measures: Sequence[CaseMeasures],
    *,
    layout: Layout,
    dataset: str,
    grouping: str,
    connectivity: int,
    min_volume_mm3: float,
    lesion_label: int | None,
    lesion_label_reason: str,
    label_names: Mapping[int, str],
    quarantined_count: int,
    test_count: int = 0,
    held_count: int = 0,
    segments_note: str = "",
) -> Fingerprint:
    """Summarise the accepted cases of a cohort; all axes are in closest-canonical order.

    Args:
        measures: Accepted cases only: cases kept for testing must not influence the plan.
        layout: How the data set was recognised.
        dataset: Name of the data set.
        grouping: How the cases were grouped into patients.
        connectivity: 6, 18 or 26.
        min_volume_mm3: Components smaller than this are not lesions, in mm³.
        lesion_label: Label of the lesions that the plan is made for.
        lesion_label_reason: Why this label was chosen.
        label_names: Declared names of the labels.
        quarantined_count: Number of faulty cases.
        test_count: Number of cases kept for testing.
        held_count: Number of cases with geometry that waits for a decision.
        segments_note: Note about DICOM segments that disagree with connected components.

    Returns:
        The fingerprint, without its hash.

    Raises:
        ValueError: A case among `measures` is not accepted.
    """
    if wrong := [item.record.case_id for item in measures if not item.record.accepted]:
        raise ValueError(f"only accepted cases can be summarised, not {', '.join(wrong)}")
    ordered = sorted(measures, key=lambda item: item.record.case_id)
    cases = tuple(_case(item) for item in ordered)
    spacings = np.array([case.spacing for case in cases], dtype=np.float64)
    shapes = np.array([case.shape for case in cases], dtype=np.float64)
    return Fingerprint(
        dataset=dataset,
        layout=layout.name,
        layout_reason=layout.reason,
        grouping=grouping,
        connectivity=cast(Literal[6, 18, 26], connectivity),
        min_volume_mm3=min_volume_mm3,
        lesion_label=lesion_label,
        lesion_label_reason=lesion_label_reason,
        case_count=len(cases),
        test_count=test_count,
        held_count=held_count,
        quarantined_count=quarantined_count,
        patient_count=len({case.patient for case in cases}),
        speck_count=sum(item.lesions.speck_count for item in ordered),
        labels=_labels(ordered, cases, label_names),
        spacing=_axes(spacings),
        shape=_axes(shapes),
        extent_mm=_axes(spacings * shapes) if cases else None,
        hu=_hu(ordered, lesion_label),
        segments_note=segments_note,
        cases=cases,
    )


def summarise_volumes(volumes: Float64Array) -> VolumeSummary | None:
    """Summarise volumes in mm³, shape (N,), all positive; None if there are no volumes.

    Example:
        >>> summarise_volumes(np.array([1.0, 10.0, 100.0])).geometric_mean_mm3
        10.0
    """
    if volumes.size == 0:
        return None
    return VolumeSummary(
        mean_mm3=float(volumes.mean()),
        median_mm3=float(np.median(volumes)),
        geometric_mean_mm3=float(10 ** np.log10(volumes).mean()),
        std_mm3=float(volumes.std()),
        min_mm3=float(volumes.min()),
        max_mm3=float(volumes.max()),
        percentiles_mm3=_percentiles(volumes),
    )


def summarise_burden(names: Sequence[str], volumes: Float64Array) -> Burden | None:
    """Sum the lesions per case or per patient; None if there is no lesion.

    Args:
        names: Case or patient of each lesion.
        volumes: Volume of each lesion, mm³, shape (N,).

    Example:
        >>> burden = summarise_burden(["b", "a", "b"], np.array([1.0, 10.0, 2.0]))
        >>> burden.names, burden.volumes_mm3, burden.lesion_counts
        (('a', 'b'), (10.0, 3.0), (1, 2))
    """
    if not names:
        return None
    places = {name: place for place, name in enumerate(sorted(set(names)))}
    owners = np.array([places[name] for name in names])
    totals: Float64Array = np.bincount(owners, weights=volumes).astype(np.float64)
    counts = np.bincount(owners)
    volume = summarise_volumes(totals)
    assert volume is not None
    return Burden(
        names=tuple(places),
        volumes_mm3=tuple(totals.tolist()),
        lesion_counts=tuple(counts.tolist()),
        volume=volume,
        lesions=CountSummary(
            mean=float(counts.mean()),
            median=float(np.median(counts)),
            min=int(counts.min()),
            max=int(counts.max()),
            percentiles=_percentiles(counts),
        ),
    )


def _case(item: CaseMeasures) -> CaseFingerprint:
    record, axes = item.record, item.record.canonical_axes
    lesions = item.lesions
    rows = zip(lesions.label.tolist(), lesions.volume_mm3.tolist(), lesions.extent_mm.tolist(), strict=True)
    return CaseFingerprint(
        case_id=record.case_id,
        patient=record.patient,
        spacing=record.canonical_spacing,
        shape=record.canonical_shape,
        lesions=tuple(
            LesionFingerprint(label=label, volume_mm3=volume, extent_mm=to_canonical(tuple(extent), axes))
            for label, volume, extent in rows
        ),
    )


def _labels(
    measures: Sequence[CaseMeasures], cases: Sequence[CaseFingerprint], names: Mapping[int, str]
) -> tuple[LabelFingerprint, ...]:
    """Summarise each label; the lesions are collected into columns once, in case order."""
    table = join_lesions([no_lesions(), *(item.lesions for item in measures)])
    own, volumes, diameters = table.label, table.volume_mm3, table.equivalent_diameter_mm
    border = table.touches_border
    extents = np.array([lesion.extent_mm for case in cases for lesion in case.lesions], dtype=np.float64)
    owner = np.repeat(np.arange(len(cases)), [len(case.lesions) for case in cases])
    present = {label for item in measures for label in item.record.labels} | set(own.tolist())
    found = []
    for label in sorted(int(value) for value in present):
        rows = np.flatnonzero(own == label)
        holders = owner[rows].tolist()
        patients = [cases[holder].patient for holder in holders]
        found.append(
            LabelFingerprint(
                label=label,
                name=names.get(label, f"label {label}"),
                lesion_count=len(rows),
                case_count=len(set(holders)),
                patient_count=len(set(patients)),
                volume=summarise_volumes(volumes[rows]),
                border_share=float(border[rows].mean()) if len(rows) else 0.0,
                size_bins=count_by_size(diameters[rows]),
                median_extent_mm=_triple(np.median, extents[rows]) if len(rows) else (0.0, 0.0, 0.0),
                burden_per_case=summarise_burden([cases[holder].case_id for holder in holders], volumes[rows]),
                burden_per_patient=summarise_burden(patients, volumes[rows]),
            )
        )
    return tuple(found)


def _hu(measures: Sequence[CaseMeasures], lesion_label: int | None) -> HuFingerprint | None:
    parts = [item.hu for item in measures if item.hu is not None and item.hu.label == lesion_label]
    around = add_histograms(part.around for part in parts)
    within = add_histograms(part.within for part in parts)
    if lesion_label is None or within.voxel_count == 0:
        return None
    return HuFingerprint(
        label=lesion_label,
        dilation_mm=DILATION_MM,
        around=summarise_hu(around),
        within=summarise_hu(within),
    )


def _axes(values: Float64Array) -> AxisSummary | None:
    if values.size == 0:
        return None
    return AxisSummary(
        median=_triple(np.median, values),
        mean=_triple(np.mean, values),
        min=_triple(np.min, values),
        max=_triple(np.max, values),
        percentiles={
            str(percentile): (float(row[0]), float(row[1]), float(row[2]))
            for percentile, row in zip(PERCENTILES, np.percentile(values, PERCENTILES, axis=0), strict=True)
        },
    )


def _percentiles(values: npt.NDArray[Any]) -> dict[str, float]:
    found = np.percentile(values, PERCENTILES)
    return {str(percentile): float(value) for percentile, value in zip(PERCENTILES, found, strict=True)}


def _triple(function: Callable[..., Any], values: Any) -> Triple:
    a, b, c = (float(value) for value in function(np.asarray(values, dtype=np.float64), axis=0))
    return (a, b, c)
