"""Write all lesions of a cohort as ``lesions.csv``: exact for programs, safe to open in spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from patchcore.datasets.measures import CaseMeasures
from patchcore.lesions.table import lesions_to_json

__all__ = ["lesions_csv", "segments_csv", "spreadsheet_text"]

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def lesions_csv(measures: Sequence[CaseMeasures], *, label_names: Mapping[int, str] | None = None) -> str:
    """Return the table of all lesions as CSV text: one row per lesion, numbered from 1 within each case.

    Axes i, j, k belong to the stored array; x, y, z are world mm (RAS+). Numbers read back exactly. Text that a
    spreadsheet would read as a formula starts with an apostrophe (:func:`spreadsheet_text`).

    The file is UTF-8 without a byte order mark: with a mark, Python's csv and R would read the name of the first
    column wrongly. Headings and numbers are ASCII. A spreadsheet that guesses another encoding can therefore only
    show accented letters of case ids wrongly, until UTF-8 is chosen on import.

    Args:
        measures: Cases in any order; rows are in case_id order.
        label_names: Names for the column ``label_name``, which is empty for a label without a name.
    """
    axes = ("i", "j", "k")
    header = [
        "case_id", "patient", "label", "lesion", "voxel_count", "volume_mm3", "equivalent_diameter_mm",
        "longest_axial_diameter_mm", *(f"extent_{axis}_mm" for axis in axes),
        *(f"centroid_{axis}" for axis in axes), *(f"centroid_{axis}_mm" for axis in ("x", "y", "z")),
        "touches_border", "label_name", *(f"spacing_{axis}_mm" for axis in axes),
    ]  # fmt: skip
    names = {label: spreadsheet_text(name) for label, name in (label_names or {}).items()}
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    for item in sorted(measures, key=lambda entry: entry.record.case_id):
        columns, record = lesions_to_json(item.lesions), item.record
        case_id, patient = spreadsheet_text(record.case_id), spreadsheet_text(record.patient)
        for index, label in enumerate(columns["label"]):
            values: list[Any] = [case_id, patient, label, index + 1]
            values += [columns[name][index] for name in header[4:8]]
            for name in ("extent_mm", "centroid_voxel", "centroid_mm"):
                values += columns[name][index]
            values += ["true" if columns["touches_border"][index] else "false", names.get(label, ""), *record.spacing]
            writer.writerow(values)
    return out.getvalue()


def segments_csv(measures: Sequence[CaseMeasures]) -> str:
    """Return the table of all DICOM segments as CSV text: their identity, and the lesions that contain them.

    ``components`` counts the connected components of the segment alone. ``lesions`` are the lesion numbers of
    ``lesions.csv`` within the case, separated by spaces. Segments that list the same lesion touch each other.
    """
    header = ["case_id", "patient", "segment", "name", "label", "voxel_count", "volume_mm3", "components", "lesions"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    for item in sorted(measures, key=lambda entry: entry.record.case_id):
        case = [spreadsheet_text(item.record.case_id), spreadsheet_text(item.record.patient)]
        for segment in item.segments:
            values = [segment[name] for name in ("segment", "name", "label", "voxel_count", "volume_mm3", "components")]
            values[1] = spreadsheet_text(str(values[1]))
            writer.writerow([*case, *values, " ".join(str(row + 1) for row in segment["lesions"])])
    return out.getvalue()


def spreadsheet_text(text: str) -> str:
    """Return text that no spreadsheet runs as a formula: an apostrophe is added before ``= + - @``, tab or line end.

    Text that already has an apostrophe before one of these characters gets another one: the text can be restored by
    taking the first apostrophe off.

    Example:
        >>> spreadsheet_text("=HYPERLINK(1)"), spreadsheet_text("case_1"), spreadsheet_text("'s")
        ("'=HYPERLINK(1)", 'case_1', "'s")
    """
    return f"'{text}" if text.lstrip("'").startswith(_FORMULA) else text
