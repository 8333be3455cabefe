"""One trial: a spec and the assets in, a trained student out. No Ray, no Optuna, no files, and torch's global generator is put back."""

from __future__ import annotations

import copy
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdsearch import io, metrics, student
from kdsearch.api import Batch, Need, Outputs, Signal, Strategy, TeacherRole
from kdsearch.assets import Assets, Signals, rows_of
from kdsearch.encoder import Encoder
from kdsearch.plugins import Plugins
from kdsearch.private_teacher import PrivateTeacher, split_state
from kdsearch.train import NotFinite, OutOfTime, Recipe, Rows, fit, groups

RUNGS = (0.25, 0.5, 0.75)  # shares of the planned examples after which a trial shows its validation scores


@dataclass(frozen=True)
class TrialSpec:
    """Everything that decides a student, as plain data."""

    family: str
    family_config: Mapping[str, Any]
    strategy: str
    strategy_config: Mapping[str, Any]
    training: Mapping[str, Any]  # fields of train.Recipe, apart from epochs; lr before the family's lr_scale
    epochs: float
    seed: int

    def to_json(self) -> dict[str, Any]:
        return {
            "family": self.family,
            "family_config": dict(self.family_config),
            "strategy": self.strategy,
            "strategy_config": dict(self.strategy_config),
            "training": dict(self.training),
            "epochs": self.epochs,
            "seed": self.seed,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrialSpec:
        return cls(**values)

    @property
    def hash(self) -> str:
        """The same for two specs that differ in nothing but the seed."""
        values = self.to_json()
        del values["seed"]
        return io.digest(io.canonical(values))


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


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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
        return _failed("memory", f"out of memory: {_first_line(problem)}", begun)
    except Exception as problem:
        if "can't allocate memory" in str(problem):
            return _failed("memory", f"out of memory: {_first_line(problem)}", begun)
        frame = traceback.extract_tb(problem.__traceback__)[-1]
        where = f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}"
        return _failed("error", f"{spec.family} + {spec.strategy}: {type(problem).__name__} at {where}: {_first_line(problem)}", begun)


def _first_line(problem: BaseException) -> str:
    return (str(problem).splitlines() or [""])[0][:300]


def _failed(cause: str, message: str, begun: float) -> TrialResult:
    return TrialResult("failed", cause, message, seconds={"total": time.monotonic() - begun})


class _Trial:
    """The parts of one trial, put together."""

    def __init__(self, spec: TrialSpec, assets: Assets, device: torch.device) -> None:
        self.spec, self.assets, self.device = spec, assets, device
        plugins = Plugins.receive(assets.plugins)
        self.family = plugins.family(spec.family, spec.family_config)
        self.strategy: Strategy = plugins.strategy(spec.strategy, spec.strategy_config)
        self.recipe = Recipe(epochs=spec.epochs, **spec.training)
        module = self.family.build(assets.info)
        self.family.start_from(module, assets.teacher())
        self.module = module.to(device)
        extra = self.strategy.build(assets.info, self.family.info(assets.info))
        self.extra = None if extra is None else extra.to(device)
        self.train_rows = rows_of(assets.train, assets.pad, device)
        self.validation_rows = rows_of(assets.validation, assets.pad, device)
        self.needs = self.strategy.teacher_needs()
        self.student_needs = self.strategy.student_needs()
        self.private: PrivateTeacher | None = None
        self.teacher, self.signals = self._teacher()

    def _teacher(self) -> tuple[nn.Module | None, Signals | None]:
        """The teacher where it runs in the trial, and its cached signals where they take its place."""
        role = self.strategy.teacher
        if role is TeacherRole.ABSENT:
            return None, None
        if role is TeacherRole.JOINT:
            tuning = self.strategy.teacher_tuning()
            self.private = PrivateTeacher(self.assets.teacher(), tuning).to(self.device)
            below = Signals(self.assets.train, (split_state(self.assets.info.layers, tuning),), self.assets.info, self.device)
            logits_alone = all(need.signal is Signal.LOGITS for need in self.needs)
            return self.private, below if logits_alone and not below.missing else None
        signals = Signals(self.assets.train, (Need(Signal.LOGITS), *self.needs), self.assets.info, self.device)
        if not signals.missing:
            return None, signals
        shared = self.assets.teacher()
        # Signals over the cache's budget, and attention always: the frozen teacher runs in the trial.
        return Encoder(shared if self.device.type == "cpu" else copy.deepcopy(shared).to(self.device)), None

    def _parameter_groups(self) -> list[dict[str, object]]:
        lr, decay = self.recipe.lr * self.family.lr_scale, self.recipe.weight_decay
        found = groups(self.module, lr, decay)
        if self.extra is not None:
            found += groups(self.extra, lr, decay)
        if self.private is not None:
            found += groups(self.private.tuned, self.recipe.lr * self.strategy.teacher_tuning().lr_factor, decay)
        return found

    def _teacher_outputs(self, batch: Batch) -> Outputs | None:
        if self.private is not None:
            if self.signals is None:
                return self.private(batch, self.needs)
            (state,) = self.signals.layered(batch).values()
            return self.private.from_state(batch, state)
        if self.signals is not None:
            return self.signals.gather(batch)
        if self.teacher is None:
            return None
        with torch.no_grad():
            return self.teacher(batch, self.needs)

    def _step(self, rows: np.ndarray, progress: float) -> dict[str, Tensor]:
        batch = self.train_rows.batch(rows)
        # bf16 pays on CUDA; on a CPU without matrix units it does not, and full precision is the honest default there.
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            answer = self.module(batch, self.student_needs)
            teacher = self._teacher_outputs(batch)
            return self.strategy.loss(answer, teacher, batch, self.extra, progress)

    def _scores(self, module: nn.Module, rows: Rows) -> tuple[np.ndarray, dict[str, float]]:
        logits = student.predict(module, rows)
        return logits, metrics.scores(self.assets.task, logits, self.assets.validation.labels)

    def run(self, report: Callable[[Report], bool | None], begun: float, deadline: float | None) -> TrialResult:
        validation_seconds = 0.0
        stopped = False

        def on_rung(share: float) -> bool:
            nonlocal validation_seconds, stopped
            at = time.monotonic()
            _, scores = self._scores(self.module, self.validation_rows)
            validation_seconds += time.monotonic() - at
            stopped = bool(report(Report(share, scores, time.monotonic() - begun)))
            return stopped

        before = None
        if self.private is not None:
            cached = self.assets.validation.signals[Need(Signal.LOGITS)]
            before = metrics.scores(self.assets.task, np.asarray(cached), self.assets.validation.labels)
        parameter_groups = self._parameter_groups()
        self.module.train()
        started = time.monotonic()
        history = fit(
            self._step,
            parameter_groups,
            self.train_rows.lengths,
            self.recipe,
            seed=self.spec.seed,
            rungs=RUNGS,
            on_rung=on_rung,
            deadline=deadline,
        )
        training_seconds = time.monotonic() - started - validation_seconds
        at = time.monotonic()
        logits, scores = self._scores(self.module, self.validation_rows)
        if not np.isfinite(logits).all():
            raise NotFinite("the student's answers on validation are not finite")
        drift = None
        if before is not None and self.private is not None:
            after = self._scores(self.private, self.validation_rows)[1]
            drift = {name: after[name] - before[name] for name in before}
        validation_seconds += time.monotonic() - at
        seconds = {"total": time.monotonic() - begun, "training": training_seconds, "validation": validation_seconds}
        if stopped:
            return TrialResult("stopped", scores=scores, seconds=seconds, history=history)
        params = sum(parameter.numel() for parameter in self.module.parameters())
        record = {"spec": self.spec.to_json(), "params": params, "validation": scores}
        return TrialResult(
            "complete",
            scores=scores,
            params=params,
            seconds=seconds,
            history=history,
            teacher_drift=drift,
            logits=logits,
            files=student.files(self.family, self.module, self.assets, record),
        )
