"""Several teachers of one study: their list in the study file, their mean, what trials, results and commands make of it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import typer
import worlds
import yaml
from rich.console import Console
from scipy import special
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast
from typer.testing import CliRunner

import kdsearch.hpo
from kdsearch import losses, tasks
from kdsearch.api import Batch, Need, Signal, Strategy
from kdsearch.cli import app
from kdsearch.config import schema, study_file
from kdsearch.data import splits
from kdsearch.data.tokens import Table
from kdsearch.deploy import card
from kdsearch.errors import InputError, PluginError, StateError
from kdsearch.hpo.study_run import StudyRun
from kdsearch.io.files import read_log
from kdsearch.registry import registry
from kdsearch.report.facts import Facts
from kdsearch.results.folder import StudyFolder
from kdsearch.space.spec import TrialSpec
from kdsearch.student import trial
from kdsearch.student.assets import Assets, Several
from kdsearch.student.teaching import Teaching
from kdsearch.student.trial import TrialResult
from kdsearch.study import confirm, confirm_runs, dry_run, prepare, search
from kdsearch.teacher import ensemble, signal_cache

LOGITS = Need(Signal.LOGITS)
NAMES = ["angry", "calm", "sad"]
ORDER = np.r_[[0, 1, 3, 2], 4 + np.random.default_rng(0).permutation(96)]  # piece i of the second teacher is piece ORDER[i] of the first
OUTPUTS = [2, 0, 1]  # its output i is output OUTPUTS[i] of the first


# --- their mean


def test_the_mean_of_two_teachers_by_hand() -> None:
    # (1/2, 1/2) and (1/4, 3/4), whatever constant is in the logits
    said = [np.log([[0.5, 0.5]]).astype(np.float32), 7 + np.log([[0.25, 0.75]]).astype(np.float32)]
    np.testing.assert_allclose(ensemble.mean(said), np.log([[3 / 8, 5 / 8]]), rtol=1e-6)
    assert ensemble.mean(said).dtype == np.float32
    np.testing.assert_array_equal(ensemble.mean([np.array([[1.0]]), np.array([[4.0]])]), [[2.5]])  # of a regression
    assert ensemble.mean(said[:1]) is said[0]


def test_a_mixture_is_one_of_softened_probabilities() -> None:
    teachers, weights = torch.tensor([[[2.0, 0.0]], [[0.0, 6.0]]]), torch.tensor([0.25, 0.75])
    expected = 0.25 * torch.tensor([[1.0, 0.0]]).softmax(-1) + 0.75 * torch.tensor([[0.0, 3.0]]).softmax(-1)
    torch.testing.assert_close((losses.mixture(teachers, weights, 2.0) / 2).softmax(-1), expected)


def test_a_mean_that_is_worse_than_one_alone_is_told_with_the_one_to_leave_out() -> None:
    labels = np.zeros(100, np.int64)

    def sure(wrong: int, scale: float) -> np.ndarray:
        logits = np.tile([scale, 0.0], (100, 1))
        logits[:wrong] = [0.0, scale]
        return logits

    keys = ["teacher[0]", "teacher[1]", "teacher[2]"]
    # The second is wrong on 30 rows, and so sure of it that the mean follows it: the others say 0.62 where they are right.
    told = ensemble.advice(np.stack([sure(10, 0.5), sure(30, 9.0), sure(11, 0.5)]), labels, "classification", "accuracy", keys)
    assert told == (
        "the mean of the teachers is worse than teacher[0] alone: accuracy 0.7000 on validation instead of 0.9000; "
        "leave teacher[1] out: without it, it is 0.9000"
    )
    assert ensemble.advice(np.stack([sure(10, 2.0), sure(11, 9.0)]), labels, "classification", "accuracy", keys) is None  # a point


def test_augmented_text_has_each_teachers_own_mask() -> None:
    def tokenizer(mask: str | None) -> PreTrainedTokenizerFast:
        return PreTrainedTokenizerFast(tokenizer_object=worlds.tokenizer().backend_tokenizer, mask_token=mask)

    table = Table(["a [MASK] b", "c"], ["[MASK]", "d"], np.zeros(2, np.int64))
    spelt = ensemble.respelt(table, tokenizer("[MASK]"), tokenizer("<mask>"))
    assert (spelt.texts, spelt.pairs) == (["a <mask> b", "c"], ["<mask>", "d"])
    assert ensemble.respelt(table, tokenizer("[MASK]"), tokenizer(None)).texts == ["a b", "c"]
    assert ensemble.respelt(table, tokenizer("[MASK]"), tokenizer("[MASK]")) is table


# --- the study file


def read(folder: Path, teacher: str, *sets: str) -> schema.StudyConfig:
    path = folder / "study.yaml"
    path.write_text(f"name: q\ndata: {{hub: some/set}}\nteacher:{teacher}")
    return study_file.load(path, sets)


TWO = "\n  - preset: minilm\n  - model: a/b\n"


def test_a_list_of_one_is_that_one(tmp_path: Path) -> None:
    one = read(tmp_path, "\n  preset: minilm\n")
    assert read(tmp_path, "\n  - preset: minilm\n") == one
    assert read(tmp_path, "\n  - preset: minilm\n", "teacher.finetune=never") == read(
        tmp_path, "\n  preset: minilm\n", "teacher[0].finetune=never"
    )
    assert study_file.resolved(one)["teacher"]["preset"] == "minilm"


def test_a_list_is_read_and_written_back(tmp_path: Path) -> None:
    given = read(tmp_path, TWO, "teacher[1].finetune.epochs=2")
    assert [each.preset or each.model for each in given.teachers] == ["minilm", "a/b"]
    assert given.teachers[1].finetune == schema.FineTune(epochs=2)
    assert study_file.from_mapping(study_file.resolved(given)) == given
    replaced = read(tmp_path, "\n  preset: minilm\n", "teacher=[{model: a/b}, {preset: minilm}]")
    assert [each.preset or each.model for each in replaced.teachers] == ["a/b", "minilm"]


@pytest.mark.parametrize(
    ("teacher", "sets", "message"),
    [
        (TWO + "    finetun: never\n", (), "line 6: teacher[1].finetun: unknown key. Did you mean 'finetune'?"),
        (TWO + "    finetune: {lr: -1}\n", (), "line 6: teacher[1].finetune.lr: -1 is out of range: it must be greater than 0.0"),
        (TWO + "    preset: minilm\n", (), "line 5: teacher[1]: exactly one of model, preset is needed; there are both"),
        (TWO + "  - preset: minilm\n", (), "line 6: teacher[2]: the same as teacher[0]: leave one of them out"),
        ("\n  - minilm\n", (), "line 4: teacher[0]: 'minilm' is not a group of keys"),
        (" []\n", (), "line 3: teacher: empty: it needs at least one entry"),
        (" minilm\n", (), "line 3: teacher: 'minilm' is not a group of keys, nor a list of such groups"),
        (TWO + "    labels: [a]\n", ("task=regression",), "line 6: teacher[1].labels: a regression has no label names: leave it out"),
        (TWO, ("teacher[1].modl=c",), "--set teacher[1].modl=c: teacher[1].modl: unknown key. Did you mean 'model'?"),
        (TWO, ("teacher.model=c",), "the study has 2 teachers: write teacher[0] to teacher[1], or teacher=[...] for all"),
        (TWO, ("teacher[2].model=c",), "the study has 2 teachers: write teacher[0] to teacher[1], or teacher=[...] for all"),
    ],
)
def test_errors_name_the_teacher_in_the_list(tmp_path: Path, teacher: str, sets: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, teacher, *sets)
    assert str(caught.value).endswith(message)
    assert "\n" not in str(caught.value)


def test_another_list_is_a_difference_that_resume_refuses(tmp_path: Path) -> None:
    one, two, other = (
        study_file.resolved(each)
        for each in (read(tmp_path, "\n  preset: minilm\n"), read(tmp_path, TWO), read(tmp_path, TWO, "teacher[1].model=c/d"))
    )
    assert study_file.differences(two, two) == []
    assert study_file.differences(two, other) == ['teacher[1].model: "a/b" -> "c/d"']
    assert study_file.differences(one, two) == ['teacher[1].finetune: (not there) -> "auto"', 'teacher[1].model: (not there) -> "a/b"']
    turned = {**two, "teacher": two["teacher"][::-1]}
    assert len(study_file.differences(two, turned)) == 4


# --- a world with two teachers, the second of which has other pieces, and labels in another order


def save_second(first: Path, folder: Path) -> Path:
    """The first teacher in other pieces and with permuted outputs, half as sure of everything."""
    model = AutoModelForSequenceClassification.from_pretrained(first)
    with torch.no_grad():
        words = model.get_input_embeddings().weight
        words.copy_(words[torch.from_numpy(ORDER)].clone())
        for part in (model.classifier.weight, model.classifier.bias):
            part.copy_(0.5 * part[OUTPUTS].clone())
    model.config.id2label = {place: NAMES[output] for place, output in enumerate(OUTPUTS)}
    model.config.label2id = {name: place for place, name in model.config.id2label.items()}
    model.save_pretrained(folder)
    backend = json.loads(worlds.tokenizer().backend_tokenizer.to_str())
    backend["model"]["vocab"] = {worlds.WORDS[old]: new for new, old in enumerate(ORDER)}
    for name, number in (("[CLS]", 3), ("[SEP]", 2)):
        backend["post_processor"]["special_tokens"][name]["ids"] = [number]
    special_tokens = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "model_max_length": 64}
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(backend)), **special_tokens).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    save_second(worlds.save_teacher(folder / "first", names=NAMES), folder / "second")
    lines, labels = worlds.texts(700)
    pd.DataFrame({"text": lines, "label": [NAMES[label] for label in labels]}).to_csv(folder / "texts.csv", index=False)
    pd.DataFrame({"text": worlds.texts(60, seed=5)[0]}).to_csv(folder / "more.csv", index=False)
    return folder


STRATEGIES = ["hard", "logit", "several", "attention", "joint"]


def keys(
    world: Path, *teachers: dict[str, Any], name: str = "two", strategies: Sequence[str] = STRATEGIES, **search: Any
) -> dict[str, Any]:
    given = teachers or ({"model": str(world / "first")}, {"model": str(world / "second")})
    files = {"train": str(world / "texts.csv")}
    return {
        "name": name,
        "data": {"files": files, "unlabelled": str(world / "more.csv"), "augment": 1, "max_length": 16},
        "teacher": list(given),
        "space": {"strategies": list(strategies), "knobs": {"lr": {"min": 3e-3, "max": 2e-2}, "transformer.layers": 1}},
        "search": {"trials": 10, "epochs": 2, "early_stopping": False, **search},
        "confirm": {"seeds": 1, "top": 1},
    }


def prepared_of(values: dict[str, Any]) -> prepare.Prepared:
    return prepare.prepare(prepare.inspect(study_file.from_mapping(values)))


@pytest.fixture(scope="module")
def prepared(world: Path) -> prepare.Prepared:
    return prepared_of(keys(world))


def test_both_teachers_answer_in_the_datas_order_of_labels_and_students_see_their_mean(prepared: prepare.Prepared) -> None:
    assets = prepared.assets
    assert assets.several is not None
    first, second = assets.several.validation
    # The second is the first in other words and another order, with half its logits: aligned, they are that.
    np.testing.assert_allclose(second, first / 2, atol=1e-4)
    expected = np.log((special.softmax(first, -1) + special.softmax(first / 2, -1)) / 2)
    np.testing.assert_allclose(assets.validation.signals[LOGITS], expected, atol=1e-4)
    assert assets.several.train_set is not None
    assert assets.several.train_set.shape == (2, len(assets.train_set.tokens), 3)
    np.testing.assert_array_equal(assets.train_set.signals[LOGITS], ensemble.mean(assets.several.train_set))
    assert len(assets.train_set.tokens) == assets.labelled + assets.unlabelled + assets.augmented
    assert min(assets.unlabelled, assets.augmented) > 0
    assert assets.info.teachers == prepared.known.info.teachers == 2
    assert prepared.object_bytes > assets.several.nbytes


def test_the_students_own_start_from_the_main_teacher(prepared: prepare.Prepared, world: Path) -> None:
    alone = prepared_of(keys(world, {"model": str(world / "first")}, strategies=["logit"]))
    assert alone.assets.several is None
    assert alone.assets.info.teachers == 1
    assert prepared.assets.teacher_fingerprint == alone.assets.teacher_fingerprint
    assert prepared.assets.tokenizer == alone.assets.tokenizer
    assert "teachers" not in alone.manifest
    assert prepared.assets.several is not None
    np.testing.assert_array_equal(alone.assets.validation.signals[LOGITS], prepared.assets.several.validation[0])


def test_no_row_is_run_twice(prepared: prepare.Prepared, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = len(prepared.assets.train_set.tokens) + len(prepared.assets.validation.tokens)
    monkeypatch.setenv("KDSEARCH_CACHE", str(world / "empty"))
    assert prepared_of(keys(world)).forwards == 2 * rows
    monkeypatch.setattr(signal_cache, "forward", lambda *_: pytest.fail("a teacher was run again"))
    assert prepared_of(keys(world)).forwards == 0
    # Nobody asks for each one's logits: they are not shipped.
    assert prepared_of(keys(world, strategies=["logit"])).assets.several.train_set is None  # type: ignore[union-attr]


def test_the_manifest_tells_of_the_mean_and_of_each(prepared: prepare.Prepared) -> None:
    whole, (first, second) = prepared.manifest["teacher"], prepared.manifest["teachers"]
    for size in ("params", "bytes", "flops"):
        assert whole[size] == first[size] + second[size]
    mean = np.asarray(prepared.assets.validation.signals[LOGITS])
    assert whole["validation"] == tasks.of("classification").scores(mean, prepared.assets.validation.labels)
    assert whole["fingerprint"] not in (first["fingerprint"], second["fingerprint"])
    assert (first["source"].split(":")[0], second["source"].split(":")[0]) == ("teacher[0].model", "teacher[1].model")
    table = prepared.known.data.validation
    np.testing.assert_array_equal(prepared.taught(table), mean)


def test_each_is_tuned_or_loaded_by_its_own_keys(world: Path) -> None:
    first = {"model": str(world / "first")}
    values = keys(world, first, {**first, "finetune": {"epochs": 1, "lr": 1e-3}}, strategies=["logit"])
    found, again = prepared_of(values), prepared_of(values)
    assert [(one.tuned, one.reused) for one in found.teachers] == [(False, False), (True, False)]
    assert [(one.tuned, one.reused) for one in again.teachers] == [(False, False), (True, True)]
    assert again.forwards == 0
    assert found.manifest["teacher"]["tuned"]


def test_a_wrong_teacher_in_the_list_is_refused_by_its_name(world: Path, tmp_path: Path) -> None:
    first, second = {"model": str(world / "first")}, {"model": str(world / "second")}

    def refused(*teachers: dict[str, Any], **more: Any) -> str:
        with pytest.raises(InputError) as caught:
            prepared_of(keys(world, *teachers, **more))
        return str(caught.value)

    assert refused(first, {"model": str(tmp_path / "nothing")}).startswith("teacher[1].model: ")
    permuted = refused(first, {**second, "labels": NAMES})
    assert permuted.startswith("teacher[1].model: ")
    assert 'Under teacher[1], write\n  labels: ["sad", "angry", "calm"]' in permuted
    assert refused(first, {**second, "labels": ["angry", "calm", "glad"]}).startswith("teacher[1].labels: label names do not match")
    shutil.copytree(world / "first", tmp_path / "copy")
    copy = refused(first, {"model": str(tmp_path / "copy")})
    assert copy == f"teacher[1].model: {tmp_path}/copy: the same weights as teacher[0].model: {world}/first: leave one of them out"


def test_a_strategy_that_weighs_teachers_is_refused_at_the_door_where_there_is_one(world: Path) -> None:
    with pytest.raises(
        InputError, match=r"^space.strategies: 'several' learns from each of several teachers, and this study has one: leave"
    ):
        prepare.inspect(study_file.from_mapping(keys(world, {"model": str(world / "first")})))


def test_only_a_frozen_strategy_may_read_each_teacher(tmp_path: Path) -> None:
    text = Path(kdsearch.__file__).parents[1].joinpath("plugins", "joint.py").read_text()
    path = tmp_path / "torn.py"
    path.write_text(text.replace('name: ClassVar[str] = "joint"', 'each_teacher: ClassVar[bool] = True\n    name: ClassVar[str] = "torn"'))
    with pytest.raises(PluginError, match="each_teacher is for frozen teachers"):
        registry.load_one(path)


# --- what a trial sees


def strategy_of(prepared: prepare.Prepared, name: str, **fields: Any) -> Strategy:
    return prepared.known.plugins.strategy(name, fields)


def teaching_of(prepared: prepare.Prepared, strategy: Strategy) -> Teaching:
    return Teaching(strategy, prepared.assets, prepared.assets.info, torch.device("cpu"))


ROWS = np.array([3, 0, 5])
ATTENTION = {"weight": 1.0, "temperature": 2.0, "alpha": 0.5}
JOINT = {"temperature": 2.0, "alpha": 0.5, "teacher_weight": 0.5, "mutual": 0.2, "teacher_layers": 1, "lr_factor": 0.1}


def batch_of(rows: np.ndarray) -> Batch:
    places = torch.from_numpy(rows)
    return Batch(torch.zeros(len(rows), 16, dtype=torch.int64), torch.ones(len(rows), 16, dtype=torch.bool), places, places)


def test_a_strategy_that_reads_live_states_has_the_means_logits(prepared: prepare.Prepared) -> None:
    shown = teaching_of(prepared, strategy_of(prepared, "attention", **ATTENTION)).outputs(ROWS, batch_of(ROWS))
    assert shown is not None
    np.testing.assert_array_equal(shown.logits.numpy(), prepared.assets.train_set.signals[LOGITS][ROWS])
    assert shown.layered[Signal.ATTENTION, 1].shape[:2] == (3, 2)
    assert shown.teachers is None  # it did not ask


def test_each_teachers_logits_go_to_the_strategy_that_asks(prepared: prepare.Prepared) -> None:
    several = strategy_of(prepared, "several", temperature=2.0, alpha=0.5)
    shown = teaching_of(prepared, several).outputs(ROWS, batch_of(ROWS))
    assert shown is not None
    assert shown.teachers is not None
    assert prepared.assets.several is not None
    assert prepared.assets.several.train_set is not None
    np.testing.assert_array_equal(shown.teachers.numpy(), prepared.assets.several.train_set[:, ROWS])
    lacking = replace(prepared.assets, several=Several(None, prepared.assets.several.validation))
    with pytest.raises(ValueError, match="these assets have the logits of one"):
        Teaching(several, lacking, lacking.info, torch.device("cpu"))


def test_the_private_copy_of_joint_training_is_the_main_teachers_and_drifts_from_it(prepared: prepare.Prepared) -> None:
    teaching = teaching_of(prepared, strategy_of(prepared, "joint", **JOINT))
    shown = teaching.outputs(ROWS, batch_of(ROWS))
    assert shown is not None
    assert prepared.assets.several is not None
    assert prepared.assets.several.train_set is not None
    np.testing.assert_allclose(shown.logits.detach().numpy(), prepared.assets.several.train_set[0, ROWS], atol=1e-5)
    assert teaching.drift() == {"accuracy": 0.0, "macro_f1": 0.0, "mcc": 0.0}


# --- a whole search, and what is made of it


@pytest.fixture(scope="module")
def searched(world: Path) -> Path:
    """Searched in this process, without Ray."""

    def drive(run: StudyRun, assets: Assets, **_: Any) -> None:
        while (given := run.next_trial("here")) is not None:
            run.ended("here", trial.run(TrialSpec.from_json(json.loads(given["spec"])), assets))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search.ray_session, "session", lambda *_: nullcontext())
        patch.setattr(search.ray_session, "places", lambda *_: 1)
        bridge = SimpleNamespace(drive=drive)
        patch.setitem(sys.modules, "kdsearch.hpo.ray_tune", bridge)
        patch.setattr(kdsearch.hpo, "ray_tune", bridge, raising=False)
        return search.search(out=world / "studies", console=Console(file=StringIO()), **keys(world)).folder


def test_a_search_with_two_teachers_is_confirmed_against_their_mean(
    searched: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = json.loads((searched / "front.json").read_text())
    assert document["trials"] == {"complete": 10, "stopped": 0, "failed": 0}
    specs = [record["spec"]["strategy"] for record in read_log(searched / "ledger.jsonl") if record["event"] == "started"]
    assert {"logit", "several", "joint"} <= set(specs)
    manifest = json.loads((searched / "manifest.json").read_text())
    assert [set(each) for each in document["teachers"]] == [{"source", "fingerprint", "params", "validation"}] * 2
    assert document["teacher"]["params"] == sum(each["params"] for each in document["teachers"])
    assert set(document["teacher"]) == {"params", "bytes", "flops", "validation", "test"}
    assert document == StudyFolder(searched).document()

    def here(specs: Sequence[TrialSpec], assets: Any, **_: Any) -> Iterator[tuple[int, TrialResult]]:
        for place, spec in enumerate(specs):
            yield place, trial.run(spec, assets)

    monkeypatch.setattr(confirm_runs, "train_all", here)
    copied = Path(shutil.copytree(searched, tmp_path / "two"))
    told = confirm.confirm(copied, console=Console(file=StringIO()))
    table = splits.open_test(study_file.from_mapping(yaml.safe_load((copied / "study.yaml").read_text())))
    prepared = prepared_of(keys(world))
    assert prepared.forwards == 0
    expected = tasks.of("classification").scores(prepared.taught(table), table.labels)
    assert {name: told["teacher"]["test"][name] for name in expected} == expected
    analysed = json.loads(next((copied / "analysis").glob("*.json")).read_text())
    assert analysed["rows"] == len(table)

    # Another second teacher, of the same name and place, is another study.
    manifest["teacher"]["fingerprint"] = "another"
    (copied / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(StateError, match="its teacher changed since it was begun"):
        confirm.confirm(copied, seeds=2, console=Console(file=StringIO()))


def test_the_teachers_of_a_study_may_not_change_on_resume(searched: Path, world: Path) -> None:
    second, first = ({"model": str(world / name)} for name in ("second", "first"))
    with pytest.raises(StateError, match="its teacher changed since it was begun"):
        kdsearch.search(out=world / "studies", **keys(world, second, first))
    with pytest.raises(StateError, match=r"teacher\[1\].model: .*second.* -> \(not there\)"):
        kdsearch.search(out=world / "studies", **keys(world, first, strategies=STRATEGIES))


def test_cards_and_reports_name_all_teachers(searched: Path) -> None:
    facts = Facts.read(searched)
    assert facts.teacher_name == "first and second"
    assert card._teacher_name(facts.study, facts.manifest) == "the mean of `first` and `second`"
    assert card._base_model({"teacher": [{"model": "a/b"}, {"model": None}, {"model": "c/d"}]}) == ["a/b", "c/d"]


def test_the_commands_take_a_list(world: Path, searched: Path) -> None:
    path = world / "two.yaml"
    path.write_text(json.dumps(keys(world)))
    console = Console(file=StringIO(), width=200)
    dry_run.show(study_file.load(path), console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "2: students learn from the mean of their predictions" in shown
    assert "several" in shown
    commands = typer.Typer()
    commands.command()(app.teacher)
    done = CliRunner().invoke(commands, [str(path)])
    assert done.exit_code == 0, done.output
    assert "teacher[1]" in done.output
    alone = CliRunner().invoke(commands, [str(path), "--set", f"teacher={{model: {world / 'first'}}}", "--set", "space.strategies=[logit]"])
    assert alone.exit_code == 0, alone.output
    assert "teacher[" not in alone.output
