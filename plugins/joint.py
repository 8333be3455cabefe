"""Joint training: a private copy of the teacher learns with the student, each from the labels and from the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from kdsearch import Batch, ModelInfo, Outputs, Space, Strategy, TeacherRole, TeacherTuning, hookimpl, losses


@dataclass(frozen=True)
class JointKD(Strategy):
    """alpha * T^2 KL(t || s) + (1 - alpha) * hard(s) for the student, teacher_weight * (hard(t) + mutual * T^2 KL(s || t)) for the teacher.

    Each side's divergence holds the other side constant, so alpha means what it means everywhere.
    """

    temperature: float
    alpha: float
    teacher_weight: float  # of the teacher's side in the one optimisation; 0: the copy stays as it is
    mutual: float  # how much the teacher follows the student
    teacher_layers: int  # its top layers that are tuned; the head always is
    lr_factor: float  # the copy's learning rate / the study's lr, which the student's family may multiply by its lr_scale

    name: ClassVar[str] = "joint"
    source: ClassVar[str] = (
        "Zhang et al. 2018, Deep Mutual Learning, arXiv:1706.00384, eq. 5-6, with a trained teacher as the second network"
    )
    teacher: ClassVar[TeacherRole] = TeacherRole.JOINT

    @classmethod
    def suggest(cls, space: Space, teacher: ModelInfo, student: ModelInfo) -> dict[str, Any]:
        return {
            "temperature": losses.temperature(space, teacher),
            "alpha": space.alpha(),
            "teacher_weight": space.real("teacher_weight", 0.1, 1.0),
            "mutual": space.real("mutual", 0.0, 1.0),
            "teacher_layers": space.integer("teacher_layers", 0, min(2, teacher.layers)),
            "lr_factor": space.real("lr_factor", 0.003, 0.1, log=True),
        }

    def teacher_tuning(self) -> TeacherTuning:
        return TeacherTuning(self.teacher_layers, self.lr_factor)

    def loss(self, student: Outputs, teacher: Outputs | None, batch: Batch, extra: nn.Module | None, progress: float) -> dict[str, Tensor]:
        assert teacher is not None
        soft = losses.soft_loss(student.logits, teacher.logits.detach(), self.temperature, batch=batch)
        terms = losses.blend(soft, batch.hard_loss(student.logits), self.alpha)
        if self.teacher_weight > 0:
            terms["teacher_hard"] = self.teacher_weight * batch.hard_loss(teacher.logits)
            if self.mutual > 0:
                back = losses.soft_loss(teacher.logits, student.logits.detach(), self.temperature, batch=batch)
                terms["teacher_soft"] = self.teacher_weight * self.mutual * back
        return terms


@hookimpl
def kdsearch_strategies() -> Iterator[type[Strategy]]:
    yield JointKD
