"""The control: labels alone, no teacher."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from kdsearch import Batch, ModelInfo, Need, Outputs, Space, Strategy, TeacherRole, hookimpl


@dataclass(frozen=True)
class Hard(Strategy):
    """hard_loss(student), nothing else."""

    name: ClassVar[str] = "hard"
    source: ClassVar[str] = "the control"
    teacher: ClassVar[TeacherRole] = TeacherRole.ABSENT

    @classmethod
    def suggest(cls, space: Space, teacher: ModelInfo, student: ModelInfo) -> dict[str, Any]:
        return {}

    def teacher_needs(self, teacher: ModelInfo, student: ModelInfo) -> tuple[Need, ...]:
        return ()

    def loss(self, student: Outputs, teacher: Outputs | None, batch: Batch, extra: nn.Module | None, progress: float) -> dict[str, Tensor]:
        return {"hard": batch.hard_loss(student.logits)}


@hookimpl
def kdsearch_strategies() -> Iterator[type[Strategy]]:
    yield Hard
