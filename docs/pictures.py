"""Make the pictures of the README from a real run: ``make pictures``, or ``python docs/pictures.py STUDY``.

Writes ``docs/images/dashboard.svg``, the dashboard as it looks in a terminal of 120 columns, and
``docs/images/plan.svg``, the figure that ``patchcore plan`` has drawn.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import shutil
from pathlib import Path

from patchcore.tui.app import DashboardApp

IMAGES = Path(__file__).parent / "images"
COLUMNS, ROWS = 120, 36
WAIT_S = 3.0


async def screenshot(study: Path) -> str:
    """Open the dashboard on a study, let it read the runs, and return what it shows as SVG."""
    app = DashboardApp(study)
    async with app.run_test(size=(COLUMNS, ROWS)) as pilot:
        # The watcher polls files; the curves are drawn after the next paint.
        await pilot.pause(WAIT_S)
        return app.export_screenshot(title=f"patchcore dashboard {study.name}")


def without_web_fonts(svg: str) -> str:
    """Return the SVG without fonts from the web: a page about medical data loads nothing from elsewhere."""
    return re.sub(r"@font-face\s*{[^}]*}", "", svg).replace("Fira Code", "DejaVu Sans Mono")


def main() -> None:
    """Make both pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    study = parser.parse_args().study
    IMAGES.mkdir(exist_ok=True)
    shutil.copyfile(study / "figures" / "plan.svg", IMAGES / "plan.svg")
    (IMAGES / "dashboard.svg").write_text(without_web_fonts(asyncio.run(screenshot(study))), encoding="utf-8")


if __name__ == "__main__":
    main()
