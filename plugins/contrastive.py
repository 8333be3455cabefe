"""Contrastive distillation: the student's state of a row is nearer to the teacher's state of that row than to those of the other rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdsearch import Batch, ModelInfo, Outputs, Signal, Space, Strategy, hookimpl, losses

WIDTH = 128  # of the space in which both are compared, as in CRD


class Embeddings(nn.Module):
    """Linear maps of the student's and the teacher's state into one space."""

    def __init__(self, student: int, teacher: int, width: int) -> None:
        super().__init__()
        self.student, self.teacher = nn.Linear(student, width), nn.Linear(teacher, width)


@dataclass(frozen=True)
class ContrastiveKD(Strategy):
    """weight * -log(exp(c_ii/tau) / sum over the batch's rows k of exp(c_ik/tau)), plus alpha * T^2 KL + (1 - alpha) * hard_loss.

    c_ik: cosine of the student's topmost pooled state of row i and the teacher's of row k, each through a linear map of its own.
    """

    weight: float
    tau: float  # of the contrast; no relation to the temperature of the logits
    temperature: float
    alpha: float

    name: ClassVar[str] = "contrastive"
    source: ClassVar[str] = (
        "Sun et al. 2020, CoDIR, arXiv:2009.14167, section 3.2 (InfoNCE of mean-pooled states), with the batch's rows as negatives and the "
        "embeddings of Tian et al. 2020, CRD, arXiv:1910.10699, section 3.1"
    )
    reads: ClassVar[Signal] = Signal.POOLED

    @classmethod
    def suggest(cls, space: Space, teacher: ModelInfo, student: ModelInfo) -> dict[str, Any]:
        return {
            "weight": space.real("weight", 0.01, 3.0, log=True),
            "tau": space.real("tau", 0.03, 0.5, log=True),
            "temperature": losses.temperature(space, teacher),
            "alpha": space.alpha(),
        }

    def build(self, teacher: ModelInfo, student: ModelInfo) -> nn.Module | None:
        return Embeddings(student.hidden, teacher.hidden, WIDTH)

    def loss(self, student: Outputs, teacher: Outputs | None, batch: Batch, extra: nn.Module | None, progress: float) -> dict[str, Tensor]:
        assert teacher is not None
        assert isinstance(extra, Embeddings)
        mine = F.normalize(extra.student(student.layered[Signal.POOLED, -1]), dim=-1, eps=1e-6)
        theirs = F.normalize(extra.teacher(teacher.layered[Signal.POOLED, -1]), dim=-1, eps=1e-6)
        scores = mine @ theirs.T / self.tau
        contrast = F.cross_entropy(scores, torch.arange(len(scores), device=scores.device))
        return {"contrast": self.weight * contrast, **losses.logit_terms(student, teacher, batch, self.temperature, self.alpha)}


@hookimpl
def kdsearch_strategies() -> Iterator[type[Strategy]]:
    yield ContrastiveKD
