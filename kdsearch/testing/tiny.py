"""A teacher that one can build anywhere in a few milliseconds, and eight sentences for it: random weights, but lively signals."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from kdsearch import tasks
from kdsearch.api import Batch, ModelInfo
from kdsearch.teacher import encoder

VOCAB = 100
CLASSES = 3
LENGTHS = (3, 9, 5, 7, 10, 4, 8, 6)  # tokens of the eight sentences


def tiny_teacher(
    *, layers: int = 2, hidden: int = 32, heads: int = 2, vocab: int = VOCAB, labels: int = CLASSES, seed: int = 0
) -> BertForSequenceClassification:
    """A random classifier in eval mode, without dropout; labels=1 makes it a regression. The global generator is left alone.

    Its weights are drawn ten times wider than BERT's: with BERT's own, logits and attention of a random model are as good as constant,
    and a loss that ignored them would pass for one that follows them.
    """
    settings: dict[str, Any] = {
        "vocab_size": vocab,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 2 * hidden,
        "max_position_embeddings": 64,
        "num_labels": labels,
        "problem_type": tasks.of(tasks.suiting_outputs(labels)).problem_type,
        "initializer_range": 0.2,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "attn_implementation": "eager",
    }
    config = BertConfig(**settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        teacher = BertForSequenceClassification(config)
    teacher.train(False)
    return teacher


def tiny_info(teacher: BertForSequenceClassification) -> ModelInfo:
    return encoder.info(teacher.config, tasks.suiting_outputs(teacher.config.num_labels))


def eight_sentences(*, labels: int = CLASSES, vocab: int = VOCAB, extra_columns: int = 0) -> Batch:
    """Eight rows of 3 to 10 random tokens, padded with id 0; classes 0, 1, 2, 0, 1, ..., or numbers from -1 to 1 when labels is 1.

    Args:
        extra_columns: padding beyond the longest row.
    """
    generator = torch.Generator().manual_seed(1)
    ids = torch.zeros(len(LENGTHS), max(LENGTHS) + extra_columns, dtype=torch.int64)
    mask = torch.zeros(ids.shape, dtype=torch.bool)
    for row, length in enumerate(LENGTHS):
        ids[row, :length] = torch.randint(1, vocab, (length,), generator=generator)
        mask[row, :length] = True
    rows = torch.arange(len(LENGTHS))
    answers: Tensor = torch.linspace(-1.0, 1.0, len(LENGTHS)) if labels == 1 else rows % labels
    return Batch(ids, mask, answers, rows)


def unlabelled(batch: Batch) -> Batch:
    """The same rows with no label known."""
    nothing = torch.from_numpy(batch.task_of_labels.unlabelled(len(batch.labels)))
    return Batch(batch.ids, batch.mask, nothing, batch.example, batch.types)


def reordered(batch: Batch, order: Tensor) -> Batch:
    types = None if batch.types is None else batch.types[order]
    return Batch(batch.ids[order], batch.mask[order], batch.labels[order], batch.example[order], types)
