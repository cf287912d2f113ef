"""Choose the lesion label of a cohort and give the reason."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from patchcore.errors import DataError, EmptyClassError
from patchcore.volumes.dicom.names import lesion_like

__all__ = ["choose_lesion_label", "ignored_label", "label_number", "lesion_labels", "merged_names"]

_LISTED = 12


def choose_lesion_label(
    case_counts: Mapping[int, int], names: Mapping[int, str], *, wanted: int | str | None = None
) -> tuple[int, str]:
    """Choose the lesion label of a cohort.

    Args:
        case_counts: Number of cases per non-zero label.
        names: Declared names of the labels.
        wanted: Label that the user chose: a number or a declared name, upper or lower case.

    Returns:
        The label and why it was chosen.

    Raises:
        EmptyClassError: No case contains `wanted`, or no case contains any label.
        DataError: No label has the name `wanted`; or there are several labels, and not exactly one has a lesion name.

    Example:
        >>> choose_lesion_label({1: 20, 2: 20}, {1: "kidney", 2: "tumour"})
        (2, 'named tumour')
    """
    present = sorted(label for label, count in case_counts.items() if count)
    listed = ", ".join(_called(label, names) for label in present[:_LISTED])
    if len(present) > _LISTED:
        listed += f" and {len(present) - _LISTED} more"
    if isinstance(wanted, str):
        wanted = label_number(wanted, names)
    if wanted is not None:
        if wanted not in present:
            raise EmptyClassError(
                f"no case has a voxel of label {wanted}",
                found=present,
                expected=wanted,
                remedy=f"use one of the labels found: {listed or 'none'}",
            )
        return wanted, "chosen with --lesion-label"
    if not present:
        raise EmptyClassError("no case has a labelled voxel", remedy="check that the label maps are the right files")
    if len(present) == 1:
        return present[0], "the only label"
    named = [label for label in present if lesion_like(names.get(label, ""))]
    if len(named) == 1:
        return named[0], f"named {names[named[0]]}"
    raise DataError(
        f"the lesion label is not clear: found {listed}",
        found=present,
        remedy=f"choose it with --lesion-label, e.g. --lesion-label {present[-1]} (several, as in 2,3, are one lesion "
        "class), or use --instances if every lesion has a number of its own",
    )


def lesion_labels(wanted: int | str | None, names: Mapping[int, str]) -> tuple[int, ...]:
    """Return the labels that the user chose as lesions; several, separated by commas, are one lesion class.

    Args:
        wanted: A number or a declared name, or several of them: ``"2,3,4"``. None: the user chose none.
        names: Declared names of the labels.

    Returns:
        The labels, ascending; the first stands for the class.

    Raises:
        DataError: No declared name matches, or a label is not positive.

    Example:
        >>> lesion_labels("4, tumour grade 2", {2: "tumour grade 2", 4: "tumour grade 4"})
        (2, 4)
    """
    if wanted is None:
        return ()
    parts = [wanted] if isinstance(wanted, int) else [part for part in wanted.split(",") if part.strip()]
    if isinstance(wanted, str) and len(parts) > 1 and any(_plain(name) == _plain(wanted) for name in names.values()):
        # A declared name may contain a comma.
        parts = [wanted]
    labels = {part if isinstance(part, int) else label_number(part, names) for part in parts}
    if not labels or min(labels) <= 0:
        raise DataError(f"lesion label {wanted!r} is not a label above 0", found=wanted, remedy="use a label above 0")
    return tuple(sorted(labels))


def ignored_label(names: Mapping[int, str]) -> int | None:
    """Return the label that is called ``ignore``, as in nnU-Net; None if there is none.

    Example:
        >>> ignored_label({0: "background", 1: "tumour", 2: "Ignore"}), ignored_label({1: "tumour"})
        (2, None)
    """
    return next((number for number, name in sorted(names.items()) if number and _plain(name) == "ignore"), None)


def merged_names(names: Mapping[int, str], labels: Sequence[int]) -> dict[int, str]:
    """Return the names of the labels when several lesion labels are read as the first of them.

    Example:
        >>> merged_names({1: "liver", 2: "grade 1", 3: "grade 2"}, (2, 3))
        {1: 'liver', 2: 'grade 1 + grade 2'}
    """
    if len(labels) < 2:
        return dict(names)
    kept = {number: name for number, name in names.items() if number not in labels[1:]}
    if any(label in names for label in labels):
        kept[labels[0]] = " + ".join(names.get(label, f"label {label}") for label in labels)
    return dict(sorted(kept.items()))


def label_number(wanted: str, names: Mapping[int, str]) -> int:
    """Return the label for a text: a number or a declared name. Case is ignored, and spaces equal underscores.

    Raises:
        DataError: No declared name matches, or several names match.

    Example:
        >>> label_number("Liver tumour", {1: "liver", 2: "liver_tumour"}), label_number("2", {})
        (2, 2)
    """
    text = wanted.strip()
    if text.removeprefix("-").isdecimal() and len(text) < 10:
        return int(text)
    fitting = [number for number, name in sorted(names.items()) if _plain(name) == _plain(text)]
    if len(fitting) == 1:
        return fitting[0]
    listed = ", ".join(_called(number, names) for number in sorted(names) if number) or "none"
    what = "no label is called" if not fitting else "several labels are called"
    raise DataError(
        f"{what} {text!r}", found=wanted, expected=listed, remedy=f"use one of the declared labels: {listed}"
    )


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def _called(label: int, names: Mapping[int, str]) -> str:
    return f"{label} ({names[label]})" if label in names else str(label)
