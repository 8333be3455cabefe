"""How good predictions are: the quality objectives of a study, higher is better."""

from __future__ import annotations

import math
import warnings

import numpy as np
from scipy import stats
from sklearn import metrics as sk


def scores(task: str, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """All quality figures of a task.

    Args:
        task: classification | regression.
        logits: (N, C); C = 1 for a regression.
        labels: (N,) class numbers or values.

    Returns:
        accuracy, macro_f1, mcc; or pearson, spearman, mse. A correlation with constant predictions is 0: nothing was learnt.
    """
    if task == "classification":
        predicted = logits.argmax(-1)
        return {
            "accuracy": float(sk.accuracy_score(labels, predicted)),
            "macro_f1": float(sk.f1_score(labels, predicted, average="macro", zero_division=0.0)),
            "mcc": float(sk.matthews_corrcoef(labels, predicted)),
        }
    values = logits[:, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        pearson, spearman = float(stats.pearsonr(values, labels)[0]), float(stats.spearmanr(values, labels)[0])
    return {
        "pearson": 0.0 if math.isnan(pearson) else pearson,
        "spearman": 0.0 if math.isnan(spearman) else spearman,
        "mse": float(sk.mean_squared_error(labels, values)),
    }


def standard_error(metric: str, score: float, rows: int) -> float:
    """Of a score on `rows` validation rows: binomial for shares of rows, (1 - r^2)/sqrt(n - 1) for a correlation."""
    if metric in ("pearson", "spearman", "mcc"):
        return (1 - score * score) / math.sqrt(max(1, rows - 1))
    share = min(max(score, 0.0), 1.0)
    return math.sqrt(share * (1 - share) / max(1, rows))
