"""Draw the figures of a study: lesion volumes, burden and spacing, and the candidate patches of its plan."""

from __future__ import annotations

from pathlib import Path

from patchcore.config.plan import Plan
from patchcore.errors import MissingExtraError
from patchcore.planning.candidates import DEFAULT_CANDIDATES
from patchcore.planning.rules import ideal_edge
from patchcore.study.fingerprint import Fingerprint
from patchcore.study.study import Study

__all__ = ["FIGURES", "draw_figures", "draw_plan", "figure_paths", "warm_up"]

FIGURES = ("lesion_volumes", "burden", "spacing")
"""Names of the figures; each is saved as ``.png`` and ``.svg`` in the study's ``figures/``."""

_SUFFIXES = (".png", ".svg")


def draw_figures(study: Study, fingerprint: Fingerprint, *, redraw: bool = True) -> tuple[Path, ...]:
    """Draw the figures of a study. Lesion figures are deleted if there are no lesions any more.

    Args:
        study: The study that gets the figures.
        fingerprint: The measurements to draw.
        redraw: Whether to redraw figures that already exist.

    Returns:
        All existing figures; empty if matplotlib (extra ``figures``) is not installed.

    Raises:
        OSError: A figure cannot be written.
    """
    wanted = _wanted(fingerprint)
    for name in FIGURES:
        files = [study.figures_dir / f"{name}{suffix}" for suffix in _SUFFIXES]
        if name not in wanted:
            for file in files:
                file.unlink(missing_ok=True)
        elif redraw or not all(file.exists() for file in files):
            try:
                _draw(name, fingerprint, files[0])
            except MissingExtraError:
                # An old figure would show other numbers than the fingerprint.
                for file in files:
                    file.unlink(missing_ok=True)
    return figure_paths(study)


def warm_up() -> None:
    """Import matplotlib for :func:`draw_figures` ahead of time, if it is installed."""
    from contextlib import suppress

    with suppress(ImportError):
        import matplotlib.backends.backend_agg
        import matplotlib.backends.backend_svg
        import matplotlib.figure  # noqa: F401


def figure_paths(study: Study) -> tuple[Path, ...]:
    """Return the existing figures of an analysis."""
    files = (study.figures_dir / f"{name}{suffix}" for name in FIGURES for suffix in _SUFFIXES)
    return tuple(file for file in files if file.exists())


def _wanted(fingerprint: Fingerprint) -> tuple[str, ...]:
    label = fingerprint.lesion_label
    target = None if label is None else fingerprint.label(label)
    if fingerprint.spacing is None:
        return ()
    return FIGURES if target is not None and target.volume is not None else ("spacing",)


def _draw(name: str, fingerprint: Fingerprint, path: Path) -> None:
    from patchcore.views.figures import burden_figure, lesion_volumes_figure, spacing_figure

    count = len(fingerprint.cases)
    if name == "spacing":
        title = f"{fingerprint.dataset}: spacing of {count} case{'s' * (count != 1)}"
        spacing_figure([case.spacing for case in fingerprint.cases], path, title=title)
        return
    label = fingerprint.lesion_label
    assert label is not None
    target, spacing = fingerprint.label(label), fingerprint.spacing
    assert target is not None
    if name == "burden" and target.burden_per_case is not None:
        who = (
            f"all {count} cases"
            if target.case_count == count
            else f"the {target.case_count} of {count} cases with lesions"
        )
        title = f"{fingerprint.dataset}: {target.name}, burden of {who}"
        burden_figure(target.burden_per_case, target.burden_per_patient, path, title=title)
    elif name == "lesion_volumes" and target.volume is not None and spacing is not None:
        volumes = [volume for case in fingerprint.cases for volume in case.volumes_mm3(label)]
        people = f"{target.patient_count} patient{'s' * (target.patient_count != 1)}"
        lesion_volumes_figure(
            volumes,
            DEFAULT_CANDIDATES,
            spacing.median,
            ideal_edge(target.volume.mean_mm3, spacing.median),
            path,
            title=f"{fingerprint.dataset}: {len(volumes)} lesion{'s' * (len(volumes) != 1)} of {people}",
        )


def draw_plan(study: Study, fingerprint: Fingerprint, plan: Plan) -> tuple[Path, ...]:
    """Draw the lesion volumes with the candidate patches of the plan's first target.

    The figures of the analysis are not changed, so the next analysis finds its own results unchanged.

    Returns:
        ``figures/plan.png`` and ``figures/plan.svg``; empty if matplotlib is not installed.

    Raises:
        OSError: The figure cannot be written.
    """
    from patchcore.views.figures import lesion_volumes_figure

    target = plan.target
    volumes = [volume for case in fingerprint.cases for volume in case.volumes_mm3(target.lesion_label)]
    files = tuple(study.figures_dir / f"plan{suffix}" for suffix in _SUFFIXES)
    try:
        lesion_volumes_figure(
            volumes,
            [candidate.patch_size for candidate in target.candidates],
            target.spacing,
            target.ideal_edge,
            files[0],
            title=f"{len(volumes)} lesions of {target.label_name}, and the candidate patch sizes",
        )
    except MissingExtraError:
        for file in files:
            file.unlink(missing_ok=True)
        return ()
    return files
