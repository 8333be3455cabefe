"""Small worlds for tests: a teacher, a tokenizer and texts with a rule that a small student can learn in a second."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertForSequenceClassification, PreTrainedTokenizerFast

from kdsearch.api import Need, Signal
from kdsearch.data import vocabulary
from kdsearch.data.tokens import Table, Tokens, tokenise
from kdsearch.data.vocabulary import Vocabulary
from kdsearch.io.files import digest
from kdsearch.student.assets import Assets, Part
from kdsearch.teacher.encoder import Encoder
from kdsearch.testing import tiny_info, tiny_teacher
from kdsearch.training.loop import Rows

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{index}" for index in range(96))]


def tokenizer() -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer of 100 words."""
    backend = Tokenizer(models.WordPiece({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", model_max_length=64
    )


def texts(count: int, classes: int = 3, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Sentences of 3 to 9 words; the class is the group (of `classes`) that most of the words come from."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    lines = []
    for label in labels:
        length = int(rng.integers(3, 10))
        group = np.where(rng.random(length) < 0.8, label, rng.integers(0, classes, length))
        lines.append(" ".join(f"w{index}" for index in group + classes * rng.integers(0, 96 // classes, length)))
    return lines, labels.astype(np.int64)


def good_teacher(classes: int = 3, steps: int = 150) -> BertForSequenceClassification:
    """The tiny teacher, taught the rule of `texts` in a few seconds."""
    torch.manual_seed(0)
    teacher = tiny_teacher(labels=classes, vocab=len(WORDS))
    lines, labels = texts(512, classes, seed=99)
    encoded = tokenizer()(lines, padding=True, return_tensors="pt")
    optimiser = torch.optim.AdamW(teacher.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        rows = torch.randint(0, len(lines), (64,), generator=generator)
        logits = teacher(input_ids=encoded["input_ids"][rows], attention_mask=encoded["attention_mask"][rows]).logits
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels)[rows]).backward()
        optimiser.step()
    return teacher.eval().requires_grad_(False)


def save_teacher(folder: Path, classes: int = 3, names: list[str] | None = None) -> Path:
    """A folder of `good_teacher` as save_pretrained writes it."""
    teacher = good_teacher(classes)
    if names is not None:
        teacher.config.id2label = dict(enumerate(names))
        teacher.config.label2id = {name: index for index, name in enumerate(names)}
    teacher.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def save_world(folder: Path, names: list[str]) -> Path:
    """teacher/, a folder as `save_teacher` writes it, and texts.csv, labelled by name."""
    save_teacher(folder / "teacher", names=names)
    lines, labels = texts(700)
    pd.DataFrame({"text": lines, "label": [names[label] for label in labels]}).to_csv(folder / "texts.csv", index=False)
    return folder


def as_tokens(lines: list[str]) -> Tokens:
    rows = tokenizer()(lines)["input_ids"]
    flat = np.array([piece for row in rows for piece in row], np.int32)
    return Tokens(flat, np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64), None)


def part(teacher: BertForSequenceClassification, lines: list[str], labels: np.ndarray, needs: list[Need]) -> Part:
    """Rows with the teacher's signals, computed here without the cache."""
    tokens = as_tokens(lines)
    batch = Rows(tokens, labels, pad=0, device=torch.device("cpu")).batch(np.arange(len(lines)))
    with torch.no_grad():
        said = Encoder(teacher)(batch, needs)
    signals: dict[Need, np.ndarray] = {Need(Signal.LOGITS): said.logits.numpy()}
    for need in needs:
        if need.layer is not None:
            value = said.layered[need.signal, need.layer]
            signals[need] = (value if need.signal is Signal.POOLED else value[batch.mask]).numpy()
    return Part(tokens, labels, signals)


def assets(
    teacher: BertForSequenceClassification,
    *,
    train: int = 256,
    validation: int = 128,
    unlabelled: int = 0,
    plugins: list[dict[str, object]],
) -> Assets:
    """Assets of the tiny world, with every pooled and token state cached, and one pruned vocabulary of 60 words."""
    info = tiny_info(teacher)
    lines, labels = texts(train + validation + unlabelled, info.labels)
    judged, labels[train + validation :] = slice(train, train + validation), -100
    rows = np.r_[0:train, train + validation : len(lines)]
    read = [lines[row] for row in rows]
    states = range(info.layers + 1)
    needs = [Need(Signal.LOGITS), *(Need(signal, state) for signal in (Signal.POOLED, Signal.HIDDEN) for state in states)]
    return Assets(
        task=info.task,
        quality="accuracy" if info.task == "classification" else "pearson",
        labels=tuple(f"class {index}" for index in range(info.labels)),
        info=replace(info, vocabularies=(60,)),
        max_length=32,
        pad=0,
        train_set=part(teacher, read, labels[rows], needs),
        labelled=train,
        unlabelled=unlabelled,
        augmented=0,
        validation=part(teacher, lines[judged], labels[judged], [Need(Signal.LOGITS)]),
        teacher_config=teacher.config.to_json_string(use_diff=False),
        teacher_weights={name: tensor.numpy() for name, tensor in teacher.state_dict().items()},
        teacher_fingerprint=digest(*(tensor.numpy().tobytes() for tensor in teacher.state_dict().values())),
        tokenizer=_files(),
        vocabularies={60: pruned(read, lines[judged])},
        plugins=plugins,
    )


def pruned(train_set: list[str], validation: list[str]) -> Vocabulary:
    """The first 60 words: what is spelt with others becomes [UNK], for this tokenizer has no single letters."""
    pieces = np.arange(60)
    files = vocabulary.pruned_files(_files(), pieces)
    own = vocabulary.load(files, tokenizer())
    rows = [tokenise(Table(lines, None, np.zeros(len(lines), np.int64)), own, 32) for lines in (train_set, validation)]
    return Vocabulary(pieces, files, 0, *rows)


def _files() -> dict[str, bytes]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        tokenizer().save_pretrained(folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}
