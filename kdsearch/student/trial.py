"""One trial: a spec and the assets in, a trained student out. No Ray, no Optuna, no files, and torch's global generator is put back."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdsearch import tasks
from kdsearch.api import Family, Need, Signal, Strategy, TeacherRole
from kdsearch.errors import InputError
from kdsearch.io.text import first_line
from kdsearch.registry.registry import Plugins
from kdsearch.space.spec import TrialSpec
from kdsearch.student import saved
from kdsearch.student.assets import Assets
from kdsearch.student.teaching import Teaching
from kdsearch.training import compact_table, predict
from kdsearch.training.loop import NotFinite, OutOfTime, Recipe, Rows, as_tensor, default_device, fit, groups, mixed, set_dropout
from kdsearch.training.target_scaling import OWN, Rescalable, Unit, output_map

RUNGS = (0.25, 0.5, 0.75)  # shares of the planned examples after which a trial shows its validation scores
LOOKS = tuple(look / 20 for look in range(1, 21))  # shares after which a trial with patience looks at them itself; every rung is one


@dataclass(frozen=True)
class Report:
    """What a trial shows at a rung."""

    share: float  # of the planned examples
    scores: dict[str, float]  # on validation
    seconds: float  # since the trial began


@dataclass
class TrialResult:
    """How a trial ended. A failed one has a cause and a message, and no student."""

    status: str  # complete | stopped | failed
    cause: str | None = None  # not_finite | memory | timeout | error
    message: str | None = None
    scores: dict[str, float] = field(default_factory=dict)  # on validation, of the saved student in float32
    params: int = 0
    seconds: dict[str, float] = field(default_factory=dict)  # total, training, validation
    history: list[dict[str, float]] = field(default_factory=list)  # loss terms over time
    teacher_drift: dict[str, float] | None = None  # JOINT: the copy's validation scores after, minus before
    logits: np.ndarray | None = None  # (N, C) on validation
    files: dict[str, bytes] = field(default_factory=dict)  # the student's folder

    def record(self) -> dict[str, Any]:
        """The part that the ledger keeps."""
        kept = {"scores": self.scores, "params": self.params, "seconds": self.seconds, "history": self.history}
        return {**kept, "teacher_drift": self.teacher_drift} if self.teacher_drift is not None else kept


def run(
    spec: TrialSpec,
    assets: Assets,
    report: Callable[[Report], bool | None] = lambda _: None,
    *,
    deadline: float | None = None,
    device: torch.device | None = None,
) -> TrialResult:
    """Train and score one student.

    Args:
        report: called at each of RUNGS; returns True to stop the trial there.
        deadline: time.monotonic() after which the trial counts as failed.
        device: a CUDA device if there is one, else the CPU.

    Returns:
        The result; whatever a plugin or the numbers do wrong is a failed result, not an exception. SystemExit and KeyboardInterrupt pass.
    """
    begun = time.monotonic()
    chosen = device or default_device()
    devices = [chosen] if chosen.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(spec.seed)
            return _Trial(spec, assets, chosen).run(report, begun, deadline)
    except NotFinite as problem:
        return _failed("not_finite", f"{problem}: a smaller lr (it was {spec.training.get('lr')}) or weight may help", begun)
    except OutOfTime:
        return _failed("timeout", f"not done after {time.monotonic() - begun:.0f} s", begun)
    except (MemoryError, torch.cuda.OutOfMemoryError) as problem:
        return _failed("memory", f"out of memory: {first_line(problem, 300)}", begun)
    except Exception as problem:
        if "can't allocate memory" in str(problem):
            return _failed("memory", f"out of memory: {first_line(problem, 300)}", begun)
        frame = traceback.extract_tb(problem.__traceback__)[-1]
        where = f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}"
        return _failed("error", f"{spec.family} + {spec.strategy}: {type(problem).__name__} at {where}: {first_line(problem, 300)}", begun)


def _failed(cause: str, message: str, begun: float) -> TrialResult:
    return TrialResult("failed", cause, message, seconds={"total": time.monotonic() - begun})


@dataclass(frozen=True)
class _Look:
    """A student on its way, seen on validation."""

    share: float  # of the planned examples
    score: float
    weights: dict[str, Tensor]
    tuned: dict[str, Tensor] | None  # the teacher's copy beside it, in joint training


def _copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


class _Trial:
    """The parts of one trial, put together."""

    def __init__(self, spec: TrialSpec, assets: Assets, device: torch.device) -> None:
        self.spec, self.assets, self.device = spec, assets, device
        self.output: nn.Linear | Rescalable | None = None  # of a regression: where the labels' unit goes
        self.task = tasks.of(assets.task)
        plugins = Plugins.receive(assets.plugins)
        self.family = plugins.family(spec.family, spec.family_config)
        self.strategy: Strategy = plugins.strategy(spec.strategy, spec.strategy_config)
        self.recipe = Recipe(epochs=spec.epochs, **spec.training)
        if not self.task.probabilities and self.recipe.label_smoothing:
            raise InputError(f"training.label_smoothing: a {assets.task} has no classes to spread a label over: leave it out")
        info = self.family.info(assets.info)
        self.vocabulary = None if info.vocab == assets.info.vocab else assets.vocabularies[info.vocab]
        learnt, validation, pad = assets.learnt.tokens, assets.validation.tokens, assets.pad
        if self.vocabulary is not None:
            learnt, validation, pad = self.vocabulary.learnt, self.vocabulary.validation, self.vocabulary.pad
        module = self.family.build(assets.info)
        scaling = self.task.scaling(assets.learnt.labels[: assets.labelled])
        fresh = {part: _copied(part) for part in module.modules() if scaling and isinstance(part, nn.Linear)}
        self.chosen = self._chosen_rows()
        if type(self.family).observe is not Family.observe:  # putting the text together takes a while, where it is long
            read = learnt.rows(self.chosen)
            self.family.observe(module, as_tensor(read.ids).long(), as_tensor(read.offsets), self._answers())
        self.family.start_from(module, assets.teacher(self.vocabulary))
        set_dropout(module, self.recipe.dropout)
        self.table = compact_table.CompactTable.of(self.family.word_table(module), (learnt, validation), pad)
        self.module = module.to(device)
        extra = self.strategy.build(assets.info, info)
        self.extra = None if extra is None else extra.to(device)
        if self.table is not None:
            learnt, validation, pad = self.table.tokens(learnt), self.table.tokens(validation), self.table.pad
        self.validation = Rows(validation, assets.validation.labels, pad=pad, device=device)
        self.unit = self._unit(scaling, fresh)
        labels, smoothing = self.unit.standard(assets.learnt.labels), self.recipe.label_smoothing
        self.rows = Rows(learnt, labels, pad=pad, device=device, label_smoothing=smoothing, task=assets.task)
        self.student_needs = self.strategy.student_needs(assets.info, info)
        self.teaching = Teaching(self.strategy, assets, info, device, self.unit)
        self.best: _Look | None = None

    def _unit(self, scaling: tuple[float, float] | None, fresh: Mapping[nn.Linear, Mapping[str, Tensor]]) -> Unit:
        """What the student learns in: of a regression standardised, where its output can be brought back into the labels' unit.

        fresh: its linear maps as they were built.
        """
        if scaling is None:
            return OWN
        self.output = output_map(self.module, self.validation.batch(np.arange(min(8, len(self.validation)))))
        if self.output is None:
            return OWN
        unit = Unit(*scaling)
        if isinstance(self.output, nn.Linear) and self.output in fresh:
            now, before = _copied(self.output), fresh[self.output]
            if any(not torch.equal(now[name].cpu(), before[name]) for name in now):
                unit.unfold(
                    self.output
                )  # the head was copied from the teacher and predicts unscaled labels; a fresh one predicts about 0, their mean
        return unit

    def _answers(self) -> Tensor:
        """(N, C) of the chosen rows, as Family.observe gets them."""
        assets = self.assets
        if self.strategy.teacher is not TeacherRole.ABSENT:
            logits = as_tensor(np.asarray(assets.learnt.signals[Need(Signal.LOGITS)])[self.chosen])
            return self.task.targets(logits)
        return self.task.targets_of_labels(as_tensor(assets.learnt.labels[self.chosen]), self.task.outputs(assets.labels))

    def _chosen_rows(self) -> np.ndarray:
        """The training rows, and of the unlabelled and augmented ones the shares that the recipe asks for."""
        assets = self.assets
        chosen = [np.arange(assets.labelled)]
        if self.strategy.teacher is not TeacherRole.ABSENT:  # without a teacher, nobody says anything about them
            first = assets.labelled
            for count, share in ((assets.unlabelled, self.recipe.unlabelled), (assets.augmented, self.recipe.augmented)):
                order = np.random.default_rng(count).permutation(count)  # the same for all: a larger share holds the smaller one
                chosen.append(first + order[: round(share * count)])
                first += count
        return np.concatenate(chosen)

    def _parameter_groups(self) -> list[dict[str, object]]:
        lr, decay = self.recipe.lr * self.family.lr_scale, self.recipe.weight_decay
        found = groups(self.module, lr, decay, self.recipe.layer_decay)
        if self.extra is not None:
            found += groups(self.extra, lr, decay)
        if self.teaching.tuned is not None:
            found += groups(self.teaching.tuned, self.recipe.lr * self.strategy.teacher_tuning().lr_factor, decay)
        return found

    def _step(self, places: np.ndarray, progress: float) -> dict[str, Tensor]:
        rows = self.chosen[places]
        batch = self.rows.batch(rows)
        with self._precision():
            answer = self.module(batch, self.student_needs)
        teacher = self.teaching.outputs(rows, batch)
        # The loss in full precision: differences of near-equal probabilities are lost in bfloat16.
        return self.strategy.loss(answer, teacher, batch, self.extra, progress)

    def _precision(self) -> torch.autocast:
        return mixed(self.device, self.device.type == "cuda" or self.family.bfloat16)

    def _scores(self) -> tuple[np.ndarray, dict[str, float]]:
        logits = self.unit.own(predict.predict(self.module, self.validation))
        if not np.isfinite(logits).all():
            raise NotFinite("the student's answers on validation are not finite")
        return logits, self.task.scores(logits, self.assets.validation.labels)

    def _improves(self, share: float, scores: Mapping[str, float]) -> bool:
        """Whether training is to go on; the weights of the best look are kept."""
        score = scores[self.assets.quality]
        if self.best is None or score > self.best.score:
            self.best = self._look(share, score)
        assert self.recipe.patience is not None
        return share - self.best.share < self.recipe.patience - 1e-9

    def _look(self, share: float, score: float) -> _Look:
        tuned = self.teaching.tuned
        return _Look(share, score, _copied(self.module), None if tuned is None else _copied(tuned))

    def _go_back(self, look: _Look) -> None:
        self.module.load_state_dict(look.weights)
        if self.teaching.tuned is not None and look.tuned is not None:
            self.teaching.tuned.load_state_dict(look.tuned)

    def run(self, report: Callable[[Report], bool | None], begun: float, deadline: float | None) -> TrialResult:
        validation_seconds = 0.0
        stopped = False
        patient = self.recipe.patience is not None

        def on_rung(passed: Sequence[float]) -> bool:
            nonlocal validation_seconds, stopped
            at = time.monotonic()
            with self._precision():  # what bfloat16 changes is far below a rung's noise, and a look takes half the time
                _, scores = self._scores()
            validation_seconds += time.monotonic() - at
            for share in passed:
                if share in RUNGS and not stopped:
                    stopped = bool(report(Report(share, scores, time.monotonic() - begun)))
            return stopped or (patient and not self._improves(passed[-1], scores))

        parameter_groups = self._parameter_groups()
        self.module.train()
        started = time.monotonic()
        history = fit(
            self._step,
            parameter_groups,
            self.rows.lengths[self.chosen],
            self.recipe,
            seed=self.spec.seed,
            rungs=LOOKS if patient else RUNGS,
            on_rung=on_rung,
            deadline=deadline,
        )
        training_seconds = time.monotonic() - started - validation_seconds
        at = time.monotonic()
        logits, scores = self._scores()
        if self.best is not None and not stopped:
            last = self._look(1.0, scores[self.assets.quality])
            self._go_back(self.best)
            best_logits, best_scores = self._scores()  # once more: the look was in the precision of a rung
            if best_scores[self.assets.quality] > last.score:
                logits, scores = best_logits, best_scores
            else:
                self._go_back(last)
        drift = None if stopped else self.teaching.drift()
        if self.output is not None and not stopped:
            self.unit.fold(self.output)
            self.unit = OWN
            logits, scores = self._scores()  # to the last bit those of what is saved
        validation_seconds += time.monotonic() - at
        seconds = {"total": time.monotonic() - begun, "training": training_seconds, "validation": validation_seconds}
        if stopped:
            return TrialResult("stopped", scores=scores, seconds=seconds, history=history)
        if self.table is not None:
            self.table.restore()
        params = sum(parameter.numel() for parameter in self.module.parameters())
        record = {"spec": self.spec.to_json(), "params": params, "validation": scores}
        tokenizer = self.assets.tokenizer if self.vocabulary is None else self.vocabulary.tokenizer
        return TrialResult(
            "complete",
            scores=scores,
            params=params,
            seconds=seconds,
            history=history,
            teacher_drift=drift,
            logits=logits,
            files=saved.files(self.family, self.module, self.assets, tokenizer, record),
        )
