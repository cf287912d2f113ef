"""``patchcore dashboard STUDY``: watch and control the runs of a study.

This module does not import typer: :func:`patchcore.cli.main` calls it directly, so that the dashboard appears sooner.
"""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

from patchcore.errors import MissingExtraError, StudyError, UnsupportedDataError

__all__ = ["dashboard"]


def dashboard(study: Path) -> None:
    """Watch and control the runs of a study in the terminal.

    STUDY is the folder of the study. Quitting the dashboard does not affect any run.
    """
    _require_study(study)
    if find_spec("textual") is None:
        raise MissingExtraError(
            "the dashboard needs textual", remedy="install it with: pip install 'patchcore[dashboard]'"
        )
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UnsupportedDataError(
            "the dashboard needs a terminal", remedy="use patchcore runs list and patchcore runs show instead"
        )
    from patchcore.tui import run_dashboard

    code = run_dashboard(study)
    if code:
        raise SystemExit(code)


def _require_study(study: Path) -> None:
    """Check only ``study.json``: reading the whole study with its schemas would delay the dashboard."""
    remedy = "create one with patchcore analyze DATASET STUDY"
    if not study.exists():
        raise StudyError("no such study", path=study, remedy=remedy)
    try:
        data = json.loads((study / "study.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise StudyError("not a study: it has no study.json", path=study, remedy=remedy) from None
    except ValueError as error:
        raise StudyError(f"study.json is not JSON ({error})", path=study, remedy=remedy) from None
    if not isinstance(data, dict) or "schema_version" not in data:
        raise StudyError("study.json has no schema_version", path=study, remedy=remedy)
