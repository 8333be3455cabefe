"""Pruned vocabularies."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from kdsearch import vocabulary
from kdsearch.data import Table, Tokens, tokenise

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


def test_a_tokenizer_of_another_kind_keeps_its_vocabulary() -> None:
    backend = Tokenizer(models.BPE({"a": 0, "b": 1, "[UNK]": 2}, [], unk_token="[UNK]"))
    other = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    order, minimum = vocabulary.order(other, [])
    assert (len(order), minimum) == (0, 0)
