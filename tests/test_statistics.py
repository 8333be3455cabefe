"""What is claimed from a few rows and seeds, held against simulated studies whose truth is known."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score, matthews_corrcoef

from kdsearch import tasks
from kdsearch.evaluation import statistics
from kdsearch.results.record import State, StudyState, TrialRecord
from kdsearch.study import finalists

ACCURACY = 0.8
OBJECTIVES = ("accuracy", "params")


def answers(rng: np.random.Generator, accuracies: np.ndarray, seeds: int, rows: int) -> np.ndarray:
    """(M, K, N) 0 where right, 1 where wrong, of M recipes with K seeds: rows are easy or hard for all (0.7 of a latent normal's variance),
    for a recipe (0.1) and for a seed (0.2), which makes two recipes as alike as students of the quickstart study are (0.5)."""
    shape = accuracies.shape if accuracies.ndim == 2 else (len(accuracies), 1)
    difficulty = rng.normal(size=(1, 1, rows)) * np.sqrt(0.7) + rng.normal(size=(shape[0], 1, rows)) * np.sqrt(0.1)
    latent = difficulty + rng.normal(size=(shape[0], seeds, rows)) * np.sqrt(0.2)
    return (latent > stats.norm.ppf(accuracies.reshape(*shape, 1))).astype(np.int64)


def resampled(metric: str, said: np.ndarray, labels: np.ndarray, **options: int) -> np.ndarray:
    """Of answers (M, N): class numbers."""
    return statistics.resampled("classification", metric, np.eye(5)[np.atleast_2d(said)], labels, **options)


def spreads(said: np.ndarray, labels: np.ndarray, draws: int = 1000) -> tuple[list[np.ndarray], list[statistics.Spread]]:
    """Draws (D, K) and the spread over seeds of each recipe; said (M, K, N)."""
    recipes, seeds, rows = said.shape
    every = resampled("accuracy", said.reshape(-1, rows), labels, draws=draws).reshape(-1, recipes, seeds)
    split = [every[:, place] for place in range(recipes)]
    return split, statistics.spreads(list((said == labels).mean(-1)), split)


def drawn_means(said: np.ndarray, labels: np.ndarray, rng: np.random.Generator, draws: int = 1000) -> list[np.ndarray]:
    """Draws of each recipe's mean over seeds; said (M, K, N)."""
    split, known = spreads(said, labels, draws)
    return [statistics.over_seeds(each, spread, rng) for each, spread in zip(split, known, strict=True)]


def test_wilson_is_scipys() -> None:
    for right, rows in [(0, 10), (10, 10), (7, 10), (1031, 1250)]:
        theirs = stats.binomtest(right, rows).proportion_ci(method="wilson")
        assert statistics.wilson(right / rows, rows) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    # by hand: 50 of 100, z = 1.96: 0.5 +- 1.96 / 1.0384 * sqrt(0.0025 + 0.000096)
    assert statistics.wilson(0.5, 100, 1.96) == pytest.approx((0.40383, 0.59617), abs=1e-5)


def test_one_seed_has_wilsons_interval_and_seeds_that_agree_have_it_too() -> None:
    right = np.arange(200) < 150
    assert statistics.accuracy_interval(right[None]) == statistics.wilson(0.75, 200)
    assert statistics.accuracy_interval(np.stack([right, right, right])) == pytest.approx(statistics.wilson(0.75, 200), abs=1e-3)


def test_seeds_that_differ_widen_the_interval() -> None:
    apart = np.stack([np.arange(1000) < count for count in (700, 800, 900)])
    said, labels = (~apart).astype(np.int64), np.zeros(1000, np.int64)
    (spread,) = statistics.spreads([apart.mean(1)], [resampled("accuracy", said, labels)])
    assert (spread.total, spread.freedom) == (pytest.approx(0.01), 2)  # 0.7, 0.8, 0.9: a variance of 0.01
    low, high = statistics.accuracy_interval(apart, spread)
    # Student's quantile of 2 degrees of freedom is 4.3, and 0.1 / sqrt(3) is 0.058: about a quarter to either side
    assert low < 0.58
    assert high > 0.92


def test_recipes_share_what_they_know_of_seeds_and_unstable_ones_stand_alone() -> None:
    rng = np.random.default_rng(0)
    unstable = [np.array([0.5, 0.8, 0.9]), np.array([0.55, 0.8, 0.9])]
    observed = [*unstable, *[np.array([0.79, 0.80, 0.81])] * 4, np.array([0.8])]
    drawn = [np.repeat(rng.normal(0.8, 0.01, (500, 1)), len(each), axis=1) for each in observed]  # rows move all seeds alike
    found = statistics.spreads(observed, drawn)
    assert [each.freedom for each in found] == [2, 2, 8, 8, 8, 8, 8]
    assert [each.variance for each in found] == pytest.approx([*(np.var(each, ddof=1) for each in unstable), *[0.0001] * 5])
    assert found[6] == found[2]  # one seed: as the others
    assert statistics.spreads([np.array([0.8])], drawn[6:]) == [statistics.NO_SEEDS]
    # what rows explain is no spread of seeds
    apart = [rng.normal(0.8, 0.01, (500, 3))]
    assert statistics.spreads([np.array([0.79, 0.80, 0.81])], apart)[0].variance == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "mcc"])
def test_a_resampled_metric_is_scikit_learns_on_the_same_rows(metric: str) -> None:
    rng = np.random.default_rng(0)
    labels, said = rng.integers(0, 3, 40), rng.integers(0, 4, (2, 40))
    compute = {
        "accuracy": lambda one, other: float((one == other).mean()),
        "macro_f1": lambda one, other: f1_score(one, other, average="macro", zero_division=0.0),
        "mcc": matthews_corrcoef,
    }[metric]
    found = resampled(metric, said, labels, draws=5, seed=1)
    counts = statistics._block(40, 5, 1, 0).astype(int)
    for draw, count in enumerate(counts):
        rows = np.repeat(np.arange(40), count)
        for model in range(2):
            assert found[draw, model] == pytest.approx(compute(labels[rows], said[model][rows]), abs=1e-6)


@pytest.mark.parametrize("metric", ["pearson", "spearman"])
def test_a_resampled_correlation_is_scipys_on_the_same_rows(metric: str) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, 50) / 2  # with ties
    said = np.stack([labels + rng.normal(size=50), np.round(rng.normal(size=50)), np.full(50, 2.0)])
    found = statistics.resampled("regression", metric, said[..., None], labels.astype(np.float32), draws=4, seed=2)
    for draw, count in enumerate(statistics._block(50, 4, 2, 0).astype(int)):
        rows = np.repeat(np.arange(50), count)
        theirs = [tasks.of("regression").scores(said[model][rows, None], labels[rows])[metric] for model in range(3)]
        assert found[draw] == pytest.approx(theirs, abs=1e-9)


def test_draws_come_in_blocks_and_are_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.zeros(100, np.int64)
    said = (np.arange(100) < 20).astype(np.int64)
    whole = resampled("accuracy", said, labels, draws=300)
    assert whole.shape == (300, 1)
    assert whole.std() == pytest.approx(0.04, rel=0.1)  # sqrt(0.8 * 0.2 / 100)
    assert np.array_equal(whole, resampled("accuracy", said, labels, draws=300))
    monkeypatch.setattr(statistics, "_CELLS", 1000)  # ten draws at a time
    assert resampled("accuracy", said, labels, draws=295).shape == (295, 1)


@pytest.mark.parametrize("spread", [0.0, 0.5, 1.0, 2.0])
def test_accuracy_intervals_cover_in_93_to_97_percent(spread: float) -> None:
    """spread: of the seeds' true accuracies, in standard errors of the rows."""
    rng, rows, seeds, recipes, studies = np.random.default_rng(5), 400, 3, 4, 500
    deviation = spread * np.sqrt(ACCURACY * (1 - ACCURACY) / rows)
    labels, covered = np.zeros(rows, np.int64), 0
    for _ in range(studies):
        said = answers(rng, np.clip(ACCURACY + deviation * rng.normal(size=(recipes, seeds)), 0.01, 0.99), seeds, rows)
        for each, known in zip(said, spreads(said, labels)[1], strict=True):
            low, high = statistics.accuracy_interval(each == 0, known)
            covered += low <= ACCURACY <= high
    assert 0.93 <= covered / (studies * recipes) <= 0.97


@pytest.mark.parametrize("spread", [0.0, 0.5, 1.5])
def test_intervals_of_a_difference_cover_in_93_to_97_percent(spread: float) -> None:
    rng, rows, seeds, studies = np.random.default_rng(6), 400, 3, 1000
    deviation = spread * np.sqrt(ACCURACY * (1 - ACCURACY) / rows)
    labels, covered = np.zeros(rows, np.int64), 0
    for _ in range(studies):
        true = np.array([[0.81], [0.79], [0.80], [0.80]]) + deviation * rng.normal(size=(4, seeds))
        one, other, *_ = drawn_means(answers(rng, true, seeds, rows), labels, rng)
        low, high = statistics.interval(one - other)
        covered += low <= 0.02 <= high
    assert 0.93 <= covered / studies <= 0.97


def test_the_recovered_gaps_interval_covers_in_93_to_97_percent() -> None:
    """A student at 0.80, its control at 0.77, the teacher at 0.83: half of the gap is recovered."""
    rng, rows, seeds, studies = np.random.default_rng(7), 1250, 3, 800
    labels, covered, told = np.zeros(rows, np.int64), 0, 0
    for _ in range(studies):
        true = np.array([[0.80], [0.77], [0.80], [0.77], [0.83]]) + 0.005 * rng.normal(size=(5, seeds)) * np.array(
            [[1], [1], [1], [1], [0]]
        )
        said = answers(rng, true, seeds, rows)
        own, control, *_ = drawn_means(said[:4], labels, rng)
        teacher = drawn_means(said[4:, :1], labels, rng)[0]
        found = statistics.recovered(own, control, teacher, [float((each == 0).mean()) for each in (said[0], said[1], said[4, :1])])
        if found is not None:
            told += 1
            covered += found[1][0] <= 0.5 <= found[1][1]
    assert told > 0.9 * studies
    assert 0.93 <= covered / told <= 0.97


def test_no_gap_to_recover_is_told_by_none() -> None:
    rng = np.random.default_rng(0)
    draws = [score + 0.01 * rng.normal(size=1000) for score in (0.8, 0.79, 0.795)]
    assert statistics.recovered(*draws, values=(0.8, 0.79, 0.795)) is None
    assert statistics.recovered(*draws, values=(0.8, 0.79, 0.78)) is None
    value, (low, high) = statistics.recovered(np.full(9, 0.8), np.full(9, 0.7), np.full(9, 0.9), (0.8, 0.7, 0.9)) or (0, (0, 0))
    assert (value, low, high) == pytest.approx((0.5, 0.5, 0.5))


def simulated_study(rng: np.random.Generator, accuracies: np.ndarray, rows: int) -> dict[int, list[int]]:
    """A whole study on numbers: a trial for each accuracy, the larger the number the larger the student; a front of validation scores,
    finalists, three fresh seeds of each (that differ by half a point) on fresh test rows, and whom each is tied with."""
    trials, seeds = len(accuracies), 3
    labels = np.zeros(rows, np.int64)
    validation = answers(rng, accuracies, 1, rows)[:, 0]
    state = StudyState()
    for number, said in enumerate(validation):
        trial = TrialRecord(number, f"h{number}", {}, {}, 1000 * (number + 1), 1, 1, State.COMPLETE)
        trial.scores = {"accuracy": float((said == 0).mean())}
        state.trials[number] = trial
    logits = {number: np.eye(2)[validation[number]] for number in range(trials)}
    chosen = [trial.number for trial in finalists.choose(state, OBJECTIVES, "classification", logits, labels, 5)]
    true = accuracies[chosen][:, None] + 0.005 * rng.normal(size=(len(chosen), seeds))
    drawn = drawn_means(answers(rng, true, seeds, rows), labels, rng)
    by_trial, costs = dict(zip(chosen, drawn, strict=True)), {number: float(number) for number in chosen}
    return statistics.ties(by_trial, costs, statistics.share_asked(by_trial, costs))


def winners(tied: dict[int, list[int]]) -> list[int]:
    """Those that are called better than every smaller finalist."""
    return [number for number, ties in tied.items() if not ties and number != min(tied)]


def test_among_equal_students_a_winner_is_claimed_in_at_most_5_percent_of_studies() -> None:
    rng = np.random.default_rng(8)
    claims = [bool(winners(simulated_study(rng, np.full(24, ACCURACY), 500))) for _ in range(400)]
    assert np.mean(claims) <= 0.05


def test_three_points_more_are_found_on_2000_rows() -> None:
    """24 trials, one of them better by 3 points: it is confirmed as better than all the smaller finalists in at least 80 % of studies.

    (With 1,250 rows in 70 % of them.)
    """
    rng = np.random.default_rng(9)
    accuracies = np.full(24, ACCURACY)
    accuracies[17] += 0.03
    found = [winners(simulated_study(rng, accuracies, 2000)) for _ in range(100)]
    assert np.mean([17 in each for each in found]) >= 0.8
    # and nobody smaller is called better than what is smaller still
    assert np.mean([any(number < 17 for number in each) for each in found]) <= 0.05


def test_ties_look_only_at_what_is_no_larger() -> None:
    draws = {0: np.full(100, 0.70), 1: np.full(100, 0.69), 2: np.r_[np.full(97, 0.71), np.full(3, 0.6)]}
    assert statistics.ties(draws, {0: 10, 1: 20, 2: 30}, 0.95) == {0: [], 1: [0], 2: []}
    assert statistics.ties(draws, {0: 10, 1: 10, 2: 30}, 0.95) == {0: [], 1: [0], 2: []}
    assert statistics.ties(draws, {0: 10, 1: 20, 2: 5}, 0.95) == {0: [2], 1: [0, 2], 2: []}
    assert statistics.ties(draws, {0: 10, 1: 20, 2: 30}, 0.98)[2] == [0, 1]


def test_95_percent_are_asked_of_two_students_and_more_of_several() -> None:
    rng = np.random.default_rng(0)
    draws = {number: rng.normal(size=4000) for number in range(6)}
    costs = {number: float(number) for number in draws}
    assert statistics.share_asked({0: draws[0]}, costs) == 0.95
    assert statistics.share_asked({number: draws[number] for number in (0, 1)}, costs) == 0.95
    assert 0.96 < statistics.share_asked(draws, costs) < 0.99  # Bonferroni, which knows nothing of the draws, would ask for 0.99


def test_foresight_by_hand() -> None:
    # se = sqrt(0.8 * 0.2 / 1000) = 0.01265; two students share half of what they get right: sqrt(2 * 0.5) = 1
    assert statistics.detectable("accuracy", 0.8, 1000) == pytest.approx(1.96 * 0.01265, rel=1e-3)
    # the largest of 24 normals is 1.95 standard deviations up, and the shared half of the noise moves all alike: 1.95 * 0.7071 * 0.01265
    assert statistics.optimism("accuracy", 0.8, 1000, 24) == pytest.approx(0.01744, rel=0.01)
    assert statistics.optimism("accuracy", 0.8, 1000, 1) == 0.0
    first, second = statistics.foresight(1000, 24, 0.8, "accuracy")
    assert "1,000 rows" in first
    assert "2.5 points of accuracy" in first
    assert "best of 24 equal students" in second
    assert "1.7 points" in second
    assert statistics.foresight(10_000, 24, 0.8, "accuracy") == []


def test_optimism_is_what_the_best_of_equal_students_gains_in_a_simulation() -> None:
    rng, rows = np.random.default_rng(10), 500
    gains = [(answers(rng, np.full(24, ACCURACY), 1, rows)[:, 0] == 0).mean(1).max() - ACCURACY for _ in range(400)]
    assert np.mean(gains) == pytest.approx(statistics.optimism("accuracy", ACCURACY, rows, 24), rel=0.15)


def test_a_thousand_rows_take_less_than_a_second() -> None:
    rng = np.random.default_rng(0)
    said, labels = rng.integers(0, 2, (30, 1250)), rng.integers(0, 2, 1250)
    begun = time.monotonic()
    resampled("accuracy", said, labels)
    assert time.monotonic() - begun < 2
