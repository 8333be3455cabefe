"""Several teachers, each with a weight that is learned with the student."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kdsearch import Batch, ModelInfo, Outputs, Signal, Space, Strategy, hookimpl, losses

EVEN = 0.25  # pull towards equal weights: of a classification, none settles below EVEN / (1 + EVEN) of its equal share
PACE = 20.0  # AdamW moves a parameter by about lr a step: too slowly for a weight, in a trial of a few hundred steps


class Trust(nn.Module):
    """A scalar for each teacher, 0 at the start; their softmax is how much each is followed."""

    def __init__(self, teachers: int) -> None:
        super().__init__()
        self.paced = nn.Parameter(torch.zeros(teachers))

    def log_weights(self) -> Tensor:
        """(K,)."""
        # The pace is in the value alone: in the gradient too, it would use up the norm that clipping leaves to the student.
        return (self.paced + (PACE - 1) * self.paced.detach()).log_softmax(0)


@dataclass(frozen=True)
class SeveralKD(Strategy):
    """alpha * T^2 KL(sum of w_k softmax(z_k/T) || student) + (1 - alpha) * hard_loss, and beside it what the weights w alone learn from.

    That is how well the weighted teachers themselves answer the labelled rows, -log sum of w_k p_k(label), plus EVEN * KL(1/K || w). The soft
    loss holds w constant: minimising it, the weights would go to whichever teacher is easiest to follow.
    """

    temperature: float
    alpha: float

    name: ClassVar[str] = "several"
    source: ClassVar[str] = (
        "Zhang et al. 2022, Confidence-Aware Multi-Teacher Knowledge Distillation, arXiv:2201.00007, section 3.1: teachers weighed by their "
        "cross-entropy with the label; here one learned weight for each teacher, which holds for rows without a label too"
    )
    each_teacher: ClassVar[bool] = True

    @classmethod
    def suggest(cls, space: Space, teacher: ModelInfo, student: ModelInfo) -> dict[str, Any]:
        return {"temperature": losses.temperature(space, teacher), "alpha": space.alpha()}

    @classmethod
    def fits(cls, teacher: ModelInfo, provides: frozenset[Signal]) -> bool:
        return teacher.teachers > 1 and (teacher.exclusive or not teacher.probabilities)  # the two that `mistakes` can weigh

    def build(self, teacher: ModelInfo, student: ModelInfo) -> nn.Module | None:
        return Trust(teacher.teachers)

    def loss(self, student: Outputs, teacher: Outputs | None, batch: Batch, extra: nn.Module | None, progress: float) -> dict[str, Tensor]:
        assert teacher is not None
        assert teacher.teachers is not None
        assert isinstance(extra, Trust)
        log_weights = extra.log_weights()
        target = losses.mixture(teacher.teachers, log_weights.detach().exp(), self.temperature, batch.task)
        soft = losses.soft_loss(student.logits, target, self.temperature, batch=batch)
        known = batch.known
        uneven = -log_weights.mean() - math.log(len(log_weights))  # KL(1/K || w)
        wrong = mistakes(log_weights, teacher.teachers[:, known], batch.labels[known], batch.task_of_labels.probabilities)
        # Summed over labelled rows, by the size of the batch: a batch with few labels says little, one without says nothing.
        trust = (wrong.sum() + EVEN * known.sum() * uneven) / len(known)
        return {**losses.blend(soft, batch.hard_loss(student.logits), self.alpha), "trust": trust}


def mistakes(log_weights: Tensor, teachers: Tensor, labels: Tensor, probabilities: bool) -> Tensor:
    """(B,) how wrong the weighted teachers are of each row: -log of their probability of the label; of a regression the squared error, by the
    mean of the teachers' own.

    Args:
        log_weights: (K,).
        teachers: logits (K, B, C).
        labels: (B,), all known.
        probabilities: whether logits stand for them.
    """
    if not probabilities:
        errors = teachers.squeeze(-1) - labels
        return (log_weights.exp().unsqueeze(1) * errors).sum(0).square() / errors.square().mean().clamp_min(1e-12)
    right = teachers.log_softmax(-1).gather(-1, labels.expand(len(teachers), -1).unsqueeze(-1)).squeeze(-1)
    return -(log_weights.unsqueeze(1) + right).logsumexp(0)


@hookimpl
def kdsearch_strategies() -> Iterator[type[Strategy]]:
    yield SeveralKD
