from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kdsearch.errors import StateError
from kdsearch.results import front
from kdsearch.results.folder import StudyFolder
from kdsearch.results.front import Point, hypervolume, pareto
from kdsearch.results.ledger import Ledger
from kdsearch.results.record import replay

TEACHER = {"params": 1_000_000, "bytes": 4_000_000, "flops": 9_000, "validation": {"accuracy": 0.8, "macro_f1": 0.79}, "test": None}
MANIFEST = {"name": "toy", "objectives": ["accuracy", "params"], "teacher": {**TEACHER, "fingerprint": "abc"}, "seeds": [1]}


def spec(name: str = "tiny") -> dict[str, object]:
    return {
        "family": name,
        "family_config": {"layers": 1},
        "strategy": "hard",
        "strategy_config": {},
        "training": {"lr": 0.001},
        "epochs": 1.0,
        "seed": 3,
    }


def complete(ledger: Ledger, number: int, params: int, accuracy: float) -> None:
    attempt = ledger.started(number, spec(), f"h{number}", {"tiny.layers": 1}, params, params * 4, params // 10)
    ledger.complete(number, attempt, {"accuracy": accuracy, "macro_f1": accuracy - 0.01}, params, params * 4, params // 10, {"total": 1.0})


def study(folder: Path) -> Path:
    with Ledger(folder) as ledger:
        ledger.begin(name="toy")
        complete(ledger, 0, 100_000, 0.7)
        complete(ledger, 1, 10_000, 0.6)
        complete(ledger, 2, 200_000, 0.65)  # dominated by 0
        complete(ledger, 3, 500_000, 0.76)
        ledger.stopped(4, ledger.started(4, spec(), "h4", {}, 5, 20, 1), 0.25, 0.5)
        ledger.failed(5, ledger.started(5, spec(), "h5", {}, 5, 20, 1), "not_finite", "the loss is NaN")
        ledger.started(6, spec(), "h6", {}, 5, 20, 1)
    (folder / "manifest.json").write_text(json.dumps(MANIFEST))
    return folder


@pytest.mark.parametrize(
    ("other", "kept"), [((0.7, 20), [0]), ((0.8, 20), [0]), ((0.7, 10), [0]), ((0.9, 20), [0, 1]), ((0.8, 10), [0, 1])]
)
def test_a_point_dominates_what_is_no_better_in_anything_and_worse_in_something(other: tuple[float, float], kept: list[int]) -> None:
    assert [point.trial for point in pareto([Point(0, 0.8, 10), Point(1, *other)])] == kept


def test_exact_twins_stay_both_and_a_costlier_equal_goes() -> None:
    points = [Point(2, 0.8, 10), Point(0, 0.8, 10), Point(1, 0.8, 11), Point(3, math.nan, 1), Point(4, 0.7, 10)]
    assert [point.trial for point in pareto(points)] == [0, 2]


def test_the_front_is_what_nothing_dominates() -> None:
    def dominates(one: Point, other: Point) -> bool:
        better = one.quality > other.quality or one.cost < other.cost
        return one.quality >= other.quality and one.cost <= other.cost and better

    rng = np.random.default_rng(0)
    for _ in range(50):
        points = [Point(n, int(rng.integers(6)) / 5, int(rng.integers(6))) for n in range(30)]
        expected = {p.trial for p in points if not any(dominates(other, p) for other in points)}
        found = pareto(points)
        assert {p.trial for p in found} == expected
        assert [(p.cost, p.trial) for p in found] == sorted((p.cost, p.trial) for p in found)


def test_hypervolume_by_hand() -> None:
    assert hypervolume([]) == 0.0
    assert hypervolume([(10**3.5, 1.0)]) == pytest.approx(1.0)
    assert hypervolume([(10**8, 1.0)]) == pytest.approx(0.0)
    # x = (5.75 - 3.5) / 4.5 = 0.5; y = (1 - 0.75) / 0.5 = 0.5
    assert hypervolume([(10**5.75, 0.75)]) == pytest.approx(0.25)
    # a second one at x = 0, y = 0.8 adds the strip from 0 to 0.5, 0.2 high
    assert hypervolume([(10**5.75, 0.75), (10**3.5, 0.6)]) == pytest.approx(0.35)
    # what is dominated adds nothing; what is worse than a coin adds nothing; smaller than the box counts as its edge
    assert hypervolume([(10**5.75, 0.75), (10**3.5, 0.6), (10**6, 0.7), (10, 0.4), (10, 0.6)]) == pytest.approx(0.35)


def test_a_correlation_is_measured_from_zero() -> None:
    assert hypervolume([(10**3.5, 0.25)], "pearson") == pytest.approx(0.25)
    assert hypervolume([(10**3.5, 0.25)], "mcc") == pytest.approx(0.25)
    assert hypervolume([(10**3.5, -0.2)], "spearman") == 0.0
    # for balanced classes a Matthews correlation of 0.6 is an accuracy of 0.8: the same height
    assert hypervolume([(10**3.5, 0.6)], "mcc") == pytest.approx(hypervolume([(10**3.5, 0.8)], "accuracy"))


def test_hypervolume_equals_optunas() -> None:
    from optuna._hypervolume import compute_hypervolume

    rng = np.random.default_rng(1)
    for count in (1, 2, 5, 40):
        params, scores = 10 ** rng.uniform(3, 8.5, count), rng.uniform(0.3, 1.0, count)
        box = np.clip(np.stack([(np.log10(params) - 3.5) / 4.5, (1 - scores) / 0.5], axis=1), 0, 1)
        assert hypervolume(zip(params, scores, strict=True)) == pytest.approx(compute_hypervolume(box, np.ones(2)), abs=1e-12)


def test_front_json_has_the_plain_front_and_counts_every_trial_that_ended(tmp_path: Path) -> None:
    content = StudyFolder(study(tmp_path)).write_front()
    assert list(content) == ["study", "objectives", "teacher", "points", "hypervolume", "trials"]
    assert content["teacher"] == TEACHER
    assert content["trials"] == {"complete": 4, "stopped": 1, "failed": 1}
    assert [point["trial"] for point in content["points"]] == [1, 0, 3]
    assert content["points"][1] == {
        "trial": 0,
        "family": "tiny",
        "strategy": "hard",
        "config": {"family": {"layers": 1}, "strategy": {}, "training": {"lr": 0.001}},
        "params": 100_000,
        "bytes": 400_000,
        "flops": 10_000,
        "validation": {"accuracy": 0.7, "macro_f1": pytest.approx(0.69)},
        "student": "students/0",
        "confirmed": None,
    }
    assert content["hypervolume"] == pytest.approx(hypervolume([(10_000, 0.6), (100_000, 0.7), (500_000, 0.76)]))
    assert json.loads((tmp_path / "front.json").read_text()) == content


def test_the_front_is_the_same_bytes_each_time_and_from_any_copy(tmp_path: Path) -> None:
    StudyFolder(study(tmp_path / "a")).write_front()
    first = (tmp_path / "a" / "front.json").read_bytes()
    StudyFolder(tmp_path / "a").write_front()
    assert (tmp_path / "a" / "front.json").read_bytes() == first
    (tmp_path / "a" / "front.json").unlink()
    (tmp_path / "a").rename(tmp_path / "b")
    StudyFolder(tmp_path / "b").write_front()
    assert (tmp_path / "b" / "front.json").read_bytes() == first


def test_another_objective_gives_another_front(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.begin()
        for number, (params, flops) in enumerate([(100, 900), (200, 100)]):
            attempt = ledger.started(number, spec(), f"h{number}", {}, params, 1, flops)
            ledger.complete(number, attempt, {"accuracy": 0.7}, params, 1, flops, {})
        by_params = front.document(ledger.state, MANIFEST)
        by_flops = front.document(ledger.state, {**MANIFEST, "objectives": ["accuracy", "flops"]})
    assert [point["trial"] for point in by_params["points"]] == [0]
    assert [point["trial"] for point in by_flops["points"]] == [1]


def test_a_score_that_is_no_number_never_enters(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.begin()
        complete(ledger, 0, 10, math.nan)
        complete(ledger, 1, 20, 0.6)
        content = front.document(ledger.state, MANIFEST)
    assert [point["trial"] for point in content["points"]] == [1]
    assert content["trials"]["complete"] == 2


def test_rows_are_ready_for_a_table(tmp_path: Path) -> None:
    table = front.rows(StudyFolder(study(tmp_path)).document())
    assert list(table[0]) == ["trial", "family", "strategy", "params", "bytes", "flops", "score", "retention", "ratio"]
    assert (table[0]["trial"], table[0]["score"], table[0]["ratio"]) == (1, 0.6, 100.0)
    assert table[0]["retention"] == pytest.approx(0.75)
    assert not (tmp_path / "front.json").exists()


def test_an_empty_study_has_an_empty_front() -> None:
    content = front.document(replay([{"event": "study", "version": 1}]), MANIFEST)
    assert (content["points"], content["hypervolume"], content["trials"]) == ([], 0.0, {"complete": 0, "stopped": 0, "failed": 0})
    assert front.rows(content) == []


def test_a_folder_that_is_no_study_is_named(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"not a study's folder: it has no manifest\.json"):
        StudyFolder(tmp_path).document()
    (study(tmp_path) / "manifest.json").write_text(json.dumps({"name": "toy"}))
    with pytest.raises(StateError, match="lacks 'objectives'"):
        StudyFolder(tmp_path).document()
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(StateError, match=r"manifest\.json: damaged"):
        StudyFolder(tmp_path).document()


def test_reading_a_front_or_a_ledger_needs_neither_ray_nor_optuna() -> None:
    code = (
        "import sys, kdsearch.results.front, kdsearch.results.ledger, kdsearch.results.table, kdsearch.hpo.early_stopping; "
        "assert not {'ray', 'optuna', 'torch'} & set(sys.modules), 'heavy import'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
