from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from test_sampler import PLUGINS, TEACHER, price, study

from kdsearch.hpo.early_stopping import ETA, Rungs
from kdsearch.hpo.sampler import Sampler
from kdsearch.hpo.study_run import StudyRun
from kdsearch.results.front import Point, hypervolume, pareto
from kdsearch.results.ledger import Ledger
from kdsearch.results.record import replay
from kdsearch.space.spec import RUNGS
from kdsearch.student.trial import TrialResult
from kdsearch.tasks.metrics import standard_error
from kdsearch.testing import load_one


def margin(_: float) -> float:
    return 0.02


def rungs(scores: Iterable[tuple[int, float, float]], share: float = 0.25) -> Rungs:
    made = Rungs(margin)
    for trial, size, score in scores:
        made.record(trial, size, share, score)
    return made


def test_a_student_stops_when_a_third_of_the_smaller_ones_are_ahead_by_more_than_noise() -> None:
    # m = 3 smaller ones, so one ahead is enough: 0.63 >= 0.60 + 0.02
    assert rungs([(0, 1, 0.5), (1, 2, 0.5), (2, 3, 0.63), (9, 4, 0.60)]).verdict(9, 0.25)
    assert not rungs([(0, 1, 0.5), (1, 2, 0.5), (2, 3, 0.61), (9, 4, 0.60)]).verdict(9, 0.25)
    # m = 4, so two must be ahead
    assert not rungs([(0, 1, 0.5), (1, 2, 0.5), (2, 3, 0.7), (3, 3, 0.5), (9, 4, 0.6)]).verdict(9, 0.25)
    assert rungs([(0, 1, 0.5), (1, 2, 0.5), (2, 3, 0.7), (3, 3, 0.7), (9, 4, 0.6)]).verdict(9, 0.25)


def test_a_lead_of_exactly_the_margin_is_one() -> None:
    made = Rungs(lambda _: 0.125)
    for trial, score in enumerate((0.25, 0.25, 0.75, 0.625)):
        made.record(trial, trial, 0.25, score)
    assert made.verdict(3, 0.25)


def test_larger_students_never_stop_a_smaller_one_but_equal_ones_do() -> None:
    larger = [(trial, 100.0, 0.9) for trial in range(10)]
    assert not rungs([*larger, (99, 50.0, 0.5)]).verdict(99, 0.25)
    assert rungs([*larger, (99, 100.0, 0.5)]).verdict(99, 0.25)


def test_few_competitors_stop_nobody() -> None:
    better = [(trial, 1.0, 0.9) for trial in range(ETA)]
    assert rungs([*better, (9, 2, 0.5)]).verdict(9, 0.25)
    assert not rungs([*better[1:], (9, 2, 0.5)]).verdict(9, 0.25)
    assert not rungs([(9, 2, 0.5)]).verdict(9, 0.25)


def test_nobody_stops_at_the_end_or_between_rungs() -> None:
    better = [(trial, 1.0, 0.9) for trial in range(5)]
    made = Rungs(margin)
    for share in (0.1, 0.25, 0.3, 1.0):
        for trial, size, score in better:
            made.record(trial, size, share, score)
        made.record(9, 2, share, 0.5)
    assert [made.verdict(9, share) for share in (0.1, 0.25, 0.3, 0.5, 1.0)] == [False, True, False, False, False]
    assert not made.verdict(77, 0.25)


def test_a_share_counted_in_examples_finds_its_rung() -> None:
    made = Rungs(margin)
    for trial in range(3):
        made.record(trial, 1, 0.25000001, 0.9)
    made.record(9, 2, 0.2512, 0.5)  # the first batch past the rung
    assert made.verdict(9, 0.2512)


def test_each_rung_is_a_comparison_of_its_own() -> None:
    made = rungs([(trial, 1.0, 0.9) for trial in range(3)], share=0.5)
    made.record(9, 2, 0.25, 0.5)
    assert not made.verdict(9, 0.25)
    made.record(9, 2, 0.5, 0.5)
    assert made.verdict(9, 0.5)


def test_a_restarted_trial_replaces_its_own_score_and_never_meets_itself() -> None:
    made = rungs([(0, 1, 0.5), (1, 1, 0.5), (9, 2, 0.9)])
    made.record(9, 2, 0.25, 0.5)
    assert not made.verdict(9, 0.25)
    made.record(2, 3, 0.25, 0.6)  # 9 has 0.5 now: nobody is ahead
    assert not made.verdict(2, 0.25)


def test_nan_is_the_worst_score_and_beats_nobody() -> None:
    assert rungs([(0, 1, 0.5), (1, 1, 0.5), (2, 1, 0.5), (9, 2, math.nan)]).verdict(9, 0.25)
    assert not rungs([(0, 1, math.nan), (1, 1, math.nan), (2, 1, math.nan), (9, 2, 0.1)]).verdict(9, 0.25)
    assert not rungs([(trial, 1, math.nan) for trial in range(5)]).verdict(4, 0.25)


def test_a_failed_trial_stops_nobody() -> None:
    made = rungs([(0, 1, 0.5), (1, 1, 0.5), (2, 1, 0.9), (3, 1, 0.5), (4, 1, 0.9), (9, 2, 0.6)])
    assert made.verdict(9, 0.25)  # two of five are ahead: ceil(5 / 3)
    made.forget(2)
    assert not made.verdict(9, 0.25)  # one of four


def test_the_ledger_gives_back_every_score_of_the_last_attempt() -> None:
    costs = {"params": 1, "bytes": 4, "flops": 2}
    records: list[dict[str, object]] = [{"event": "study", "version": 1}]
    for trial, score in enumerate((0.9, 0.9, 0.9, 0.9)):
        records.append({"event": "started", "trial": trial, "attempt": 1, "spec": {}, "hash": str(trial), "knobs": {}, **costs})
        records.append({"event": "rung", "trial": trial, "attempt": 1, "share": 0.25, "score": score, "seconds": 1.0})
    records.append({"event": "failed", "trial": 3, "attempt": 1, "cause": "memory", "message": ""})
    records.append({"event": "returned", "trial": 2, "attempt": 1, "reason": "interrupted"})
    made = Rungs(margin)
    made.rebuild(replay(records), dict.fromkeys(range(4), 1.0))
    made.record(9, 2, 0.25, 0.5)
    assert not made.verdict(9, 0.25)  # two competitors: the failed one is none, and the returned one is yet to be scored
    made.record(10, 1, 0.25, 0.9)
    assert made.verdict(9, 0.25)


@dataclass(frozen=True)
class Planted:
    """A student whose learning curve is known: score(share) = 0.5 + (final - 0.5) * (1 - exp(-share / pace)) / (1 - exp(-1 / pace))."""

    size: float
    final: float
    pace: float = 0.3

    def score(self, share: float) -> float:
        return 0.5 + (self.final - 0.5) * (1 - math.exp(-share / self.pace)) / (1 - math.exp(-1 / self.pace))


def plant(rng: np.random.Generator, count: int, pace: float = 0.0) -> list[Planted]:
    """Ten times the size is worth 4 points, bad knobs cost up to 25; with a pace, large ones also learn more slowly."""
    size = 10 ** rng.uniform(4.5, 7.0, count)
    final = 0.7 + 0.04 * (np.log10(size) - 4.5) - 0.25 * rng.beta(1, 2, count)
    slow = 0.3 + pace * (np.log10(size) - 4.5)
    return [Planted(*map(float, values)) for values in zip(size, final, slow, strict=True)]


def search(students: list[Planted], made: Rungs, rng: np.random.Generator, rows: float = math.inf) -> tuple[set[int], float, set[int]]:
    """Train them in turn. Returns who was stopped, the share of the budget (examples times size) saved, and who ran to the end."""
    stopped, spent, measured = set(), 0.0, set()
    for trial, student in enumerate(students):

        def seen(share: float, student: Planted = student) -> float:
            true = student.score(share)
            return true if math.isinf(rows) else rng.binomial(int(rows), true) / rows

        for share in RUNGS:
            made.record(trial, student.size, share, seen(share))
            if made.verdict(trial, share):
                stopped.add(trial)
                spent += share * student.size
                break
        else:
            measured.add(trial)
            spent += student.size
    return stopped, 1 - spent / sum(student.size for student in students), measured


def front_of(students: list[Planted], among: Iterable[int]) -> list[Point]:
    return pareto(Point(trial, students[trial].final, students[trial].size) for trial in among)


def test_without_noise_and_crossings_no_member_of_the_final_front_is_ever_stopped() -> None:
    savings = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        students = plant(rng, 80)
        stopped, saved, _ = search(students, Rungs(lambda _: 1e-9), rng)
        savings.append(saved)
        assert stopped
        assert not stopped & {point.trial for point in front_of(students, range(len(students)))}
    assert np.mean(savings) > 0.3


def test_with_noise_and_slow_large_students_a_third_is_saved_and_the_front_stays() -> None:
    lost, savings = [], []
    for seed in range(20):
        rng = np.random.default_rng(100 + seed)
        students = plant(rng, 80, pace=0.1)
        stopped, saved, measured = search(students, Rungs(partial(standard_error, "accuracy", rows=1250)), rng, rows=1250)
        whole = hypervolume((student.size, student.final) for student in students)
        kept = hypervolume((students[trial].size, students[trial].final) for trial in measured)
        assert set(measured) | stopped == set(range(80))
        lost.append(1 - kept / whole)
        savings.append(saved)
    # 0.38 of the budget saved, 0.0005 of the hypervolume lost, 0.0034 at worst
    assert np.mean(savings) > 1 / 3
    assert np.mean(lost) < 0.002
    assert max(lost) < 0.01


def test_students_of_another_family_are_not_compared() -> None:
    made = Rungs(margin)
    for trial in range(ETA):
        made.record(trial, 10, 0.25, 0.9, "quick")
    made.record(8, 20, 0.25, 0.5, "slow")
    made.record(9, 20, 0.25, 0.5, "quick")
    assert not made.verdict(8, 0.25)
    assert made.verdict(9, 0.25)


def test_a_staged_strategy_is_compared_with_itself_alone() -> None:
    made = Rungs(margin, ["two_stage"])
    for trial in range(ETA):
        made.record(trial, 10, 0.25, 0.9, "slow", "logit")
        made.record(ETA + trial, 10, 0.25, 0.5, "slow", "two_stage")  # still learn states
    assert not made.verdict(ETA, 0.25)
    for trial, family, strategy in ((6, "slow", "two_stage"), (7, "quick", "two_stage"), (8, "slow", "feature")):
        made.record(trial, 10, 0.25, 0.4, family, strategy)
    assert made.verdict(6, 0.25)
    assert not made.verdict(7, 0.25)
    assert made.verdict(8, 0.25)  # not staged: one group with the logits


def test_the_built_in_strategy_in_stages_says_so() -> None:
    assert load_one("two_stage").staged  # type: ignore[union-attr]
    assert not load_one("annealed").staged  # type: ignore[union-attr]


def test_a_resumed_study_has_the_rungs_of_the_run_before_it(tmp_path: Path) -> None:
    # Four trials: one stays alive, one is lost and returned, one fails, one is lost and runs again up to its first rung.
    def rungs_of(study_run: StudyRun) -> Rungs:
        assert study_run.rungs is not None
        return study_run.rungs

    def made() -> Rungs:
        return Rungs(margin, ["soft"])

    config = study(families=["block"], strategies=["hard", "soft"])
    with Ledger(tmp_path) as ledger:
        ledger.begin()
        sampler = Sampler(config, PLUGINS, TEACHER, ledger, price)
        live = StudyRun(config, tmp_path, {}, ledger, sampler, made(), places=lambda: 9, changed=lambda *_: None)
        for key, score in (("a", 0.5), ("b", 0.6), ("c", 0.7)):
            assert live.next_trial(key)
            for share in (0.25, 0.5):
                live.reported(key, {"share": share, "score": score, "trial_seconds": 1.0})
        live.ended("b", None)
        live.ended("c", TrialResult("failed", "memory", "none left"))
        again = live.next_trial("b")
        assert again
        assert (again["trial"], again["attempt"]) == (1, 2)
        live.reported("b", {"share": 0.25, "score": 0.65, "trial_seconds": 1.0})
        rebuilt = made()
        rebuilt.rebuild(ledger.state, {number: trial.params for number, trial in ledger.state.trials.items()})
        assert rebuilt._rungs == rungs_of(live)._rungs
        assert [sorted(rung) for rung in rebuilt._rungs] == [[0, 1], [0], []]
        assert {scored.group for scored in rebuilt._rungs[0].values()} == {("block", ""), ("block", "soft")}
        live.ended("b", None)
        rebuilt = made()
        rebuilt.rebuild(ledger.state, {number: trial.params for number, trial in ledger.state.trials.items()})
        assert rebuilt._rungs == rungs_of(live)._rungs
        assert [sorted(rung) for rung in rebuilt._rungs] == [[0], [0], []]
