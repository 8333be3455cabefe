"""Filters over windows of embeddings, and the strongest answer of each in the text. Dropout: 0.3 of what the head reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from kdsearch import Batch, Family, ModelInfo, Need, Outputs, Signal, Space, hookimpl, modules

PROVIDES = frozenset({Signal.LOGITS, Signal.POOLED})
BELOW = 3  # tokens that a filter of the layers below the top one spans


class Convolutional(nn.Module):
    """Embeddings, residual convolutions, filters of several spans with their maximum over time, one linear layer."""

    def __init__(self, family: Cnn, labels: int) -> None:
        super().__init__()
        self.width = family.width
        self.table = modules.fresh_table(family.vocabulary, family.dimension)
        self.below = nn.ModuleList(modules.Windows(family.dimension, family.dimension, BELOW) for _ in range(family.layers - 1))
        self.windows = nn.ModuleDict({str(span): modules.Windows(family.dimension, family.filters, span) for span in family.spans()})
        self.dropout = nn.Dropout(0.3)
        self.head = modules.Head(family.features, labels)

    def forward(self, batch: Batch, needs: Sequence[Need] = (Need(Signal.LOGITS),)) -> Outputs:
        states = [modules.lookup(self.table, batch.ids)]
        for layer in self.below:
            states.append(states[-1] + F.relu(layer(states[-1], batch.mask)))
        found = [modules.max_over_tokens(window(states[-1], batch.mask), batch.mask) for window in self.windows.values()]
        states.append(F.relu(torch.cat(found, -1)))
        logits = self.head(self.dropout(states[-1]))
        return modules.shown(logits, needs, states=states, mask=batch.mask, width=self.width, provides=PROVIDES)


@dataclass(frozen=True)
class Cnn(Family):
    """Every window at once, so it is the fastest family that knows the order of words. Its top state is the vector of maxima."""

    vocabulary: int  # subwords
    dimension: int  # of the embeddings
    layers: int  # the top one with its maxima included; those below keep the dimension and add to what they read
    widest: int  # filters span 2, 3, ... widest tokens
    filters: int  # of each span
    start: str  # random | embeddings (the teacher's, projected by SVD)

    name: ClassVar[str] = "cnn"
    source: ClassVar[str] = "Kim 2014, Convolutional Neural Networks for Sentence Classification, arXiv:1408.5882, section 2, eq. 2-4"
    provides: ClassVar[frozenset[Signal]] = PROVIDES
    lr_scale: ClassVar[float] = 10.0

    @classmethod
    def suggest(cls, space: Space, teacher: ModelInfo) -> dict[str, Any]:
        widest = space.integer("widest", 2, 4)
        # Drawn as features in all, which is what the head reads and the size depends on; each span has its share.
        features = space.integer("features", min(12, teacher.hidden), teacher.hidden, log=True)
        return {
            "vocabulary": space.choice("vocabulary", modules.vocabularies(teacher)),
            "dimension": space.integer("dimension", min(8, teacher.hidden), teacher.hidden, log=True),
            "layers": space.integer("layers", 1, 3),
            "widest": widest,
            "filters": max(1, features // (widest - 1)),
            "start": space.choice("start", ("embeddings", "random")),
        }

    @classmethod
    def known_good(cls, teacher: ModelInfo) -> list[dict[str, Any]]:
        common = {"vocabulary": modules.largest(teacher), "layers": 1, "widest": 4, "start": "embeddings"}
        return [{**common, "dimension": 32, "features": 96}, {**common, "dimension": 128, "features": 192}]

    def spans(self) -> range:
        return range(2, self.widest + 1)

    @property
    def features(self) -> int:
        return self.filters * len(self.spans())

    @property
    def width(self) -> int:
        """Of the widest state; the others are filled with zeros."""
        return max(self.dimension, self.features)

    def info(self, teacher: ModelInfo) -> ModelInfo:
        return modules.described(teacher, vocabulary=self.vocabulary, layers=self.layers, hidden=self.width, provides=self.provides)

    def size(self, teacher: ModelInfo) -> int:
        below = (self.layers - 1) * modules.Windows.size(self.dimension, self.dimension, BELOW)
        windows = sum(modules.Windows.size(self.dimension, self.filters, span) for span in self.spans())
        return self.vocabulary * self.dimension + below + windows + (self.features + 1) * teacher.labels

    def flops(self, teacher: ModelInfo, length: int) -> int:
        below = (self.layers - 1) * BELOW * self.dimension
        return 2 * (length * self.dimension * (below + self.filters * sum(self.spans())) + self.features * teacher.labels)

    def build(self, teacher: ModelInfo) -> nn.Module:
        return Convolutional(self, teacher.labels)

    def word_table(self, student: nn.Module) -> nn.Embedding:
        assert isinstance(student, Convolutional)
        return student.table

    def start_from(self, student: nn.Module, teacher: nn.Module) -> None:
        if self.start == "embeddings":
            modules.start_table(self.word_table(student), teacher, self.vocabulary)


@hookimpl
def kdsearch_families() -> Iterator[type[Family]]:
    yield Cnn
