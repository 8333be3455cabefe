"""Pruned vocabularies."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import worlds
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerFast

from kdsearch.api import Signal
from kdsearch.config import study_file
from kdsearch.data import vocabulary
from kdsearch.data.tokens import Table, Tokens, tokenise
from kdsearch.registry import registry
from kdsearch.space.explore import explore
from kdsearch.study import prepare
from kdsearch.testing import tiny_info, tiny_teacher

LETTERS = [letter for character in "abdenortuy" for letter in (character, "##" + character)]
PIECES = ["[PAD]", "unused", "[UNK]", "[CLS]", "[SEP]", *LETTERS, "under", "##try", "on", "tree"]


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordPiece({piece: index for index, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [("[CLS]", 3), ("[SEP]", 4)]
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")


def rows(tokenizer: PreTrainedTokenizerFast, *texts: str) -> Tokens:
    return tokenise(Table(list(texts), None, np.zeros(len(texts), np.int64)), tokenizer, 32)


def names(pieces: np.ndarray) -> list[str]:
    return [PIECES[index] for index in pieces]


def test_what_nothing_can_be_spelt_without_comes_first_then_what_occurs_most(tokenizer: PreTrainedTokenizerFast) -> None:
    order, minimum = vocabulary.order(tokenizer, [rows(tokenizer, "under tree", "under", "on")])
    assert set(names(order[:minimum])) == {"[PAD]", "[UNK]", "[CLS]", "[SEP]", *LETTERS}
    assert names(order[minimum:]) == ["under", "on", "tree"]


def test_sizes_end_with_every_piece_that_occurs() -> None:
    assert vocabulary.sizes(np.arange(5000), 900) == (1000, 2000, 4000, 5000)
    assert vocabulary.sizes(np.zeros(0, np.int64), 0) == ()


def files(tokenizer: PreTrainedTokenizerFast, folder: Path) -> dict[str, bytes]:
    tokenizer.save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_word_whose_piece_is_gone_is_spelt_with_smaller_ones(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    order, minimum = vocabulary.order(tokenizer, [rows(tokenizer, "under under tree")])
    kept = order[: minimum + 1]  # "under" stays, "tree" goes
    pruned = vocabulary.pruned_files(files(tokenizer, tmp_path), kept)
    own = vocabulary.load(pruned, tokenizer)
    assert own.convert_ids_to_tokens(own("under tree")["input_ids"]) == ["[CLS]", "under", "t", "##r", "##e", "##e", "[SEP]"]


def test_the_saved_tokenizer_loads_with_stock_code_and_gives_the_same_ids(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    order, minimum = vocabulary.order(tokenizer, [rows(tokenizer, "under tree on")])
    (tmp_path / "whole").mkdir()
    pruned = vocabulary.pruned_files(files(tokenizer, tmp_path / "whole"), order[: minimum + 2])
    (tmp_path / "pruned").mkdir()
    for name, content in pruned.items():
        (tmp_path / "pruned" / name).write_bytes(content)
    stock = AutoTokenizer.from_pretrained(tmp_path / "pruned", local_files_only=True)
    own = vocabulary.load(pruned, tokenizer)
    for text in ("under tree on", "bound entry", "tree"):
        assert stock(text)["input_ids"] == own(text)["input_ids"]
    assert len(stock) == minimum + 2
    assert json.loads(pruned["tokenizer.json"])["model"]["vocab"]["[PAD]"] == own.pad_token_id


# Tokens added beside the model's own


@pytest.fixture(params=["PreTrainedTokenizerFast", "BertTokenizer"])
def marked(request: pytest.FixtureRequest, tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """With a special token, as tasks on entities have them, and a plain one of two words."""
    if request.param == "BertTokenizer":
        tokenizer = BertTokenizer(vocab={piece: index for index, piece in enumerate(PIECES)}, mask_token="[UNK]")
    tokenizer.add_special_tokens({"additional_special_tokens": ["[E1]"]})
    tokenizer.add_tokens(["on tree"])
    assert tokenizer.convert_tokens_to_ids(["[E1]", "on tree"]) == [len(PIECES), len(PIECES) + 1]
    return tokenizer


@pytest.mark.parametrize("texts", [("under [E1] tree", "on tree under"), ("under tree", "on")])
def test_tokens_added_beside_the_model_are_pruned_like_any_and_load_with_stock_code(
    marked: PreTrainedTokenizerFast, tmp_path: Path, texts: tuple[str, ...]
) -> None:
    order, minimum = vocabulary.order(marked, [rows(marked, *texts)])
    assert len(PIECES) in order[:minimum]  # a special token, in the texts or not
    assert (len(PIECES) + 1 in order) == ("on tree under" in texts)
    (tmp_path / "whole").mkdir()
    whole = files(marked, tmp_path / "whole")
    for size in range(minimum, len(order) + 1):
        pruned = vocabulary.pruned_files(whole, order[:size])
        folder = tmp_path / str(size)
        folder.mkdir()
        for name, content in pruned.items():
            (folder / name).write_bytes(content)
        stock = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        own = vocabulary.load(pruned, marked)
        assert len(stock) == len(own) == size
        old = {index: piece for piece, index in marked.get_vocab().items()}
        for new, piece in enumerate(vocabulary.numbered(whole, order[:size])):  # the rows of the teacher's table, in the student's order
            assert stock.convert_ids_to_tokens(new) == own.convert_ids_to_tokens(new) == old[piece]
        assert "[E1]" not in json.loads(pruned["tokenizer.json"])["model"]["vocab"]
        for text in (*texts, "under [E1] on tree", "bound[E1]entry"):
            assert stock(text)["input_ids"] == own(text)["input_ids"]
        assert own.convert_ids_to_tokens(own("on [E1]")["input_ids"])[-2:] == ["[E1]", "[SEP]"]


def test_an_added_token_that_is_not_kept_is_spelt(marked: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    order, minimum = vocabulary.order(marked, [rows(marked, "on tree", "under under")])
    own = vocabulary.load(vocabulary.pruned_files(files(marked, tmp_path), order[: minimum + 1]), marked)
    assert own.convert_ids_to_tokens(own("on tree under")["input_ids"])[1:-1] == ["o", "##n", "t", "##r", "##e", "##e", "under"]


def test_a_study_whose_teacher_has_an_added_token_gives_it_the_teachers_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDSEARCH_CACHE", str(tmp_path / "cache"))
    teacher, own = worlds.good_teacher(), worlds.tokenizer()
    own.add_special_tokens({"additional_special_tokens": ["[E1]"]})
    teacher.resize_token_embeddings(len(own), mean_resizing=False)
    for part in (teacher, own):
        part.save_pretrained(tmp_path / "teacher")
    lines, labels = worlds.texts(300)
    table = pd.DataFrame({"text": [f"[E1] {line}" for line in lines], "label": labels})
    table.to_csv(tmp_path / "texts.csv", index=False)
    study = study_file.from_mapping(
        {
            "name": "marked",
            "data": {"files": {"train": str(tmp_path / "texts.csv")}, "max_length": 16},
            "teacher": {"model": str(tmp_path / "teacher")},
            "space": {"families": ["bilstm"], "strategies": ["logit"]},
        }
    )
    assets = prepare.prepare(prepare.inspect(study)).assets
    (pruned,) = assets.vocabularies.values()  # every piece of the texts, and the special ones
    assert pruned.subwords[-1] == 100
    assert set(pruned.subwords[:4]) == {0, 1, 2, 3}
    np.testing.assert_array_equal(pruned.subwords[pruned.train_set.ids], assets.train_set.tokens.ids)
    rows_of = [assets.teacher(each).get_input_embeddings().weight for each in (None, pruned)]
    assert torch.equal(rows_of[1], rows_of[0][torch.from_numpy(pruned.subwords)])


def test_a_tokenizer_of_another_kind_keeps_its_vocabulary() -> None:
    backend = Tokenizer(models.BPE({"a": 0, "b": 1, "[UNK]": 2}, [], unk_token="[UNK]"))
    other = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    order, minimum = vocabulary.order(other, [])
    assert (len(order), minimum) == (0, 0)


def test_sizes_that_only_students_over_a_limit_showed_are_made_too() -> None:
    """Within 1,500 parameters all drawn students have 1,000 subwords; where another family or rank is small enough, a search asks for more."""
    teacher = replace(tiny_info(tiny_teacher(labels=2)), vocab=30_000, vocabularies=(1_000, 2_000, 8_000), provides=frozenset(Signal))
    space = {"families": ["mlp"], "strategies": ["logit"], "knobs": {"mlp.bigrams": 0}}
    study = study_file.from_mapping(
        {
            "name": "tight",
            "data": {"preset": "rotten_tomatoes"},
            "teacher": {"preset": "minilm"},
            "space": space,
            "search": {"limits": {"params": 1_500}},
        }
    )
    found = explore(study, registry.load(["mlp"], ["logit"], []), teacher)
    assert {each.info.vocab for each in found.candidates} == {1_000}
    assert {1_000, 2_000, 8_000} <= found.vocabularies
