"""Check the labels of a label map. Reading the file already checks that they are integers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from patchcore.study.cases import Finding
from patchcore.study.checks import finding

__all__ = ["label_findings"]


def label_findings(present: Sequence[int], declared: Mapping[int, str]) -> list[Finding]:
    """Check the labels of a label map.

    Args:
        present: Labels of the label map that are not 0.
        declared: Names of the labels that the data set declares. If it is empty, undeclared labels are not reported.
        case_id: The case; named in remedies.

    Returns:
        ``label-empty``, ``label-negative`` and ``label-undeclared`` findings that apply.

    Example:
        >>> [item.check for item in label_findings([1, 3], {0: "background", 1: "liver", 2: "tumour"})]
        ['label-undeclared']
    """
    labels = sorted({int(value) for value in present} - {0})
    if not labels:
        return [finding("label-empty", "no voxel is labelled")]
    found = []
    if negative := [value for value in labels if value < 0]:
        found.append(finding("label-negative", f"{_labels(negative)} below 0"))
    named = {int(value) for value in declared} - {0}
    if named and (unknown := [value for value in labels if value > 0 and value not in named]):
        legal = ", ".join(f"{value} ({declared[value]})" for value in sorted(named))
        found.append(finding("label-undeclared", f"{_labels(unknown)} not declared; the data set declares {legal}"))
    return found


def _labels(values: Sequence[int]) -> str:
    shown = ", ".join(str(value) for value in values[:8]) + (" …" if len(values) > 8 else "")
    return f"label {shown} is" if len(values) == 1 else f"labels {shown} are"
