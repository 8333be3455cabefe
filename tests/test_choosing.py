from __future__ import annotations

from typing import Any

import pytest

from kdsearch.errors import InputError, VerdictNo
from kdsearch.results.choose import Rule, choose, retained


def point(trial: int, params: int, accuracy: float, test: float | None = None) -> dict[str, Any]:
    confirmed = (
        None if test is None else {"student": f"students/{trial}-confirmed", "test": {"accuracy": test, "ci95": [0.0, 1.0], "seeds": 3}}
    )
    return {
        "trial": trial,
        "params": params,
        "bytes": 4 * params,
        "flops": params // 10,
        "validation": {"accuracy": accuracy},
        "confirmed": confirmed,
    }


def document(*points: dict[str, Any], test: float | None = None) -> dict[str, Any]:
    teacher = {"params": 10_000_000, "validation": {"accuracy": 0.8}, "test": None if test is None else {"accuracy": test}}
    return {"study": "toy", "objectives": ["accuracy", "params"], "teacher": teacher, "points": list(points)}


# of the teacher: 0.75, 0.95, 0.9625, 1.0
FRONT = document(point(4, 10_000, 0.6), point(2, 100_000, 0.76), point(7, 1_000_000, 0.77), point(5, 5_000_000, 0.8))


def picked(rule: Rule, found: dict[str, Any] = FRONT, **more: Any) -> int:
    trial: int = choose(found, rule, **more).point["trial"]
    return trial


def test_without_a_rule_the_best_score_is_picked() -> None:
    choice = choose(FRONT, Rule())
    assert choice.point["trial"] == 5
    assert choice.larger is None
    assert choice.smaller is not None
    assert choice.smaller["trial"] == 7


def test_limits_pick_the_best_that_fits_them() -> None:
    assert picked(Rule(max_params=1_000_000)) == 7
    assert picked(Rule(max_params=999_999)) == 2
    assert picked(Rule(max_bytes=400_000)) == 2
    assert picked(Rule(max_latency_ms=0.5), latencies={4: 0.1, 2: 0.2, 7: 0.5, 5: 3.0}) == 7


def test_a_larger_student_may_be_the_faster_one() -> None:
    assert picked(Rule(max_latency_ms=0.5), latencies={4: 0.1, 2: 0.9, 7: 0.4, 5: 3.0}) == 7


def test_retention_picks_the_smallest_that_keeps_the_share() -> None:
    assert picked(Rule(min_retention=0.95)) == 2
    assert picked(Rule(min_retention=0.951)) == 7
    assert "95.0% on validation" in choose(FRONT, Rule(min_retention=0.95)).reason


def test_retention_is_on_test_where_the_point_is_confirmed_and_says_so() -> None:
    found = document(point(2, 100_000, 0.76, test=0.69), point(7, 1_000_000, 0.77, test=0.7), point(5, 5_000_000, 0.8), test=0.75)
    assert retained(found, found["points"][0]) == (pytest.approx(0.92), "test")
    assert retained(found, found["points"][2]) == (pytest.approx(1.0), "validation")
    choice = choose(found, Rule(min_retention=0.93))
    assert choice.point["trial"] == 7
    assert "93.3% on test" in choice.reason


def test_the_knee_is_furthest_above_the_line_between_the_ends() -> None:
    # log sizes 4, 5, 6, 6.7 and scores 0.6, 0.76, 0.77, 0.8: trial 2 has 80 % of the score for 37 % of the way
    assert picked(Rule(knee=True)) == 2
    assert picked(Rule(knee=True), document(point(3, 10, 0.5))) == 3
    assert picked(Rule(knee=True), document(point(3, 10, 0.5), point(1, 100, 0.6))) == 3


@pytest.mark.parametrize(
    ("rule", "nearest"),
    [
        (Rule(max_params=9_999), "at most 9,999 params; the nearest is trial 4 with 10,000"),
        (Rule(max_bytes=100), "the nearest is trial 4 with 40,000"),
        (Rule(min_retention=1.01), "the nearest is trial 5 with 100.0% on validation"),
        (Rule(max_latency_ms=0.05), "the nearest is trial 4 with 0.10"),
    ],
)
def test_when_nothing_fits_the_nearest_is_named(rule: Rule, nearest: str) -> None:
    with pytest.raises(VerdictNo, match=nearest.replace("(", r"\(")):
        choose(FRONT, rule, latencies={4: 0.1, 2: 0.2, 7: 0.5, 5: 3.0})


def test_an_empty_front_is_a_no() -> None:
    with pytest.raises(VerdictNo, match="no student on the front yet"):
        choose(document(), Rule())


def test_a_teacher_without_a_positive_score_has_no_share_to_keep() -> None:
    found = document(point(1, 10, 0.1))
    found["teacher"]["validation"]["accuracy"] = 0.0
    with pytest.raises(VerdictNo, match="not above 0"):
        choose(found, Rule(min_retention=0.5))


def test_a_trial_off_the_front_is_told_what_is_better() -> None:
    choice = choose(FRONT, Rule(trial=9), aside=point(9, 200_000, 0.7))
    assert choice.point["trial"] == 9
    assert "not on the front: trial 2 is no larger" in choice.reason
    assert choice.smaller is not None
    assert choice.larger is not None
    assert (choice.smaller["trial"], choice.larger["trial"]) == (2, 7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_params": 5, "knee": True}, "--max-params and --knee: each of these chooses by itself: give one"),
        ({"trial": 0, "min_retention": 0.9}, "--trial and --min-retention"),
        ({"min_retention": 97.0}, "write 0.97"),
        ({"max_latency_ms": 0.0}, "--max-latency-ms: 0.0 is not greater than 0"),
        ({"max_params": 0}, "--max-params"),
    ],
)
def test_rules_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Rule(**options)
