"""Value for price: an Optuna sampler that takes the student with the most hypervolume to be expected for a second of training.

What is known exactly is not learned: the size of a student follows from its hyperparameters. What is learned is the score, by a Gaussian process
in which the fraction of the budget is an input, so that trials that were stopped teach it too; and by how much trials take longer here than their
FLOPs say. The acquisition is the expected hypervolume improvement, in closed form because one of two objectives is exact, divided by the predicted
seconds (expected improvement per second: Snoek et al. 2012, arXiv:1206.2944, section 3.2; hypervolume improvement: Emmerich et al. 2006).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from scipy.special import ndtr

from kdsearch.hpo.surrogate import Asked, Surrogate
from kdsearch.space.knobs import Draw, Knob, RandomDraw

STARTUP = 8  # finished trials before the surrogate is asked: until then random, the cheap ones more often
FRESH = 64  # drafts that a proposal draws; half of them near the best known students
POOL = 256  # drafts kept from one proposal to the next
RANDOM = 0.1  # of the proposals do not ask the surrogate: what it holds to be hopeless is tried now and then, what was tried least first
STEP = 0.15  # of a range: how far a number moves from a parent's
MOVED = 0.3  # of a parent's values are others
TAIL = 3.0  # scores further below the median than this many times the span from it to the best tenth are all alike: useless
ROWS = 256  # trials that the surrogates learn from at most, so that a proposal's price is bounded: half of them next to the front
AGAIN = 1.1  # the surrogates learn again once this many times as much is known

# user attributes of an Optuna trial, by which whoever runs it says more than a final score
FRACTION, SCORE = "fraction", "score"  # of the budget, and the score there: the last rung of a trial that was stopped or still runs
SECONDS = "seconds"  # that it took, up to FRACTION where there is no final score


@dataclass(frozen=True)
class Draft:
    """A student that could be proposed."""

    knobs: Mapping[str, Any]
    cost: float  # the exact second objective, smaller is better: log10 of parameters
    seconds: float  # expected of its training before anything was measured; the proportions matter
    key: str  # the same for two drafts that give the same student


@dataclass(frozen=True)
class _Seen:
    """A trial as the surrogates read it."""

    draft: Draft
    done: bool
    running: bool
    fraction: float = 0.0  # of the budget, at which
    score: float = math.nan  # it had this one,
    seconds: float = 0.0  # after so long

    @property
    def asked(self) -> Asked:
        return self.draft.knobs, self.draft.cost, self.fraction

    @property
    def at_end(self) -> Asked:
        return self.draft.knobs, self.draft.cost, 1.0


class Near(RandomDraw):
    """A parent's values, but for the fraction MOVED; of no parent, random. Notes the knobs that it is asked for."""

    def __init__(self, rng: np.random.Generator, parent: Mapping[str, Any], moved: float, declared: dict[str, Knob]) -> None:
        super().__init__(rng)
        self._parent, self._moved, self._declared = parent, moved, declared

    def value(self, knob: Knob) -> Any:
        self._declared[knob.name] = knob
        value = self._parent.get(knob.name)
        number = isinstance(value, int | float) and knob.low <= value <= knob.high
        if knob.name not in self._parent or not (value in knob.options if knob.kind == "choice" else number):
            return super().value(knob)
        if self.rng.random() >= self._moved:
            return value
        if not isinstance(value, int | float) or knob.kind == "choice" or self.rng.random() < self._moved:
            return super().value(knob)
        step = STEP * self.rng.normal()
        if knob.log:
            return knob.number(value * (knob.high / knob.low) ** step)
        return knob.number(value + (knob.high - knob.low) * step)


class ValueSampler(optuna.samplers.BaseSampler):
    """For studies of two objectives: a score to be maximised, learned, and a cost to be minimised, known.

    Args:
        describe: the space as a function: what a draw gives, or None where it gives nothing that can be trained.
        floor: the score below which nothing counts: that of always predicting the most frequent label. None: the worst seen.
        ceiling: the largest cost that counts. None: the largest seen.
        arms: hyperparameters of which each value is tried now and then, whatever the surrogate holds of it.
        seed: of every choice.

    Attributes:
        remaining: seconds that are left; of what is expected to take longer, the shortest is proposed only where there is nothing else.
    """

    def __init__(
        self,
        describe: Callable[[Draw], Draft | None],
        *,
        floor: float | None = None,
        ceiling: float | None = None,
        arms: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        self.remaining = math.inf
        self._describe, self._floor, self._ceiling, self._arms = describe, floor, ceiling, tuple(arms)
        self._rng = np.random.default_rng(seed)
        self._random = optuna.samplers.RandomSampler(seed=int(self._rng.integers(2**31)))
        self._declared: dict[str, Knob] = {}
        self._pool: dict[str, Draft] = {}
        self._chosen: dict[int, Draft | None] = {}  # number of a trial -> what was proposed
        self._ended: dict[int, _Seen | None] = {}  # number of a finished trial -> what is to be learned from it
        self._score, self._delay = Surrogate(AGAIN), Surrogate(AGAIN)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        if "fixed_params" not in trial.system_attrs:
            self._chosen[trial.number] = self._choose(study.get_trials(deepcopy=False))

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        return {}

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution) -> Any:
        draft = self._chosen.get(trial.number)
        if draft is not None and param_name in draft.knobs:
            value = draft.knobs[param_name]
            if param_distribution._contains(param_distribution.to_internal_repr(value)):
                return value
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def expected_seconds(self, drafts: Sequence[Draft]) -> np.ndarray:
        """(N,) what their training takes, from their FLOPs and from what trials took so far."""
        prior = np.array([draft.seconds for draft in drafts])
        if not self._delay.knows_something:
            return prior
        mean, _ = self._delay.predict([(draft.knobs, draft.cost, 1.0) for draft in drafts])
        return np.asarray(prior * np.exp(mean))

    def _choose(self, trials: Sequence[FrozenTrial]) -> Draft | None:
        seen = [each for trial in trials if (each := self._see(trial)) is not None]
        done = [each for each in seen if each.done]
        self._draw(done, {each.draft.key for each in seen})
        if not self._pool:
            return None
        used = self._used(seen)
        self._learn_delay(used, len(seen))
        drafts = list(self._pool.values())
        seconds = self.expected_seconds(drafts)
        if seconds.min() > self.remaining:
            return self._take(drafts[int(seconds.argmin())])
        drafts = [draft for draft, needed in zip(drafts, seconds, strict=True) if needed <= self.remaining]
        seconds = seconds[seconds <= self.remaining]
        if len(done) < STARTUP or self._rng.random() < RANDOM:
            tried = Counter(self._arm(each.draft.knobs) for each in seen)
            weights = np.array([1.0 / (1 + tried[self._arm(draft.knobs)]) ** 2 for draft in drafts]) / seconds
            return self._take(drafts[int(self._rng.choice(len(drafts), p=weights / weights.sum()))])
        value = self._improvement(used, len(seen), drafts) / seconds
        order = np.argsort(-value, kind="stable")
        self._pool = {drafts[index].key: drafts[index] for index in order[:POOL]}
        return self._take(drafts[int(order[0])])

    def _see(self, trial: FrozenTrial) -> _Seen | None:
        """None: nothing is to be learned from it."""
        if trial.number in self._ended:
            return self._ended[trial.number]
        done, running = trial.state is TrialState.COMPLETE, trial.state is TrialState.RUNNING
        draft = self._chosen.get(trial.number)
        if trial.params and (draft is None or draft.knobs != trial.params):
            draft = self._describe(Near(self._rng, trial.params, 0.0, self._declared))
        seen = None
        if draft is not None and trial.params:
            cost = float(trial.values[1]) if done else draft.cost
            attributes = {} if trial.state is TrialState.FAIL else trial.user_attrs
            fraction, score = (
                (1.0, float(trial.values[0])) if done else (float(attributes.get(FRACTION, 0.0)), float(attributes.get(SCORE, math.nan)))
            )
            seen = _Seen(replace(draft, cost=cost), done, running, fraction, score, float(attributes.get(SECONDS, 0.0)))
        if trial.state.is_finished():
            self._ended[trial.number] = seen
            self._chosen.pop(trial.number, None)
        return seen

    def _used(self, seen: Sequence[_Seen]) -> list[_Seen]:
        """At most ROWS of them, and those that run: half next to the front, a quarter the last ones, the others by chance."""
        if len(seen) <= ROWS:
            return list(seen)
        rows = np.array([index for index, each in enumerate(seen) if each.fraction > 0 and math.isfinite(each.score)])
        costs, scores = np.array([seen[row].draft.cost for row in rows]), np.array([seen[row].score for row in rows])
        order = np.lexsort((-scores, costs))
        taken: list[int] = []
        while len(taken) < ROWS // 2 and len(order):  # layer by layer: the front, what would be the front without it, and so on
            before = np.concatenate([[-np.inf], np.maximum.accumulate(scores[order])[:-1]])
            layer = scores[order] > before
            taken += list(rows[order[layer]])
            order = order[~layer]
        chosen = {*taken[: ROWS // 2], *rows[-ROWS // 4 :], *(index for index, each in enumerate(seen) if each.running)}
        others = [row for row in rows if row not in chosen]
        chosen |= set(np.random.default_rng(len(seen)).choice(others, min(len(others), max(0, ROWS - len(chosen))), replace=False))
        return [seen[index] for index in sorted(chosen)]

    def _arm(self, knobs: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(knobs.get(name) for name in self._arms)

    def _take(self, draft: Draft) -> Draft:
        del self._pool[draft.key]
        return draft

    def _draw(self, done: Sequence[_Seen], seen: set[str]) -> None:
        self._pool = {key: draft for key, draft in self._pool.items() if key not in seen}
        parents = [each.draft.knobs for each in _front(done)]
        for index in range(FRESH):
            parent = parents[int(self._rng.integers(len(parents)))] if parents and index % 2 else {}
            draft = self._describe(Near(self._rng, parent, MOVED, self._declared))
            if draft is not None and draft.key not in seen:
                self._pool.setdefault(draft.key, draft)

    def _learn_delay(self, used: Sequence[_Seen], known: int) -> None:
        """By which factor trials took longer than their FLOPs say, as a logarithm."""
        paid = [each for each in used if each.seconds > 0 and each.fraction > 0]
        if len(paid) >= 2:
            delays = [math.log(each.seconds / each.fraction / each.draft.seconds) for each in paid]
            self._delay.learn([each.at_end for each in paid], delays, self._declared, known)

    def _improvement(self, used: Sequence[_Seen], known: int, drafts: Sequence[Draft]) -> np.ndarray:
        """Expected hypervolume improvement of each draft, over the front of expected scores: of what is finished too, for the best of many noisy
        scores flatters, and nothing would improve on it; and of what still runs."""
        scored = [each for each in used if each.fraction > 0 and math.isfinite(each.score)]
        scores = [each.score for each in scored]
        floor = min(each.score for each in scored if each.done) if self._floor is None else self._floor
        middle, high = np.quantile(scores, (0.5, 0.9))
        useless = max(floor, middle - TAIL * (high - middle)) if high > middle else floor  # many have the best score: no span to measure by
        self._score.learn([each.asked for each in scored], [max(score, useless) for score in scores], self._declared, known)
        standing = [each.at_end for each in used if each.done or each.running]
        mean, deviation = self._score.predict([*standing, *((draft.knobs, draft.cost, 1.0) for draft in drafts)])
        points = [(cost, float(score)) for (_, cost, _), score in zip(standing, mean, strict=False)]
        costs = np.array([draft.cost for draft in drafts])
        ceiling = self._ceiling
        if ceiling is None:
            ceiling = float(np.max([*costs, *(cost for cost, _ in points)])) + 1e-3
        at = len(standing)
        return expected_improvement(points, costs, mean[at:], deviation[at:], floor, ceiling)


def _front(done: Iterable[_Seen]) -> list[_Seen]:
    front: list[_Seen] = []
    for each in sorted(done, key=lambda each: (each.draft.cost, -each.score)):
        if not front or each.score > front[-1].score:
            front.append(each)
    return front


def expected_improvement(
    points: Sequence[tuple[float, float]], costs: np.ndarray, mean: np.ndarray, deviation: np.ndarray, floor: float, ceiling: float
) -> np.ndarray:
    """(N,) hypervolume that each of N candidates is expected to add, its cost being known and its score normally distributed.

    Above the cost c of a candidate the front is a staircase: on each step, of width w and height h, the gain is w * EI(h), EI(h) being the
    expectation of max(0, score - h).

    Args:
        points: (cost, score) of what there is; dominated ones change nothing.
        costs, mean, deviation: (N,).
        floor: the score of the reference point.
        ceiling: its cost.
    """
    edges, heights = [-math.inf], [floor]
    for cost, score in sorted(points, key=lambda point: (point[0], -point[1])):
        if score > heights[-1] and cost < ceiling:
            edges.append(cost)
            heights.append(score)
    left, right = np.array(edges), np.array([*edges[1:], ceiling])
    width = np.clip(right[None, :] - np.maximum(left[None, :], costs[:, None]), 0.0, None)  # (N, steps)
    spread = np.maximum(deviation, 1e-9)[:, None]
    z = (mean[:, None] - np.array(heights)[None, :]) / spread
    gain = spread * (z * ndtr(z) + np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi))
    return np.asarray((width * gain).sum(axis=1))
