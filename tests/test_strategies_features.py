"""Methods that read states, attention or values, against numbers worked out by hand."""

from __future__ import annotations

import copy
from dataclasses import replace
from math import exp, log, sqrt

import numpy as np
import pytest
import torch
from test_strategies import EVEN, FORWARD, THREE_TO_ONE, rows
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from kdsearch.api import ModelInfo, Need, Outputs, Signal, Strategy
from kdsearch.config.schema import StudyConfig
from kdsearch.errors import InputError
from kdsearch.modules import StateMaps
from kdsearch.registry import registry
from kdsearch.registry.registry import Plugins
from kdsearch.space.candidates import Candidate, Candidates
from kdsearch.space.explore import explore
from kdsearch.space.knobs import Knobs, RandomDraw
from kdsearch.teacher.encoder import Encoder
from kdsearch.testing import eight_sentences, load_one, tiny_info, tiny_teacher
from kdsearch_plugins.adaptive import AdaptiveKD, Uncertainties
from kdsearch_plugins.assignment import Assignment, AssignmentKD
from kdsearch_plugins.attention import AttentionKD
from kdsearch_plugins.contrastive import ContrastiveKD, Embeddings
from kdsearch_plugins.pkd import PatientKD
from kdsearch_plugins.relations import RelationKD, relation_heads, relations
from kdsearch_plugins.rkd import RelationalKD
from kdsearch_plugins.two_stage import TwoStage

LOGITS = {"temperature": 1.0, "alpha": 0.75}
SAME = {"soft": 0.75 * FORWARD, "hard": 0.25 * log(2)}  # the logits' terms of EVEN against THREE_TO_ONE
INFO = tiny_info(tiny_teacher(layers=1))


def outputs(logits: Tensor, *signals: tuple[Signal, int, Tensor]) -> Outputs:
    return Outputs(logits, {(signal, layer): tensor for signal, layer, tensor in signals})


def numbers(terms: dict[str, Tensor]) -> dict[str, float]:
    return {name: term.item() for name, term in terms.items()}


def identity(width: int) -> nn.Linear:
    layer = nn.Linear(width, width)
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def layers_of(needs: tuple[Need, ...]) -> list[int | None]:
    return [need.layer for need in needs if need.signal is not Signal.LOGITS]


def twice(values: list[object]) -> Tensor:
    """The same row two times."""
    return torch.tensor([values, values])


def deep(layers: int) -> ModelInfo:
    """A model of so many layers; teacher and student alike in all else."""
    return replace(INFO, layers=layers)


def planned(strategies: list[str], knobs: dict[str, object]) -> tuple[Plugins, StudyConfig]:
    """A study of transformers with these strategies."""
    space = {"families": ["transformer"], "strategies": strategies, "knobs": knobs}
    config = StudyConfig.model_validate(
        {"name": "toy", "data": {"preset": "rotten_tomatoes"}, "teacher": {"preset": "minilm"}, "space": space, "search": {"trials": 40}}
    )
    return registry.load(["transformer"], strategies), config


def drawing(strategies: list[str], teacher: ModelInfo) -> Candidates:
    loaded, config = planned(strategies, {})
    return Candidates(config, loaded, teacher)


# attention

TO_ITSELF = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
TO_THE_FIRST = [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
HALF_HALF = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5]]  # the mean of the two


def attention(form: str, student: list[object], teacher: list[object], length: int = 3) -> dict[str, float]:
    method = AttentionKD(weight=2.0, form=form, **LOGITS)
    batch = rows()
    batch.mask[:, length:] = False
    mine, theirs = outputs(EVEN, (Signal.ATTENTION, 0, twice(student))), outputs(THREE_TO_ONE, (Signal.ATTENTION, 3, twice(teacher)))
    return numbers(method.loss(mine, theirs, batch, method.build(deep(4), deep(1)), 0.0))


def test_attention_averages_heads_so_their_counts_may_differ() -> None:
    assert attention("mse", [HALF_HALF], [TO_ITSELF, TO_THE_FIRST]) == pytest.approx({"attention": 0.0, **SAME}, abs=1e-6)


def test_attention_sums_squares_over_keys_and_averages_over_real_tokens() -> None:
    # Rows 1 and 2 differ by (1/2, -1/2): squared 1/2 each, over three tokens 1/3, times the weight 2.
    assert attention("mse", [HALF_HALF], [TO_ITSELF])["attention"] == pytest.approx(2 / 3, abs=1e-6)
    # The third token is padding: only row 1 of two differs.
    assert attention("mse", [HALF_HALF], [TO_ITSELF], length=2)["attention"] == pytest.approx(1 / 2, abs=1e-6)


def test_attention_as_a_divergence_is_of_the_teachers_rows() -> None:
    # KL((0, 1, 0) || (1/2, 1/2, 0)) = ln 2 for two of three tokens.
    assert attention("kl", [HALF_HALF], [TO_ITSELF])["attention"] == pytest.approx(2 * 2 / 3 * log(2), abs=1e-4)


def test_attention_asks_for_the_layers_of_its_map_counted_from_zero() -> None:
    method = AttentionKD(weight=1.0, **LOGITS)
    assert layers_of(method.student_needs(deep(6), deep(2))) == [0, 1]
    assert layers_of(method.teacher_needs(deep(6), deep(2))) == [2, 5]


# relations


def test_relations_compare_the_softmax_of_value_products() -> None:
    # Tokens (sqrt(ln 3), 0): products (ln 3, 0) and (0, 0), softmax (3/4, 1/4) and (1/2, 1/2). The student's are even throughout:
    # KL is FORWARD for the first token and 0 for the second. The third is padding, however large.
    theirs = twice([[[sqrt(log(3))], [0.0], [9.0]]])
    batch = rows()
    batch.mask[:, 2] = False
    method = RelationKD(relation_heads=1, weight=2.0, **LOGITS)
    mine = outputs(EVEN, (Signal.VALUES, -1, torch.zeros(2, 1, 3, 1)))
    got = method.loss(mine, outputs(THREE_TO_ONE, (Signal.VALUES, -1, theirs)), batch, None, 0.0)
    assert numbers(got) == pytest.approx({"relations": 2 * FORWARD / 2, **SAME}, abs=1e-6)


def test_relations_merge_the_heads_and_split_them_anew() -> None:
    values = torch.randn(2, 2, 3, 6, generator=torch.Generator().manual_seed(0))  # 2 heads of 6
    alike = values.transpose(1, 2).flatten(2).unflatten(-1, (4, 3)).transpose(1, 2)  # the same 12 numbers a token, as 4 heads of 3
    mask = torch.ones(2, 3, dtype=torch.bool)
    torch.testing.assert_close(relations(values, 3, mask), relations(alike, 3, mask))


@pytest.mark.parametrize(
    ("teacher", "student", "heads"),
    [(768, 384, 48), (384, 128, 16), (384, 96, 24), (384, 132, 12), (32, 32, 2), (8, 4, 1), (384, 1, 1)],
)
def test_relation_heads_divide_both_widths_and_leave_the_teacher_sixteen_numbers(teacher: int, student: int, heads: int) -> None:
    assert relation_heads(teacher, student) == heads


# pkd


def test_pkd_compares_directions_alone() -> None:
    # (3, 4) -> (0.6, 0.8) against (7, 0) -> (1, 0): 0.16 + 0.64.
    method = PatientKD(weight=2.0, **LOGITS)
    mine, theirs = outputs(EVEN, (Signal.POOLED, 1, twice([3.0, 4.0]))), outputs(THREE_TO_ONE, (Signal.POOLED, 2, twice([7.0, 0.0])))
    assert numbers(method.loss(mine, theirs, rows(), method.build(deep(2), deep(1)), 0.0)) == pytest.approx(
        {"patient": 1.6, **SAME}, abs=1e-6
    )


@pytest.mark.parametrize(
    ("kind", "depth", "theirs"),
    [("uniform", 6, [2, 4, 6, 8, 10]), ("last", 6, [7, 8, 9, 10, 11]), ("first", 3, [1, 2]), ("uniform", 1, [12]), ("last", 0, [0])],
)
def test_pkd_leaves_the_top_layer_to_the_logits_as_in_the_paper(kind: str, depth: int, theirs: list[int]) -> None:
    method = PatientKD(weight=1.0, layer_map=kind, **LOGITS)
    assert layers_of(method.teacher_needs(deep(12), deep(depth))) == theirs
    assert layers_of(method.student_needs(deep(12), deep(depth))) == (list(range(1, len(theirs) + 1)) if depth else [0])


def test_pkd_maps_widths_only_when_they_differ() -> None:
    method = PatientKD(weight=1.0, **LOGITS)
    assert not list(method.build(INFO, INFO).parameters())
    maps = method.build(INFO, replace(INFO, hidden=8))
    assert isinstance(maps, StateMaps)
    assert maps.maps[0](torch.zeros(1, 8)).shape == (1, INFO.hidden)


# rkd


def rkd(student: list[list[float]], teacher: list[list[float]], **changes: float) -> dict[str, float]:
    count = len(student)
    method = RelationalKD(**({"distance": 1.0, "angle": 1.0, "temperature": 1.0, "alpha": 0.75} | changes))
    sides = [outputs(EVEN[:1].repeat(count, 1), (Signal.POOLED, -1, torch.tensor(states))) for states in (student, teacher)]
    return numbers(method.loss(sides[0], sides[1], rows((0,) * count), None, 0.0))


RIGHT = [[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]]  # sides 3, 4, 5: 3/4, 1, 5/4 of their mean; cosines 0, 3/5, 4/5
EQUAL = [[0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [1.0, sqrt(3.0), 0.0]]  # sides all 2; cosines all 1/2; in another width


def test_rkd_compares_the_shape_of_a_batch_whatever_the_widths() -> None:
    got = rkd(RIGHT, EQUAL)
    assert got["distance"] == pytest.approx((1 / 32 + 0 + 1 / 32) / 3, abs=1e-6)  # Huber: half the square of 1/4, 0 and 1/4
    assert got["angle"] == pytest.approx((1 / 8 + 1 / 200 + 9 / 200) / 3, abs=1e-6)  # half the squares of 1/2, 1/10 and 3/10


def test_rkd_does_not_see_scale_shift_or_rotation() -> None:
    moved = [[7.0, 1.0], [7.0, 7.0], [-1.0, 1.0]]  # twice as large, turned by a quarter, shifted
    got = rkd(RIGHT, moved)
    assert got["distance"] == pytest.approx(0.0, abs=1e-6)
    assert got["angle"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_rkd_has_finite_gradients_for_few_and_for_equal_rows(count: int) -> None:
    mine = torch.ones(count, 2, requires_grad=True)
    student = outputs(EVEN[:1].repeat(count, 1), (Signal.POOLED, -1, mine))
    teacher = outputs(EVEN[:1].repeat(count, 1), (Signal.POOLED, -1, torch.tensor(RIGHT)[:count]))
    terms = RelationalKD(distance=1.0, angle=1.0, temperature=1.0, alpha=0.5).loss(student, teacher, rows((0,) * count), None, 0.0)
    (terms["distance"] + terms["angle"]).backward()
    assert mine.grad is not None
    assert torch.isfinite(mine.grad).all()


# contrastive


def test_contrastive_is_the_cross_entropy_of_finding_the_own_row() -> None:
    # Cosines 1 with the own row and 0 with the other, over tau = 1/2: -ln(e^2 / (e^2 + 1)).
    maps = Embeddings(2, 2, 2)
    maps.student, maps.teacher = identity(2), identity(2)
    method = ContrastiveKD(weight=3.0, tau=0.5, **LOGITS)
    mine = outputs(EVEN, (Signal.POOLED, -1, torch.tensor([[5.0, 0.0], [0.0, 1.0]])))
    theirs = outputs(THREE_TO_ONE, (Signal.POOLED, -1, torch.tensor([[1.0, 0.0], [0.0, 7.0]])))
    got = method.loss(mine, theirs, rows(), maps, 0.0)
    assert numbers(got) == pytest.approx({"contrast": 3 * log(1 + exp(-2)), **SAME}, abs=1e-6)


# two_stage


def two_stage(progress: float) -> dict[str, float]:
    # The teacher's (2, 2) has root mean square 2: (1, 1) against the student's (0, 1) is 1/2; the embeddings agree: 1/4 in the mean.
    method = TwoStage(share=0.5, **LOGITS)
    twos = twice([2.0, 2.0])
    mine = outputs(EVEN, (Signal.POOLED, 0, twos), (Signal.POOLED, 1, twice([0.0, 2.0])))
    theirs = outputs(THREE_TO_ONE, (Signal.POOLED, 0, twos), (Signal.POOLED, 2, twos))
    return numbers(method.loss(mine, theirs, rows(), StateMaps([(0, 0), (1, 2)], kind="identity"), progress))


def test_two_stage_learns_states_first_with_a_hundredth_of_the_logits() -> None:
    expected = {"feature": 0.25, "soft": 0.01 * SAME["soft"], "hard": 0.01 * SAME["hard"]}
    assert two_stage(0.0) == two_stage(0.49) == pytest.approx(expected, abs=1e-5)


def test_two_stage_learns_logits_alone_from_its_share_on() -> None:
    assert two_stage(0.5) == two_stage(1.0) == pytest.approx(SAME, abs=1e-6)


# assignment


def test_assignment_mixes_the_teachers_layers_by_likeness() -> None:
    # Cosines 1 and 0 at sharpness ln 3: shares 3/4 and 1/4. At unit root mean square the layers are sqrt(2) (1, 0) and sqrt(2) (0, 1);
    # the student's sqrt(2) (1, 0) is sqrt(2) (1/4, -1/4) away from their mixture: mean square 1/8.
    method = AssignmentKD(weight=2.0, sharpness=log(3), **LOGITS)
    mine = outputs(EVEN, (Signal.POOLED, 1, twice([sqrt(2), 0.0])))
    theirs = outputs(THREE_TO_ONE, (Signal.POOLED, 1, twice([5.0, 0.0])), (Signal.POOLED, 2, twice([0.0, 0.5])))
    extra = Assignment([1], [1, 2], 2, 2)
    extra.maps[0] = identity(2)
    got = method.loss(mine, theirs, rows(), extra, 0.0)
    assert numbers(got) == pytest.approx({"assignment": 2 / 8, **SAME}, abs=1e-5)


def test_assignment_asks_for_every_layer_of_the_teacher() -> None:
    method = AssignmentKD(weight=1.0, sharpness=1.0, **LOGITS)
    assert layers_of(method.teacher_needs(deep(4), deep(2))) == [1, 2, 3, 4]
    assert layers_of(method.student_needs(deep(4), deep(2))) == [1, 2]


# adaptive


def adaptive(log_variances: list[float], labels: tuple[int, ...] = (0, 1)) -> tuple[dict[str, float], Uncertainties]:
    method = AdaptiveKD(temperature=1.0)  # one pair: the embeddings
    extra = Uncertainties([(0, 0)], 2, 2)
    extra.maps[0] = identity(2)
    # What the parameters have to be for these log-variances: the inverse of 4 tanh(50 p / 4).
    extra.paced.data = torch.atanh(torch.tensor(log_variances) / 4) * 4 / 50
    mine, theirs = outputs(EVEN, (Signal.POOLED, 0, twice([0.0, 2.0]))), outputs(THREE_TO_ONE, (Signal.POOLED, 0, twice([2.0, 2.0])))
    terms = method.loss(mine, theirs, rows(labels), extra, 0.0)
    torch.stack(list(terms.values())).sum().backward()
    return numbers(terms), extra


def test_adaptive_starts_with_every_weight_at_one_and_squares_at_a_half() -> None:
    got, _ = adaptive([0.0, 0.0, 0.0])
    assert got == pytest.approx({"soft": FORWARD, "hard": log(2), "feature": 0.5 * 0.5}, abs=1e-5)


def test_adaptive_divides_a_term_by_its_variance_and_adds_half_the_logarithm() -> None:
    got, _ = adaptive([log(2), log(3), -log(2)])
    expected = {"soft": FORWARD / 2 + log(2) / 2, "hard": log(2) / 3 + log(3) / 2, "feature": 0.5 * 2 * 0.5 - log(2) / 2}
    assert got == pytest.approx(expected, abs=1e-5)


def test_adaptive_moves_a_log_variance_at_a_pace_but_clips_its_own_gradient() -> None:
    # d/dv of term * exp(-v) + v / 2 at v = 0 is 1/2 - term, whatever the pace; a step of 0.01 moves v by 0.5.
    _, extra = adaptive([0.0, 0.0, 0.0])
    assert extra.paced.grad is not None
    assert extra.paced.grad[1].item() == pytest.approx(0.5 - log(2), abs=1e-6)
    extra.paced.data[1] = 0.01
    assert extra.log_variances()[1].item() == pytest.approx(0.5, abs=1e-2)


def test_adaptive_learns_nothing_of_the_labels_noise_from_a_batch_without_labels() -> None:
    got, extra = adaptive([0.0, log(3), 0.0], labels=(-100, -100))
    assert got["hard"] == pytest.approx(0.0, abs=1e-6)
    assert extra.paced.grad is not None
    assert float(extra.paced.grad[1]) == 0.0
    assert float(extra.paced.grad[0]) != 0.0


# All of them


@pytest.mark.parametrize(
    ("name", "signal"),
    [
        ("attention", Signal.ATTENTION),
        ("relations", Signal.VALUES),
        *((name, Signal.POOLED) for name in ("pkd", "rkd", "contrastive", "two_stage", "assignment", "adaptive")),
    ],
)
def test_a_method_fits_families_that_show_what_it_reads(name: str, signal: Signal) -> None:
    method = load_one(name)
    assert issubclass(method, Strategy)
    assert method.fits(INFO, frozenset({Signal.LOGITS, signal}))
    assert not method.fits(INFO, frozenset(Signal) - {signal})


def test_two_stages_of_a_student_with_other_tokens_than_the_teacher_read_pooled_states() -> None:
    other = replace(INFO, vocab=INFO.vocab // 2)
    for seed in range(5):
        space = Knobs().space(RandomDraw(np.random.default_rng(seed)), "two_stage")
        strategy = TwoStage(**TwoStage.suggest(space, INFO, other))
        signals = {need.signal for need in (*strategy.student_needs(INFO, other), *strategy.teacher_needs(INFO, other))}
        assert signals == {Signal.LOGITS, Signal.POOLED}


@pytest.mark.parametrize("name", ["attention", "relations"])
def test_a_method_token_by_token_is_never_drawn_for_a_student_with_other_tokens(name: str) -> None:
    teacher = replace(tiny_info(tiny_teacher(vocab=300)), vocabularies=(100, 200))
    space = drawing([name], teacher)
    rng = np.random.default_rng(0)
    drawn = [space.draw(RandomDraw(rng)) for _ in range(60)]
    fitting = [each for each in drawn if isinstance(each, Candidate)]
    assert {each.spec.family_config["vocabulary"] for each in fitting} == {300}
    assert all(each.spec.strategy_config["weight"] >= 0.03 for each in fitting)
    reasons = {each for each in drawn if isinstance(each, str)}
    assert reasons == {f"{name} needs {'attention' if name == 'attention' else 'values'}, which this transformer does not show"}


def test_every_method_opens_once_before_any_a_second_time_though_known_shapes_have_a_pruned_vocabulary() -> None:
    teacher = replace(tiny_info(tiny_teacher(vocab=300, layers=4)), vocabularies=(100, 200))
    for names in (["logit", "attention", "relations"], ["attention", "relations", "logit"]):
        openings = drawing(names, teacher).openings(20)
        assert [each.spec.strategy for each in openings[:9]] == names * 3
        vocabularies = {(each.spec.strategy, each.spec.family_config["vocabulary"]) for each in openings}
        assert vocabularies == {("logit", 100), ("logit", 200), ("attention", 300), ("relations", 300)}
        # a known shape in all but its vocabulary, and both ends of the ranges
        assert {1, 4} <= {each.spec.family_config["layers"] for each in openings if each.spec.strategy == "attention"}
        assert any(
            each.spec.strategy == "attention" and each.spec.family_config["start"] == "first" and each.spec.family_config["hidden"] == 32
            for each in openings
        )


def test_a_method_that_fits_no_student_of_the_study_is_told_with_the_reason() -> None:
    teacher = replace(tiny_info(tiny_teacher(vocab=300)), vocabularies=(100, 200))
    loaded, config = planned(["logit", "attention"], {"transformer.vocabulary": 100})
    found = explore(config, loaded, teacher)
    assert [(line.strategy, line.fits, line.why) for line in found.pairs] == [
        ("logit", True, ""),
        ("attention", False, "attention needs attention, which this transformer does not show"),
    ]
    assert "attention.weight" not in {line.name for line in found.knobs}
    assert {each.spec.strategy for each in found.candidates} == {"logit"}
    loaded, config = planned(["attention", "relations"], {"transformer.vocabulary": 100})
    with pytest.raises(InputError) as refused:
        explore(config, loaded, teacher)
    assert str(refused.value) == (
        "space: no student that can be drawn fits its strategy (attention needs attention, which this transformer does not show; "
        "relations needs values, which this transformer does not show): widen space.knobs.transformer.vocabulary, or add a strategy such as "
        "hard, which fits every family"
    )


# What a student shows of its attention while it trains


@pytest.mark.parametrize("kernels", ["eager", "sdpa"])
def test_attention_is_shown_before_dropout(kernels: str) -> None:
    teacher = tiny_teacher()
    teacher.config._attn_implementation = kernels
    student = Encoder(copy.deepcopy(teacher)).train()
    for name, part in student.named_modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.5 if name.endswith("attention.self.dropout") else 0.0
    batch, needs = eight_sentences(), (Need(Signal.LOGITS), Need(Signal.ATTENTION, 0))
    shown = student(batch, needs)
    torch.testing.assert_close(shown.layered[Signal.ATTENTION, 0].sum(-1), torch.ones(8, 2, 10))
    torch.testing.assert_close(shown.layered[Signal.ATTENTION, 0], Encoder(teacher)(batch, needs).layered[Signal.ATTENTION, 0])
    assert not torch.equal(shown.logits, student(batch, needs).logits)  # dropout is on all the same
    method = AttentionKD(weight=1.0, temperature=2.0, alpha=1.0, form="kl")
    learnt = method.loss(shown, Encoder(teacher)(batch, needs), batch, method.build(deep(1), deep(1)), 0.0)
    assert learnt["attention"].item() == pytest.approx(0.0, abs=1e-6)
    assert student.model.config._attn_implementation == kernels


@pytest.mark.parametrize("kind", ["bert", "electra", "roberta", "distilbert"])
def test_attention_is_what_the_stock_model_says_in_evaluation(kind: str) -> None:
    config = AutoConfig.for_model(
        kind,
        vocab_size=100,
        **({"dim": 32, "n_heads": 2, "n_layers": 2} if kind == "distilbert" else {}),
        **({} if kind == "distilbert" else {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 64}),
        initializer_range=0.5,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").eval()
    batch = eight_sentences()
    with torch.no_grad():
        stock = model(input_ids=batch.ids, attention_mask=batch.mask, output_attentions=True).attentions
        shown = Encoder(model)(batch, [Need(Signal.ATTENTION, layer) for layer in (0, -1)]).layered
    torch.testing.assert_close(shown[Signal.ATTENTION, 0], stock[0])
    torch.testing.assert_close(shown[Signal.ATTENTION, -1], stock[1])
    assert stock[0][0, :, :, 3:].abs().max() == 0  # the first sentence has three tokens
    assert shown[Signal.ATTENTION, 0][0, :, :, 3:].abs().max() == 0
