"""Two stages: the teacher's states first, its logits for the rest of the budget."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kdsearch import Batch, ModelInfo, Need, Outputs, Signal, Space, Strategy, hookimpl, losses
from kdsearch.initialise import layer_map

STATES = {"pooled": Signal.POOLED, "tokens": Signal.HIDDEN}
AWAKE = 0.01  # of the logits' terms in stage one: little to the layers, yet AdamW trains the head with it, so that rungs compare answers


@dataclass(frozen=True)
class TwoStage(Strategy):
    """While progress < share: mean over pairs of states of the squared distance; then alpha * T^2 KL + (1 - alpha) * hard_loss.

    States go through one linear map for each pair, and are scaled to unit root mean square. In stage one the logits' terms keep a weight of
    0.01, which the paper does not have.
    """

    student_layers: int  # depth of the student that the map is for; recorded so that the needs are known from the fields alone
    teacher_layers: int
    share: float  # of the budget, for stage one
    temperature: float
    alpha: float
    states: str = "pooled"  # pooled | tokens
    layer_map: str = "uniform"  # uniform | first | last

    name: ClassVar[str] = "two_stage"
    source: ClassVar[str] = "Jiao et al. 2020, TinyBERT, arXiv:1909.10351, eq. 8-9 (states), then eq. 10 (logits), as in its section 3.2"
    staged: ClassVar[bool] = True

    @classmethod
    def suggest(cls, space: Space, teacher: ModelInfo, student: ModelInfo) -> dict[str, Any]:
        states = space.choice("states", tuple(STATES))
        return {
            "student_layers": student.layers,
            "teacher_layers": teacher.layers,
            "share": space.real("share", 0.1, 0.6),
            "temperature": losses.temperature(space, teacher),
            "alpha": space.alpha(),
            "states": states if Signal.HIDDEN in student.provides and student.vocab == teacher.vocab else "pooled",
            "layer_map": space.choice("layer_map", ("uniform", "first", "last")),
        }

    @classmethod
    def fits(cls, teacher: ModelInfo, provides: frozenset[Signal]) -> bool:
        return Signal.POOLED in provides

    def _pairs(self) -> list[tuple[int, int]]:
        return [(0, 0), *enumerate(layer_map(self.student_layers, self.teacher_layers, self.layer_map), start=1)]

    def teacher_needs(self) -> tuple[Need, ...]:
        wanted = sorted({theirs for _, theirs in self._pairs()})
        return (Need(Signal.LOGITS), *(Need(STATES[self.states], state) for state in wanted))

    def student_needs(self) -> tuple[Need, ...]:
        return (Need(Signal.LOGITS), *(Need(STATES[self.states], mine) for mine, _ in self._pairs()))

    def build(self, teacher: ModelInfo, student: ModelInfo) -> nn.Module | None:
        return nn.ModuleList(nn.Linear(student.hidden, teacher.hidden) for _ in self._pairs())

    def loss(self, student: Outputs, teacher: Outputs | None, batch: Batch, extra: nn.Module | None, progress: float) -> dict[str, Tensor]:
        assert teacher is not None
        assert isinstance(extra, nn.ModuleList)
        terms = losses.logit_terms(student, teacher, batch, self.temperature, self.alpha)
        if progress >= self.share:
            return terms
        signal = STATES[self.states]
        mask = batch.mask if signal is Signal.HIDDEN else None
        distances = [
            losses.scaled_mse(project(student.layered[signal, mine]), teacher.layered[signal, theirs], mask)
            for project, (mine, theirs) in zip(extra, self._pairs(), strict=True)
        ]
        return {"feature": torch.stack(distances).mean(), **{name: AWAKE * term for name, term in terms.items()}}


@hookimpl
def kdsearch_strategies() -> Iterator[type[Strategy]]:
    yield TwoStage
