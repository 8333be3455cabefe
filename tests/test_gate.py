from __future__ import annotations

import json

import numpy as np
import pytest

from kdsearch.errors import InputError
from kdsearch.tasks.classification import align
from kdsearch.teacher.gate import Evidence, check, sample


def answers(predicted: list[int] | np.ndarray, classes: int) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[np.asarray(predicted)]


def judge(
    logits: np.ndarray, targets: np.ndarray, labels: tuple[str, ...], order: tuple[int, ...] | None = None, **options: bool
) -> Evidence:
    asked = {"tuned": False, "final": True, **options}
    return check(logits, targets, labels, order or tuple(range(len(labels))), "classification" if labels else "regression", "T", **asked)


def test_labels_are_aligned_by_name() -> None:
    assert align(["pos", "neg"], ["neg", "pos"], None, "T") == (1, 0)
    assert align([" Very  GOOD", "bad"], ["bad", "very good"], None, "T") == (1, 0)
    assert align(["a", "A"], ["A", "a"], None, "T") == (1, 0)  # names that differ in case alone are two names


def test_teacher_labels_win_over_the_names_in_the_configuration() -> None:
    assert align(["neg", "pos"], ["neg", "pos"], ["pos", "neg"], "T") == (1, 0)
    assert align(["LABEL_0", "LABEL_1", "LABEL_2"], ["a", "b", "c"], ["c", "a", "b"], "T") == (1, 2, 0)


def test_names_that_say_nothing_are_taken_in_order() -> None:
    assert align(["LABEL_0", "LABEL_1"], ["neg", "pos"], None, "T") == (0, 1)
    assert align(["negative", "positive"], ["0", "1"], None, "T") == (0, 1)
    assert align(["1", "0"], ["0", "1"], None, "T") == (1, 0)


@pytest.mark.parametrize(
    ("outputs", "labels", "given", "message"),
    [
        (["a", "b", "c"], ["a", "b"], None, r"T: the teacher has 3 labels \(a, b, c\), the data 2 \(a, b\).*teacher\.finetune"),
        (["a", "b"], ["a", "c"], None, r"T: label names do not match: the teacher has a, b; the data has a, c: .*teacher\.labels"),
        (["a", "b"], ["1", "2"], None, "label names do not match"),
        (["LABEL_0", "LABEL_1"], ["a", "b"], ["a", "x"], "teacher.labels: label names do not match: the teacher has a, x"),
        (["LABEL_0", "LABEL_1"], ["a", "b"], ["a"], r"teacher\.labels: 1 names \(a\), but the teacher has 2 outputs"),
    ],
)
def test_labels_that_do_not_fit_are_refused_with_both_sides(
    outputs: list[str], labels: list[str], given: list[str] | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        align(outputs, labels, given, "T")


def test_a_good_teacher_passes_with_its_scores() -> None:
    targets = np.array([0] * 60 + [1] * 40)
    predicted = np.array([0] * 50 + [1] * 50)  # 10 wrong
    found = judge(answers(predicted, 2), targets, ("neg", "pos"))
    assert found.scores["accuracy"] == pytest.approx(0.9)
    assert (found.baseline, found.rows) == (0.6, 100)
    assert found.gain == pytest.approx(0.3)  # 40 rows gained, 10 lost
    assert found.noise == pytest.approx(np.sqrt(0.5 - 0.09) / 10)
    assert found.above_chance
    assert not found.hopeless


def test_a_teacher_no_better_than_the_majority_class_is_refused() -> None:
    targets = np.array([0] * 60 + [1] * 40)
    with pytest.raises(InputError, match=r"accuracy 0.600 on 100 validation rows, no better than always predicting 'neg' \(0.600\)"):
        judge(answers(np.zeros(100, int), 2), targets, ("neg", "pos"))
    with pytest.raises(InputError, match="fine-tune longer"):
        judge(answers(np.zeros(100, int), 2), targets, ("neg", "pos"), tuned=True)


def table(*counts: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows as (how many, target, answer)."""
    return np.repeat([c[1] for c in counts], [c[0] for c in counts]), np.repeat([c[2] for c in counts], [c[0] for c in counts])


def test_a_gain_within_noise_passes_a_first_look_and_no_final_one() -> None:
    targets, predicted = table((66, 0, 0), (62, 0, 1), (64, 1, 0), (64, 1, 1))  # 130 of 256 right; correlation 4/256
    first = judge(answers(predicted, 2), targets, ("a", "b"), final=False)
    assert first.gain == pytest.approx(2 / 256)
    assert first.association == pytest.approx(16 * 4 / 256, rel=0.01)
    assert not first.above_chance
    with pytest.raises(InputError, match=r"accuracy 0.508 on 256 validation rows, better by no more than noise than always predicting 'a'"):
        judge(answers(predicted, 2), targets, ("a", "b"), final=True)


def test_a_first_look_refuses_the_hopeless() -> None:
    targets, predicted = table((62, 0, 0), (66, 0, 1), (64, 1, 0), (64, 1, 1))
    with pytest.raises(InputError, match=r"accuracy 0\.492 .* no better than"):
        judge(answers(predicted, 2), targets, ("a", "b"), final=False)


def test_on_unbalanced_classes_a_small_gain_with_a_clear_association_passes() -> None:
    targets, predicted = table((480, 0, 0), (6, 0, 1), (18, 1, 0), (8, 1, 1))
    found = judge(answers(predicted, 2), targets, ("common", "rare"))
    assert found.gain == pytest.approx(2 / 512)
    assert found.gain < 2 * found.noise
    assert found.association > 7


def test_permuted_labels_are_named_in_the_order_to_write() -> None:
    targets = np.arange(300) % 3
    predicted = (targets + 1) % 3  # output 1 means a, 2 means b, 0 means c
    predicted[:30] = targets[:30]
    with pytest.raises(InputError) as caught:
        judge(answers(predicted, 3), targets, ("a", "b", "c"))
    assert "accuracy 0.100 as they are, 0.900 when reassigned" in str(caught.value)
    assert str(caught.value).endswith('Under teacher, write\n  labels: ["c", "a", "b"]')


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("meaning", [("b", "c", "a"), ("c", "b", "a"), ("b", "a", "c")])
def test_writing_the_order_that_was_named_mends_it(order: tuple[int, ...], meaning: tuple[str, ...]) -> None:
    """meaning: what each of the teacher's outputs stands for in truth; order: what `align` believed."""
    labels = ("a", "b", "c")
    targets = np.arange(300) % 3
    own = answers([meaning.index(labels[target]) for target in targets], 3)
    if [meaning[output] for output in order] == list(labels):
        assert judge(own[:, list(order)], targets, labels, order).scores["accuracy"] == 1.0
        return
    with pytest.raises(InputError) as caught:
        judge(own[:, list(order)], targets, labels, order)
    said = json.loads(str(caught.value).rpartition("labels: ")[2])
    assert tuple(said) == meaning
    mended = align(["x", "y", "z"], labels, said, "T")
    assert judge(own[:, list(mended)], targets, labels, mended).scores["accuracy"] == 1.0


def test_a_weak_teacher_is_not_called_permuted() -> None:
    rng = np.random.default_rng(1)
    targets = np.arange(300) % 3
    predicted = rng.integers(0, 3, 300)
    with pytest.raises(InputError, match=r"no better than|no more than noise"):
        judge(answers(predicted, 3), targets, ("a", "b", "c"))


def test_damaged_weights_are_told_as_such() -> None:
    with pytest.raises(InputError, match="NaN or infinite"):
        judge(np.full((4, 2), np.nan, np.float32), np.array([0, 1, 0, 1]), ("a", "b"))


def test_a_regression_must_beat_the_mean() -> None:
    targets = np.array([1.0, 2.0, 3.0, 4.0] * 3, np.float32)
    found = judge(targets[:, None] + 0.5, targets, ())
    assert found.baseline == 1.25
    assert found.scores["mse"] == pytest.approx(0.25)
    assert found.gain == pytest.approx(1.0)
    with pytest.raises(InputError, match=r"mean squared error 5 on 12 validation rows.*the mean \(1.25; correlation -1.00\)"):
        judge(5 - targets[:, None], targets, ())
    with pytest.raises(InputError, match="no better than always predicting the mean"):
        judge(np.full((12, 1), 2.5, np.float32), targets, ())
    with pytest.raises(InputError, match="on another scale than the labels"):
        judge(targets[:, None] / 4, targets, ())


def test_a_sample_has_every_class_in_its_share() -> None:
    labels = np.array([0] * 900 + [1] * 100)
    rows = sample(labels, 100)
    assert len(set(rows)) == 100
    assert (labels[rows] == 1).sum() == 10
    np.testing.assert_array_equal(rows, sample(labels, 100))
    np.testing.assert_array_equal(sample(labels[:7], 100), np.arange(7))
