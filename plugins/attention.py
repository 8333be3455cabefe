"""Attention transfer: the student looks where the teacher looks, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kdsearch import Batch, ModelInfo, Outputs, Signal, Space, Strategy, hookimpl, losses, modules
from kdsearch.initialise import layer_map

LEAST = 1e-6  # of a probability under a logarithm


@dataclass(frozen=True)
class AttentionKD(Strategy):
    """weight * mean over pairs of layers and real tokens of the distance of attention rows, plus alpha * T^2 KL + (1 - alpha) * hard_loss.

    Probabilities are averaged over heads first, so that head counts may differ. Attention is never cached: the teacher runs in the trial.
    """

    weight: float
    temperature: float
    alpha: float
    form: str = "mse"  # mse: squared difference, summed over keys · kl: KL(teacher's row || student's row)
    layer_map: str = "uniform"  # uniform | first | last

    name: ClassVar[str] = "attention"
    source: ClassVar[str] = (
        "Jiao et al. 2020, TinyBERT, arXiv:1909.10351, eq. 7, on probabilities averaged over heads; "
        "kl: Wang et al. 2020, MiniLM, arXiv:2002.10957, section 3.1"
    )
    reads: ClassVar[Signal] = Signal.ATTENTION

    @classmethod
    def suggest(cls, space: Space, teacher: ModelInfo, student: ModelInfo) -> dict[str, Any]:
        return {
            "weight": space.real("weight", 0.03, 100.0, log=True),
            "temperature": losses.temperature(space, teacher),
            "alpha": space.alpha(),
            "form": space.choice("form", ("mse", "kl")),
            "layer_map": space.choice("layer_map", ("uniform", "first", "last")),
        }

    def pairs(self, teacher: ModelInfo, student: ModelInfo) -> list[tuple[int, int]]:
        # The map counts layers from 1, attention from 0.
        return [(mine, theirs - 1) for mine, theirs in enumerate(layer_map(student.layers, teacher.layers, self.layer_map))]

    def build(self, teacher: ModelInfo, student: ModelInfo) -> nn.Module | None:
        return modules.StateMaps(self.pairs(teacher, student), kind="identity")

    def _distance(self, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        mine, theirs = student.mean(1), teacher.mean(1)  # (B, A, S, S) -> (B, S, S)
        gaps = (mine - theirs).square() if self.form == "mse" else theirs * (logarithm(theirs) - logarithm(mine))
        return losses.token_mean((gaps * mask.unsqueeze(1)).sum(-1), mask)

    def loss(self, student: Outputs, teacher: Outputs | None, batch: Batch, extra: nn.Module | None, progress: float) -> dict[str, Tensor]:
        assert teacher is not None
        terms = losses.logit_terms(student, teacher, batch, self.temperature, self.alpha)
        assert isinstance(extra, modules.StateMaps)
        distances = [self._distance(mine, theirs, batch.mask) for mine, theirs in extra.both(student, teacher, Signal.ATTENTION)]
        return {"attention": self.weight * torch.stack(distances).mean(), **terms}


def logarithm(probabilities: Tensor) -> Tensor:
    return probabilities.clamp_min(LEAST).log()


@hookimpl
def kdsearch_strategies() -> Iterator[type[Strategy]]:
    yield AttentionKD
