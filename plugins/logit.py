"""Distillation from the teacher's logits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from kdsearch import Batch, ModelInfo, Outputs, Space, Strategy, hookimpl, losses


@dataclass(frozen=True)
class LogitKD(Strategy):
    """alpha * soft(T, form) + (1 - alpha) * hard_loss; the forms are those of `kdsearch.losses.soft_loss`, all one of a regression."""

    temperature: float | None  # None for mse_logits
    alpha: float
    form: str = "kl"
    direction: float | None = None  # symmetric: the weight of KL(teacher || student)

    name: ClassVar[str] = "logit"
    source: ClassVar[str] = "Hinton et al. 2015, Distilling the Knowledge in a Neural Network, arXiv:1503.02531, section 2"

    @classmethod
    def suggest(cls, space: Space, teacher: ModelInfo, student: ModelInfo) -> dict[str, Any]:
        if not teacher.probabilities:
            return {"form": "mse_logits", "temperature": None, "alpha": space.alpha(), "direction": None}
        form = space.choice("form", losses.FORMS)
        return {
            "form": form,
            "temperature": None if form == "mse_logits" else space.temperature(),
            "alpha": space.alpha(),
            "direction": space.real("direction", 0.0, 1.0) if form == "symmetric" else None,
        }

    def loss(self, student: Outputs, teacher: Outputs | None, batch: Batch, extra: nn.Module | None, progress: float) -> dict[str, Tensor]:
        assert teacher is not None
        soft = losses.soft_loss(student.logits, teacher.logits, self.temperature, self.form, self.direction, batch)
        return losses.blend(soft, batch.hard_loss(student.logits), self.alpha)


@hookimpl
def kdsearch_strategies() -> Iterator[type[Strategy]]:
    yield LogitKD
