"""The built-in strategies against numbers worked out by hand; what all strategies owe is in test_builtin_contracts."""

from __future__ import annotations

from dataclasses import replace
from math import log

import numpy as np
import pytest
import torch

from kdsearch.api import Batch, ModelInfo, Outputs, Signal
from kdsearch.modules import StateMaps
from kdsearch.registry import registry
from kdsearch.space.knobs import Knobs, RandomDraw
from kdsearch.testing import tiny_info, tiny_teacher
from kdsearch_plugins.feature import FeatureKD
from kdsearch_plugins.hard import Hard
from kdsearch_plugins.joint import JointKD
from kdsearch_plugins.logit import LogitKD

EVEN = torch.zeros(2, 2)
THREE_TO_ONE = torch.tensor([[0.0, log(3.0)]]).repeat(2, 1)
FORWARD = -log(2) / 4 + 0.75 * log(1.5)  # KL((1/4, 3/4) || (1/2, 1/2))


def rows(labels: tuple[int, ...] = (0, 1)) -> Batch:
    count = len(labels)
    return Batch(torch.ones(count, 3, dtype=torch.long), torch.ones(count, 3, dtype=torch.bool), torch.tensor(labels), torch.arange(count))


def total(terms: dict[str, torch.Tensor]) -> float:
    return sum(float(term) for term in terms.values())


def test_logit_is_alpha_kl_plus_the_rest_of_cross_entropy() -> None:
    got = LogitKD(temperature=1.0, alpha=0.75).loss(Outputs(EVEN), Outputs(THREE_TO_ONE), rows(), None, 0.0)
    assert total(got) == pytest.approx(0.75 * FORWARD + 0.25 * log(2), abs=1e-6)


def test_alpha_zero_is_exactly_hard() -> None:
    student = Outputs(torch.tensor([[0.2, -0.7], [1.3, 0.1]]))
    plain = Hard().loss(student, None, rows(), None, 0.0)["hard"]
    assert LogitKD(temperature=3.0, alpha=0.0).loss(student, Outputs(THREE_TO_ONE), rows(), None, 0.0) == {"hard": plain}


def test_unlabelled_rows_learn_from_the_teacher_alone() -> None:
    got = LogitKD(temperature=1.0, alpha=0.5).loss(Outputs(EVEN), Outputs(THREE_TO_ONE), rows((-100, -100)), None, 0.0)
    assert total(got) == pytest.approx(0.5 * FORWARD, abs=1e-6)


def deep(layers: int) -> ModelInfo:
    return ModelInfo(labels=2, layers=layers, hidden=2, heads=1, vocab=10, provides=frozenset(Signal))


def feature(**changes: object) -> FeatureKD:
    values: dict[str, object] = {"mapping": "identity", "soft": False, "weight": 2.0} | changes
    return FeatureKD(**values)  # type: ignore[arg-type]


def test_feature_compares_states_scaled_by_the_teachers_root_mean_square() -> None:
    # teacher state (2, 2) has root mean square 2: scaled to (1, 1). Student (0, 2) -> (0, 1): squared distance (1 + 0) / 2.
    # The embeddings agree, so the mean over the two pairs is 1/4, times the weight 2.
    twos = torch.full((2, 2), 2.0)
    student = Outputs(EVEN, {(Signal.POOLED, 0): twos, (Signal.POOLED, 1): torch.tensor([[0.0, 2.0], [0.0, 2.0]])})
    teacher = Outputs(THREE_TO_ONE, {(Signal.POOLED, 0): twos, (Signal.POOLED, 2): twos})
    got = feature().loss(student, teacher, rows(), feature().build(deep(2), deep(1)), 0.0)
    assert float(got["feature"]) == pytest.approx(0.5, abs=1e-5)
    assert float(got["hard"]) == pytest.approx(log(2), abs=1e-6)


@pytest.mark.parametrize(("kind", "states"), [("uniform", [0, 3, 6]), ("first", [0, 1, 2]), ("last", [0, 5, 6])])
def test_feature_asks_the_teacher_for_the_states_of_its_layer_map(kind: str, states: list[int]) -> None:
    needs = feature(layer_map=kind).teacher_needs(deep(6), deep(2))
    assert [need.layer for need in needs if need.signal is Signal.POOLED] == states


def test_feature_reads_token_states_when_asked_to() -> None:
    assert {need.signal for need in feature(states="tokens").student_needs(deep(2), deep(1))} == {Signal.LOGITS, Signal.HIDDEN}


def test_a_linear_projection_maps_the_students_width_into_the_teachers() -> None:
    projections = StateMaps([(0, 0), (1, 2)], 3, 5)
    assert projections.maps[0](torch.zeros(4, 3)).shape == (4, 5)


def joint(**changes: float) -> JointKD:
    values: dict[str, float] = {
        "temperature": 1.0,
        "alpha": 0.5,
        "teacher_weight": 0.5,
        "mutual": 0.25,
        "teacher_layers": 1,
        "lr_factor": 0.1,
    }
    return JointKD(**(values | changes))  # type: ignore[arg-type]


def test_joint_gives_each_side_its_own_terms() -> None:
    got = joint().loss(Outputs(EVEN), Outputs(THREE_TO_ONE), rows(), None, 0.0)
    backward = log(2) / 2 - 0.5 * log(1.5)  # KL((1/2, 1/2) || (1/4, 3/4))
    teacher_hard = (log(4) + log(4 / 3)) / 2  # labels 0 and 1 at probabilities 1/4 and 3/4
    expected = {"soft": 0.5 * FORWARD, "hard": 0.5 * log(2), "teacher_hard": 0.5 * teacher_hard, "teacher_soft": 0.125 * backward}
    assert {name: float(term) for name, term in got.items()} == pytest.approx(expected, abs=1e-6)


def test_joint_holds_the_other_side_constant() -> None:
    mine, theirs = EVEN.clone().requires_grad_(), THREE_TO_ONE.clone().requires_grad_()
    terms = joint().loss(Outputs(mine), Outputs(theirs), rows(), None, 0.0)
    (terms["soft"] + terms["hard"]).backward(retain_graph=True)
    assert theirs.grad is None
    mine.grad = None
    (terms["teacher_soft"] + terms["teacher_hard"]).backward()
    assert mine.grad is None
    assert theirs.grad is not None


def test_a_teacher_weight_of_zero_leaves_the_teacher_alone() -> None:
    assert set(joint(teacher_weight=0.0).loss(Outputs(EVEN), Outputs(THREE_TO_ONE), rows(), None, 0.0)) == {"soft", "hard"}


SOFT = ["logit", "feature", "joint", "pkd", "rkd", "contrastive", "assignment", "adaptive", "annealed", "several"]
SOFT += ["attention", "relations", "two_stage"]


@pytest.mark.parametrize("name", SOFT)
def test_a_regression_draws_nothing_that_has_no_effect_on_it(name: str) -> None:
    knobs, info = Knobs(), replace(tiny_info(tiny_teacher(labels=1)), teachers=2)
    strategy = registry.load([], [name]).strategies[name]
    for seed in range(8):
        fields = strategy.suggest(knobs.space(RandomDraw(np.random.default_rng(seed)), name), info, info)
        assert fields["temperature"] in (1.0, None)
        strategy(**fields)
    assert "temperature" not in knobs.declared
    if name == "logit":
        assert set(knobs.declared) == {"alpha"}


def test_logit_of_a_regression_is_the_squared_difference() -> None:
    info = tiny_info(tiny_teacher(labels=1))
    space = Knobs({"alpha": 1.0}).space(RandomDraw(np.random.default_rng(0)), "logit")
    method = LogitKD(**LogitKD.suggest(space, info, info))
    said = Outputs(torch.zeros(2, 1)), Outputs(torch.tensor([[3.0], [1.0]]))
    unlabelled = replace(rows(), labels=torch.full((2,), torch.nan))
    assert total(method.loss(*said, unlabelled, None, 0.0)) == pytest.approx(5.0)  # (9 + 1) / 2
