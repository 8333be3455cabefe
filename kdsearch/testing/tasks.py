"""What every task has to hold; whoever adds one inherits it and has its tests."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from kdsearch import losses
from kdsearch.api import Batch
from kdsearch.tasks import TASKS, Task
from kdsearch.testing.checks import require

ROWS = 12


class TaskContract(ABC):
    """Inherit it in a test file, say what the task is and what answers are right; each check is a test::

        class TestMine(TaskContract):
            task = Mine()
            names = ("red", "green")

            def labels(self): ...
            def right(self, labels): ...

    Attributes:
        task: the one under test. names: of its labels, () where they have none.
    """

    task: Task
    names: Sequence[str] = ()

    @abstractmethod
    def labels(self) -> np.ndarray:
        """Labels of ROWS rows, all known and not all the same."""

    @abstractmethod
    def right(self, labels: np.ndarray) -> np.ndarray:
        """Logits (float32) that answer these labels right."""

    def _loss(self, logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
        """(the loss, the norm of its gradient)."""
        answers = torch.from_numpy(logits.copy()).requires_grad_(True)
        loss = self.task.hard_loss(answers, torch.from_numpy(labels))
        require(loss.ndim == 0, f"hard_loss gives {tuple(loss.shape)}, not a scalar")
        loss.backward()
        require(answers.grad is not None, "hard_loss has no gradient")
        return loss.item(), 0.0 if answers.grad is None else float(answers.grad.norm())

    def _batch(self, labels: np.ndarray) -> Batch:
        ids = torch.ones(ROWS, 1, dtype=torch.int64)
        return Batch(ids, ids.bool(), torch.from_numpy(labels), torch.arange(ROWS), task=self.task.name)

    # The checks

    def test_right_answers_are_no_errors(self) -> None:
        labels = self.labels()
        right = self.right(labels)
        require(float(self.task.row_errors(right, labels).max()) < 1e-6, "row_errors of right answers are not 0")
        require(self.task.row_errors(right, labels).shape == (ROWS,), "row_errors has not one number for each row")
        scores = self.task.scores(right, labels)
        for quality in self.task.qualities:
            require(quality in scores, f"{quality} is a quality and not among the scores")
            worse = self.task.scores(self.task.guess(labels, right.shape), labels)[quality]
            require(scores[quality] > worse, f"{quality} is {scores[quality]:.3g} for right answers and {worse:.3g} for the simplest guess")

    def test_right_answers_cost_less_than_wrong_ones(self) -> None:
        labels = self.labels()
        right = self.right(labels)
        (good, _), (bad, slope) = self._loss(right, labels), self._loss(-right, labels)
        require(math.isfinite(good) and good < bad, f"hard_loss is {good:.3g} for right answers, {bad:.3g} for wrong ones")
        require(math.isfinite(slope) and slope > 0, f"the gradient of wrong answers is {slope:.3g}")

    def test_rows_without_a_label_cost_nothing(self) -> None:
        labels = self.labels()
        right = self.right(labels)
        none = np.broadcast_to(_spread(self.task.unlabelled(ROWS), labels), labels.shape).copy()
        require(not bool(np.asarray(self.task.known(none)).any()), "known() says yes to rows of unlabelled()")
        require(bool(np.asarray(self.task.known(labels)).all()), "known() is False for labelled rows")
        require(np.asarray(self.task.known(labels)).shape == (ROWS,), "known() has not one answer for each row")
        same = torch.from_numpy(np.asarray(self.task.known(labels)))
        require(bool((self.task.known(torch.from_numpy(labels)) == same).all()), "known() differs between an array and a tensor")
        require(self._loss(right, none) == (0.0, 0.0), "rows without a label have a loss or a gradient")
        half = labels.copy()
        half[::2] = none[::2]
        kept = slice(1, None, 2)
        one, other = self._loss(right, half)[0], self._loss(right[kept], labels[kept])[0]
        require(math.isclose(one, other, rel_tol=1e-5, abs_tol=1e-7), "a row without a label changes the loss of those that have one")

    def test_the_metric_of_rows_without_an_error_counts_them(self) -> None:
        labels = self.labels()
        for logits in (self.right(labels), _tilted(self.right(labels))):
            counted = float((self.task.row_errors(logits, labels) == 0).mean())
            found = counted if self.task.exact is None else self.task.scores(logits, labels)[self.task.exact]
            require(math.isclose(found, counted), f"{self.task.exact} is {found:.3g}, and {counted:.3g} of the rows have no error")

    def test_qualities_can_be_had_on_rows_drawn_again(self) -> None:
        labels = self.labels()
        models = [self.right(labels), _tilted(self.right(labels))]
        counts = np.random.default_rng(0).multinomial(ROWS, [1 / ROWS] * ROWS, size=5).astype(np.float32)
        rows = [np.repeat(np.arange(ROWS), count.astype(np.int64)) for count in counts]
        for quality in self.task.qualities:
            drawn = self.task.resampler(quality, models, labels)(counts)
            expected = [[self.task.scores(logits[each], labels[each])[quality] for logits in models] for each in rows]
            require(drawn.shape == (5, 2), f"resampler() gives {drawn.shape} for {quality}, of two models on five draws")
            require(bool(np.allclose(drawn, expected, atol=1e-6)), f"{quality} on drawn rows is not the score of these rows")

    def test_answers_are_one_a_row_and_have_the_form_of_labels(self) -> None:
        labels = self.labels()
        right = self.right(labels)
        predicted, answers = self.task.predictions(right), self.task.decode(right, self.names)
        require(len(answers) == ROWS, "decode() gives not one answer for each row")
        require(predicted.shape == labels.shape, f"predictions() have shape {predicted.shape}, labels {labels.shape}")
        require(answers == self.task.readable(labels, self.names), "right answers do not read as the labels do")
        require(not any(set(self.task.written(each)) & set("\t\r\n") for each in answers), "written() breaks a line, or has a tab")
        for number, name in enumerate(self.names):
            there = self.task.holds(labels, number)
            require(there.shape == (ROWS,), f"holds() has not one answer for each row of {name!r}")
            require(bool((self.task.holds(predicted, number) == there).all()), f"right answers have {name!r} in other rows than labels")
        require(right.shape[-1] == self.task.outputs(self.names), f"right() has {right.shape[-1]} outputs, outputs() says otherwise")
        require(self.task.decode(right[:0], self.names) == [], "no rows give answers")

    def test_two_models_agree_where_they_answer_the_same(self) -> None:
        right = self.right(self.labels())
        same, other = self.task.agree(right, right), self.task.agree(right, _tilted(right))
        if same is None or other is None:
            require(not self.task.probabilities, "agree() is None, and outputs stand for probabilities")
            return
        require(same.shape == (ROWS,) and bool(same.all()), "a model does not agree with itself in every row")
        apart = [one != two for one, two in zip(*(self.task.decode(each, self.names) for each in (right, _tilted(right))), strict=True)]
        require((~other).tolist() == apart, "agree() is wrong of the rows where the answers differ")

    def test_outputs_are_probabilities_or_values(self) -> None:
        right = self.right(self.labels())
        if not self.task.probabilities:
            require(not self.task.exclusive, "outputs are values, and labels exclude each other")
            return
        found = self.task.probabilities_of(right)
        require(found.shape == right.shape, f"probabilities_of() has shape {found.shape}, logits {right.shape}")
        require(float(found.min()) >= 0 and float(found.max()) <= 1, "probabilities are not between 0 and 1")
        require(
            not self.task.exclusive or bool(np.allclose(found.sum(-1), 1)),
            "labels exclude each other, and their probabilities are not 1 in all",
        )
        require(
            bool(np.allclose(self.task.targets(torch.from_numpy(right)), found, atol=1e-6)), "targets() are other than the probabilities"
        )

    def test_choices_are_right_where_answers_are(self) -> None:
        labels = self.labels()
        right = self.right(labels)
        found = self.task.choices(right, labels)
        if found is None:
            require(not self.task.probabilities, "choices() is None, and outputs stand for probabilities")
            return
        logits, classes = found
        require(logits.ndim == 2 and logits.shape[:1] == classes.shape, f"choices() has shapes {logits.shape} and {classes.shape}")
        require(bool((logits.argmax(-1) == classes).all()), "of right answers, a choice is wrong")
        tensors, _ = self.task.choices(torch.from_numpy(right), torch.from_numpy(labels)) or (None, None)
        require(tensors is not None and bool((tensors.numpy() == logits).all()), "choices() differ between arrays and tensors")

    def test_a_student_that_answers_as_its_teacher_has_no_more_to_learn(self) -> None:
        labels = self.labels()
        batch, right = self._batch(labels), torch.from_numpy(self.right(labels))
        with patch.dict(TASKS, {self.task.name: self.task}):
            for form in losses.FORMS:
                slopes = []
                for answers in (right, torch.from_numpy(_tilted(right.numpy()))):
                    student = answers.clone().requires_grad_(True)
                    losses.soft_loss(student, right, None if form == "mse_logits" else 2.0, form, 0.5, batch).backward()
                    slopes.append(math.nan if student.grad is None else float(student.grad.norm()))
                require(
                    slopes[0] < 1e-5 < slopes[1], f"{form} has a gradient of {slopes[0]:.3g} at the teacher's answers, else {slopes[1]:.3g}"
                )

    def test_a_mixture_is_the_mean_of_what_its_teachers_say(self) -> None:
        right = self.right(self.labels())
        teachers = torch.from_numpy(np.stack([right, _tilted(right)]))
        with patch.dict(TASKS, {self.task.name: self.task}):
            mixed = losses.mixture(teachers, torch.tensor([0.25, 0.75]), task=self.task.name)
        mean = 0.25 * self.task.targets(teachers[0]) + 0.75 * self.task.targets(teachers[1])
        require(
            bool(torch.allclose(self.task.targets(mixed), mean, atol=1e-5)), "a mixture of two teachers is not the mean of what they say"
        )

    def test_what_is_to_be_learnt_has_the_shape_of_the_logits(self) -> None:
        labels = self.labels()
        right = self.right(labels)
        for what, found in (
            ("targets", self.task.targets(torch.from_numpy(right))),
            ("targets_of_labels", self.task.targets_of_labels(torch.from_numpy(labels), right.shape[-1])),
        ):
            require(tuple(found.shape) == right.shape, f"{what} has shape {tuple(found.shape)}, logits {right.shape}")
            require(bool(torch.isfinite(found).all()), f"{what} is not finite")

    def test_a_teacher_that_is_right_gains_on_the_simplest_guess(self) -> None:
        labels = self.labels()
        right = self.right(labels)
        gain = self.task.gain(right, labels, self.names)
        require(gain.rows.shape == (ROWS,), "gain() has not one number for each row")
        require(float(gain.rows.mean()) > 0, "right answers gain nothing")
        guessed = self.task.gain(self.task.guess(labels, right.shape), labels, self.names)
        require(abs(float(guessed.rows.mean())) < 1e-6, "the simplest guess gains on itself")
        scores = self.task.scores(self.task.guess(labels, right.shape), labels)
        require(gain.association in scores, f"{gain.association} is not among the scores")
        require(math.isclose(scores.get(self.task.baseline, gain.baseline), gain.baseline), f"the guess's {self.task.baseline} is another")

    def test_strata_are_whole_numbers_one_a_row(self) -> None:
        strata = self.task.strata(self.labels())
        require(strata is None or (strata.shape == (ROWS,) and np.issubdtype(strata.dtype, np.integer)), "strata() are no whole numbers")

    def test_its_attributes_are_words(self) -> None:
        words: dict[str, Any] = {
            key: getattr(self.task, key) for key in ("name", "problem_type", "pipeline", "simplest", "always", "baseline")
        }
        require(all(isinstance(value, str) and value for value in words.values()), f"not all of these are words: {words}")
        require(bool(self.names) == self.task.named, "named and the names do not agree")


def _tilted(right: np.ndarray) -> np.ndarray:
    """Answers that are wrong of every third row."""
    found = right.copy()
    found[::3] = -found[::3]
    return found


def _spread(none: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """unlabelled() may give (N,) or labels' own shape."""
    return none.reshape(none.shape + (1,) * (labels.ndim - none.ndim))
