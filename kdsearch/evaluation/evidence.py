"""From predictions to the results of a confirmation: scores over seeds with intervals, the gain over the control, the recovered gap, ties."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdsearch import tasks
from kdsearch.evaluation import statistics
from kdsearch.tasks import metrics


@dataclass(frozen=True)
class Seeds:
    """One recipe, trained with K seeds."""

    seeds: tuple[int, ...]
    validation: tuple[dict[str, float], ...]  # scores of each seed there
    test: tuple[np.ndarray, ...]  # logits (N, C) of each seed

    def median(self, quality: str) -> int:
        """The index of the run to deploy."""
        return median_of([scores[quality] for scores in self.validation])


@dataclass(frozen=True)
class Judged:
    """One recipe on the test rows."""

    scores: tuple[dict[str, float], ...]  # of each seed
    observed: np.ndarray  # (K,) the quality of each seed
    drawn: np.ndarray  # (D,) bootstrap draws of the quality's mean over seeds
    ci95: statistics.Interval

    @property
    def means(self) -> dict[str, float]:
        return mean_scores(self.scores)

    def line(self) -> dict[str, Any]:
        """As front.json has it."""
        return {
            **self.means,
            "ci95": list(self.ci95),
            "deviation": deviation(self.observed),
            "seeds": len(self.observed),
            "by_seed": [float(score) for score in self.observed],
        }


def median_of(scores: Sequence[float]) -> int:
    """The index of the median score; of an even number the lower middle one, so that a lucky one is never chosen."""
    order = sorted(range(len(scores)), key=lambda index: (scores[index], index))
    return order[(len(order) - 1) // 2]


def mean_scores(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([each[name] for each in scores])) for name in scores[0]}


def deviation(values: Sequence[float] | np.ndarray) -> float | None:
    """Standard deviation over seeds; None with one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def judge(task: str, quality: str, labels: np.ndarray, recipes: Sequence[Sequence[np.ndarray]]) -> list[Judged]:
    """Measure recipes on the test rows, all on the same draws of rows.

    Args:
        quality: the study's.
        labels: of the N test rows.
        recipes: of each the logits (N, C) of its seeds.
    """
    rng, about = np.random.default_rng(0), tasks.of(task)
    scores = [tuple(about.scores(logits, labels) for logits in seeds) for seeds in recipes]
    observed = [np.array([each[quality] for each in seeds]) for seeds in scores]
    drawn = [statistics.resampled(task, quality, seeds, labels) for seeds in recipes]
    spreads = statistics.spreads(observed, drawn)
    found = []
    for index, spread in enumerate(spreads):
        means = statistics.over_seeds(drawn[index], spread, rng)
        if quality == about.exact:
            right = np.stack([about.row_errors(logits, labels) == 0 for logits in recipes[index]])
            interval = statistics.accuracy_interval(right, spread)
        else:
            interval = statistics.interval(means)
        found.append(Judged(scores[index], observed[index], means, interval))
    return found


def judge_one(task: str, quality: str, labels: np.ndarray, logits: np.ndarray) -> Judged:
    """One fixed model, the teacher or one student: no variance over seeds. logits: (N, C)."""
    return judge(task, quality, labels, [[logits]])[0]


def finalist(
    trial: int, quality: str, student: Seeds, judged: Judged, control: Judged | None, teacher: Judged, deployed: Judged
) -> dict[str, Any]:
    """front.json's record of a confirmed trial, without ties.

    Args:
        judged: `student` on test.
        deployed: the median run alone.
        control: the same student without a teacher; `judged` itself for a student that had none; None where it could not be trained.
    """
    index = student.median(quality)
    own, best = float(judged.observed.mean()), float(teacher.observed.mean())
    gain = recovered = None
    if control is not None and control is not judged:
        without = float(control.observed.mean())
        gain = {"value": own - without, "ci95": list(statistics.interval(judged.drawn - control.drawn))}
        recovered = statistics.recovered(judged.drawn, control.drawn, teacher.drawn, (own, without, best))
    return {
        "trial": trial,
        "student": f"students/{trial}-confirmed",
        "validation": {**mean_scores(student.validation), "deviation": deviation([each[quality] for each in student.validation])},
        "test": judged.line(),
        "deployed": {
            "seed": student.seeds[index],
            "validation": dict(student.validation[index]),
            "test": {**deployed.means, "ci95": list(deployed.ci95)},
        },
        "retention": metrics.retention(own, best),
        "control": None if control is None else control.line(),
        "gain": gain,
        "recovered": None if recovered is None else recovered[0],
        "recovered_ci95": None if recovered is None else list(recovered[1]),
    }
