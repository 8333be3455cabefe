"""What the documentation shows is run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from kdsearch import testing
from kdsearch.config import schema, study_file

ROOT = Path(__file__).parent.parent
DOCS = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md"])


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)


def test_the_plugin_page_builds_a_strategy_that_keeps_the_contract(tmp_path: Path) -> None:
    strategy, test, _ = blocks(ROOT / "docs" / "plugins.md", "python")
    (tmp_path / "direction.py").write_text(strategy)
    (tmp_path / "test_direction.py").write_text(test)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "test_direction.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_plugin_page_builds_a_family_that_keeps_the_contract(tmp_path: Path) -> None:
    *_, family = blocks(ROOT / "docs" / "plugins.md", "python")
    path = tmp_path / "wordbag.py"
    path.write_text(family)
    assert testing.check(testing.load_one(path)) == []


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_study_files_in_the_pages_are_studies(path: Path, tmp_path: Path) -> None:
    for block in blocks(path, "yaml"):
        values = yaml.safe_load(block)
        if "name" in values:
            study = tmp_path / "study.yaml"
            study.write_text(block.replace("PATH_OR_HUB_ID", "owner/model"))
            study_file.load(study)


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_links_between_pages_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_the_study_page_has_every_key() -> None:
    (block, *_) = blocks(ROOT / "docs" / "studies.md", "yaml")
    text = re.sub(r"^( *)# ([a-z_]+:)", r"\1\2", block, flags=re.MULTILINE)

    sections = (schema.StudyConfig, schema.DataConfig, schema.TeacherConfig, schema.SearchConfig)
    for name in {name for section in sections for name in section.model_fields}:
        assert re.search(rf"^ *{name}:", text, re.MULTILINE), name
