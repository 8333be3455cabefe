"""Adaptive weights: soft, hard and feature terms, each weighted by an uncertainty that is learned with the student."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kdsearch import Batch, ModelInfo, Outputs, Signal, Space, Strategy, hookimpl, losses, modules
from kdsearch.initialise import state_pairs

PACE = 50.0  # AdamW moves a parameter by about lr a step: too slowly for a log-variance, in a trial of a few hundred steps
WIDEST = 4.0  # of a log-variance, either way: weights stay within e^-4 .. e^4 when a term goes to 0


class Uncertainties(modules.StateMaps):
    """The log-variances of the three terms, 0 at the start, beside a linear map for each pair of states."""

    def __init__(self, pairs: Sequence[tuple[int, int]], student: int, teacher: int, of_answers: float = 1.0) -> None:
        super().__init__(pairs, student, teacher)
        self.of_answers = of_answers  # w of the terms on answers: 1 for cross-entropies, 1/2 for squared errors
        self.paced = nn.Parameter(torch.zeros(3))

    def log_variances(self) -> Tensor:
        # The pace is in the value alone: in the gradient too, it would use up the norm that clipping leaves to the student.
        value = self.paced + (PACE - 1) * self.paced.detach()
        return WIDEST * torch.tanh(value / WIDEST)


@dataclass(frozen=True)
class AdaptiveKD(Strategy):
    """Sum over the terms (T^2 KL, hard_loss, feature) of w * exp(-v) * term + v / 2, with v = log of the term's variance, learned.

    w is 1 for cross-entropies and 1/2 for squared errors. There is no alpha: it is what is learned. Features as in `feature`, linear.
    """

    temperature: float
    layer_map: str = "uniform"  # uniform | first | last

    name: ClassVar[str] = "adaptive"
    source: ClassVar[str] = "Kendall et al. 2018, Multi-Task Learning Using Uncertainty to Weigh Losses, arXiv:1705.07115, eq. 7 and 10"
    reads: ClassVar[Signal] = Signal.POOLED

    @classmethod
    def suggest(cls, space: Space, teacher: ModelInfo, student: ModelInfo) -> dict[str, Any]:
        return {
            "temperature": losses.temperature(space, teacher),
            "layer_map": space.choice("layer_map", ("uniform", "first", "last")),
        }

    def pairs(self, teacher: ModelInfo, student: ModelInfo) -> list[tuple[int, int]]:
        return state_pairs(student.layers, teacher.layers, self.layer_map)

    def build(self, teacher: ModelInfo, student: ModelInfo) -> nn.Module | None:
        return Uncertainties(
            self.pairs(teacher, student),
            student.hidden,
            teacher.hidden,
            1.0 if teacher.probabilities else 0.5,
        )

    def loss(self, student: Outputs, teacher: Outputs | None, batch: Batch, extra: nn.Module | None, progress: float) -> dict[str, Tensor]:
        assert teacher is not None
        assert isinstance(extra, Uncertainties)
        distances = [losses.scaled_mse(mine, theirs) for mine, theirs in extra.both(student, teacher, Signal.POOLED)]
        soft, hard, feature = extra.log_variances()
        answers = extra.of_answers
        return {
            "soft": answers * (-soft).exp() * losses.soft_loss(student.logits, teacher.logits, self.temperature, batch=batch) + soft / 2,
            # A batch without labels says nothing of their noise: its hard loss of 0 must not raise their weight.
            "hard": answers * (-hard).exp() * batch.hard_loss(student.logits) + batch.known.any() * hard / 2,
            "feature": 0.5 * (-feature).exp() * torch.stack(distances).mean() + feature / 2,
        }


@hookimpl
def kdsearch_strategies() -> Iterator[type[Strategy]]:
    yield AdaptiveKD
