"""What every family has to hold; a family's author inherits it and has its tests."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertForSequenceClassification, PreTrainedModel

from kdsearch import tasks
from kdsearch.api import LOGITS, Batch, Family, ModelInfo, Need, Outputs, Signal, UndeclaredSignal
from kdsearch.registry.classes import construct, dump
from kdsearch.space.knobs import CornerDraw, Knobs
from kdsearch.testing.checks import GivenDraw, options_left, real_part, require, seeded, skip
from kdsearch.testing.tiny import eight_sentences, reordered, tiny_info, tiny_teacher


@dataclass(frozen=True)
class _Teacher:
    model: BertForSequenceClassification
    info: ModelInfo

    def batch(self, extra_columns: int = 0) -> Batch:
        return eight_sentences(labels=self.info.labels, vocab=self.info.vocab, extra_columns=extra_columns)

    def text(self, family: Family) -> tuple[Tensor, Tensor, Tensor]:
        """The eight sentences as `Family.observe` gets them: ids (T,) in the student's vocabulary, offsets (N + 1,), answers (N, C)."""
        batch = self.batch()
        offsets = torch.cat((torch.zeros(1, dtype=torch.int64), batch.mask.sum(1).cumsum(0)))
        with torch.no_grad():
            logits = self.model(input_ids=batch.ids, attention_mask=batch.mask).logits
        ids = batch.ids[batch.mask] % family.info(self.info).vocab
        return ids, offsets, tasks.of(self.info.task).targets(logits)


@cache
def _teacher(layers: int, hidden: int, heads: int, vocab: int = 100, labels: int = 3) -> _Teacher:
    model = tiny_teacher(layers=layers, hidden=hidden, heads=heads, vocab=vocab, labels=labels)
    return _Teacher(model, tiny_info(model))


def _tiny() -> _Teacher:
    return _teacher(2, 32, 2)


def _teachers() -> list[_Teacher]:
    """Unlike in depth, width, heads, vocabulary and task."""
    return [_tiny(), _teacher(4, 64, 4, vocab=203), _teacher(3, 96, 6, vocab=51, labels=1), _teacher(1, 48, 1, labels=2)]


@dataclass(frozen=True)
class _Draw:
    family: Family
    knobs: GivenDraw


class FamilyContract:
    """Inherit it in a test file; each check is a test::

        class TestMine(FamilyContract):
            family = Mine

    Attributes:
        family: the class under test.
        draws: how many random shapes each check tries (default 4), besides one for every option of a choice that they leave out.
        shapes: how many random shapes the closed forms are compared with a built module for, at each of four teachers (default 12).
    """

    family: ClassVar[type[Family]]
    draws: ClassVar[int] = 4
    shapes: ClassVar[int] = 12

    # What the checks share

    def _drawn(self, teacher: _Teacher, seed: int, given: Mapping[str, Any] | None = None, knobs: Knobs | None = None) -> _Draw:
        cls = self.family
        draw = GivenDraw(seed, dict(given or {}))
        fields = cls.suggest((knobs or Knobs()).space(draw, cls.name), teacher.info)
        require(isinstance(fields, dict), f"suggest() returns {type(fields).__name__}, not the dict of an instance's fields")
        return _Draw(cls(**fields), draw)

    def _proposals(self, teacher: _Teacher, count: int | None = None) -> list[Family]:
        knobs = Knobs()  # one for all draws, as in a study: options that depend on another knob are refused
        draws = [self._drawn(teacher, seed, knobs=knobs) for seed in range(self.draws if count is None else count)]
        for name, value in options_left(draw.knobs for draw in draws):
            draws.append(self._drawn(teacher, 0, {name: value}, knobs))
        families = [draw.family for draw in draws] + [self._corner(teacher, fraction) for fraction in (0.0, 1.0)]
        return list({repr(family): family for family in families}.values())

    def _corner(self, teacher: _Teacher, fraction: float) -> Family:
        cls = self.family
        return cls(**cls.suggest(Knobs().space(CornerDraw(fraction), cls.name), teacher.info))

    # The checks

    def test_fields_survive_json(self) -> None:
        for family in self._proposals(_tiny()):
            written = json.dumps(dump(family), allow_nan=False)
            again = construct(self.family, json.loads(written))
            require(again == family, f"{family} comes back from its JSON {written} as {again}")

    def test_suggestions_are_reproducible(self) -> None:
        first = self._proposals(_tiny())
        with seeded(1234):
            second = self._proposals(_tiny())
        require(first == second, f"the same seeds suggest {first[0]} once and {second[0]} then: draw from `space` alone")
        if self._drawn(_tiny(), 0).knobs.met:
            require(len(first) > 1, f"every seed suggests {first[0]}: what it draws reaches no field")

    def test_size_is_exact(self) -> None:
        for teacher in _teachers():
            for family in self._proposals(teacher, self.shapes):
                built, given = _parameters(_build(family, teacher)), family.size(teacher.info)
                require(
                    isinstance(given, int) and given == built,
                    f"size() of {family} is {given}, the module has {built} parameters: {teacher.info}",
                )

    def test_students_are_no_wider_than_the_teacher(self) -> None:
        for teacher in _teachers():
            for family in self._proposals(teacher, self.shapes):
                width = family.info(teacher.info).hidden
                require(
                    width <= teacher.info.hidden,
                    f"{family} is {width} wide for a teacher of {teacher.info.hidden}: use teacher.hidden in suggest()",
                )

    def test_info_agrees_with_the_outputs(self) -> None:
        for teacher in _teachers():
            for family in self._proposals(teacher):
                info, batch = family.info(teacher.info), teacher.batch()
                require(
                    info.provides == family.provides,
                    f"info() of {family} provides {_names(info.provides)}, the class {_names(family.provides)}",
                )
                require(
                    (info.labels, info.task) == (teacher.info.labels, teacher.info.task),
                    f"info() of {family}: {info.labels} labels, {info.task}, the teacher {teacher.info.labels} and {teacher.info.task}",
                )
                module = _build(family, teacher)
                needs = _all_needs(info)
                outputs = _run(module, batch, needs)
                for need in needs:
                    tensor = outputs.logits if need.layer is None else outputs.layered[need.signal, need.layer]
                    wanted = _shape(need.signal, info, batch)
                    require(
                        tuple(tensor.shape) == wanted,
                        f"{need.signal} of layer {need.layer} of {family} has shape {tuple(tensor.shape)}, its info() says {wanted}",
                    )
                    require(tensor.dtype == torch.float32, f"{need.signal} of {family} is {tensor.dtype}, not float32")
                for need in needs:
                    if need.layer is not None and need.layer >= 0:
                        below = Need(need.signal, need.layer - need.signal.states(info.layers))
                        same = _run(module, batch, [LOGITS, below]).layered[below.signal, _layer(below)]
                        require(
                            torch.equal(same, outputs.layered[need.signal, need.layer]),
                            f"{need.signal} of layer {below.layer} is not that of layer {need.layer}: negative layers count from the top",
                        )

    def test_undeclared_signals_are_refused_by_name(self) -> None:
        teacher = _tiny()
        for family in self._proposals(teacher):
            module, info = _build(family, teacher), family.info(teacher.info)
            shown = _run(module, teacher.batch(), [LOGITS])
            require(not shown.layered, f"{family} was asked for logits alone and shows {_keys(shown)} too")
            try:
                shown.layered[Signal.HIDDEN, -1]
            except UndeclaredSignal:
                pass
            else:
                raise AssertionError(f"the outputs of {family} give a signal that nobody declared: return kdsearch.Outputs")
            for signal in Signal:
                needs = [Need(signal)] if signal not in family.provides else [Need(signal, 99)] if signal is not Signal.LOGITS else []
                for need in needs:
                    try:
                        module(teacher.batch(), [LOGITS, need])
                    except (LookupError, ValueError, NotImplementedError) as problem:
                        require(
                            signal.value in str(problem) or signal.name in str(problem),
                            f"{family} refuses {signal} of layer {need.layer} without naming it: {problem!r}",
                        )
                    else:
                        raise AssertionError(
                            f"{family} has {info.layers} layers, provides {_names(family.provides)}, was asked for {signal} of layer "
                            f"{need.layer} and did not refuse: raise a LookupError that names the signal"
                        )

    def test_padding_changes_nothing(self) -> None:
        teacher = _tiny()
        batch, wider = teacher.batch(), teacher.batch(extra_columns=5)
        for family in self._proposals(teacher):
            module = _observed(family, teacher)
            needs = _all_needs(family.info(teacher.info))
            before, after = _run(module, batch, needs), _run(module, wider, needs)
            for name, one, two in _matching(before, after):
                kept = real_part(name[0], two, wider.mask)[tuple(slice(size) for size in one.shape)]
                gap = (real_part(name[0], one, batch.mask) - kept).abs().max().item()
                require(
                    gap <= 1e-5,
                    f"five more columns of padding change {name[0]} of layer {name[1]} of {family} by {gap:.2g}: use batch.mask",
                )

    def test_row_order_changes_nothing(self) -> None:
        teacher = _tiny()
        order = torch.tensor((5, 2, 7, 0, 3, 6, 1, 4))
        batch = teacher.batch()
        for family in self._proposals(teacher):
            module = _observed(family, teacher)
            needs = _all_needs(family.info(teacher.info))
            before, after = _run(module, batch, needs), _run(module, reordered(batch, order), needs)
            for name, one, two in _matching(before, after):
                gap = (one[order] - two).abs().max().item()
                require(gap <= 1e-5, f"{name[0]} of layer {name[1]} of {family} changes by {gap:.2g} with the order of the rows")

    def test_pairs_of_texts_are_read(self) -> None:
        teacher = _tiny()
        batch = teacher.batch()
        pairs = replace(batch, types=(torch.arange(batch.ids.shape[1]) > 2).long().expand_as(batch.ids))
        for family in self._proposals(teacher):
            logits = _run(_build(family, teacher), pairs, [LOGITS]).logits
            require(bool(torch.isfinite(logits).all()), f"the logits of {family} are not finite for a batch with token types")

    def test_observe_takes_text_and_answers(self) -> None:
        for teacher in _teachers():
            for family in self._proposals(teacher):
                student = _build(family, teacher)
                given = teacher.text(family)
                problem = _mismatch(family, student, given)
                require(
                    problem is None,
                    f"observe() of {family.name} cannot be called with (student, ids, offsets, answers): {problem}; "
                    "write `def observe(self, student, ids, offsets, answers)`",
                )
                before = [each.clone() for each in given]
                family.observe(student, *given)
                for name, now, was in zip(("ids", "offsets", "answers"), given, before, strict=True):
                    require(torch.equal(now, was), f"observe() of {family} changes its {name}: copy before you change")
                require(_parameters(student) == family.size(teacher.info), f"observe() of {family} changes the number of parameters")
                logits = _run(student, teacher.batch(), [LOGITS]).logits
                require(bool(torch.isfinite(logits).all()), f"the logits of {family} are not finite after observe()")

    def test_start_leaves_the_teacher_alone_and_the_student_finite(self) -> None:
        for teacher in _teachers():
            for family in self._proposals(teacher):
                own = copy.deepcopy(teacher.model)
                student = _observed(family, teacher)
                family.start_from(student, own)
                for (name, now), before in zip(own.state_dict().items(), teacher.model.state_dict().values(), strict=True):
                    require(torch.equal(now, before), f"start_from() of {family} changes the teacher's {name}: copy before you cut")
                theirs = {each.data_ptr() for each in own.parameters()}
                for name, parameter in student.named_parameters():
                    require(bool(torch.isfinite(parameter).all()), f"start_from() of {family} leaves {name} not finite")
                    require(parameter.data_ptr() not in theirs, f"start_from() of {family} shares {name} with the teacher: copy it")
                    require(parameter.requires_grad, f"start_from() of {family} freezes {name}: every parameter of a student is trained")
                require(_parameters(student) == family.size(teacher.info), f"start_from() of {family} changes the number of parameters")
                logits = _run(student, teacher.batch(), [LOGITS]).logits
                require(bool(torch.isfinite(logits).all()), f"the logits of {family} are not finite after start_from()")

    def test_flops_agree_with_the_counter(self) -> None:
        teacher = _tiny()
        if all(family.flops(teacher.info, 8) is None for family in self._proposals(teacher)):
            skip("flops() leaves the counting to the built module")
        for teacher in _teachers():
            for family in self._proposals(teacher):
                module = _build(family, teacher)
                stock = family.stock(module)
                if isinstance(stock, PreTrainedModel):
                    stock.set_attn_implementation("eager")  # torch counts nothing for fused attention on a CPU
                for length in (7, 16):
                    ids = torch.ones(1, length, dtype=torch.int64)
                    one = Batch(
                        ids, torch.ones(1, length, dtype=torch.bool), torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
                    )
                    counter = FlopCounterMode(display=False)
                    with counter, torch.no_grad():
                        module(one, [LOGITS])
                    given, counted = family.flops(teacher.info, length), counter.get_total_flops()
                    require(given == counted, f"flops() of {family} is {given} for {length} tokens, torch counts {counted}")

    def test_weights_survive_a_state_dict(self) -> None:
        teacher = _tiny()
        for family in self._proposals(teacher):
            one, other = _observed(family, teacher), _build(family, teacher, seed=1)
            other.load_state_dict(copy.deepcopy(one.state_dict()))
            same = torch.equal(_run(one, teacher.batch(), [LOGITS]).logits, _run(other, teacher.batch(), [LOGITS]).logits)
            require(
                same, f"{family}: the logits differ after load_state_dict(state_dict()): keep all that matters in parameters or buffers"
            )

    def test_build_follows_the_seed(self) -> None:
        teacher = _tiny()
        for family in self._proposals(teacher):
            first, again, other = (_build(family, teacher, seed=seed) for seed in (0, 0, 1))
            pairs = list(zip(first.state_dict().items(), again.state_dict().values(), strict=True))
            for (name, one), two in pairs:
                require(
                    torch.equal(one, two), f"build() of {family} gives another {name} for the same seed: draw from torch's global generator"
                )
            differs = any(not torch.equal(one, two) for one, two in zip(first.parameters(), other.parameters(), strict=True))
            require(differs, f"build() of {family} gives the same weights for every seed: draw them from torch's global generator")

    def test_stock_model_is_the_student(self) -> None:
        teacher = _tiny()
        batch = teacher.batch()
        found = False
        for family in self._proposals(teacher):
            module = _build(family, teacher)
            stock = family.stock(module)
            if stock is None:
                continue
            found = True
            theirs, own = ({each.data_ptr() for each in model.parameters()} for model in (stock, module))
            require(theirs == own, f"stock() of {family} does not share its weights with the student")
            with torch.no_grad():
                logits = stock.eval()(input_ids=batch.ids, attention_mask=batch.mask).logits
            gap = (logits - _run(module, batch, [LOGITS]).logits).abs().max().item()
            require(gap <= 1e-5, f"the stock model of {family} gives logits that differ by {gap:.2g} from the student's")
        if not found:
            skip("stock() gives none")

    def test_known_good_shapes_can_be_proposed(self) -> None:
        cls = self.family
        for teacher in _teachers():
            knobs = Knobs()
            self._drawn(teacher, 0, knobs=knobs)
            sizes = []
            for shape in cls.known_good(teacher.info):
                for name in shape:
                    require(f"{cls.name}.{name}" in knobs.declared, f"known_good() names {name!r}, which suggest() does not draw")
                preset = {f"{cls.name}.{name}": value for name, value in shape.items()}
                family = cls(**cls.suggest(Knobs().space(CornerDraw(0.5, preset), cls.name), teacher.info))
                sizes.append(family.size(teacher.info))
            require(sizes == sorted(sizes), f"known_good() gives sizes {sizes} for {teacher.info}: smallest first")

    def test_bfloat16_is_a_bool(self) -> None:
        value = self.family.bfloat16
        require(isinstance(value, bool), f"bfloat16 of {self.family.name} is {value!r}: write True or False")

    def test_twenty_steps_bring_the_loss_down(self) -> None:
        teacher = _tiny()
        batch = teacher.batch()
        for family in self._proposals(teacher):
            module = _observed(family, teacher)
            family.start_from(module, teacher.model)
            optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3 * family.lr_scale)
            losses = []
            for _ in range(21):
                loss = batch.hard_loss(module(batch, [LOGITS]).logits)
                losses.append(loss.item())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            require(losses[-1] < losses[0], f"twenty AdamW steps take the loss of {family} from {losses[0]:.4g} to {losses[-1]:.4g}")


def _build(family: Family, teacher: _Teacher, seed: int = 0) -> nn.Module:
    """In eval mode: dropout would hide what the checks look for."""
    with seeded(seed):
        module = family.build(teacher.info)
    require(isinstance(module, nn.Module), f"build() of {family} returns {type(module).__name__}, not a module")
    return module.eval()


def _mismatch(family: Family, student: nn.Module, given: tuple[Tensor, Tensor, Tensor]) -> str | None:
    """Why observe() cannot be called as a trial calls it; None where it can."""
    try:
        inspect.signature(family.observe).bind(student, *given)
    except TypeError as problem:
        return str(problem)
    return None


def _observed(family: Family, teacher: _Teacher) -> nn.Module:
    """Built, and shown the text as in a trial. An observe() that takes something else is left out: the check that is about it says so."""
    student, given = _build(family, teacher), teacher.text(family)
    if _mismatch(family, student, given) is None:
        family.observe(student, *given)
    return student


def _run(module: nn.Module, batch: Batch, needs: Sequence[Need]) -> Outputs:
    with torch.no_grad():
        outputs = module(batch, needs)
    require(isinstance(outputs, Outputs), f"forward() of {type(module).__name__} returns {type(outputs).__name__}, not kdsearch.Outputs")
    return outputs


def _parameters(module: nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


def _layer(need: Need) -> int:
    assert need.layer is not None
    return need.layer


def _all_needs(info: ModelInfo) -> list[Need]:
    layered = [
        Need(signal, layer) for signal in Signal if signal in info.provides - {Signal.LOGITS} for layer in range(signal.states(info.layers))
    ]
    return [LOGITS, *layered]


def _shape(signal: Signal, info: ModelInfo, batch: Batch) -> tuple[int, ...]:
    rows, tokens = batch.ids.shape
    return {
        Signal.LOGITS: (rows, info.labels),
        Signal.POOLED: (rows, info.hidden),
        Signal.HIDDEN: (rows, tokens, info.hidden),
        Signal.ATTENTION: (rows, info.heads, tokens, tokens),
        Signal.VALUES: (rows, info.heads, tokens, info.hidden // max(1, info.heads)),
    }[signal]


def _matching(one: Outputs, two: Outputs) -> list[tuple[tuple[Signal, int | None], Tensor, Tensor]]:
    layered: list[tuple[tuple[Signal, int | None], Tensor, Tensor]] = [
        ((signal, layer), tensor, two.layered[signal, layer]) for (signal, layer), tensor in one.layered.items()
    ]
    return [((Signal.LOGITS, None), one.logits, two.logits), *layered]


def _keys(outputs: Outputs) -> str:
    return ", ".join(f"{signal} of layer {layer}" for signal, layer in outputs.layered)


def _names(signals: frozenset[Signal]) -> str:
    return ", ".join(sorted(signals)) or "nothing"
