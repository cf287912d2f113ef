"""Loading the libraries that readers need before threads ask for them."""

from __future__ import annotations

from patchcore.interrupts import interrupts_wait

__all__ = ["load_readers"]


def load_readers(*, images: bool, dicom: bool) -> None:
    """Import what reading cases will need, in the calling thread and unbroken by Ctrl-C.

    Args:
        images: CTs are read, too, not label maps alone.
        dicom: DICOM is among them.

    Raises:
        MissingExtraError: DICOM is, and the extra ``dicom`` is not installed.
    """
    with interrupts_wait():
        if images:
            import scipy.ndimage  # noqa: F401
        if dicom:
            import patchcore.datasets.dicom.measure
            import patchcore.volumes.dicom.volumes  # noqa: F401
