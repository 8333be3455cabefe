"""Value relations: which of a row's tokens have alike value vectors, in the student's top layer as in one of the teacher's."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from kdsearch import Batch, ModelInfo, Outputs, Signal, Space, Strategy, hookimpl, losses

SMALLEST_PART = 16  # of the teacher's value vectors, per relation head, as in the paper (768 / 48 and 1024 / 64)
PADDED = -1e4  # a score whose softmax is exactly 0; -inf would make 0 * inf of the divergence


@dataclass(frozen=True)
class RelationKD(Strategy):
    """weight * mean over relation heads and real tokens of KL(teacher's || student's), plus alpha * T^2 KL + (1 - alpha) * hard_loss.

    Relations are (S, S) whatever the widths: no projection, and no map of layers but the one pair.
    """

    relation_heads: int  # parts into which the value vectors of all heads together are split; divides both widths
    weight: float
    temperature: float
    alpha: float
    teacher_layer: int = -1  # counted from the top: in deep teachers a layer below the topmost teaches better

    name: ClassVar[str] = "relations"
    source: ClassVar[str] = "Wang et al. 2021, MiniLMv2, arXiv:2012.15828, section 3.1, value-value relations alone"
    reads: ClassVar[Signal] = Signal.VALUES

    @classmethod
    def suggest(cls, space: Space, teacher: ModelInfo, student: ModelInfo) -> dict[str, Any]:
        weight = space.real("weight", 0.03, 30.0, log=True)
        below = space.integer("below", 0, min(2, teacher.layers - 1))
        return {
            "relation_heads": relation_heads(teacher.hidden, student.hidden),
            "weight": weight,
            "temperature": losses.temperature(space, teacher),
            "alpha": space.alpha(),
            "teacher_layer": -1 - below,
        }

    def pairs(self, teacher: ModelInfo, student: ModelInfo) -> list[tuple[int, int]]:
        return [(-1, self.teacher_layer)]

    def loss(self, student: Outputs, teacher: Outputs | None, batch: Batch, extra: nn.Module | None, progress: float) -> dict[str, Tensor]:
        assert teacher is not None
        terms = losses.logit_terms(student, teacher, batch, self.temperature, self.alpha)
        mine = relations(student.layered[Signal.VALUES, -1], self.relation_heads, batch.mask)
        theirs = relations(teacher.layered[Signal.VALUES, self.teacher_layer], self.relation_heads, batch.mask)
        divergence = (theirs.exp() * (theirs - mine)).sum(-1).mean(1)  # (B, S)
        return {"relations": self.weight * losses.token_mean(divergence, batch.mask), **terms}


def relation_heads(teacher: int, student: int) -> int:
    """The largest number that divides both widths and leaves the teacher's vectors in parts of SMALLEST_PART or more."""
    both = math.gcd(teacher, student)
    return max(heads for heads in range(1, both + 1) if both % heads == 0 and heads <= max(1, teacher // SMALLEST_PART))


def relations(values: Tensor, heads: int, mask: Tensor) -> Tensor:
    """Values (B, A, S, H/A) -> log of softmax(v v' / sqrt(H/heads)) over real tokens: (B, heads, S, S)."""
    vectors = values.transpose(1, 2).flatten(2).unflatten(-1, (heads, -1)).transpose(1, 2)
    scores = vectors @ vectors.mT / math.sqrt(vectors.shape[-1])
    return scores.masked_fill(~mask[:, None, None, :], PADDED).log_softmax(-1)


@hookimpl
def kdsearch_strategies() -> Iterator[type[Strategy]]:
    yield RelationKD
