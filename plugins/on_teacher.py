"""A small network on the teacher's own features: its embeddings and first layers, a learned map, and a target network that reads the result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel, ElectraConfig, ElectraModel, PreTrainedModel

from kdsearch import Batch, Family, ModelInfo, Need, Outputs, Signal, Space, hookimpl, initialise, modules

PROVIDES = frozenset({Signal.LOGITS, Signal.POOLED})
SPANS = (2, 3)  # of the filters of CnnTarget


class BagTarget(nn.Module):
    """(B, S, W) -> (B, W): a hidden layer over the mean."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, width)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        return F.relu(self.hidden(modules.mean_over_tokens(states, mask)))

    @staticmethod
    def size(width: int) -> int:
        return (width + 1) * width

    @staticmethod
    def products(width: int) -> tuple[int, int]:
        """Multiply-adds of one token, and of one text besides."""
        return 0, width * width


class BiLstmTarget(nn.Module):
    """(B, S, W) -> (B, W): the mean of a BiLSTM layer's states."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = modules.BothWays(width, width // 2)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        return modules.mean_over_tokens(self.layer(states, mask), mask)

    @staticmethod
    def size(width: int) -> int:
        return modules.BothWays.size(width, width // 2)

    @staticmethod
    def products(width: int) -> tuple[int, int]:
        return modules.BothWays.products(width, width // 2), 0


class CnnTarget(nn.Module):
    """(B, S, W) -> (B, W): the maxima over time of filters of two spans."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.windows = nn.ModuleDict({str(span): modules.Windows(width, width // len(SPANS), span) for span in SPANS})

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        return F.relu(torch.cat([modules.max_over_tokens(window(states, mask), mask) for window in self.windows.values()], -1))

    @staticmethod
    def size(width: int) -> int:
        return sum(modules.Windows.size(width, width // len(SPANS), span) for span in SPANS)

    @staticmethod
    def products(width: int) -> tuple[int, int]:
        return width * (width // len(SPANS)) * sum(SPANS), 0


TARGETS: dict[str, type[BagTarget | BiLstmTarget | CnnTarget]] = {"bag": BagTarget, "bilstm": BiLstmTarget, "cnn": CnnTarget}


class OnTeacher(nn.Module):
    """The teacher's embeddings and first layers, the map into the target's input, the target, one linear layer."""

    def __init__(self, family: TeacherFeatures, teacher: ModelInfo) -> None:
        super().__init__()
        self.tuned, self.wide, self.narrow = family.tuned, teacher.hidden, teacher.embedding
        shape: dict[str, Any] = {
            "vocab_size": family.vocabulary,
            "hidden_size": teacher.hidden,
            "num_hidden_layers": family.layers,
            "num_attention_heads": teacher.heads,
            "intermediate_size": teacher.intermediate,
            "max_position_embeddings": teacher.positions,
            "type_vocab_size": teacher.types,
            "hidden_act": teacher.activation,
            "layer_norm_eps": teacher.eps,
            "attn_implementation": "eager",
        }
        self.teacher: PreTrainedModel
        if self.narrow:  # a projection from its tables into the first layer
            self.teacher = ElectraModel(ElectraConfig(embedding_size=teacher.embedding, **shape))
        else:
            self.teacher = BertModel(BertConfig(**shape), add_pooling_layer=False)
        width = family.width
        mapping: list[nn.Module] = [nn.Linear(teacher.hidden, width)]
        if family.mapping == "mlp":
            mapping += [nn.GELU(), nn.Linear(width, width)]
        self.mapping = nn.Sequential(*mapping)
        self.target = TARGETS[family.target](width)
        self.head = modules.Head(width, teacher.labels)

    def train(self, mode: bool = True) -> OnTeacher:
        super().train(mode)
        if not self.tuned:
            self.teacher.eval()  # dropout in what is frozen would be noise in the target's input
        return self

    def _features(self, batch: Batch) -> list[Tensor]:
        """State 0 to k of the teacher, (B, S, H) each; layer by layer, for transformers shows no state 0 of a model without layers."""
        words = modules.lookup(self.teacher.get_input_embeddings(), batch.ids)
        types = batch.types if self.teacher.config.type_vocab_size > 1 else None
        embedded = self.teacher.embeddings(inputs_embeds=words, token_type_ids=types)
        states = [self.teacher.embeddings_project(embedded) if self.narrow else embedded]
        hidden = torch.finfo(words.dtype).min * (~batch.mask).to(words.dtype)[:, None, None, :]
        for layer in self.teacher.encoder.layer:
            states.append(layer(states[-1], hidden))
        return states

    def forward(self, batch: Batch, needs: Sequence[Need] = (Need(Signal.LOGITS),)) -> Outputs:
        if self.tuned:
            features = self._features(batch)
        else:
            with torch.no_grad():  # no gradient reaches them, so the optimiser leaves them as they are
                features = self._features(batch)
        state = self.target(self.mapping(features[-1]), batch.mask)
        return modules.shown(self.head(state), needs, states=[*features, state], mask=batch.mask, width=self.wide, provides=PROVIDES)


@dataclass(frozen=True)
class TeacherFeatures(Family):
    """The lower part of the teacher at its full width, frozen or tuned, with a target network on top. All of it counts in the size.

    Its states are those of the teacher's part, then the vector that the head reads.
    """

    vocabulary: int  # subwords
    layers: int  # of the teacher's, from the lowest; 0: its embeddings alone
    tuned: bool  # whether the teacher's part is trained too
    mapping: str  # linear | mlp: into the target's input
    width: int  # of the target and its input; even
    target: str  # bag | bilstm | cnn

    name: ClassVar[str] = "on_teacher"
    source: ClassVar[str] = (
        "features of a frozen or tuned encoder: Peters et al. 2019, To Tune or Not to Tune?, arXiv:1903.05987, section 3; "
        "lower layers kept: Sajjad et al. 2023, arXiv:2004.03844, section 3.1"
    )
    provides: ClassVar[frozenset[Signal]] = PROVIDES
    bfloat16: ClassVar[bool] = True

    @classmethod
    def suggest(cls, space: Space, teacher: ModelInfo) -> dict[str, Any]:
        width = space.integer("width", min(16, teacher.hidden), teacher.hidden, log=True)
        return {
            "vocabulary": space.choice("vocabulary", modules.vocabularies(teacher)),
            "layers": space.integer("layers", 0, max(1, teacher.layers - 1)),
            "tuned": space.choice("tuned", (True, False)),
            "mapping": space.choice("mapping", ("linear", "mlp")),
            "width": max(2, width // 2 * 2),  # half for each direction of a BiLSTM, or for each span
            "target": space.choice("target", tuple(TARGETS)),
        }

    @classmethod
    def known_good(cls, teacher: ModelInfo) -> list[dict[str, Any]]:
        common = {"vocabulary": modules.largest(teacher), "tuned": True, "mapping": "linear", "width": 64, "target": "bag"}
        return [{**common, "layers": depth} for depth in (1, 2, 3)]

    def info(self, teacher: ModelInfo) -> ModelInfo:
        return replace(teacher, vocab=self.vocabulary, vocabularies=(), layers=self.layers + 1, provides=self.provides)

    def size(self, teacher: ModelInfo) -> int:
        wide, inner, width = teacher.hidden, teacher.intermediate, self.width
        narrow = teacher.embedding or wide
        embeddings = (self.vocabulary + teacher.positions + teacher.types + 2) * narrow
        if teacher.embedding:
            embeddings += (narrow + 1) * wide
        layer = 4 * (wide * wide + wide) + 2 * wide + 2 * wide * inner + inner + wide + 2 * wide
        mapping = (wide + 1) * width + ((width + 1) * width if self.mapping == "mlp" else 0)
        return embeddings + self.layers * layer + mapping + TARGETS[self.target].size(width) + (width + 1) * teacher.labels

    def flops(self, teacher: ModelInfo, length: int) -> int:
        wide, width = teacher.hidden, self.width
        projection = length * teacher.embedding * wide
        layer = length * (4 * wide * wide + 2 * length * wide + 2 * wide * teacher.intermediate)
        mapping = width * (wide + (width if self.mapping == "mlp" else 0))
        token, text = TARGETS[self.target].products(width)
        return 2 * (projection + self.layers * layer + length * (mapping + token) + text + width * teacher.labels)

    def build(self, teacher: ModelInfo) -> nn.Module:
        return OnTeacher(self, teacher)

    def word_table(self, student: nn.Module) -> nn.Embedding:
        assert isinstance(student, OnTeacher)
        table = student.teacher.get_input_embeddings()
        assert isinstance(table, nn.Embedding)
        return table

    def start_from(self, student: nn.Module, teacher: nn.Module) -> None:
        """Raises ValueError where the teacher's word table has other rows, or another width, than the student's."""
        assert isinstance(student, OnTeacher)
        assert isinstance(teacher, PreTrainedModel)
        weights = initialise.bert_names(teacher)
        words = weights["embeddings.word_embeddings.weight"]
        mine = self.word_table(student).weight
        if words.shape != mine.shape:
            raise ValueError(f"on_teacher: embeddings of shape {tuple(words.shape)} cannot start {tuple(mine.shape)}")
        with torch.no_grad():
            for name, parameter in student.teacher.named_parameters():
                rows = min(len(parameter), len(weights[name]))
                parameter[:rows] = weights[name][:rows]


@hookimpl
def kdsearch_families() -> Iterator[type[Family]]:
    yield TeacherFeatures
