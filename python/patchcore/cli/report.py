"""``patchcore report EXPERIMENT``: what an experiment has found, as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["report"]


def report(
    experiment: Annotated[Path, typer.Argument(help="Folder of the experiment, or of its study if NAME is given.")],
    name: Annotated[str | None, typer.Argument(help="Name of the experiment.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the report [default: report in the experiment].")
    ] = None,
    evaluate: Annotated[
        bool, typer.Option("--evaluate/--no-evaluate", help="Evaluate finished runs that were not evaluated.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the tables of the report as JSON.")] = False,
) -> None:
    """Write what an experiment has found: report.html, the same as Markdown, and tables as CSV and LaTeX.

    The page needs no other file and no network. Finished trainings are reported while the others still train.
    """
    import json

    from patchcore.experiments.report import read_report, report_folder
    from patchcore.files import finite
    from patchcore.views.document import Paragraph, write_document

    folder, document = read_report(
        experiment, name, evaluate_missing=evaluate, say=lambda line: typer.echo(line, err=True)
    )
    page = write_document(document, report_folder(folder, out))
    if as_json:
        content = {table.name: [dict(row) for row in table.rows] for table in document.tables}
        typer.echo(json.dumps(finite(content), indent=2, ensure_ascii=False))
        return
    for block in document.blocks:
        if isinstance(block, Paragraph) and block.strong:
            typer.echo(block.text)
    typer.echo(f"written: {page}")
