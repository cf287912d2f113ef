"""The figure of an analysis: lesion volumes on a log axis, with the patches they might get."""

from __future__ import annotations

from pathlib import Path

from patchcore.errors import MissingExtraError
from patchcore.planning.candidates import DEFAULT_CANDIDATES
from patchcore.planning.rules import ideal_edge
from patchcore.study.fingerprint import Fingerprint
from patchcore.study.study import Study

__all__ = ["draw_lesion_volumes"]


def draw_lesion_volumes(study: Study, fingerprint: Fingerprint, *, anew: bool = True) -> Path | None:
    """Draw ``figures/lesion_volumes.png``: volumes, candidates at the median spacing, p* of the mean.

    Args:
        study: Where to.
        fingerprint: What was measured.
        anew: Draw also where the figure is there already.

    Returns:
        The figure; None without lesions, or without matplotlib, which the extra ``figures`` brings.
    """
    path = study.figures_dir / "lesion_volumes.png"
    if path.exists() and not anew:
        return path
    label = fingerprint.lesion_label
    target = None if label is None else fingerprint.label(label)
    if label is None or target is None or target.volume is None or fingerprint.spacing is None:
        path.unlink(missing_ok=True)
        return None
    from patchcore.figures import lesion_volumes_figure

    spacing = fingerprint.spacing.median
    volumes = [volume for case in fingerprint.cases for volume in case.volumes_mm3(label)]
    title = f"{fingerprint.dataset}: {len(volumes)} lesions of {target.patient_count} patients"
    try:
        return lesion_volumes_figure(
            volumes,
            DEFAULT_CANDIDATES,
            spacing,
            ideal_edge(target.volume.mean_mm3, spacing),
            path,
            title=title,
        )
    except MissingExtraError:
        return None
