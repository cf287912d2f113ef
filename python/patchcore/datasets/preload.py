"""Load the libraries that readers need, before threads import them."""

from __future__ import annotations

from collections.abc import Iterable

from patchcore.interrupts import interrupts_wait
from patchcore.volumes.volume import DicomVolume, Volume

__all__ = ["load_readers"]


def load_readers(volumes: Iterable[Volume]) -> None:
    """Import the libraries that read these volumes, in the calling thread and without interruption by Ctrl-C.

    Raises:
        MissingExtraError: There are DICOM volumes, and the extra ``dicom`` is not installed.
    """
    if any(isinstance(volume, DicomVolume) for volume in volumes):
        with interrupts_wait():
            import patchcore.datasets.dicom.measure
            import patchcore.volumes.dicom.volumes  # noqa: F401
