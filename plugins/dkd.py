"""Decoupled distillation: how sure the teacher is of the target, and how it ranks the other classes, each with a weight of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdsearch import Batch, ModelInfo, Outputs, Signal, Space, Strategy, hookimpl, losses

LEFT_OUT = -1e4  # a logit whose softmax is exactly 0; -inf would make 0 * inf of the divergence


@dataclass(frozen=True)
class DecoupledKD(Strategy):
    """alpha * T^2 (TCKD + beta * NCKD) + (1 - alpha) * hard_loss.

    TCKD: KL of (target, all others); NCKD: KL over the others alone. The target of a row without a label is the teacher's own answer.
    """

    temperature: float
    alpha: float
    beta: float = 2.0  # in the coupled KL it would be 1 - the teacher's probability of the target

    name: ClassVar[str] = "dkd"
    source: ClassVar[str] = "Zhao et al. 2022, Decoupled Knowledge Distillation, arXiv:2203.08679, eq. 7"

    @classmethod
    def suggest(cls, space: Space, teacher: ModelInfo, student: ModelInfo) -> dict[str, Any]:
        return {"temperature": space.temperature(), "alpha": space.alpha(), "beta": space.real("beta", 0.25, 8.0, log=True)}

    @classmethod
    def fits(cls, teacher: ModelInfo, provides: frozenset[Signal]) -> bool:
        # Of two classes, one is the target and the other alone: NCKD is 0 and TCKD the whole KL, which `logit` has.
        return teacher.exclusive and teacher.labels >= 3

    def loss(self, student: Outputs, teacher: Outputs | None, batch: Batch, extra: nn.Module | None, progress: float) -> dict[str, Tensor]:
        assert teacher is not None
        target = torch.where(batch.known, batch.labels, teacher.logits.argmax(-1))
        hit = F.one_hot(target, student.logits.shape[-1]).bool()
        my_target, my_others = decoupled(student.logits / self.temperature, hit)
        their_target, their_others = decoupled(teacher.logits / self.temperature, hit)
        tckd = F.kl_div(my_target, their_target, reduction="batchmean", log_target=True)
        nckd = F.kl_div(my_others, their_others, reduction="batchmean", log_target=True)
        soft = self.temperature**2 * (tckd + self.beta * nckd)
        return losses.blend(soft, batch.hard_loss(student.logits), self.alpha)


def decoupled(logits: Tensor, hit: Tensor) -> tuple[Tensor, Tensor]:
    """Log probabilities of (target, all others): (B, 2), and among the others: (B, C), the target left out.

    hit: (B, C) bool, True at the target.
    """
    whole = logits.log_softmax(-1)
    target = whole.masked_fill(~hit, LEFT_OUT).logsumexp(-1)
    others = whole.masked_fill(hit, LEFT_OUT)
    return torch.stack([target, others.logsumexp(-1)], -1), others.log_softmax(-1)


@hookimpl
def kdsearch_strategies() -> Iterator[type[Strategy]]:
    yield DecoupledKD
