"""Methods that read nothing but logits, against numbers worked out by hand: dkd, dist, annealed."""

from __future__ import annotations

from dataclasses import replace
from math import log

import pytest
import torch
from test_strategies import EVEN, FORWARD, THREE_TO_ONE, rows, total

from kdsearch.api import Batch, Outputs, Signal
from kdsearch.losses import soft_loss
from kdsearch.testing import tiny_info, tiny_teacher
from kdsearch_plugins.annealed import AnnealedKD
from kdsearch_plugins.dist import Dist
from kdsearch_plugins.dkd import DecoupledKD
from kdsearch_plugins.logit import LogitKD

INFO = tiny_info(tiny_teacher(layers=1))
EVERYTHING = frozenset(Signal)


def numbers(count: int) -> Batch:
    """Rows of a regression, half of them without a label."""
    batch = rows(tuple(range(count)))
    return replace(batch, labels=torch.where(batch.labels % 2 == 0, batch.labels.float(), torch.nan))


# dkd: the teacher says (1/2, 1/4, 1/4), the student (1/3, 1/3, 1/3)
SURE = torch.tensor([[0.5, 0.25, 0.25]]).log()
FLAT = torch.zeros(1, 3)


def dkd(labels: tuple[int, ...], **changes: float) -> float:
    values: dict[str, float] = {"temperature": 1.0, "alpha": 1.0, "beta": 3.0}
    return total(DecoupledKD(**(values | changes)).loss(Outputs(FLAT), Outputs(SURE), rows(labels), None, 0.0))


def test_dkd_weighs_the_target_and_the_others_apart() -> None:
    # Target 0: the others are even on both sides, so NCKD is 0; TCKD is KL((1/2, 1/2) || (1/3, 2/3)).
    assert dkd((0,)) == pytest.approx(0.5 * log(3 / 2) + 0.5 * log(3 / 4), abs=1e-6)
    # Target 1: TCKD is KL((1/4, 3/4) || (1/3, 2/3)); among the others KL((2/3, 1/3) || (1/2, 1/2)).
    tckd = 0.25 * log(3 / 4) + 0.75 * log(9 / 8)
    nckd = 2 / 3 * log(4 / 3) + 1 / 3 * log(2 / 3)
    assert dkd((1,)) == pytest.approx(tckd + 3 * nckd, abs=1e-6)


def test_dkd_takes_the_teachers_answer_as_the_target_of_an_unlabelled_row() -> None:
    assert dkd((-100,)) == pytest.approx(dkd((0,)), abs=1e-6)


def test_dkd_is_the_plain_divergence_when_beta_is_what_it_would_be_there() -> None:
    whole = soft_loss(FLAT, 2 * SURE, 2.0).item()  # T = 2 gives back the teacher's (1/2, 1/4, 1/4)
    apart = DecoupledKD(temperature=2.0, alpha=1.0, beta=0.75).loss(Outputs(FLAT), Outputs(2 * SURE), rows((1,)), None, 0.0)
    assert total(apart) == pytest.approx(whole, abs=1e-6)


def test_dkd_stays_finite_for_a_teacher_without_doubt() -> None:
    student = torch.tensor([[-40.0, 0.0, 40.0]], requires_grad=True)
    loss = DecoupledKD(1.0, 0.5, 2.0).loss(Outputs(student), Outputs(torch.tensor([[60.0, 0.0, -60.0]])), rows((0,)), None, 0.0)
    sum(loss.values()).backward()  # type: ignore[union-attr]
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize(("labels", "dkd_fits", "dist_fits"), [(3, True, True), (2, False, True), (1, False, False)])
def test_dkd_needs_three_classes_and_dist_two(labels: int, dkd_fits: bool, dist_fits: bool) -> None:
    teacher = replace(INFO, labels=labels, task="regression" if labels == 1 else "classification")
    assert DecoupledKD.fits(teacher, EVERYTHING) is dkd_fits
    assert Dist.fits(teacher, EVERYTHING) is dist_fits


# dist: two rows; the student has the classes of each the wrong way round
TEACHER = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]]).log()
STUDENT = TEACHER.flip(1)


def test_dist_is_one_minus_the_correlations_over_classes_and_over_rows() -> None:
    # Over classes, in thirtieths: (5, -1, -4) against (-4, -1, 5): r = (-20 + 1 - 20) / 42 = -13/14 for both rows.
    inter = Dist(temperature=1.0, alpha=1.0, inter=1.0, intra=0.0).loss(Outputs(STUDENT), Outputs(TEACHER), rows(), None, 0.0)
    assert total(inter) == pytest.approx(27 / 14, abs=1e-5)
    # Over rows: r = -1 for the first and last class; the middle one is constant, r = 0: the mean is -2/3.
    intra = Dist(temperature=1.0, alpha=1.0, inter=None, intra=1.0).loss(Outputs(STUDENT), Outputs(TEACHER), rows(), None, 0.0)
    assert total(intra) == pytest.approx(5 / 3, abs=1e-5)


def test_dist_blends_like_every_other_method() -> None:
    got = Dist(temperature=1.0, alpha=0.25, inter=2.0, intra=3.0).loss(Outputs(STUDENT), Outputs(TEACHER), rows((0, 2)), None, 0.0)
    assert {name: float(term) for name, term in got.items()} == pytest.approx(
        {"soft": 0.25 * (2 * 27 / 14 + 3 * 5 / 3), "hard": 0.75 * log(5)}, abs=1e-5
    )


def test_dist_survives_a_batch_of_one_row() -> None:
    student = torch.tensor([[0.5, -0.5]], requires_grad=True)
    terms = Dist(temperature=1.0, alpha=0.5, inter=None, intra=1.0).loss(Outputs(student), Outputs(EVEN[:1]), rows((0,)), None, 0.0)
    sum(terms.values()).backward()  # type: ignore[union-attr]
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


# annealed


def annealed(progress: float, student: torch.Tensor = EVEN, teacher: torch.Tensor = THREE_TO_ONE) -> dict[str, float]:
    method = AnnealedKD(temperature=5.0, alpha=1.0, alpha_end=0.0, until=0.5)
    return {name: float(term) for name, term in method.loss(Outputs(student), Outputs(teacher), rows(), None, progress).items()}


def test_annealed_starts_as_logit_at_the_first_temperature_and_ends_as_its_last_alpha() -> None:
    start = LogitKD(temperature=5.0, alpha=1.0).loss(Outputs(EVEN), Outputs(THREE_TO_ONE), rows(), None, 0.0)
    assert annealed(0.0) == pytest.approx({"soft": float(start["soft"])}, abs=1e-6)
    assert annealed(0.5) == annealed(1.0) == pytest.approx({"hard": log(2)}, abs=1e-6)


def test_annealed_is_halfway_in_temperature_and_alpha_halfway_to_until() -> None:
    # T = 3 there: logits three times those of (1/4, 3/4) give it back, and T^2 = 9.
    got = annealed(0.25, teacher=3 * THREE_TO_ONE)
    assert got == pytest.approx({"soft": 0.5 * 9 * FORWARD, "hard": 0.5 * log(2)}, abs=1e-5)


def test_annealed_learns_a_regression_with_labels_missing() -> None:
    method = AnnealedKD(temperature=5.0, alpha=1.0, alpha_end=0.0, until=1.0)
    answers = torch.zeros(3, 1)
    got = method.loss(Outputs(answers), Outputs(answers + 2), numbers(3), None, 0.5)
    # soft: (0 - 2)^2; hard over the known labels 0 and 2: (0 + 4) / 2.
    assert {name: float(term) for name, term in got.items()} == pytest.approx({"soft": 2.0, "hard": 1.0})
