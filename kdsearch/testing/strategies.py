"""What every strategy has to hold; a strategy's author inherits it and has its tests."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kdsearch.api import LOGITS, Batch, ModelInfo, Need, Outputs, Strategy, TeacherRole, UndeclaredSignal
from kdsearch.losses import mixture
from kdsearch.registry.classes import construct, dump
from kdsearch.space.knobs import Knobs
from kdsearch.teacher.encoder import Encoder
from kdsearch.testing.checks import GivenDraw, close, options_left, others, real_part, require, seeded, skip
from kdsearch.testing.tiny import eight_sentences, reordered, tiny_info, tiny_teacher, unlabelled

_PROGRESS = (0.0, 0.5, 1.0)


@dataclass(frozen=True)
class _Pair:
    """A teacher and a student that strategies are tried on, and a second teacher for those that read each one's answer."""

    teacher: Encoder
    second: Encoder
    student: Encoder
    teacher_info: ModelInfo
    student_info: ModelInfo
    labels: int

    def batch(self, extra_columns: int = 0) -> Batch:
        return eight_sentences(labels=self.labels, extra_columns=extra_columns)

    def with_student(self, student: Encoder) -> _Pair:
        return replace(self, student=student)


@cache
def _pair(layers: int, hidden: int, labels: int = 3, seed: int = 1) -> _Pair:
    teacher = tiny_teacher(labels=labels)
    student = tiny_teacher(layers=layers, hidden=hidden, labels=labels, seed=seed)
    second = tiny_teacher(layers=1, labels=labels, seed=2)
    info = replace(tiny_info(teacher), teachers=2)
    return _Pair(Encoder(teacher), Encoder(second), Encoder(student), info, tiny_info(student), labels)


def _smaller() -> _Pair:
    return _pair(layers=1, hidden=16)


def _same_shape() -> _Pair:
    return _pair(layers=2, hidden=32)


def _equal() -> _Pair:
    return _pair(layers=2, hidden=32, seed=0)


@dataclass(frozen=True)
class _Draw:
    """A strategy as the search may propose it, and what was drawn for it."""

    strategy: Strategy
    knobs: GivenDraw


class StrategyContract:
    """Inherit it in a test file; each check is a test::

        class TestMine(StrategyContract):
            strategy = Mine

    Attributes:
        strategy: the class under test.
        equal_student: what an unlabelled batch gives when the student is a copy of the teacher. "zero" (the default): zero loss, or else
            zero gradient · "zero loss", as a divergence has · "zero gradient", as soft cross-entropy has · "exempt: REASON". Draws whose
            `build` has parameters are left out: a projection fresh from the generator is not the identity.
        draws: how many random proposals each check tries (default 6), besides one for every option of a choice that they leave out.
    """

    strategy: ClassVar[type[Strategy]]
    equal_student: ClassVar[str] = "zero"
    draws: ClassVar[int] = 6

    def expected_of_equal_student(self, strategy: Strategy) -> str:
        """`equal_student` for one instance: override it where the fields decide."""
        return self.equal_student

    # What the checks share

    def _drawn(self, pair: _Pair, seed: int, given: Mapping[str, Any] | None = None, knobs: Knobs | None = None) -> _Draw:
        cls = self.strategy
        draw = GivenDraw(seed, dict(given or {}))
        fields = cls.suggest((knobs or Knobs()).space(draw, cls.name), pair.teacher_info, pair.student_info)
        require(isinstance(fields, dict), f"suggest() returns {type(fields).__name__}, not the dict of an instance's fields")
        return _Draw(cls(**fields), draw)

    def _proposals(self, pair: _Pair) -> list[_Draw]:
        cls = self.strategy
        require(
            cls.fits(pair.teacher_info, pair.student_info.provides), "fits() refuses a student that provides every signal: nothing to check"
        )
        knobs = Knobs()  # one for all draws, as in a study: options that depend on another knob are refused
        draws = [self._drawn(pair, seed, knobs=knobs) for seed in range(self.draws)]
        for name, value in options_left(draw.knobs for draw in draws):
            draws.append(self._drawn(pair, 0, {name: value}, knobs))
        return list({repr(draw.strategy): draw for draw in draws}.values())

    def _extra(self, strategy: Strategy, pair: _Pair) -> nn.Module | None:
        with seeded(0):
            return strategy.build(pair.teacher_info, pair.student_info)

    def _student_outputs(self, strategy: Strategy, pair: _Pair, batch: Batch) -> Outputs:
        return _show(pair.student, batch, strategy.student_needs(pair.teacher_info, pair.student_info))

    def _teacher_outputs(self, strategy: Strategy, pair: _Pair, batch: Batch) -> Outputs | None:
        if strategy.teacher is TeacherRole.ABSENT:
            return None
        with torch.set_grad_enabled(strategy.teacher is TeacherRole.JOINT):
            shown = _show(pair.teacher, batch, strategy.teacher_needs(pair.teacher_info, pair.student_info))
            if not strategy.each_teacher:
                return shown
            each = torch.stack([shown.logits, _show(pair.second, batch, (LOGITS,)).logits])
            return Outputs(mixture(each, torch.full((2,), 0.5)), shown.layered, each)

    def _terms(
        self,
        strategy: Strategy,
        pair: _Pair,
        batch: Batch | None = None,
        extra: nn.Module | None = None,
        progress: float = 0.5,
        teacher: Outputs | None = None,
    ) -> dict[str, Tensor]:
        batch = pair.batch() if batch is None else batch
        extra = self._extra(strategy, pair) if extra is None else extra
        teacher = self._teacher_outputs(strategy, pair, batch) if teacher is None else teacher
        return strategy.loss(self._student_outputs(strategy, pair, batch), teacher, batch, extra, progress)

    def _loss(self, strategy: Strategy, pair: _Pair, **rest: Any) -> Tensor:
        return _total(self._terms(strategy, pair, **rest))

    # The checks

    def test_staged_is_a_bool(self) -> None:
        value = self.strategy.staged
        require(isinstance(value, bool), f"staged of {self.strategy.name} is {value!r}: write True or False")

    def test_fields_survive_json(self) -> None:
        for draw in self._proposals(_smaller()):
            written = json.dumps(dump(draw.strategy), allow_nan=False)
            again = construct(self.strategy, json.loads(written))
            require(again == draw.strategy, f"{draw.strategy} comes back from its JSON {written} as {again}")

    def test_suggestions_are_reproducible(self) -> None:
        pair = _smaller()
        first = [draw.strategy for draw in self._proposals(pair)]
        with seeded(1234):
            second = [draw.strategy for draw in self._proposals(pair)]
        require(first == second, f"the same seeds suggest {first[0]} once and {second[0]} then: draw from `space` alone")
        if self._proposals(pair)[0].knobs.met:
            require(len(first) > 1, f"every seed suggests {first[0]}: what it draws reaches no field")

    def test_loss_is_finite_scalar_terms(self) -> None:
        for pair in (_smaller(), _same_shape()):
            for draw in self._proposals(pair):
                for progress in _PROGRESS:
                    terms = self._terms(draw.strategy, pair, progress=progress)
                    require(isinstance(terms, dict) and bool(terms), f"loss() of {draw.strategy} returns {terms!r}, not a dict of terms")
                    for name, term in terms.items():
                        require(isinstance(name, str), f"term {name!r} of {draw.strategy}: its name is not a string")
                        require(
                            isinstance(term, Tensor) and term.ndim == 0,
                            f"term {name!r} of {draw.strategy} is not a scalar tensor: {term!r}",
                        )
                        require(bool(torch.isfinite(term)), f"term {name!r} of {draw.strategy} is {term.item()} at progress {progress}")

    def test_gradients_flow_only_where_allowed(self) -> None:
        for pair in (_smaller(), _same_shape()):
            for draw in self._proposals(pair):
                strategy = draw.strategy
                teacher, student = copy.deepcopy(pair.teacher), copy.deepcopy(pair.student)
                extra = self._extra(strategy, pair)
                copies = replace(pair, teacher=teacher, student=student)
                for progress in _PROGRESS:  # a method in stages uses what it built in one of them
                    loss = self._loss(strategy, copies, extra=extra, progress=progress)
                    require(loss.requires_grad, f"the loss of {strategy} has no gradient: do not detach the student's outputs")
                    loss.backward()
                require(_gradient(student) > 0, f"no gradient of {strategy} reaches the student")
                require(math.isfinite(_gradient(student)), f"the student's gradient of {strategy} is not finite")
                for name, parameter in extra.named_parameters() if extra is not None else ():
                    require(parameter.grad is not None, f"no gradient of {strategy} reaches {name} of build(): leave it out, or use it")
                joint = strategy.teacher is TeacherRole.JOINT
                require(joint or _gradient(teacher) == 0, f"a gradient of {strategy} reaches the frozen teacher")
                require(not joint or _gradient(teacher) > 0, f"no gradient of {strategy} reaches the joint teacher")

    def test_inputs_are_left_alone(self) -> None:
        pair = _same_shape()
        for draw in self._proposals(pair):
            strategy, batch = draw.strategy, pair.batch()
            student, teacher = self._student_outputs(strategy, pair, batch), self._teacher_outputs(strategy, pair, batch)
            tensors = {
                **{f"the student's {name}": each for name, each in _tensors(student)},
                **({f"the teacher's {name}": each for name, each in _tensors(teacher)} if teacher is not None else {}),
                **{f"batch.{name}": getattr(batch, name) for name in ("ids", "mask", "labels", "example")},
            }
            before = {name: each.detach().clone() for name, each in tensors.items()}
            strategy.loss(student, teacher, batch, self._extra(strategy, pair), 0.5)
            for name, each in tensors.items():
                require(torch.equal(each.detach(), before[name]), f"loss() of {strategy} changes {name} in place: others read it too")

    def test_padding_changes_nothing(self) -> None:
        self._same_loss_for(extra_columns=5, what="with five more columns of padding")

    def test_row_order_changes_nothing(self) -> None:
        self._same_loss_for(order=(5, 2, 7, 0, 3, 6, 1, 4), what="with its rows in another order")

    def _same_loss_for(self, *, extra_columns: int = 0, order: Sequence[int] | None = None, what: str) -> None:
        for pair in (_smaller(), _same_shape()):
            other = pair.batch(extra_columns)
            if order is not None:
                other = reordered(other, torch.tensor(order))
            for draw in self._proposals(pair):
                before, after = self._loss(draw.strategy, pair).item(), self._loss(draw.strategy, pair, batch=other).item()
                require(close(before, after), f"the loss of {draw.strategy} is {before:.6g}, and {after:.6g} for the same batch {what}")

    def test_student_equal_to_teacher(self) -> None:
        looked_at = 0
        pair, far = _equal(), _same_shape()
        batch = unlabelled(pair.batch())
        for draw in self._proposals(pair):
            strategy = draw.strategy
            expected = self.expected_of_equal_student(strategy)
            if expected.startswith("exempt"):
                reason = expected.partition(":")[2].strip()
                require(bool(reason), 'equal_student = "exempt: REASON" needs the reason')
                continue
            require(
                expected in ("zero", "zero loss", "zero gradient"),
                f"equal_student = {expected!r}: zero, zero loss, zero gradient or exempt: REASON",
            )
            extra = self._extra(strategy, pair)
            if extra is not None and any(True for _ in extra.parameters()):
                continue
            looked_at += 1
            student = copy.deepcopy(pair.student)
            loss = self._loss(strategy, pair.with_student(student), batch=batch)
            loss.backward()
            other = copy.deepcopy(far.student)
            far_loss = self._loss(strategy, far.with_student(other), batch=batch)
            far_loss.backward()
            gradient = _gradient(student)
            require(math.isfinite(gradient), f"the gradient of {strategy} is not finite when the student equals the teacher")
            no_loss = abs(loss.item()) <= 1e-4 * abs(far_loss.item()) + 1e-6
            no_gradient = gradient <= 1e-3 * _gradient(other) + 1e-6
            holds = {"zero": no_loss or no_gradient, "zero loss": no_loss, "zero gradient": no_gradient}[expected]
            require(
                holds,
                f"student equal to teacher: loss {loss.item():.3g} and gradient {gradient:.3g} of {strategy}, expected {expected}; "
                'if that is meant, declare equal_student = "exempt: REASON"',
            )
        if not looked_at:
            skip("every draw is exempt, or has projections")

    def test_no_jump_at_the_ends_of_ranges(self) -> None:
        pair = _smaller()
        for draw in self._proposals(pair)[:3]:
            for name, knob in draw.knobs.met.items():
                if knob.kind != "real" or knob.low == knob.high:
                    continue
                for end, inward in ((0.0, 1e-3), (1.0, -1e-3)):
                    places = [knob.at(end + step * inward) for step in (0, 1, 2)]
                    at_end, near, farther = (self._at(pair, draw, name, value) for value in places)
                    # A smooth loss moves about as much in its last step as in the one before; ten times leaves room for roots.
                    allowed = 10 * abs(near - farther) + 1e-4 * (1 + abs(near))
                    require(
                        abs(at_end - near) <= allowed,
                        f"the loss jumps from {near:.6g} to {at_end:.6g} when {name} goes from {places[1]:.6g} to the end {places[0]:.6g}: "
                        f"{draw.strategy}",
                    )

    def _at(self, pair: _Pair, draw: _Draw, name: str, value: Any) -> float:
        return self._loss(self._drawn(pair, draw.knobs.seed, {**draw.knobs.values, name: value}).strategy, pair).item()

    def test_every_knob_changes_the_loss(self) -> None:
        waiting: set[str] = set()
        seen: set[str] = set()
        for pair in (_smaller(), _same_shape()):
            for draw in self._proposals(pair):
                fresh = {name for name, knob in draw.knobs.met.items() if others(knob, draw.knobs.values[name])}
                waiting |= fresh - seen
                seen |= fresh
                before = self._effect(draw.strategy, pair) if waiting & fresh else []
                for name in sorted(waiting & fresh):
                    for value in others(draw.knobs.met[name], draw.knobs.values[name]):
                        other = self._drawn(pair, draw.knobs.seed, {**draw.knobs.values, name: value}).strategy
                        after = self._effect(other, pair)
                        if not all(math.isclose(one, two, rel_tol=1e-5, abs_tol=1e-9) for one, two in zip(before, after, strict=True)):
                            waiting.discard(name)
                            break
        require(not waiting, f"no value of {', '.join(sorted(waiting))} changes the loss: use it, or take it out of suggest()")

    def _effect(self, strategy: Strategy, pair: _Pair) -> list[float]:
        """All that a hyperparameter can change: the loss through training, its gradient, and how a joint teacher is tuned."""
        numbers: list[float] = []
        for progress in _PROGRESS:
            student = copy.deepcopy(pair.student)
            loss = self._loss(strategy, pair.with_student(student), progress=progress)
            loss.backward()
            numbers += [loss.item(), _gradient(student)]
        if strategy.teacher is TeacherRole.JOINT:
            tuning = strategy.teacher_tuning()
            numbers += [float(tuning.layers), tuning.lr_factor]
        return numbers

    def test_cached_signals_give_the_live_loss(self) -> None:
        if self.strategy.teacher is not TeacherRole.FROZEN:
            skip(f"a strategy whose teacher is {self.strategy.teacher} reads no cache")
        for pair in (_smaller(), _same_shape()):
            batch = pair.batch()
            for draw in self._proposals(pair):
                live = self._teacher_outputs(draw.strategy, pair, batch)
                assert live is not None
                with_live = self._loss(draw.strategy, pair, teacher=live).item()
                with_cached = self._loss(draw.strategy, pair, teacher=_as_cached(live, batch.mask)).item()
                require(
                    close(with_live, with_cached),
                    f"{draw.strategy}: the loss is {with_live:.6g} with the live teacher and {with_cached:.6g} with its cached signals, "
                    "which are zero where padded: leave padding out with batch.mask",
                )

    def test_undeclared_signals_fail_by_name(self) -> None:
        for pair in (_smaller(), _same_shape()):
            batch = pair.batch()
            for draw in self._proposals(pair):
                strategy = draw.strategy
                student, teacher = self._student_outputs(strategy, pair, batch), self._teacher_outputs(strategy, pair, batch)
                for side, outputs, needs in (
                    ("student", student, strategy.student_needs(pair.teacher_info, pair.student_info)),
                    ("teacher", teacher, strategy.teacher_needs(pair.teacher_info, pair.student_info)),
                ):
                    for need in needs if outputs is not None else ():
                        if need.layer is None or outputs is None:
                            continue
                        kept = {key: each for key, each in outputs.layered.items() if key != (need.signal, need.layer)}
                        less = Outputs(outputs.logits, kept, outputs.teachers)
                        both = (less, teacher) if side == "student" else (student, less)
                        require(
                            any(self._misses(strategy, pair, both, batch, progress) for progress in _PROGRESS),
                            f"{strategy} declares {side}_needs() {need.signal} of layer {need.layer} and never reads it, or hides that it "
                            "is missing: declare exactly what loss() reads, and read it as outputs.layered[signal, layer]",
                        )

    def _misses(self, strategy: Strategy, pair: _Pair, outputs: tuple[Outputs, Outputs | None], batch: Batch, progress: float) -> bool:
        try:
            strategy.loss(*outputs, batch, self._extra(strategy, pair), progress)
        except UndeclaredSignal:
            return True
        return False

    def test_unlabelled_rows_give_a_finite_loss(self) -> None:
        pair = _smaller()
        partly = pair.batch()
        partly.labels[::2] = unlabelled(partly).labels[::2]
        for draw in self._proposals(pair):
            for what, batch in (("no label", unlabelled(pair.batch())), ("every second label", partly)):
                loss = self._loss(draw.strategy, pair, batch=batch).item()
                require(math.isfinite(loss), f"the loss of {draw.strategy} is {loss} for a batch with {what}: use batch.hard_loss")

    def test_regression_is_learnt_or_refused(self) -> None:
        pair = _pair(layers=1, hidden=16, labels=1)
        if not self.strategy.fits(pair.teacher_info, pair.student_info.provides):
            skip("fits() refuses a regression")
        for draw in self._proposals(pair):
            student = copy.deepcopy(pair.student)
            loss = self._loss(draw.strategy, pair.with_student(student))
            loss.backward()
            require(
                math.isfinite(loss.item()) and _gradient(student) > 1e-6,
                f"{draw.strategy} teaches nothing for a regression, which has one output (loss {loss.item():.3g}, gradient "
                f"{_gradient(student):.3g}): let fits() refuse it when not teacher.probabilities",
            )

    def test_twenty_steps_bring_the_loss_down(self) -> None:
        pair = _smaller()
        for draw in self._proposals(pair)[:3]:
            strategy = draw.strategy
            copies = replace(pair, teacher=copy.deepcopy(pair.teacher), student=copy.deepcopy(pair.student))
            extra = self._extra(strategy, pair)
            trained = [*copies.student.parameters(), *(extra.parameters() if extra is not None else ())]
            groups: list[dict[str, Any]] = [{"params": trained, "lr": 2e-3}]
            if strategy.teacher is TeacherRole.JOINT:
                groups.append({"params": list(copies.teacher.parameters()), "lr": 2e-3 * strategy.teacher_tuning().lr_factor})
            optimizer = torch.optim.AdamW(groups)
            losses = []
            for _ in range(21):
                loss = self._loss(strategy, copies, extra=extra)
                losses.append(loss.item())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            require(losses[-1] < losses[0], f"twenty AdamW steps take the loss of {strategy} from {losses[0]:.4g} to {losses[-1]:.4g}")


def _show(model: Encoder, batch: Batch, needs: Sequence[Need]) -> Outputs:
    """Exactly the declared signals, so that any other fails by name."""
    outputs: Outputs = model(batch, needs)
    return outputs


def _total(terms: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def _gradient(module: nn.Module) -> float:
    """The norm of all gradients together; 0 without any."""
    return math.sqrt(sum(float(each.grad.square().sum()) for each in module.parameters() if each.grad is not None))


def _tensors(outputs: Outputs) -> list[tuple[str, Tensor]]:
    each = [] if outputs.teachers is None else [("each teacher's logits", outputs.teachers)]
    return [("logits", outputs.logits), *each, *((f"{signal} of layer {layer}", each) for (signal, layer), each in outputs.layered.items())]


def _as_cached(outputs: Outputs, mask: Tensor) -> Outputs:
    """What a cache gives back: float32 arrays, stored without padding and padded with zeros again."""
    layered = {(signal, layer): real_part(signal, each.detach().float(), mask).clone() for (signal, layer), each in outputs.layered.items()}
    return Outputs(outputs.logits.detach().float(), layered, outputs.teachers)
