from __future__ import annotations

import math

import numpy as np
import pytest

from kdsearch.data.tokens import Table
from kdsearch.evaluation import analysis


def table(texts: list[str], labels: list[int], pairs: list[str] | None = None) -> Table:
    return Table(texts, pairs, np.array(labels, np.int64))


def sure(classes: list[int], chance: float, count: int = 2) -> np.ndarray:
    """Logits of a model that gives its class this chance, and the others equal ones."""
    logits = np.zeros((len(classes), count))
    logits[np.arange(len(classes)), classes] = math.log(chance * (count - 1) / (1 - chance))
    return logits


def test_agreement_by_hand() -> None:
    one, other, labels = sure([0, 0, 1, 1], 0.8), sure([0, 0, 1, 0], 0.8), np.zeros(4, np.int64)
    found = analysis.agreement("classification", one, other, labels)
    assert found["labels"] == 0.75
    # three rows are equal; on the last KL((0.8, 0.2) || (0.2, 0.8)) = 0.8 ln 4 - 0.2 ln 4 = 0.6 ln 4
    assert found["kl"] == pytest.approx(0.6 * math.log(4) / 4)
    assert analysis.agreement("classification", one, one, labels) == {"labels": 1.0, "kl": 0.0}
    values = np.array([[1.0], [2.0], [3.0]])
    assert analysis.agreement("regression", values, 2 * values, labels) == {"pearson": pytest.approx(1.0), "difference": 2.0}
    assert analysis.agreement("regression", values, np.ones((3, 1)), labels)["pearson"] == 0.0


def test_precision_and_recall_of_each_class() -> None:
    found = analysis.per_class("classification", sure([0, 0, 1, 0], 0.9, 3), np.array([0, 1, 1, 0]), ("a", "b", "c"))
    assert found[0] == {"label": "a", "precision": pytest.approx(2 / 3), "recall": 1.0, "f1": pytest.approx(0.8), "rows": 2}
    assert found[1] == {"label": "b", "precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "rows": 2}
    assert found[2] == {"label": "c", "precision": 0.0, "recall": 0.0, "f1": 0.0, "rows": 0}


def test_a_model_that_is_as_right_as_it_is_sure_is_calibrated() -> None:
    labels = np.array([0] * 8 + [1] * 2)
    assert analysis.calibration_error(sure([0] * 10, 0.8), labels) == pytest.approx(0.0, abs=1e-9)
    assert analysis.calibration_error(sure([0] * 10, 0.9), labels) == pytest.approx(0.1)
    # half of the rows are 0.2 too sure, half 0.1 too little: they lie in two bins and do not cancel
    mixed = np.concatenate([sure([0] * 10, 0.99), sure([0] * 10, 0.7)])
    assert analysis.calibration_error(mixed, np.tile(labels, 2)) == pytest.approx((0.19 + 0.1) / 2)


def test_the_fitted_temperature_takes_sureness_back_to_what_is_right() -> None:
    labels = np.array([0] * 80 + [1] * 20)
    logits = sure([0] * 100, 0.8) * 3  # three times as sure as it may be
    assert analysis.fitted_temperature(logits, labels) == pytest.approx(3.0, rel=1e-3)
    found = analysis.calibration("classification", logits, labels, logits, labels)
    assert found is not None
    assert found["ece"] > 0.15
    assert found["ece_fitted"] < 1e-3


def test_rows_are_grouped_by_length_rarest_word_and_label() -> None:
    train = table(["Good film", "good plot"] * 3, [0, 1] * 3)
    texts = ["good", "good film", "Good, film!", "good zebra", "good plot film good plot film"]
    parts = analysis.groups("classification", table(texts, [0, 1, 0, 1, 0]), train, ("neg", "pos"))
    named = {kind: {name: np.flatnonzero(rows).tolist() for name, rows in each} for kind, each in parts.items()}
    assert named["words"] == {
        "a word that training never saw": [3],
        "rarest word seen 1-4 times": [1, 2, 4],
        "every word seen 5 times or more": [0],
    }
    assert named["label"] == {"neg": [0, 2, 4], "pos": [1, 3]}
    assert sorted(row for rows in named["length"].values() for row in rows) == [0, 1, 2, 3, 4]
    pairs = analysis.groups("regression", table(["good"], [0], ["zebra"]), train, ())
    assert list(pairs) == ["length", "words"]
    assert [name for name, rows in pairs["words"] if rows[0]] == ["a word that training never saw"]


def test_slices_show_where_the_student_loses_most() -> None:
    labels = np.zeros(100, np.int64)
    student, teacher = sure([1] * 20 + [0] * 80, 0.9), sure([0] * 95 + [1] * 5, 0.9)
    first = np.arange(100) < 40
    parts = {"half": [("first", first), ("second", ~first), ("few", np.arange(100) < 19)]}
    found = analysis.slices("classification", student, teacher, labels, parts)
    assert [each["slice"] for each in found] == ["first", "second"]  # nineteen rows are too few to tell
    assert (found[0]["student"], found[0]["teacher"], found[0]["lost"], found[0]["rows"]) == (0.5, 1.0, 0.5, 40)
    assert found[1]["lost"] == pytest.approx(-5 / 60)
    # two slices at once: the quantile of 0.9875 is 2.2414, the deviation of twenty ones among forty 0.50637
    assert found[0]["ci95"][1] - 0.5 == pytest.approx(2.2414 * 0.50637 / math.sqrt(40), rel=1e-4)
    values = analysis.slices("regression", np.full((100, 1), 2.0), np.full((100, 1), 0.5), labels.astype(float), parts)
    assert values[0]["lost"] == 1.5  # it is 2 off, the teacher 0.5


def test_rows_of_disagreement_are_numbers_unless_texts_are_asked_for() -> None:
    rows = table(["secret", "other", "third"], [0, 1, 1], ["x", "y", "z"])
    student, teacher = sure([0, 0, 1], 0.9), sure([1, 0, 1], 0.9)
    assert analysis.disagreements("classification", student, teacher, rows, ("neg", "pos")) == [
        {"row": 0, "label": "neg", "student": "neg", "teacher": "pos"}
    ]
    (line,) = analysis.disagreements("classification", student, teacher, rows, ("neg", "pos"), texts=True)
    assert (line["text"], line["text_pair"]) == ("secret", "x")
    values = Table(["a", "b"], None, np.array([1.0, 2.0], np.float32))
    found = analysis.disagreements("regression", np.array([[1.0], [2.0]]), np.array([[1.5], [9.0]]), values, ())
    assert [each["row"] for each in found] == [1, 0]


def test_each_loss_term_over_time() -> None:
    history = [{"share": 0.5, "seconds": 1.0, "soft": 2.0, "hard": 1.0}, {"share": 1.0, "seconds": 2.0, "soft": 0.5}]
    assert analysis.moved(history) == {"share": [0.5, 1.0], "terms": {"soft": [2.0, 0.5], "hard": [1.0, None]}}
    assert analysis.moved([]) == {"share": [], "terms": {}}


def test_a_student_equal_to_its_teacher_loses_nowhere() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 90)
    rows = table([" ".join(["word"] * int(count)) for count in rng.integers(1, 9, 90)], labels.tolist())
    logits = rng.normal(size=(90, 2))
    found = analysis.compare("classification", ("neg", "pos"), rows, rows, logits, logits, (logits, logits, labels))
    assert (found["agreement"]["labels"], found["disagreements"]) == (1.0, [])
    assert found["classes"]["student"] == found["classes"]["teacher"]
    assert all(each["lost"] == 0 and each["ci95"] == [0, 0] for each in found["slices"])
    assert {each["kind"] for each in found["slices"]} == {"length", "words", "label"}
