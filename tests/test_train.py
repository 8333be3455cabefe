"""The training loop and its batches."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn

from kdsearch import tasks
from kdsearch.api import Batch, Need, Outputs
from kdsearch.data.tokens import Tokens
from kdsearch.training import loop
from kdsearch.training.loop import NotFinite, OutOfTime, Recipe, Rows, bucketed, fit, groups, in_order
from kdsearch.training.target_scaling import Unit, output_map


def tokens(*rows: list[int], types: list[list[int]] | None = None) -> Tokens:
    flat = np.array([piece for row in rows for piece in row], np.int32)
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    flat_types = None if types is None else np.array([kind for row in types for kind in row], np.int8)
    return Tokens(flat, offsets, flat_types)


def test_a_batch_is_padded_to_its_longest_row() -> None:
    rows = Rows(tokens([5, 6], [7], [8, 9, 10]), np.array([0, 1, 0]), pad=99, device=torch.device("cpu"))
    batch = rows.batch(np.array([1, 0]))
    assert batch.ids.tolist() == [[7, 99], [5, 6]]
    assert batch.mask.tolist() == [[True, False], [True, True]]
    assert batch.labels.tolist() == [1, 0]
    assert batch.example.tolist() == [1, 0]
    assert batch.types is None


def test_token_types_of_pairs_are_kept() -> None:
    rows = Rows(tokens([5, 6], [7], types=[[0, 1], [0]]), np.array([0, 1]), pad=0, device=torch.device("cpu"))
    types = rows.batch(np.array([0, 1])).types
    assert types is not None
    assert types.tolist() == [[0, 1], [0, 0]]


def test_an_epoch_has_every_row_once_in_batches_of_near_equal_length() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 60, 1000)
    batches = list(bucketed(lengths, 32, rng))
    assert sorted(np.concatenate(batches)) == list(range(1000))
    padded = sum(lengths[rows].max() * len(rows) for rows in batches)
    assert padded < 1.1 * lengths.sum()  # unsorted batches of these lengths pad by some 90 %


def test_a_pass_without_gradients_covers_every_row_and_bounds_its_batches() -> None:
    lengths = np.array([10, 3, 7, 200, 1])
    batches = list(in_order(lengths, tokens_per_batch=20))
    assert sorted(np.concatenate(batches)) == [0, 1, 2, 3, 4]
    assert batches[0].tolist() == [3]


def test_tables_and_vectors_do_not_decay() -> None:
    module = nn.Sequential(nn.Embedding(4, 2), nn.Linear(2, 3))
    shapes = {group["weight_decay"]: [tuple(p.shape) for p in group["params"]] for group in groups(module, 0.1, 0.01)}
    assert shapes == {0.01: [(3, 2)], 0.0: [(4, 2), (3,)]}


def test_layers_further_down_learn_more_slowly() -> None:
    module = nn.Sequential(nn.Embedding(4, 2), nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]), nn.Linear(2, 3))
    rates = {id(weight): group["lr"] for group in groups(module, 1.0, 0.0, 0.5) for weight in group["params"]}
    table, layers, head = module
    assert isinstance(layers, nn.ModuleList)
    lower, upper = layers
    got = [rates[id(weight)] for weight in (head.weight, upper.weight, lower.weight, table.weight)]
    assert got == [1.0, 0.5, 0.25, 0.125]


def test_what_stands_between_the_tables_and_the_lowest_layer_learns_as_slowly_as_the_tables() -> None:
    table, norm, project = nn.Embedding(4, 2), nn.LayerNorm(2), nn.Linear(2, 3)
    layers, head = nn.ModuleList([nn.Linear(3, 3)]), nn.Linear(3, 1)
    module = nn.Sequential(nn.ModuleDict({"words": table, "norm": norm}), project, nn.Sequential(layers), head)
    rates = {id(weight): group["lr"] for group in groups(module, 1.0, 0.0, 0.5) for weight in group["params"]}
    for part, rate in ((table, 0.25), (norm, 0.25), (project, 0.25), (layers, 0.5), (head, 1.0)):
        assert [rates[id(weight)] for weight in part.parameters()] == [rate] * len(list(part.parameters()))


def test_the_unit_of_labels_is_their_mean_and_spread_without_those_that_are_missing() -> None:
    regression = tasks.of("regression")
    scaling = regression.scaling(np.array([58.0, np.nan, 120.0], np.float32))
    assert scaling is not None
    unit = Unit(*scaling)
    assert (unit.mean, unit.sd) == (89.0, 31.0)
    np.testing.assert_array_equal(
        unit.standard(np.array([58.0, np.nan, 120.0, 89.0], np.float32)), np.array([-1, np.nan, 1, 0], np.float32)
    )
    np.testing.assert_array_equal(unit.own(np.array([[-1.0], [2.0]], np.float32)), np.array([[58.0], [151.0]], np.float32))
    assert (regression.scaling(np.array([0.1, 0.1, 0.1], np.float32)) or (0.0, 0.0))[1] == 1.0
    assert regression.scaling(np.array([np.nan], np.float32)) is None
    assert tasks.of("classification").scaling(np.array([0, 1])) is None


def test_a_unit_folded_into_a_linear_map_and_out_again_leaves_it_as_it_was() -> None:
    linear = nn.Linear(1, 1)
    nn.init.constant_(linear.weight, 2.0)
    nn.init.constant_(linear.bias, 1.0)
    Unit(mean=89.0, sd=31.0).fold(linear)  # 31 (2 x + 1) + 89
    assert (linear.weight.item(), linear.bias.item()) == (62.0, 120.0)
    Unit(mean=89.0, sd=31.0).unfold(linear)
    assert (linear.weight.item(), linear.bias.item()) == pytest.approx((2.0, 1.0), abs=1e-6)


class Answering(nn.Module):
    """Answers with what `body` makes of each row's ids as numbers, (B, S) -> (B, 1)."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.aside = nn.Linear(2, 1)  # a later map of as many outputs, which is not the answer

    def forward(self, batch: Batch, _needs: Sequence[Need]) -> Outputs:
        numbers = batch.ids.float()
        self.aside(numbers)
        return Outputs(self.body(numbers))


class Stretching(Answering):
    def rescale(self, scale: float, shift: float) -> None:
        self.told = (scale, shift)


def test_the_output_map_is_the_linear_map_whose_answer_is_the_students() -> None:
    batch = Rows(tokens([5, 6], [7, 8]), np.zeros(2, np.float32), pad=0, device=torch.device("cpu")).batch(np.array([0, 1]))
    last = nn.Linear(3, 1)
    assert output_map(Answering(nn.Sequential(nn.Linear(2, 3), last)), batch) is last
    # Nothing to fold into: the answer is not the map's, or the map has no place for a mean. A module may then say how.
    for body in (nn.Sequential(nn.Linear(2, 1), nn.Sigmoid()), nn.Linear(2, 1, bias=False)):
        assert output_map(Answering(body), batch) is None
        own = Stretching(body)
        found = output_map(own, batch)
        assert found is own
        Unit(mean=89.0, sd=31.0).fold(found)
        assert own.told == (31.0, 89.0)


def fitted(recipe: Recipe, *, rows: int = 64, **more: object) -> tuple[nn.Linear, list[dict[str, float]], list[float]]:
    torch.manual_seed(0)
    module = nn.Linear(2, 1)
    data = torch.randn(rows, 2)
    target = data @ torch.tensor([[1.0], [-2.0]])
    seen: list[float] = []

    def step(chosen: np.ndarray, progress: float) -> dict[str, torch.Tensor]:
        seen.append(progress)
        return {"mse": (module(data[chosen]) - target[chosen]).square().mean()}

    history = fit(step, groups(module, recipe.lr, 0.0), np.ones(rows, np.int64), recipe, seed=0, **more)  # type: ignore[arg-type]
    return module, history, seen


def test_the_loss_comes_down_and_is_told_twenty_times() -> None:
    module, history, seen = fitted(Recipe(lr=0.1, epochs=40, batch_size=16, weight_decay=0.0))
    assert len(seen) == 160
    assert [round(entry["share"], 2) for entry in history] == [round(0.05 * at, 2) for at in range(1, 21)]
    assert history[-1]["mse"] < 1e-3
    assert module.weight.detach().tolist()[0] == pytest.approx([1.0, -2.0], abs=0.05)


def test_the_learning_rate_warms_up_and_decays_to_nothing() -> None:
    rates: list[float] = []
    original = torch.optim.AdamW.step

    def watch(self: torch.optim.AdamW, *args: object) -> object:
        rates.append(self.param_groups[0]["lr"])
        return original(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", watch)
        fitted(Recipe(lr=1.0, epochs=5, batch_size=16, warmup=0.1))
    assert len(rates) == 20
    assert rates[:3] == pytest.approx([0.5, 1.0, 1.0])
    assert rates[-1] == pytest.approx(1 / 18)
    assert rates[2:] == sorted(rates[2:], reverse=True)


def test_rungs_fall_at_their_shares_and_may_end_the_training() -> None:
    shares: list[float] = []

    def stop_at_half(passed: Sequence[float]) -> bool:
        shares.extend(passed)
        return passed[-1] >= 0.5

    _, _, seen = fitted(Recipe(lr=0.1, epochs=10, batch_size=16), rungs=(0.25, 0.5, 0.75), on_rung=stop_at_half)
    assert shares == [0.25, 0.5]
    assert len(seen) == 20


def test_rungs_that_one_step_passes_are_told_together() -> None:
    told: list[Sequence[float]] = []

    def go_on(passed: Sequence[float]) -> bool:
        told.append(passed)
        return False

    # 4 steps: after the first a quarter of the budget is used, after the second a half, after the third three quarters.
    fitted(Recipe(lr=0.1, epochs=1, batch_size=16), rungs=(0.05, 0.1, 0.25, 0.3, 0.7, 0.8, 1.0), on_rung=go_on)
    assert told == [[0.05, 0.1, 0.25], [0.3], [0.7]]


def test_the_same_seed_gives_the_same_weights() -> None:
    one, _, _ = fitted(Recipe(lr=0.1, epochs=2))
    other, _, _ = fitted(Recipe(lr=0.1, epochs=2))
    assert torch.equal(one.weight, other.weight)


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    with pytest.raises(NotFinite), np.errstate(all="ignore"):
        fitted(Recipe(lr=1e30, epochs=10, batch_size=16))


def test_the_deadline_ends_the_training() -> None:
    with pytest.raises(OutOfTime):
        fitted(Recipe(lr=0.1), deadline=time.monotonic() - 1)


@pytest.mark.parametrize(
    ("able", "fast"), [({}, False), ({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx512_f": True}, False)]
)
def test_a_cpu_is_fast_in_bfloat16_when_it_has_the_instructions(able: dict[str, bool], fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert loop.fast_bfloat16(torch.device("cpu")) is fast
    with loop.mixed(torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is (torch.bfloat16 if fast else torch.float32)
    with loop.mixed(torch.device("cpu"), wanted=False):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is torch.float32


@pytest.mark.parametrize(("most", "expected"), [(10.0, [3.0, 4.0]), (2.5, [1.5, 2.0])])
def test_gradients_are_scaled_together_when_their_norm_is_too_large_and_only_then(most: float, expected: list[float]) -> None:
    parameters = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0]), torch.tensor([4.0])  # norm 5
    loop.clip(parameters, most)
    found = [float(parameter.grad) for parameter in parameters if parameter.grad is not None]
    assert found == pytest.approx(expected, rel=1e-5)
