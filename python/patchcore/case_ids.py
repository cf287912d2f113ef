"""Rules for case ids that several packages share."""

from __future__ import annotations

__all__ = ["default_patient"]


def default_patient(case_id: str) -> str:
    """Return the patient of a case: the part before the first underscore if it contains a digit, else the whole id.

    Example:
        >>> default_patient("LIDC-IDRI-0012_R_3"), default_patient("case_00012")
        ('LIDC-IDRI-0012', 'case_00012')
    """
    head, underscore, _ = case_id.partition("_")
    return head if underscore and any(char.isdigit() for char in head) else case_id
