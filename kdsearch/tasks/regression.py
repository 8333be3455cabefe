"""One number a text."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kdsearch.errors import InputError
from kdsearch.tasks import resampling
from kdsearch.tasks.columns import Columns
from kdsearch.tasks.columns import labels as cells_of
from kdsearch.tasks.task import Gain, Resampled, Task

if TYPE_CHECKING:
    from torch import Tensor


class Regression(Task):
    """Labels (N,) float32, NaN where unlabelled; logits (N, 1), the number itself."""

    name: ClassVar[str] = "regression"
    qualities: ClassVar[tuple[str, ...]] = ("pearson", "spearman")
    resampled: ClassVar[Resampled] = {"pearson": resampling.pearson, "spearman": resampling.spearman}
    problem_type: ClassVar[str] = "regression"
    activation: ClassVar[None] = None
    exclusive: ClassVar[bool] = False
    named: ClassVar[bool] = False
    simplest: ClassVar[str] = "mean value"
    always: ClassVar[str] = "the mean"
    baseline: ClassVar[str] = "squared error"

    def read(self, found: Mapping[str, Columns], column: str) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
        return (), values(dict(found), column)

    def unlabelled(self, rows: int) -> np.ndarray:
        return np.full(rows, np.nan, np.float32)

    def known(self, labels: Any) -> Any:
        return labels == labels  # NaN alone differs from itself, in numpy and in torch

    def strata(self, labels: np.ndarray) -> None:
        return None

    def outputs(self, names: Sequence[str]) -> int:
        return 1

    def align(self, outputs: Sequence[str], names: Sequence[str], given: Sequence[str] | None, where: str, key: str) -> tuple[int, ...]:
        if len(outputs) != 1:
            raise InputError(
                f"{where}: the teacher has {len(outputs)} labels, but a regression needs one number: give a teacher for it, "
                f"or {key}.finetune: {{epochs: 3, lr: 5.0e-5}} to tune it for that"
            )
        return (0,)

    def hard_loss(self, logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Mean squared error."""
        from torch.nn import functional as F

        known = self.known(labels)
        if not bool(known.any()):
            return logits.sum() * 0.0
        return F.mse_loss(logits.squeeze(-1)[known], labels[known])

    def targets_of_labels(self, labels: Tensor, outputs: int) -> Tensor:
        return labels.unsqueeze(-1)

    def scaling(self, labels: np.ndarray) -> tuple[float, float] | None:
        known = labels[self.known(labels)].astype(np.float64)
        if not len(known):
            return None
        return float(known.mean()), float(known.std()) if known.min() < known.max() else 1.0

    def predictions(self, logits: np.ndarray) -> np.ndarray:
        return logits[:, 0].astype(np.float64)

    def readable(self, labels: np.ndarray, names: Sequence[str]) -> list[float]:
        return [float(value) for value in labels]

    def written(self, prediction: float) -> str:
        return f"{prediction:.6g}"

    def scores(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """A correlation with constant predictions is 0: they are no better than chance."""
        from scipy import stats
        from sklearn import metrics as sk

        predicted = logits[:, 0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.ConstantInputWarning)
            pearson, spearman = float(stats.pearsonr(predicted, labels)[0]), float(stats.spearmanr(predicted, labels)[0])
        return {
            "pearson": 0.0 if math.isnan(pearson) else pearson,
            "spearman": 0.0 if math.isnan(spearman) else spearman,
            "mse": float(sk.mean_squared_error(labels, predicted)),
        }

    def guess(self, labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        return np.full(shape, float(np.nanmean(labels)), np.float32)

    def gain(self, logits: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> Gain:
        errors = (logits[:, 0].astype(np.float64) - labels) ** 2
        guessed = (labels - labels.mean()) ** 2
        baseline, scores = float(guessed.mean()), self.scores(logits, labels)
        guess = f"always predicting {self.always} ({baseline:.4g}; correlation {scores['pearson']:.2f})"
        return Gain(guessed - errors, baseline, f"mean squared error {scores['mse']:.4g}", guess, "pearson")

    def row_errors(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return np.abs(logits[:, 0] - labels).astype(np.float64)

    def of_errors(self, mean: float) -> float:
        return mean

    def spread(self, labels: np.ndarray) -> float:
        return max(1.0, float(np.nanstd(labels)))


def values(found: dict[str, Columns], column: str) -> dict[str, np.ndarray]:
    read = {}
    for role, source in found.items():
        cells = cells_of(source, column)
        numbers = [_float(cell) for cell in cells]
        odd = [row for row, number in enumerate(numbers) if not math.isfinite(number)]
        if odd:
            raise source.problem(
                odd, column, f"{cells[odd[0]]!r} is not a number: a regression needs numbers (task: classification takes names)"
            )
        read[role] = np.array(numbers, np.float32)
        if role != "test" and read[role].min() == read[role].max():
            raise InputError(f"{source.where}: column {column!r}: every label is {cells[0]}: there is nothing to learn")
    return read


def _float(cell: Any) -> float:
    if isinstance(cell, bool):
        return math.nan
    try:
        number = float(cell)
    except (TypeError, ValueError):
        return math.nan
    return number if abs(number) <= float(np.finfo(np.float32).max) else math.inf
