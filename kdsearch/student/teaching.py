"""The teacher's side of a trial: its outputs for a batch of rows, from the cache where it has them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from kdsearch import tasks
from kdsearch.api import LOGITS, Batch, ModelInfo, Need, Outputs, Signal, Strategy, TeacherRole
from kdsearch.student.assets import Assets, Part
from kdsearch.teacher.encoder import Encoder
from kdsearch.teacher.signals import Signals
from kdsearch.teacher.trainable_copy import PrivateTeacher, split_state
from kdsearch.training import predict
from kdsearch.training.loop import NotFinite, Rows, as_tensor, mixed
from kdsearch.training.target_scaling import OWN, Unit


class _FromStates(nn.Module):
    """A private copy that reads the states below its tuned layers instead of the text."""

    def __init__(self, private: PrivateTeacher, below: Signals) -> None:
        super().__init__()
        self._private, self._below = private, below

    def forward(self, batch: Batch, needs: tuple[Need, ...]) -> Outputs:
        (state,) = self._below.layered(batch.example, batch.ids.shape[1]).values()
        return self._private.from_state(batch, state)


class Teaching:
    """What a strategy gets from the teacher. A frozen teacher's logits always come from the cache: of several teachers, the mean's.

    A private copy learns from labels, so it runs on the rows that have one. For the other rows, a strategy that needs only logits gets the frozen
    teacher's, from the cache.

    Args:
        student: which the strategy's needs depend on.
        unit: of the logits; a private copy is trained in it.

    Attributes:
        tuned: the modules of the private copy that joint training trains; None in every other role.
    """

    def __init__(self, strategy: Strategy, assets: Assets, student: ModelInfo, device: torch.device, unit: Unit = OWN) -> None:
        self._assets, self._device, self._unit = assets, device, unit
        self._needs = strategy.teacher_needs(assets.info, student)
        self._private: PrivateTeacher | None = None
        self._live: Encoder | None = None
        self._signals: Signals | None = None
        self._each: Tensor | None = None  # (K, N, C)
        self._frozen: Tensor | None = None  # (N, C), beside a private copy
        self.tuned: nn.ModuleList | None = None
        # The teacher's own ids: a student with another vocabulary reads the same rows as other subwords.
        self._rows = Rows(assets.train_set.tokens, assets.train_set.labels, pad=assets.pad, device=device)
        if strategy.teacher is TeacherRole.JOINT:
            tuning = strategy.teacher_tuning()
            self._private = PrivateTeacher(assets.teacher(), tuning).to(device)
            self.tuned = self._private.tuned
            if unit != OWN:
                unit.unfold(self._private.head)
            if all(need.signal is Signal.LOGITS for need in self._needs):
                self._frozen = as_tensor(unit.standard(assets.train_set.signals[LOGITS])).to(device)
                below = self._gathered(assets.train_set, (split_state(assets.info.layers, tuning),))
                self._signals = None if below.missing else below
        elif strategy.teacher is TeacherRole.FROZEN:
            train_set = assets.train_set
            if unit != OWN:
                train_set = replace(train_set, signals={**train_set.signals, LOGITS: unit.standard(train_set.signals[LOGITS])})
            self._signals = self._gathered(train_set, (LOGITS, *self._needs))
            if self._signals.missing:
                # Over the cache's budget, and attention always: the frozen teacher runs in the trial.
                shared = assets.teacher()
                self._live = Encoder(shared if device.type == "cpu" else copy.deepcopy(shared).to(device))
                self._signals = self._gathered(train_set, (LOGITS,))
            if strategy.each_teacher:
                if assets.several is None or assets.several.train_set is None:
                    raise ValueError(f"{strategy.name} weighs several teachers, and these assets have the logits of one")
                self._each = as_tensor(unit.standard(assets.several.train_set)).to(device)

    def _gathered(self, part: Part, needs: Sequence[Need]) -> Signals:
        return Signals(part.signals, part.tokens.offsets, needs, self._assets.info, self._device)

    def outputs(self, rows: np.ndarray, batch: Batch) -> Outputs | None:
        """The teacher's Outputs for these rows; batch: the same rows as the student reads them."""
        if self._private is not None:
            labelled = rows < self._assets.labelled
            if self._frozen is None or labelled.all():
                return self._copied(rows)
            logits = self._frozen[batch.example]
            if labelled.any():
                logits = logits.index_put((as_tensor(np.flatnonzero(labelled)).to(self._device),), self._copied(rows[labelled]).logits)
            return Outputs(logits)
        if self._signals is None:
            return None
        logits = self._signals.logits(batch.example)
        each = None if self._each is None else self._each[:, batch.example]
        if self._live is None:
            return Outputs(logits, self._signals.layered(batch.example, batch.ids.shape[1]), each)
        with torch.no_grad(), mixed(self._device):
            return Outputs(logits, self._live(self._rows.batch(rows), self._needs).layered, each)

    def _copied(self, rows: np.ndarray) -> Outputs:
        """The private copy's outputs for these rows, in float32."""
        assert self._private is not None
        own = self._rows.batch(rows)
        with mixed(self._device):
            if self._signals is None:
                return self._private(own, self._needs)
            (state,) = self._signals.layered(own.example, own.ids.shape[1]).values()
            return self._private.from_state(own, state)

    def drift(self) -> dict[str, float] | None:
        """The private copy's validation scores minus the teacher's own, in the labels' unit; None where there is no copy.

        Raises:
            NotFinite: the copy's logits are not finite.
        """
        if self._private is None:
            return None
        assets, part = self._assets, self._assets.validation
        # It is a copy of the main teacher; of several teachers, the part has the mean.
        main = part.signals[LOGITS] if assets.several is None else assets.several.validation[0]
        before = tasks.of(assets.task).scores(np.asarray(main), part.labels)
        below = None if self._signals is None else self._gathered(part, self._signals.needs)
        copied = self._private if below is None or below.missing else _FromStates(self._private, below)
        logits = self._unit.own(predict.predict(copied, Rows(part.tokens, part.labels, pad=assets.pad, device=self._device)))
        if not np.isfinite(logits).all():
            raise NotFinite("the logits of the teacher's copy on validation are not finite")
        after = tasks.of(assets.task).scores(logits, part.labels)
        return {name: after[name] - before[name] for name in before}
