"""The dashboard: watch and control the runs of a study from the terminal.

A run belongs to its supervisor process. The dashboard only reads the run folder and writes requests into it.
Quitting or killing the dashboard therefore does not affect any run. This package never imports torch, and only the
dashboard command imports this package.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["run_dashboard"]


def run_dashboard(study: Path) -> int:
    """Open the dashboard for a study. Returns when the user quits, or when SIGTERM or SIGHUP ends it.

    Args:
        study: The study folder.

    Returns:
        0, or 128 plus the number of the signal.

    Example:
        >>> run_dashboard(Path("study"))  # doctest: +SKIP
    """
    from patchcore.tui.app import DashboardApp
    from patchcore.tui.terminal import TerminalDriver, ended_by_signals

    app = DashboardApp(study, driver_class=TerminalDriver)
    with ended_by_signals(app):
        app.run()
    return app.return_code or 0
