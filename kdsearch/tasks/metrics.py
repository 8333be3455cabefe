"""Quality metrics by name: what does not depend on the task. Each task computes its own scores."""

from __future__ import annotations

import math

CORRELATIONS = frozenset({"mcc", "pearson", "spearman"})  # a random guess scores 0, not 0.5


def standard_error(metric: str, score: float, rows: int) -> float:
    """Of a score on `rows` validation rows: binomial for fractions of rows, (1 - r^2)/sqrt(n - 1) for a correlation."""
    if metric in CORRELATIONS:
        return (1 - score * score) / math.sqrt(max(1, rows - 1))
    fraction = min(max(score, 0.0), 1.0)
    return math.sqrt(fraction * (1 - fraction) / max(1, rows))


def retention(score: float | None, teacher: float | None) -> float | None:
    """The fraction of the teacher's score that is kept; None where one of them is missing, or the teacher's is not above 0."""
    return None if score is None or teacher is None or teacher <= 0 else score / teacher


def error(metric: str, score: float) -> float:
    """A score as an error that is 0 for a perfect model and 0.5 for a coin flip on balanced classes: 1 - score, of a correlation (1 - score) / 2.

    For balanced classes the latter is exactly the error rate that a Matthews correlation stands for.
    """
    return (1.0 - score) / 2 if metric in CORRELATIONS else 1.0 - score
