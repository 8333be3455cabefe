from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from test_sampler import PLUGINS, TEACHER, price, study

from kdsearch.hpo.early_stopping import ETA, Rungs
from kdsearch.hpo.sampler import Sampler
from kdsearch.hpo.study_run import StudyRun
from kdsearch.io.files import read_log
from kdsearch.results.folder import StudyFolder
from kdsearch.results.front import Point, hypervolume, pareto
from kdsearch.results.ledger import Ledger
from kdsearch.results.record import Rung, State, StudyState, TrialRecord, replay
from kdsearch.space.spec import RUNGS
from kdsearch.student.trial import TrialResult
from kdsearch.tasks.metrics import standard_error
from kdsearch.testing import load_one


def margin(_: float) -> float:
    return 0.02


class Seen:
    """Trials that run, as a ledger has them."""

    def __init__(self, rungs: Rungs | None = None) -> None:
        self.rungs, self.state = rungs or Rungs(margin, "params"), StudyState()

    def record(self, trial: int, size: float, share: float, score: float, family: str = "", strategy: str = "") -> None:
        spec = {"family": family, "strategy": strategy}
        fresh = TrialRecord(trial, str(trial), spec, {}, size, 0, 0)  # type: ignore[arg-type]  # a size that is no whole number
        self.state.trials.setdefault(trial, fresh).rungs.append(Rung(share, score, 0.0))

    def verdict(self, trial: int) -> bool:
        return self.rungs.verdict(self.state, trial)


def rungs(scores: Iterable[tuple[int, float, float]], share: float = 0.25) -> Seen:
    made = Seen()
    for trial, size, score in scores:
        made.record(trial, size, share, score)
    return made


def test_a_student_stops_when_a_third_of_the_smaller_ones_are_ahead_by_more_than_noise() -> None:
    # m = 3 smaller ones, so one ahead is enough: 0.63 >= 0.60 + 0.02
    assert rungs([(0, 1, 0.5), (1, 2, 0.5), (2, 3, 0.63), (9, 4, 0.60)]).verdict(9)
    assert not rungs([(0, 1, 0.5), (1, 2, 0.5), (2, 3, 0.61), (9, 4, 0.60)]).verdict(9)
    # m = 4, so two must be ahead
    assert not rungs([(0, 1, 0.5), (1, 2, 0.5), (2, 3, 0.7), (3, 3, 0.5), (9, 4, 0.6)]).verdict(9)
    assert rungs([(0, 1, 0.5), (1, 2, 0.5), (2, 3, 0.7), (3, 3, 0.7), (9, 4, 0.6)]).verdict(9)


def test_a_lead_of_exactly_the_margin_is_one() -> None:
    made = Seen(Rungs(lambda _: 0.125, "params"))
    for trial, score in enumerate((0.25, 0.25, 0.75, 0.625)):
        made.record(trial, trial, 0.25, score)
    assert made.verdict(3)


def test_larger_students_never_stop_a_smaller_one_but_equal_ones_do() -> None:
    larger = [(trial, 100.0, 0.9) for trial in range(10)]
    assert not rungs([*larger, (99, 50.0, 0.5)]).verdict(99)
    assert rungs([*larger, (99, 100.0, 0.5)]).verdict(99)


def test_few_competitors_stop_nobody() -> None:
    better = [(trial, 1.0, 0.9) for trial in range(ETA)]
    assert rungs([*better, (9, 2, 0.5)]).verdict(9)
    assert not rungs([*better[1:], (9, 2, 0.5)]).verdict(9)
    assert not rungs([(9, 2, 0.5)]).verdict(9)


def test_nobody_stops_at_the_end_or_between_rungs() -> None:
    better = [(trial, 1.0, 0.9) for trial in range(5)]
    made, stopped = Seen(), []
    for share in (0.1, 0.25, 0.3, 1.0):
        for trial, size, score in better:
            made.record(trial, size, share, score)
        made.record(9, 2, share, 0.5)
        stopped.append(made.verdict(9))
    assert stopped == [False, True, False, False]


def test_a_share_counted_in_examples_finds_its_rung() -> None:
    made = Seen()
    for trial in range(3):
        made.record(trial, 1, 0.25000001, 0.9)
    made.record(9, 2, 0.2512, 0.5)  # the first batch past the rung
    assert made.verdict(9)


def test_each_rung_is_a_comparison_of_its_own() -> None:
    made = rungs([(trial, 1.0, 0.9) for trial in range(3)], share=0.5)
    made.record(9, 2, 0.25, 0.5)
    assert not made.verdict(9)
    made.record(9, 2, 0.5, 0.5)
    assert made.verdict(9)


def test_a_restarted_trial_replaces_its_own_score_and_never_meets_itself() -> None:
    made = rungs([(0, 1, 0.5), (1, 1, 0.5), (9, 2, 0.9)])
    made.state.trials[9].rungs.clear()  # it begins again
    made.record(9, 2, 0.25, 0.5)
    assert not made.verdict(9)
    made.record(2, 3, 0.25, 0.6)  # 9 has 0.5 now: nobody is ahead
    assert not made.verdict(2)


def test_nan_is_the_worst_score_and_beats_nobody() -> None:
    assert rungs([(0, 1, 0.5), (1, 1, 0.5), (2, 1, 0.5), (9, 2, math.nan)]).verdict(9)
    assert not rungs([(0, 1, math.nan), (1, 1, math.nan), (2, 1, math.nan), (9, 2, 0.1)]).verdict(9)
    assert not rungs([(trial, 1, math.nan) for trial in range(5)]).verdict(4)


@pytest.mark.parametrize("state", [State.FAILED, State.RETURNED])
def test_a_trial_that_failed_or_was_returned_stops_nobody(state: State) -> None:
    made = rungs([(0, 1, 0.5), (1, 1, 0.5), (2, 1, 0.9), (3, 1, 0.5), (4, 1, 0.9), (9, 2, 0.6)])
    assert made.verdict(9)  # two of five are ahead: ceil(5 / 3)
    made.state.trials[2].state = state
    assert not made.verdict(9)  # one of four


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


def search(students: list[Planted], rungs: Rungs, rng: np.random.Generator, rows: float = math.inf) -> tuple[set[int], float, set[int]]:
    """Train them in turn. Returns who was stopped, the share of the budget (examples times size) saved, and who ran to the end."""
    made, stopped, spent, measured = Seen(rungs), set(), 0.0, set()
    for trial, student in enumerate(students):

        def seen(share: float, student: Planted = student) -> float:
            true = student.score(share)
            return true if math.isinf(rows) else rng.binomial(int(rows), true) / rows

        for share in RUNGS:
            made.record(trial, student.size, share, seen(share))
            if made.verdict(trial):
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
        stopped, saved, _ = search(students, Rungs(lambda _: 1e-9, "params"), rng)
        savings.append(saved)
        assert stopped
        assert not stopped & {point.trial for point in front_of(students, range(len(students)))}
    assert np.mean(savings) > 0.3


def test_with_noise_and_slow_large_students_a_third_is_saved_and_the_front_stays() -> None:
    lost, savings = [], []
    for seed in range(20):
        rng = np.random.default_rng(100 + seed)
        students = plant(rng, 80, pace=0.1)
        stopped, saved, measured = search(students, Rungs(partial(standard_error, "accuracy", rows=1250), "params"), rng, rows=1250)
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
    made = Seen()
    for trial in range(ETA):
        made.record(trial, 10, 0.25, 0.9, "quick")
    made.record(8, 20, 0.25, 0.5, "slow")
    made.record(9, 20, 0.25, 0.5, "quick")
    assert not made.verdict(8)
    assert made.verdict(9)


def test_a_staged_strategy_is_compared_with_itself_alone() -> None:
    made = Seen(Rungs(margin, "params", ["two_stage"]))
    for trial in range(ETA):
        made.record(trial, 10, 0.25, 0.9, "slow", "logit")
        made.record(ETA + trial, 10, 0.25, 0.5, "slow", "two_stage")  # still learn states
    assert not made.verdict(ETA)
    for trial, family, strategy in ((6, "slow", "two_stage"), (7, "quick", "two_stage"), (8, "slow", "feature")):
        made.record(trial, 10, 0.25, 0.4, family, strategy)
    assert made.verdict(6)
    assert not made.verdict(7)
    assert made.verdict(8)  # not staged: one group with the logits


def test_a_student_that_is_no_better_than_the_simplest_guess_at_half_of_its_budget_is_stopped() -> None:
    """The guess has 0.5 and the noise is 0.02; a quarter of the budget is too early to tell, and a staged strategy learns to answer last."""
    seen = Seen(Rungs(margin, "params", ["slow"], floor=0.5))
    for trial, share, score, strategy in (
        (0, 0.25, 0.5, ""),
        (1, 0.5, 0.52, ""),
        (2, 0.5, 0.53, ""),
        (3, 0.5, 0.5, "slow"),
        (4, 0.75, math.nan, ""),
    ):
        seen.record(trial, 10.0, share, score, strategy=strategy)
    assert [seen.verdict(trial) for trial in range(5)] == [False, True, False, False, True]


def test_the_built_in_strategy_in_stages_says_so() -> None:
    assert load_one("two_stage").staged  # type: ignore[union-attr]
    assert not load_one("annealed").staged  # type: ignore[union-attr]


def test_a_run_stops_by_the_last_attempts_of_those_that_count_and_a_resumed_one_does_as_well(tmp_path: Path) -> None:
    config = study(families=["bag"], strategies=["hard"], knobs={"bag.width": 2})
    rungs = Rungs(margin, "params")

    def report(key: str, score: float) -> bool:
        return run.reported(key, {"share": 0.25, "score": score, "trial_seconds": 1.0})

    with Ledger(tmp_path) as ledger:
        ledger.begin()
        sampler = Sampler(config, PLUGINS, TEACHER, ledger, price)
        run = StudyRun(config, StudyFolder(tmp_path), {}, ledger, sampler, rungs, places=lambda: 9, changed=lambda *_: None)
        for key in "abcde":  # five of one size
            assert run.next_trial(key)
        assert [report(key, 0.9) for key in "abc"] == [False] * 3
        run.ended("b", None)  # lost, and starts again
        run.ended("c", TrialResult("failed", "memory", "none left"))
        assert not report("d", 0.5)  # a is its one rival
        again = run.next_trial("b")
        assert again
        assert (again["trial"], again["attempt"]) == (1, 2)
        assert not report("b", 0.55)
        # Of a with 0.9, b with 0.55 and d with 0.5, one is ahead of 0.8 by more than 0.02: ceil(3 / 3) is enough.
        assert report("e", 0.8)
        assert ledger.state.trials[4].state is State.STOPPED
        run.ended("e", None)  # its process is gone too, which is no news
        assert ledger.state.trials[4].attempts == 1
    assert rungs.verdict(replay(read_log(tmp_path / "ledger.jsonl")), 4)  # the same from the file alone
