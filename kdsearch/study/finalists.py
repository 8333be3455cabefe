"""Which students are worth confirming, and what is trained for that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from kdsearch.evaluation import statistics
from kdsearch.results import front
from kdsearch.results.record import State, StudyState, TrialRecord
from kdsearch.space.spec import TrialSpec

CONTROL = "hard"  # the strategy that learns from labels alone
_DRAWS = 1000  # choosing finalists needs less precision than what is printed
_FRESH = 0x5EED  # sets these seeds apart from those that the search draws from the study's seed

Role = Literal["student", "control"]


@dataclass(frozen=True)
class Run:
    """One training of a finalist or of its control."""

    trial: int
    role: Role
    spec: TrialSpec

    @property
    def key(self) -> tuple[str, int]:
        return self.spec.hash, self.spec.seed

    @property
    def name(self) -> str:
        return f"{self.trial}-{self.role}-{self.spec.seed}"


def choose(
    state: StudyState, objectives: Sequence[str], task: str, logits: Mapping[int, np.ndarray], labels: np.ndarray, top: int
) -> list[TrialRecord]:
    """The trials to confirm: the front, and those that are worse only within noise.

    Of a front longer than `top`, the best student and then those that add most to the front's hypervolume. Of a shorter one all, and then
    trials off the front that no smaller-or-equal better one beats in 95 % of paired bootstraps on validation, the closest first.

    Args:
        objectives: (quality, cost).
        logits: trial -> (N, C) on validation; trials without are only considered if they are on the front.
        labels: (N,) of validation.
        top: at most so many.

    Returns:
        by cost, then by number.
    """
    quality, cost = objectives
    members = front.members(state, objectives)
    chosen = (
        _spread(members, quality, top) if len(members) > top else [*members, *_near(state, members, quality, cost, task, logits, labels)]
    )
    return sorted(chosen[:top], key=lambda trial: (getattr(trial, cost), trial.number))


def _spread(members: Sequence[TrialRecord], quality: str, top: int) -> list[TrialRecord]:
    left = sorted(members, key=lambda trial: -trial.scores[quality])
    chosen = [left.pop(0)]
    while left and len(chosen) < top:
        held = [front.hypervolume([(trial.params, trial.scores[quality]) for trial in (*chosen, other)], quality) for other in left]
        chosen.append(left.pop(int(np.argmax(held))))
    return chosen


def _near(
    state: StudyState,
    members: Sequence[TrialRecord],
    quality: str,
    cost: str,
    task: str,
    logits: Mapping[int, np.ndarray],
    labels: np.ndarray,
) -> list[TrialRecord]:
    on_front = {trial.number for trial in members}
    others = [
        trial
        for trial in state.having(State.COMPLETE)
        if trial.number in logits and trial.number not in on_front and np.isfinite(trial.scores.get(quality, np.nan))
    ]
    above = [trial for trial in members if trial.number in logits]
    if not others or not above:
        return []
    every = [logits[trial.number] for trial in (*above, *others)]
    drawn = statistics.resampled(task, quality, every, labels, draws=_DRAWS)
    found = []
    for index, trial in enumerate(others, start=len(above)):
        beaten = [
            float((drawn[:, at] > drawn[:, index]).mean())
            for at, member in enumerate(above)
            if getattr(member, cost) <= getattr(trial, cost) and member.scores[quality] >= trial.scores[quality]
        ]
        worst = max(beaten, default=0.0)
        if worst < statistics.LEVEL:
            found.append((worst, trial.number, trial))
    return [trial for _, _, trial in sorted(found, key=lambda each: each[:2])]


def fresh_seeds(seed: int, count: int) -> list[int]:
    """Seeds that the search did not use; more of them begin with the same ones, so that runs are never wasted."""
    words = np.random.SeedSequence((seed, _FRESH)).generate_state(count)
    return [int(word) & 0x7FFFFFFF for word in words]


def control_of(spec: TrialSpec, labelled: int, unlabelled: int, augmented: int) -> TrialSpec:
    """The same student without a teacher: the labels alone, the same family fields, training hyperparameters and number of examples seen.

    Text without labels means nothing to it; where the student went through such text too, its control goes through the labelled rows as
    many times more.

    Args:
        labelled, unlabelled, augmented: rows of the study.
    """
    training = dict(spec.training)
    more = round(training.pop("unlabelled", 0.0) * unlabelled) + round(training.pop("augmented", 0.0) * augmented)
    epochs = spec.epochs * (labelled + more) / labelled if more else spec.epochs
    return replace(spec, strategy=CONTROL, strategy_config={}, training=training, epochs=epochs)


def plan(trials: Sequence[TrialRecord], seeds: Sequence[int], rows: tuple[int, int, int]) -> dict[int, dict[Role, list[Run]]]:
    """What has to be trained, seeds varying start, order and dropout. Runs with the same key are one and the same training.

    Args:
        rows: labelled, unlabelled and augmented ones of the study.

    Returns:
        trial -> role -> a run for each seed; a finalist that had no teacher has no control but itself.
    """
    wanted: dict[int, dict[Role, list[Run]]] = {}
    for trial in trials:
        spec = TrialSpec.from_json(trial.spec)
        wanted[trial.number] = {"student": [Run(trial.number, "student", replace(spec, seed=seed)) for seed in seeds]}
        if spec.strategy != CONTROL:
            control = control_of(spec, *rows)
            wanted[trial.number]["control"] = [Run(trial.number, "control", replace(control, seed=seed)) for seed in seeds]
    return wanted
