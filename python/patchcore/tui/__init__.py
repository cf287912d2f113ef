"""The dashboard: watch and control the runs of a study from the terminal.

A run belongs to its supervisor process. The dashboard only reads the run folder and writes requests into it.
Quitting or killing the dashboard therefore does not affect any run. This package never imports torch, and only the
dashboard command imports this package.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["run_dashboard"]


def run_dashboard(study: Path) -> None:
    """Open the dashboard for a study. Returns when the user quits.

    Args:
        study: The study folder.

    Example:
        >>> run_dashboard(Path("study"))  # doctest: +SKIP
    """
    from patchcore.tui.app import DashboardApp

    DashboardApp(study).run()
