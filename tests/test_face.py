"""What a data scientist types: students and studies in a notebook."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import deploying
import numpy as np
import pandas as pd
import pytest
import reports

from kdsearch import Student, Study, load_student
from kdsearch.errors import InputError

TEXTS = ["w1 w4 w7", "w2 w5", "w0 w3 w6 w9 w12", "w2"]


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Student:
    return load_student(deploying.make(tmp_path_factory.mktemp("face")) / "students" / "0")


@pytest.fixture(scope="module")
def regression(tmp_path_factory: pytest.TempPathFactory) -> Student:
    return load_student(deploying.make(tmp_path_factory.mktemp("number"), "regression") / "students" / "0")


@pytest.mark.parametrize("form", [list, tuple, np.array, pd.Series, iter], ids=lambda form: form.__name__)
def test_texts_may_be_any_of_these(student: Student, form: Any) -> None:
    assert student.predict(form(TEXTS)) == student(TEXTS) == [student(text)[0] for text in ([each] for each in TEXTS)]


def test_a_batch_size_changes_no_answer(student: Student) -> None:
    np.testing.assert_allclose(student.predict_proba(TEXTS, batch_size=1), student.predict_proba(TEXTS), atol=1e-5)


def test_probabilities_are_the_softmax_of_the_logits_in_the_order_of_the_labels(student: Student) -> None:
    found, logits = student.predict_proba(TEXTS), student.logits(TEXTS)
    np.testing.assert_allclose(found, np.exp(logits) / np.exp(logits).sum(1, keepdims=True), rtol=1e-5)
    assert [student.labels[at] for at in found.argmax(1)] == student.predict(TEXTS)


def test_no_texts_give_no_answers(student: Student, regression: Student) -> None:
    assert student.predict([]) == regression.predict([]) == []
    assert student.predict_proba([]).shape == (0, 3)
    assert regression.logits(pd.Series([], dtype=str)).shape == (0, 1)


@pytest.mark.parametrize("hole", [None, float("nan"), pd.NA, 7, b"bytes"], ids=repr)
def test_what_is_no_text_is_refused_by_its_index(student: Student, hole: Any) -> None:
    with pytest.raises(InputError, match=r"^texts\[2\]: .* is not a text: leave the row out"):
        student.predict([*TEXTS[:2], hole, *TEXTS[2:]])


def test_half_a_character_is_refused_by_its_index(student: Student) -> None:
    with pytest.raises(InputError, match=r"^texts\[1\]: half a character"):
        student.predict([TEXTS[0], "w1 \ud83d"])


def test_a_bare_string_and_uneven_pairs_are_refused(student: Student) -> None:
    with pytest.raises(InputError, match=r"texts: one string: give a list, such as \['w1 w4'\]"):
        student.predict("w1 w4")
    with pytest.raises(InputError, match="pairs: 1 second texts for 4 texts"):
        student.predict(TEXTS, ["w1"])


def test_a_regression_has_values_and_no_probabilities(regression: Student) -> None:
    assert all(isinstance(value, float) for value in regression.predict(TEXTS))
    with pytest.raises(InputError, match="gives numbers, not labels: use predict"):
        regression.predict_proba(TEXTS)


def test_a_student_says_what_it_is(student: Student, regression: Student) -> None:
    assert repr(student) == f"<Student student: transformer + hard; parameters: {student.params:,}; answers: angry, calm, sad>"
    assert "answers: a number" in repr(regression)
    assert f"<td>{student.params:,}</td>" in student._repr_html_()


def test_a_study_is_a_table_of_its_front(tmp_path: Path) -> None:
    study = Study(reports.plain(tmp_path))
    table = study.to_pandas()
    assert table["params"].tolist() == [100_000, 1_000_000, 4_000_000]
    assert table["retention"].round(3).tolist() == [0.875, 0.95, 0.98]
    assert repr(study) == f"<Study {tmp_path}: 3 students on the front, accuracy 0.7000 to 0.7840>"
    assert study._repr_html_().count("<tr") == 4


def test_a_study_without_a_student_is_an_empty_table(tmp_path: Path) -> None:
    from kdsearch.results.ledger import Ledger

    with Ledger(tmp_path) as ledger:
        ledger.begin(name="toy")
    study = Study(reports.keep(tmp_path))
    assert study.to_pandas().empty
    assert "no student yet" in repr(study)
