"""Value for price: an Optuna sampler that takes the student with the most hypervolume to be expected for a second of training.

What is known exactly is not learnt: the size of a student follows from its hyperparameters. What is learnt is the score, by a Gaussian process
in which the fraction of the budget is an input, so that trials that were stopped teach it too; and by how much trials take longer here than their
FLOPs say. The acquisition is the expected hypervolume improvement, in closed form because one of two objectives is exact, divided by the predicted
seconds (expected improvement per second: Snoek et al. 2012, arXiv:1206.2944, section 3.2; hypervolume improvement: Emmerich et al. 2006).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from scipy.special import ndtr

from kdsearch.hpo.surrogate import Asked, Surrogate
from kdsearch.io.files import canonical
from kdsearch.space.knobs import Draw, Knob, RandomDraw

STARTUP = 8  # finished trials before the surrogate is asked: until then random, the cheap ones more often
FRESH = 64  # drafts that a proposal draws; half of them near the best known students
POOL = 256  # drafts kept from one proposal to the next
RANDOM = 0.1  # of the proposals do not ask the surrogate: what it holds to be hopeless is tried now and then, what was tried least first
STEP = 0.15  # of a range: how far a number moves from a parent's
MOVED = 0.3  # of a parent's values are others
TAIL = 3.0  # scores further below the median than this many times the span from it to the best tenth are all alike: useless
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


class Near(RandomDraw):
    """A parent's values, but for the share of MOVED; of no parent, random. Notes the knobs that it is asked for."""

    def __init__(self, rng: np.random.Generator, parent: Mapping[str, Any], moved: float, declared: dict[str, Knob]) -> None:
        super().__init__(rng)
        self._parent, self._share, self._declared = parent, moved, declared

    def value(self, knob: Knob) -> Any:
        self._declared[knob.name] = knob
        value = self._parent.get(knob.name)
        number = isinstance(value, int | float) and knob.low <= value <= knob.high
        if not (value in knob.options if knob.kind == "choice" else number):
            return super().value(knob)
        if self.rng.random() >= self._share:
            return value
        if not isinstance(value, int | float) or knob.kind == "choice" or self.rng.random() < self._share:
            return super().value(knob)
        step = STEP * self.rng.normal()
        if knob.log:
            return knob.number(value * (knob.high / knob.low) ** step)
        return knob.number(value + (knob.high - knob.low) * step)


class ValueSampler(optuna.samplers.BaseSampler):
    """For studies of two objectives: a score to be maximised, learnt, and a cost to be minimised, known.

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
        self._drafts: dict[int, Draft | None] = {}  # of trials, by number
        self._score, self._delay = Surrogate(AGAIN), Surrogate(AGAIN)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        if "fixed_params" not in trial.system_attrs:
            self._drafts[trial.number] = self._choose(study.get_trials(deepcopy=False))

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        return {}

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution) -> Any:
        draft = self._drafts.get(trial.number)
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
        done = [trial for trial in trials if trial.state is TrialState.COMPLETE]
        self._draw(done, {canonical(dict(trial.params)) for trial in trials if trial.params})
        if not self._pool:
            return None
        self._learn_delay(trials)
        drafts = list(self._pool.values())
        seconds = self.expected_seconds(drafts)
        if seconds.min() > self.remaining:
            return self._take(drafts[int(seconds.argmin())])
        drafts = [draft for draft, needed in zip(drafts, seconds, strict=True) if needed <= self.remaining]
        seconds = seconds[seconds <= self.remaining]
        if len(done) < STARTUP or self._rng.random() < RANDOM:
            tried = Counter(self._arm(trial.params) for trial in trials)
            weights = np.array([1.0 / (1 + tried[self._arm(draft.knobs)]) ** 2 for draft in drafts]) / seconds
            return self._take(drafts[int(self._rng.choice(len(drafts), p=weights / weights.sum()))])
        value = self._improvement(trials, done, drafts) / seconds
        order = np.argsort(-value, kind="stable")
        self._pool = {canonical(dict(drafts[place].knobs)): drafts[place] for place in order[:POOL]}
        return self._take(drafts[int(order[0])])

    def _arm(self, knobs: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(knobs.get(name) for name in self._arms)

    def _take(self, draft: Draft) -> Draft:
        del self._pool[canonical(dict(draft.knobs))]
        return draft

    def _draw(self, done: Sequence[FrozenTrial], seen: set[str]) -> None:
        self._pool = {key: draft for key, draft in self._pool.items() if key not in seen}
        parents = [trial.params for trial in _front(done)]
        for place in range(FRESH):
            parent = parents[int(self._rng.integers(len(parents)))] if parents and place % 2 else {}
            draft = self._describe(Near(self._rng, parent, MOVED, self._declared))
            if draft is not None:
                key = canonical(dict(draft.knobs))
                if key not in seen:
                    self._pool.setdefault(key, draft)

    def _draft(self, trial: FrozenTrial) -> Draft | None:
        """What a trial was when it was proposed; None for what cannot be trained."""
        if trial.number not in self._drafts:
            self._drafts[trial.number] = self._describe(Near(self._rng, trial.params, 0.0, self._declared)) if trial.params else None
        return self._drafts[trial.number]

    def _learn_delay(self, trials: Sequence[FrozenTrial]) -> None:
        """By which factor trials took longer than their FLOPs say, as a logarithm."""
        asked: list[Asked] = []
        delays = []
        for trial in trials:
            paid = float(trial.user_attrs.get(SECONDS, 0.0))
            draft = self._draft(trial) if paid else None
            if draft is None:
                continue
            fraction = 1.0 if trial.state is TrialState.COMPLETE else float(trial.user_attrs.get(FRACTION, 0.0))
            if fraction > 0.0:
                asked.append((trial.params, draft.cost, 1.0))
                delays.append(math.log(max(paid, 1e-3) / fraction / draft.seconds))
        if len(delays) >= 2:
            self._delay.learn(asked, delays, self._declared)

    def _improvement(self, trials: Sequence[FrozenTrial], done: Sequence[FrozenTrial], drafts: Sequence[Draft]) -> np.ndarray:
        """Expected hypervolume improvement of each draft, over the front of expected scores: of what is finished too, for the best of many noisy
        scores flatters, and nothing would improve on it; and of what still runs."""
        asked: list[Asked] = [(trial.params, trial.values[1], 1.0) for trial in done]
        scores = [trial.values[0] for trial in done]
        running = []
        for trial in trials:
            if trial.state is TrialState.COMPLETE or not trial.params:
                continue
            fraction, score = trial.user_attrs.get(FRACTION), trial.user_attrs.get(SCORE)
            draft = self._draft(trial) if fraction or trial.state is TrialState.RUNNING else None
            if draft is None:
                continue
            if fraction and score is not None and math.isfinite(score):
                asked.append((trial.params, draft.cost, fraction))
                scores.append(score)
            if trial.state is TrialState.RUNNING:
                running.append(draft)
        floor = min(trial.values[0] for trial in done) if self._floor is None else self._floor
        middle, high = np.quantile(scores, (0.5, 0.9))
        useless = max(floor, middle - TAIL * max(high - middle, 1e-9))
        self._score.learn(asked, [max(score, useless) for score in scores], self._declared)
        standing: list[Asked] = [*asked[: len(done)], *((draft.knobs, draft.cost, 1.0) for draft in running)]
        mean, deviation = self._score.predict([*standing, *((draft.knobs, draft.cost, 1.0) for draft in drafts)])
        points = [(cost, float(score)) for (_, cost, _), score in zip(standing, mean, strict=False)]
        costs = np.array([draft.cost for draft in drafts])
        ceiling = self._ceiling
        if ceiling is None:
            ceiling = float(np.max([*costs, *(cost for cost, _ in points)])) + 1e-3
        at = len(standing)
        return expected_improvement(points, costs, mean[at:], deviation[at:], floor, ceiling)


def _front(done: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    front: list[FrozenTrial] = []
    for trial in sorted(done, key=lambda trial: (trial.values[1], -trial.values[0])):
        if not front or trial.values[0] > front[-1].values[0]:
            front.append(trial)
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
