"""A contract is worth what it catches: for each check one plugin that breaks it, and is caught by that check."""

from __future__ import annotations

import math
import unittest
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdsearch.api import Batch, Family, ModelInfo, Need, Outputs, Signal, Space, Strategy, TeacherRole, UndeclaredSignal
from kdsearch.errors import KdsearchError, PluginError
from kdsearch.modules import mean_over_tokens
from kdsearch.registry.classes import check_yielded
from kdsearch.testing import FamilyContract, check, contract_for, eight_sentences, run_contract, tiny_info, tiny_teacher


@dataclass(frozen=True)
class Sound(Strategy):
    """Holds the contract; each broken strategy below changes one thing of it."""

    alpha: float
    weight: float

    name: ClassVar[str] = "sound"
    source: ClassVar[str] = "a test"

    @classmethod
    def suggest(cls, space: Space, teacher: ModelInfo, student: ModelInfo) -> dict[str, Any]:
        return {"alpha": space.alpha(), "weight": space.real("weight", 0.1, 2.0)}

    def teacher_needs(self, teacher: ModelInfo, student: ModelInfo) -> tuple[Need, ...]:
        return (Need(Signal.LOGITS), Need(Signal.HIDDEN))

    def student_needs(self, teacher: ModelInfo, student: ModelInfo) -> tuple[Need, ...]:
        return (Need(Signal.LOGITS), Need(Signal.HIDDEN))

    def states(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        mine, theirs = (mean_over_tokens(each.layered[Signal.HIDDEN, -1], batch.mask) for each in (student, teacher))
        return F.mse_loss(mine[:, :4], theirs[:, :4])

    def soft(self, student: Outputs, teacher: Outputs) -> Tensor:
        return F.mse_loss(student.logits, teacher.logits)

    def hard(self, student: Outputs, batch: Batch) -> Tensor:
        return batch.hard_loss(student.logits)

    def loss(self, student: Outputs, teacher: Outputs | None, batch: Batch, extra: nn.Module | None, progress: float) -> dict[str, Tensor]:
        assert teacher is not None
        return {
            "states": self.weight * self.states(student, teacher, batch),
            "soft": self.alpha * self.soft(student, teacher),
            "hard": (1 - self.alpha) * self.hard(student, batch),
        }


def frozen(cls: type[Strategy | Family]) -> type[Strategy | Family]:
    """As the loader makes sure that it is."""
    return cls if "__dataclass_params__" in vars(cls) else dataclass(frozen=True)(cls)


def caught_by(cls: type[Strategy | Family], name: str, equal_student: str = "zero") -> str:
    """Why this check fails."""
    contract = contract_for(frozen(cls), equal_student)()
    with pytest.raises((AssertionError, KdsearchError, UndeclaredSignal)) as caught:
        getattr(contract, f"test_{name.replace(' ', '_')}")()
    return str(caught.value)


def test_a_sound_strategy_holds_all_sixteen_checks() -> None:
    checks = run_contract(contract_for(Sound, "zero loss"))
    assert [each for each in checks if each.outcome != "passed"] == []
    assert len(checks) == 16


def test_what_a_strategy_reads_says_what_it_needs_and_whom_it_fits() -> None:
    class Reading(Sound):
        reads = Signal.VALUES
        teacher_needs, student_needs = Strategy.teacher_needs, Strategy.student_needs

        def pairs(self, teacher: ModelInfo, student: ModelInfo) -> list[tuple[int, int]]:
            return [(-1, 1), (0, 0), (0, 1)]

    reading, info = Reading(0.5, 1.0), tiny_info(tiny_teacher())
    assert reading.teacher_needs(info, info) == (Need(Signal.LOGITS), Need(Signal.VALUES, 0), Need(Signal.VALUES, 1))
    assert reading.student_needs(info, info) == (Need(Signal.LOGITS), Need(Signal.VALUES, -1), Need(Signal.VALUES, 0))
    assert [Reading.fits(info, frozenset({Signal.LOGITS, signal})) for signal in (Signal.VALUES, Signal.POOLED)] == [True, False]

    class Broken(Sound):
        reads = "values"  # type: ignore[assignment]

    with pytest.raises(PluginError, match="reads = 'values' is none of"):
        check_yielded(frozen(Broken), "kdsearch_strategies", "broken.py")


def test_a_staged_that_is_no_bool_is_caught_and_refused_at_the_door() -> None:
    class Broken(Sound):
        staged = "first"  # type: ignore[assignment]

    assert "staged of sound is 'first': write True or False" in caught_by(Broken, "staged is a bool")
    with pytest.raises(PluginError, match="staged = 'first' is neither True nor False"):
        check_yielded(frozen(Broken), "kdsearch_strategies", "broken.py")

    @dataclass(frozen=True, kw_only=True)
    class Field(Sound):
        staged: bool = True  # type: ignore[misc]

    with pytest.raises(PluginError, match="'staged' is a field, but belongs to the class"):
        check_yielded(Field, "kdsearch_strategies", "field.py")


def test_fields_that_do_not_survive_json_are_caught() -> None:
    class Broken(Sound):
        def __post_init__(self) -> None:
            object.__setattr__(self, "weight", self.weight / 2)

    assert "comes back from its JSON" in caught_by(Broken, "fields survive json")


def test_a_draw_beside_the_space_is_caught() -> None:
    class Broken(Sound):
        @classmethod
        def suggest(cls, space: Space, teacher: ModelInfo, student: ModelInfo) -> dict[str, Any]:
            return {"alpha": space.alpha(), "weight": torch.rand(()).item()}

    assert "draw from `space` alone" in caught_by(Broken, "suggestions are reproducible")


def test_options_that_depend_on_another_knob_are_caught() -> None:
    class Broken(Sound):
        @classmethod
        def suggest(cls, space: Space, teacher: ModelInfo, student: ModelInfo) -> dict[str, Any]:
            count = space.integer("count", 2, 5)
            return {"alpha": space.alpha(), "weight": float(space.choice("which", [1 + each for each in range(count)]))}

    assert "options changed from" in caught_by(Broken, "loss is finite scalar terms")


def test_a_term_that_is_no_scalar_is_caught() -> None:
    class Broken(Sound):
        def soft(self, student: Outputs, teacher: Outputs) -> Tensor:
            return (student.logits - teacher.logits).square().mean(-1)

    assert "term 'soft'" in caught_by(Broken, "loss is finite scalar terms")


def test_a_loss_that_is_not_finite_late_in_training_is_caught() -> None:
    class Broken(Sound):
        def loss(
            self, student: Outputs, teacher: Outputs | None, batch: Batch, extra: nn.Module | None, progress: float
        ) -> dict[str, Tensor]:
            terms = super().loss(student, teacher, batch, extra, progress)
            return {**terms, "late": terms["hard"] / (1.0 - progress) if progress < 1 else terms["hard"] * math.inf}

    assert "'late' of" in caught_by(Broken, "loss is finite scalar terms")


def test_a_detached_student_is_caught() -> None:
    class Broken(Sound):
        def loss(
            self, student: Outputs, teacher: Outputs | None, batch: Batch, extra: nn.Module | None, progress: float
        ) -> dict[str, Tensor]:
            return {name: term.detach() for name, term in super().loss(student, teacher, batch, extra, progress).items()}

    assert "do not detach" in caught_by(Broken, "gradients flow only where allowed")


def test_a_projection_that_nothing_trains_is_caught() -> None:
    class Broken(Sound):
        def build(self, teacher: ModelInfo, student: ModelInfo) -> nn.Module | None:
            return nn.Linear(student.hidden, teacher.hidden)

    assert "reaches weight of build()" in caught_by(Broken, "gradients flow only where allowed")


def test_a_joint_teacher_that_learns_nothing_is_caught() -> None:
    class Broken(Sound):
        teacher: ClassVar[TeacherRole] = TeacherRole.JOINT

        def loss(
            self, student: Outputs, teacher: Outputs | None, batch: Batch, extra: nn.Module | None, progress: float
        ) -> dict[str, Tensor]:
            assert teacher is not None
            layered = {key: each.detach() for key, each in teacher.layered.items()}
            return super().loss(student, Outputs(teacher.logits.detach(), layered), batch, extra, progress)

    assert "reaches the joint teacher" in caught_by(Broken, "gradients flow only where allowed")


def test_a_change_in_place_is_caught() -> None:
    class Broken(Sound):
        def soft(self, student: Outputs, teacher: Outputs) -> Tensor:
            return F.mse_loss(student.logits, teacher.logits.mul_(0.5))

    assert "changes the teacher's logits in place" in caught_by(Broken, "inputs are left alone")


def test_padding_that_counts_is_caught() -> None:
    class Broken(Sound):
        def states(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
            return F.mse_loss(student.layered[Signal.HIDDEN, -1][:, :, :4].mean(1), teacher.layered[Signal.HIDDEN, -1][:, :, :4].mean(1))

    assert "five more columns of padding" in caught_by(Broken, "padding changes nothing")
    assert "leave padding out with batch.mask" in caught_by(Broken, "cached signals give the live loss")


def test_a_loss_that_sees_the_order_of_rows_is_caught() -> None:
    class Broken(Sound):
        def soft(self, student: Outputs, teacher: Outputs) -> Tensor:
            return F.mse_loss(student.logits[0], teacher.logits[0])

    assert "rows in another order" in caught_by(Broken, "row order changes nothing")


def test_a_divergence_that_is_not_zero_for_equals_is_caught_unless_exempt_with_a_reason() -> None:
    class Broken(Sound):
        def soft(self, student: Outputs, teacher: Outputs) -> Tensor:
            return F.mse_loss(student.logits, 2 * teacher.logits)

    assert "expected zero" in caught_by(Broken, "student equal to teacher")
    assert "needs the reason" in caught_by(Broken, "student equal to teacher", "exempt: ")
    exempt = contract_for(frozen(Broken), "exempt: it wants twice the teacher")()
    with pytest.raises(unittest.SkipTest):
        exempt.test_student_equal_to_teacher()  # type: ignore[union-attr]


def test_soft_cross_entropy_has_zero_gradient_but_not_zero_loss() -> None:
    class SoftCrossEntropy(Sound):
        def soft(self, student: Outputs, teacher: Outputs) -> Tensor:
            if student.logits.shape[-1] == 1:
                return F.mse_loss(student.logits, teacher.logits)
            return F.cross_entropy(student.logits, teacher.logits.softmax(-1))

    assert check(frozen(SoftCrossEntropy), "zero gradient") == []
    assert check(frozen(SoftCrossEntropy)) == []
    assert "expected zero loss" in caught_by(SoftCrossEntropy, "student equal to teacher", "zero loss")


def test_a_jump_at_the_end_of_a_range_is_caught() -> None:
    class Broken(Sound):
        def hard(self, student: Outputs, batch: Batch) -> Tensor:
            return batch.hard_loss(student.logits) * (3.0 if self.weight >= 2.0 else 1.0)

    assert "the loss jumps from" in caught_by(Broken, "no jump at the ends of ranges")


def test_a_dead_knob_is_caught() -> None:
    class Broken(Sound):
        def soft(self, student: Outputs, teacher: Outputs) -> Tensor:
            return self.hard_again(student, teacher) / self.weight

        def hard_again(self, student: Outputs, teacher: Outputs) -> Tensor:
            return F.mse_loss(student.logits, teacher.logits)

        def states(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
            return super().states(student, teacher, batch) / self.weight

        @classmethod
        def suggest(cls, space: Space, teacher: ModelInfo, student: ModelInfo) -> dict[str, Any]:
            space.temperature()
            return super().suggest(space, teacher, student)

    assert "no value of temperature changes the loss" in caught_by(Broken, "every knob changes the loss")


def test_a_need_that_is_not_declared_is_caught_by_name() -> None:
    class Broken(Sound):
        def student_needs(self, teacher: ModelInfo, student: ModelInfo) -> tuple[Need, ...]:
            return (Need(Signal.LOGITS),)

    assert "Need(Signal.HIDDEN, -1) was used but not declared" in caught_by(Broken, "loss is finite scalar terms")


def test_a_need_that_is_declared_and_never_read_is_caught() -> None:
    class Broken(Sound):
        def teacher_needs(self, teacher: ModelInfo, student: ModelInfo) -> tuple[Need, ...]:
            return (*super().teacher_needs(teacher, student), Need(Signal.POOLED, 0))

    assert "declares teacher_needs() pooled of layer 0 and never reads it" in caught_by(Broken, "undeclared signals fail by name")


def test_a_loss_that_needs_labels_is_caught() -> None:
    class Broken(Sound):
        def hard(self, student: Outputs, batch: Batch) -> Tensor:
            if batch.labels.is_floating_point():
                return batch.hard_loss(student.logits)
            return F.cross_entropy(student.logits, batch.labels)

    assert "use batch.hard_loss" in caught_by(Broken, "unlabelled rows give a finite loss")


def test_softmax_of_one_output_is_caught() -> None:
    class Broken(Sound):
        def loss(
            self, student: Outputs, teacher: Outputs | None, batch: Batch, extra: nn.Module | None, progress: float
        ) -> dict[str, Tensor]:
            assert teacher is not None
            return {"soft": F.cross_entropy(student.logits, teacher.logits.softmax(-1))}

    assert "let fits() refuse it" in caught_by(Broken, "regression is learnt or refused")


def test_a_strategy_that_refuses_regression_is_left_alone() -> None:
    class Classifies(Sound):
        @classmethod
        def fits(cls, teacher: ModelInfo, provides: frozenset[Signal]) -> bool:
            return teacher.task == "classification"

    with pytest.raises(unittest.SkipTest, match=r"fits\(\) refuses a regression"):
        contract_for(frozen(Classifies))().test_regression_is_learnt_or_refused()  # type: ignore[union-attr]


def test_a_loss_that_grows_is_caught() -> None:
    class Broken(Sound):
        def loss(
            self, student: Outputs, teacher: Outputs | None, batch: Batch, extra: nn.Module | None, progress: float
        ) -> dict[str, Tensor]:
            total = torch.stack(list(super().loss(student, teacher, batch, extra, progress).values())).sum()
            return {"wrong way": 2 * total.detach() - total}

    assert "twenty AdamW steps take the loss" in caught_by(Broken, "twenty steps bring the loss down")


# Families


class Bag(nn.Module):
    """Mean of word vectors, shown as logits and as state 0."""

    def __init__(self, vocab: int, width: int, labels: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocab, width)
        self.head = nn.Linear(width, labels)

    def states(self, batch: Batch) -> Tensor:
        return mean_over_tokens(self.words(batch.ids), batch.mask)

    def forward(self, batch: Batch, needs: tuple[Need, ...] = ()) -> Outputs:
        pooled = self.states(batch)
        for need in needs:
            if need.signal not in (Signal.LOGITS, Signal.POOLED) or need.layer not in (None, 0, -1):
                raise LookupError(f"a bag of words has no {need.signal} of layer {need.layer}")
        return Outputs(self.head(pooled), {(need.signal, need.layer): pooled for need in needs if need.layer is not None})


@dataclass(frozen=True)
class Bags(Family):
    hidden: int

    name: ClassVar[str] = "bags"
    source: ClassVar[str] = "a test"
    provides: ClassVar[frozenset[Signal]] = frozenset({Signal.LOGITS, Signal.POOLED})

    @classmethod
    def suggest(cls, space: Space, teacher: ModelInfo) -> dict[str, Any]:
        return {"hidden": space.integer("hidden", 8, teacher.hidden, log=True)}

    def info(self, teacher: ModelInfo) -> ModelInfo:
        return replace(teacher, layers=0, hidden=self.hidden, heads=0, intermediate=0, provides=self.provides)

    def size(self, teacher: ModelInfo) -> int:
        return teacher.vocab * self.hidden + (self.hidden + 1) * teacher.labels

    def flops(self, teacher: ModelInfo, length: int) -> int | None:
        return 2 * self.hidden * teacher.labels

    def module(self, teacher: ModelInfo) -> Bag:
        return Bag(teacher.vocab, self.hidden, teacher.labels)

    def build(self, teacher: ModelInfo) -> nn.Module:
        return self.module(teacher)


def test_a_sound_family_holds() -> None:
    checks = run_contract(contract_for(Bags))
    assert [each for each in checks if each.outcome == "failed"] == []
    assert [each.name for each in checks if each.outcome == "skipped"] == ["stock model is the student"]
    assert len(checks) == 18


def test_a_wrong_size_is_caught() -> None:
    class Broken(Bags):
        def size(self, teacher: ModelInfo) -> int:
            return super().size(teacher) - teacher.labels

    # width 8 at 100 words and 3 classes: 100 * 8 + 9 * 3 = 827
    assert Broken(8).size(tiny_info(tiny_teacher())) == 824
    assert "parameters: ModelInfo(labels=" in caught_by(Broken, "size is exact")


def test_a_student_wider_than_its_teacher_is_caught() -> None:
    class Broken(Bags):
        @classmethod
        def suggest(cls, space: Space, teacher: ModelInfo) -> dict[str, Any]:
            return {"hidden": space.integer("hidden", 8, 256)}

    assert "use teacher.hidden in suggest()" in caught_by(Broken, "students are no wider than the teacher")


def test_a_wrong_info_is_caught() -> None:
    class Broken(Bags):
        def info(self, teacher: ModelInfo) -> ModelInfo:
            return replace(super().info(teacher), hidden=8)

    assert "pooled of layer 0 of" in caught_by(Broken, "info agrees with the outputs")


def test_a_signal_that_is_shown_unasked_is_caught() -> None:
    class Shows(Bag):
        def forward(self, batch: Batch, needs: tuple[Need, ...] = ()) -> Outputs:
            return super().forward(batch, (*needs, Need(Signal.POOLED)))

    class Broken(Bags):
        def module(self, teacher: ModelInfo) -> Bag:
            return Shows(teacher.vocab, self.hidden, teacher.labels)

    assert "asked for logits alone and shows pooled of layer -1 too" in caught_by(Broken, "undeclared signals are refused by name")


def test_a_signal_that_is_not_provided_and_not_refused_is_caught() -> None:
    class Lenient(Bag):
        def forward(self, batch: Batch, needs: tuple[Need, ...] = ()) -> Outputs:
            return super().forward(batch, tuple(need for need in needs if need.signal is Signal.POOLED))

    class Broken(Bags):
        def module(self, teacher: ModelInfo) -> Bag:
            return Lenient(teacher.vocab, self.hidden, teacher.labels)

    assert "did not refuse: raise a LookupError that names the signal" in caught_by(Broken, "undeclared signals are refused by name")


def test_padding_and_neighbours_that_count_are_caught() -> None:
    class Careless(Bag):
        def states(self, batch: Batch) -> Tensor:
            return self.words(batch.ids).mean(1)

    class Leaking(Bag):
        def states(self, batch: Batch) -> Tensor:
            return super().states(batch).cumsum(0)

    class Padded(Bags):
        def module(self, teacher: ModelInfo) -> Bag:
            return Careless(teacher.vocab, self.hidden, teacher.labels)

    class Ordered(Bags):
        def module(self, teacher: ModelInfo) -> Bag:
            return Leaking(teacher.vocab, self.hidden, teacher.labels)

    assert "use batch.mask" in caught_by(Padded, "padding changes nothing")
    assert "with the order of the rows" in caught_by(Ordered, "row order changes nothing")


def test_a_start_that_touches_the_teacher_is_caught() -> None:
    class Cuts(Bags):
        def start_from(self, student: nn.Module, teacher: nn.Module) -> None:
            with torch.no_grad():
                next(iter(teacher.parameters())).mul_(0.5)

    class Shares(Bags):
        def start_from(self, student: nn.Module, teacher: nn.Module) -> None:
            assert isinstance(student, Bag)
            student.head.bias = teacher.get_parameter("classifier.bias")  # type: ignore[assignment]

    class Overflows(Bags):
        def start_from(self, student: nn.Module, teacher: nn.Module) -> None:
            with torch.no_grad():
                next(iter(student.parameters())).fill_(math.inf)

    name = "start leaves the teacher alone and the student finite"
    assert "changes the teacher's bert.embeddings.word_embeddings.weight" in caught_by(Cuts, name)
    assert "shares head.bias with the teacher" in caught_by(Shares, name)
    assert "leaves words.weight not finite" in caught_by(Overflows, name)


def test_an_observe_without_the_answers_is_caught_by_one_check_in_one_line() -> None:
    @dataclass(frozen=True)
    class Broken(Bags):
        def observe(self, student: nn.Module, ids: Tensor, offsets: Tensor) -> None:  # type: ignore[override]
            return

    (failed,) = check(Broken)
    assert (failed.name, failed.reason) == (
        "observe takes text and answers",
        "observe() of bags cannot be called with (student, ids, offsets, answers): too many positional arguments; "
        "write `def observe(self, student, ids, offsets, answers)`",
    )


def test_an_observe_gets_rows_end_to_end_and_what_is_to_be_learnt_of_each() -> None:
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    class Counts(Bags):
        def observe(self, student: nn.Module, ids: Tensor, offsets: Tensor, answers: Tensor) -> None:
            seen.append((ids, offsets, answers))

    contract_for(frozen(Counts))().test_observe_takes_text_and_answers()  # type: ignore[union-attr]
    for ids, offsets, _ in seen:
        assert offsets.tolist() == [0, 3, 12, 17, 24, 34, 38, 46, 52]  # rows of 3, 9, 5, 7, 10, 4, 8 and 6 tokens
        assert (ids.dtype, offsets.dtype, len(ids)) == (torch.int64, torch.int64, 52)
    # of three classes and of two their probabilities, of a regression its value
    assert {tuple(answers.shape) for _, _, answers in seen} == {(8, 3), (8, 2), (8, 1)}
    for _, _, answers in seen:
        assert answers.dtype == torch.float32
        if answers.shape[1] > 1:
            torch.testing.assert_close(answers.sum(1), torch.ones(8))


def test_an_observe_that_changes_what_it_gets_or_the_size_or_breaks_the_student_is_caught() -> None:
    class Changes(Bags):
        def observe(self, student: nn.Module, ids: Tensor, offsets: Tensor, answers: Tensor) -> None:
            answers.sub_(answers.mean(0))

    class Grows(Bags):
        def observe(self, student: nn.Module, ids: Tensor, offsets: Tensor, answers: Tensor) -> None:
            student.register_parameter("seen", nn.Parameter(torch.zeros(len(ids))))

    class Overflows(Bags):
        def observe(self, student: nn.Module, ids: Tensor, offsets: Tensor, answers: Tensor) -> None:
            with torch.no_grad():
                next(iter(student.parameters())).fill_(math.inf)

    name = "observe takes text and answers"
    assert "changes its answers: copy before you change" in caught_by(Changes, name)
    assert "changes the number of parameters" in caught_by(Grows, name)
    assert "are not finite after observe()" in caught_by(Overflows, name)


def test_what_was_observed_and_is_not_in_the_state_dict_is_caught() -> None:
    class Scaled(Bag):
        scale = 1.0

        def states(self, batch: Batch) -> Tensor:
            return super().states(batch) * self.scale

    class Broken(Bags):
        def module(self, teacher: ModelInfo) -> Bag:
            return Scaled(teacher.vocab, self.hidden, teacher.labels)

        def observe(self, student: nn.Module, ids: Tensor, offsets: Tensor, answers: Tensor) -> None:
            assert isinstance(student, Scaled)
            student.scale = 1 / len(ids)

    assert "keep all that matters in parameters or buffers" in caught_by(Broken, "weights survive a state dict")


def test_a_bfloat16_that_is_no_bool_is_caught() -> None:
    class Broken(Bags):
        bfloat16 = "yes"  # type: ignore[assignment]

    assert "bfloat16 of bags is 'yes': write True or False" in caught_by(Broken, "bfloat16 is a bool")


def test_wrong_flops_are_caught() -> None:
    class Broken(Bags):
        def flops(self, teacher: ModelInfo, length: int) -> int | None:
            return self.hidden * teacher.labels

    assert "torch counts" in caught_by(Broken, "flops agree with the counter")


def test_state_outside_the_state_dict_is_caught() -> None:
    class Hides(Bag):
        def __init__(self, vocab: int, width: int, labels: int) -> None:
            super().__init__(vocab, width, labels)
            self.shift = torch.rand(())

        def states(self, batch: Batch) -> Tensor:
            return super().states(batch) + self.shift

    class Broken(Bags):
        def module(self, teacher: ModelInfo) -> Bag:
            return Hides(teacher.vocab, self.hidden, teacher.labels)

    assert "keep all that matters in parameters or buffers" in caught_by(Broken, "weights survive a state dict")


def test_weights_from_another_generator_are_caught() -> None:
    class Fixed(Bags):
        def module(self, teacher: ModelInfo) -> Bag:
            bag = super().module(teacher)
            for parameter in bag.parameters():
                nn.init.constant_(parameter, 0.1)
            return bag

    class Loose(Bags):
        def module(self, teacher: ModelInfo) -> Bag:
            bag = super().module(teacher)
            generator = torch.Generator()
            generator.seed()
            nn.init.normal_(bag.words.weight, generator=generator)
            return bag

    assert "the same weights for every seed" in caught_by(Fixed, "build follows the seed")
    assert "for the same seed" in caught_by(Loose, "build follows the seed")


def test_known_good_shapes_with_a_foreign_knob_or_out_of_order_are_caught() -> None:
    class Foreign(Bags):
        @classmethod
        def known_good(cls, teacher: ModelInfo) -> list[dict[str, Any]]:
            return [{"width": 8}]

    class Backwards(Bags):
        @classmethod
        def known_good(cls, teacher: ModelInfo) -> list[dict[str, Any]]:
            return [{"hidden": 16}, {"hidden": 8}]

    assert "names 'width', which suggest() does not draw" in caught_by(Foreign, "known good shapes can be proposed")
    assert "smallest first" in caught_by(Backwards, "known good shapes can be proposed")


# The tiny teacher


def test_the_tiny_teacher_is_small_lively_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    teacher, batch = tiny_teacher(), eight_sentences()
    assert torch.equal(before, torch.get_rng_state())
    info = tiny_info(teacher)
    assert (info.layers, info.hidden, info.heads, info.labels, info.vocab) == (2, 32, 2, 3, 100)
    with torch.no_grad():
        logits = teacher(input_ids=batch.ids, attention_mask=batch.mask).logits
    assert logits.shape == (8, 3)
    assert logits.std(0).min() > 0.05
    assert batch.mask.sum(1).tolist() == [3, 9, 5, 7, 10, 4, 8, 6]
    assert batch.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]


class TestInheritedFamilyContract(FamilyContract):
    family = Bags
