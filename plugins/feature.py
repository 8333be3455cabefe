"""Feature mapping: the student's states follow the teacher's, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kdsearch import Batch, ModelInfo, Need, Outputs, Signal, Space, Strategy, hookimpl, losses, modules
from kdsearch.initialise import state_pairs

STATES = {"pooled": Signal.POOLED, "tokens": Signal.HIDDEN}


@dataclass(frozen=True)
class FeatureKD(Strategy):
    """weight * mean over pairs of states of the squared distance, plus alpha * T^2 KL + (1 - alpha) * hard_loss.

    States are scaled to unit root mean square first, so that one range of weights fits every layer and teacher.
    """

    states: str = "pooled"  # pooled | tokens
    mapping: str = "linear"  # identity (equal widths only) | linear | mlp
    layer_map: str = "uniform"  # uniform | first | last
    weight: float = 1.0
    soft: bool = True  # False: labels and features alone
    temperature: float | None = 2.0
    alpha: float | None = 0.5

    name: ClassVar[str] = "feature"
    source: ClassVar[str] = (
        "Romero et al. 2015, FitNets, arXiv:1412.6550, eq. 3; layer maps: Jiao et al. 2020, TinyBERT, arXiv:1909.10351, eq. 8"
    )
    reads: ClassVar[Signal] = Signal.POOLED

    @classmethod
    def suggest(cls, space: Space, teacher: ModelInfo, student: ModelInfo) -> dict[str, Any]:
        mapping = space.choice("mapping", ("linear", "mlp", "identity"))
        tokens_too = Signal.HIDDEN in student.provides and student.vocab == teacher.vocab
        states = space.choice("states", tuple(STATES))
        soft = space.choice("soft", (True, False))
        return {
            "states": states if tokens_too else "pooled",
            # Between unequal widths the identity does not exist; its nearest kin is one linear map.
            "mapping": mapping if mapping != "identity" or student.hidden == teacher.hidden else "linear",
            "layer_map": space.choice("layer_map", ("uniform", "first", "last")),
            "weight": space.real("weight", 0.03, 30.0, log=True),
            "soft": soft,
            "temperature": losses.temperature(space, teacher) if soft else None,
            "alpha": space.alpha() if soft else None,
        }

    def pairs(self, teacher: ModelInfo, student: ModelInfo) -> list[tuple[int, int]]:
        return state_pairs(student.layers, teacher.layers, self.layer_map)

    def teacher_needs(self, teacher: ModelInfo, student: ModelInfo) -> tuple[Need, ...]:
        return modules.needs_of(STATES[self.states], (theirs for _, theirs in self.pairs(teacher, student)))

    def student_needs(self, teacher: ModelInfo, student: ModelInfo) -> tuple[Need, ...]:
        return modules.needs_of(STATES[self.states], (mine for mine, _ in self.pairs(teacher, student)))

    def build(self, teacher: ModelInfo, student: ModelInfo) -> nn.Module | None:
        return modules.StateMaps(self.pairs(teacher, student), student.hidden, teacher.hidden, self.mapping)

    def loss(self, student: Outputs, teacher: Outputs | None, batch: Batch, extra: nn.Module | None, progress: float) -> dict[str, Tensor]:
        assert teacher is not None
        assert isinstance(extra, modules.StateMaps)
        signal = STATES[self.states]
        mask = batch.mask if signal is Signal.HIDDEN else None
        distances = [losses.scaled_mse(mine, theirs, mask) for mine, theirs in extra.both(student, teacher, signal)]
        terms = {"feature": self.weight * torch.stack(distances).mean()}
        hard = batch.hard_loss(student.logits)
        if not self.soft:
            return {**terms, "hard": hard}
        assert self.alpha is not None
        return {**terms, **losses.blend(losses.soft_loss(student.logits, teacher.logits, self.temperature, batch=batch), hard, self.alpha)}


@hookimpl
def kdsearch_strategies() -> Iterator[type[Strategy]]:
    yield FeatureKD
