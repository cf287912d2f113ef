"""Keeps the slices of cases for the figure of an evaluation until it is complete, and draws them."""

from __future__ import annotations

import hashlib
import io
import shutil
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from patchcore.config.plan import TargetPlan
from patchcore.errors import MissingExtraError
from patchcore.evaluation.rows import Panel
from patchcore.files import write_atomic

__all__ = ["KeptPanels", "draw_panels"]


class KeptPanels:
    """The slices of cases for the figure, kept beside the rows until the evaluation is complete.

    Args:
        folder: Folder for one file per case.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _file(self, case_id: str) -> Path:
        # Case ids may have any characters.
        return self._folder / f"{hashlib.sha256(case_id.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}.npz"

    def read(self, case_id: str) -> Panel | None:
        """Return the slice of a case; None if it was not kept."""
        with suppress(OSError, ValueError, KeyError, zipfile.BadZipFile), np.load(self._file(case_id)) as found:
            return Panel(found["image"], found["label"], found["prediction"])
        return None

    def write(self, case_id: str, panel: Panel) -> None:
        """Keep the slice of a case.

        Raises:
            OSError: The file cannot be written.
        """
        content = io.BytesIO()
        np.savez_compressed(content, image=panel.image, label=panel.label, prediction=panel.prediction)
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self._file(case_id), content.getvalue())

    def remove(self) -> None:
        """Remove all slices."""
        shutil.rmtree(self._folder, ignore_errors=True)


def draw_panels(panels: Sequence[tuple[float, Panel, str]], target: TargetPlan, path: Path) -> Path | None:
    """Draw slices with the contours of label and prediction; None if matplotlib is not installed."""
    from patchcore.views.figures import contours_figure

    path.unlink(missing_ok=True)  # of an earlier evaluation
    arrays = [(panel.image, panel.label, panel.prediction, title) for _, panel, title in panels]
    with suppress(MissingExtraError):
        return contours_figure(arrays, path, hu_range=target.hu_range)
    return None
