"""What a trial is expected to take, before it is trained: seconds from FLOPs, rows, epochs and the teacher's part in it.

The rates are those of one core of a server; a search corrects them by what its trials took on its machine, so only their proportions matter.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from kdsearch.api import ModelInfo, Need, Signal, TeacherRole
from kdsearch.space.candidates import Candidate
from kdsearch.student.assets import Assets
from kdsearch.teacher.signals import from_bottom
from kdsearch.teacher.trainable_copy import split_state

START = 0.5  # seconds of building a student, judging and saving it
ROW = 1e-5  # seconds a row whatever the student: gathering, loss
STEP = 5e-4  # seconds a step whatever the student, and
LAYER = 2.5e-3  # for each of its layers: the calls of many small products
FLOPS = 6e10  # a second, of students: small products in float32 or bfloat16
TEACHER_FLOPS = 1.2e11  # a second: its products are larger
UPDATE = 3e-9  # seconds a parameter and step, of the optimiser
BATCH = 32


@dataclass(frozen=True)
class Workload:
    """What all trials of a study have in common."""

    teacher: ModelInfo
    labelled: int  # rows
    unlabelled: int
    augmented: int
    tokens: float  # of a text, on average
    length: int  # tokens at which texts are cut
    cached: Collection[Need]  # the teacher's states that need no run, their layers counted from the bottom

    @classmethod
    def of(cls, assets: Assets) -> Workload:
        lengths, signals = assets.train_set.tokens.lengths, assets.train_set.signals
        rows = (assets.labelled, assets.unlabelled, assets.augmented)
        return cls(assets.info, *rows, float(lengths.mean()), assets.max_length, frozenset(signals))

    def rows(self, candidate: Candidate) -> float:
        """That one epoch goes through."""
        training = candidate.spec.training
        return self.labelled + training.get("unlabelled", 0.0) * self.unlabelled + training.get("augmented", 0.0) * self.augmented

    @property
    def teacher_flops(self) -> float:
        """Of one text of average length."""
        info, length = self.teacher, self.tokens
        layer = 4 * info.hidden**2 + 2 * length * info.hidden + 2 * info.hidden * info.intermediate
        return 2 * length * layer * info.layers


def flops(candidate: Candidate, workload: Workload) -> float:
    """Of one text of the study's maximal length; for a family that does not say, those of its parameters."""
    found = candidate.family.flops(workload.teacher, workload.length)
    return 2.0 * candidate.params if found is None else float(found)


def seconds(candidate: Candidate, workload: Workload) -> float:
    """Of a candidate's whole trial on one core."""
    training = candidate.spec.training
    rows, epochs = workload.rows(candidate), candidate.spec.epochs
    forward = flops(candidate, workload) * workload.tokens / workload.length
    steps = rows * epochs / training.get("batch_size", BATCH)
    own = rows * epochs * (ROW + 3 * forward / FLOPS) + steps * (STEP + candidate.info.layers * LAYER + candidate.params * UPDATE)
    return START + own + epochs * _teacher_seconds(candidate, workload, rows)


def _teacher_seconds(candidate: Candidate, workload: Workload, rows: float) -> float:
    """Of the teacher's part in one epoch: its copy's tuned layers forth and back, and what lies below them where no states are cached."""
    strategy, info = candidate.strategy, workload.teacher
    if strategy.teacher is TeacherRole.JOINT:
        below = split_state(info.layers, strategy.teacher_tuning())
        frozen = below.layer or 0
        work = (3 * (info.layers - frozen) + (0 if below in workload.cached else frozen)) / max(1, info.layers)
        return workload.labelled * work * workload.teacher_flops / TEACHER_FLOPS
    if strategy.teacher is TeacherRole.FROZEN:
        needs = strategy.teacher_needs(info, candidate.info)
        if any(need.signal is not Signal.LOGITS and from_bottom(need, info) not in workload.cached for need in needs):
            return rows * workload.teacher_flops / TEACHER_FLOPS
    return 0.0
