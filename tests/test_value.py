"""The sampler by value, on its own and behind a study: what it expects, what it knows exactly, and what it is told of prices and time."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial
from test_sampler import PLUGINS, TEACHER, finish, sampler, start, study

from kdsearch.api import Need, Signal
from kdsearch.hpo.sampler import OPENINGS
from kdsearch.hpo.surrogate import Surrogate
from kdsearch.hpo.value import FRACTION, ROWS, SCORE, SECONDS, STARTUP, Draft, Near, ValueSampler, expected_improvement
from kdsearch.registry import registry
from kdsearch.results.ledger import Ledger
from kdsearch.results.record import State
from kdsearch.space.candidates import Candidate, Candidates
from kdsearch.space.knobs import Draw, Knob, RandomDraw
from kdsearch.student.price import TEACHER_FLOPS, Workload, seconds

KNOBS = {"x": Knob("x", "real", 0.0, 1.0), "kind": Knob("kind", "choice", options=("bag", "net"))}


def gain(mean: float, deviation: float, height: float) -> float:
    """E[max(0, score - height)] by drawing."""
    return float(np.maximum(0.0, np.random.default_rng(0).normal(mean, deviation, 400_000) - height).mean())


def test_a_sure_students_improvement_is_the_area_that_it_adds() -> None:
    """The front has (2, 0.6) and (4, 0.8); the reference is (6, 0.5). A student of cost 3 with 0.9 adds 0.3 from 3 to 4 and 0.1 from 4 to 6."""
    found = expected_improvement(
        [(2.0, 0.6), (4.0, 0.8)], np.array([3.0, 1.0, 5.0, 7.0]), np.array([0.9, 0.55, 0.7, 0.9]), np.zeros(4), 0.5, 6.0
    )
    assert found == pytest.approx([1 * 0.3 + 2 * 0.1, 1 * 0.05, 0.0, 0.0], abs=1e-6)


def test_an_unsure_students_improvement_is_its_expectation() -> None:
    points = [(2.0, 0.6), (3.0, 0.55), (4.0, 0.8)]  # the one in the middle is dominated
    found = expected_improvement(points, np.array([3.0]), np.array([0.7]), np.array([0.1]), 0.5, 6.0)
    assert found[0] == pytest.approx(1 * gain(0.7, 0.1, 0.6) + 2 * gain(0.7, 0.1, 0.8), rel=0.02)


def asked(rows: list[tuple[float, str, float]]) -> list[tuple[dict[str, Any], float, float]]:
    return [({"x": x, "kind": kind} if kind == "bag" else {"kind": kind}, 3.0, fraction) for x, kind, fraction in rows]


def test_the_surrogate_tells_options_apart_and_learns_nothing_of_a_hyperparameter_that_is_absent() -> None:
    places = np.linspace(0, 1, 9)
    known = asked([(x, "bag", 1.0) for x in places] + [(0.0, "net", 1.0)] * 3)
    model = Surrogate(1.1)
    model.learn(known, [*np.sin(3 * places), 5.0, 5.0, 5.0], KNOBS, len(known))
    mean, deviation = model.predict(asked([(0.55, "bag", 1.0), (0.0, "net", 1.0)]))
    assert mean[0] == pytest.approx(math.sin(1.65), abs=0.15)
    assert mean[1] == pytest.approx(5.0, abs=0.2)
    assert (deviation < 0.5).all()


def test_scores_on_the_way_teach_the_surrogate_how_trials_end() -> None:
    """At half of its budget a student has 0.2 less than at its end: one that was stopped at 0.6 would have had about 0.8."""
    places = np.linspace(0, 1, 8)
    rows = [(x, "bag", fraction) for x in places for fraction in (0.5, 1.0)] + [(0.45, "bag", 0.5)]
    model = Surrogate(1.1)
    model.learn(asked(rows), [0.6 + 0.4 * (fraction - 0.5) for _, _, fraction in rows], KNOBS, len(rows))
    assert model.predict(asked([(0.45, "bag", 1.0)]))[0][0] == pytest.approx(0.8, abs=0.04)


def test_the_surrogates_gradient_is_that_of_its_loss() -> None:
    model = Surrogate(1.1)
    rng = np.random.default_rng(0)
    known = asked([(float(x), "bag" if x < 0.7 else "net", 1.0) for x in rng.random(12)])
    model.learn(known, list(rng.normal(size=12)), KNOBS, 12)
    features = model._features(known)
    squares = np.stack([((features[:, None, group] - features[None, :, group]) ** 2).sum(-1) for group in ([0, 1], [2, 3, 4], [5], [6])])
    at = rng.normal(0.0, 0.3, 6)
    slopes = [(model._loss(at + step, squares)[0] - model._loss(at - step, squares)[0]) / 2e-5 for step in 1e-5 * np.eye(6)]
    assert model._loss(at, squares)[1] == pytest.approx(slopes, rel=1e-3, abs=1e-4)


# --- behind an Optuna study


def planted(draw: Draw) -> Draft:
    """Cost 3 to 6; a bag's training takes a second, a net's a hundred."""
    size, kind, lr = (
        draw.value(Knob("size", "real", 3.0, 6.0)),
        draw.value(KNOBS["kind"]),
        draw.value(Knob("lr", "real", 1e-4, 1e-1, log=True)),
    )
    return Draft({"size": size, "kind": kind, "lr": lr}, size, 1.0, str((size, kind, lr)))


def score(knobs: dict[str, Any]) -> float:
    return float(0.5 + 0.08 * (knobs["size"] - 3) - 0.1 * abs(math.log10(knobs["lr"]) + 2.5) + 0.01 * (knobs["kind"] == "net"))


def play(made: optuna.samplers.BaseSampler, trials: int) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    run = optuna.create_study(directions=["maximize", "minimize"], sampler=made)
    for _ in range(trials):
        trial = run.ask()
        knobs = {
            "size": trial.suggest_float("size", 3.0, 6.0),
            "kind": trial.suggest_categorical("kind", ("bag", "net")),
            "lr": trial.suggest_float("lr", 1e-4, 1e-1, log=True),
        }
        trial.set_user_attr(SECONDS, 1.0 if knobs["kind"] == "bag" else 100.0)
        run.tell(trial, [score(knobs), knobs["size"]])
    return run


def area(trials: list[FrozenTrial]) -> float:
    """Hypervolume to the reference (6, 0.3): what each adds to those before it."""
    points = [(trial.values[1], trial.values[0]) for trial in trials]
    added = [
        expected_improvement(points[:at], np.array([cost]), np.array([each]), np.zeros(1), 0.3, 6.0)[0]
        for at, (cost, each) in enumerate(points)
    ]
    return float(sum(added))


def test_it_finds_more_for_the_seconds_than_random_does() -> None:
    ours, other = (play(made, 40).trials for made in (ValueSampler(planted, seed=1), optuna.samplers.RandomSampler(seed=1)))
    spent = [sum(trial.user_attrs[SECONDS] for trial in trials) for trials in (ours, other)]
    assert spent[0] < 0.6 * spent[1]  # nets cost a hundred times as much and are a hundredth better
    assert area(ours) > area(other)


def test_its_proposals_repeat_and_none_is_made_twice() -> None:
    one, other = (play(ValueSampler(planted, seed=3), 20).trials for _ in range(2))
    assert [trial.params for trial in one] == [trial.params for trial in other]
    assert len({str(trial.params) for trial in one}) == 20


def test_prices_are_learnt_from_what_trials_took() -> None:
    made = ValueSampler(planted, seed=1)
    play(made, 30)
    bag, net = made.expected_seconds([Draft({"size": 4.0, "kind": kind, "lr": 1e-2}, 4.0, 1.0, kind) for kind in ("bag", "net")])
    assert bag == pytest.approx(1.0, rel=0.3)
    assert net == pytest.approx(100.0, rel=0.3)


def test_what_takes_longer_than_the_time_that_is_left_is_not_proposed() -> None:
    made = ValueSampler(planted, seed=1)
    run = play(made, 30)
    made.remaining = 20.0
    for _ in range(10):
        trial = run.ask()
        assert trial.suggest_categorical("kind", ("bag", "net")) == "bag"
        trial.suggest_float("size", 3.0, 6.0)
        trial.suggest_float("lr", 1e-4, 1e-1, log=True)


def test_where_most_students_have_the_best_score_the_others_still_count_as_worse() -> None:
    """Every student from a cost of 4 on has a score of 1: what the surrogate learns must not be that all are alike."""
    made = ValueSampler(planted, seed=0)
    run = optuna.create_study(directions=["maximize", "minimize"], sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(30):
        trial = run.ask()
        size = trial.suggest_float("size", 3.0, 6.0)
        trial.suggest_categorical("kind", ("bag", "net"))
        trial.suggest_float("lr", 1e-4, 1e-1, log=True)
        run.tell(trial, [min(1.0, 0.5 + 0.5 * (size - 3)), size])
    used = [each for trial in run.get_trials() if (each := made._see(trial)) is not None]
    made._improvement(used, 30, [each.draft for each in used])
    mean, _ = made._score.predict([({"size": size, "kind": "bag", "lr": 1e-2}, size, 1.0) for size in (3.1, 5.0)])
    assert mean[0] < 0.75
    assert mean[1] > 0.95


def test_without_a_parent_an_option_that_is_none_is_as_likely_as_any() -> None:
    draw = Near(np.random.default_rng(0), {}, 0.3, {})
    drawn = [draw.value(Knob("rank", "choice", options=(None, 8))) for _ in range(200)]
    assert 80 < drawn.count(None) < 120


def test_every_arm_is_tried_whatever_it_costs() -> None:
    trials = play(ValueSampler(planted, arms=("kind",), seed=0), 60).trials
    assert sum(trial.params["kind"] == "net" for trial in trials[STARTUP:]) >= 2


def test_a_running_trial_is_not_proposed_again_nor_its_like() -> None:
    """While one runs, its expected score stands for it: two at once are further apart than two of which the first is unknown would be."""
    run = play(ValueSampler(planted, seed=1), 20)
    sizes = []
    for _ in range(4):
        trial = run.ask()
        sizes.append(trial.suggest_float("size", 3.0, 6.0))
        trial.suggest_categorical("kind", ("bag", "net"))
        trial.suggest_float("lr", 1e-4, 1e-1, log=True)
        trial.set_user_attr(FRACTION, 0.25)
        trial.set_user_attr(SCORE, 0.5)
    assert len(set(sizes)) == 4


# --- behind a study of ours


def test_the_cheap_openings_come_first_of_the_dear_ones_a_strategys_cheapest_and_none_that_takes_a_tenth_of_the_time(
    tmp_path: Path,
) -> None:
    def price_of(candidate: Candidate) -> float:
        return {"states": 100.0}.get(candidate.spec.strategy, 1.0 + candidate.params / 1e6)

    for minutes, dear in ((None, 1), (20.0, 1), (15.0, 0)):
        with Ledger(tmp_path / str(minutes)) as ledger:
            made = sampler(ledger, study(minutes=minutes, trials=24), seconds=price_of)
            openings = made._study.get_trials(states=[optuna.trial.TrialState.WAITING])
            drawn = [each.system_attrs["fixed_params"]["strategy"] for each in openings]
            assert drawn.count("states") == dear
            assert "states" not in drawn[: len(drawn) - dear]
            assert 6 <= len(drawn) <= OPENINGS


def test_a_search_ends_when_no_trial_would_end_in_time(tmp_path: Path) -> None:
    left = [1000.0]
    with Ledger(tmp_path) as ledger:
        made = sampler(ledger, study(trials=400, minutes=30), seconds=lambda _: 5.0, remaining=lambda: left[0])
        for _ in range(10):
            proposal = made.ask()
            assert proposal is not None
            finish(ledger, made, proposal, start(ledger, proposal))
        left[0] = 1e-4
        assert made.ask() is None
        assert made.exhausted == "the 0:00 that are left are too short for another trial"


def test_it_is_what_auto_means_and_goes_on_from_a_ledger(tmp_path: Path) -> None:
    for _ in range(2):  # the second time from the ledger
        with Ledger(tmp_path) as ledger:
            made = sampler(ledger, study(trials=60))
            assert isinstance(made._main, ValueSampler)
            for _ in range(12):
                proposal = made.ask()
                assert proposal is not None
                finish(ledger, made, proposal, start(ledger, proposal))
    with Ledger(tmp_path) as ledger:
        complete = ledger.state.having(State.COMPLETE)
        made = sampler(ledger, study(trials=60))
        told = made._study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    assert len(complete) == 24
    assert all(SECONDS in trial.user_attrs for trial in told)


def test_it_learns_from_the_first_proposals_and_from_the_trials_of_earlier_sessions(tmp_path: Path) -> None:
    for known in (8, 20):
        with Ledger(tmp_path) as ledger:
            made = sampler(ledger, study(trials=60))
            for _ in range(12):
                proposal = made.ask()
                assert proposal is not None
                finish(ledger, made, proposal, start(ledger, proposal))
            main = made._main
            assert isinstance(main, ValueSampler)
            learnt = [each for trial in made._study.get_trials() if (each := main._see(trial)) is not None and each.done]
            assert len(learnt) == len(ledger.state.having(State.COMPLETE)) > known
            assert {each.draft.key for each in learnt} == ledger.state.by_hash.keys()


def test_of_a_trial_that_failed_after_a_good_start_nothing_is_learnt(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        made = sampler(ledger, study(trials=60))
        proposal = made.ask()
        assert proposal is not None
        number, attempt = start(ledger, proposal)
        ledger.rung(number, attempt, 0.5, 0.9, 1.0)
        made.hear(proposal.number, number)
        ledger.failed(number, attempt, "not_finite", "diverged")
        made.tell(proposal.number, number)
        main = made._main
        assert isinstance(main, ValueSampler)
        (seen,) = [each for trial in made._study.get_trials() if (each := main._see(trial)) is not None]
    assert seen.fraction == 0.0
    assert math.isnan(seen.score)


def test_a_returned_trial_keeps_what_was_expected_of_it(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        made = sampler(ledger, study(trials=60), seconds=lambda _: 7.0)
        first = made.ask()
        assert first is not None
        number, attempt = start(ledger, first)
        ledger.returned(number, attempt, "lost")
        made.tell(first.number, number)
        again = made.ask()
        assert again is not None
        assert again.trial == number
        start(ledger, again)
        record = ledger.state.trials[number]
    assert record.attempts == 2
    assert record.expected == first.seconds == 7.0


def test_it_proposes_nothing_that_breaks_a_limit_on_another_cost(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        made = sampler(ledger, study(trials=200, limits={"bytes": 4 * 600}))
        run = []
        for _ in range(30):
            proposal = made.ask()
            assert proposal is not None
            finish(ledger, made, proposal, start(ledger, proposal))
            run.append(proposal)
        assert len(ledger.state.refused) <= OPENINGS
    assert all(each.bytes <= 4 * 600 for each in run)


# --- prices before training


def workload(**changes: Any) -> Workload:
    facts = {"teacher": TEACHER, "labelled": 1000, "unlabelled": 4000, "augmented": 0, "tokens": 20.0, "length": 40, "cached": frozenset()}
    return Workload(**{**facts, **changes})


def test_a_trials_price_grows_with_its_rows_and_its_size() -> None:
    space = Candidates(study(families=["block"], strategies=["hard"]), PLUGINS, TEACHER)
    rng = np.random.default_rng(0)
    drawn = [each for _ in range(20) if isinstance(each := space.draw(RandomDraw(rng)), Candidate)]
    by_size = sorted(drawn, key=lambda each: (each.info.layers, each.params))
    prices = [seconds(each, workload()) for each in by_size]
    assert prices == sorted(prices)
    assert seconds(by_size[0], workload(labelled=2000)) > 1.5 * prices[0] - 0.5
    assert workload().rows(by_size[0]) == 1000  # no share of the unlabelled text without a teacher


def test_joint_training_pays_for_the_copys_tuned_layers_on_labelled_rows_and_for_those_below_where_nothing_is_cached() -> None:
    """Two tuned layers of four, forth and back, are 3 * 2 / 4 of a pass; the two below them 2 / 4 more."""
    teacher = replace(TEACHER, hidden=768, intermediate=3072, provides=frozenset(Signal))
    space = Candidates(
        study({"joint.teacher_layers": 2}, ["transformer"], ["joint"]), registry.load(["transformer"], ["joint"], []), teacher
    )
    candidate = space.fitting("transformer", "joint")
    assert isinstance(candidate, Candidate)
    cached, live = (seconds(candidate, workload(teacher=teacher, cached=kept)) for kept in ({Need(Signal.HIDDEN, 2)}, frozenset()))
    one_pass = 1000 * candidate.spec.epochs * workload(teacher=teacher).teacher_flops / TEACHER_FLOPS
    assert live - cached == pytest.approx(one_pass * 2 / 4)
    assert cached > one_pass * 3 * 2 / 4


def test_of_many_trials_it_learns_from_a_bounded_part_that_holds_the_front_and_the_last() -> None:
    made = ValueSampler(planted, seed=0)
    run = play(optuna.samplers.RandomSampler(seed=0), 3 * ROWS)
    seen = [each for trial in run.get_trials() if (each := made._see(trial)) is not None]
    used = made._used(seen)
    assert len(used) == ROWS
    points = [(each.draft.cost, each.score) for each in seen]
    best = [(cost, score) for cost, score in points if not any(other[0] <= cost and other[1] > score for other in points)]
    assert set(best) <= {(each.draft.cost, each.score) for each in used}
    assert {each.draft.key for each in seen[-ROWS // 4 :]} <= {each.draft.key for each in used}


def test_each_strategy_opens_once_even_in_a_small_study(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        made = sampler(ledger, study(trials=4))
        openings = made._study.get_trials(states=[optuna.trial.TrialState.WAITING])
    assert {each.system_attrs["fixed_params"]["strategy"] for each in openings} == {"hard", "soft", "states"}
