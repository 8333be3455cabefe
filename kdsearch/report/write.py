"""`kdsearch report`: the files that it leaves in the study's folder."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from kdsearch.errors import EnvironmentProblem
from kdsearch.io import files
from kdsearch.report.facts import Facts
from kdsearch.results.folder import StudyFolder

_EXTRA = ("jinja2", "matplotlib")


def write(folder: Path, sets: Sequence[str] = ()) -> list[Path]:
    """Write report.html, front.png and README.md, each replaced at once.

    Returns:
        their paths.

    Raises:
        StateError: the folder is not a study's.
        EnvironmentProblem: the extra kdsearch[report] is not installed, or the folder cannot be written.
    """
    missing = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise EnvironmentProblem(f"a report needs {', '.join(missing)}, not installed here: pip install 'kdsearch[report]'")
    from kdsearch.report import page, picture, readme

    facts = Facts.read(folder, sets)
    page_file, picture_file, readme_file = StudyFolder(folder).report_files
    pages: dict[Path, bytes | str] = {
        page_file: page.write_page(facts),
        picture_file: picture.front_png(facts),
        readme_file: readme.write_readme(facts),
    }
    for path, content in pages.items():
        files.replace_file(path, content)
    return list(pages)
