"""The tasks keep their contract, and the seam fits a task that is not there yet: several labels a text, labels that are vectors."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any, ClassVar, Literal

import deploying
import numpy as np
import pytest
import torch
import worlds
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F

from kdsearch import load_student, losses, tasks
from kdsearch.api import Batch, Outputs, Signal
from kdsearch.data.tokens import Table
from kdsearch.deploy.pick import Export, pick
from kdsearch.errors import InputError
from kdsearch.evaluation import analysis, evidence, statistics
from kdsearch.registry import registry
from kdsearch.results.choose import Rule
from kdsearch.space.spec import TrialSpec
from kdsearch.student import trial
from kdsearch.student.assets import Assets, Part
from kdsearch.tasks import Gain, Task
from kdsearch.tasks.classification import Classification
from kdsearch.tasks.columns import Columns
from kdsearch.tasks.metrics import error, standard_error
from kdsearch.tasks.regression import Regression
from kdsearch.teacher import gate
from kdsearch.testing.tasks import ROWS, TaskContract
from kdsearch_plugins.joint import JointKD
from kdsearch_plugins.logit import LogitKD
from kdsearch_plugins.mlp import Mlp


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
    qualities: ClassVar[tuple[str, ...]] = ("micro_f1", "exact_match")
    exact: ClassVar[str] = "exact_match"
    problem_type: ClassVar[str] = "multi_label_classification"
    activation: ClassVar[Literal["sigmoid"]] = "sigmoid"
    exclusive: ClassVar[bool] = False
    named: ClassVar[bool] = True
    simplest: ClassVar[str] = "no label"
    always: ClassVar[str] = "no label"
    baseline: ClassVar[str] = "fraction of right answers"

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

    def holds(self, labels: np.ndarray, number: int) -> np.ndarray:
        return labels[:, number] > 0.5

    def outputs(self, names: Sequence[str]) -> int:
        return len(names)

    def align(self, outputs: Sequence[str], names: Sequence[str], given: Sequence[str] | None, where: str, key: str) -> tuple[int, ...]:
        return Classification().align(outputs, names, given, where, key)

    def hard_loss(self, logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
        known = self.known(labels)
        return F.binary_cross_entropy_with_logits(logits[known], labels[known]) if bool(known.any()) else logits.sum() * 0.0

    def targets_of_labels(self, labels: Tensor, outputs: int) -> Tensor:
        return labels

    def predictions(self, logits: np.ndarray) -> np.ndarray:
        return (logits > 0).astype(np.float32)

    def readable(self, labels: np.ndarray, names: Sequence[str]) -> list[list[str]]:
        return [[name for name, there in zip(names, row, strict=True) if there] for row in labels > 0.5]

    def written(self, answer: list[str]) -> str:
        return "|".join(answer)

    def scores(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        said = self.predictions(logits)
        both, every = float((said * labels).sum()), float(said.sum() + labels.sum())
        return {"micro_f1": 2 * both / max(1.0, every), "exact_match": float((said == labels).all(1).mean())}

    def guess(self, labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        return np.full(shape, -1.0, np.float32)

    def gain(self, logits: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> Gain:
        right, guessed = ((said == labels).mean(1) for said in (self.predictions(logits), np.zeros_like(labels)))
        return Gain(right - guessed, float(guessed.mean()), "right answers", "no label", "micro_f1")

    def row_errors(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return np.asarray((self.predictions(logits) != labels).mean(1))

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


@pytest.fixture
def multilabel(monkeypatch: pytest.MonkeyPatch) -> Multilabel:
    """The task, in the table while a test runs."""
    task = Multilabel()
    monkeypatch.setitem(tasks.TASKS, task.name, task)
    return task


@pytest.fixture
def world(multilabel: Multilabel) -> Assets:
    """A text has each class that any of its words belongs to: one, two or all three."""
    found = worlds.assets(worlds.good_teacher(steps=1), plugins=registry.load(["mlp"], ["hard"]).shipped())

    def part(rows: Part) -> Part:
        words = [np.asarray(rows.tokens.ids[a:b]) for a, b in itertools.pairwise(rows.tokens.offsets)]
        labels = np.array([[((row - 4) % 3 == at)[row >= 4].any() for at in range(3)] for row in words], np.float32)
        return replace(rows, labels=labels)

    return replace(
        found,
        task="multilabel",
        quality="micro_f1",
        info=replace(found.info, task="multilabel"),
        train_set=part(found.train_set),
        validation=part(found.validation),
    )


def test_a_student_of_several_labels_a_text_is_trained_scored_saved_and_loaded_without_a_line_elsewhere(
    multilabel: Multilabel, world: Assets, tmp_path: Path
) -> None:
    bag = {"vocabulary": 100, "bigrams": 0, "depth": 1, "dimension": 16, "hidden": 16, "start": "random"}
    looks: list[float] = []
    result = trial.run(
        TrialSpec("mlp", bag, "hard", {}, {"lr": 1e-3}, 40.0, 1), world, lambda seen: bool(looks.append(seen.scores["micro_f1"]))
    )
    assert (result.status, result.message, len(looks)) == ("complete", None, 3)
    labels = world.validation.labels
    every = multilabel.scores(np.ones_like(labels), labels)["micro_f1"]  # what saying all three to every text gives
    assert result.scores["micro_f1"] > every + 0.05
    for name, content in result.files.items():
        (tmp_path / name).write_bytes(content)
    student = load_student(tmp_path)
    assert student.labels == NAMES
    assert student.predict(["w0 w3 w6", "w0 w1 w2 w3 w4 w5"])[1] == list(NAMES)
    assert student.predict(["w0 w3 w6"]) == [["class 0"]]
    assert student.predict_proba(["w0 w1 w2 w3 w4 w5"]).sum() > 1.5  # each of its own, not shares of 1
    assert student.predict_proba([]).shape == (0, 3)


def test_each_label_is_softened_on_its_own_by_hand(multilabel: Multilabel) -> None:
    # The teacher gives the labels 3/4 and 1/2, the student 1/2 and 1/2: KL 3/4 ln(3/2) + 1/4 ln(1/2) of the first, 0 of the second.
    teacher = torch.tensor([[log(3.0), 0.0]])
    batch = Batch(torch.ones(1, 1), torch.ones(1, 1), torch.zeros(1, 2), torch.zeros(1), task="multilabel")
    expected = (0.75 * log(1.5) + 0.25 * log(0.5)) / 2
    student, taught = Outputs(torch.zeros(1, 2)), Outputs(teacher)
    for strategy in (LogitKD(1.0, 1.0), JointKD(1.0, 1.0, 0.0, 0.0, 0, 0.1)):
        assert strategy.loss(student, taught, batch, None, 0.0)["soft"].item() == pytest.approx(expected)
    assert losses.logit_terms(student, taught, batch, 1.0, 1.0)["soft"].item() == pytest.approx(expected)
    mixed = losses.mixture(torch.stack([teacher, torch.zeros(1, 2)]), torch.tensor([0.5, 0.5]), task="multilabel")
    assert mixed.sigmoid()[0].tolist() == pytest.approx([5 / 8, 1 / 2])


def test_what_takes_one_label_of_several_for_granted_refuses_a_task_of_many(world: Assets) -> None:
    info, provides = replace(world.info, teachers=2), frozenset(Signal)
    built_in = registry.strategies()
    assert {name for name, cls in built_in.items() if not cls.fits(info, provides)} == {"dist", "dkd", "several"}
    two = Mlp(100, 0, 0, 2, 0, "random")
    student = two.build(replace(world.info, labels=2))  # two labels that are there or not are two numbers; of two classes one would decide
    assert two.size(replace(world.info, labels=2)) == sum(each.numel() for each in student.parameters()) == 202


@pytest.mark.parametrize("quality", Multilabel.qualities)
def test_a_finalist_of_a_new_task_is_measured_with_intervals(multilabel: Multilabel, quality: str) -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((60, 3)) < 0.5).astype(np.float32)
    teacher, one, other, control = ((6 * labels - 3 + noise * rng.normal(size=(60, 3))).astype(np.float32) for noise in (1, 2, 2, 6))
    student, without = evidence.judge("multilabel", quality, labels, [[one, other], [control]])
    best = evidence.judge_one("multilabel", quality, labels, teacher)
    assert student.observed.tolist() == [multilabel.scores(each, labels)[quality] for each in (one, other)]
    assert student.ci95[0] < student.observed.mean() < student.ci95[1]
    if quality == "exact_match":  # a share of rows has Wilson's interval
        assert best.ci95 == statistics.wilson(float((multilabel.row_errors(teacher, labels) == 0).mean()), 60)
    scores = [multilabel.scores(each, labels) for each in (one, other)]
    block = evidence.finalist(3, quality, evidence.Seeds((5, 6), tuple(scores), (one, other)), student, without, best, student)
    assert block["gain"]["value"] > 0


def test_what_changes_beside_a_teacher_is_told_of_a_new_task(multilabel: Multilabel) -> None:
    labels = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 0]] * 20, np.float32)
    teacher = (6 * labels - 3).astype(np.float32)
    student = teacher.copy()
    student[2::4, 2] = -1.0  # of every fourth text it does not see the third label
    table = Table(["a text"] * 80, None, labels)
    found = analysis.compare("multilabel", NAMES, table, table, student, teacher, (student, teacher, labels))
    assert found["agreement"]["labels"] == 0.75
    assert [each["rows"] for each in found["classes"]["student"]] == [40, 40, 20]
    assert [each["recall"] for each in found["classes"]["student"]] == [1.0, 1.0, 0.0]
    assert found["calibration"]["teacher"]["ece"] == pytest.approx(1 - 1 / (1 + math.exp(-3)))  # always right, and that sure
    assert found["disagreements"][0] == {"row": 2, "label": list(NAMES[1:]), "student": ["class 1"], "teacher": list(NAMES[1:])}
    assert max(found["slices"], key=lambda each: each["lost"])["slice"] == "class 2"


def test_a_student_of_a_new_task_is_exported_and_its_script_joins_labels(multilabel: Multilabel, tmp_path: Path) -> None:
    study = deploying.make(tmp_path, "multilabel")
    done = pick(study, Rule(), Export(tmp_path / "out", int8=True, max_drop=5.0), Console(quiet=True))
    told = {check["what"]: (check["passed"], check["detail"]) for check in done.verdict["checks"]}
    assert all(passed for passed, _ in told.values()), told
    assert "64 of 64 labels the same" in told["loads with transformers"][1]
    assert done.verdict["int8"]["chosen"]["agreement"] > 0.8
    texts, student = worlds.texts(40)[0], load_student(done.folder)
    command = [sys.executable, str(done.folder / "predict.py"), "--model", "fp32", "--scores"]
    run = subprocess.run(command, input="\n".join(texts), capture_output=True, text=True, check=True)
    answers, *scores = zip(*(line.split("\t") for line in run.stdout.splitlines()), strict=True)
    assert list(answers) == [multilabel.written(each) for each in student(texts)]
    assert len({answer.count("|") for answer in answers}) > 1
    np.testing.assert_allclose(np.array(scores, float).T, student.predict_proba(texts), atol=1e-3)


def test_a_teacher_of_a_new_task_passes_the_gate_where_it_knows_something(multilabel: Multilabel) -> None:
    labels = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 0]] * 20, np.float32)
    order = range(len(NAMES))
    found = gate.check(6 * labels - 3, labels, NAMES, order, "multilabel", "here", tuned=False, final=True)
    assert (found.gain, found.baseline) == pytest.approx((5 / 12, 7 / 12))
    with pytest.raises(InputError, match="nothing to teach: right answers on 80 validation rows, no better than no label"):
        gate.check(np.full_like(labels, -1), labels, NAMES, order, "multilabel", "here", tuned=False, final=True)
    rows = gate.sample(labels, 8)
    assert np.unique(labels[rows], axis=0, return_counts=True)[1].tolist() == [2, 2, 2, 2]  # every set of labels has its share


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
