"""The gate that refuses a wrong teacher: labels aligned by name, and predictions held against the simplest guess. numpy only, no model."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from kdsearch.errors import InputError
from kdsearch.evaluation import metrics

CLEARLY = 2.0  # standard errors: a difference beyond is not called noise
CLEARLY_PERMUTED = 3.0  # more, because the best of many orders is picked


@dataclass(frozen=True)
class Evidence:
    """What validation rows say of a teacher."""

    scores: dict[str, float]  # as metrics.scores gives them
    baseline: float  # accuracy of the majority class; mean squared error of the mean
    gain: float  # a row's mean gain over the baseline: correct answers, or squared error taken away
    noise: float  # one standard error of gain
    rows: int

    @property
    def association(self) -> float:
        """Correlation of answers and labels in standard errors of answers that know nothing, whose own is 1/sqrt(n)."""
        return self.scores["mcc" if "mcc" in self.scores else "pearson"] * math.sqrt(self.rows)

    @property
    def learnt(self) -> bool:
        """Whether something was, beyond noise: on unbalanced classes the association tells it long before the accuracy does."""
        return self.gain > CLEARLY * self.noise or self.association >= CLEARLY

    @property
    def hopeless(self) -> bool:
        return self.gain <= 0 and self.association < 1


def align(outputs: Sequence[str], labels: Sequence[str], given: Sequence[str] | None, where: str, key: str = "teacher") -> tuple[int, ...]:
    """Which of the teacher's outputs stands for each label of the data: label i is output order[i].

    Args:
        outputs: the names that the teacher's own configuration has, in its order.
        labels: the data's names, in the study's order.
        given: `teacher.labels`, which wins over outputs.
        key: where the study file has the teacher: teacher, or teacher[1].

    Raises:
        InputError: another number of labels, or names that do not match.
    """
    if given is not None and len(given) != len(outputs):
        raise InputError(f"{key}.labels: {len(given)} names ({_listed(given)}), but the teacher has {len(outputs)} outputs")
    if len(outputs) != len(labels):
        raise InputError(
            f"{where}: the teacher has {len(outputs)} labels ({_listed(outputs)}), the data {len(labels)} ({_listed(labels)}): "
            f"give a teacher for these labels, or {key}.finetune: {{epochs: 3, lr: 5.0e-5}} to tune it for them"
        )
    numbered = list(labels) == [str(index) for index in range(len(labels))]
    if given is None and all(re.fullmatch(r"LABEL_\d+", name) for name in outputs):
        return tuple(range(len(labels)))
    names = list(outputs if given is None else given)
    for plain in (str, _folded):
        places = {plain(name): place for place, name in enumerate(names)}
        wanted = [plain(label) for label in labels]
        if len(places) == len(names) == len(set(wanted)) and set(wanted) == set(places):
            return tuple(places[label] for label in wanted)
    if given is None and numbered:
        return tuple(range(len(labels)))
    place = where if given is None else f"{key}.labels"
    raise InputError(
        f"{place}: label names do not match: the teacher has {_listed(names)}; the data has {_listed(labels)}: "
        f"write the data's names, in the teacher's order, under {key}.labels"
    )


def sample(labels: np.ndarray, size: int, seed: int = 0) -> np.ndarray:
    """(min(size, N),) row numbers, ascending, in which every stretch of labels has its share."""
    order = np.lexsort((np.random.default_rng(seed).random(len(labels)), labels))
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
    """Hold the teacher's answers against the right ones.

    Args:
        logits: (N, C) in the data's order of labels; C = 1 for a regression.
        targets: (N,) class numbers or values.
        labels: names of the C classes.
        order: as `align` gave it, to name the teacher's own order.
        tuned: whether we fine-tuned it just now, which changes the advice.
        final: judge by these rows; without it they are a first look, and only a hopeless teacher is refused.
        key: where the study file has the teacher: teacher, or teacher[1].

    Raises:
        InputError: not finite, permuted labels, no better than the simplest guess, or not beyond noise.
    """
    if not np.isfinite(logits).all():
        raise InputError(f"{where}: the teacher gives NaN or infinite logits: its weights are damaged")
    if task == "regression":
        errors = (logits[:, 0].astype(np.float64) - targets) ** 2
        guessed = (targets - targets.mean()) ** 2
        rowwise, baseline = guessed - errors, float(guessed.mean())
    else:
        predicted = logits.argmax(-1)
        counts = np.bincount(targets, minlength=len(labels))
        correct = predicted == targets
        rowwise, baseline = correct * 1.0 - (targets == counts.argmax()), float(counts.max() / len(targets))
        _refuse_permuted(predicted, targets, labels, order, baseline, where, key)
    gain, noise = _mean(rowwise)
    found = Evidence(metrics.scores(task, logits, targets), baseline, gain, noise, len(targets))
    if not found.hopeless and not (final and (gain <= 0 or not found.learnt)):
        return found
    against = "no better than" if gain <= 0 else "better by no more than noise than"
    advice = "fine-tune longer, with another lr, or on more rows" if tuned else "give a teacher that was trained for this task"
    if task == "regression":
        what = f"mean squared error {found.scores['mse']:.4g} on {len(targets):,} validation rows, {against} always saying the mean"
        what += f" ({baseline:.4g}; correlation {found.scores['pearson']:.2f})"
        if found.association > CLEARLY:
            advice = (
                f"it answers on another scale than the labels: bring them to its scale, or set {key}.finetune: {{epochs: 3, lr: 5.0e-5}}"
            )
    else:
        what = f"accuracy {found.scores['accuracy']:.3f} on {len(targets):,} validation rows, {against} always saying "
        what += f"{labels[int(counts.argmax())]!r} ({baseline:.3f})"
    raise InputError(f"{where}: the teacher has nothing to teach: {what}: {advice}")


def _refuse_permuted(
    predicted: np.ndarray, targets: np.ndarray, labels: Sequence[str], order: Sequence[int], baseline: float, where: str, key: str
) -> None:
    confusion = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(confusion, (predicted, targets), 1)
    meant = linear_sum_assignment(confusion, maximize=True)[1]  # output i behaves like label meant[i]
    reassigned = meant[predicted] == targets
    better, noise = _mean(reassigned * 1.0 - (predicted == targets))
    if better <= CLEARLY_PERMUTED * noise or reassigned.mean() <= baseline:
        return
    theirs = [""] * len(labels)
    for place, output in enumerate(order):
        theirs[output] = labels[meant[place]]
    raise InputError(
        f"{where}: the teacher's labels are in another order than its names say: accuracy {(predicted == targets).mean():.3f} as they are, "
        f"{reassigned.mean():.3f} when reassigned. Under {key}, write\n  labels: {json.dumps(theirs, ensure_ascii=False)}"
    )


def _mean(values: np.ndarray) -> tuple[float, float]:
    """Mean and its standard error."""
    return float(values.mean()), float(values.std() / math.sqrt(len(values)))


def _folded(name: str) -> str:
    return " ".join(name.split()).casefold()


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(str, names[:12]))
    return shown if len(names) <= 12 else f"{shown}, and {len(names) - 12} more"
