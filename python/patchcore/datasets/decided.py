"""Turn the user's decisions into settings of an analysis, and choose the lesion label of a cohort."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from patchcore.datasets.labels import Settings
from patchcore.datasets.measures import CaseMeasures
from patchcore.errors import DataError
from patchcore.lesions.measure import CONNECTIVITIES
from patchcore.study.lesion_label import choose_lesion_label, ignored_label

__all__ = ["chosen_lesion_label", "settings_of"]


def settings_of(
    decided: Mapping[str, Any], declared: Mapping[int, str], lesions: Sequence[int], *, command: str
) -> Settings:
    """Return the settings of an analysis.

    Args:
        decided: The user's decisions, as in ``decisions.json``.
        declared: Names of the labels that the data set declares.
        lesions: Labels that are one lesion class; the first stands for it. Empty: the user chose none.
        command: Command that takes decisions; used in remedies.

    Raises:
        DataError: A decision is not valid.
    """
    connectivity = decided.get("connectivity", 26)
    min_volume_mm3 = float(decided.get("min_volume_mm3", 0.0))
    if connectivity not in CONNECTIVITIES:
        raise DataError(f"connectivity {connectivity} is not valid", found=connectivity, remedy="use 6, 18 or 26")
    if not 0 <= min_volume_mm3 < float("inf"):
        raise DataError(f"min_volume_mm3 {min_volume_mm3:g} is not a valid volume", remedy="use 0 or more")
    spacing = {str(case): (float(a), float(b), float(c)) for case, (a, b, c) in decided.get("spacing", {}).items()}
    return Settings(
        connectivity=connectivity,
        min_volume_mm3=min_volume_mm3,
        declared=declared,
        spacing=spacing,
        accept=frozenset(decided.get("accept", ())),
        command=command,
        relabel=tuple((label, lesions[0]) for label in lesions[1:]),
        instances=bool(decided.get("instances")),
        keep_255=255 in lesions,
        ignore_label=_ignored(decided.get("ignore_label"), declared, lesions),
    )


def _ignored(wanted: int | None, declared: Mapping[int, str], lesions: Sequence[int]) -> int | None:
    if wanted is None:
        found = ignored_label(declared)
        return None if found in lesions else found
    if wanted == 0:
        return None
    if wanted < 0 or wanted in lesions:
        raise DataError(
            f"--ignore-label {wanted} is not a label that can be ignored",
            found=wanted,
            remedy="use a label above 0 that is not the lesion label",
        )
    return wanted


def chosen_lesion_label(
    measures: Iterable[CaseMeasures], settings: Settings, lesions: Sequence[int]
) -> tuple[int | None, str]:
    """Choose the lesion label from the accepted cases, or from the test cases if no case was accepted."""
    usable = list(measures)
    usable = [item for item in usable if item.record.accepted] or [
        item for item in usable if item.record.status == "test"
    ]
    if not usable:
        return None, "no case was accepted"
    counts = Counter(label for item in usable for label in item.record.labels)
    if settings.instances and not lesions:
        return 1, "each stored label is one lesion (--instances)"
    label, reason = choose_lesion_label(counts, settings.declared, wanted=lesions[0] if lesions else None)
    return label, f"labels {', '.join(map(str, lesions))} are one class ({reason})" if len(lesions) > 1 else reason
