"""Proposals: an Optuna study behind ask and tell. It lives in memory and is rebuilt from the ledger; nobody reads it back."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from kdsearch.api import Family, ModelInfo
from kdsearch.config.schema import StudyConfig
from kdsearch.errors import StateError
from kdsearch.hpo.value import FRACTION, SCORE, SECONDS, Draft, ValueSampler
from kdsearch.io.files import canonical
from kdsearch.io.text import clock
from kdsearch.registry.registry import Plugins
from kdsearch.results.ledger import Ledger
from kdsearch.results.record import State, TrialRecord
from kdsearch.space.candidates import FAMILY, STRATEGY, Candidate, Candidates
from kdsearch.space.cost import Cost
from kdsearch.space.knobs import Draw, Knob
from kdsearch.space.spec import TrialSpec

PATIENCE = 500  # proposals in a row that lead to nothing new before the sampler is set aside, and again before the search gives up
OPENINGS = 12  # proposals before any sampler is asked, the cheap ones first: at most half of the trials, but each strategy once
DEAR = 4.0  # times what the median opening takes
OPENING_SHARE = 0.1  # of search.minutes: what is expected to take longer is no opening

TOO_LONG = "too long for the time that is left"

OVER = 1.0  # a broken limit, as a constraint: Optuna ranks such a trial behind every one that keeps the limits


@dataclass(frozen=True)
class Proposal:
    """A student to train next."""

    number: int  # under which its result is reported; not the trial's number
    trial: int | None  # the number of a trial that was returned and runs again; None for a fresh one
    spec: TrialSpec
    hash: str
    knobs: Mapping[str, Any]
    params: int
    bytes: int
    flops: int
    seconds: float | None = None  # expected of its training; None where nothing expects any


@dataclass
class OptunaDraw:
    """Values as an Optuna trial suggests them."""

    trial: optuna.trial.Trial

    def value(self, knob: Knob) -> Any:
        if knob.kind == "choice":
            return self.trial.suggest_categorical(knob.name, knob.options)
        if knob.kind == "integer":
            return self.trial.suggest_int(knob.name, int(knob.low), int(knob.high), log=knob.log)
        return self.trial.suggest_float(knob.name, knob.low, knob.high, log=knob.log)


def _distribution(knob: Knob) -> BaseDistribution:
    if knob.kind == "choice":
        return CategoricalDistribution(knob.options)
    if knob.kind == "integer":
        return IntDistribution(int(knob.low), int(knob.high), log=knob.log)
    return FloatDistribution(knob.low, knob.high, log=knob.log)


@dataclass
class RecordedDraw:
    """The values of an earlier draw again, noting the distribution of each."""

    knobs: Mapping[str, Any]
    distributions: dict[str, BaseDistribution] = field(default_factory=dict)

    def value(self, knob: Knob) -> Any:
        name, value, distribution = knob.name, self.knobs.get(knob.name), _distribution(knob)
        known = value in knob.options if knob.kind == "choice" else value is not None and knob.low <= value <= knob.high
        if name not in self.knobs or not known:
            had = f"knob {name} had {value!r}, which is not in {distribution}"
            raise StateError(had if name in self.knobs else f"it had no knob {name}")
        self.distributions[name] = distribution
        return value


def distributions(space: Candidates, knobs: Mapping[str, Any], what: str) -> dict[str, BaseDistribution]:
    """Where the knobs of an earlier proposal came from.

    Args:
        what: the proposal, for the message.

    Raises:
        StateError: they cannot have been drawn from this space: a plugin or the study has changed.
    """
    draw = RecordedDraw(knobs)
    try:
        space.draw(draw)
        gone = sorted(knobs.keys() - draw.distributions.keys())
        if gone:
            raise StateError(f"it had a knob {gone[0]}, which is asked for no more")
    except StateError as problem:
        why = "a plugin or the study file has changed: undo that, or use --out"
        raise StateError(f"{what} comes from another space: {problem}; {why}") from None
    return draw.distributions


class Sampler:
    """Proposes students of a study, and learns from what became of them.

    Two objectives: the study's quality, maximised, and log10 of its cost, minimised.

    Args:
        ledger: the study's, open; refused and reused proposals are written there. Its trials are what the sampler knows at the start.
        price: exact costs of a family's student, for the proposals that are made and for limits on bytes and FLOPs.
        seconds: what a candidate's training is expected to take before anything was measured; only the proportions matter.
        floor: the quality of the simplest guess on validation, where it is known.
        remaining: seconds until the search's time is up.
        patience: PATIENCE, or less in tests.

    Attributes:
        exhausted: why `ask` gives nothing any more; None while it may.

    Raises:
        InputError, PluginError: as `Candidates`.
        StateError: the ledger's proposals come from another space.
    """

    def __init__(
        self,
        config: StudyConfig,
        plugins: Plugins,
        teacher: ModelInfo,
        ledger: Ledger,
        price: Callable[[Family], Cost],
        seconds: Callable[[Candidate], float] = lambda _: 1.0,
        floor: float | None = None,
        remaining: Callable[[], float] = lambda: math.inf,
        patience: int = PATIENCE,
    ) -> None:
        self.space = Candidates(config, plugins, teacher)
        self.exhausted: str | None = None
        self._config, self._ledger, self._price, self._patience = config, ledger, price, patience
        self._seconds, self._floor, self._remaining = seconds, floor, remaining
        self._open: dict[int, optuna.trial.Trial] = {}  # Optuna's side of proposals without a result yet
        state = ledger.state
        before = [each["knobs"] for each in (*state.refused, *state.reused)] + [record.knobs for record in state.trials.values()]
        self._drawn = {canonical(knobs) for knobs in before}
        # a fresh sampler with the seed of the last run would repeat its first proposals
        seed, fallback_seed = (int(word) for word in np.random.SeedSequence((config.seed, ledger.state.length)).generate_state(2))
        self._fallback = optuna.samplers.RandomSampler(seed=fallback_seed)
        with quiet():
            self._main = self._optuna_sampler(seed)
            self._study = optuna.create_study(directions=["maximize", "minimize"], sampler=self._main)
        self._remember()
        for opening in self._openings():
            if opening.hash not in ledger.state.by_hash:
                self._study.enqueue_trial(dict(opening.knobs))

    def _openings(self) -> list[Candidate]:
        """What to try first, the cheap ones first. Of the dear ones each strategy has its cheapest alone, and none that takes a tenth of the time."""
        search = self._config.search
        count = max(min(OPENINGS, search.trials // 2), min(len(self.space.strategies), search.trials))
        priced = [(self._seconds(each), each) for each in self.space.openings(count)]
        priced.sort(key=lambda each: each[0])
        dear = DEAR * float(np.median([seconds for seconds, _ in priced])) if priced else 0.0
        kept: list[Candidate] = []
        for seconds, each in priced:
            known = any(each.spec.strategy == other.spec.strategy for other in kept)
            if seconds <= (dear if known else math.inf) and seconds <= OPENING_SHARE * 60 * (search.minutes or math.inf):
                kept.append(each)
        return kept

    def ask(self) -> Proposal | None:
        """The next student; trials that were returned come first, under their own number. What runs is what the ledger says: start it there
        before the next question.

        Returns:
            None when the space has nothing new: see `exhausted`.
        """
        again = self._returned()
        if again is not None or self.exhausted is not None:
            return again
        if isinstance(self._main, ValueSampler):
            self._main.remaining = self._remaining()
        misses: dict[str, int] = {}
        for attempt in range(2 * self._patience):
            self._study.sampler = self._main if attempt < self._patience else self._fallback
            found = self._propose()
            if isinstance(found, Proposal):
                return found
            misses[found] = misses.get(found, 0) + 1
            if misses.get(TOO_LONG, 0) > OPENINGS:
                self.exhausted = f"the {clock(max(0.0, self._remaining()))} that are left are too short for another trial"
                return None
        reasons = ", ".join(f"{count} {what}" for what, count in sorted(misses.items()))
        self.exhausted = f"nothing new in {2 * self._patience} proposals in a row: {reasons}; widen space.knobs or search.limits to go on"
        return None

    def tell(self, number: int, trial: int) -> None:
        """A proposal's trial no longer runs: learn from how the ledger says it ended. A stopped one counts as bad; of one that failed or was
        returned, or whose score is not finite, nothing is learned, and `ask` gives a returned one again, under a new number of proposal.

        Args:
            number: the proposal's.
            trial: its number in the ledger.
        """
        record = self._ledger.state.trials[trial]
        values = self._values(record)
        self.hear(number, trial)
        self._study.tell(self._open.pop(number), values, state=optuna_state(record, values) or TrialState.FAIL)

    def hear(self, number: int, trial: int) -> None:
        """A proposal's trial was scored on the way, or ended: what the ledger says of its scores and seconds so far. Arguments as `tell`."""
        for name, value in _attributes(self._ledger.state.trials[trial]).items():
            self._open[number].set_user_attr(name, value)

    def _draft(self, draw: Draw) -> Draft | None:
        """A student for the sampler to weigh; None for one that does not fit or breaks a limit."""
        candidate = self.space.draw(draw)
        if isinstance(candidate, str):
            return None
        costs = {"params": candidate.params}
        search = self._config.search
        if not self.space.over(costs) and {"bytes", "flops"} & {*search.limits, *search.objectives}:
            costs = asdict(self._price(candidate.family))
        return None if self.space.over(costs) else self._weighed(candidate, costs)

    def _weighed(self, candidate: Candidate, costs: Mapping[str, int]) -> Draft:
        cost = costs[self._config.search.objectives[1]]
        return Draft(candidate.knobs, _log_cost(cost), self._seconds(candidate), candidate.hash)

    def _propose(self) -> Proposal | str:
        """One proposal, or why it leads to nothing new."""
        state = self._ledger.state
        trial = self._study.ask()
        candidate = self.space.draw(OptunaDraw(trial))
        if isinstance(candidate, str):
            self._study.tell(trial, state=TrialState.FAIL)  # it says nothing about its knobs; pruned, TPE would count it among the bad ones
            return "of pairs that do not fit"
        earlier = state.by_hash.get(candidate.hash)
        if earlier is not None:
            self._answer_from(state.trials[earlier], trial, candidate)
            return "seen before"
        limit = self.space.over({"params": candidate.params})
        costs = {} if limit else asdict(self._price(candidate.family))
        limit = limit or self.space.over(costs)
        if limit:
            if self._is_news(candidate):
                self._ledger.refused(candidate.knobs, candidate.params, limit)
            trial.set_constraint("limits", OVER)
            self._study.tell(trial, state=TrialState.PRUNED)
            return "over a limit"
        expected = None
        if isinstance(self._main, ValueSampler):
            expected = float(self._main.expected_seconds([self._weighed(candidate, costs)])[0])
            if expected > self._remaining():
                self._study.tell(trial, state=TrialState.FAIL)
                return TOO_LONG
        self._is_news(candidate)
        self._open[trial.number] = trial
        return Proposal(trial.number, None, candidate.spec, candidate.hash, candidate.knobs, **costs, seconds=expected)

    def _answer_from(self, earlier: TrialRecord, trial: optuna.trial.Trial, candidate: Candidate) -> None:
        news = self._is_news(candidate)
        values = self._values(earlier)
        if news and values is not None:
            self._ledger.reused(candidate.knobs, earlier.number)
            self._study.tell(trial, values)
        elif news and earlier.state is State.STOPPED:
            self._study.tell(trial, state=TrialState.PRUNED)
        else:  # running, failed, or the very same knobs again: nothing to be learned yet, or ever
            self._study.tell(trial, state=TrialState.FAIL)

    def _is_news(self, candidate: Candidate) -> bool:
        """Whether these very knobs were not drawn before; different knobs can give the same student, and that is worth knowing."""
        drawn = canonical(dict(candidate.knobs))
        if drawn in self._drawn:
            return False
        self._drawn.add(drawn)
        return True

    def _returned(self) -> Proposal | None:
        returned = self._ledger.state.having(State.RETURNED)
        if not returned:
            return None
        record = returned[0]
        ranges = distributions(self.space, record.knobs, f"trial {record.number}")
        self._study.add_trial(create_trial(state=TrialState.RUNNING, params=dict(record.knobs), distributions=ranges))
        frozen = self._study.get_trials(deepcopy=False)[-1]
        number = frozen.number
        self._open[number] = optuna.trial.Trial(self._study, frozen._trial_id)
        spec = TrialSpec.from_json(record.spec)
        return Proposal(number, record.number, spec, record.hash, record.knobs, record.params, record.bytes, record.flops, record.expected)

    def _optuna_sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        kind, trials = self._config.search.sampler, self._config.search.trials
        if kind == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        if kind == "nsga2":
            # the first generation is random, so it may be at most a quarter of the study
            return optuna.samplers.NSGAIISampler(population_size=min(50, max(8, trials // 4)), seed=seed)
        if kind == "tpe":
            # with several objectives TPE is univariate by default; the knobs of a student depend on each other, and many are conditional
            return optuna.samplers.TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed)
        limit = self._config.search.limits.get(self._config.search.objectives[1])
        return ValueSampler(
            self._draft,
            floor=self._floor,
            ceiling=None if limit is None else _log_cost(limit),
            arms=(FAMILY, STRATEGY),
            seed=seed,
        )

    def _values(self, record: TrialRecord) -> list[float] | None:
        quality, cost = self._config.search.objectives
        return objective_values(record, quality, cost)

    def _remember(self) -> None:
        """Tell the fresh study all that the ledger knows; running and returned trials are yet to come."""
        state = self._ledger.state
        for record in state.refused:
            ranges = distributions(self.space, record["knobs"], "a refused proposal")
            over = {"limits": OVER}
            self._study.add_trial(create_trial(state=TrialState.PRUNED, params=record["knobs"], distributions=ranges, constraints=over))
        answered = [(state.trials[record["trial"]], record["knobs"]) for record in state.reused]
        finished = [(record, record.knobs) for _, record in sorted(state.trials.items())]
        for place, (record, knobs) in enumerate(finished + answered):
            values = self._values(record)
            ended = optuna_state(record, values)
            if ended is not None:
                ranges = distributions(self.space, knobs, f"trial {record.number}")
                generation = _generation(self._main, place) if ended is TrialState.COMPLETE else {}
                self._study.add_trial(
                    create_trial(
                        state=ended,
                        values=values if ended is TrialState.COMPLETE else None,
                        params=dict(knobs),
                        distributions=ranges,
                        system_attrs=generation,
                        user_attrs=_attributes(record),
                    )
                )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's word on every study made, and on what it calls experimental."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


def _generation(sampler: optuna.samplers.BaseSampler, place: int) -> dict[str, Any]:
    """What a genetic sampler notes on a trial and the ledger does not keep: without it, a resumed search would begin at random again."""
    if not isinstance(sampler, optuna.samplers.NSGAIISampler):
        return {}
    return {sampler._get_generation_key(): place // (sampler.population_size or 1)}


def objective_values(record: TrialRecord, quality: str, cost: str) -> list[float] | None:
    """[quality, log10 of the cost] of a complete trial; None for any other, and where the quality is not finite."""
    score = record.scores.get(quality, math.nan)
    return [score, _log_cost(getattr(record, cost))] if math.isfinite(score) else None


def _log_cost(cost: float) -> float:
    return math.log10(max(1.0, cost))  # a student without a matrix product has 0 FLOPs


def _attributes(record: TrialRecord) -> dict[str, float]:
    """What a trial has to say beside its final score, as the sampler by value reads it."""
    if record.state is State.COMPLETE:
        return {SECONDS: record.seconds["total"]} if "total" in record.seconds else {}
    if record.state is State.FAILED or not record.rungs:
        return {}
    last = record.rungs[-1]
    return {FRACTION: last.share, SCORE: last.score, SECONDS: last.seconds}


def optuna_state(record: TrialRecord, values: Sequence[float] | None) -> TrialState | None:
    """How Optuna calls the end of a trial; None while it has none."""
    if record.state is State.COMPLETE:
        return TrialState.FAIL if values is None else TrialState.COMPLETE
    return {State.STOPPED: TrialState.PRUNED, State.FAILED: TrialState.FAIL}.get(record.state)
