"""Recurrent layers in both directions over embeddings. Dropout: 0.2 of the embeddings and of what the head reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from kdsearch import Batch, Family, ModelInfo, Need, Outputs, Signal, Space, hookimpl, modules

PROVIDES = frozenset({Signal.LOGITS, Signal.POOLED, Signal.HIDDEN})


class Recurrent(nn.Module):
    """Embeddings, BiLSTM layers, pooling over the real tokens, one linear layer."""

    def __init__(self, family: BiLstm, labels: int) -> None:
        super().__init__()
        self.pooling, self.width = family.pooling, family.width
        self.table = modules.fresh_table(family.vocabulary, family.dimension)
        self.layers = nn.ModuleList(modules.BothWays(inputs, family.hidden) for inputs in family.inputs())
        self.dropout = nn.Dropout(0.2)
        self.head = modules.Head(family.pooled, labels)

    def forward(self, batch: Batch, needs: Sequence[Need] = (Need(Signal.LOGITS),)) -> Outputs:
        states = [self.dropout(modules.lookup(self.table, batch.ids))]
        for layer in self.layers:
            states.append(layer(states[-1], batch.mask))
        pooled = modules.mean_over_tokens(states[-1], batch.mask)
        if self.pooling == "mean_max":
            pooled = torch.cat((pooled, modules.max_over_tokens(states[-1], batch.mask)), -1)
        logits = self.head(self.dropout(pooled))
        return modules.shown(logits, needs, states=states, mask=batch.mask, width=self.width, provides=PROVIDES)


@dataclass(frozen=True)
class BiLstm(Family):
    """Small and sequential: fast on one core for short texts, and knows the order of words."""

    vocabulary: int  # subwords
    dimension: int  # of the embeddings
    layers: int
    hidden: int  # of one direction
    pooling: str  # mean | mean_max (both, side by side)
    start: str  # random | embeddings (the teacher's, projected by SVD)

    name: ClassVar[str] = "bilstm"
    source: ClassVar[str] = (
        "Tang et al. 2019, Distilling Task-Specific Knowledge from BERT into Simple Neural Networks, arXiv:1903.12136, section 3.1"
    )
    provides: ClassVar[frozenset[Signal]] = PROVIDES
    lr_scale: ClassVar[float] = 10.0

    @classmethod
    def suggest(cls, space: Space, teacher: ModelInfo) -> dict[str, Any]:
        half = max(1, teacher.hidden // 2)
        return {
            "vocabulary": space.choice("vocabulary", modules.vocabularies(teacher)),
            "dimension": space.integer("dimension", min(8, teacher.hidden), teacher.hidden, log=True),
            "layers": space.integer("layers", 1, 2),
            "hidden": space.integer("hidden", min(8, half), half, log=True),
            "pooling": space.choice("pooling", ("mean_max", "mean")),
            "start": space.choice("start", ("embeddings", "random")),
        }

    @classmethod
    def known_good(cls, teacher: ModelInfo) -> list[dict[str, Any]]:
        common = {"vocabulary": modules.largest(teacher), "layers": 1, "pooling": "mean_max", "start": "embeddings"}
        return [{**common, "dimension": 32, "hidden": 32}, {**common, "dimension": 128, "hidden": 96}]

    @property
    def width(self) -> int:
        """Of the widest state; the others are filled with zeros."""
        return max(self.dimension, 2 * self.hidden)

    @property
    def pooled(self) -> int:
        return (4 if self.pooling == "mean_max" else 2) * self.hidden

    def inputs(self) -> list[int]:
        """What each layer reads."""
        return [self.dimension] + [2 * self.hidden] * (self.layers - 1)

    def info(self, teacher: ModelInfo) -> ModelInfo:
        return modules.described(teacher, vocabulary=self.vocabulary, layers=self.layers, hidden=self.width, provides=self.provides)

    def size(self, teacher: ModelInfo) -> int:
        recurrent = sum(modules.BothWays.size(inputs, self.hidden) for inputs in self.inputs())
        return self.vocabulary * self.dimension + recurrent + (self.pooled + 1) * teacher.labels

    def flops(self, teacher: ModelInfo, length: int) -> int:
        recurrent = sum(modules.BothWays.products(inputs, self.hidden) for inputs in self.inputs())
        return 2 * (length * recurrent + self.pooled * teacher.labels)

    def build(self, teacher: ModelInfo) -> nn.Module:
        return Recurrent(self, teacher.labels)

    def word_table(self, student: nn.Module) -> nn.Embedding:
        assert isinstance(student, Recurrent)
        return student.table

    def start_from(self, student: nn.Module, teacher: nn.Module) -> None:
        if self.start == "embeddings":
            modules.start_table(self.word_table(student), teacher, self.vocabulary)


@hookimpl
def kdsearch_families() -> Iterator[type[Family]]:
    yield BiLstm
