"""What a number is expected to be: a Gaussian process over mixed and conditional hyperparameters, the exact cost and the fraction of the budget.

Matérn 5/2 with a length scale for each hyperparameter, found at the maximum of the posterior (Rasmussen & Williams 2006, sections 2.2, 4.2, 5.4; the
prior grows with the square root of the number of inputs: Hvarfner et al. 2024, arXiv:2402.02229).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize

from kdsearch.space.knobs import Knob

STEPS = 20  # of each search for the length scales: from the last ones, from the prior, and from
SHORT = -0.5  # where all of them are short; the posterior has several maxima, and one of them takes everything for noise
NOISE = 0.1  # of a single observation, in standard deviations, where the data do not say otherwise
JITTER = 1e-6
BOUND = 7.0  # of the logarithms of length scales, amplitude and noise

Asked = tuple[Mapping[str, Any], float, float]  # hyperparameters, cost, fraction of the budget


@dataclass(frozen=True)
class _Input:
    """How one hyperparameter becomes numbers: an option as one of so many, a number between 0 and 1; the last column is 1 where it is absent."""

    knob: Knob

    @property
    def width(self) -> int:
        return (len(self.knob.options) or 1) + 1

    def columns(self, knobs: Mapping[str, Any]) -> list[float]:
        knob = self.knob
        if knob.name not in knobs:
            return [0.0] * (self.width - 1) + [1.0]
        value = knobs[knob.name]
        if knob.options:
            return [math.sqrt(0.5) * (value == option) for option in knob.options] + [0.0]
        to = math.log if knob.log else float
        return [(to(value) - to(knob.low)) / (to(knob.high) - to(knob.low) or 1.0), 0.0]


class Surrogate:
    """Mean and deviation of a number.

    growth: `learn` looks for the length scales again once this many times as much is known as when it last did.
    """

    def __init__(self, growth: float) -> None:
        self._growth = growth
        self._inputs: list[_Input] = []
        self._log = np.zeros(0)  # logarithms of the length scales, the amplitude and the noise
        self._known = 0

    @property
    def knows_something(self) -> bool:
        return len(self._log) > 0

    def learn(self, asked: Sequence[Asked], found: Sequence[float], declared: Mapping[str, Knob], known: int) -> None:
        """Learn anew; it takes some milliseconds for a hundred observations, and grows with their third power.

        Args:
            asked, found: observations, not all alike.
            declared: every hyperparameter among them.
            known: how many observations there are, of which these may be a part.
        """
        target = np.asarray(found, dtype=float)
        inputs = [_Input(declared[name]) for name in sorted({name for knobs, *_ in asked for name in knobs})]
        costs = np.array([cost for _, cost, _ in asked])
        self._cost = costs.min(), max(float(np.ptp(costs)), 1e-9)
        count = len(inputs) + 2
        fresh = inputs != self._inputs
        self._inputs = inputs
        self._groups = np.repeat(np.arange(count), [*(each.width for each in inputs), 1, 1])
        self._mean, self._scale = float(target.mean()), max(float(target.std()), 1e-9)
        features = self._features(asked)
        self._target = (target - self._mean) / self._scale
        self._prior = math.sqrt(2) + 0.5 * math.log(count) - 1.0
        if fresh:
            self._log = np.array([*[self._prior] * count, 0.0, math.log(NOISE)])
        if fresh or known >= self._known * self._growth:
            squares = np.stack([_squares(features[:, self._groups == group], features[:, self._groups == group]) for group in range(count)])
            plain = [0.0, math.log(NOISE)]
            starts = [self._log, np.array([*[self._prior] * count, *plain]), np.array([*[SHORT] * count, *plain])]
            self._log = min((self._climbed(start, squares) for start in starts), key=lambda log: self._loss(log, squares)[0])
            self._known = known
        self._scaled = features / np.exp(self._log[self._groups])
        kernel = self._kernel(self._scaled)
        kernel[np.diag_indices_from(kernel)] += math.exp(2 * self._log[-1]) + JITTER
        self._factor = cho_factor(kernel, lower=True)
        self._weights = cho_solve(self._factor, self._target)

    def _climbed(self, start: np.ndarray, squares: np.ndarray) -> np.ndarray:
        bounds = [(-BOUND, BOUND)] * len(start)
        found = minimize(self._loss, start, (squares,), jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": STEPS})
        return np.asarray(found.x)

    def predict(self, asked: Sequence[Asked]) -> tuple[np.ndarray, np.ndarray]:
        """(N,) means and (N,) deviations, without the noise of a single observation."""
        across = self._kernel(self._features(asked) / np.exp(self._log[self._groups]))  # (N, known)
        reduced = solve_triangular(self._factor[0], across.T, lower=True)
        variance = math.exp(2 * self._log[-2]) - (reduced**2).sum(axis=0)
        return self._mean + self._scale * (across @ self._weights), self._scale * np.sqrt(np.maximum(variance, 1e-12))

    def _features(self, asked: Sequence[Asked]) -> np.ndarray:
        low, span = self._cost
        return np.array(
            [
                [*(column for each in self._inputs for column in each.columns(knobs)), (cost - low) / span, fraction]
                for knobs, cost, fraction in asked
            ]
        )

    def _kernel(self, scaled: np.ndarray) -> np.ndarray:
        r = np.sqrt(5 * _squares(scaled, self._scaled))
        return np.asarray(math.exp(2 * self._log[-2]) * (1 + r + r * r / 3) * np.exp(-r))

    def _loss(self, log: np.ndarray, squares: np.ndarray) -> tuple[float, np.ndarray]:
        """Negative log posterior and its gradient. squares: (inputs, known, known) squared distances, unscaled."""
        inverse = np.exp(-2 * log[:-2])
        r = np.sqrt(5 * np.tensordot(inverse, squares, axes=1))
        decay = math.exp(2 * log[-2]) * np.exp(-r)
        kernel = decay * (1 + r + r * r / 3)
        noise = math.exp(2 * log[-1])
        one = np.eye(len(kernel))
        try:
            factor = np.linalg.cholesky(kernel + (noise + JITTER) * one)
        except np.linalg.LinAlgError:
            return 1e10, np.zeros_like(log)
        weights = cho_solve((factor, True), self._target)
        inner = np.outer(weights, weights) - cho_solve((factor, True), one)
        slope = inner * decay * (1 + r) * (5 / 3)  # d kernel / d log scale = decay * 5/3 * (1 + r) * squares / scale^2
        # length scales and amplitude about their priors, with deviation 1; the noise with 1.5
        away = (log - np.array([*[self._prior] * (len(log) - 2), 0.0, math.log(NOISE)])) / np.array([*[1.0] * (len(log) - 1), 1.5])
        loss = 0.5 * self._target @ weights + np.log(np.diag(factor)).sum() + 0.5 * away @ away
        slopes = [*(-0.5 * np.einsum("ij,gij->g", slope, squares) * inverse), -np.sum(inner * kernel), -np.trace(inner) * noise]
        return float(loss), np.array(slopes) + away / np.array([*[1.0] * (len(log) - 1), 1.5])


def _squares(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N, M) squared distances."""
    found = (rows**2).sum(axis=1)[:, None] + (others**2).sum(axis=1)[None, :] - 2 * rows @ others.T
    return np.asarray(np.maximum(found, 0.0))
