"""The contracts between the core, strategies and families. Depends on torch and `kdsearch.tasks` alone.

A strategy and a family never know each other: they meet through signals. A family's module turns a `Batch` into `Outputs` that hold the
signals it was asked for; a strategy names the signals it needs and turns two `Outputs` into loss terms.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from kdsearch import tasks

__all__ = [
    "Batch",
    "Family",
    "ModelInfo",
    "Need",
    "Outputs",
    "Signal",
    "Space",
    "Strategy",
    "TeacherRole",
    "TeacherTuning",
    "UndeclaredSignal",
]


class Signal(enum.StrEnum):
    """What a model can show of itself. B rows, S tokens, C classes, H width, A heads."""

    LOGITS = "logits"  # (B, C) before softmax; C = 1 for a regression
    POOLED = "pooled"  # (B, H) a state averaged over the row's real tokens; state 0 is the embedding
    HIDDEN = "hidden"  # (B, S, H) a state; state 0 is the embedding, state k the output of layer k
    ATTENTION = "attention"  # (B, A, S, S) a layer's attention probabilities, before dropout; layer 0 is the lowest
    VALUES = "values"  # (B, A, S, H/A) a layer's value vectors; layer 0 is the lowest

    def states(self, layers: int) -> int:
        """How many of it a model of that many layers shows: the embedding is a state too."""
        return layers + 1 if self in (Signal.POOLED, Signal.HIDDEN) else layers


class TeacherRole(enum.StrEnum):
    ABSENT = "absent"  # the strategy learns from labels alone
    FROZEN = "frozen"  # the teacher's signals are constants: they come from the cache wherever it holds them
    JOINT = "joint"  # a private copy of the teacher is trained beside the student


class UndeclaredSignal(LookupError):
    """A strategy used a signal that its `teacher_needs` or `student_needs` did not declare."""


@dataclass(frozen=True)
class Need:
    """One signal of one state or layer. Negative layers count from the top; the default is the topmost, and LOGITS has none."""

    signal: Signal
    layer: int | None = None

    def __post_init__(self) -> None:
        if self.signal is Signal.LOGITS:
            if self.layer is not None:
                raise ValueError("Need(Signal.LOGITS) takes no layer")
        elif self.layer is None:
            object.__setattr__(self, "layer", -1)

    def index(self, layers: int) -> int:
        """Its layer counted from the bottom, of a model with that many layers.

        Raises:
            IndexError: the model has no such state or layer.
        """
        assert self.layer is not None, "the logits have no layer"
        states = self.signal.states(layers)
        if not -states <= self.layer < states:
            raise IndexError(f"Need(Signal.{self.signal.name}, {self.layer}): this model has {states}: use {-states} .. {states - 1}")
        return self.layer % states


LOGITS = Need(Signal.LOGITS)


def needs_of(signal: Signal, layers: Iterable[int]) -> tuple[Need, ...]:
    """The logits, and this signal of these states or layers, each once."""
    return (LOGITS, *(Need(signal, layer) for layer in sorted(set(layers)) if signal is not Signal.LOGITS))


class _Layered(dict[tuple[Signal, int], Tensor]):
    def __missing__(self, key: object) -> Tensor:
        name = f"Need(Signal.{key[0].name}, {key[1]})" if isinstance(key, tuple) and len(key) == 2 else repr(key)
        raise UndeclaredSignal(f"{name} was used but not declared: add it to teacher_needs() or student_needs()")


@dataclass
class Outputs:
    """A model's answer to a batch.

    Of several frozen teachers, logits are those of the mean: the log of the mean of their probabilities, or the mean of their numbers.
    layered holds exactly the needs that were declared, under the keys (signal, layer) with the layer as it was declared;
    any other key raises UndeclaredSignal.
    """

    logits: Tensor  # (B, C) float32
    layered: Mapping[tuple[Signal, int], Tensor] = field(default_factory=dict)
    teachers: Tensor | None = None  # (K, B, C) each frozen teacher's logits, the main one's first; for strategies with each_teacher alone

    def __post_init__(self) -> None:
        self.layered = _Layered(self.layered)


@dataclass
class Batch:
    """Rows as a model reads them."""

    ids: Tensor  # (B, S) int64
    mask: Tensor  # (B, S) bool, False where padded
    labels: Tensor  # (B,) int64, -100 where unlabelled; for a regression float32, standardised in training, NaN where unlabelled
    example: Tensor  # (B,) int64 each row's index within its part: what students learn from, or the validation rows
    types: Tensor | None = None  # (B, S) int64: 0 for the first text of a pair, 1 for the second
    label_smoothing: float = 0.0  # 0..1, of hard_loss: this fraction of each label is spread over all classes
    task: str = ""  # whose labels these are, as the study names it; "": what their numbers suggest, whole ones are classes

    @property
    def task_of_labels(self) -> tasks.Task:
        return tasks.of(self.task or tasks.suiting(not self.labels.is_floating_point()))

    def hard_loss(self, logits: Tensor) -> Tensor:
        """The task's own loss over labelled rows, a scalar: mean cross-entropy of classes, mean squared error of values; 0 without any.

        Args:
            logits: (B, C); C = 1 for a regression.
        """
        return self.task_of_labels.hard_loss(logits, self.labels, self.label_smoothing)

    @property
    def known(self) -> Tensor:
        """(B,) bool: which rows have a label."""
        found: Tensor = self.task_of_labels.known(self.labels)
        return found


@dataclass(frozen=True)
class ModelInfo:
    """What can be known of a model without building it."""

    labels: int  # C: classes, or 1 for a regression
    layers: int
    hidden: int  # H
    heads: int
    vocab: int
    provides: frozenset[Signal]
    task: str = "classification"  # as the study names it; what it means is for kdsearch.tasks
    intermediate: int = 0  # width of a feed-forward block; 0 where there is none
    positions: int = 512  # rows of the position table
    types: int = 2  # rows of the token type table
    vocabularies: tuple[int, ...] = ()  # sizes of the pruned vocabularies that a student may have instead of `vocab`, ascending
    teachers: int = 1  # K: how many the study has; everything else here is the main one's
    embedding: int = 0  # width of the embedding tables where it is not H, and a projection stands between; 0 where it is
    activation: str = "gelu"  # of a feed-forward block, as transformers names it
    eps: float = 1e-12  # of the layer norms

    @property
    def problem_type(self) -> str:
        """The task as transformers names it."""
        return tasks.of(self.task).problem_type

    @property
    def probabilities(self) -> bool:
        """Whether outputs stand for probabilities, which a temperature softens."""
        return tasks.of(self.task).probabilities

    @property
    def exclusive(self) -> bool:
        """Whether a text has exactly one of the labels, so that a softmax over its logits gives the probability of each."""
        return tasks.of(self.task).exclusive


class Space(ABC):
    """Where a strategy or family draws its hyperparameters. The core adds the prefix: `weight` of strategy `feature` is `feature.weight`."""

    @abstractmethod
    def real(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...

    @abstractmethod
    def integer(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...

    @abstractmethod
    def choice(self, name: str, options: Sequence[Any]) -> Any:
        """One of options, which may depend on the teacher but never on another hyperparameter: the sampler needs them fixed for the whole study."""

    @abstractmethod
    def temperature(self) -> float:
        """The study's one temperature, T >= 1: the same for every strategy, so that every trial teaches the sampler about it."""

    @abstractmethod
    def alpha(self) -> float:
        """The study's one alpha, 0..1: the weight of the teacher's soft loss; 1 - alpha is the weight of the labels' loss."""


@dataclass(frozen=True)
class TeacherTuning:
    """How a JOINT strategy trains its private copy of the teacher."""

    layers: int = 1  # how many of the top layers are tuned (the classification head always is)
    lr_factor: float = 0.1  # its learning rate as a multiple of the study's `lr`, without the lr_scale of the student's family


@dataclass(frozen=True)
class Strategy(ABC):
    """How a student learns. A subclass is a frozen dataclass: its fields are its search parameters and its JSON.

    Class attributes: `name`; `source`, the paper and equation; `teacher`, the teacher's role; `reads`, the signal that `loss` reads of
    both models besides the logits, where there is one; `each_teacher`, whether it reads
    `Outputs.teachers`: it is then for studies with several teachers alone, and refused in others; `staged`, whether it first learns something
    else than to answer, so that its scores on the way say little beside those of other strategies: early stopping then compares its trials
    with one another alone.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    teacher: ClassVar[TeacherRole] = TeacherRole.FROZEN
    reads: ClassVar[Signal] = Signal.LOGITS
    each_teacher: ClassVar[bool] = False
    staged: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def suggest(cls, space: Space, teacher: ModelInfo, student: ModelInfo) -> dict[str, Any]:
        """The fields of one instance, drawn from space. Plain Python and cheap; an `if` makes a hyperparameter conditional."""

    @classmethod
    def fits(cls, teacher: ModelInfo, provides: frozenset[Signal]) -> bool:
        """Whether this strategy can work with a family that provides these signals. A pair that does not fit is never proposed."""
        return cls.reads in provides

    def pairs(self, teacher: ModelInfo, student: ModelInfo) -> Sequence[tuple[int, int]]:
        """Which states or layers of the signal `reads` go together: (student's, teacher's). The topmost, unless a strategy says otherwise."""
        return [(-1, -1)]

    def teacher_needs(self, teacher: ModelInfo, student: ModelInfo) -> tuple[Need, ...]:
        """The teacher's signals that `loss` reads; asked again wherever they are needed, so they follow from the fields and the two models."""
        return needs_of(self.reads, (theirs for _, theirs in self.pairs(teacher, student)))

    def student_needs(self, teacher: ModelInfo, student: ModelInfo) -> tuple[Need, ...]:
        """The student's signals that `loss` reads."""
        return needs_of(self.reads, (mine for mine, _ in self.pairs(teacher, student)))

    def build(self, teacher: ModelInfo, student: ModelInfo) -> nn.Module | None:
        """Modules that only training needs, such as projections: optimised and clipped with the student, never counted, never exported.

        Also the place for what `loss` must know of the two models, such as which states go together (`kdsearch.modules.StateMaps`).
        """
        return None

    def teacher_tuning(self) -> TeacherTuning:
        """Asked of JOINT strategies only."""
        return TeacherTuning()

    @abstractmethod
    def loss(self, student: Outputs, teacher: Outputs | None, batch: Batch, extra: nn.Module | None, progress: float) -> dict[str, Tensor]:
        """Scalar terms, already weighted; their sum is the loss.

        Args:
            student: the student's outputs, with gradients.
            teacher: the teacher's outputs: constants when FROZEN, with gradients when JOINT, None when ABSENT.
            batch: the rows.
            extra: what `build` returned.
            progress: the fraction of the planned examples already seen, 0..1.
        """


@dataclass(frozen=True)
class Family(ABC):
    """What a student is. A subclass is a frozen dataclass: its fields are its search parameters and its JSON.

    Class attributes: `name`; `source`; `provides`, the signals its modules can show; `lr_scale`, the factor on the study's one
    learning-rate knob that makes the same range fit this family; `bfloat16`, whether most of its time goes into large matrix products, so that
    training in mixed precision pays on a CPU that is fast at it (on CUDA every family trains so). Scores are always those in float32.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    provides: ClassVar[frozenset[Signal]]
    lr_scale: ClassVar[float] = 1.0
    bfloat16: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def suggest(cls, space: Space, teacher: ModelInfo) -> dict[str, Any]:
        """The fields of one instance, drawn from space."""

    @classmethod
    def known_good(cls, teacher: ModelInfo) -> list[dict[str, Any]]:
        """Knob values (without prefix) of shapes worth trying first, smallest first. The search clips them to the study's ranges."""
        return []

    @abstractmethod
    def info(self, teacher: ModelInfo) -> ModelInfo:
        """What the built student will be."""

    @abstractmethod
    def size(self, teacher: ModelInfo) -> int:
        """Exact number of parameters in closed form; the contract test checks it against `build`."""

    def flops(self, teacher: ModelInfo, length: int) -> int | None:
        """Exact matrix-product FLOPs (2 a multiply-add) of one text of `length` tokens; None to have them counted on the built module."""
        return None

    @abstractmethod
    def build(self, teacher: ModelInfo) -> nn.Module:
        """A module whose `forward(batch, needs)` returns `Outputs`, with random weights drawn from torch's global generator."""

    def observe(self, student: nn.Module, ids: Tensor, offsets: Tensor, answers: Tensor) -> None:
        """Fix in the student, in place, what has to be counted on the training text, such as which n-grams it has. Called after `build`.

        Args:
            ids: (T,) int64 the rows that the trial will train on end to end, in the student's own vocabulary.
            offsets: (N + 1,) int64: row n is ids[offsets[n]:offsets[n + 1]].
            answers: (N, C) float32 the training target of each row: the teacher's probabilities, or its value for a regression; where the strategy
                has no teacher, the labels: one-hot, or the value.
        """
        return

    def start_from(self, student: nn.Module, teacher: nn.Module) -> None:
        """Start the student from the teacher, in place. Called after `observe`.

        teacher: the teacher's classifier, on the CPU, not to be changed. For a student with a pruned vocabulary its word table holds the
            rows of the kept subwords only, in the student's order.
        """
        return

    def word_table(self, student: nn.Module) -> nn.Embedding | None:
        """The embedding that token ids index and nothing else does, if there is one: while training, it then holds only the rows of tokens that
        occur, because the others get no gradient and no decay."""
        return None

    def stock(self, student: nn.Module) -> nn.Module | None:
        """The stock Hugging Face model inside, sharing its weights, if there is one: the saved folder then loads with
        AutoModelForSequenceClassification. None: it loads with kdsearch.load_student and runs anywhere as ONNX."""
        return None
