"""The tasks keep their contract, and the seam fits a task that is not there yet: several labels a text, labels that are vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import worlds
from torch import Tensor
from torch.nn import functional as F

from kdsearch import load_student, tasks
from kdsearch.registry import registry
from kdsearch.space.spec import TrialSpec
from kdsearch.student import trial
from kdsearch.tasks import Gain, Task
from kdsearch.tasks.classification import Classification
from kdsearch.tasks.columns import Columns
from kdsearch.tasks.metrics import error, standard_error
from kdsearch.tasks.regression import Regression
from kdsearch.testing.tasks import ROWS, TaskContract


class TestClassification(TaskContract):
    task = Classification()
    names = ("no", "perhaps", "yes")

    def labels(self) -> np.ndarray:
        return np.arange(ROWS) % 3

    def right(self, labels: np.ndarray) -> np.ndarray:
        return 5 * np.eye(3, dtype=np.float32)[labels]


class TestRegression(TaskContract):
    task = Regression()

    def labels(self) -> np.ndarray:
        return np.linspace(-1, 1, ROWS, dtype=np.float32)

    def right(self, labels: np.ndarray) -> np.ndarray:
        return labels[:, None].copy()


class Multilabel(Task):
    """Several labels a text, or none: labels (N, C) float32 of 0 and 1, NaN where unlabelled; logits (N, C) before a sigmoid each."""

    name: ClassVar[str] = "multilabel"
    qualities: ClassVar[tuple[str, ...]] = ("micro_f1",)
    problem_type: ClassVar[str] = "multi_label_classification"
    named: ClassVar[bool] = True
    probabilities: ClassVar[bool] = True
    simplest: ClassVar[str] = "no label"
    baseline: ClassVar[str] = "share of right answers of no label"

    def read(self, found: Mapping[str, Columns], column: str) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
        given = {role: [set(filter(None, cell.split("|"))) for cell in each.column("label", column)] for role, each in found.items()}
        names = tuple(sorted(set().union(*given["train"])))
        return names, {role: np.array([[name in row for name in names] for row in rows], np.float32) for role, rows in given.items()}

    def unlabelled(self, rows: int) -> np.ndarray:
        return np.full(rows, np.nan, np.float32)

    def known(self, labels: Any) -> Any:
        return (labels == labels).all(-1)

    def strata(self, labels: np.ndarray) -> None:
        return None

    def outputs(self, names: Sequence[str]) -> int:
        return len(names)

    def align(self, outputs: Sequence[str], names: Sequence[str], given: Sequence[str] | None, where: str, key: str) -> tuple[int, ...]:
        return Classification().align(outputs, names, given, where, key)

    def hard_loss(self, logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
        known = self.known(labels)
        return F.binary_cross_entropy_with_logits(logits[known], labels[known]) if bool(known.any()) else logits.sum() * 0.0

    def targets(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()

    def targets_of_labels(self, labels: Tensor, outputs: int) -> Tensor:
        return labels

    def predictions(self, logits: np.ndarray) -> np.ndarray:
        return logits > 0

    def decode(self, logits: np.ndarray, names: Sequence[str]) -> list[list[str]]:
        return [[name for name, there in zip(names, row, strict=True) if there] for row in self.predictions(logits)]

    def scores(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        said, there = self.predictions(logits), labels > 0.5
        return {"micro_f1": float(2 * (said & there).sum() / max(1, said.sum() + there.sum()))}

    def guess(self, labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        return np.full(shape, -1.0, np.float32)

    def gain(self, logits: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> Gain:
        right, guessed = ((said == (labels > 0.5)).mean(1) for said in (self.predictions(logits), np.zeros_like(labels, bool)))
        return Gain(right - guessed, float(guessed.mean()), "right answers", "no label", "micro_f1")

    def row_errors(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return (self.predictions(logits) != (labels > 0.5)).mean(1)

    def of_errors(self, mean: float) -> float:
        return 1 - mean


NAMES = ("class 0", "class 1", "class 2")


class TestMultilabel(TaskContract):
    task = Multilabel()
    names = NAMES

    def labels(self) -> np.ndarray:
        return np.array([[row & 1, row & 2, row & 4] for row in range(ROWS)], bool).astype(np.float32)

    def right(self, labels: np.ndarray) -> np.ndarray:
        return (6 * labels - 3).astype(np.float32)


def test_a_student_of_several_labels_a_text_is_trained_scored_saved_and_loaded_without_a_line_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(tasks.TASKS, "multilabel", Multilabel())
    loaded = registry.load(["mlp", "transformer"], ["hard"])
    assets = worlds.assets(worlds.good_teacher(), plugins=loaded.shipped())

    def has(part: Any) -> np.ndarray:
        """A text has each class that any of its words belongs to: one, two or all three."""
        words = [np.asarray(part.tokens.ids[a:b]) for a, b in zip(part.tokens.offsets, part.tokens.offsets[1:], strict=False)]
        return np.array([[((row - 4) % 3 == at)[row >= 4].any() for at in range(3)] for row in words], np.float32)

    learnt, judged = (replace(part, labels=has(part)) for part in (assets.learnt, assets.validation))
    assets = replace(
        assets, task="multilabel", quality="micro_f1", learnt=learnt, validation=judged, info=replace(assets.info, task="multilabel")
    )
    bag = {"vocabulary": 100, "bigrams": 0, "depth": 1, "dimension": 16, "hidden": 16, "start": "random"}
    looks: list[float] = []
    result = trial.run(
        TrialSpec("mlp", bag, "hard", {}, {"lr": 1e-3}, 40.0, 1), assets, lambda seen: bool(looks.append(seen.scores["micro_f1"]))
    )
    assert (result.status, result.message) == ("complete", None)
    every = Multilabel().scores(np.ones_like(judged.labels), judged.labels)["micro_f1"]  # what saying all three to every text gives
    assert result.scores["micro_f1"] > every + 0.05
    assert len(looks) == 3
    folder = tmp_path / "student"
    folder.mkdir()
    for name, content in result.files.items():
        (folder / name).write_bytes(content)
    student = load_student(folder)
    assert student.labels == NAMES
    assert student.predict(["w0 w3 w6", "w0 w1 w2 w3 w4 w5"])[1] == list(NAMES)
    assert student.predict(["w0 w3 w6"]) == [["class 0"]]


def test_labels_that_are_lists_are_read_by_their_task_alone() -> None:
    table = Columns("data.files.train: a.csv", "the first below the header", ("label",), {"label": ["b|a", "", "b"]}, 3)
    names, labels = Multilabel().read({"train": table}, "label")
    assert names == ("a", "b")
    assert labels["train"].tolist() == [[1, 1], [0, 0], [0, 1]]  # a row without a label is a row


def test_logits_for_each_token_with_a_mask_have_the_loss_of_their_labelled_tokens() -> None:
    # (B, S, C) logits and (B, S) labels, -100 where padded: the rows of a classification, once flattened.
    logits, labels = torch.randn(2, 3, 4), torch.tensor([[0, 1, -100], [3, -100, -100]])
    flat = Classification().hard_loss(logits.flatten(0, 1), labels.flatten())
    alone = F.cross_entropy(torch.stack([logits[0, 0], logits[0, 1], logits[1, 0]]), torch.tensor([0, 1, 3]))
    assert flat.item() == pytest.approx(alone.item(), rel=1e-6)


def test_errors_and_their_noise_know_a_share_of_rows_from_a_correlation() -> None:
    assert (error("accuracy", 0.9), error("mcc", 0.9)) == pytest.approx((0.1, 0.05))
    assert standard_error("accuracy", 0.8, 100) == pytest.approx(0.04)
    assert standard_error("pearson", 0.6, 101) == pytest.approx(0.064)
