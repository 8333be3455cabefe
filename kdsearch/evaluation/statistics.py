"""What scores on so many rows and so many seeds can show: intervals, ties, recovered gap, and what to expect of a small validation set.

Two things make a score differ from what it would be on all texts and over all seeds: the rows and the seeds. Rows are dealt with by drawing
them again (the same rows for every model: paired), seeds by the spread of the scores that rows do not explain.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from kdsearch import tasks
from kdsearch.tasks import metrics

DRAWS = 4000  # of a bootstrap
LEVEL = 0.95
# The correlation, over rows, of being right for two students of one task. Between students of the quickstart study it is 0.4 to 0.78.
SHARED = 0.5
# Among equal students; not 0.05, because draws know the noise only nearly: simulated studies had 5.9 % of winners where 5 % were asked for.
FALSE_WINNERS = 0.03
SMALL = 0.01  # a validation set that cannot show this difference is called small

_CELLS = 2_000_000  # rows x draws at once

Interval = tuple[float, float]


def wilson(fraction: float, rows: float, quantile: float = float(stats.norm.ppf((1 + LEVEL) / 2))) -> Interval:
    """Wilson's score interval of a fraction of rows.

    Args:
        fraction: of the rows, 0..1.
        rows: independent ones; need not be whole.
        quantile: half-width of the interval in standard errors; default 95 % of a normal distribution.
    """
    if rows <= 0:
        return 0.0, 1.0
    square = quantile * quantile
    centre = (fraction + square / (2 * rows)) / (1 + square / rows)
    half = quantile / (1 + square / rows) * math.sqrt(fraction * (1 - fraction) / rows + square / (4 * rows * rows))
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class Spread:
    """How much a recipe's score differs from seed to seed."""

    variance: float  # beyond what the rows explain, not below 0
    total: float  # with it
    freedom: float  # degrees of freedom of these two


NO_SEEDS = Spread(0.0, 0.0, math.inf)  # of one fixed model, such as the teacher or one student: no variance over seeds


def spreads(observed: Sequence[np.ndarray], drawn: Sequence[np.ndarray]) -> list[Spread]:
    """The spread over seeds of each of several recipes of one study.

    A few seeds of one recipe give a poor estimate, so the recipes' variances are pooled; those that are too large for that (F tests at 1 %) are kept
    apart. A recipe with one seed has the pooled one; where every recipe has one, nothing is known and seeds are left out.

    Args:
        observed: (K,) scores of each recipe's seeds.
        drawn: (D, K) the same scores in each draw, from `resampled`.
    """
    totals, explained, freedoms = [], [], []
    for scores, draws in zip(observed, drawn, strict=True):
        seeds = len(scores)
        freedoms.append(seeds - 1)
        totals.append(float(np.var(scores, ddof=1)) if seeds > 1 else 0.0)
        apart = (draws - draws.mean(1, keepdims=True)).var(0).mean()
        explained.append(float(apart) * seeds / (seeds - 1) if seeds > 1 else 0.0)
    total, inner, freedom = np.array(totals), np.array(explained), np.array(freedoms, np.float64)

    def pooled(chosen: np.ndarray) -> Spread:
        count = float(freedom[chosen].sum())
        if not count:
            return NO_SEEDS
        mean, rows = float((total * freedom)[chosen].sum() / count), float((inner * freedom)[chosen].sum() / count)
        return Spread(max(0.0, mean - rows), mean, count)

    # From the half that differs least upwards, so that two unstable recipes do not vouch for each other.
    rising = [index for index in np.argsort(total, kind="stable") if freedom[index]]
    kept = (len(rising) + 1) // 2
    while kept < len(rising):
        known = pooled(np.array(rising[:kept]))
        if total[rising[kept]] > known.total * stats.f.ppf(0.99, freedom[rising[kept]], known.freedom):
            break
        kept += 1
    together, alone = pooled(np.array(rising[:kept], np.int64)), set(rising[kept:])
    return [pooled(np.array([index])) if index in alone else together for index in range(len(total))]


def accuracy_interval(right: np.ndarray, spread: Spread = NO_SEEDS) -> Interval:
    """Wilson's 95 % interval of the accuracy that a recipe has over all texts and all seeds.

    With one seed it is Wilson's own. With more, the rows are shared by the seeds, and the seeds differ: the number of rows is replaced by
    that of the independent ones that would have the mean's variance, and the normal quantile by Student's with Satterthwaite's degrees of
    freedom.

    Args:
        right: (K, N) bool or 0/1, whether seed k is right on row n.
        spread: of the recipe's seeds.
    """
    values = np.asarray(right, np.float64)
    seeds, rows = values.shape
    mean = float(values.mean())
    of_rows = float(values.mean(0).var(ddof=1)) / rows if rows > 1 else 0.0
    variance = of_rows + spread.variance / seeds
    if not 0.0 < mean < 1.0 or variance <= 0 or (seeds == 1 and not spread.variance):
        return wilson(mean, rows)
    freedom = variance**2 / (of_rows**2 / (rows - 1) + (spread.total / seeds) ** 2 / spread.freedom)
    freedom = max(freedom, min(rows - 1, spread.freedom))
    return wilson(mean, mean * (1 - mean) / variance, float(stats.t.ppf((1 + LEVEL) / 2, freedom)))


@functools.lru_cache(maxsize=4)  # the blocks of a test set of a few thousand rows, which are used many times
def _block(rows: int, draws: int, seed: int, number: int) -> np.ndarray:
    """(draws, rows) float32: how often each row is drawn."""
    chosen = np.random.default_rng((seed, number)).integers(rows, size=(draws, rows))
    indices = chosen + np.arange(draws)[:, None] * rows
    return np.bincount(indices.ravel(), minlength=draws * rows).reshape(draws, rows).astype(np.float32)


def _blocks(rows: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    size = max(1, min(draws, _CELLS // rows))
    for number, start in enumerate(range(0, draws, size)):
        yield _block(rows, min(size, draws - start), seed, number)


def resampled(
    task: str, quality: str, logits: Sequence[np.ndarray], labels: np.ndarray, *, draws: int = DRAWS, seed: int = 0
) -> np.ndarray:
    """A quality of the task on rows resampled with replacement, the same rows for every model.

    Args:
        logits: (N, C) of each of M models.
        draws: D, how often.
        seed: the same one draws the same rows.

    Returns:
        (D, M) float64.
    """
    compute = tasks.of(task).resampler(quality, logits, labels)
    return np.concatenate([compute(counts) for counts in _blocks(len(labels), draws, seed)])


def over_seeds(drawn: np.ndarray, spread: Spread, rng: np.random.Generator) -> np.ndarray:
    """Draws of a recipe's mean over seeds: rows resampled, and the seeds' spread added.

    Args:
        drawn: (D, K) scores of its seeds in each draw, from `resampled`.

    Returns:
        (D,) float64.
    """
    draws, seeds = drawn.shape
    mean = drawn.mean(1)
    if not spread.variance:
        return mean
    return mean + math.sqrt(spread.variance / seeds) * rng.standard_t(spread.freedom, draws)


def interval(drawn: np.ndarray) -> Interval:
    """The middle 95 % of draws."""
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def recovered(student: np.ndarray, control: np.ndarray, teacher: np.ndarray, values: Sequence[float]) -> tuple[float, Interval] | None:
    """The recovered gap, (student - control) / (teacher - control), with its 95 % interval.

    Args:
        student, control, teacher: (D,) draws of their scores, paired.
        values: the three scores themselves.

    Returns:
        None where the teacher is not above the control beyond noise: there is no gap to recover then, and the ratio may be anything.
    """
    gap = teacher - control
    if values[2] <= values[1] or interval(gap)[0] <= 0:
        return None
    inside = gap > 0
    return (values[0] - values[1]) / (values[2] - values[1]), interval((student - control)[inside] / gap[inside])


def share_asked(drawn: Mapping[int, np.ndarray], costs: Mapping[int, float]) -> float:
    """The fraction of draws in which a student must be better than another to count as better: 95 %, or as much more as is needed so that
    among equal students one is called better than all the smaller ones in at most 5 % of studies.

    With 95 % for each pair, five equal finalists would give such a winner in 7 % of studies. How much more is needed depends on how correlated
    the students' predictions are. It is computed from the draws: each, centred, is a possible result of a study with equal students.

    Args:
        drawn, costs: as `ties`.
    """
    if len(drawn) <= 2:
        return LEVEL
    claims: list[np.ndarray] = []
    for one in drawn:
        fractions = []
        for other in drawn:
            if other != one and costs[other] <= costs[one]:
                gaps = drawn[one] - drawn[other]
                gaps = gaps - gaps.mean()
                fractions.append(1 - np.searchsorted(np.sort(gaps), -gaps, side="right") / len(gaps))
        if fractions:
            claims.append(np.min(fractions, axis=0))
    return max(LEVEL, float(np.quantile(np.max(claims, axis=0), 1 - FALSE_WINNERS)))


def ties(drawn: Mapping[int, np.ndarray], costs: Mapping[int, float], asked: float) -> dict[int, list[int]]:
    """For each student, the others that are no larger and that it beats in too few draws.

    Args:
        drawn: student -> (D,) draws of its score, paired.
        costs: student -> size.
        asked: from `share_asked`.
    """
    return {
        one: sorted(
            other for other in drawn if other != one and costs[other] <= costs[one] and float((drawn[one] > drawn[other]).mean()) < asked
        )
        for one in drawn
    }


def detectable(metric: str, score: float, rows: int) -> float:
    """The smallest difference between two students, on the same rows, that noise alone exceeds in only 5 % of cases; without the noise of seeds."""
    quantile = float(stats.norm.ppf((1 + LEVEL) / 2))
    return quantile * math.sqrt(2 * (1 - SHARED)) * metrics.standard_error(metric, score, rows)


def optimism(metric: str, score: float, rows: int, trials: int) -> float:
    """How much too high the score of the best of so many equal students is, on the rows that it was chosen by."""
    if trials < 2:
        return 0.0
    best_of = float(stats.norm.ppf((trials - 0.375) / (trials + 0.25)))  # Blom's approximation of the largest of N normals
    return best_of * math.sqrt(1 - SHARED) * metrics.standard_error(metric, score, rows)


def foresight(rows: int, trials: int, score: float, metric: str) -> list[str]:
    """Warnings before a search on a small validation set; none for one that shows differences of a point.

    Args:
        rows: of validation.
        trials: that will be compared on them.
        score: about what the students will reach, such as the teacher's.
    """
    least = detectable(metric, score, rows)
    if least <= SMALL:
        return []
    gain = 100 * optimism(metric, score, rows, trials)
    return [
        f"validation has {rows:,} rows: two students less than about {100 * least:.1f} points of {metric} apart cannot be distinguished",
        f"the best of {trials:,} equal students would score about {gain:.1f} points too high: `kdsearch confirm` measures it on test rows",
    ]
