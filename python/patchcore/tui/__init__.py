"""The dashboard: watch and drive the runs of a study from the terminal. A leaf; torch-free.

A run belongs to its supervisor: the dashboard only reads the run folder and writes requests into it, so
quitting or killing it never touches a run.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["run_dashboard"]


def run_dashboard(study: Path) -> None:
    """Open the dashboard on a study and return when it is quit.

    Args:
        study: The study folder.

    Example:
        >>> run_dashboard(Path("study"))  # doctest: +SKIP
    """
    from patchcore.tui.app import DashboardApp

    DashboardApp(study).run()
