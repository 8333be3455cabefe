"""More texts from the training texts, without a network: nobody knows their labels, so the teacher labels them, once."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from kdsearch import tasks
from kdsearch.data.splits import row_key, row_keys
from kdsearch.data.tokens import Table
from kdsearch.errors import InputError

MASKED, REPLACED = 0.1, 0.15  # of the words
SPAN, GRAM = 0.25, 0.25  # of the texts: a span left out; only an n-gram kept
NEIGHBOURS = 8
LONGEST_GRAM = 5
LONGEST_WORD = 12  # characters between blanks, in the median text: beyond, words are not divided by blanks


def augment(
    train: Table,
    variants: int,
    tokenizer: PreTrainedTokenizerFast,
    words: Tensor,
    seed: int,
    judged: Collection[str] = frozenset(),
    task: str = "classification",
) -> Table:
    """Variants of each training text: words masked, words replaced by near ones, a span left out, or an n-gram alone.

    After Tang et al. 2019, arXiv:1903.12136, section 3.2 (masking, n-gram sampling), with TinyBERT's replacement by neighbours among the teacher's
    embeddings (Jiao et al. 2020, arXiv:1909.10351, section 3.2) in the place of words of the same part of speech. Of a pair, each text is varied.

    Args:
        variants: of each row.
        words: (V, H) the teacher's word table.
        judged: splits.row_keys of the validation and test rows.

    Returns:
        rows without labels; variants that are, case and spacing aside, another of them, a training text or a judged one are left out.
    """
    rng = np.random.default_rng(seed)
    near = _neighbours(train, tokenizer, words)
    mask = tokenizer.mask_token or ""
    seen = {*judged, *row_keys(train)}
    texts: list[str] = []
    pairs: list[str] = []
    for _ in range(variants):
        for row, text in enumerate(train.texts):
            fresh = _varied(text, near, mask, rng)
            other = None if train.pairs is None else _varied(train.pairs[row], near, mask, rng)
            if fresh and other != "" and (key := row_key(fresh, other)) not in seen:
                seen.add(key)
                texts.append(fresh)
                pairs.append(other or "")
    return Table(texts, None if train.pairs is None else pairs, tasks.of(task).unlabelled(len(texts)))


def refuse_unspaced(train: Table) -> None:
    """
    Raises:
        InputError: the texts do not divide words by blanks, as Chinese, Japanese and Thai do not, so that hardly a word could be varied.
    """
    length = np.median([len(text) / max(1, len(text.split())) for text in _all_texts(train)])
    if length > LONGEST_WORD:
        raise InputError(
            f"data.augment: it varies the words between blanks, and the training texts hardly have any ({length:.0f} characters from blank to "
            "blank): leave it out, or give more texts under data.unlabelled"
        )


def _varied(text: str, near: dict[str, list[str]], mask: str, rng: np.random.Generator) -> str:
    words = text.split()
    drawn = rng.random(len(words))
    for place, word in enumerate(words):
        if drawn[place] < MASKED and mask:
            words[place] = mask
        elif drawn[place] < MASKED + REPLACED and (choices := near.get(word.lower())):
            words[place] = choices[int(rng.integers(len(choices)))]
    kind = rng.random()
    if kind < SPAN and len(words) > 3:
        length = int(rng.integers(1, max(2, len(words) // 3)))
        start = int(rng.integers(len(words) - length + 1))
        words = words[:start] + words[start + length :]
    elif kind < SPAN + GRAM and len(words) > LONGEST_GRAM:
        length = int(rng.integers(2, LONGEST_GRAM + 1))
        start = int(rng.integers(len(words) - length + 1))
        words = words[start : start + length]
    return " ".join(words)


def _neighbours(train: Table, tokenizer: PreTrainedTokenizerFast, table: Tensor) -> dict[str, list[str]]:
    """Words of the training text that are a single subword -> the nearest others of them, by cosine."""
    vocab = tokenizer.get_vocab()
    spoken = {word for text in _all_texts(train) for word in text.lower().split()}
    words = sorted(word for word in spoken if word in vocab and word.isalpha())
    if len(words) < 2:
        return {}
    unit = torch.nn.functional.normalize(table[[vocab[word] for word in words]].float(), dim=-1)
    found: dict[str, list[str]] = {}
    for start in range(0, len(words), 1024):
        alike = unit[start : start + 1024] @ unit.T
        alike[torch.arange(len(alike)), torch.arange(start, start + len(alike))] = -1.0
        best = alike.topk(min(NEIGHBOURS, len(words) - 1)).indices.tolist()
        for word, places in zip(words[start : start + 1024], best, strict=True):
            found[word] = [words[place] for place in places]
    return found


def _all_texts(table: Table) -> Sequence[str]:
    return table.texts if table.pairs is None else [*table.texts, *table.pairs]
