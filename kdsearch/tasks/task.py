"""What a task has to say of its labels. Arrays are numpy's where nothing is trained, torch's where something is; both come from the caller."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kdsearch.tasks.columns import Columns

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Gain:
    """A teacher's answers against the simplest guess, row by row."""

    rows: np.ndarray  # (N,) float64: what each row gains over the guess
    baseline: float  # the guess's own figure: accuracy of the majority class, mean squared error of the mean
    told: str  # the teacher's figure, in words
    guess: str  # the guess, in words
    association: str  # the metric that tells long before the gain whether anything was learnt


class Task(ABC):
    """A kind of label. One instance of each stands in `kdsearch.tasks`; a study names it under `task`.

    C below is the number of outputs of a model; labels and logits are rows first, and may have more dimensions than one and two: a task whose
    labels are vectors, or one for each token, shapes them as it likes, so long as its own methods agree.

    Class attributes:
        name: as the study file says it. qualities: its metrics that may be a study's objective, the default first.
        problem_type: as transformers names it. named: whether labels have names, which a teacher's outputs are aligned with.
        probabilities: whether outputs stand for probabilities, which a temperature softens and label smoothing spreads.
        simplest: the guess that looks at no text, in words; baseline: its figure in words.
    """

    name: ClassVar[str]
    qualities: ClassVar[tuple[str, ...]]
    problem_type: ClassVar[str]
    named: ClassVar[bool]
    probabilities: ClassVar[bool]
    simplest: ClassVar[str]
    baseline: ClassVar[str]

    # Labels

    @abstractmethod
    def read(self, found: Mapping[str, Columns], column: str) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
        """(names of the labels, () where they have none; role -> labels of its rows, checked).

        Raises:
            InputError: names file, column and row.
        """

    @abstractmethod
    def unlabelled(self, rows: int) -> np.ndarray:
        """Labels of rows whose label is not known."""

    @abstractmethod
    def known(self, labels: Any) -> Any:
        """(N,) bool: which rows have a label; an array for an array, a tensor for a tensor."""

    @abstractmethod
    def strata(self, labels: np.ndarray) -> np.ndarray | None:
        """(N,) whole numbers that every split is to have in their proportions; None where labels have no such groups."""

    # Models

    @abstractmethod
    def outputs(self, names: Sequence[str]) -> int:
        """C: the size of a model's head."""

    @abstractmethod
    def align(self, outputs: Sequence[str], names: Sequence[str], given: Sequence[str] | None, where: str, key: str) -> tuple[int, ...]:
        """Which of a teacher's outputs stands for each output of ours: i is its order[i].

        Args:
            outputs: the names in the teacher's own configuration, in its order; names: the data's, in the study's order.
            given: `teacher.labels`, which wins over outputs. where: the teacher, for messages; key: where the study file has it.

        Raises:
            InputError: another number of outputs, or names that do not match.
        """

    @abstractmethod
    def hard_loss(self, logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """The task's own loss over labelled rows, a scalar with a gradient; 0 without any."""

    @abstractmethod
    def targets(self, logits: Tensor) -> Tensor:
        """(N, C) what a teacher with these logits says is to be learnt, such as probabilities."""

    @abstractmethod
    def targets_of_labels(self, labels: Tensor, outputs: int) -> Tensor:
        """(N, C) the same from the labels alone."""

    def scaling(self, labels: np.ndarray) -> tuple[float, float] | None:
        """(mean, standard deviation) of known labels that are standardised while a model learns; None where nothing is scaled."""
        return None

    # Answers

    @abstractmethod
    def predictions(self, logits: np.ndarray) -> np.ndarray:
        """(N,) what a model answers: a class number, a value."""

    @abstractmethod
    def decode(self, logits: np.ndarray, names: Sequence[str]) -> list[Any]:
        """The answers as a user reads them."""

    @abstractmethod
    def scores(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Every metric of the task; `qualities` are among them, each larger for a better model."""

    @abstractmethod
    def guess(self, labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Logits of that shape of the guess that looks at no text, from training labels."""

    @abstractmethod
    def gain(self, logits: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> Gain:
        """How much better than the simplest guess these answers are."""

    @abstractmethod
    def row_errors(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """(N,) float64 how wrong each answer is."""

    @abstractmethod
    def of_errors(self, mean: float) -> float:
        """The mean of `row_errors` as the figure that a person reads, such as accuracy."""

    def spread(self, labels: np.ndarray) -> float:
        """The size of a difference of logits that is as large as 1 is for classes."""
        return 1.0
