"""Patient distillation: the directions of the lower layers' states follow the teacher's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdsearch import Batch, ModelInfo, Outputs, Signal, Space, Strategy, hookimpl, losses, modules
from kdsearch.initialise import layer_map


@dataclass(frozen=True)
class PatientKD(Strategy):
    """weight * mean over pairs of states of ||s/|s| - t/|t|||^2, plus alpha * T^2 KL + (1 - alpha) * hard_loss.

    The student's topmost layer is left to the logits, as in the paper. Two departures from it: a state is the mean over the row's tokens
    (POOLED), not the first token's, and a student of another width goes through one linear map for each pair.
    """

    weight: float
    temperature: float
    alpha: float
    layer_map: str = "uniform"  # uniform: PKD-Skip, every n-th layer · last: PKD-Last · first

    name: ClassVar[str] = "pkd"
    source: ClassVar[str] = "Sun et al. 2019, Patient Knowledge Distillation, arXiv:1908.09355, eq. 7-8"
    reads: ClassVar[Signal] = Signal.POOLED

    @classmethod
    def suggest(cls, space: Space, teacher: ModelInfo, student: ModelInfo) -> dict[str, Any]:
        return {
            "weight": space.real("weight", 0.03, 30.0, log=True),
            "temperature": losses.temperature(space, teacher),
            "alpha": space.alpha(),
            "layer_map": space.choice("layer_map", ("uniform", "last", "first")),
        }

    def pairs(self, teacher: ModelInfo, student: ModelInfo) -> list[tuple[int, int]]:
        mapped = layer_map(student.layers, teacher.layers, self.layer_map)
        # A student of one layer keeps it, and one without layers its embedding: else nothing would be left.
        return list(enumerate(mapped[: max(1, student.layers - 1)], start=1)) or [(0, 0)]

    def build(self, teacher: ModelInfo, student: ModelInfo) -> nn.Module | None:
        kind = "identity" if student.hidden == teacher.hidden else "linear"
        return modules.StateMaps(self.pairs(teacher, student), student.hidden, teacher.hidden, kind)

    def loss(self, student: Outputs, teacher: Outputs | None, batch: Batch, extra: nn.Module | None, progress: float) -> dict[str, Tensor]:
        assert teacher is not None
        assert isinstance(extra, modules.StateMaps)
        distances = []
        for state, target in extra.both(student, teacher, Signal.POOLED):
            gaps = F.normalize(state, dim=-1, eps=1e-6) - F.normalize(target, dim=-1, eps=1e-6)
            distances.append(gaps.square().sum(-1).mean())
        terms = losses.logit_terms(student, teacher, batch, self.temperature, self.alpha)
        return {"patient": self.weight * torch.stack(distances).mean(), **terms}


@hookimpl
def kdsearch_strategies() -> Iterator[type[Strategy]]:
    yield PatientKD
