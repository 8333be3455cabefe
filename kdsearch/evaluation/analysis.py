"""What changes besides the mean score when a student replaces its teacher: agreement, classes, calibration, slices, what moved in training.

Nothing here opens a file. Texts are read for words and length; they are kept only on request.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import optimize, special, stats
from sklearn import metrics as sk

from kdsearch import tasks
from kdsearch.data.tokens import Table

BINS = 15  # of the confidence, equally wide
LEAST = 20  # rows of a slice worth a line
RARE = 5  # a word seen fewer times in training
FURTHEST = 20  # rows listed where predictions are values, which differ by degrees

_WORD = re.compile(r"\w+")


def agreement(task: str, student: np.ndarray, teacher: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """How much the predictions of two models agree.

    Args:
        student, teacher: logits (N, C).
        labels: of the N rows.

    Returns:
        labels: the fraction of rows with the same prediction; kl: mean KL(teacher || student) in nats, of a decision; where predictions are values
        pearson, and the mean absolute difference.
    """
    about = tasks.of(task)
    same, chosen, taught = about.agree(student, teacher), about.choices(student, labels), about.choices(teacher, labels)
    if same is None or chosen is None or taught is None:
        one, other = about.predictions(student), about.predictions(teacher)
        constant = not (one.std() > 0 and other.std() > 0)
        return {"pearson": 0.0 if constant else float(np.corrcoef(one, other)[0, 1]), "difference": float(np.abs(one - other).mean())}
    mine, theirs = (special.log_softmax(each[0].astype(np.float64), axis=1) for each in (chosen, taught))
    return {"labels": float(same.mean()), "kl": float((np.exp(theirs) * (theirs - mine)).sum(1).mean())}


def per_class(task: str, logits: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """Precision, recall and F1 of each label, in the order of names, and how many rows have it."""
    about, found = tasks.of(task), []
    predicted = about.predictions(logits)
    for number, name in enumerate(names):
        there = about.holds(labels, number)
        scores = sk.precision_recall_fscore_support(there, about.holds(predicted, number), average="binary", zero_division=0.0)
        found.append(
            {"label": name, **dict(zip(("precision", "recall", "f1"), map(float, scores[:3]), strict=True)), "rows": int(there.sum())}
        )
    return found


def calibration_error(logits: np.ndarray, classes: np.ndarray, temperature: float = 1.0) -> float:
    """Expected calibration error, 0..1: the mean distance of confidence and accuracy over BINS equally wide bins of the confidence.

    Args:
        logits: (M, K) of choices between K classes, divided by the temperature first; classes: (M,) the right ones.
    """
    chances = special.softmax(logits.astype(np.float64) / temperature, axis=1)
    sure, right = chances.max(1), logits.argmax(1) == classes
    bins = np.minimum((sure * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(bins, weights=right - sure, minlength=BINS)
    return float(np.abs(gaps).sum() / len(classes))


def fitted_temperature(logits: np.ndarray, classes: np.ndarray) -> float:
    """The temperature, 0.05 to 20, that makes the right classes likeliest. To be fitted on other rows than those that it is judged on.

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, arXiv:1706.04599, section 4.2.
    """
    values, rows = logits.astype(np.float64), np.arange(len(classes))

    def loss(log_temperature: float) -> float:
        return -float(special.log_softmax(values / math.exp(log_temperature), axis=1)[rows, classes].mean())

    return float(math.exp(optimize.minimize_scalar(loss, bounds=(math.log(0.05), math.log(20.0)), method="bounded").x))


def calibration(
    task: str, validation: np.ndarray, validation_labels: np.ndarray, logits: np.ndarray, labels: np.ndarray
) -> dict[str, float] | None:
    """ECE of the model, and after a temperature fitted on validation; None where outputs are not probabilities.

    Args:
        validation: (M, C) logits there.
        logits: (N, C) on the rows that are judged.
    """
    known, judged = tasks.of(task).choices(validation, validation_labels), tasks.of(task).choices(logits, labels)
    if known is None or judged is None:
        return None
    chosen, right = judged[0], judged[1].astype(np.int64)
    temperature = fitted_temperature(known[0], known[1].astype(np.int64))
    return {
        "ece": calibration_error(chosen, right),
        "temperature": temperature,
        "ece_fitted": calibration_error(chosen, right, temperature),
    }


def words(table: Table) -> list[list[str]]:
    """The words of each row, both texts of a pair, in lower case."""
    pairs = table.pairs or [""] * len(table)
    return [_WORD.findall(f"{text} {pair}".casefold()) for text, pair in zip(table.texts, pairs, strict=True)]


def groups(task: str, table: Table, train: Table, names: Sequence[str]) -> dict[str, list[tuple[str, np.ndarray]]]:
    """Which rows belong together: by length, by their rarest word in the training text, by label where labels have names.

    Returns:
        kind -> [(name, (N,) bool)].
    """
    rows = words(table)
    lengths = np.array([len(row) for row in rows])
    edges = np.unique(np.quantile(lengths, [0, 1 / 3, 2 / 3, 1]).astype(np.int64))
    thirds = []
    for index, high in enumerate(edges[1:] if len(edges) > 1 else edges):
        low = int(edges[index]) + (1 if index else 0)
        thirds.append((f"{low}-{high} words", (lengths >= low) & (lengths <= high)))
    seen = Counter(word for row in words(train) for word in row)
    rarest = np.array([min((seen[word] for word in row), default=0) for row in rows])
    by_word = [
        ("a word that training never saw", rarest == 0),
        (f"rarest word seen 1-{RARE - 1} times", (rarest > 0) & (rarest < RARE)),
        (f"every word seen {RARE} times or more", rarest >= RARE),
    ]
    by_label = [(name, tasks.of(task).holds(table.labels, number)) for number, name in enumerate(names)]
    return {"length": thirds, "words": by_word, **({"label": by_label} if by_label else {})}


def slices(
    task: str, student: np.ndarray, teacher: np.ndarray, labels: np.ndarray, parts: Mapping[str, Sequence[tuple[str, np.ndarray]]]
) -> list[dict[str, Any]]:
    """Where the student loses most against the teacher, worst first; slices of fewer than LEAST rows are left out.

    Args:
        student, teacher: logits (N, C).
        parts: as `groups` gives them.

    Returns:
        kind, slice, rows, student and teacher (accuracy, or what the task makes of its rows' errors, such as their mean), lost (the student's
        errors minus the teacher's), ci95 of lost, all slices holding at once (Bonferroni).
    """
    about = tasks.of(task)
    costs = [about.row_errors(logits, labels) for logits in (student, teacher)]
    kept = [(kind, name, rows) for kind, named in parts.items() for name, rows in named if rows.sum() >= LEAST]
    quantile = float(stats.norm.ppf(1 - 0.025 / max(1, len(kept))))
    found = []
    for kind, name, rows in kept:
        own, others = costs[0][rows], costs[1][rows]
        lost = float((own - others).mean())
        half = quantile * float((own - others).std(ddof=1)) / math.sqrt(len(own))
        shown = [about.of_errors(own.mean()), about.of_errors(others.mean())]
        found.append(
            {
                "kind": kind,
                "slice": name,
                "rows": int(rows.sum()),
                "student": float(shown[0]),
                "teacher": float(shown[1]),
                "lost": lost,
                "ci95": [lost - half, lost + half],
            }
        )
    return sorted(found, key=lambda each: -each["lost"])


def disagreements(
    task: str, student: np.ndarray, teacher: np.ndarray, table: Table, names: Sequence[str], *, texts: bool = False
) -> list[dict[str, Any]]:
    """The rows on which the two disagree: their numbers in their role of the data, counted from 0, with the label and both predictions.

    Where predictions are values, the FURTHEST rows, the largest difference first.

    Args:
        texts: with the rows' texts, which may be private.
    """
    about = tasks.of(task)
    same = about.agree(student, teacher)
    rows = np.argsort(-np.abs(student[:, 0] - teacher[:, 0]), kind="stable")[:FURTHEST] if same is None else np.flatnonzero(~same)
    labels, known = table.labels[rows], about.known(table.labels[rows])
    truth = iter(about.readable(labels[known], names))
    answers = (about.decode(logits[rows], names) for logits in (student, teacher))
    found = []
    for row, one, other, labelled in zip(rows, *answers, known, strict=True):
        line: dict[str, Any] = {"row": int(row), "label": next(truth) if labelled else None, "student": one, "teacher": other}
        if texts:
            line["text"] = table.texts[row]
            if table.pairs is not None:
                line["text_pair"] = table.pairs[row]
        found.append(line)
    return found


def moved(history: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Each loss term over time, from a trial's history in the ledger.

    Returns:
        share: fraction of the budget at each point; terms: name -> its mean up to that point since the one before, None where it did not occur.
    """
    terms = list(dict.fromkeys(name for point in history for name in point if name not in ("share", "seconds")))
    return {"share": [point["share"] for point in history], "terms": {name: [point.get(name) for point in history] for name in terms}}


def compare(
    task: str,
    names: Sequence[str],
    table: Table,
    train: Table,
    student: np.ndarray,
    teacher: np.ndarray,
    validation: tuple[np.ndarray, np.ndarray, np.ndarray],
    *,
    texts: bool = False,
) -> dict[str, Any]:
    """All of the above for one student.

    Args:
        names: of the labels, in the order of the logits; () where they have none.
        table: the N rows that are judged, labelled.
        train: whose words count as known.
        student, teacher: logits (N, C) on table's rows.
        validation: (student's logits, teacher's logits, labels) of the validation rows, on which temperatures are fitted.
        texts: list the texts of the rows on which the two disagree.
    """
    labels = table.labels
    found: dict[str, Any] = {"rows": len(table), "agreement": agreement(task, student, teacher, labels)}
    models = {"student": student, "teacher": teacher}
    if names:
        found["classes"] = {who: per_class(task, logits, labels, names) for who, logits in models.items()}
    both = zip(models.items(), validation[:2], strict=True)
    calibrated = {who: calibration(task, known, validation[2], logits, labels) for (who, logits), known in both}
    if all(calibrated.values()):
        found["calibration"] = calibrated
    found["slices"] = slices(task, student, teacher, labels, groups(task, table, train, names))
    found["disagreements"] = disagreements(task, student, teacher, table, names, texts=texts)
    return found
