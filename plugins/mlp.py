"""A bag of subwords and bigrams under a small network; without a hidden layer, the linear model with one weight a feature."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdsearch import Batch, Family, ModelInfo, Need, Outputs, Signal, Space, hookimpl, modules

PROVIDES = frozenset({Signal.LOGITS, Signal.POOLED})
# Adam moves each weight by about the learning rate, and those of a linear model have ten times as far to go as an embedding's.
STRIDE = 10.0


class Scores(nn.Module):
    """Pooled weights (B, 1 or C) -> logits (B, C): nothing but a bias is missing. Between two classes one number decides, half of it for each."""

    def __init__(self, teacher: ModelInfo) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(_scores(teacher)))
        self.halved = len(self.bias) < teacher.labels

    def forward(self, state: Tensor) -> Tensor:
        scores = STRIDE * state + self.bias
        return torch.cat((-scores, scores), 1) / 2 if self.halved else scores


class Bag(nn.Module):
    """Embeds the subwords and known bigrams of a row and maps their sum, over the square root of their number, to logits. State 0 is their mean."""

    def __init__(self, family: Mlp, teacher: ModelInfo) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.2 if family.depth else 0.0)  # of whole features: Iyyer et al. 2015, section 3.1
        self.table = nn.Embedding(family.vocabulary + family.bigrams, family.dimension)
        self.bigrams = modules.Bigrams(family.bigrams, family.vocabulary) if family.bigrams else None
        self.vocabulary = family.vocabulary
        widths = [family.dimension] + [family.hidden] * family.depth
        self.hidden = nn.ModuleList(nn.Linear(below, above) for below, above in pairwise(widths))
        direct = family.direct(teacher)
        self.head = Scores(teacher) if direct else modules.Head(widths[-1], teacher.labels)
        self.width = max(widths)
        # A bigram that the training text does not have is never read; one that it has starts as silent as zero.
        nn.init.normal_(self.table.weight, std=1e-3 if direct else modules.WIDTH)
        nn.init.zeros_(self.table.weight[family.vocabulary :])

    def rescale(self, scale: float, shift: float) -> None:
        """For a regression without a hidden layer: the answer is linear in the table and the bias."""
        assert isinstance(self.head, Scores)
        with torch.no_grad():
            self.table.weight.mul_(scale)
            self.head.bias.mul_(scale).add_(shift)

    def forward(self, batch: Batch, needs: Sequence[Need] = (Need(Signal.LOGITS),)) -> Outputs:
        features, present = batch.ids, batch.mask
        if self.bigrams is not None:
            number, known = self.bigrams(batch.ids, batch.mask)
            features = torch.cat((features, self.vocabulary + number), 1)
            present = torch.cat((present, known), 1)
        weights = present.to(self.table.weight.dtype)
        count = weights.sum(1, keepdim=True).clamp_min(1.0)
        weights = self.dropout(weights)
        # In full precision under autocast too: a weight near 1 would not notice steps below 0.004 in bfloat16.
        with torch.autocast(weights.device.type, enabled=False):
            total = (weights.unsqueeze(1) @ modules.lookup(self.table, features)).squeeze(1)
        # Over n itself the weights would have further to go, the longer the texts: a learning rate four times as high (docs/families.md).
        state, states = total / count.sqrt(), [total / count]
        for layer in self.hidden:
            state = F.relu(layer(state))
            states.append(state)
        return modules.shown(self.head(state), needs, states=states, mask=batch.mask, width=self.width, provides=PROVIDES)


@dataclass(frozen=True)
class Mlp(Family):
    """Embeddings of subwords and of the training text's most telling bigrams, pooled, then hidden layers.

    Depth 0 in `labels` dimensions has no head: the embeddings are the logits. Two classes then need one dimension, the difference of the two.
    """

    vocabulary: int  # subwords
    bigrams: int  # rows for pairs of neighbouring subwords
    depth: int  # hidden layers
    dimension: int  # of the embeddings
    hidden: int  # width of the hidden layers; 0 without any
    start: str  # random | embeddings (the teacher's, projected by SVD; a bigram as the mean of its two subwords)

    name: ClassVar[str] = "mlp"
    source: ClassVar[str] = (
        "Joulin et al. 2017, fastText, arXiv:1607.01759, section 2; hidden layers and dropped words: Iyyer et al. 2015, Deep Averaging Networks"
    )
    provides: ClassVar[frozenset[Signal]] = PROVIDES
    lr_scale: ClassVar[float] = 20.0

    @classmethod
    def suggest(cls, space: Space, teacher: ModelInfo) -> dict[str, Any]:
        shape = {
            "vocabulary": space.choice("vocabulary", modules.vocabularies(teacher)),
            "bigrams": space.integer("bigrams", 0, 40_000),
            "depth": space.integer("depth", 0, 2),
        }
        if shape["depth"] == 0:
            return {**shape, "dimension": _scores(teacher), "hidden": 0, "start": "random"}
        most = min(256, teacher.hidden)
        return {
            **shape,
            "dimension": space.integer("dimension", 2, most, log=True),
            "hidden": space.integer("hidden", min(8, most), most, log=True),
            "start": space.choice("start", ("embeddings", "random")),
        }

    @classmethod
    def known_good(cls, teacher: ModelInfo) -> list[dict[str, Any]]:
        sizes = modules.vocabularies(teacher)
        pruned = [size for size in sizes if size <= 12_000] or [sizes[0]]
        linear = {"vocabulary": pruned[-1], "depth": 0}
        deep = {"vocabulary": pruned[-1], "depth": 1, "dimension": 16, "hidden": 64, "start": "embeddings"}
        return [
            {**linear, "vocabulary": pruned[len(pruned) // 2], "bigrams": 3_000},
            {**linear, "bigrams": 11_000},
            {**linear, "bigrams": 40_000},
            {**deep, "bigrams": 11_000},
        ]

    def direct(self, teacher: ModelInfo) -> bool:
        """Whether the embeddings are the logits."""
        return self.depth == 0 and self.dimension == _scores(teacher)

    def info(self, teacher: ModelInfo) -> ModelInfo:
        hidden = max(self.dimension, self.hidden if self.depth else 0)
        return modules.described(teacher, vocabulary=self.vocabulary, layers=self.depth, hidden=hidden, provides=self.provides)

    def size(self, teacher: ModelInfo) -> int:
        table = (self.vocabulary + self.bigrams) * self.dimension
        if self.direct(teacher):
            return table + self.dimension
        widths = [self.dimension] + [self.hidden] * self.depth + [teacher.labels]
        return table + sum((below + 1) * above for below, above in pairwise(widths))

    def flops(self, teacher: ModelInfo, length: int) -> int:
        features = 2 * length if self.bigrams else length
        widths = [self.dimension] + [self.hidden] * self.depth
        if not self.direct(teacher):
            widths.append(teacher.labels)
        return 2 * (features * self.dimension + sum(below * above for below, above in pairwise(widths)))

    def build(self, teacher: ModelInfo) -> nn.Module:
        return Bag(self, teacher)

    def observe(self, student: nn.Module, ids: Tensor, offsets: Tensor, answers: Tensor) -> None:
        assert isinstance(student, Bag)
        if student.bigrams is not None:
            student.bigrams.observe(ids, offsets, answers)

    def word_table(self, student: nn.Module) -> nn.Embedding | None:
        assert isinstance(student, Bag)
        return student.table if student.bigrams is None else None  # the keys of bigrams are made of token ids, which have to stay

    def start_from(self, student: nn.Module, teacher: nn.Module) -> None:
        if self.start == "random":
            return
        assert isinstance(student, Bag)
        modules.start_table(student.table, teacher, self.vocabulary)
        if student.bigrams is not None:
            number, first, second = student.bigrams.pieces()
            with torch.no_grad():
                rows = student.table.weight
                rows[self.vocabulary + number] = (rows[first] + rows[second]) / 2


def _scores(teacher: ModelInfo) -> int:
    """Numbers that decide between the classes of a linear model."""
    return 1 if teacher.exclusive and teacher.labels == 2 else teacher.labels


@hookimpl
def kdsearch_families() -> Iterator[type[Family]]:
    yield Mlp
