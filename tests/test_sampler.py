from __future__ import annotations

import json
import math
import sqlite3
import wsgiref.util
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from torch import Tensor, nn

from kdsearch.api import Batch, Family, ModelInfo, Need, Outputs, Signal, Space, Strategy
from kdsearch.config.schema import StudyConfig
from kdsearch.errors import InputError, PluginError, StateError
from kdsearch.hpo.optuna_db import export
from kdsearch.hpo.sampler import Proposal, Sampler
from kdsearch.registry.registry import Plugins
from kdsearch.results.front import hypervolume
from kdsearch.results.ledger import Ledger
from kdsearch.results.record import State
from kdsearch.space.candidates import Candidate, Candidates
from kdsearch.space.cost import Cost
from kdsearch.space.explore import explore
from kdsearch.space.knobs import RandomDraw

TEACHER = ModelInfo(labels=2, layers=4, hidden=64, heads=4, vocab=100, provides=frozenset({Signal.LOGITS, Signal.POOLED}))


@dataclass(frozen=True)
class Block(Family):
    name = "block"
    source = "a test"
    provides = frozenset({Signal.LOGITS, Signal.POOLED})
    layers: int
    width: int

    @classmethod
    def suggest(cls, space: Space, teacher: ModelInfo) -> dict[str, Any]:
        return {"layers": space.integer("layers", 1, teacher.layers), "width": space.integer("width", 8, teacher.hidden, log=True)}

    @classmethod
    def known_good(cls, teacher: ModelInfo) -> list[dict[str, Any]]:
        return [{"layers": 2, "width": 16}, {"layers": 2, "width": 32}]

    def info(self, teacher: ModelInfo) -> ModelInfo:
        return replace(teacher, layers=self.layers, hidden=self.width, provides=self.provides)

    def size(self, teacher: ModelInfo) -> int:
        return self.layers * self.width * self.width

    def build(self, teacher: ModelInfo) -> nn.Module:
        raise NotImplementedError


@dataclass(frozen=True)
class Bag(Family):
    name = "bag"
    source = "a test"
    provides = frozenset({Signal.LOGITS})
    width: int

    @classmethod
    def suggest(cls, space: Space, teacher: ModelInfo) -> dict[str, Any]:
        return {"width": space.integer("width", 2, 16)}

    def info(self, teacher: ModelInfo) -> ModelInfo:
        return replace(teacher, layers=0, hidden=self.width, provides=self.provides)

    def size(self, teacher: ModelInfo) -> int:
        return self.width

    def build(self, teacher: ModelInfo) -> nn.Module:
        raise NotImplementedError


class _Untrained(Strategy):
    def loss(self, student: Outputs, teacher: Outputs | None, batch: Batch, extra: nn.Module | None, progress: float) -> dict[str, Tensor]:
        raise NotImplementedError


@dataclass(frozen=True)
class Hard(_Untrained):
    name = "hard"
    source = "a test"

    @classmethod
    def suggest(cls, space: Space, teacher: ModelInfo, student: ModelInfo) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class Soft(_Untrained):
    name = "soft"
    source = "a test"
    form: str
    alpha: float
    temperature: float | None

    @classmethod
    def suggest(cls, space: Space, teacher: ModelInfo, student: ModelInfo) -> dict[str, Any]:
        form = space.choice("form", ("kl", "ce", "mse"))
        return {"form": form, "alpha": space.alpha(), "temperature": None if form == "mse" else space.temperature()}


@dataclass(frozen=True)
class States(_Untrained):
    name = "states"
    source = "a test"
    weight: float
    depth: float | None

    @classmethod
    def suggest(cls, space: Space, teacher: ModelInfo, student: ModelInfo) -> dict[str, Any]:
        weight = space.real("weight", 0.1, 10.0, log=True)
        return {"weight": weight, "depth": space.real("depth", 0.0, 1.0) if student.layers > 1 else None}

    @classmethod
    def fits(cls, teacher: ModelInfo, provides: frozenset[Signal]) -> bool:
        return Signal.POOLED in provides

    def student_needs(self, teacher: ModelInfo, student: ModelInfo) -> tuple[Need, ...]:
        return (Need(Signal.LOGITS), Need(Signal.POOLED))


@dataclass(frozen=True)
class FakePlugins:
    families: Mapping[str, type[Family]]
    strategies: Mapping[str, type[Strategy]]


PLUGINS: Any = FakePlugins({"block": Block, "bag": Bag}, {"hard": Hard, "soft": Soft, "states": States})


def study(
    knobs: Mapping[str, Any] | None = None,
    families: Sequence[str] = ("block", "bag"),
    strategies: Sequence[str] = ("hard", "soft", "states"),
    **search: Any,
) -> StudyConfig:
    return StudyConfig.model_validate(
        {
            "name": "toy",
            "data": {"preset": "rotten_tomatoes"},
            "teacher": {"preset": "minilm"},
            "space": {"families": list(families), "strategies": list(strategies), "knobs": dict(knobs or {})},
            "search": {"trials": 20, **search},
        }
    )


def price(family: Family) -> Cost:
    params = family.size(TEACHER)
    return Cost(params, params * 4, params * 2)


def quality(proposal: Proposal) -> float:
    """A planted score: more parameters help a little, a good lr more."""
    lr = proposal.spec.training["lr"]
    return 0.6 + 0.03 * math.log10(proposal.params) - 0.1 * abs(math.log10(lr / 5e-4))


def sampler(ledger: Ledger, config: StudyConfig, **options: Any) -> Sampler:
    ledger.begin()
    return Sampler(config, PLUGINS, TEACHER, ledger, price, **options)


def start(ledger: Ledger, proposal: Proposal) -> tuple[int, int]:
    number = ledger.state.next_number if proposal.trial is None else proposal.trial
    costs = {"params": proposal.params, "bytes": proposal.bytes, "flops": proposal.flops}
    facts = {**costs, "expected": proposal.seconds}
    return number, ledger.started(number, proposal.spec.to_json(), proposal.hash, proposal.knobs, **facts)


def finish(ledger: Ledger, made: Sampler, proposal: Proposal, started: tuple[int, int]) -> None:
    score = quality(proposal)
    ledger.complete(*started, {"accuracy": score}, proposal.params, proposal.bytes, proposal.flops, {"total": 1.0})
    made.tell(proposal.number, started[0])


def ask_and_start(ledger: Ledger, made: Sampler, count: int) -> list[tuple[Proposal, tuple[int, int]]]:
    """So many students that run at once, each with its number and attempt."""
    begun = []
    for _ in range(count):
        proposal = made.ask()
        assert proposal is not None
        begun.append((proposal, start(ledger, proposal)))
    return begun


def run(ledger: Ledger, made: Sampler, count: int) -> list[Proposal]:
    proposals = []
    for _ in range(count):
        proposal = made.ask()
        assert proposal is not None
        finish(ledger, made, proposal, start(ledger, proposal))
        proposals.append(proposal)
    return proposals


def states(made: Sampler) -> Counter[str]:
    return Counter(trial.state.name for trial in made._study.trials)


def test_the_first_proposals_try_every_strategy_and_small_middle_and_large(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        proposals = run(ledger, sampler(ledger, study(families=["block"])), 10)
    assert [each.spec.strategy for each in proposals[:6]] == ["hard", "soft", "states"] * 2
    sizes = {each.params for each in proposals}
    # 1 x 8^2; 2 x 16^2 and 2 x 32^2, known good; 4 x 64^2
    assert {64, 512, 2048, 16384} <= sizes
    # a known shape comes with middling knobs: lr = sqrt(5e-5 * 2e-3), T = sqrt(1 * 8), alpha = (0.2 + 1) / 2
    assert proposals[0].spec.training["lr"] == pytest.approx(math.sqrt(5e-5 * 2e-3))
    assert dict(proposals[1].spec.strategy_config) == {
        "form": "kl",
        "alpha": pytest.approx(0.6),
        "temperature": pytest.approx(math.sqrt(8)),
    }


def test_openings_are_at_most_half_of_the_trials_and_stay_inside_the_studys_ranges() -> None:
    config = study({"block.layers": {"max": 2}, "lr": {"choices": [1e-3]}}, families=["block"], trials=9)
    space = Candidates(config, PLUGINS, TEACHER)
    openings = space.openings(9 // 2)
    assert len(openings) == 4
    assert all(each.spec.family_config["layers"] <= 2 and each.spec.training == {"lr": 1e-3} for each in openings)
    assert len(space.openings(1000)) < 1000


def test_the_largest_opening_is_the_largest_that_the_limit_allows() -> None:
    openings = Candidates(study(families=["block"], limits={"params": 5000}), PLUGINS, TEACHER).openings(12)
    assert 3000 < max(each.params for each in openings) <= 5000


def test_two_families_take_turns() -> None:
    openings = Candidates(study(), PLUGINS, TEACHER).openings(10)
    assert {(each.spec.family, each.spec.strategy) for each in openings} == {
        ("block", "hard"),
        ("block", "soft"),
        ("block", "states"),
        ("bag", "hard"),
        ("bag", "soft"),
    }


def test_a_pair_that_does_not_fit_is_never_proposed(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        proposals = run(ledger, sampler(ledger, study(sampler="random")), 60)
        assert ledger.state.refused == []
    assert not [each for each in proposals if (each.spec.family, each.spec.strategy) == ("bag", "states")]
    assert len({(each.spec.family, each.spec.strategy) for each in proposals}) == 5


def test_a_pair_that_does_not_fit_says_nothing_about_its_knobs(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        made = sampler(ledger, study(sampler="random"))
        run(ledger, made, 60)
        told = made._study.trials
    unfit = [trial for trial in told if (trial.params["family"], trial.params["strategy"]) == ("bag", "states")]
    assert unfit
    # FAIL alone is left out by TPE; it counts a pruned trial among the bad ones
    assert {trial.state.name for trial in unfit} == {"FAIL"}


@dataclass(frozen=True)
class Shy(Block):
    """Shows states at one of three options alone, and under some limits at none."""

    name = "shy"
    mood: str

    @classmethod
    def suggest(cls, space: Space, teacher: ModelInfo) -> dict[str, Any]:
        return {**super().suggest(space, teacher), "mood": space.choice("mood", ("shut", "ajar", "open"))}

    def info(self, teacher: ModelInfo) -> ModelInfo:
        shown = self.provides if self.mood == "open" else frozenset({Signal.LOGITS})
        return replace(super().info(teacher), provides=shown)

    def size(self, teacher: ModelInfo) -> int:
        return super().size(teacher) * (3 if self.mood == "open" else 1)


SHY: Any = FakePlugins({"shy": Shy, "bag": Bag}, {"hard": Hard, "soft": Soft, "states": States})


def test_a_strategy_that_does_not_fit_a_shape_opens_on_the_nearest_that_it_fits() -> None:
    openings = Candidates(study(families=["shy", "bag"], strategies=["hard", "states"]), SHY, TEACHER).openings(40)
    assert [each.spec.strategy for each in openings[:6]] == ["hard", "states"] * 3
    shapes = {(each.spec.family_config["layers"], each.spec.family_config["width"]) for each in openings if each.spec.strategy == "states"}
    assert {(1, 8), (2, 16), (2, 32), (4, 64)} <= shapes  # both ends, and what is known to be good
    assert {each.spec.family_config["mood"] for each in openings if each.spec.strategy == "states"} == {"open"}
    assert {each.spec.family_config["mood"] for each in openings if each.spec.family == "shy" and each.spec.strategy == "hard"} == {"shut"}


def test_openings_on_the_nearest_shape_keep_the_limit_too() -> None:
    space = Candidates(study(families=["shy"], strategies=["states", "hard"], limits={"params": 5000}), SHY, TEACHER)
    openings = space.openings(40)
    assert max(each.params for each in openings if each.spec.strategy == "hard") > 3000
    assert {each.spec.strategy for each in openings} == {"hard", "states"}
    assert all(each.params <= 5000 for each in openings)


def test_exploration_finds_a_pair_that_few_draws_fit() -> None:
    config = study(families=["shy"], strategies=["hard", "states"])
    found = explore(config, SHY, TEACHER, draws=2)
    assert all(line.fits for line in found.pairs)
    assert "states" in {each.spec.strategy for each in found.candidates}


def test_exploration_refuses_a_space_in_which_no_student_fits() -> None:
    config = study({"shy.mood": {"choices": ["shut", "ajar"]}}, ["shy"], ["states"])
    with pytest.raises(InputError) as refused:
        explore(config, SHY, TEACHER)
    assert str(refused.value) == (
        "space: no student that can be drawn fits its strategy (states needs pooled, which this shy does not show): "
        "widen space.knobs.shy.mood, or add a strategy such as hard, which fits every family"
    )


def test_where_only_the_smallest_student_keeps_a_limit_exploration_has_that_one() -> None:
    found = explore(study({}, ["block"], ["hard"], limits={"params": 64}), PLUGINS, TEACHER, draws=20)
    assert {each.params for each in found.candidates} == {64}
    assert found.over_limit == 1.0


def test_a_family_with_other_pieces_shows_no_token_states_whatever_it_says() -> None:
    @dataclass(frozen=True)
    class Other(Block):
        def info(self, teacher: ModelInfo) -> ModelInfo:
            return replace(super().info(teacher), vocab=teacher.vocab // 2, provides=frozenset(Signal))

    @dataclass(frozen=True)
    class Tokens(States):
        def student_needs(self, teacher: ModelInfo, student: ModelInfo) -> tuple[Need, ...]:
            return (Need(Signal.LOGITS), Need(Signal.HIDDEN))

    both: Any = FakePlugins({"block": Other}, {"states": States, "tokens": Tokens})
    space = Candidates(study(families=["block"], strategies=["states", "tokens"]), both, TEACHER)
    assert isinstance(space.fitting("block", "states"), Candidate)
    assert space.fitting("block", "tokens") == "tokens needs hidden, which this block does not show"


def test_what_is_over_a_limit_is_refused_before_it_costs_anything(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        made = sampler(ledger, study(families=["block"], limits={"params": 600}, sampler="random"))
        proposals = run(ledger, made, 20)
        assert all(each.params <= 600 for each in proposals)
        assert ledger.state.refused
        assert all(each["params"] > 600 for each in ledger.state.refused)
        assert ledger.state.refused[0]["limit"].endswith("> 600")
        assert states(made) == {"COMPLETE": 20, "PRUNED": len(ledger.state.refused)}


def test_limits_on_bytes_and_flops_hold_too(tmp_path: Path) -> None:
    for cost, limit in (("bytes", 2400), ("flops", 1200)):
        with Ledger(tmp_path / cost) as ledger:
            proposals = run(ledger, sampler(ledger, study(families=["block"], limits={cost: limit}, sampler="random")), 10)
            assert all(getattr(each, cost) <= limit for each in proposals)
            assert ledger.state.refused[0]["limit"].startswith(f"{cost} ")


def test_a_duplicate_is_answered_by_the_earlier_trial_and_an_exhausted_space_says_so(tmp_path: Path) -> None:
    knobs = {"lr": 1e-3, "bag.width": {"min": 2, "max": 4}}
    config = study(knobs, ["bag"], ["hard"])
    with Ledger(tmp_path) as ledger:
        made = sampler(ledger, config, patience=20)
        proposals = run(ledger, made, 3)
        assert sorted(each.params for each in proposals) == [2, 3, 4]
        assert made.ask() is None
        assert made.exhausted == "nothing new in 40 proposals in a row: 40 seen before; widen space.knobs or search.limits to go on"
        assert ledger.state.reused == []  # the very same knobs again are nothing to write down
    with Ledger(tmp_path) as ledger:  # and again on resume
        again = sampler(ledger, config, patience=20)
        assert again.ask() is None
        assert again.exhausted
        assert len(ledger.state.trials) == 3


def test_other_knobs_that_make_the_same_student_are_told_its_values(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Rounded(Bag):
        @classmethod
        def suggest(cls, space: Space, teacher: ModelInfo) -> dict[str, Any]:
            return {"width": round(space.real("width", 1.0, 3.0))}

    plugins: Any = FakePlugins({"bag": Rounded}, {"hard": Hard})
    config = study({"lr": 1e-3}, ["bag"], ["hard"])
    for _ in range(2):  # the second time from the ledger
        with Ledger(tmp_path) as ledger:
            ledger.begin()
            made = Sampler(config, plugins, TEACHER, ledger, price, patience=10)
            while (proposal := made.ask()) is not None:
                finish(ledger, made, proposal, start(ledger, proposal))
            assert len(ledger.state.trials) == 3
            assert len(ledger.state.reused) >= 20
            for trial in made._study.get_trials(states=[optuna.trial.TrialState.COMPLETE]):
                assert trial.values[1] == pytest.approx(math.log10(round(trial.params["bag.width"])))
            assert states(made)["COMPLETE"] == 3 + len(ledger.state.reused)


def test_what_runs_now_is_not_proposed_a_second_time(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        made = sampler(ledger, study({"lr": 1e-3, "bag.width": {"min": 2, "max": 4}}, ["bag"], ["hard"]), patience=10)
        begun = ask_and_start(ledger, made, 3)
        assert made.ask() is None
        assert len({proposal.hash for proposal, _ in begun}) == 3


def test_every_end_is_told_and_nothing_stays_running(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        made = sampler(ledger, study(families=["block"]))
        begun = ask_and_start(ledger, made, 5)
        one, two, three, four, five = (started for _, started in begun)
        ledger.complete(*one, {"accuracy": 0.7}, 1000, 4000, 2000, {"total": 1.0})
        ledger.complete(*two, {"accuracy": math.nan}, 1000, 4000, 2000, {"total": 1.0})
        ledger.stopped(*three, 0.25, 0.5)
        ledger.failed(*four, "memory", "")
        ledger.returned(*five, "lost")
        for proposal, (number, _) in begun:
            made.tell(proposal.number, number)
        told = made._study.trials[:5]
    assert [trial.state.name for trial in told] == ["COMPLETE", "FAIL", "PRUNED", "FAIL", "FAIL"]
    assert told[0].values == [0.7, 3.0]


def test_seeds_come_from_the_study_and_the_student_alone() -> None:
    def drawn(seed: int, trials: int) -> Candidate:
        config = study(families=["block"], trials=trials).model_copy(update={"seed": seed})
        candidate = Candidates(config, PLUGINS, TEACHER).draw(RandomDraw(np.random.default_rng(5)))
        assert isinstance(candidate, Candidate)
        return candidate

    assert drawn(0, 20).spec == drawn(0, 99).spec
    assert drawn(0, 20).hash == drawn(0, 20).spec.hash == drawn(1, 20).hash
    assert drawn(0, 20).spec.seed != drawn(1, 20).spec.seed


@pytest.mark.parametrize("kind", ["auto", "nsga2", "random"])
def test_a_resumed_sampler_knows_all_and_does_not_repeat_itself(tmp_path: Path, kind: str) -> None:
    config = study(sampler=kind, limits={"params": 8000})
    with Ledger(tmp_path) as ledger:
        made = sampler(ledger, config)
        before = run(ledger, made, 14)
        (stopped, first), (failed, second) = ask_and_start(ledger, made, 2)
        ledger.stopped(*first, 0.25, 0.5)
        ledger.failed(*second, "memory", "")
    with Ledger(tmp_path) as ledger:
        made = sampler(ledger, config)
        expected = {"COMPLETE": 14 + len(ledger.state.reused), "PRUNED": 1 + len(ledger.state.refused), "FAIL": 1}
        known = states(made)
        known.pop("WAITING", None)
        assert known == expected
        best = max(made._study.best_trials, key=lambda trial: trial.values[0])
        assert best.values[0] == max(quality(each) for each in before)
        after = run(ledger, made, 10)
        assert not {each.hash for each in after} & {each.hash for each in [*before, stopped, failed]}


def test_openings_that_were_started_are_not_opened_again(tmp_path: Path) -> None:
    config = study(families=["block"])
    with Ledger(tmp_path) as ledger:
        run(ledger, sampler(ledger, config), 4)
    with Ledger(tmp_path) as ledger:
        made = sampler(ledger, config)
        assert states(made) == {"COMPLETE": 4, "WAITING": 6}


def test_returned_trials_come_first_under_their_own_number_and_seed(tmp_path: Path) -> None:
    config = study(families=["block"])
    with Ledger(tmp_path) as ledger:
        made = sampler(ledger, config)
        run(ledger, made, 2)
        lost = ask_and_start(ledger, made, 2)
        assert [started for _, started in lost] == [(2, 1), (3, 1)]
    with Ledger(tmp_path) as ledger:
        assert ledger.recover() == [2, 3]
        made = sampler(ledger, config)
        again = ask_and_start(ledger, made, 3)
        assert [(proposal.trial, started) for proposal, started in again] == [(2, (2, 2)), (3, (3, 2)), (None, (4, 1))]
        assert [proposal.spec for proposal, _ in again[:2]] == [proposal.spec for proposal, _ in lost]
        finish(ledger, made, *again[0])
        assert ledger.state.trials[2].state is State.COMPLETE
        assert len({proposal.hash for proposal, _ in again}) == 3


def test_a_trial_returned_during_a_run_is_given_again(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        made = sampler(ledger, study(families=["block"]))
        [(lost, started), (other, _)] = ask_and_start(ledger, made, 2)
        ledger.returned(*started, "node lost")
        made.tell(lost.number, started[0])
        [(again, _), (fresh, _)] = ask_and_start(ledger, made, 2)
        assert (again.trial, again.hash) == (started[0], lost.hash)
        assert again.number not in (lost.number, other.number)
        assert fresh.trial is None


def test_a_ledger_from_another_space_is_refused(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        run(ledger, sampler(ledger, study(families=["block"])), 6)
        with pytest.raises(StateError, match=r"trial \d comes from another space: knob block.layers had \d, which is not in"):
            sampler(ledger, study({"block.layers": {"choices": [3]}}, families=["block"]))
        with pytest.raises(StateError, match="comes from another space"):
            sampler(ledger, study(families=["block"], strategies=["states", "hard"]))


def test_a_plugin_that_draws_nonsense_is_named() -> None:
    class Broken(Block):
        @classmethod
        def suggest(cls, space: Space, teacher: ModelInfo) -> dict[str, Any]:
            return {"layer": 1}

    plugins: Any = FakePlugins({"block": Broken}, {"hard": Hard})
    space = Candidates(study(families=["block"], strategies=["hard"]), plugins, TEACHER)
    with pytest.raises(PluginError, match=r"family block: its shape cannot be drawn: TypeError: .*layer"):
        space.draw(RandomDraw(np.random.default_rng(0)))


def test_a_space_without_a_pair_that_fits_is_refused() -> None:
    with pytest.raises(InputError, match="no strategy of states fits a family of bag"):
        Candidates(study(families=["bag"], strategies=["states"]), PLUGINS, TEACHER)


def test_tpe_learns_from_the_trials_it_is_told(tmp_path: Path) -> None:
    volumes: dict[str, list[float]] = {"tpe": [], "random": []}
    for kind, found in volumes.items():
        for seed in range(3):
            with Ledger(tmp_path / f"{kind}{seed}") as ledger:
                config = study(families=["block"], sampler=kind, trials=50).model_copy(update={"seed": seed})
                late = run(ledger, sampler(ledger, config), 50)[30:]
            found.append(float(np.mean([abs(math.log10(each.spec.training["lr"] / 5e-4)) for each in late])))
    assert np.mean(volumes["tpe"]) < 0.75 * np.mean(volumes["random"])


def test_exploration_tells_every_knob_with_its_range_and_condition() -> None:
    found = explore(study({"alpha": 0.5, "block.width": {"max": 32}}), PLUGINS, TEACHER)
    assert {line.name: (line.values, line.when) for line in found.knobs} == {
        "alpha": ("0.5 (fixed)", "wherever it is asked for"),
        "bag.width": ("2 .. 16 (integer)", "family = bag"),
        "block.layers": ("1 .. 4 (integer)", "family = block"),
        "block.width": ("8 .. 32 log (integer)", "family = block"),
        "lr": ("5e-05 .. 0.002 log (real)", "always"),
        "soft.form": ("kl | ce | mse", "strategy = soft"),
        "states.depth": ("0 .. 1 (real)", "strategy = states and block.layers >= 2"),
        "states.weight": ("0.1 .. 10 log (real)", "strategy = states"),
        "temperature": ("1 .. 8 log (real)", "strategy = soft and soft.form = ce | kl"),
    }
    assert [(line.family, line.strategy) for line in found.pairs if not line.fits] == [("bag", "states")]
    assert found.pairs[-1].why == "bag does not show pooled"
    assert (found.smallest, found.largest) == (2, 4 * 32 * 32)
    assert found.over_limit == 0.0
    assert len(found.candidates) == 400


def test_exploration_tells_the_one_knob_that_decides_and_no_more_where_it_takes_two() -> None:
    @dataclass(frozen=True)
    class Picky(_Untrained):
        name = "picky"
        source = "a test"
        shallow: float | None
        small: float | None

        @classmethod
        def suggest(cls, space: Space, teacher: ModelInfo, student: ModelInfo) -> dict[str, Any]:
            return {
                "shallow": space.real("shallow", 0.0, 1.0) if student.layers <= 2 else None,
                "small": space.real("small", 0.0, 1.0) if student.layers * student.hidden <= 64 else None,
            }

    plugins: Any = FakePlugins({"block": Block}, {"picky": Picky})
    found = explore(study(families=["block"], strategies=["picky"]), plugins, TEACHER)
    told = {line.name: line.when for line in found.knobs}
    assert (told["picky.shallow"], told["picky.small"]) == ("block.layers <= 2", "sometimes")


def test_exploration_takes_no_chance_for_a_condition_and_many_numbers_for_a_range() -> None:
    @dataclass(frozen=True)
    class Wide(_Untrained):
        name = "wide"
        source = "a test"
        count: int
        deep: float | None
        size: int

        @classmethod
        def suggest(cls, space: Space, teacher: ModelInfo, student: ModelInfo) -> dict[str, Any]:
            count = space.integer("count", 0, 10**9)  # hardly ever drawn twice
            deep = space.real("deep", 0.0, 1.0) if student.layers > 2 else None
            return {"count": count, "deep": deep, "size": space.choice("size", (100, 200, 400, 800, 1600))}

    plugins: Any = FakePlugins({"block": Block}, {"wide": Wide})
    told = {line.name: line for line in explore(study(families=["block"], strategies=["wide"]), plugins, TEACHER).knobs}
    assert told["wide.deep"].when == "block.layers >= 3"
    assert told["wide.size"].values == "100 .. 1600 (5 choices)"


def test_exploration_tells_what_the_limits_cost() -> None:
    found = explore(study(families=["block"], limits={"params": 1000}), PLUGINS, TEACHER)
    share = np.mean([each.params > 1000 for each in explore(study(families=["block"]), PLUGINS, TEACHER).candidates])
    assert found.over_limit == pytest.approx(share)
    assert 0.1 < share < 0.9
    assert all(each.params <= 1000 for each in found.candidates)
    with pytest.raises(InputError, match="no student of this space keeps them; the smallest breaks params 64 > 50"):
        explore(study(families=["block"], limits={"params": 50}), PLUGINS, TEACHER)
    with pytest.raises(InputError, match="the smallest breaks bytes 256 > 200"):
        explore(study(families=["block"], limits={"bytes": 200}), PLUGINS, TEACHER, price=price)


def test_batch_size_warmup_and_clip_are_drawn_where_a_study_names_them_and_nowhere_else() -> None:
    asked = Candidates(study({"batch_size": {"min": 8, "max": 16}, "warmup": 0.2, "clip": {"choices": [0.5, 2]}}), PLUGINS, TEACHER)
    drawn = [each for seed in range(40) if isinstance(each := asked.draw(RandomDraw(np.random.default_rng(seed))), Candidate)]
    sizes, warmups, clips = ({each.spec.training[name] for each in drawn} for name in ("batch_size", "warmup", "clip"))
    assert all(isinstance(size, int) and 8 <= size <= 16 for size in sizes)
    assert len(sizes) > 3
    assert (warmups, clips) == ({0.2}, {0.5, 2.0})
    plain = Candidates(study({}), PLUGINS, TEACHER).draw(RandomDraw(np.random.default_rng(0)))
    assert isinstance(plain, Candidate)
    assert not {"batch_size", "warmup", "clip"} & plain.spec.training.keys()


def test_exploration_refuses_a_knob_that_nothing_asks_for() -> None:
    with pytest.raises(InputError, match=r"space.knobs.block.layer: no knob of that name in this study. Did you mean 'block.layers'\?"):
        explore(study({"block.layer": 2}), PLUGINS, TEACHER)


def test_study_db_is_an_optuna_study_with_nothing_running(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        made = sampler(ledger, study())
        run(ledger, made, 6)
        started = [started for _, started in ask_and_start(ledger, made, 3)]
        ledger.rung(*started[0], 0.25, 0.5, 1.0)
        ledger.stopped(*started[0], 0.25, 0.5)
        ledger.failed(*started[1], "memory", "")
        assert export(ledger.state, made.space, tmp_path / "study.db") == 8
        assert export(ledger.state, made.space, tmp_path / "study.db") == 8  # in place of the last
        expected = ledger.state
    loaded = optuna.load_study(study_name="toy", storage=f"sqlite:///{tmp_path / 'study.db'}")
    trials = loaded.get_trials()
    assert Counter(trial.state.name for trial in trials) == {"COMPLETE": 6, "PRUNED": 1, "FAIL": 1}
    assert loaded.metric_names == ["accuracy", "log10 params"]
    for trial in trials:
        record = expected.trials[trial.user_attrs["trial"]]
        assert trial.params == record.knobs
        assert trial.user_attrs["params"] == record.params
        assert trial.user_attrs["strategy"] == record.spec["strategy"]
        assert trial.datetime_start is not None
        assert trial.datetime_start.timestamp() == pytest.approx(record.begun, abs=1.0)
        if record.scores:
            assert trial.values == [record.scores["accuracy"], math.log10(record.params)]
    assert trials[6].user_attrs["rung 0.25"] == 0.5
    assert trials[7].user_attrs["cause"] == "memory"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ledger.jsonl", "study.db"]
    with sqlite3.connect(tmp_path / "study.db") as database:
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)


def test_an_export_grows_and_is_made_anew_when_the_ledger_says_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "study.db"

    def held() -> dict[int, list[float] | None]:
        loaded = optuna.load_study(study_name="toy", storage=f"sqlite:///{path}")
        return {trial.user_attrs["trial"]: trial.values for trial in loaded.get_trials()}

    with Ledger(tmp_path / "a") as ledger:
        made = sampler(ledger, study())
        run(ledger, made, 2)
        path.write_bytes(b"not a database")
        assert export(ledger.state, made.space, path) == 2
        run(ledger, made, 2)
        assert export(ledger.state, made.space, path) == 4
        whole = held()
        assert sorted(whole) == [0, 1, 2, 3]
        ledger.state.trials[1].scores["accuracy"] = 0.125
        assert export(ledger.state, made.space, path) == 4
    assert held() == whole | {1: [0.125, whole[1][1] if whole[1] else 0.0]}


def test_study_db_opens_in_optuna_dashboard(tmp_path: Path) -> None:
    dashboard = pytest.importorskip("optuna_dashboard")
    with Ledger(tmp_path) as ledger:
        made = sampler(ledger, study())
        run(ledger, made, 3)
        export(ledger.state, made.space, tmp_path / "study.db")
    environment: dict[str, Any] = {}
    wsgiref.util.setup_testing_defaults(environment)
    answer = dashboard.wsgi(f"sqlite:///{tmp_path / 'study.db'}")({**environment, "PATH_INFO": "/api/studies/1"}, lambda *_: None)
    assert len(json.loads(b"".join(answer))["trials"]) == 3


def test_the_built_in_plugins_can_be_searched(tmp_path: Path) -> None:
    from kdsearch.registry import registry

    names = ["hard", "logit", "feature", "joint"]
    teacher = replace(TEACHER, intermediate=256, provides=frozenset(Signal))
    loaded: Plugins = registry.load(["transformer"], names)
    config = study(families=["transformer"], strategies=names, limits={"params": "200k"})
    with Ledger(tmp_path) as ledger:
        ledger.begin()
        made = Sampler(config, loaded, teacher, ledger, lambda family: Cost(family.size(teacher), 1, 1))
        proposals = run(ledger, made, 25)
    assert {each.spec.strategy for each in proposals[:4]} == set(names)
    found = explore(config, loaded, teacher)
    assert all(line.fits for line in found.pairs)
    json.dumps([each.spec.to_json() for each in proposals])
    assert hypervolume((each.params, quality(each)) for each in proposals) > 0
