"""Variants of training texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import worlds

from kdsearch.config import study_file
from kdsearch.data import splits
from kdsearch.data.augment import augment, refuse_unspaced
from kdsearch.data.splits import row_keys
from kdsearch.data.tokens import Table
from kdsearch.errors import InputError
from kdsearch.study import prepare

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


def test_no_variant_is_a_judged_text_or_a_training_text_in_other_letters_or_spacing() -> None:
    free = augment(table(), 8, worlds.tokenizer(), WORDS, 0)
    held = [f"  {text.upper().replace(' ', '   ')}" for text in free.texts[:40]]
    judged = frozenset(row_keys(Table(held, None, np.zeros(40, np.int64))))
    sealed = augment(table(), 8, worlds.tokenizer(), WORDS, 0, judged)
    assert sealed.texts == free.texts[40:]
    loud = Table(["A  Good MOVIE", "a bad movie"], None, np.array([0, 1]))
    assert not len(augment(loud, 5, worlds.tokenizer(), WORDS, 0))  # three words, no neighbours, no mask: each variant is its own text


def test_a_study_holds_its_variants_against_its_validation_and_test_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = worlds.save_world(tmp_path, ["bad", "fair", "good"])
    monkeypatch.setenv("KDSEARCH_CACHE", str(tmp_path / "cache"))
    study = study_file.from_mapping(
        {
            "name": "augmented",
            "data": {"files": {"train": str(world / "texts.csv")}, "augment": 1, "max_length": 16},
            "teacher": {"model": str(world / "teacher")},
            "space": {"strategies": ["logit"]},
        }
    )
    known, given = prepare.inspect(study), []

    def remembering(*arguments: Any) -> Table:
        given.append(arguments)
        return augment(*arguments)

    monkeypatch.setattr(prepare, "augment", remembering)
    notes = prepare.prepare(known).notes
    ((*_, judged, _task),) = given
    assert judged == {*row_keys(known.data.validation), *row_keys(splits.open_test(study))}
    asked, made = len(known.data.train), len(augment(*given[0]))
    assert made < asked / 2  # these words have no neighbours and the tokenizer no mask
    assert f"data.augment made {made} of {asked} variants: short texts, and words without neighbours, vary little" in notes


def test_of_a_pair_both_texts_make_the_key() -> None:
    free = augment(table(pairs=LINES[::-1]), 1, worlds.tokenizer(), WORDS, 0)
    single = frozenset(row_keys(Table(free.texts, None, free.labels)))
    assert augment(table(pairs=LINES[::-1]), 1, worlds.tokenizer(), WORDS, 0, single).texts == free.texts
    assert not len(augment(table(pairs=LINES[::-1]), 1, worlds.tokenizer(), WORDS, 0, frozenset(row_keys(free))))


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
    from kdsearch.data.augment import _neighbours

    near = _neighbours(Table(lines, None, np.zeros(1, np.int64)), tokenizer, vectors)
    assert (near["apple"][0], near["pear"][0], near["stone"][0]) == ("pear", "apple", "cloud")


def test_texts_without_blanks_between_words_are_refused() -> None:
    labels = np.zeros(3, np.int64)
    refuse_unspaced(Table(["one word", "refund", "Donaudampfschifffahrt ist ein langes Wort"], None, labels))
    with pytest.raises(InputError, match=r"data.augment: it varies the words between blanks, .* \(14 characters from blank to blank\)"):
        refuse_unspaced(Table(["这部电影真的非常好看我很喜欢", "一般般吧没有什么特别的地方啊", "short text"], None, labels))


def test_pairs_stay_pairs() -> None:
    more = augment(table(pairs=LINES[::-1]), 1, worlds.tokenizer(), WORDS, 0)
    assert more.pairs is not None
    assert len(more.pairs) == len(more.texts)
