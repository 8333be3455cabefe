"""Variants of training texts."""

from __future__ import annotations

import numpy as np
import torch
import worlds

from kdsearch.augment import augment
from kdsearch.data import Table

LINES, LABELS = worlds.texts(50)
WORDS = torch.eye(100, 16)


def table(pairs: list[str] | None = None) -> Table:
    return Table(LINES, pairs, LABELS)


def test_variants_are_new_texts_without_labels() -> None:
    more = augment(table(), 3, worlds.tokenizer(), WORDS, 0)
    assert 40 < len(more.texts) <= 150  # these words have no neighbours and the tokenizer no mask, so half of the texts stay as they are
    assert not set(more.texts) & set(LINES)
    assert len(set(more.texts)) == len(more.texts)
    assert set(more.labels.tolist()) == {-100}


def test_the_same_seed_gives_the_same_variants() -> None:
    one, other, third = (augment(table(), 1, worlds.tokenizer(), WORDS, seed) for seed in (0, 0, 1))
    assert one.texts == other.texts
    assert one.texts != third.texts


def test_words_are_replaced_by_the_nearest_of_the_teachers_embeddings() -> None:
    # two words that are each other's nearest, among others that point elsewhere
    lines = ["apple pear stone cloud"] * 1
    tokenizer = worlds.tokenizer()
    tokenizer.add_tokens(["apple", "pear", "stone", "cloud"])
    vectors = torch.zeros(104, 3)
    vectors[100:] = torch.tensor([[1.0, 0, 0], [0.9, 0.1, 0], [0, 1.0, 0], [0, 0.9, 0.4]])
    from kdsearch.augment import _neighbours

    near = _neighbours(Table(lines, None, np.zeros(1, np.int64)), tokenizer, vectors)
    assert (near["apple"][0], near["pear"][0], near["stone"][0]) == ("pear", "apple", "cloud")


def test_pairs_stay_pairs() -> None:
    more = augment(table(pairs=LINES[::-1]), 1, worlds.tokenizer(), WORDS, 0)
    assert more.pairs is not None
    assert len(more.pairs) == len(more.texts)
