"""Feature mapping: the student's states follow the teacher's, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kdsearch import Batch, ModelInfo, Need, Outputs, Signal, Space, Strategy, hookimpl, losses
from kdsearch.initialise import layer_map

STATES = {"pooled": Signal.POOLED, "tokens": Signal.HIDDEN}


class Projections(nn.ModuleList):
    """One map from the student's width into the teacher's for each pair of states."""

    def __init__(self, kind: str, pairs: int, student: int, teacher: int) -> None:
        if kind == "linear":
            super().__init__(nn.Linear(student, teacher) for _ in range(pairs))
        else:
            super().__init__(nn.Sequential(nn.Linear(student, teacher), nn.GELU(), nn.Linear(teacher, teacher)) for _ in range(pairs))


@dataclass(frozen=True)
class FeatureKD(Strategy):
    """weight * mean over pairs of states of the squared distance, plus alpha * T^2 KL + (1 - alpha) * hard_loss.

    States are scaled to unit root mean square first, so that one range of weights fits every layer and teacher.
    """

    student_layers: int  # depth of the student that the map is for; recorded so that the needs are known from the fields alone
    teacher_layers: int
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

    @classmethod
    def suggest(cls, space: Space, teacher: ModelInfo, student: ModelInfo) -> dict[str, Any]:
        mapping = space.choice("mapping", ("linear", "mlp", "identity"))
        tokens_too = Signal.HIDDEN in student.provides and student.vocab == teacher.vocab
        states = space.choice("states", tuple(STATES))
        soft = space.choice("soft", (True, False))
        return {
            "student_layers": student.layers,
            "teacher_layers": teacher.layers,
            "states": states if tokens_too else "pooled",
            # Between unequal widths the identity does not exist; its nearest kin is one linear map.
            "mapping": mapping if mapping != "identity" or student.hidden == teacher.hidden else "linear",
            "layer_map": space.choice("layer_map", ("uniform", "first", "last")),
            "weight": space.real("weight", 0.03, 30.0, log=True),
            "soft": soft,
            "temperature": losses.temperature(space, teacher) if soft else None,
            "alpha": space.alpha() if soft else None,
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
        if self.mapping == "identity":
            return None
        return Projections(self.mapping, len(self._pairs()), student.hidden, teacher.hidden)

    def loss(self, student: Outputs, teacher: Outputs | None, batch: Batch, extra: nn.Module | None, progress: float) -> dict[str, Tensor]:
        assert teacher is not None
        signal, pairs = STATES[self.states], self._pairs()
        mask = batch.mask if signal is Signal.HIDDEN else None
        distances = []
        for index, (mine, theirs) in enumerate(pairs):
            state = student.layered[signal, mine]
            if isinstance(extra, Projections):
                state = extra[index](state)
            distances.append(losses.scaled_mse(state, teacher.layered[signal, theirs], mask))
        terms = {"feature": self.weight * torch.stack(distances).mean()}
        hard = batch.hard_loss(student.logits)
        if not self.soft:
            return {**terms, "hard": hard}
        assert self.alpha is not None
        return {**terms, **losses.blend(losses.soft_loss(student.logits, teacher.logits, self.temperature), hard, self.alpha)}


@hookimpl
def kdsearch_strategies() -> Iterator[type[Strategy]]:
    yield FeatureKD
