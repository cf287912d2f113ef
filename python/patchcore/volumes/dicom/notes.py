"""What was decided while DICOM segments were read, so that the user can see it as a finding of the case."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Note"]


@dataclass(frozen=True)
class Note:
    """A sentence about a segmentation for the user.

    Attributes:
        text: The sentence, without a final full stop.
        check: Name of the finding; see :data:`patchcore.study.checks.CHECKS`.
        segment: Name of the segment that it concerns; empty if it concerns the whole file.
        label: Number of the label of that segment, once it is known.
    """

    text: str
    check: str = "dicom-note"
    segment: str = ""
    label: int | None = None
