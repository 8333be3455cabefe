"""One trial: a spec and the assets in, a trained student out. No Ray, no Optuna, no files, and torch's global generator is put back."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdsearch.io.text import first_line
from kdsearch.space.spec import RUNGS, TrialSpec
from kdsearch.student import saved
from kdsearch.student.assets import Assets
from kdsearch.student.build import Parts, copied
from kdsearch.training import predict
from kdsearch.training.loop import NotFinite, OutOfTime, default_device, fit, groups, mixed
from kdsearch.training.target_scaling import OWN

EVALUATIONS = tuple(
    number / 20 for number in range(1, 21)
)  # fractions of the budget at which a trial with patience is scored; every rung is one


@dataclass(frozen=True)
class Report:
    """What a trial reports at a rung."""

    share: float  # fraction of the planned examples
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
            return _Trial(Parts(spec, assets, chosen)).run(report, begun, deadline)
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
class _Snapshot:
    """A student during training, with its score on validation."""

    fraction: float  # of the planned examples
    score: float
    weights: dict[str, Tensor]
    tuned: dict[str, Tensor] | None  # in joint training, those of the teacher's copy


class _Trial:
    """One running trial."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.unit = parts.unit  # the present unit of the student's predictions
        self.best: _Snapshot | None = None

    def _parameter_groups(self) -> list[dict[str, object]]:
        parts, recipe = self.parts, self.parts.recipe
        lr, decay = recipe.lr * parts.family.lr_scale, recipe.weight_decay
        found = groups(parts.module, lr, decay, recipe.layer_decay)
        if parts.extra is not None:
            found += groups(parts.extra, lr, decay)
        if parts.teaching.tuned is not None:
            found += groups(parts.teaching.tuned, recipe.lr * parts.strategy.teacher_tuning().lr_factor, decay)
        return found

    def _step(self, indices: np.ndarray, progress: float) -> dict[str, Tensor]:
        parts = self.parts
        rows = parts.chosen[indices]
        batch = parts.rows.batch(rows)
        with self._precision():
            student = parts.module(batch, parts.student_needs)
        teacher = parts.teaching.outputs(rows, batch)
        # The loss in full precision: differences of near-equal probabilities are lost in bfloat16.
        return parts.strategy.loss(student, teacher, batch, parts.extra, progress)

    def _precision(self) -> torch.autocast:
        device = self.parts.device
        return mixed(device, device.type == "cuda" or self.parts.family.bfloat16)

    def _scores(self) -> tuple[np.ndarray, dict[str, float]]:
        logits = self.unit.own(predict.predict(self.parts.module, self.parts.validation))
        if not np.isfinite(logits).all():
            raise NotFinite("the student's logits on validation are not finite")
        return logits, self.parts.task.scores(logits, self.parts.assets.validation.labels)

    def _improves(self, fraction: float, scores: Mapping[str, float]) -> bool:
        """Whether training is to go on; the weights of the best evaluation are kept."""
        score, patience = scores[self.parts.assets.quality], self.parts.recipe.patience
        if self.best is None or score > self.best.score:
            self.best = self._snapshot(fraction, score)
        assert patience is not None
        return fraction - self.best.fraction < patience - 1e-9

    def _snapshot(self, fraction: float, score: float) -> _Snapshot:
        tuned = self.parts.teaching.tuned
        return _Snapshot(fraction, score, copied(self.parts.module), None if tuned is None else copied(tuned))

    def _go_back(self, snapshot: _Snapshot) -> None:
        self.parts.module.load_state_dict(snapshot.weights)
        if self.parts.teaching.tuned is not None and snapshot.tuned is not None:
            self.parts.teaching.tuned.load_state_dict(snapshot.tuned)

    def run(self, report: Callable[[Report], bool | None], begun: float, deadline: float | None) -> TrialResult:
        validation_seconds = 0.0
        stopped = False
        parts, quality = self.parts, self.parts.assets.quality
        patient = parts.recipe.patience is not None

        def on_rung(passed: Sequence[float]) -> bool:
            nonlocal validation_seconds, stopped
            at = time.monotonic()
            with self._precision():  # the error of bfloat16 is far below a rung's noise, and scoring takes half the time
                _, scores = self._scores()
            validation_seconds += time.monotonic() - at
            for fraction in passed:
                if fraction in RUNGS and not stopped:
                    stopped = bool(report(Report(fraction, scores, time.monotonic() - begun)))
            return stopped or (patient and not self._improves(passed[-1], scores))

        parameter_groups = self._parameter_groups()
        parts.module.train()
        started = time.monotonic()
        history = fit(
            self._step,
            parameter_groups,
            parts.rows.lengths[parts.chosen],
            parts.recipe,
            seed=parts.spec.seed,
            rungs=EVALUATIONS if patient else RUNGS,
            on_rung=on_rung,
            deadline=deadline,
        )
        training_seconds = time.monotonic() - started - validation_seconds
        at = time.monotonic()
        logits, scores = self._scores()
        if self.best is not None and not stopped:
            last = self._snapshot(1.0, scores[quality])
            self._go_back(self.best)
            best_logits, best_scores = self._scores()  # once more: the first time was in the precision of a rung
            if best_scores[quality] > last.score:
                logits, scores = best_logits, best_scores
            else:
                self._go_back(last)
        drift = None if stopped else parts.teaching.drift()
        if parts.output is not None and not stopped:
            parts.unit.fold(parts.output)
            self.unit = OWN
            logits, scores = self._scores()  # now exactly those of the saved student
        validation_seconds += time.monotonic() - at
        seconds = {"total": time.monotonic() - begun, "training": training_seconds, "validation": validation_seconds}
        if stopped:
            return TrialResult("stopped", scores=scores, seconds=seconds, history=history)
        if parts.table is not None:
            parts.table.restore()
        params = sum(parameter.numel() for parameter in parts.module.parameters())
        record = {"spec": parts.spec.to_json(), "params": params, "validation": scores}
        return TrialResult(
            "complete",
            scores=scores,
            params=params,
            seconds=seconds,
            history=history,
            teacher_drift=drift,
            logits=logits,
            files=saved.files(parts.family, parts.module, parts.assets, parts.tokenizer, record),
        )
