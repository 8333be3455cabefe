"""Numbers worked out by hand. For two classes softmax((0, ln 3)) = (1/4, 3/4), and softmax((0, 0)) = (1/2, 1/2)."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
import torch

from kdsearch import losses
from kdsearch.space.knobs import Knobs, RandomDraw
from kdsearch.testing import tiny_info, tiny_teacher

EVEN = torch.zeros(1, 2)
THREE_TO_ONE = torch.tensor([[0.0, log(3.0)]])


def test_kl_is_teacher_against_student_summed_over_classes() -> None:
    # 1/4 ln((1/4)/(1/2)) + 3/4 ln((3/4)/(1/2)) = -ln2/4 + 3/4 ln(3/2)
    expected = -log(2) / 4 + 0.75 * log(1.5)
    assert losses.soft_loss(EVEN, THREE_TO_ONE, 1.0).item() == pytest.approx(expected, abs=1e-6)


def test_kl_is_scaled_by_the_square_of_the_temperature() -> None:
    at_two = losses.soft_loss(2 * EVEN, 2 * THREE_TO_ONE, 2.0)  # the same softened probabilities as at T = 1
    assert at_two.item() == pytest.approx(4 * losses.soft_loss(EVEN, THREE_TO_ONE, 1.0).item(), rel=1e-6)


def test_the_batch_is_averaged_over_rows_alone() -> None:
    twice = losses.soft_loss(EVEN.repeat(2, 1), THREE_TO_ONE.repeat(2, 1), 1.0)
    assert twice.item() == pytest.approx(losses.soft_loss(EVEN, THREE_TO_ONE, 1.0).item(), rel=1e-6)


def test_soft_cross_entropy_against_an_even_student_is_ln_2() -> None:
    assert losses.soft_loss(EVEN, THREE_TO_ONE, 1.0, "soft_ce").item() == pytest.approx(log(2), abs=1e-6)


def test_soft_cross_entropy_has_the_gradient_of_kl() -> None:
    student = torch.tensor([[0.3, -1.0]], requires_grad=True)
    (kl,) = torch.autograd.grad(losses.soft_loss(student, THREE_TO_ONE, 3.0), student)
    (ce,) = torch.autograd.grad(losses.soft_loss(student, THREE_TO_ONE, 3.0, "soft_ce"), student)
    torch.testing.assert_close(kl, ce)


def test_mse_of_probabilities_is_summed_over_classes() -> None:
    # (1/2 - 1/4)^2 + (1/2 - 3/4)^2 = 1/8
    assert losses.soft_loss(EVEN, THREE_TO_ONE, 1.0, "mse_probabilities").item() == pytest.approx(1 / 8, abs=1e-7)


def test_mse_of_logits_ignores_a_shift_of_all_classes() -> None:
    # centred teacher: (-1, 1); the mean of the squares is 1
    teacher = torch.tensor([[5.0, 7.0]])
    assert losses.soft_loss(EVEN, teacher, None, "mse_logits").item() == pytest.approx(1.0)
    assert losses.soft_loss(EVEN + 9, teacher, None, "mse_logits").item() == pytest.approx(1.0)


def test_symmetric_mixes_both_directions() -> None:
    backward = log(2) / 2 - 0.5 * log(1.5)  # 1/2 ln((1/2)/(1/4)) + 1/2 ln((1/2)/(3/4))
    forward = -log(2) / 4 + 0.75 * log(1.5)
    got = losses.soft_loss(EVEN, THREE_TO_ONE, 1.0, "symmetric", 0.25).item()
    assert got == pytest.approx(0.25 * forward + 0.75 * backward, abs=1e-6)


def test_a_high_temperature_tends_to_logit_matching() -> None:
    # T^2 KL -> sum over classes of squared centred differences / (2 C), so half of mse_logits (Hinton et al. 2015, section 2.1)
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(16, 5, generator=generator), torch.randn(16, 5, generator=generator)
    limit = losses.soft_loss(student, teacher, None, "mse_logits") / 2
    hot = losses.soft_loss(student.double(), teacher.double(), 1e4)
    assert hot.item() == pytest.approx(limit.item(), rel=1e-3)


def test_a_regression_takes_the_squared_difference() -> None:
    assert losses.soft_loss(torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [2.0]]), 4.0).item() == pytest.approx(2.0)


def test_a_regression_does_not_draw_a_temperature() -> None:
    knobs, classes = Knobs(), tiny_info(tiny_teacher())
    space = knobs.space(RandomDraw(np.random.default_rng(0)), "any")
    assert losses.temperature(space, tiny_info(tiny_teacher(labels=1))) == 1.0
    assert not knobs.declared
    assert 1.0 < losses.temperature(space, classes) <= 8.0


def test_alpha_zero_leaves_the_hard_loss_alone() -> None:
    soft, hard = torch.tensor(7.0), torch.tensor(3.0)
    assert losses.blend(soft, hard, 0.0) == {"hard": hard}
    assert sum(losses.blend(soft, hard, 0.25).values()) == pytest.approx(0.25 * 7 + 0.75 * 3)


def test_token_states_are_averaged_over_real_tokens() -> None:
    student, teacher = torch.zeros(1, 2, 2), torch.tensor([[[1.0, 3.0], [100.0, 100.0]]])
    mask = torch.tensor([[True, False]])
    assert losses.masked_mse(student, teacher, mask).item() == pytest.approx((1 + 9) / 2)


@pytest.mark.parametrize(("form", "temperature", "direction"), [("kl", None, None), ("symmetric", 1.0, None), ("nonsense", 1.0, None)])
def test_a_form_without_what_it_needs_is_refused(form: str, temperature: float | None, direction: float | None) -> None:
    with pytest.raises(ValueError, match=form):
        losses.soft_loss(EVEN, THREE_TO_ONE, temperature, form, direction)
