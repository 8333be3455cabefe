"""The gate that refuses a wrong teacher: labels aligned by name, and predictions held against the simplest guess. numpy only, no model."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from kdsearch import tasks
from kdsearch.errors import InputError

CLEARLY = 2.0  # standard errors: a difference beyond is not called noise
CLEARLY_PERMUTED = 3.0  # more, because the best of many orders is picked


@dataclass(frozen=True)
class Evidence:
    """How good a teacher is on validation rows."""

    scores: dict[str, float]  # as the task gives them
    baseline: float  # accuracy of the majority class; mean squared error of the mean
    gain: float  # mean over rows of the gain over the baseline: correct predictions, or squared error removed
    noise: float  # one standard error of gain
    rows: int
    correlation: float  # of predictions and labels

    @property
    def association(self) -> float:
        """The correlation in standard errors; of random predictions that is 1/sqrt(n)."""
        return self.correlation * math.sqrt(self.rows)

    @property
    def above_chance(self) -> bool:
        """Better than guessing, beyond noise. On unbalanced classes the correlation shows this long before the accuracy."""
        return self.gain > CLEARLY * self.noise or self.association >= CLEARLY

    @property
    def hopeless(self) -> bool:
        return self.gain <= 0 and self.association < 1


def sample(labels: np.ndarray, size: int, seed: int = 0) -> np.ndarray:
    """(min(size, N),) row numbers, ascending, stratified by label: every range of labels is represented in proportion."""
    order = np.lexsort((np.random.default_rng(seed).random(len(labels)), *labels.reshape(len(labels), -1).T))
    size = min(size, len(labels))
    return np.sort(order[np.arange(size) * len(labels) // size])


def check(
    logits: np.ndarray,
    targets: np.ndarray,
    labels: Sequence[str],
    order: Sequence[int],
    task: str,
    where: str,
    *,
    tuned: bool,
    final: bool,
    key: str = "teacher",
) -> Evidence:
    """Compare the teacher's predictions with the labels.

    Args:
        logits: (N, C) in the data's order of labels; C = 1 for a regression.
        targets: (N,) class numbers or values.
        labels: names of the C classes.
        order: as `align` returned it, to print the teacher's own order.
        tuned: whether we fine-tuned it just now, which changes the advice.
        final: these rows decide; without it they are a first evaluation, which refuses only a hopeless teacher.
        key: where the study file has the teacher: teacher, or teacher[1].

    Raises:
        InputError: not finite, permuted labels, no better than the simplest guess, or not beyond noise.
    """
    if not np.isfinite(logits).all():
        raise InputError(f"{where}: the teacher gives NaN or infinite logits: its weights are damaged")
    about = tasks.of(task)
    if about.exclusive:
        _refuse_permuted(about.predictions(logits), targets, labels, order, where, key)
    found = about.gain(logits, targets, labels)
    gain, noise = _mean(found.rows)
    scores = about.scores(logits, targets)
    evidence = Evidence(scores, found.baseline, gain, noise, len(targets), scores[found.association])
    if not evidence.hopeless and not (final and (gain <= 0 or not evidence.above_chance)):
        return evidence
    against = "no better than" if gain <= 0 else "better by no more than noise than"
    advice = "fine-tune longer, with another lr, or on more rows" if tuned else "give a teacher that was trained for this task"
    if not about.probabilities and evidence.association > CLEARLY:
        advice = f"it predicts on another scale than the labels: bring them to its scale, or set {key}.finetune: {{epochs: 3, lr: 5.0e-5}}"
    what = f"{found.figure} on {len(targets):,} validation rows, {against} {found.guess}"
    raise InputError(f"{where}: the teacher has nothing to teach: {what}: {advice}")


def _refuse_permuted(predicted: np.ndarray, targets: np.ndarray, labels: Sequence[str], order: Sequence[int], where: str, key: str) -> None:
    confusion = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(confusion, (predicted, targets), 1)
    meant = linear_sum_assignment(confusion, maximize=True)[1]  # output i behaves like label meant[i]
    reassigned = meant[predicted] == targets
    better, noise = _mean(reassigned * 1.0 - (predicted == targets))
    commonest = np.bincount(targets).max() / len(targets)
    if better <= CLEARLY_PERMUTED * noise or reassigned.mean() <= commonest:
        return
    theirs = [""] * len(labels)
    for index, output in enumerate(order):
        theirs[output] = labels[meant[index]]
    raise InputError(
        f"{where}: the teacher's labels are in another order than its names say: accuracy {(predicted == targets).mean():.3f} as they are, "
        f"{reassigned.mean():.3f} when reassigned. Under {key}, write\n  labels: {json.dumps(theirs, ensure_ascii=False)}"
    )


def _mean(values: np.ndarray) -> tuple[float, float]:
    """Mean and its standard error."""
    return float(values.mean()), float(values.std() / math.sqrt(len(values)))
