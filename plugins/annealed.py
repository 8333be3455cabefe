"""Annealed distillation: the temperature falls to 1 and alpha goes to its end while the student learns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from kdsearch import Batch, ModelInfo, Outputs, Space, Strategy, hookimpl, losses


@dataclass(frozen=True)
class AnnealedKD(Strategy):
    """alpha(p) * T(p)^2 KL + (1 - alpha(p)) * hard_loss, with p = progress / until, at most 1.

    T goes from `temperature` to 1, alpha from `alpha` to `alpha_end`, both linearly. The paper's two phases are alpha = 1 and alpha_end = 0
    as a step, with squared differences of logits in the first.
    """

    temperature: float  # at the start
    alpha: float  # at the start
    alpha_end: float
    until: float  # fraction of the budget after which both stay at their ends

    name: ClassVar[str] = "annealed"
    source: ClassVar[str] = "Jafari et al. 2021, Annealing-KD, arXiv:2104.07163, section 3, with KL in place of its squared differences"

    @classmethod
    def suggest(cls, space: Space, teacher: ModelInfo, student: ModelInfo) -> dict[str, Any]:
        return {
            "temperature": losses.temperature(space, teacher),
            "alpha": space.alpha(),
            "alpha_end": space.real("alpha_end", 0.0, 1.0),
            "until": space.real("until", 0.3, 1.0),
        }

    def loss(self, student: Outputs, teacher: Outputs | None, batch: Batch, extra: nn.Module | None, progress: float) -> dict[str, Tensor]:
        assert teacher is not None
        at = min(1.0, progress / self.until)
        temperature = self.temperature + at * (1.0 - self.temperature)
        alpha = self.alpha + at * (self.alpha_end - self.alpha)
        return losses.logit_terms(student, teacher, batch, temperature, alpha)


@hookimpl
def kdsearch_strategies() -> Iterator[type[Strategy]]:
    yield AnnealedKD
