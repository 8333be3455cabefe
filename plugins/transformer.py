"""A smaller BERT: depth, width, head size, feed-forward ratio, vocabulary, rank of the embedding, and what it starts from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import nn
from transformers import BertConfig, BertForSequenceClassification, ElectraConfig, ElectraForSequenceClassification, PreTrainedModel

from kdsearch import Encoder, Family, ModelInfo, Signal, Space, hookimpl, initialise, modules

HEAD_SIZES = (16, 32, 64)
RANKS = (32, 64, 128)


@dataclass(frozen=True)
class Transformer(Family):
    """A stock BertForSequenceClassification, at most as deep and as wide as the teacher.

    With an embedding rank below its width it is a stock ElectraForSequenceClassification: a BERT whose embeddings have a width of their own.
    """

    layers: int
    hidden: int  # a multiple of the head size
    head_size: int
    ff_ratio: int  # feed-forward width / hidden
    start: str  # random | embeddings (the teacher's, projected by SVD) | first, uniform, last (the teacher's layers, cut by importance)
    vocabulary: int | None = None  # subwords kept, one of the study's pruned vocabularies; None: the teacher's own
    embedding_rank: int | None = None  # width of the embedding tables; None: the student's own

    name: ClassVar[str] = "transformer"
    source: ClassVar[str] = (
        "Turc et al. 2019, Well-Read Students Learn Better, arXiv:1908.08962, section 3; starts from layers: Sanh et al. 2019"
    )
    provides: ClassVar[frozenset[Signal]] = frozenset(Signal)
    bfloat16: ClassVar[bool] = True

    @classmethod
    def suggest(cls, space: Space, teacher: ModelInfo) -> dict[str, Any]:
        own_size = teacher.hidden // teacher.heads
        sizes = tuple(size for size in HEAD_SIZES if own_size % size == 0) or (own_size,)  # so that a teacher's head falls into whole ones
        head_size = space.choice("head_size", sizes)
        ranks = tuple(rank for rank in RANKS if rank < teacher.hidden)
        # A log range keeps the order of widths visible to the sampler; rounding makes them multiples of the head size.
        width = space.integer("hidden", min(teacher.hidden, max(sizes)), teacher.hidden, log=True)
        hidden = min(teacher.hidden, max(1, round(width / head_size)) * head_size)
        return {
            "layers": space.integer("layers", 1, teacher.layers),
            "hidden": hidden,
            "head_size": head_size,
            "ff_ratio": space.integer("ff_ratio", 1, max(1, teacher.intermediate // teacher.hidden)),
            "start": space.choice("start", ("embeddings", "first", "uniform", "last", "random")),
            "vocabulary": space.choice("vocabulary", modules.vocabularies(teacher)),
            "embedding_rank": None if (rank := space.choice("embedding_rank", (0, *ranks))) in (0, hidden) else rank,
        }

    @classmethod
    def known_good(cls, teacher: ModelInfo) -> list[dict[str, Any]]:
        own_size, ratio = teacher.hidden // teacher.heads, max(1, teacher.intermediate // teacher.hidden)
        common = {"head_size": own_size, "ff_ratio": ratio, "embedding_rank": 0, "vocabulary": modules.largest(teacher)}
        narrow = {**common, "layers": 2, "hidden": teacher.hidden // 3, "start": "embeddings"}
        depths = range(1, max(2, teacher.layers // 2 + 1))
        return [narrow, *({**common, "layers": depth, "hidden": teacher.hidden, "start": "first"} for depth in depths)]

    @property
    def heads(self) -> int:
        return self.hidden // self.head_size

    def info(self, teacher: ModelInfo) -> ModelInfo:
        info = modules.described(
            teacher, vocabulary=self._subwords(teacher), layers=self.layers, hidden=self.hidden, provides=self.provides
        )
        return replace(info, heads=self.heads, intermediate=self.hidden * self.ff_ratio, embedding=self.embedding_rank or 0)

    def _subwords(self, teacher: ModelInfo) -> int:
        return self.vocabulary or teacher.vocab

    def size(self, teacher: ModelInfo) -> int:
        width, inner = self.hidden, self.hidden * self.ff_ratio
        rank = self.embedding_rank or width
        embeddings = (self._subwords(teacher) + teacher.positions + teacher.types + 2) * rank
        if self.embedding_rank is not None:
            embeddings += rank * width + width
        attention = 4 * (width * width + width) + 2 * width
        feed_forward = 2 * width * inner + inner + width + 2 * width
        pooler = width * width + width
        return embeddings + self.layers * (attention + feed_forward) + pooler + (width + 1) * teacher.labels

    def flops(self, teacher: ModelInfo, length: int) -> int:
        width, inner = self.hidden, self.hidden * self.ff_ratio
        attention = 4 * length * width * width + 2 * length * length * width
        feed_forward = 2 * length * width * inner
        projection = 0 if self.embedding_rank is None else length * self.embedding_rank * width
        return 2 * (projection + self.layers * (attention + feed_forward) + width * width + width * teacher.labels)

    def build(self, teacher: ModelInfo) -> nn.Module:
        shape: dict[str, Any] = {
            "vocab_size": self._subwords(teacher),
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "intermediate_size": self.hidden * self.ff_ratio,
            "max_position_embeddings": teacher.positions,
            "type_vocab_size": teacher.types,
            "hidden_act": teacher.activation,
            "layer_norm_eps": teacher.eps,
            # A padding row gets no gradient, and BERT's own, row 0, is <s> or any other piece in other vocabularies. Padding is masked anyway.
            "pad_token_id": None,
            "num_labels": teacher.labels,
            "problem_type": teacher.problem_type,
        }
        if self.embedding_rank is None:
            return Encoder(BertForSequenceClassification(BertConfig(**shape)))
        return Encoder(ElectraForSequenceClassification(ElectraConfig(embedding_size=self.embedding_rank, **shape)))

    def start_from(self, student: nn.Module, teacher: nn.Module) -> None:
        if self.start == "random":
            return
        assert isinstance(student, Encoder)
        assert isinstance(teacher, PreTrainedModel)
        weights = initialise.bert_names(teacher)
        mine = initialise.bert_names(student.model)
        if self.start == "embeddings":
            initialise.start_embeddings(mine, weights)
            return
        initialise.start_layers(
            mine,
            weights,
            layers=self.layers,
            heads=self.heads,
            teacher_layers=teacher.config.num_hidden_layers,
            teacher_heads=teacher.config.num_attention_heads,
            kind=self.start,
        )

    def word_table(self, student: nn.Module) -> nn.Embedding:
        assert isinstance(student, Encoder)
        table = student.model.get_input_embeddings()
        assert isinstance(table, nn.Embedding)
        return table

    def stock(self, student: nn.Module) -> nn.Module:
        assert isinstance(student, Encoder)
        return student.model


@hookimpl
def kdsearch_families() -> Iterator[type[Family]]:
    yield Transformer
