"""Picking and exporting: each kind of task is exported once, and everything about the folder is read from that."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deploying
import numpy as np
import onnxruntime
import pytest
import torch
from rich.console import Console
from torch import nn

from kdsearch.cli import app
from kdsearch.deploy import folder, hub, latency, onnx_export, onnx_lstm
from kdsearch.deploy.pick import Deployed, Export, FinishedStudy, choice, pick
from kdsearch.deploy.predict import Predictor
from kdsearch.errors import EnvironmentProblem, InputError, StateError
from kdsearch.results.choose import Rule
from kdsearch.student.saved import load_student
from kdsearch.study.search import Study

QUIET = Console(file=open(os.devnull, "w"))  # noqa: SIM115 - for the life of the tests


@pytest.fixture(scope="module", autouse=True)
def few_measurements() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("TEXTS", 5), ("ROUNDS", 1), ("WARM_UP", 1), ("BATCHES", 1)):
            patch.setattr(latency, name, value)
        yield


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes; trial 0 is a transformer, trial 1 a cnn."""
    return deploying.make(tmp_path_factory.mktemp("single"), families=("cnn",))


@pytest.fixture(scope="module")
def done(study: Path) -> Deployed:
    return pick(study, Rule(trial=0), Export(study.parent / "out", int8=True, max_drop=5.0), QUIET)


def predict(folder: Path, *more: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """predict.py where torch, transformers and kdsearch cannot be imported."""
    start = "import sys, runpy; sys.modules.update(dict.fromkeys(['torch', 'transformers', 'kdsearch', 'onnx', 'pandas']));"
    script = f"{start} sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", script, str(folder / "predict.py"), *more]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False)


def checks(done: Deployed) -> dict[str, bool]:
    return {check["what"]: check["passed"] for check in done.verdict["checks"]}


def test_every_check_passes_and_is_written(done: Deployed) -> None:
    names = [
        "scores as recorded",
        "loads with kdsearch",
        "loads with transformers",
        "ONNX fp32 equals torch",
        "int8",
        "predict.py equals torch",
    ]
    assert checks(done) == dict.fromkeys(names, True)
    assert json.loads((done.folder / "verdict.json").read_text()) == done.verdict
    assert done.verdict["onnx"]["difference"] <= 1e-3
    assert {shape["batch"] for shape in done.verdict["onnx"]["shapes"]} == {1, 2, 7, 32}
    assert len(done.verdict["int8"]["tried"]) == len(onnx_export.Variant)


def test_the_folder_is_complete_and_the_manifest_has_every_file(done: Deployed) -> None:
    names = {path.relative_to(done.folder).as_posix() for path in done.folder.rglob("*") if path.is_file()}
    assert names == {
        *("README.md", "MANIFEST", "verdict.json", "predict.py", "kdsearch.json", "config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json", "onnx/model.onnx", "onnx/model_quantized.onnx"),
    }
    listed = dict(reversed(line.split("  ")) for line in (done.folder / "MANIFEST").read_text().splitlines())
    assert set(listed) == names - {"MANIFEST"}
    assert all(hashlib.sha256((done.folder / name).read_bytes()).hexdigest() == sha for name, sha in listed.items())


def test_sizes_and_latencies_stand_beside_the_teachers(done: Deployed) -> None:
    sizes, engines = done.verdict["sizes"], done.verdict["latency"]["engines"]
    assert sizes["onnx/model_quantized.onnx"]["bytes"] < 0.6 * sizes["onnx/model.onnx"]["bytes"]
    assert sizes["model.safetensors"]["with_tokenizer"] > sizes["model.safetensors"]["bytes"]
    assert set(engines) == {"teacher, torch", "student, torch", "ONNX fp32", "ONNX int8"}
    for figures in engines.values():
        assert 0 < figures["ms_p50"] <= figures["ms_p90"] <= figures["ms_p95"]
        assert figures["total_ms_p50"] > figures["ms_p50"]
    assert engines["teacher, torch"]["times_faster"] == 1.0
    assert done.verdict["latency"]["threads"] == 1


def test_stock_transformers_loads_the_folder_with_its_label_names(study: Path, done: Deployed) -> None:
    from transformers import AutoTokenizer, pipeline

    texts, _, said = deploying.labels_of(study)
    classify = pipeline("text-classification", model=str(done.folder), device="cpu")
    assert [answer["label"] for answer in classify(texts, truncation=True)] == said.tolist()
    assert set(said.tolist()) == set(deploying.NAMES)
    assert len(AutoTokenizer.from_pretrained(done.folder)("w1 " * 50, truncation=True)["input_ids"]) == 24


def test_torch_onnx_and_the_script_give_the_same_labels(study: Path, done: Deployed) -> None:
    texts, _, said = deploying.labels_of(study)
    predictor = Predictor(done.folder, "fp32")
    assert predictor.labels(texts) == said.tolist()
    assert [predictor.labels([text])[0] for text in texts] == said.tolist()
    run = predict(done.folder, "--model", "fp32", text="\n".join(texts))
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == said.tolist()


def test_the_script_reads_files_gives_scores_and_keeps_empty_lines(done: Deployed, tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_bytes(b"w1 w4\r\n\r\nw2 w5 w8")
    run = predict(done.folder, "--file", str(path), "--scores", "--batch", "2")
    rows = [line.split("\t") for line in run.stdout.splitlines()]
    assert len(rows) == 3
    for label, *shares in rows:
        assert sum(map(float, shares)) == pytest.approx(1.0, abs=1e-5)
        assert label == sorted(deploying.NAMES)[int(np.argmax([float(share) for share in shares]))]


def test_the_script_takes_int8_by_default_and_says_what_is_wrong(done: Deployed, tmp_path: Path) -> None:
    assert Predictor(done.folder).model == "int8"
    assert predict(done.folder, "--file", str(tmp_path / "none.txt")).returncode == 2
    (tmp_path / "latin.txt").write_bytes("w1\nfüßig\n".encode("latin-1"))
    bad = predict(done.folder, "--file", str(tmp_path / "latin.txt"))
    assert (bad.returncode, bad.stderr) == (2, "line 2: not UTF-8\n")


def test_the_graph_tells_nothing_of_the_machine_it_was_made_on(done: Deployed) -> None:
    for name in ("model.onnx", "model_quantized.onnx"):
        content = (done.folder / "onnx" / name).read_bytes()
        assert b".py" not in content
        assert str(Path.cwd()).encode() not in content


def test_the_card_has_data_teacher_recipe_scores_limits_and_parses(done: Deployed) -> None:
    from huggingface_hub import ModelCard

    text = (done.folder / "README.md").read_text()
    data: Any = ModelCard(text).data
    assert (data.pipeline_tag, data.library_name) == ("text-classification", "transformers")
    assert data.eval_results[0].metric_value == done.choice.point["validation"]["accuracy"]
    for part in ("teacher", "## Data", "## Recipe", "## Limits", "test rows are still sealed", "predict.py", "`angry`", "hard"):
        assert part in text


def test_an_earlier_export_is_replaced_and_foreign_files_are_refused(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = pick(study, Rule(trial=0), Export(out), QUIET)
    assert not (out / "onnx").exists()
    assert list(checks(first)) == ["scores as recorded", "loads with kdsearch", "loads with transformers"]
    pick(study, Rule(trial=1), Export(out), QUIET)
    assert not (out / "config.json").exists()  # the cnn has none, the transformer's is gone
    (out / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds notes\.txt"):
        pick(study, Rule(trial=0), Export(out), QUIET)
    assert (out / "notes.txt").read_text() == "mine"


def test_a_failed_export_leaves_what_was_there(tmp_path: Path) -> None:
    def fill(target: Path) -> None:
        with folder.filling(target) as work:
            (work / "a").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fill(tmp_path / "new" / "deep")
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "a").write_text("whole")
    with pytest.raises(ZeroDivisionError):
        fill(tmp_path / "old")
    assert [path.name for path in (tmp_path / "old").iterdir()] == ["a"]
    assert (tmp_path / "old" / "a").read_text() == "whole"


@pytest.mark.parametrize(("task", "pairs"), [("classification", True), ("regression", False)])
def test_pairs_and_regressions_are_exported_as_well(tmp_path: Path, task: str, pairs: bool) -> None:
    found = deploying.make(tmp_path, task, pairs=pairs)
    done = pick(found, Rule(), Export(tmp_path / "out", onnx=True), QUIET)
    assert done.passed, done.verdict["checks"]
    texts, seconds, said = deploying.labels_of(found)
    inputs = [each.name for each in onnxruntime.InferenceSession(str(done.folder / "onnx" / "model.onnx")).get_inputs()]
    assert ("token_type_ids" in inputs) == pairs
    lines = texts if seconds is None else [f"{one}\t{two}" for one, two in zip(texts, seconds, strict=True)]
    run = predict(done.folder, text="\n".join(lines))
    if task == "regression":
        assert [float(line) for line in run.stdout.splitlines()] == pytest.approx(said.tolist(), abs=1e-4)
        assert predict(done.folder, "--scores", text="w1").returncode == 2
    else:
        assert run.stdout.splitlines() == said.tolist()
        assert predict(done.folder, text="no tab").stderr.startswith("line 1: a pair needs its two texts")


def test_a_family_of_our_own_runs_as_onnx(study: Path, tmp_path: Path) -> None:
    done = pick(study, Rule(trial=1), Export(tmp_path / "out", int8=True, max_drop=5.0), QUIET)
    assert done.passed, done.verdict["checks"]
    assert "loads with transformers" not in checks(done)
    texts, _, said = deploying.labels_of(study, 1)
    assert Predictor(done.folder, "fp32").labels(texts) == said.tolist() == load_student(done.folder)(texts)
    assert "without kdsearch it runs as ONNX" in (done.folder / "README.md").read_text()


def test_int8_that_loses_too_much_is_a_fail_and_is_not_left_behind(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnx
    from onnx import numpy_helper

    def ruin(source: Path, target: Path, variant: onnx_export.Variant) -> None:
        model = onnx.load(str(source))
        for each in model.graph.initializer:
            values = numpy_helper.to_array(each)
            if values.dtype == np.float32:
                each.CopyFrom(numpy_helper.from_array(np.zeros_like(values), each.name))
        onnx.save(model, str(target))

    monkeypatch.setattr(onnx_export, "quantise", ruin)
    monkeypatch.setattr(sys, "argv", ["kdsearch", "pick", str(study), "--trial", "1", "--int8", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert ended.value.code == 1
    assert "FAIL: int8" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out" / "onnx").iterdir()) == ["model.onnx"]
    assert Predictor(tmp_path / "out").model == "fp32"
    verdict = json.loads((tmp_path / "out" / "verdict.json").read_text())
    assert not verdict["passed"]
    assert verdict["int8"]["chosen"] is None


def test_a_rule_on_latency_measures_once_a_machine(study: Path, done: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    source, known = FinishedStudy.open(study), (done.folder / "onnx" / "model.onnx").read_bytes()

    def again(module: nn.Module, path: Path, **options: Any) -> None:
        path.parent.mkdir(parents=True)
        path.write_bytes(known)

    monkeypatch.setattr(onnx_export, "export", again)
    chosen = choice(source, Rule(max_latency_ms=1000.0), lambda *_: None)
    assert chosen.point["trial"] == 0
    kept = json.loads((study / "latency.json").read_text())
    assert len(kept["students"]) == len(source.document["points"])
    monkeypatch.setattr(onnx_export, "export", None)
    assert choice(source, Rule(max_latency_ms=1000.0), lambda *_: None).point["trial"] == 0
    assert Study(study).pick(max_latency_ms=1000.0)(["w1"])[0] in deploying.NAMES


def test_a_confirmed_point_deploys_the_student_that_confirming_chose(study: Path, tmp_path: Path) -> None:
    source = FinishedStudy.open(study)
    (study / "students" / "1-confirmed").mkdir()
    assert source.student_folder({"trial": 1, "confirmed": {"test": {}}}) == study / "students" / "1-confirmed"
    with pytest.raises(StateError, match="the student is gone"):
        source.student_folder({"trial": 0, "confirmed": {"test": {}}})


def test_changed_data_is_refused_with_exit_3(tmp_path: Path) -> None:
    found = deploying.make(tmp_path)
    lines = (tmp_path / "validation.csv").read_text().splitlines()
    (tmp_path / "validation.csv").write_text("\n".join(lines[:-1]))
    with pytest.raises(StateError, match="its data changed since it was begun"):
        pick(found, Rule(), Export(tmp_path / "out"), QUIET)
    assert not (tmp_path / "out").exists()


def test_without_its_teacher_a_study_is_still_deployed(tmp_path: Path) -> None:
    found = deploying.make(tmp_path)
    (tmp_path / "teacher" / "model.safetensors").unlink()
    done = pick(found, Rule(), Export(tmp_path / "out"), QUIET)
    assert done.passed
    assert done.verdict["notes"][0].startswith("the teacher was not measured: teacher.model")


def test_a_missing_extra_and_an_unreachable_hub_are_told_before_any_work(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EnvironmentProblem, match="HF_HUB_OFFLINE is set"):
        pick(study, Rule(), Export(push_to="me/toy"), QUIET)
    with pytest.raises(InputError, match="no repository"):
        hub.refuse_offline("a/b/c")
    with pytest.raises(InputError, match="--push-to-hub"):
        Export(public=True)
    monkeypatch.setattr(onnx_export, "_EXTRA", ("onnx_that_is_not_there",))
    with pytest.raises(EnvironmentProblem, match=r"pip install 'kdsearch\[deploy\]'"):
        pick(study, Rule(), Export(onnx=True), QUIET)


@pytest.mark.parametrize(("options", "code"), [(["--knee", "--trial", "0"], 2), (["--max-params", "5"], 1), (["--max-params", "5X"], 2)])
def test_exit_codes(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], code: int
) -> None:
    monkeypatch.setattr(sys, "argv", ["kdsearch", "pick", str(study), *options])
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert ended.value.code == code
    assert len(capsys.readouterr().err.splitlines()) <= 10


def test_a_push_is_private_and_goes_nowhere_when_the_hub_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    class Api:
        def create_repo(self, repo: str, **options: Any) -> Any:
            asked.update(options)
            raise OSError("no such owner\nand more")

    monkeypatch.setattr(hub, "HfApi", Api)
    with pytest.raises(EnvironmentProblem, match=r"did not take it \(no such owner\)"):
        hub.push(tmp_path, "me/toy", private=True)
    assert asked["private"] is True


def test_lstm_layers_become_onnx_operators_with_the_same_numbers(tmp_path: Path) -> None:
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(5, 4, num_layers=2, bidirectional=True, batch_first=True)

        def forward(self, states: torch.Tensor) -> torch.Tensor:
            steps, (last, cells) = self.lstm(states)
            return torch.cat((steps.flatten(1), last.transpose(0, 1).flatten(1), cells.transpose(0, 1).flatten(1)), 1)

    net, states = Net().eval(), torch.randn(3, 6, 5)
    own = onnx_lstm.exportable(net)
    assert isinstance(net.lstm, nn.LSTM)
    path = tmp_path / "lstm.onnx"
    torch.onnx.export(own, (states,), str(path), dynamo=True, external_data=False, verbose=False, input_names=["states"])
    said = onnxruntime.InferenceSession(str(path)).run(None, {"states": states.numpy()})[0]
    assert np.abs(said - net(states).detach().numpy()).max() < 1e-6


def test_the_card_of_a_confirmed_point_has_test_figures_and_what_changed(study: Path, done: Deployed) -> None:
    from kdsearch.config import study_file
    from kdsearch.data.tokens import Table
    from kdsearch.deploy import card
    from kdsearch.evaluation import analysis

    source = FinishedStudy.open(study)
    rows, generator = source.rows(), np.random.default_rng(0)
    logits = generator.normal(size=(len(rows.validation), 3)).astype(np.float32)
    assert isinstance(rows.validation, Table)
    changed = analysis.compare(
        "classification", rows.labels, rows.validation, rows.train, logits, -logits, (logits, -logits, rows.validation.labels)
    )
    confirmed = {
        "student": "students/0-confirmed",
        "validation": {"accuracy": 0.79},
        "test": {"accuracy": 0.7812, "ci95": [0.757, 0.8034], "seeds": 3},
        "deployed": {"test": {"accuracy": 0.78}},
        "control": {"accuracy": 0.7001},
        "recovered": 0.42,
        "tied_with": [4],
    }
    document = {**source.document, "teacher": {**source.document["teacher"], "test": {"accuracy": 0.83}}}
    written = card.card(
        point={**done.choice.point, "confirmed": confirmed},
        document=document,
        manifest=source.manifest,
        study=study_file.resolved(source.config),
        record=json.loads((done.folder / "kdsearch.json").read_text()),
        verdict=done.verdict,
        analysis=changed,
    )
    assert (written.data.eval_results[0].dataset_split, written.data.eval_results[0].metric_value) == ("test", 0.7812)
    for part in (
        "0.7570 to 0.8034",
        "mean of 3 seeds",
        "0.7001",
        "42%",
        "trial 4",
        "0.8300",
        "Expected calibration error",
        "precision",
        "0.7800",
    ):
        assert part in str(written), part
    assert "sealed" not in str(written)
