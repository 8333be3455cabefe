"""Early stopping for a front: a student is given up only to smaller ones that already do better.

The rule. At a rung, look at the students of its group and of equal or smaller size that were scored there, m of them; a group is a family, or
the trials of one staged strategy in it. Stop this one when m is at least ETA and at least ceil(m / ETA) of them score at least its score + eps, eps
being one standard error of its validation score.

Why these. Only a smaller or equal student can dominate, so a large one never stops a small one, whatever its lead, and the smallest
is never stopped. ceil(m / ETA) is the rung rule of successive halving among the students that matter. eps keeps the rule from acting on
noise: two students within it are the same for all that the rung can tell. While the order at a rung is the order at the end, a stopped
student ends dominated and the front loses nothing.

Why the same family. A bag of words has learnt most of what it ever will after a quarter of its budget, a transformer has hardly begun: a rung
compares shares of a curve, and the curves of two families have different shapes. At the end, where all are done, the front compares everybody.
For the same reason a staged strategy, which learns to answer last, is compared with itself alone.

Why no fewer than ETA competitors. With one or two, ceil(m / ETA) = 1 asks for a rank among the best third of fewer than three: a single
small student that learns fast would end every larger one that starts slowly, which is what large ones do. So the first students of a size
range run to the end, and the rule acts once ETA of them stand below. On planted curves, with the noise of 1,250 rows and large students
that learn slowly, it saves 38 % of the budget and loses 0.05 % of the hypervolume (tests/test_rungs.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from kdsearch.results.record import State, StudyState
from kdsearch.space.spec import RUNGS

ETA = 3  # a student outside the best third is stopped; larger keeps fewer
_ROUNDING = 1e-6  # a share is counted in examples: 0.2499999 is the rung at 0.25


@dataclass(frozen=True)
class _Scored:
    size: float
    group: tuple[str, str]  # family and, where that is staged, strategy
    share: float  # the report's own, at or a little past the rung's
    score: float  # -inf where it was NaN


class Rungs:
    """The scores at each rung and the verdict on each trial.

    A score that is NaN counts as the worst there is: it is one of the m, beats nobody, and loses to any number.

    Args:
        margin: eps for the score that is judged, 0 or more: `metrics.standard_error` of the study's quality on its validation rows.
        staged: names of strategies whose trials are compared among themselves alone; see `Strategy.staged`.
    """

    def __init__(self, margin: Callable[[float], float], staged: Collection[str] = ()) -> None:
        self._margin = margin
        self._staged = frozenset(staged)
        self._rungs: tuple[dict[int, _Scored], ...] = tuple({} for _ in RUNGS)

    def record(self, trial: int, size: float, share: float, score: float, family: str = "", strategy: str = "") -> None:
        """A trial's score on the way.

        Its first report at or past a rung and before the next is that rung's; a restarted trial replaces its own.

        Args:
            size: the study's cost of the student: parameters, bytes or FLOPs.
            share: of the planned examples seen, 0..1.
            score: the study's quality on validation, larger is better.
            family: students of other families are not compared with this one.
            strategy: where it is staged, students of other strategies are not either.
        """
        rung = self._rung(share)
        if rung is None:
            return
        before = self._rungs[rung].get(trial)
        if before is None or share <= before.share + _ROUNDING:
            group = (family, strategy if strategy in self._staged else "")
            self._rungs[rung][trial] = _Scored(size, group, share, -math.inf if math.isnan(score) else score)

    def verdict(self, trial: int, share: float) -> bool:
        """Whether to stop the trial now, on its score recorded at this very share; never between rungs, before the first, at the end."""
        rung = self._rung(share)
        if rung is None:
            return False
        scored = self._rungs[rung]
        own = scored.get(trial)
        if own is None or abs(own.share - share) > _ROUNDING:
            return False
        rivals = [
            other.score for number, other in scored.items() if number != trial and other.group == own.group and other.size <= own.size
        ]
        if len(rivals) < ETA:
            return False
        bar = own.score if math.isinf(own.score) else own.score + self._margin(own.score)
        ahead = sum(score >= bar and score > -math.inf for score in rivals)
        return ahead >= math.ceil(len(rivals) / ETA)

    def forget(self, trial: int) -> None:
        """A trial failed, and will never stand on the front, or was returned, and will be scored anew: what it scored must not stop others."""
        for scored in self._rungs:
            scored.pop(trial, None)

    def rebuild(self, state: StudyState, sizes: Mapping[int, float]) -> None:
        """Take over the rung records of a study's ledger, on resume. Failed and returned trials are left out, as `forget` does it.

        Args:
            sizes: trial number -> its cost.
        """
        for number, trial in state.trials.items():
            if trial.state not in (State.FAILED, State.RETURNED):
                for rung in trial.rungs:
                    self.record(number, sizes[number], rung.share, rung.score, trial.spec.get("family", ""), trial.spec.get("strategy", ""))

    def _rung(self, share: float) -> int | None:
        """The last rung at or before this share; None before the first and at the end."""
        if share >= 1.0 - _ROUNDING:
            return None
        passed = [index for index, rung in enumerate(RUNGS) if share >= rung - _ROUNDING]
        return passed[-1] if passed else None
