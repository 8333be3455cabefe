"""Relational distillation: the rows of a batch lie to each other as they do for the teacher."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from kdsearch import Batch, ModelInfo, Outputs, Signal, Space, Strategy, hookimpl, losses

ROWS = 64  # of a batch that are compared at most: angles grow with its cube


@dataclass(frozen=True)
class RelationalKD(Strategy):
    """distance * Huber of pairwise distances + angle * Huber of angles in triplets, plus alpha * T^2 KL + (1 - alpha) * hard_loss.

    Distances are in units of their mean over the batch. States are the topmost pooled ones; their widths may differ: no projection.
    """

    distance: float
    angle: float
    temperature: float
    alpha: float

    name: ClassVar[str] = "rkd"
    source: ClassVar[str] = "Park et al. 2019, Relational Knowledge Distillation, arXiv:1904.05068, section 3.2, RKD-D and RKD-A"
    reads: ClassVar[Signal] = Signal.POOLED

    @classmethod
    def suggest(cls, space: Space, teacher: ModelInfo, student: ModelInfo) -> dict[str, Any]:
        return {
            "distance": space.real("distance", 0.3, 100.0, log=True),
            "angle": space.real("angle", 0.3, 100.0, log=True),
            "temperature": losses.temperature(space, teacher),
            "alpha": space.alpha(),
        }

    def loss(self, student: Outputs, teacher: Outputs | None, batch: Batch, extra: nn.Module | None, progress: float) -> dict[str, Tensor]:
        assert teacher is not None
        mine, theirs = student.layered[Signal.POOLED, -1][:ROWS], teacher.layered[Signal.POOLED, -1][:ROWS]
        count = len(mine)
        pairs, triplets = max(1, count * (count - 1)), max(1, count * (count - 1) * (count - 2))
        (my_distances, my_angles), (their_distances, their_angles) = geometry(mine, pairs), geometry(theirs, pairs)
        return {
            "distance": self.distance * F.smooth_l1_loss(my_distances, their_distances, reduction="sum") / pairs,
            "angle": self.angle * F.smooth_l1_loss(my_angles, their_angles, reduction="sum") / triplets,
            **losses.logit_terms(student, teacher, batch, self.temperature, self.alpha),
        }


def geometry(states: Tensor, pairs: int) -> tuple[Tensor, Tensor]:
    """States (B, H) -> distances (B, B) over their mean, and cosines (B, B, B): [j, i, k] at j between i and k.

    pairs: how many ordered pairs of two rows there are.
    """
    sides = states.unsqueeze(0) - states.unsqueeze(1)
    lengths = sides.square().sum(-1).clamp_min(1e-12).sqrt()
    mean = (lengths.sum() / pairs).clamp_min(1e-5)
    # Two rows a hundredth of the mean apart have no direction worth a gradient of a hundred times the others'.
    directions = sides / lengths.clamp_min(0.01 * mean.detach()).unsqueeze(-1)
    return lengths / mean, directions @ directions.mT


@hookimpl
def kdsearch_strategies() -> Iterator[type[Strategy]]:
    yield RelationalKD
