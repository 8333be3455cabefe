"""Nothing acknowledged is lost, nothing damaged is certified, and what cannot work is refused in one line."""

from __future__ import annotations

import errno
import json
import os
import shutil
from io import StringIO
from pathlib import Path
from typing import Any

import deploying
import pytest
from rich.console import Console
from safetensors.torch import load_file, save_file

import kdsearch
from kdsearch.data import splits
from kdsearch.deploy.pick import Deployed, Export, pick
from kdsearch.errors import EnvironmentProblem, InputError, StateError
from kdsearch.io import files
from kdsearch.results.choose import Rule
from kdsearch.results.folder import StudyFolder
from kdsearch.results.ledger import Ledger
from kdsearch.student.saved import load_student
from kdsearch.study import prepare
from kdsearch.study.verify import verify

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


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study as a search leaves it: front.json, and the predictions of its one student."""
    path = deploying.make(tmp_path_factory.mktemp("made"))
    folder = StudyFolder(path)
    folder.write_front()
    rows = splits.load(folder.config()).validation
    files.write_array(folder.predictions_file(0), load_student(folder.student_folder(0)).logits(rows.texts))
    return path


@pytest.fixture
def study(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "studies" / "toy"))


def negate(student: Path) -> None:
    weights = load_file(student / "model.safetensors")
    save_file({name: -value for name, value in weights.items()}, student / "model.safetensors", metadata={"format": "pt"})


def without_digests(study: Path) -> None:
    """Its ledger as an earlier kdsearch wrote it."""
    lines = [json.loads(line) for line in (study / "ledger.jsonl").read_text().splitlines()]
    text = [files.canonical({key: value for key, value in line.items() if key not in ("digests", "crc")}) + "\n" for line in lines]
    (study / "ledger.jsonl").write_text("".join(text))


def picked(study: Path, out: Path) -> Deployed:
    return pick(study, Rule(), Export(out), Console(file=StringIO()))


def failures(study: Path) -> list[str]:
    return [f"{check.what}: {check.detail}" for check in verify(study) if not check.passed]


def spoil(student: Path, how: str) -> str:
    """Returns the name of the file that is no longer what it was."""
    if how == "negated":
        negate(student)
        return "model.safetensors"
    if how == "gone":
        (student / "config.json").unlink()
        return "config.json"
    if how == "more":
        (student / "added_tokens.json").write_text("{}")
        return "added_tokens.json"
    shutil.move(student / "tokenizer.json", student.parent / "elsewhere")
    (student / "tokenizer.json").symlink_to(student.parent / "elsewhere")
    return "tokenizer.json"


@pytest.mark.parametrize("how", ["negated", "gone", "more", "a link"])
def test_a_student_that_is_not_as_the_ledger_says_is_neither_verified_nor_exported(study: Path, tmp_path: Path, how: str) -> None:
    assert failures(study) == []
    name = spoil(study / "students" / "0", how)
    assert [name in line and "not as the ledger says" in line for line in failures(study)] == [True]
    with pytest.raises(StateError, match=f"students/0/{name}: not as the ledger says") as refusal:
        picked(study, tmp_path / "out")
    assert refusal.value.exit_code == 3
    assert not (tmp_path / "out").exists()
    with pytest.raises(StateError, match=name):
        kdsearch.Study(study).student(0)


def test_a_ledger_without_digests_is_read_as_before_and_its_students_are_held_to_their_scores(study: Path, tmp_path: Path) -> None:
    without_digests(study)
    assert ["no digests" in check.detail for check in verify(study)] == [False, True]
    done = picked(study, tmp_path / "out")
    assert done.passed
    assert "no digests" in " ".join(done.verdict["notes"])
    negate(study / "students" / "0")
    done = picked(study, tmp_path / "out")
    assert [check["what"] for check in done.verdict["checks"] if not check["passed"]] == ["scores as recorded"]


def confirmed(study: Path) -> Path:
    """The student of trial 0 also as a confirmation leaves one; returns its folder."""
    folder = StudyFolder(study)
    point = folder.document()["points"][0]
    content = {path.name: path.read_bytes() for path in folder.student_folder(0).iterdir()}
    digests = files.write_folder(folder.confirmed_folder(0), content)
    shutil.copy(folder.predictions_file(0), folder.predictions_file("0-student-7.validation"))
    scores = point["validation"]
    line = {**scores, "ci95": [0.0, 1.0], "deviation": 0.0, "seeds": 1, "by_seed": list(scores.values())[:1]}
    block = {"trial": 0, "student": "students/0-confirmed", "validation": scores, "test": line, "digests": digests}
    block |= {"deployed": {"seed": 7, "validation": scores, "test": line}, "tied_with": [], "control": None, "gain": None}
    with Ledger(study) as ledger:
        told = {"hash": "h0", "seed": 7, "status": "complete", "scores": scores, "seconds": {"total": 1.0}}
        ledger.append("confirmed_run", trial=0, role="student", name="0-student-7", spec={}, **told)
        ledger.append("test_opened", time=0.0, why="confirm", rows=30, runs=[["h0", 7]])
        facts = {"rows": 30, "runs": [["h0", 7]], "teacher": {**scores, "ci95": [0.0, 1.0]}, "majority": scores, "share_asked": 0.95}
        ledger.append("confirmed", time=0.0, opening=1, finalists=[block], **facts)
    folder.write_front()
    return folder.confirmed_folder(0)


def test_a_confirmed_student_is_verified_as_well_and_its_digests_stay_in_the_ledger(study: Path, tmp_path: Path) -> None:
    student = confirmed(study)
    assert [check.what for check in verify(study) if check.passed] == ["front.json", "student 0", "student 0-confirmed"]
    assert "digests" not in (study / "front.json").read_text()
    negate(student)
    assert [line.partition(":")[0] for line in failures(study)] == ["student 0-confirmed"]
    with pytest.raises(StateError, match=r"0-confirmed/model\.safetensors"):
        picked(study, tmp_path / "out")


def resumed(study: Path) -> StateError:
    """The refusal that a search of the study ends in, having changed nothing."""
    before = {path: path.read_bytes() for path in study.rglob("*") if path.is_file() and path.name != files.LOCK}
    with pytest.raises(StateError) as refusal:
        kdsearch.search(StudyFolder(study).config(), out=study.parent)
    assert {path: path.read_bytes() for path in study.rglob("*") if path.is_file() and path.name != files.LOCK} == before
    assert (refusal.value.exit_code, len(str(refusal.value).splitlines())) == (3, 1)
    return refusal.value


def test_every_flipped_bit_of_a_ledger_is_told_with_its_line(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.begin(name="toy")
        ledger.session(pid=1)
    path, whole = tmp_path / "ledger.jsonl", (tmp_path / "ledger.jsonl").read_bytes()
    assert json.loads(whole.splitlines()[0])["crc"] == files.zlib.crc32(whole.splitlines()[0].split(b',"crc"')[0] + b"}")
    for place in range(len(whole)):
        line = whole[:place].count(b"\n") + 1
        for bit in range(8):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            with pytest.raises(StateError, match=f"line {line}: damaged"):
                files.read_log(path)


def test_lines_of_an_earlier_version_have_no_crc_and_those_after_them_have(study: Path) -> None:
    without_digests(study)
    with Ledger(study) as ledger:
        ledger.session()
    path = study / "ledger.jsonl"
    assert [b'"crc"' in line for line in path.read_bytes().splitlines()] == [False, False, False, True]
    assert len(files.read_log(path)) == 4
    path.write_bytes(path.read_bytes() + b'{"event":"session"}\n')
    with pytest.raises(StateError, match="line 5: damaged"):
        files.read_log(path)


@pytest.mark.parametrize("kept", ["front.json", "students", "confirmation"])
@pytest.mark.parametrize("left", [None, b"", b"garbage", b"\x00" * 99, b"a line\n", 2])
def test_a_ledger_that_knows_less_than_the_folder_is_refused(study: Path, left: bytes | int | None, kept: str) -> None:
    path, lines = study / "ledger.jsonl", (study / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    if isinstance(left, bytes):
        path.write_bytes(left)
    elif left is None:
        path.unlink()
    else:
        path.write_bytes(b"".join(lines[: 2 if kept == "front.json" else 1]))
    if kept != "front.json":
        (study / "front.json").unlink()
    if kept == "confirmation":
        shutil.rmtree(study / "students")
        (study / kept / "0-student-7").mkdir(parents=True)
    resumed(study)
    if kept == "front.json" and isinstance(left, int):
        assert failures(study)[0].startswith("front.json")


def test_names_that_were_tampered_with_reach_no_file_outside(study: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    out = tmp_path / "out"
    picked(study, out)
    listed = (out / "MANIFEST").read_text()
    for name in ("../victim", str(victim), "onnx/../../victim", ""):
        (out / "MANIFEST").write_text(f"{listed}{'0' * 64}  {name}\n")
        with pytest.raises(InputError, match=f"--out: .*MANIFEST names '{name}'"):
            picked(study, out)
    (out / "MANIFEST").write_text(listed)
    (out / "onnx").symlink_to(tmp_path)
    with pytest.raises(InputError, match="holds onnx and no MANIFEST"):
        picked(study, out)
    with pytest.raises(StateError, match="is not a file's name"):
        files.write_folder(tmp_path / "folder", {"../victim": b""})
    with Ledger(study) as ledger:
        told = {"trial": 0, "role": "student", "hash": "h0", "seed": 7, "status": "complete", "scores": {}}
        with pytest.raises(StateError, match="not a name for the files of a run"):
            ledger.append("confirmed_run", name="../../victim", **told)
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("name", [files.LOCK, "ledger.jsonl"])
def test_no_link_is_followed_out_of_a_study(study: Path, tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes((study / "ledger.jsonl").read_bytes())
    (study / name).unlink(missing_ok=True)
    (study / name).symlink_to(victim)
    with pytest.raises(StateError, match=f"{name}: a link, a folder or a device"):
        kdsearch.search(StudyFolder(study).config(), out=study.parent)
    assert victim.read_bytes().startswith(b'{"event":"study"')


def test_an_export_takes_the_files_of_a_student_and_no_link(study: Path, tmp_path: Path) -> None:
    without_digests(study)
    student = study / "students" / "0"
    (student / "notes.txt").write_text("not for the world")
    assert not (picked(study, tmp_path / "out").folder / "notes.txt").exists()
    spoil(student, "a link")
    with pytest.raises(StateError, match=r"tokenizer\.json: a link"):
        picked(study, tmp_path / "other")


def test_a_folder_is_replaced_without_a_moment_in_which_a_kill_loses_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kept() -> list[bytes]:
        return [path.read_bytes() for path in tmp_path.rglob("name")]

    files.write_folder(tmp_path / "0", {"name": b"old"})
    real, seen = files.os.replace, []

    def watched(one: Any, other: Any) -> None:
        seen.append(kept())
        real(one, other)
        seen.append(kept())

    monkeypatch.setattr(files.os, "replace", watched)
    files.write_folder(tmp_path / "0", {"name": b"new"})
    assert len(seen) == 4
    assert all(sorted(each) == [b"new", b"old"] for each in seen)
    assert kept() == [b"new"]
    assert [path.name for path in tmp_path.iterdir()] == ["0"]


@pytest.mark.parametrize(("umask", "file", "folder"), [(0o077, 0o600, 0o700), (0o002, 0o664, 0o775)])
def test_modes_are_those_of_the_umask(tmp_path: Path, umask: int, file: int, folder: int) -> None:
    before = os.umask(umask)
    try:
        files.replace_json(tmp_path / "front.json", {})
        files.write_folder(tmp_path / "0", {"name": b""})
        files.AppendLog(tmp_path / "ledger.jsonl").close()
    finally:
        os.umask(before)
    for name in ("front.json", "ledger.jsonl", "0/name"):
        assert (tmp_path / name).stat().st_mode & 0o777 == file
    assert (tmp_path / "0").stat().st_mode & 0o777 == folder


class Full:
    """A stream on a disk that is full after so many bytes more."""

    def __init__(self, stream: Any, room: int) -> None:
        self.stream, self.room = stream, room

    def write(self, data: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = self.stream.write(data[: self.room])
        self.room -= taken
        return int(taken)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def test_a_full_disk_is_one_line_and_leaves_whole_lines(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.begin(name="toy")
    before = (tmp_path / "ledger.jsonl").read_bytes()
    ledger._log._stream = Full(ledger._log._stream, 20)  # type: ignore[assignment]
    with pytest.raises(EnvironmentProblem, match="the disk is full") as refusal:
        ledger.session()
    ledger.close()  # has nothing left to say
    assert (refusal.value.exit_code, len(str(refusal.value).splitlines())) == (4, 1)
    assert (tmp_path / "ledger.jsonl").read_bytes() == before
    with Ledger(tmp_path) as ledger:
        ledger.session()
    assert len(files.read_log(tmp_path / "ledger.jsonl")) == 2


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("name", ["front.json", "predictions/0.npy", "students/0/model.safetensors", "students/0/config.json"])
def test_a_file_that_was_cut_fails_in_one_line(study: Path, tmp_path: Path, name: str) -> None:
    without_digests(study)
    cut(study / name)
    assert [len(line.splitlines()) for line in failures(study)] == [1]
    if name.startswith("students"):
        with pytest.raises(StateError, match=r"students/0: cannot be (read|loaded) .*restore the folder from a copy") as refusal:
            picked(study, tmp_path / "out")
        assert len(str(refusal.value).splitlines()) == 1
    else:
        assert picked(study, tmp_path / "out").passed
    if name == "predictions/0.npy":
        (study / name).unlink()
        assert "is gone" in failures(study)[0]


def test_damaged_files_beside_the_ledger_are_told_or_made_again(study: Path) -> None:
    folder = StudyFolder(study)
    folder.latency_file.write_text('{"stud')
    assert folder.latencies() == {}
    for path, read in ((folder.analysis_file(0), lambda: folder.analysis(0)), (folder.manifest_file, folder.document)):
        path.parent.mkdir(exist_ok=True)
        for content in ("{", "[]", "\x00"):
            path.write_text(content)
            with pytest.raises(StateError, match=f"{path.name}: damaged"):
                read()


def test_the_names_of_new_folders_and_files_are_on_the_disk_as_their_content_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = files._sync_folder

    def watched(path: Path) -> None:
        synced.append(str(path.relative_to(tmp_path)))
        real(path)

    monkeypatch.setattr(files, "_sync_folder", watched)
    files.write_folder(tmp_path / "toy" / "students" / "0", {"name": b""})
    assert {".", "toy", "toy/students"} <= set(synced)  # each holds the name of the next
    assert synced[-2].startswith("toy/students/.0.")  # before it takes its place
    files.AppendLog(tmp_path / "toy" / "ledger.jsonl").close()
    assert synced[-1] == "toy"
