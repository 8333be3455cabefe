"""Texts become the same token ids every time, without padding."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from kdsearch.data.tokens import Table, Tokens, tokenise

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, **{word: number for number, word in enumerate(WORDS, start=4)}}
    model = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    model.pre_tokenizer = WhitespaceSplit()
    model.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="[PAD]", model_input_names=["input_ids", "token_type_ids", "attention_mask"]
    )


def table(texts: list[str], pairs: list[str] | None = None) -> Table:
    return Table(texts, pairs, np.zeros(len(texts), np.int64))


def test_texts_become_unpadded_rows_of_ids(tokenizer: PreTrainedTokenizerFast) -> None:
    tokens = tokenise(table(["one two", "three", "one two three four five"]), tokenizer, 5)
    assert tokens.ids.tolist() == [2, 4, 5, 3, 2, 6, 3, 2, 4, 5, 6, 3]
    assert tokens.offsets.tolist() == [0, 4, 7, 12]
    assert tokens.lengths.tolist() == [4, 3, 5]
    assert tokens.types is None
    assert tokens.ids.dtype == np.int32
    assert tokens.offsets.dtype == np.int64


def test_pairs_keep_their_types_and_the_longer_text_is_cut_first(tokenizer: PreTrainedTokenizerFast) -> None:
    tokens = tokenise(table(["one", "one two three four five"], ["two", "six"]), tokenizer, 6)
    assert tokens.ids.tolist() == [2, 4, 3, 5, 3, 2, 4, 5, 3, 9, 3]
    assert tokens.types is not None
    assert tokens.types.tolist() == [0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1]
    assert tokens.types.dtype == np.int8


def test_a_tokenizer_without_types_gives_none(tokenizer: PreTrainedTokenizerFast) -> None:
    plain = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, pad_token="[PAD]", model_input_names=["input_ids", "attention_mask"]
    )
    assert tokenise(table(["one"], ["two"]), plain, 8).types is None


def test_rows_of_several_batches_stay_in_order(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = [WORDS[n % 10] for n in range(2500)]
    tokens = tokenise(table(texts), tokenizer, 8)
    assert len(tokens) == 2500
    assert tokens.ids[1::3].tolist() == [4 + n % 10 for n in range(2500)]
    assert len(tokenise(table([]), tokenizer, 8)) == 0


def test_rows_of_tokens_are_cut_out_whole_and_in_order() -> None:
    tokens = Tokens(np.array([5, 6, 7, 8, 9, 10], np.int32), np.array([0, 2, 3, 3, 6]), np.array([0, 1, 0, 0, 1, 1], np.int8))
    cut = tokens.rows(np.array([3, 2, 0]))
    assert cut.ids.tolist() == [8, 9, 10, 5, 6]
    assert cut.offsets.tolist() == [0, 3, 3, 5]
    assert cut.types is not None
    assert cut.types.tolist() == [0, 1, 1, 0, 1]
