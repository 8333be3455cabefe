"""What every task has to hold; whoever adds one inherits it and has its tests."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from kdsearch.tasks import Task
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
        require(bool(np.asarray(self.task.known(labels)).all()), "known() says no to labelled rows")
        require(np.asarray(self.task.known(labels)).shape == (ROWS,), "known() has not one answer for each row")
        same = torch.from_numpy(np.asarray(self.task.known(labels)))
        require(bool((self.task.known(torch.from_numpy(labels)) == same).all()), "known() differs between an array and a tensor")
        require(self._loss(right, none) == (0.0, 0.0), "rows without a label have a loss or a gradient")
        half = labels.copy()
        half[::2] = none[::2]
        kept = slice(1, None, 2)
        one, other = self._loss(right, half)[0], self._loss(right[kept], labels[kept])[0]
        require(math.isclose(one, other, rel_tol=1e-5, abs_tol=1e-7), "a row without a label changes the loss of those that have one")

    def test_answers_are_one_a_row(self) -> None:
        labels = self.labels()
        right = self.right(labels)
        require(len(self.task.decode(right, self.names)) == ROWS, "decode() gives not one answer for each row")
        require(len(self.task.predictions(right)) == ROWS, "predictions() gives not one for each row")
        require(right.shape[-1] == self.task.outputs(self.names), f"right() has {right.shape[-1]} outputs, outputs() says otherwise")
        require(self.task.decode(right[:0], self.names) == [], "no rows give answers")

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
        require(gain.association in self.task.scores(right, labels), f"{gain.association} is not among the scores")

    def test_strata_are_whole_numbers_one_a_row(self) -> None:
        strata = self.task.strata(self.labels())
        require(strata is None or (strata.shape == (ROWS,) and np.issubdtype(strata.dtype, np.integer)), "strata() are no whole numbers")

    def test_it_says_what_it_is(self) -> None:
        told: dict[str, Any] = {key: getattr(self.task, key) for key in ("name", "problem_type", "simplest", "baseline")}
        require(all(isinstance(value, str) and value for value in told.values()), f"not all of these are words: {told}")
        require(bool(self.names) == self.task.named, "named and the names do not agree")


def _spread(none: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """unlabelled() may give (N,) or labels' own shape."""
    return none.reshape(none.shape + (1,) * (labels.ndim - none.ndim))
