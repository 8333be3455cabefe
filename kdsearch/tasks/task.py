"""The interface of a task. Arrays are numpy's where nothing is trained, torch's where something is; both come from the caller."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from kdsearch.tasks.columns import Columns

if TYPE_CHECKING:
    from torch import Tensor


Resampled = Mapping[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]]


@dataclass(frozen=True)
class Gain:
    """A teacher's predictions compared with the simplest guess, row by row."""

    rows: np.ndarray  # (N,) float64: what each row gains over the guess
    baseline: float  # the guess's own figure: accuracy of the majority class, mean squared error of the mean
    figure: str  # the teacher's metric and its value, in words
    guess: str  # the guess, in words
    association: str  # the metric that shows long before the gain whether predictions are better than chance


class Task(ABC):
    """A kind of label. `kdsearch.tasks` has one instance of each; a study names it under `task`.

    C below is the number of outputs of a model; labels and logits are rows first, and may have more dimensions than one and two: a task whose
    labels are vectors, or one for each token, shapes them as it likes, so long as its own methods agree.

    Class attributes:
        name: as in the study file.
        qualities: its metrics that may be a study's objective, the default first. exact: the metric that is the fraction of rows without an
            error, None where there is none. resampled: a fast way to compute a quality on resampled rows, for those that have one:
            (counts (D, N), predictions (M, N), labels) -> (D, M).
        problem_type: as transformers names it; pipeline: as the Hub and its pipelines do.
        activation: what makes probabilities of outputs: a softmax over the last dimension, a sigmoid of each; None where outputs are values.
        exclusive: whether a text has exactly one of the labels. named: whether labels have names, which a teacher's outputs are aligned with.
        simplest: the guess that ignores the text, in words; always: what it predicts for every text; baseline: what its figure is, a metric's
            name where it is one.
    """

    name: ClassVar[str]
    qualities: ClassVar[tuple[str, ...]]
    exact: ClassVar[str | None] = None
    resampled: ClassVar[Resampled] = {}
    problem_type: ClassVar[str]
    pipeline: ClassVar[str] = "text-classification"
    activation: ClassVar[Literal["softmax", "sigmoid"] | None]
    exclusive: ClassVar[bool]
    named: ClassVar[bool]
    simplest: ClassVar[str]
    always: ClassVar[str]
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

    def holds(self, labels: np.ndarray, number: int) -> np.ndarray:
        """(N,) bool: which rows have the label of this number among the names; labels may be predictions."""
        return labels == number

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

    def targets(self, logits: Tensor) -> Tensor:
        """(N, C) the training targets that a teacher's logits give: probabilities, or the values."""
        if self.activation == "softmax":
            return logits.softmax(-1)
        return logits.sigmoid() if self.activation else logits

    @abstractmethod
    def targets_of_labels(self, labels: Tensor, outputs: int) -> Tensor:
        """(N, C) the same from the labels alone."""

    def scaling(self, labels: np.ndarray) -> tuple[float, float] | None:
        """(mean, standard deviation) of known labels that are standardised while a model learns; None where nothing is scaled."""
        return None

    @property
    def probabilities(self) -> bool:
        """Whether outputs stand for probabilities, which a temperature softens and label smoothing spreads."""
        return self.activation is not None

    def choices(self, logits: Any, labels: Any) -> tuple[Any, Any] | None:
        """Every decision of a model as a choice of one class out of K: what soft losses, agreement and calibration are made of.

        A label that is there or not is a choice between 0 and its logit. Arrays for arrays, tensors for tensors.

        Args:
            labels: of the same rows, known or not; a task that has decisions to leave out, such as those of padded tokens, sees it by them.
                None is passed on.

        Returns:
            (logits (M, K), the right class (M,) of each); None where outputs are values.
        """
        if self.activation != "sigmoid":
            return (logits, labels) if self.activation else None
        pairs = logits.reshape(-1, 1)[:, [0, 0]]
        pairs[:, 0] = 0
        return pairs, None if labels is None else labels.reshape(-1)

    # Predictions

    @abstractmethod
    def predictions(self, logits: np.ndarray) -> np.ndarray:
        """A model's predictions in the form of labels: (N,) class numbers, values."""

    @abstractmethod
    def readable(self, labels: np.ndarray, names: Sequence[str]) -> list[Any]:
        """Labels or predictions, none unknown, as Python values for users."""

    def decode(self, logits: np.ndarray, names: Sequence[str]) -> list[Any]:
        """The predictions as Python values for users."""
        return self.readable(self.predictions(logits), names)

    def written(self, prediction: Any) -> str:
        """One readable prediction as predict.py prints it."""
        return str(prediction)

    def probabilities_of(self, logits: np.ndarray) -> np.ndarray:
        """Of the same shape and type; for a task whose outputs stand for probabilities."""
        from scipy import special

        return np.asarray(special.softmax(logits, axis=-1) if self.activation == "softmax" else special.expit(logits))

    def agree(self, one: np.ndarray, other: np.ndarray) -> np.ndarray | None:
        """(N,) bool: for which rows two models predict the same; None where predictions are values, which differ by degrees."""
        if self.activation is None:
            return None
        same = self.predictions(one) == self.predictions(other)
        return np.asarray(same.all(axis=tuple(range(1, same.ndim))))

    @abstractmethod
    def scores(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Every metric of the task; `qualities` are among them, each larger for a better model."""

    def resampler(self, quality: str, logits: Sequence[np.ndarray], labels: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """A quality of M models on resampled rows: from counts (D, N), how often each row is in a resample, to scores (D, M).

        A quality that is not in `resampled` is scored resample by resample, with a call of `scores` for each.
        """
        fast = self.resampled.get(quality)
        if fast is not None:
            predicted = np.stack([self.predictions(each) for each in logits])
            return lambda counts: fast(counts, predicted, labels)

        def slow(counts: np.ndarray) -> np.ndarray:
            drawn = [np.repeat(np.arange(len(labels)), count) for count in counts.astype(np.int64)]
            return np.array([[self.scores(each[rows], labels[rows])[quality] for each in logits] for rows in drawn])

        return slow

    @abstractmethod
    def guess(self, labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Logits of that shape for the guess that ignores the text, from training labels."""

    @abstractmethod
    def gain(self, logits: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> Gain:
        """How much better than the simplest guess these predictions are."""

    @abstractmethod
    def row_errors(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """(N,) float64 how wrong each prediction is."""

    @abstractmethod
    def of_errors(self, mean: float) -> float:
        """The mean of `row_errors` as the figure that a person reads, such as accuracy."""

    def spread(self, labels: np.ndarray) -> float:
        """The size of a difference of logits that is as large as 1 is for classes."""
        return 1.0
