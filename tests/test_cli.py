"""The command line: exit codes, one clear message a mistake, nothing started before the mistakes are told."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import worlds

from kdsearch.cli import app
from kdsearch.errors import InputError
from kdsearch.study import prepare

NAMES = ["angry", "calm", "sad"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    worlds.save_teacher(folder / "teacher", names=NAMES)
    lines, labels = worlds.texts(300)
    frame(lines, labels).to_csv(folder / "texts.csv", index=False)
    return folder


def frame(lines: list[str], labels: Any) -> pd.DataFrame:
    return pd.DataFrame({"text": lines, "label": [NAMES[label] for label in labels]})


def study(world: Path) -> dict[str, Any]:
    return {
        "name": "mistaken",
        "data": {"files": {"train": str(world / "texts.csv")}, "max_length": 16},
        "teacher": {"model": str(world / "teacher")},
    }


def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout, stderr of a command."""
    monkeypatch.setattr(sys, "argv", ["kdsearch", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        app.main()
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def change(key: str, value: Any) -> Callable[[dict[str, Any], Path], None]:
    def apply(values: dict[str, Any], _: Path) -> None:
        *path, last = key.split("/")
        for part in path:
            values = values.setdefault(part, {})
        values[last] = value

    return apply


def train_file(content: bytes, name: str = "own.csv") -> Callable[[dict[str, Any], Path], None]:
    def apply(values: dict[str, Any], folder: Path) -> None:
        (folder / name).write_bytes(content)
        values["data"]["files"]["train"] = str(folder / name)

    return apply


def rows(*lines: str) -> bytes:
    return ("text,label\n" + "\n".join(lines) + "\n").encode()


def validation_with_a_new_label(values: dict[str, Any], folder: Path) -> None:
    (folder / "validation.csv").write_bytes(rows("w0 w3 w6,angry", "w1 w4 w7,furious"))
    values["data"]["files"]["validation"] = str(folder / "validation.csv")


def other_labels(values: dict[str, Any], folder: Path) -> None:
    worlds.save_teacher(folder / "teacher", names=["x", "y", "z"])
    values["teacher"]["model"] = str(folder / "teacher")


def permuted_labels(values: dict[str, Any], folder: Path) -> None:
    worlds.save_teacher(folder / "teacher", names=["calm", "sad", "angry"])
    values["teacher"]["model"] = str(folder / "teacher")


def teacher_without(name: str, **more: str) -> Callable[[dict[str, Any], Path], None]:
    def apply(values: dict[str, Any], folder: Path) -> None:
        path = worlds.save_teacher(folder / "teacher", names=NAMES)
        (path / name).unlink()
        for other, content in more.items():
            (path / other.replace("__", ".")).write_text(content)
        values["teacher"]["model"] = str(path)

    return apply


def remote_code(values: dict[str, Any], folder: Path) -> None:
    path = worlds.save_teacher(folder / "teacher", names=NAMES)
    described = json.loads((path / "config.json").read_text()) | {"auto_map": {"AutoModel": "mine.Model"}}
    (path / "config.json").write_text(json.dumps(described))
    values["teacher"]["model"] = str(path)


MISTAKES: dict[str, tuple[Callable[[dict[str, Any], Path], None], str]] = {
    "unknown key": (change("search/trails", 3), "Did you mean 'trials'?"),
    "wrong type": (change("search/trials", "many"), "search.trials"),
    "range reversed": (change("space/knobs", {"temperature": {"min": 8, "max": 1}}), "reversed"),
    "unknown strategy": (change("space/strategies", ["hard", "logits"]), "logit"),
    "unknown knob": (change("space/knobs", {"transformer.layer": 2}), "transformer.layers"),
    "missing file": (change("data/files", {"train": "nowhere.csv"}), "nowhere.csv"),
    "missing column": (change("data/text", "body"), "text"),
    "empty file": (train_file(b""), "empty"),
    "binary file": (train_file(bytes(range(256)) * 40), "own.csv"),
    "empty label": (train_file(rows(*["w0 w3,angry", "w1 w4,calm"] * 20, "w2 w5,")), "41"),
    "one class": (train_file(rows(*[f"w{index} w3,angry" for index in range(40)])), "angry"),
    "new label in validation": (validation_with_a_new_label, "furious"),
    "other labels": (other_labels, "teacher.labels"),
    "permuted labels": (permuted_labels, "labels: ["),
    "no weights": (teacher_without("model.safetensors"), "no weights"),
    "pickle only": (teacher_without("model.safetensors", pytorch_model__bin="x"), "pickled"),
    "remote code": (remote_code, "auto_map"),
    "a path as a name": (change("name", "../elsewhere"), "name"),
}


@pytest.mark.parametrize("mistake", list(MISTAKES))
def test_a_users_mistake_is_one_clear_message_and_exit_2(
    mistake: str, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    apply, expected = MISTAKES[mistake]
    values = study(world)
    apply(values, tmp_path)
    (tmp_path / "study.yaml").write_text(json.dumps(values))
    code, _, errors = call(capsys, monkeypatch, "search", tmp_path / "study.yaml", "--out", tmp_path / "studies")
    assert code == 2, errors
    assert expected in errors
    assert "Traceback" not in errors
    assert len(errors.strip().splitlines()) <= 10
    assert not list((tmp_path / "studies").glob("*/ledger.jsonl"))


def test_a_mistake_is_told_within_ten_seconds_and_before_ray(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(json.dumps({"name": "x", "data": {"preset": "rotten_tomatoes"}, "teacher": {"preset": "minilmm"}}))
    code = "import sys; from kdsearch.cli import app; sys.argv = ['kdsearch', 'search', sys.argv[1]]\n"
    code += "try:\n app.main()\nfinally:\n print('ray' in sys.modules)"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "study.yaml")], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # The processor's time: on a machine with other work, the clock's would say more of that work.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 10
    assert done.returncode == 2
    assert done.stdout.strip() == "False"


def test_a_folder_that_cannot_be_written_is_exit_4(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "study.yaml").write_text(json.dumps(study(world)))
    (tmp_path / "taken").write_text("a file")
    code, _, errors = call(capsys, monkeypatch, "search", tmp_path / "study.yaml", "--out", tmp_path / "taken" / "studies")
    assert code == 4, errors
    assert "--out" in errors


def test_a_dry_run_prints_the_space_and_leaves_nothing(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(json.dumps(study(world)))
    code, out, _ = call(capsys, monkeypatch, "search", "study.yaml", "--dry-run")
    assert code == 0
    for expected in ("transformer.layers", "temperature", "strategy = joint", "params", "cache", "the search", "classes", "long texts"):
        assert expected in out
    assert len(out.splitlines()) < 60
    assert {path.name for path in tmp_path.iterdir()} == {"study.yaml"}


@pytest.mark.parametrize("command", ["search", "teacher"])
def test_what_the_rows_are_like_is_noted_before_anything_is_computed(
    command: str, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise InputError("stopped")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prepare, "prepare", stop)
    (tmp_path / "texts.csv").write_text((world / "texts.csv").read_text() + f",{NAMES[0]}\n")
    values = study(world)
    values["data"] |= {"files": {"train": "texts.csv"}, "bad_rows": "drop", "max_length": 4}
    (tmp_path / "study.yaml").write_text(json.dumps(values))
    code, _, errors = call(capsys, monkeypatch, command, "study.yaml")
    assert code == 2
    assert "note: left out: 1 rows of train: they cannot be used (data.bad_rows: drop)" in errors
    assert re.search(r"note: \d+% of the training texts are longer than data.max_length: 4 tokens", errors)
    assert errors.endswith("stopped\n")


def test_a_folder_that_is_no_study_is_exit_3(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, errors = call(capsys, monkeypatch, "front", tmp_path)
    assert code == 3
    assert "not a study's folder" in errors
