"""Nothing acknowledged is lost, nothing damaged is certified, and what cannot work is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import kdsearch
from kdsearch.errors import InputError, StateError
from kdsearch.io import files
from kdsearch.study import prepare

STUDY = {"name": "toy", "data": {"files": {"train": "rows.csv"}}, "teacher": {"model": "teacher"}}


def test_of_two_searches_of_one_study_at_once_one_gets_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def inspect(_: Any) -> None:
        asked.append(1)
        with pytest.raises(StateError, match="owned by another run") as refusal:
            kdsearch.search(out=tmp_path, **STUDY)
        assert refusal.value.exit_code == 3
        raise InputError("the teacher is no classifier")

    monkeypatch.setattr(prepare, "inspect", inspect)
    with pytest.raises(InputError, match="no classifier"):
        kdsearch.search(out=tmp_path, **STUDY)
    assert asked == [1]
    assert not (tmp_path / "toy").exists()  # a study whose teacher is refused leaves nothing behind


def test_fresh_goes_on_where_a_killed_start_left_its_lock_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def inspect(_: Any) -> None:
        raise InputError("got in")

    monkeypatch.setattr(prepare, "inspect", inspect)
    for name, refused in ((files.LOCK, InputError), ("notes.txt", StateError)):
        (tmp_path / "toy").mkdir(exist_ok=True)
        (tmp_path / "toy" / name).touch()
        with pytest.raises(refused):
            kdsearch.search(out=tmp_path, fresh=True, **STUDY)


def test_a_lock_whose_folder_was_just_removed_guards_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = files.fcntl.flock

    def late(stream: Any, how: int) -> None:
        (tmp_path / "toy" / files.LOCK).unlink()  # by its owner, between our opening and our locking
        real(stream, how)

    monkeypatch.setattr(files.fcntl, "flock", late)
    with pytest.raises(StateError, match="owned by another run"), files.owned(tmp_path / "toy"):
        pass
