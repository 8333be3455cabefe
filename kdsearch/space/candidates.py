"""A candidate: one family, one strategy and the training hyperparameters, however drawn, priced in closed form. No Optuna here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

import numpy as np

from kdsearch.api import Family, ModelInfo, Signal, Strategy, TeacherRole
from kdsearch.config.schema import StudyConfig
from kdsearch.errors import InputError, KdsearchError, PluginError
from kdsearch.io.files import digest
from kdsearch.registry.classes import dump
from kdsearch.registry.registry import Plugins
from kdsearch.space.knobs import OPT_IN, CornerDraw, Draw, Knob, Knobs, RandomDraw, global_knob
from kdsearch.space.spec import TrialSpec

FAMILY, STRATEGY = "family", "strategy"  # the names of the two categoricals
TRIES = 200  # random draws of a pair before it counts as one that never fits


@dataclass(frozen=True)
class Candidate:
    """A student that could be trained."""

    spec: TrialSpec
    hash: str  # the spec's, without its seed
    family: Family
    strategy: Strategy
    info: ModelInfo  # the student's
    params: int
    knobs: Mapping[str, Any]  # what was drawn, under full names; hyperparameters with a single value are not among them


@dataclass
class _Noted:
    """A draw that keeps what was drawn; a hyperparameter drawn twice gives the same value."""

    draw: Draw
    values: dict[str, Any] = field(default_factory=dict)

    def value(self, knob: Knob) -> Any:
        if knob.name not in self.values:
            self.values[knob.name] = self.draw.value(knob)
        return self.values[knob.name]


@dataclass
class Sized:
    """The family's ranges at one point, small or large, and everything else in the middle: a known shape, not a known lr.

    Attributes:
        family, strategy: the pair.
        fraction: 0 the low end of the family's ranges, 1 the high end.
        preset: full knob names -> values that win where they fit.
    """

    family: str
    strategy: str
    fraction: float
    preset: Mapping[str, Any] = field(default_factory=dict)

    def value(self, knob: Knob) -> Any:
        values = {**self.preset, FAMILY: self.family, STRATEGY: self.strategy}
        return CornerDraw(self.fraction if knob.name.startswith(f"{self.family}.") else 0.5, values).value(knob)


@dataclass
class Paired(RandomDraw):
    """Random, but for the pair."""

    family: str
    strategy: str

    def value(self, knob: Knob) -> Any:
        return {FAMILY: self.family, STRATEGY: self.strategy}.get(knob.name) or super().value(knob)


class Candidates:
    """The candidates of one study.

    Args:
        plugins: loaded for the study: all of its families and strategies.
        teacher: what is known of the teacher.

    Raises:
        InputError: no family of the study fits any of its strategies.
    """

    def __init__(self, config: StudyConfig, plugins: Plugins, teacher: ModelInfo) -> None:
        self.config, self.teacher = config, teacher
        self.families: dict[str, type[Family]] = {name: plugins.families[name] for name in config.space.families}
        self.strategies: dict[str, type[Strategy]] = {name: plugins.strategies[name] for name in config.space.strategies}
        self.knobs = Knobs(config.space.knobs)
        self.pairs = [(family, strategy) for family in self.families for strategy in self.strategies if self._fits(family, strategy)]
        if not self.pairs:
            raise InputError(
                f"space: no strategy of {', '.join(self.strategies)} fits a family of {', '.join(self.families)}: add one, "
                "such as the strategy hard, which fits every family"
            )

    def _fits(self, family: str, strategy: str) -> bool:
        return bool(self.strategies[strategy].fits(self.teacher, self.families[family].provides))

    def _training_knobs(self, strategy: Strategy) -> list[str]:
        names = ["lr", *(name for name in OPT_IN if name in self.config.space.knobs)]
        if strategy.teacher is not TeacherRole.ABSENT:  # without a teacher, text without labels is useless
            names += ["unlabelled"] * (self.config.data.unlabelled is not None) + ["augmented"] * (self.config.data.augment > 0)
        return names

    def draw(self, draw: Draw) -> Candidate | str:
        """One candidate.

        Returns:
            the candidate; or the reason, in words, where the pair that was drawn does not fit.

        Raises:
            InputError: an override does not fit its knob.
            PluginError: a plugin's `suggest` gives what its class does not take.
        """
        noted = _Noted(draw)
        family_name = _one_of(noted, FAMILY, tuple(self.families))
        strategy_name = _one_of(noted, STRATEGY, tuple(self.strategies))
        if (family_name, strategy_name) not in self.pairs:
            return f"{strategy_name} does not fit {family_name}"
        family_class, strategy_class = self.families[family_name], self.strategies[strategy_name]
        teacher = self.teacher
        try:
            family: Family = family_class(**family_class.suggest(self.knobs.space(noted, family_name), teacher))
            info, params = _shown(family.info(teacher), teacher), int(family.size(teacher))
        except KdsearchError:
            raise
        except Exception as problem:  # a plugin's code can raise anything; the message has to name the plugin
            raise PluginError(f"family {family_name}: its shape cannot be drawn: {type(problem).__name__}: {problem}") from problem
        try:
            strategy: Strategy = strategy_class(**strategy_class.suggest(self.knobs.space(noted, strategy_name), teacher, info))
        except KdsearchError:
            raise
        except Exception as problem:  # as above
            raise PluginError(f"strategy {strategy_name}: its fields cannot be drawn: {type(problem).__name__}: {problem}") from problem
        lacking = sorted({str(need.signal) for need in strategy.student_needs(teacher, info)} - {str(signal) for signal in info.provides})
        if lacking:
            return f"{strategy_name} needs {', '.join(lacking)}, which this {family_name} does not show"
        if not strategy_class.fits(teacher, info.provides):
            return f"{strategy_name}.fits() refuses this {family_name}"
        training = {name: global_knob(self.knobs, noted, name) for name in self._training_knobs(strategy)}
        spec = TrialSpec(family_name, dump(family), strategy_name, dump(strategy), training, float(self.config.search.epochs), 0)
        address = spec.hash
        # the seed comes from what the student is, so the same student is the same training run in whichever order it was proposed
        seed = int(digest(str(self.config.seed), address)[:7], 16)
        return Candidate(replace(spec, seed=seed), address, family, strategy, info, params, noted.values)

    def over(self, costs: Mapping[str, int]) -> str | None:
        """The first of the study's limits that these costs break, in words: `params 12,000,000 > 10,000,000`."""
        for name, limit in self.config.search.limits.items():
            if name in costs and costs[name] > limit:
                return f"{name} {costs[name]:,} > {limit:,}"
        return None

    def fitting(self, family: str, strategy: str) -> Candidate | str:
        """Any candidate of a pair, however rare; or the reason, in words, where TRIES draws found none."""
        found = next(self._near(family, strategy, 0.5), None)
        if found is not None:
            return found
        draw = Paired(np.random.default_rng(self.config.seed), family, strategy)
        reason = ""
        for _ in range(TRIES):
            drawn = self.draw(draw)
            if isinstance(drawn, Candidate):
                return drawn
            reason = drawn
        return reason

    def _near(self, family: str, strategy: str, fraction: float, preset: Mapping[str, Any] | None = None) -> Iterator[Candidate]:
        """The pair at one point of the family's ranges; where the two do not fit there, with one other option of the family with which they do:
        with other subwords than the teacher's a student provides no attention, but the same student with the teacher's own does."""
        wanted = {**(preset or {})}
        drawn = self.draw(Sized(family, strategy, fraction, wanted))
        if isinstance(drawn, Candidate):
            yield drawn
            return
        for name, knob in list(self.knobs.declared.items()):
            if name.startswith(f"{family}.") and knob.kind == "choice":
                for option in reversed(knob.options):
                    drawn = self.draw(Sized(family, strategy, fraction, {**wanted, name: option}))
                    if isinstance(drawn, Candidate):
                        yield drawn

    def openings(self, count: int) -> list[Candidate]:
        """What to try first: small, middle and large students and the families' known shapes, each strategy once before any a second time.

        A strategy that does not fit a shape has the nearest one that it fits. Large is the largest within the limit on parameters. What breaks
        it all the same is left out.
        """
        shapes = [self._shapes(family) for family in self.families]
        mixed = [shape for turn in zip_longest(*shapes) for shape in turn if shape is not None]  # families in turn
        chosen: dict[str, Candidate] = {}
        waiting = [
            self._in_turn(strategy, mixed[place % len(mixed) :] + mixed[: place % len(mixed)])
            for place, strategy in enumerate(self.strategies)
        ]
        while waiting:
            going = []
            for candidates in waiting:
                if len(chosen) == count:
                    return list(chosen.values())
                candidate = next((each for each in candidates if each.hash not in chosen), None)
                if candidate is not None:
                    chosen[candidate.hash] = candidate
                    going.append(candidates)
            waiting = going
        return list(chosen.values())

    def _in_turn(self, strategy: str, shapes: Sequence[tuple[str, float, Mapping[str, Any]]]) -> Iterator[Candidate]:
        """A strategy on these shapes, within the limit on parameters; where it fits none of them, on any shape that it fits."""
        none = True
        for family, fraction, preset in shapes:
            near = self._near(family, strategy, fraction, preset) if (family, strategy) in self.pairs else ()
            candidate = next((each for each in near if self._small(each)), None)
            if candidate is not None:
                none = False
                yield candidate
        if none:
            anywhere = (self.fitting(family, strategy) for family, name in self.pairs if name == strategy)
            yield from (each for each in anywhere if isinstance(each, Candidate) and self._small(each))

    def _small(self, candidate: Candidate) -> bool:
        return not self.over({"params": candidate.params})

    def _shapes(self, family: str) -> list[tuple[str, float, Mapping[str, Any]]]:
        """(family, fraction, preset) of its corners, the known shapes between them."""
        strategies = [strategy for name, strategy in self.pairs if name == family]
        if not strategies:
            return []
        largest = 1.0
        while largest > 0.05 and not any(self._small(each) for strategy in strategies for each in self._near(family, strategy, largest)):
            largest -= 0.1
        corners: list[tuple[str, float, Mapping[str, Any]]] = [(family, fraction, {}) for fraction in (0.0, largest / 2, max(0.0, largest))]
        known: list[tuple[str, float, Mapping[str, Any]]] = [
            (family, 0.5, {f"{family}.{name}": value for name, value in values.items()})
            for values in self.families[family].known_good(self.teacher)
        ]
        return [shape for pair in zip_longest(known, corners) for shape in pair if shape is not None]


def _shown(info: ModelInfo, teacher: ModelInfo) -> ModelInfo:
    """Other subwords than the teacher's give other sequences: token by token there is nothing to compare, whatever the family provides."""
    if info.vocab == teacher.vocab:
        return info
    return replace(info, provides=info.provides & {Signal.LOGITS, Signal.POOLED})


def _one_of(draw: Draw, name: str, options: tuple[str, ...]) -> str:
    return options[0] if len(options) == 1 else str(draw.value(Knob(name, "choice", options=options)))
