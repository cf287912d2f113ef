"""Writes previews of validated cases: small files with slices of the image, the true and the predicted label map.

``RUN/preview/<validation>/<case>.npz`` holds slices in the planes ``axial``, ``coronal`` and ``sagittal`` through one
voxel. For each plane it holds ``image_<plane>`` (uint8, `hu_range` scaled to 0 … 255), ``label_<plane>`` and
``prediction_<plane>`` (uint8 class indices), all (rows, columns) in canonical axes. It also holds ``voxel`` (3,),
``spacing_mm`` (3,), ``dsc`` and ``worst`` (bool). The files contain no pickle: read them with ``numpy.load``.
"""

from __future__ import annotations

import math
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from patchcore.files import replace_atomically
from patchcore.store.prepare import PreparedCase
from patchcore.types import AnyArray

__all__ = ["Previews", "write_preview"]

_PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}
_KEPT_VALIDATIONS = 10


def _middle(mask: npt.NDArray[np.bool_]) -> tuple[int, int, int]:
    """Return a voxel position: along each axis the index of the slice with the most voxels of the mask."""
    best = [int(mask.sum(axis=tuple(other for other in range(3) if other != axis)).argmax()) for axis in range(3)]
    return best[0], best[1], best[2]


def write_preview(
    path: Path,
    case: PreparedCase,
    image: AnyArray,
    label: AnyArray,
    prediction: AnyArray,
    *,
    hu_range: tuple[float, float],
    lesion_class: int,
    dsc: float,
    worst: bool,
) -> None:
    """Write slices of a case through its lesions, or through the predicted lesions if it has no lesion.

    Args:
        path: The ``.npz`` file to write.
        case: The case.
        image: HU on the training grid (X, Y, Z).
        label: True class indices (X, Y, Z).
        prediction: Predicted class indices (X, Y, Z).
        hu_range: HU range that is scaled from black to white.
        lesion_class: Class index of the lesions.
        dsc: DSC of the case.
        worst: Whether the case was chosen because its DSC is among the worst.

    Raises:
        OSError: The file cannot be written.
    """
    mask = label == lesion_class
    if not mask.any():
        mask = prediction == lesion_class
    voxel = _middle(mask) if mask.any() else tuple(n // 2 for n in image.shape)
    low, high = hu_range
    arrays: dict[str, Any] = {
        "voxel": np.asarray(voxel, dtype=np.int32),
        "spacing_mm": np.asarray(case.spacing, dtype=np.float64),
        "dsc": np.float64(dsc),
        "worst": np.bool_(worst),
    }
    for plane, axis in _PLANES.items():
        chosen = [slice(None)] * 3
        chosen[axis] = voxel[axis]
        shown = (image[tuple(chosen)].astype(np.float32) - low) * (255 / (high - low))
        arrays[f"image_{plane}"] = np.clip(shown, 0, 255).astype(np.uint8)
        arrays[f"label_{plane}"] = label[tuple(chosen)].astype(np.uint8)
        arrays[f"prediction_{plane}"] = prediction[tuple(chosen)].astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_atomically(path) as temporary, temporary.open("wb") as handle:
        np.savez_compressed(handle, **arrays)


class Previews:
    """Writes the previews of one validation: of fixed cases and of the worst cases. Write errors are ignored.

    Args:
        root: ``RUN/preview``.
        validation_id: Id of the validation.
        fixed: Ids of the cases that always get a preview.
        worst: Number of previews of other cases.
    """

    def __init__(self, root: Path, validation_id: str, fixed: set[str], worst: int) -> None:
        self._root = root
        self._folder = root / validation_id
        self._fixed = fixed
        self._room = worst
        self._worst: list[tuple[float, str]] = []

    def offer(self, case: PreparedCase, image: AnyArray, label: AnyArray, prediction: AnyArray, **facts: Any) -> None:
        """Write a preview if the case is fixed or among the worst so far. Arguments as in :func:`write_preview`."""
        # Case ids are valid file names.
        path = self._folder / f"{case.case_id}.npz"
        fixed, dsc = case.case_id in self._fixed, facts["dsc"]
        if not fixed:
            if math.isnan(dsc) or not self._room:
                return
            self._worst.append((dsc, path.name))
            self._worst.sort()
            if len(self._worst) > self._room:
                _, dropped = self._worst.pop()
                if dropped == path.name:
                    return
                with suppress(OSError):
                    (self._folder / dropped).unlink(missing_ok=True)
        with suppress(OSError):
            write_preview(path, case, image, label, prediction, worst=not fixed, **facts)

    def tidy(self, keep: str | None = None) -> None:
        """Delete the previews of old validations, except those of `keep`, the best validation."""
        with suppress(OSError):
            folders = sorted(path for path in self._root.iterdir() if path.is_dir())
            for path in folders[:-_KEPT_VALIDATIONS]:
                if path.name != keep:
                    shutil.rmtree(path, ignore_errors=True)
