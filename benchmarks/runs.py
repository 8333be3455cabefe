"""A fixed spec run once and judged: its student, loaded from its own files, on validation and test rows, beside its teacher."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from kdsearch.api import LOGITS
from kdsearch.config.schema import StudyConfig
from kdsearch.data import splits
from kdsearch.data.tokens import Table, tokenise
from kdsearch.space.spec import TrialSpec
from kdsearch.student import saved, trial
from kdsearch.student.trial import TrialResult
from kdsearch.study import prepare
from kdsearch.teacher import signal_cache

Job = TypeVar("Job")
Answer = TypeVar("Answer")


class TrialFailed(RuntimeError):
    """The trial's own message."""


@dataclass(frozen=True)
class Run:
    """A student's answers."""

    result: TrialResult
    validation: np.ndarray  # (V,) bool, where it is right
    test: np.ndarray  # (T,) bool


class Bench:
    """A classification study, prepared, with its test rows open: each student answers them once, and nothing is chosen by them."""

    def __init__(self, study: StudyConfig) -> None:
        self.prepared = prepare.prepare(prepare.inspect(study))
        self.assets = self.prepared.assets

    @cached_property
    def test(self) -> Table:
        return splits.open_test(self.prepared.known.config)

    @cached_property
    def teacher_test(self) -> np.ndarray:
        """(T,) bool, where the teacher is right."""
        found, length = self.prepared.teacher, self.assets.max_length
        said = signal_cache.signals(found, tokenise(self.test, found.tokenizer, length), [LOGITS], max_length=length)
        return said.logits.argmax(-1) == self.test.labels

    def run(self, spec: TrialSpec) -> Run:
        """
        Raises:
            TrialFailed: it did.
        """
        result = trial.run(spec, self.assets)
        if result.status != "complete" or result.logits is None:
            raise TrialFailed(result.message)
        with tempfile.TemporaryDirectory() as folder:
            for name, content in result.files.items():
                (Path(folder) / name).write_bytes(content)
            loaded = saved.load_student(folder)
        logits = loaded.logits(self.test.texts, self.test.pairs)
        return Run(result, result.logits.argmax(-1) == self.assets.validation.labels, logits.argmax(-1) == self.test.labels)

    def row(self, run: Run) -> dict[str, Any]:
        """What a benchmark keeps of a run, its teacher's accuracies beside it."""
        return {
            "params": run.result.params,
            "validation": float(run.validation.mean()),
            "test": float(run.test.mean()),
            "teacher": self.prepared.teacher.fingerprint,
            "teacher_validation": self.prepared.teacher.validation["accuracy"],
            "teacher_test": float(self.teacher_test.mean()),
            "seconds": round(run.result.seconds["total"], 2),
        }


def spread(work: Callable[[Job], Answer], jobs: Sequence[Job], workers: int) -> Iterator[tuple[Job, Answer]]:
    """Each job with its answer as it is done, in `workers` processes of one thread each; with one worker, in this process.

    work: a function of a module, so that another process finds it.
    """
    if workers == 1:
        torch.set_num_threads(1)
        for job in jobs:
            yield job, work(job)
        return
    pool = ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (1,))
    try:
        waiting = {pool.submit(work, job): job for job in jobs}
        for done in as_completed(waiting):
            yield waiting[done], done.result()
    finally:
        pool.shutdown(cancel_futures=True)
