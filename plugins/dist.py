"""DIST: the student keeps the teacher's relations, not its probabilities: among the classes of a row, and among the rows for a class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from kdsearch import Batch, ModelInfo, Outputs, Signal, Space, Strategy, hookimpl, losses


@dataclass(frozen=True)
class Dist(Strategy):
    """alpha * (inter * (1 - r over a row's classes) + intra * (1 - r over the batch for a class)) + (1 - alpha) * hard_loss.

    r: Pearson's correlation of softmax(z/T), averaged over rows and over classes. There is no T^2: a correlation does not shrink with T.
    """

    temperature: float
    alpha: float
    inter: float | None  # None with two classes: their correlation is 1 or -1 whatever the student says
    intra: float

    name: ClassVar[str] = "dist"
    source: ClassVar[str] = "Huang et al. 2022, DIST, arXiv:2205.10536, section 4, inter- and intra-class relations"

    @classmethod
    def suggest(cls, space: Space, teacher: ModelInfo, student: ModelInfo) -> dict[str, Any]:
        return {
            "temperature": space.temperature(),
            "alpha": space.alpha(),
            "inter": space.real("inter", 0.3, 10.0, log=True) if teacher.labels >= 3 else None,
            "intra": space.real("intra", 0.3, 10.0, log=True),
        }

    @classmethod
    def fits(cls, teacher: ModelInfo, provides: frozenset[Signal]) -> bool:
        return teacher.exclusive

    def loss(self, student: Outputs, teacher: Outputs | None, batch: Batch, extra: nn.Module | None, progress: float) -> dict[str, Tensor]:
        assert teacher is not None
        mine, theirs = (logits.div(self.temperature).softmax(-1) for logits in (student.logits, teacher.logits))
        soft = self.intra * (1 - correlation(mine.T, theirs.T))
        if self.inter is not None:
            soft = soft + self.inter * (1 - correlation(mine, theirs))
        return losses.blend(soft, batch.hard_loss(student.logits), self.alpha)


def correlation(one: Tensor, other: Tensor) -> Tensor:
    """Mean over rows of Pearson's correlation along them; 0 for a row that is constant."""
    return F.cosine_similarity(one - one.mean(-1, keepdim=True), other - other.mean(-1, keepdim=True), eps=1e-6).mean()


@hookimpl
def kdsearch_strategies() -> Iterator[type[Strategy]]:
    yield Dist
