"""From the measures of every case to the fingerprint of the cohort, and its lesions as a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np

from patchcore.data.hu import DILATION_MM, add_histograms, summarise_hu
from patchcore.data.layouts import Layout
from patchcore.data.measures import CaseMeasures
from patchcore.study.cases import to_canonical
from patchcore.study.fingerprint import (
    SIZE_BIN_EDGES_MM,
    AxisSummary,
    CaseFingerprint,
    Fingerprint,
    HuFingerprint,
    LabelFingerprint,
    LesionFingerprint,
    VolumeSummary,
)
from patchcore.types import Float64Array, Triple

__all__ = ["build_fingerprint", "lesions_csv", "size_bins", "summarise_volumes"]

_PERCENTILES = (5, 25, 75, 95)


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
) -> Fingerprint:
    """Summarise the accepted cases of a cohort; everything in closest-canonical axis order.

    Args:
        measures: The accepted cases.
        layout: How the data set was recognised.
        dataset: Name of the data set.
        grouping: How patients were told apart.
        connectivity: 6, 18 or 26.
        min_volume_mm3: Smaller components are no lesions.
        lesion_label: The label that is planned for.
        lesion_label_reason: Why that one.
        label_names: Declared names.
        quarantined_count: Cases that were found faulty.

    Returns:
        The fingerprint, without its hash.
    """
    ordered = sorted(measures, key=lambda item: item.record.case_id)
    cases = tuple(_case(item) for item in ordered)
    labels = sorted({label for item in ordered for label in (*item.record.labels, *item.lesions["label"])})
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
        quarantined_count=quarantined_count,
        patient_count=len({case.patient for case in cases}),
        speck_count=sum(item.speck_count for item in ordered),
        labels=tuple(_label(int(label), ordered, cases, label_names) for label in labels),
        spacing=_axes(spacings),
        shape=_axes(shapes),
        extent_mm=_axes(spacings * shapes) if cases else None,
        hu=_hu(ordered, lesion_label),
        cases=cases,
    )


def summarise_volumes(volumes: Float64Array) -> VolumeSummary | None:
    """Summarise lesion volumes in mm³, shape (N,); None where there are none.

    Example:
        >>> summarise_volumes(np.array([1.0, 10.0, 100.0])).geometric_mean_mm3
        10.0
    """
    if volumes.size == 0:
        return None
    percentiles = np.percentile(volumes, _PERCENTILES)
    return VolumeSummary(
        mean_mm3=float(volumes.mean()),
        median_mm3=float(np.median(volumes)),
        geometric_mean_mm3=float(10 ** np.log10(volumes).mean()),
        std_mm3=float(volumes.std()),
        min_mm3=float(volumes.min()),
        max_mm3=float(volumes.max()),
        percentiles_mm3={str(p): float(v) for p, v in zip(_PERCENTILES, percentiles, strict=True)},
    )


def size_bins(diameters_mm: Float64Array) -> tuple[int, int, int, int]:
    """Count lesions by equivalent diameter: < 5, 5–10, 10–20, ≥ 20 mm.

    Example:
        >>> size_bins(np.array([4.9, 5.0, 19.0, 20.0]))
        (1, 1, 1, 1)
    """
    bins = np.bincount(np.digitize(diameters_mm, SIZE_BIN_EDGES_MM), minlength=4)
    return (int(bins[0]), int(bins[1]), int(bins[2]), int(bins[3]))


def lesions_csv(measures: Sequence[CaseMeasures]) -> str:
    """Return the table of all lesions as CSV text: one row a lesion, numbered within its case from 1.

    Axes i, j, k are the stored array's, x, y, z the world's in mm (RAS+). Numbers read back exactly.
    """
    axes = ("i", "j", "k")
    header = [
        "case_id", "patient", "label", "lesion", "voxel_count", "volume_mm3", "equivalent_diameter_mm",
        "longest_axial_diameter_mm", *(f"extent_{axis}_mm" for axis in axes),
        *(f"centroid_{axis}" for axis in axes), *(f"centroid_{axis}_mm" for axis in ("x", "y", "z")),
        "touches_border",
    ]  # fmt: skip
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    for item in sorted(measures, key=lambda entry: entry.record.case_id):
        columns = item.lesions
        for index in range(len(item)):
            values: list[Any] = [item.record.case_id, item.record.patient, columns["label"][index], index + 1]
            for name in header[4:8]:
                values.append(columns[name][index])
            for name in ("extent_mm", "centroid_voxel", "centroid_mm"):
                values += columns[name][index]
            values.append("true" if columns["touches_border"][index] else "false")
            writer.writerow(values)
    return out.getvalue()


def _case(item: CaseMeasures) -> CaseFingerprint:
    record = item.record
    rows = zip(item.lesions["label"], item.lesions["volume_mm3"], item.lesions["extent_mm"], strict=True)
    return CaseFingerprint(
        case_id=record.case_id,
        patient=record.patient,
        spacing=record.canonical_spacing,
        shape=record.canonical_shape,
        lesions=tuple(
            LesionFingerprint(
                label=label, volume_mm3=volume, extent_mm=to_canonical(tuple(extent), record.canonical_axes)
            )
            for label, volume, extent in rows
        ),
    )


def _label(
    label: int, measures: Sequence[CaseMeasures], cases: Sequence[CaseFingerprint], names: Mapping[int, str]
) -> LabelFingerprint:
    volumes, diameters, border, extents, patients = [], [], 0, [], []
    for item, case in zip(measures, cases, strict=True):
        rows = [row for row, own in enumerate(item.lesions["label"]) if own == label]
        volumes += [item.lesions["volume_mm3"][row] for row in rows]
        diameters += [item.lesions["equivalent_diameter_mm"][row] for row in rows]
        border += sum(bool(item.lesions["touches_border"][row]) for row in rows)
        extents += [case.lesions[row].extent_mm for row in rows]
        patients += [case.patient] if rows else []
    return LabelFingerprint(
        label=label,
        name=names.get(label, f"label {label}"),
        lesion_count=len(volumes),
        case_count=len(patients),
        patient_count=len(set(patients)),
        volume=summarise_volumes(np.array(volumes, dtype=np.float64)),
        border_share=border / len(volumes) if volumes else 0.0,
        size_bins=size_bins(np.array(diameters, dtype=np.float64)),
        median_extent_mm=_triple(np.median, extents) if extents else (0.0, 0.0, 0.0),
    )


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
    )


def _triple(function: Callable[..., Any], values: Any) -> Triple:
    a, b, c = (float(value) for value in function(np.asarray(values, dtype=np.float64), axis=0))
    return (a, b, c)
