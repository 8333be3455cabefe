"""The options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Format(StrEnum):
    """How a table is printed."""

    table = "table"
    json = "json"


class FrontFormat(StrEnum):
    """How the front is printed."""

    table = "table"
    json = "json"
    csv = "csv"


FormatOption = Annotated[Format, typer.Option("--format", help="table or json.")]
StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study file.")]
StudyDir = Annotated[Path, typer.Argument(metavar="STUDY_DIR", help="A study's folder, such as studies/quickstart.")]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="KEY.SUB=VALUE", help="Override a key of the study; may be repeated.")]
Moved = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.SUB=PATH", help="Where a file of the study is now, as data.files.train=PATH; may be repeated."),
]
