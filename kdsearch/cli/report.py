"""`kdsearch report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def report(
    study_dir: Annotated[Path, typer.Argument(metavar="STUDY_DIR", help="A study's folder, such as studies/quickstart.")],
) -> None:
    """Write report.html, front.png and README.md into the study's folder, from its ledger."""
    from kdsearch.report.write import write

    console = Console()
    for path in write(study_dir):
        console.print(f"written: {path}", highlight=False, soft_wrap=True)
