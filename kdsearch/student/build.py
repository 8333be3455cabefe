"""Builds a trial from a spec and the assets: the student, its strategy and the rows that both read, on one device and untrained."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from kdsearch import tasks
from kdsearch.api import LOGITS, Family, TeacherRole
from kdsearch.errors import InputError
from kdsearch.registry.registry import Plugins
from kdsearch.space.spec import TrialSpec
from kdsearch.student.assets import Assets
from kdsearch.student.teaching import Teaching
from kdsearch.training.compact_table import CompactTable
from kdsearch.training.loop import Recipe, Rows, as_tensor, set_dropout
from kdsearch.training.target_scaling import OWN, Rescalable, Unit, output_map


def copied(module: nn.Module) -> dict[str, Tensor]:
    """Its weights as they are now."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


class Parts:
    """The parts of one trial, put together. New weights are drawn from torch's global generator.

    Attributes:
        module: the student, as its strategy's `student_needs` read it.
        extra: the strategy's own layers; None where it has none.
        teaching: what the strategy gets from the teacher.
        rows: the training set, labels in `unit`; `chosen`, (M,) int64, are the rows that this trial trains on.
        validation: the rows that it is scored on, labels in their own unit.
        vocabulary: a pruned one; None for the teacher's.
        table: the word table with only the rows that occur, until it is restored; None where it is whole.
        unit: of the labels that the student is trained on; `output`: the layer that converts a regression back; None where that is the labels' own.

    Raises:
        InputError: a training hyperparameter that does not apply to the task.
    """

    def __init__(self, spec: TrialSpec, assets: Assets, device: torch.device) -> None:
        self.spec, self.assets, self.device = spec, assets, device
        self.task = tasks.of(assets.task)
        plugins = Plugins.receive(assets.plugins)
        self.family = plugins.family(spec.family, spec.family_config)
        self.strategy = plugins.strategy(spec.strategy, spec.strategy_config)
        self.recipe = Recipe(epochs=spec.epochs, **spec.training)
        if not self.task.probabilities and self.recipe.label_smoothing:
            raise InputError(f"training.label_smoothing: a {assets.task} has no classes to spread a label over: leave it out")
        info = self.family.info(assets.info)
        self.vocabulary = None if info.vocab == assets.info.vocab else assets.vocabularies[info.vocab]
        train_set, validation, pad = assets.train_set.tokens, assets.validation.tokens, assets.pad
        if self.vocabulary is not None:
            train_set, validation, pad = self.vocabulary.train_set, self.vocabulary.validation, self.vocabulary.pad
        module = self.family.build(assets.info)
        scaling = self.task.scaling(assets.train_set.labels[: assets.labelled])
        fresh = {part: copied(part) for part in module.modules() if scaling and isinstance(part, nn.Linear)}
        self.chosen = self._chosen_rows()
        if type(self.family).observe is not Family.observe:  # joining long texts takes a while
            read = train_set.rows(self.chosen)
            self.family.observe(module, as_tensor(read.ids).long(), as_tensor(read.offsets), self._targets())
        self.family.start_from(module, assets.teacher(self.vocabulary))
        set_dropout(module, self.recipe.dropout)
        self.table = CompactTable.of(self.family.word_table(module), (train_set, validation), pad)
        self.module = module.to(device)
        extra = self.strategy.build(assets.info, info)
        self.extra = None if extra is None else extra.to(device)
        if self.table is not None:
            train_set, validation, pad = self.table.tokens(train_set), self.table.tokens(validation), self.table.pad
        self.validation = Rows(validation, assets.validation.labels, pad=pad, device=device)
        self.unit, self.output = self._unit(scaling, fresh)
        labels, smoothing = self.unit.standard(assets.train_set.labels), self.recipe.label_smoothing
        self.rows = Rows(train_set, labels, pad=pad, device=device, label_smoothing=smoothing, task=assets.task)
        self.student_needs = self.strategy.student_needs(assets.info, info)
        self.teaching = Teaching(self.strategy, assets, info, device, self.unit)

    @property
    def tokenizer(self) -> Mapping[str, bytes]:
        """The student's, file name -> content."""
        return self.assets.tokenizer if self.vocabulary is None else self.vocabulary.tokenizer

    def _unit(
        self, scaling: tuple[float, float] | None, fresh: Mapping[nn.Linear, Mapping[str, Tensor]]
    ) -> tuple[Unit, nn.Linear | Rescalable | None]:
        """For a regression the standardised unit, if its output can be converted back into the labels' unit.

        fresh: its linear maps as they were built.
        """
        output = None if scaling is None else output_map(self.module, self.validation.batch(np.arange(min(8, len(self.validation)))))
        if scaling is None or output is None:
            return OWN, None
        unit = Unit(*scaling)
        if isinstance(output, nn.Linear) and output in fresh:
            now, before = copied(output), fresh[output]
            if any(not torch.equal(now[name].cpu(), before[name]) for name in now):
                # the head was copied from the teacher and predicts unscaled labels; a fresh one predicts about 0, their mean
                unit.unfold(output)
        return unit, output

    def _targets(self) -> Tensor:
        """(N, C) of the chosen rows, as Family.observe gets them."""
        assets = self.assets
        if self.strategy.teacher is not TeacherRole.ABSENT:
            logits = as_tensor(np.asarray(assets.train_set.signals[LOGITS])[self.chosen])
            return self.task.targets(logits)
        return self.task.targets_of_labels(as_tensor(assets.train_set.labels[self.chosen]), self.task.outputs(assets.labels))

    def _chosen_rows(self) -> np.ndarray:
        """The labelled rows, and the fractions of unlabelled and augmented ones that the recipe asks for."""
        assets = self.assets
        chosen = [np.arange(assets.labelled)]
        if self.strategy.teacher is not TeacherRole.ABSENT:  # without a teacher they have no target
            first = assets.labelled
            for count, fraction in ((assets.unlabelled, self.recipe.unlabelled), (assets.augmented, self.recipe.augmented)):
                order = np.random.default_rng(count).permutation(
                    count
                )  # the same in every trial: a larger fraction contains the smaller one
                chosen.append(first + order[: round(fraction * count)])
                first += count
        return np.concatenate(chosen)
