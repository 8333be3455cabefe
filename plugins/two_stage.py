"""Two stages: the teacher's states first, its logits for the rest of the budget."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kdsearch import Batch, ModelInfo, Need, Outputs, Signal, Space, Strategy, hookimpl, losses, modules
from kdsearch.initialise import state_pairs

STATES = {"pooled": Signal.POOLED, "tokens": Signal.HIDDEN}
AWAKE = 0.01  # of the logits' terms in stage one: little to the layers, yet AdamW trains the head with it, so that rungs compare answers


@dataclass(frozen=True)
class TwoStage(Strategy):
    """While progress < share: mean over pairs of states of the squared distance; then alpha * T^2 KL + (1 - alpha) * hard_loss.

    States go through one linear map for each pair, and are scaled to unit root mean square. In stage one the logits' terms keep a weight of
    0.01, which the paper does not have.
    """

    share: float  # of the budget, for stage one
    temperature: float
    alpha: float
    states: str = "pooled"  # pooled | tokens
    layer_map: str = "uniform"  # uniform | first | last

    name: ClassVar[str] = "two_stage"
    source: ClassVar[str] = "Jiao et al. 2020, TinyBERT, arXiv:1909.10351, eq. 8-9 (states), then eq. 10 (logits), as in its section 3.2"
    reads: ClassVar[Signal] = Signal.POOLED
    staged: ClassVar[bool] = True

    @classmethod
    def suggest(cls, space: Space, teacher: ModelInfo, student: ModelInfo) -> dict[str, Any]:
        states = space.choice("states", tuple(STATES))
        return {
            "share": space.real("share", 0.1, 0.6),
            "temperature": losses.temperature(space, teacher),
            "alpha": space.alpha(),
            "states": states if Signal.HIDDEN in student.provides and student.vocab == teacher.vocab else "pooled",
            "layer_map": space.choice("layer_map", ("uniform", "first", "last")),
        }

    def pairs(self, teacher: ModelInfo, student: ModelInfo) -> list[tuple[int, int]]:
        return state_pairs(student.layers, teacher.layers, self.layer_map)

    def teacher_needs(self, teacher: ModelInfo, student: ModelInfo) -> tuple[Need, ...]:
        return modules.needs_of(STATES[self.states], (theirs for _, theirs in self.pairs(teacher, student)))

    def student_needs(self, teacher: ModelInfo, student: ModelInfo) -> tuple[Need, ...]:
        return modules.needs_of(STATES[self.states], (mine for mine, _ in self.pairs(teacher, student)))

    def build(self, teacher: ModelInfo, student: ModelInfo) -> nn.Module | None:
        return modules.StateMaps(self.pairs(teacher, student), student.hidden, teacher.hidden)

    def loss(self, student: Outputs, teacher: Outputs | None, batch: Batch, extra: nn.Module | None, progress: float) -> dict[str, Tensor]:
        assert teacher is not None
        assert isinstance(extra, modules.StateMaps)
        terms = losses.logit_terms(student, teacher, batch, self.temperature, self.alpha)
        if progress >= self.share:
            return terms
        signal = STATES[self.states]
        mask = batch.mask if signal is Signal.HIDDEN else None
        distances = [losses.scaled_mse(mine, theirs, mask) for mine, theirs in extra.both(student, teacher, signal)]
        return {"feature": torch.stack(distances).mean(), **{name: AWAKE * term for name, term in terms.items()}}


@hookimpl
def kdsearch_strategies() -> Iterator[type[Strategy]]:
    yield TwoStage
