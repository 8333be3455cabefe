"""Learned layer assignment: each state of the student follows a mixture of all the teacher's, and attention makes the mixture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdsearch import Batch, ModelInfo, Need, Outputs, Signal, Space, Strategy, hookimpl, losses, modules


class Assignment(nn.Module):
    """A linear map for each of the student's states; any of the teacher's layers may be what it follows."""

    def __init__(self, states: Sequence[int], layers: Sequence[int], student: int, teacher: int) -> None:
        super().__init__()
        self.states, self.layers = states, layers
        self.maps = nn.ModuleList(nn.Linear(student, teacher) for _ in states)


@dataclass(frozen=True)
class AssignmentKD(Strategy):
    """weight * mean over the student's layers of ||W s - sum over layers i of a_i t_i||^2, plus alpha * T^2 KL + (1 - alpha) * hard_loss.

    a = softmax over i of sharpness * cosine(W s, t_i), for each row; W is learned, so the assignment is. States are pooled, the teacher's
    scaled to unit root mean square. The paper takes plain dot products: a cosine keeps one range of sharpness for every width.
    """

    weight: float
    sharpness: float  # towards 0: the mean of all layers; large: the one most alike
    temperature: float
    alpha: float

    name: ClassVar[str] = "assignment"
    source: ClassVar[str] = "Passban et al. 2021, ALP-KD, arXiv:2012.14022, attention-based layer projection"
    reads: ClassVar[Signal] = Signal.POOLED

    @classmethod
    def suggest(cls, space: Space, teacher: ModelInfo, student: ModelInfo) -> dict[str, Any]:
        return {
            "weight": space.real("weight", 0.03, 30.0, log=True),
            "sharpness": space.real("sharpness", 0.5, 30.0, log=True),
            "temperature": losses.temperature(space, teacher),
            "alpha": space.alpha(),
        }

    def teacher_needs(self, teacher: ModelInfo, student: ModelInfo) -> tuple[Need, ...]:
        return modules.needs_of(Signal.POOLED, range(1, teacher.layers + 1))

    def student_needs(self, teacher: ModelInfo, student: ModelInfo) -> tuple[Need, ...]:
        return modules.needs_of(Signal.POOLED, range(min(1, student.layers), student.layers + 1))

    def build(self, teacher: ModelInfo, student: ModelInfo) -> nn.Module | None:
        states = range(min(1, student.layers), student.layers + 1)
        return Assignment(states, range(1, teacher.layers + 1), student.hidden, teacher.hidden)

    def loss(self, student: Outputs, teacher: Outputs | None, batch: Batch, extra: nn.Module | None, progress: float) -> dict[str, Tensor]:
        assert teacher is not None
        assert isinstance(extra, Assignment)
        theirs = torch.stack([teacher.layered[Signal.POOLED, layer] for layer in extra.layers], 1)  # (B, L, H)
        theirs = theirs * theirs.square().mean(-1, keepdim=True).add(1e-6).rsqrt()
        distances = []
        for project, state in zip(extra.maps, extra.states, strict=True):
            mine = project(student.layered[Signal.POOLED, state])
            likeness = F.cosine_similarity(mine.unsqueeze(1), theirs, dim=-1, eps=1e-6)
            shares = (self.sharpness * likeness).softmax(-1)  # (B, L)
            distances.append(F.mse_loss(mine, (shares.unsqueeze(-1) * theirs).sum(1)))
        terms = losses.logit_terms(student, teacher, batch, self.temperature, self.alpha)
        return {"assignment": self.weight * torch.stack(distances).mean(), **terms}


@hookimpl
def kdsearch_strategies() -> Iterator[type[Strategy]]:
    yield AssignmentKD
