"""One learned weight for each of several teachers, against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from math import log

import pytest
import torch
from test_strategies import EVEN, rows
from torch import Tensor

from kdsearch import losses
from kdsearch.api import Batch, Outputs, Signal
from kdsearch.testing import tiny_info, tiny_teacher
from kdsearch_plugins.several import SeveralKD, Trust

INFO = tiny_info(tiny_teacher(layers=1))
STUDENT = EVEN[:1]
UNSURE, RIGHTER = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()


def shown(*teachers: Tensor) -> Outputs:
    each = torch.stack(teachers)
    return Outputs(losses.mixture(each, torch.full((len(each),), 1 / len(each))), teachers=each)


def terms(teacher: Outputs, batch: Batch, trust: Trust | None = None, temperature: float = 1.0, alpha: float = 1.0) -> dict[str, Tensor]:
    assert teacher.teachers is not None
    student = Outputs(torch.zeros(teacher.teachers.shape[1:]))
    return SeveralKD(temperature, alpha).loss(student, teacher, batch, trust or Trust(len(teacher.teachers)), 0.0)


def settled(teachers: tuple[Tensor, ...], batch: Batch, steps: int = 300) -> list[float]:
    """The weights after training."""
    trust = Trust(len(teachers))
    optimiser = torch.optim.AdamW(trust.parameters(), lr=2e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        torch.stack(list(terms(shown(*teachers), batch, trust).values())).sum().backward()
        optimiser.step()
        schedule.step()
    found: list[float] = trust.log_weights().detach().exp().tolist()
    return found


def test_at_the_start_the_teachers_are_followed_alike() -> None:
    # (1/2, 1/2) and (1/4, 3/4): their mean is (3/8, 5/8), and they give the label 1 a probability of 5/8.
    got = terms(shown(UNSURE, RIGHTER), rows((1,)), alpha=0.5)
    kl = 3 / 8 * log(3 / 4) + 5 / 8 * log(5 / 4)
    assert {name: term.item() for name, term in got.items()} == pytest.approx(
        {"soft": 0.5 * kl, "hard": 0.5 * log(2), "trust": -log(5 / 8)}
    )


def test_probabilities_are_softened_before_they_are_mixed_and_weighed_as_they_are() -> None:
    # At T = 2, twice these logits give the same probabilities back; as they are, they say (1/2, 1/2) and (1/10, 9/10).
    got = terms(shown(2 * UNSURE, 2 * RIGHTER), rows((1,)), temperature=2.0)
    kl = 3 / 8 * log(3 / 4) + 5 / 8 * log(5 / 4)
    assert {name: term.item() for name, term in got.items()} == pytest.approx({"soft": 4 * kl, "trust": -log(0.7)})


def test_the_weights_learn_from_labels_and_never_from_the_soft_loss() -> None:
    trust = Trust(2)
    got = terms(shown(UNSURE, RIGHTER), rows((1,)), trust)
    assert not got["soft"].requires_grad
    got["trust"].backward()
    # Of the probability 5/8 that they give the label, 2/5 come from the first and 3/5 from the second; each had 1/2.
    torch.testing.assert_close(trust.paced.grad, torch.tensor([0.1, -0.1]))


def test_the_teacher_that_is_easiest_to_follow_does_not_take_all_the_weight() -> None:
    easy, right = torch.zeros(2, 2), torch.tensor([[9.0, -9.0], [-9.0, 9.0]])
    # An untrained student is just like the first: minimised over the weights, the soft loss would go there.
    weights = torch.tensor([0.5, 0.5], requires_grad=True)
    losses.soft_loss(EVEN, losses.mixture(torch.stack([easy, right]), weights), 1.0).backward()
    assert weights.grad is not None
    assert weights.grad[0] < weights.grad[1]
    # w = (r + 1/8) / (5/4) with r = w / (1/2 + w/2), the second's part of the label's probability: w = 0.822.
    assert settled((easy, right), rows((0, 1))) == pytest.approx([0.178, 0.822], abs=0.01)


def test_no_teacher_falls_below_a_fifth_of_its_share() -> None:
    right = torch.tensor([[9.0, -9.0], [-9.0, 9.0]])
    assert settled((right, -right), rows((0, 1))) == pytest.approx([0.9, 0.1], abs=0.01)


def test_teachers_that_are_right_on_different_rows_are_both_kept() -> None:
    first, second = torch.tensor([[4.0, 0.0], [4.0, 0.0]]), torch.tensor([[0.0, 4.0], [0.0, 4.0]])
    assert settled((first, second), rows((0, 1))) == pytest.approx([0.5, 0.5], abs=0.01)


def test_rows_without_a_label_are_learnt_with_the_weights_there_are_and_leave_them_alone() -> None:
    trust = Trust(2)
    with torch.no_grad():
        trust.paced.copy_(torch.tensor([0.0, log(3)]) / 20)  # weights 1/4 and 3/4
    got = terms(shown(UNSURE, RIGHTER), rows((-100,)), trust)
    # 1/4 (1/2, 1/2) + 3/4 (1/4, 3/4) = (5/16, 11/16)
    assert got["soft"].item() == pytest.approx(5 / 16 * log(5 / 8) + 11 / 16 * log(11 / 8), abs=1e-6)
    got["trust"].backward()
    assert got["trust"].item() == 0.0
    assert trust.paced.grad is not None
    assert not trust.paced.grad.any()
    # Beside one with a label, such a row halves what the batch says of the weights.
    both = terms(shown(UNSURE.repeat(2, 1), RIGHTER.repeat(2, 1)), rows((1, -100)))
    assert both["trust"].item() == pytest.approx(-log(5 / 8) / 2)


def test_of_a_regression_the_numbers_are_mixed() -> None:
    batch = rows((0, 0))
    batch = replace(batch, labels=torch.tensor([1.5, torch.nan]))
    got = terms(shown(torch.ones(2, 1), torch.full((2, 1), 3.0)), batch)
    # They say 2 together. Errors of -1/2 and 3/2, together 1/2: 1/4 by the mean of 1/4 and 9/4; of two rows one has a label.
    assert {name: term.item() for name, term in got.items()} == pytest.approx({"soft": 4.0, "trust": 0.5 * 0.25 / 1.25})


def test_it_takes_more_than_one_teacher() -> None:
    assert not SeveralKD.fits(INFO, frozenset(Signal))
    assert SeveralKD.fits(replace(INFO, teachers=2), frozenset(Signal))
    trust = SeveralKD(1.0, 1.0).build(replace(INFO, teachers=3), INFO)
    assert isinstance(trust, Trust)
    assert trust.log_weights().shape == (3,)
