"""A study's folder: read in one place, compared by content, and good after a move."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import reports
import yaml

from kdsearch.config import study_file
from kdsearch.errors import StateError
from kdsearch.results.folder import StudyFolder


def made(tree: Path) -> StudyFolder:
    """A study of tree/tickets.yaml, which names files beside it, in tree/studies/tickets."""
    (tree / "rows").mkdir(parents=True)
    (tree / "rows" / "a.csv").write_text("text,label\n")
    (tree / "teacher").mkdir()
    (tree / "tickets.yaml").write_text("name: tickets\ndata: {files: {train: rows/a.csv}}\nteacher: {model: teacher}\nplugins: [mine.py]\n")
    (tree / "mine.py").write_text("")
    study = study_file.load(tree / "tickets.yaml")
    folder = StudyFolder(tree / "studies" / "tickets")
    folder.path.mkdir(parents=True)
    folder.write_study(study)
    folder.manifest_file.write_text(json.dumps({**reports.manifest(), "origin": folder.origin(study)}))
    return folder


def test_paths_are_kept_as_they_were_written(tmp_path: Path) -> None:
    folder = made(tmp_path)
    kept = yaml.safe_load(folder.study_file.read_text())
    assert kept["data"]["files"]["train"] == "rows/a.csv"
    assert (kept["teacher"]["model"], kept["plugins"]) == ("teacher", ["mine.py"])
    assert str(tmp_path) not in folder.study_file.read_text() + folder.manifest_file.read_text()


def test_a_tree_that_was_moved_finds_its_files(tmp_path: Path) -> None:
    made(tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    study = StudyFolder(tmp_path / "there" / "studies" / "tickets").config()
    assert study.data.files is not None
    assert study.data.files.train == str(tmp_path / "there" / "rows" / "a.csv")
    assert study.teachers[0].model == str(tmp_path / "there" / "teacher")
    assert study.plugins == (str(tmp_path / "there" / "mine.py"),)


def test_a_folder_that_was_sent_alone_is_told_where_its_files_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = StudyFolder(tmp_path / "alone")
    shutil.move(made(tmp_path / "here").path, alone.path)
    rows = tmp_path / "here" / "rows" / "a.csv"
    found = alone.config([f"data.files.train={rows}"])
    assert found.data.files is not None
    assert found.data.files.train == str(rows)
    monkeypatch.chdir(tmp_path / "here")  # or whoever stands where the files are needs to say nothing
    assert alone.config().data.files == found.data.files


def test_set_changes_where_files_lie_and_what_resume_allows_and_nothing_else(tmp_path: Path) -> None:
    folder = made(tmp_path)
    assert folder.config(["confirm.seeds=9"]).confirm.seeds == 9
    with pytest.raises(StateError, match=r"may not change on resume:\ndata.max_length: 64 -> 32\n"):
        folder.config(["data.max_length=32"])
    names = ("owner/one", "owner/two")  # no folders: their names say what they are
    one, two = (study_file.from_mapping({"name": "t", "data": {"preset": "rotten_tomatoes"}, "teacher": {"model": name}}) for name in names)
    with pytest.raises(StateError, match=r'teacher.model: "owner/one" -> "owner/two"'):
        folder.refuse_other_study(two, one)


@pytest.mark.parametrize(
    ("now", "told"),
    [
        ({"data": SimpleNamespace(fingerprint="other", split_fingerprint="e" * 32)}, "its data changed since it was begun (d"),
        ({"data": SimpleNamespace(fingerprint="d" * 32, split_fingerprint="other")}, "its split changed"),
        ({"teacher": "other"}, "its teacher changed"),
        ({"plugins": [{"name": "hard", "kind": "strategy", "hash": "other"}]}, "its plugin hard changed"),
    ],
)
def test_what_changed_is_named(tmp_path: Path, now: dict[str, Any], told: str) -> None:
    folder = made(tmp_path)
    folder.refuse_changes(
        data=SimpleNamespace(fingerprint="d" * 32, split_fingerprint="e" * 32),  # type: ignore[arg-type]
        teacher="ab" * 16,
        plugins=[{"name": "hard", "kind": "strategy", "hash": "c" * 32}, {"name": "new", "kind": "family", "hash": "f"}],
    )
    with pytest.raises(StateError) as caught:
        folder.refuse_changes(**now)
    assert told in str(caught.value)


def test_the_command_front_loads_no_torch_optuna_or_sqlalchemy(tmp_path: Path) -> None:
    reports.plain(tmp_path)
    code = (
        "import atexit, sys; from kdsearch.cli.app import main; sys.argv = ['kdsearch', 'front', sys.argv[1]]\n"
        "atexit.register(lambda: print('heavy:', sorted({'torch', 'optuna', 'sqlalchemy', 'ray', 'transformers'} & set(sys.modules))))\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert "heavy: []" in done.stdout
    assert "0.7840" in done.stdout
