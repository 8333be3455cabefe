"""A study before and after it is prepared: what is known from its files alone, and all that its trials need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kdsearch.api import LOGITS, Family, ModelInfo
from kdsearch.config.schema import StudyConfig
from kdsearch.data.splits import Data
from kdsearch.data.survey import Survey
from kdsearch.data.tokens import Table, Tokens, tokenise
from kdsearch.io.progress import Progress
from kdsearch.registry.registry import Plugins
from kdsearch.space import cost
from kdsearch.space.explore import Exploration
from kdsearch.student.assets import Assets
from kdsearch.teacher import ensemble, resolve, signal_cache
from kdsearch.teacher.ensemble import Other
from kdsearch.teacher.resolve import Teacher


@dataclass(frozen=True)
class Known:
    """What is known from files alone; nothing has been computed yet."""

    config: StudyConfig
    plugins: Plugins
    data: Data
    survey: Survey  # what these rows are like
    plan: resolve.Plan
    tables: dict[str, Table]  # what students learn from, by name: train, unlabelled, augmented
    train_set: dict[str, Tokens]  # the same in the teacher's subwords
    validation: Tokens
    subwords: np.ndarray  # the teacher's ids in the order in which pruned vocabularies keep them
    info: ModelInfo  # the teacher's, with the vocabularies that students may have
    exploration: Exploration
    others: tuple[Other, ...] = ()  # the teachers beside the main one, which all of the above is about

    def price(self, family: Family) -> cost.Cost:
        """Exact costs of a student; FLOPs of one text of data.max_length tokens."""
        return cost.price(family, self.info, self.config.data.max_length)


@dataclass(frozen=True)
class Prepared:
    """All that trials need, and where it came from."""

    known: Known
    teachers: tuple[Teacher, ...]  # the main one first
    assets: Assets
    manifest: dict[str, Any]
    forwards: int  # rows that the teachers were run on now; 0 when the cache had everything
    seconds: float  # that the teachers took: fine-tuning, gate and signals
    notes: tuple[str, ...]

    @property
    def teacher(self) -> Teacher:
        """The main one."""
        return self.teachers[0]

    def taught(self, table: Table, progress: Progress | None = None) -> np.ndarray:
        """(N, C) the logits that students are compared with on any rows: the teacher's, or those of the mean of several."""
        length = self.known.config.data.max_length
        logits = []
        for index, one in enumerate(self.teachers):
            tokens, own = tokenise(table, one.tokenizer, length), ensemble.numbered(progress, index, len(self.teachers))
            logits.append(signal_cache.signals(one, tokens, [LOGITS], own, max_length=length).logits)
        return ensemble.mean(logits, self.known.config.task)

    @property
    def object_bytes(self) -> int:
        """What the assets take in an object store."""
        total = sum(array.nbytes for array in self.assets.teacher_weights.values())
        tokens = [self.assets.train_set.tokens, self.assets.validation.tokens]
        for pruned in self.assets.vocabularies.values():
            tokens += [pruned.train_set, pruned.validation]
        total += sum(each.ids.nbytes + each.offsets.nbytes for each in tokens)
        if self.assets.several is not None:
            total += self.assets.several.nbytes
        return total + sum(column.nbytes for part in (self.assets.train_set, self.assets.validation) for column in part.signals.values())
