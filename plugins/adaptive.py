"""Adaptive weights: soft, hard and feature terms, each weighted by an uncertainty that is learned with the student."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kdsearch import Batch, ModelInfo, Need, Outputs, Signal, Space, Strategy, hookimpl, losses
from kdsearch.initialise import layer_map

PACE = 50.0  # AdamW moves a parameter by about lr a step: too slowly for a log-variance, in a trial of a few hundred steps
WIDEST = 4.0  # of a log-variance, either way: weights stay within e^-4 .. e^4 when a term goes to 0


class Uncertainties(nn.Module):
    """The log-variances of the three terms, 0 at the start, and a linear map for each pair of states."""

    def __init__(self, pairs: int, student: int, teacher: int) -> None:
        super().__init__()
        self.paced = nn.Parameter(torch.zeros(3))
        self.maps = nn.ModuleList(nn.Linear(student, teacher) for _ in range(pairs))

    def log_variances(self) -> Tensor:
        # The pace is in the value alone: in the gradient too, it would use up the norm that clipping leaves to the student.
        value = self.paced + (PACE - 1) * self.paced.detach()
        return WIDEST * torch.tanh(value / WIDEST)


@dataclass(frozen=True)
class AdaptiveKD(Strategy):
    """Sum over the terms (T^2 KL, hard_loss, feature) of w * exp(-v) * term + v / 2, with v = log of the term's variance, learned.

    w is 1 for cross-entropies and 1/2 for squared errors. There is no alpha: it is what is learned. Features as in `feature`, linear.
    """

    student_layers: int  # depth of the student that the map is for; recorded so that the needs are known from the fields alone
    teacher_layers: int
    temperature: float
    layer_map: str = "uniform"  # uniform | first | last

    name: ClassVar[str] = "adaptive"
    source: ClassVar[str] = "Kendall et al. 2018, Multi-Task Learning Using Uncertainty to Weigh Losses, arXiv:1705.07115, eq. 7 and 10"

    @classmethod
    def suggest(cls, space: Space, teacher: ModelInfo, student: ModelInfo) -> dict[str, Any]:
        return {
            "student_layers": student.layers,
            "teacher_layers": teacher.layers,
            "temperature": losses.temperature(space, teacher),
            "layer_map": space.choice("layer_map", ("uniform", "first", "last")),
        }

    @classmethod
    def fits(cls, teacher: ModelInfo, provides: frozenset[Signal]) -> bool:
        return Signal.POOLED in provides

    def _pairs(self) -> list[tuple[int, int]]:
        return [(0, 0), *enumerate(layer_map(self.student_layers, self.teacher_layers, self.layer_map), start=1)]

    def teacher_needs(self) -> tuple[Need, ...]:
        wanted = sorted({theirs for _, theirs in self._pairs()})
        return (Need(Signal.LOGITS), *(Need(Signal.POOLED, state) for state in wanted))

    def student_needs(self) -> tuple[Need, ...]:
        return (Need(Signal.LOGITS), *(Need(Signal.POOLED, mine) for mine, _ in self._pairs()))

    def build(self, teacher: ModelInfo, student: ModelInfo) -> nn.Module | None:
        return Uncertainties(len(self._pairs()), student.hidden, teacher.hidden)

    def loss(self, student: Outputs, teacher: Outputs | None, batch: Batch, extra: nn.Module | None, progress: float) -> dict[str, Tensor]:
        assert teacher is not None
        assert isinstance(extra, Uncertainties)
        distances = [
            losses.scaled_mse(project(student.layered[Signal.POOLED, mine]), teacher.layered[Signal.POOLED, theirs])
            for project, (mine, theirs) in zip(extra.maps, self._pairs(), strict=True)
        ]
        regression = batch.labels.is_floating_point()
        known = ~batch.labels.isnan() if regression else batch.labels >= 0
        soft, hard, feature = extra.log_variances()
        answers = 0.5 if regression else 1.0
        return {
            "soft": answers * (-soft).exp() * losses.soft_loss(student.logits, teacher.logits, self.temperature) + soft / 2,
            # A batch without labels says nothing of their noise: its hard loss of 0 must not raise their weight.
            "hard": answers * (-hard).exp() * batch.hard_loss(student.logits) + known.any() * hard / 2,
            "feature": 0.5 * (-feature).exp() * torch.stack(distances).mean() + feature / 2,
        }


@hookimpl
def kdsearch_strategies() -> Iterator[type[Strategy]]:
    yield AdaptiveKD
