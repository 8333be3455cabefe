"""The append-only truth of a study: every event is on the disk before anybody acts on it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from kdsearch.io.files import AppendLog, canonical, ensure_folder
from kdsearch.results.folder import StudyFolder
from kdsearch.results.record import VERSION, State, StudyState


def _plain(value: Any) -> Any:
    """The value as JSON can hold it: numpy scalars as Python's, and null for numbers that are not finite."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


class Ledger:
    """A study's ledger, open for a run. One thread of one process, the study's owner, writes it.

    `state` is always what replaying the file would give. Each method adds one event and returns once it is on the disk. A number that is
    not finite is written as null.

    Raises:
        StateError: the file holds what no run of ours can leave or a newer version, knows less than the study's other files, or an event
            cannot follow; the file is then unchanged.
        EnvironmentProblem: the folder cannot be written, or the disk is full.
    """

    def __init__(self, folder: Path) -> None:
        place = StudyFolder(ensure_folder(folder))
        # replayed before it is opened: opening for writing cuts off a torn line, and a newer version's file is not ours to touch
        self.state: StudyState = place.state(new=True)
        self._log = AppendLog(place.ledger_file)

    def close(self) -> None:
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()

    def append(self, event: str, **facts: Any) -> None:
        """Any event by its name; the methods below spell out the ones there are."""
        # through text and back, so that the state of an open ledger is the file's to the last key
        record = json.loads(canonical(_plain({"event": event, **facts})))
        self.state.check(record)
        self._log.append(record)
        self.state.apply(record)

    def begin(self, **header: Any) -> None:
        """The study's first line, once in its life; on a ledger that has one, nothing happens."""
        if self.state.header is None:
            self.append("study", version=VERSION, time=time.time(), **header)

    def session(self, **facts: Any) -> None:
        """A run of the study begins."""
        self.append("session", time=time.time(), **facts)

    def started(
        self, trial: int, spec: Mapping[str, Any], hash: str, knobs: Mapping[str, Any], params: int, bytes: int, flops: int, **facts: Any
    ) -> int:
        """A trial begins.

        Args:
            trial: `state.next_number` for a fresh trial; its own number for one that was returned.
            hash: the spec's, without its seed.

        Returns:
            the attempt's number, 1 for a fresh trial; every later event of this attempt carries it.
        """
        before = self.state.trials.get(trial)
        attempt = before.attempts + 1 if before else 1
        numbers = {"params": params, "bytes": bytes, "flops": flops}
        self.append("started", trial=trial, attempt=attempt, spec=spec, hash=hash, knobs=knobs, time=time.time(), **numbers, **facts)
        return attempt

    def rung(self, trial: int, attempt: int, share: float, score: float, seconds: float) -> None:
        """A score on the way.

        Args:
            share: fraction of the planned examples seen, 0..1.
            seconds: since the attempt began.
        """
        self.append("rung", trial=trial, attempt=attempt, share=share, score=score, seconds=seconds)

    def complete(
        self,
        trial: int,
        attempt: int,
        scores: Mapping[str, float],
        params: int,
        bytes: int,
        flops: int,
        seconds: Mapping[str, float],
        digests: Mapping[str, str] | None = None,
        **facts: Any,
    ) -> None:
        """A trial saw its full budget.

        Args:
            scores: on validation, by metric. The study's quality must be finite: a trial without it has failed.
            seconds: by part of the work.
            digests: of the files of its student's folder, by name.
        """
        numbers = {"params": params, "bytes": bytes, "flops": flops, **({"digests": digests} if digests else {})}
        self.append("complete", trial=trial, attempt=attempt, scores=scores, seconds=seconds, time=time.time(), **numbers, **facts)

    def stopped(self, trial: int, attempt: int, share: float, score: float, **facts: Any) -> None:
        """A trial was given up at a rung."""
        self.append("stopped", trial=trial, attempt=attempt, share=share, score=score, time=time.time(), **facts)

    def failed(self, trial: int, attempt: int, cause: str, message: str, **facts: Any) -> None:
        """A trial ended without a score, for good.

        Args:
            cause: one word: nan, memory, timeout, plugin, …
        """
        self.append("failed", trial=trial, attempt=attempt, cause=cause, message=message, time=time.time(), **facts)

    def returned(self, trial: int, attempt: int, reason: str) -> None:
        """A trial was taken back, its node lost or the run interrupted: it will run again under its number, and counts only then."""
        self.append("returned", trial=trial, attempt=attempt, reason=reason, time=time.time())

    def refused(self, knobs: Mapping[str, Any], params: int, limit: str) -> None:
        """A proposal over a limit, never started.

        Args:
            limit: which one, in words: "params 12,000,000 > 10,000,000".
        """
        self.append("refused", knobs=knobs, params=params, limit=limit)

    def reused(self, knobs: Mapping[str, Any], trial: int) -> None:
        """A proposal that an earlier complete trial answers."""
        self.append("reused", knobs=knobs, trial=trial)

    def recover(self, reason: str = "interrupted") -> list[int]:
        """Mark every trial that is running in the ledger as returned. Called when a run opens the ledger, none of them can be.

        Returns:
            their numbers.
        """
        running = self.state.having(State.RUNNING)
        for trial in running:
            self.returned(trial.number, trial.attempts, reason)
        return [trial.number for trial in running]
