"""A study in motion: what is proposed, started, stopped, finished or lost, each first in the ledger and only then acted on.

Knows nothing of Ray: the bridge calls it, and a test can call it by hand.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kdsearch.config.schema import StudyConfig
from kdsearch.errors import EnvironmentProblem, KdsearchError
from kdsearch.hpo import optuna_db
from kdsearch.hpo.early_stopping import Rungs
from kdsearch.hpo.sampler import Sampler
from kdsearch.io import files
from kdsearch.results import front
from kdsearch.results.folder import StudyFolder
from kdsearch.results.ledger import Ledger
from kdsearch.results.record import State
from kdsearch.student.trial import TrialResult

ATTEMPTS = 3  # of one trial on nodes that die; after that the trial itself is the likelier culprit
EXPORT_SECONDS = 60.0  # at least, between exports of study.db
EXPORT_SHARE = 0.05  # of the time, at most, goes to them: they grow with the study, and trials wait


@dataclass(frozen=True)
class Live:
    """A trial that has a process now. How it stands is what the ledger says of it."""

    trial: int
    attempt: int
    proposal: int  # the sampler's number for it
    since: float = field(default_factory=time.monotonic)


class StudyRun:
    """One run of a study, from its ledger on.

    Args:
        folder: studies/<name>, owned by this process.
        places: how many trials may run at once; asked before every proposal, because clusters grow and shrink.
        changed: called with the run, the event and the trial after every event, for whoever shows the run.
    """

    def __init__(
        self,
        config: StudyConfig,
        folder: StudyFolder,
        manifest: Mapping[str, Any],
        ledger: Ledger,
        sampler: Sampler,
        rungs: Rungs | None,
        *,
        places: Callable[[], int],
        changed: Callable[[StudyRun, str, int], None],
    ) -> None:
        self.config, self.folder, self.manifest = config, folder, manifest
        self.ledger, self.sampler, self.rungs = ledger, sampler, rungs
        self.places, self._changed = places, changed
        self.quality, self.cost = config.search.objectives
        self.live: dict[str, Live] = {}
        self.problem: KdsearchError | None = None  # what ended the run early
        self.interrupted: int | None = None  # the signal that ended it
        self.began = time.monotonic()
        self._next_export = self.began + EXPORT_SECONDS

    @property
    def started(self) -> int:
        """Trials started so far, in this run and before."""
        return len(self.ledger.state.trials)

    def out_of_time(self) -> bool:
        minutes = self.config.search.minutes
        return minutes is not None and time.monotonic() - self.began > minutes * 60

    def over(self) -> bool:
        """Whether running trials shall be ended now."""
        return self.interrupted is not None or self.problem is not None or self.out_of_time()

    def interrupt(self, signum: int) -> None:
        """End soon: a signal came."""
        self.interrupted = signum

    def next_trial(self, key: str) -> dict[str, Any] | None:
        """The next trial as a Tune configuration; None when there is none now.

        key: what the caller will call it.
        """
        if self.over() or len(self.live) >= max(1, self.places()):
            return None
        try:
            return self._next(key)
        except KdsearchError as problem:
            self.problem = problem
            return None

    def _next(self, key: str) -> dict[str, Any] | None:
        state = self.ledger.state
        if self.started >= self.config.search.trials and not state.having(State.RETURNED):
            return None
        proposal = self.sampler.ask()
        if proposal is None:
            return None
        trial = state.next_number if proposal.trial is None else proposal.trial
        costs = {"params": proposal.params, "bytes": proposal.bytes, "flops": proposal.flops}
        spec = proposal.spec.to_json()
        attempt = self.ledger.started(trial, spec, proposal.hash, proposal.knobs, **costs, expected=proposal.seconds)
        self.live[key] = Live(trial, attempt, proposal.number)
        self._changed(self, "started", trial)
        return {"trial": trial, "attempt": attempt, "spec": json.dumps(spec)}

    def reported(self, key: str, result: Mapping[str, Any]) -> bool:
        """A rung's scores came in. Returns whether to stop the trial there."""
        live = self.live.get(key)
        if live is None or result.get("share") is None:
            return False
        share, score = float(result["share"]), result.get("score")
        if share >= 1.0 or score is None:
            return False
        try:
            self.ledger.rung(live.trial, live.attempt, share, score, result["trial_seconds"])
            if self.rungs is not None and self.rungs.verdict(self.ledger.state, live.trial):
                self.ledger.stopped(live.trial, live.attempt, share, score, seconds={"total": result["trial_seconds"]})
                self._follow(live)
                return True
            self.sampler.hear(live.proposal, live.trial)
            self._changed(self, "rung", live.trial)
        except KdsearchError as problem:
            self.problem = problem
        return False

    def ended(self, key: str, outcome: TrialResult | None) -> None:
        """A trial's process is done with it, one way or another.

        outcome: what it handed over; None where it died or was ended before.
        """
        live = self.live.pop(key, None)
        if live is None or not self._runs(live):
            return
        try:
            if outcome is not None:
                self._finish(live, outcome)
            elif self.over():
                self._return(live, "interrupted")
            else:
                self._lost(live)
        except KdsearchError as problem:
            self.problem = problem

    def _finish(self, live: Live, outcome: TrialResult) -> None:
        trial = self.ledger.state.trials[live.trial]
        score = outcome.scores.get(self.quality)
        if outcome.status == "complete" and (score is None or not np.isfinite(score)):
            outcome = TrialResult("failed", "not_finite", f"{self.quality} on validation is not a finite number", seconds=outcome.seconds)
        if outcome.status != "complete":
            self._fail(live, outcome.cause or "error", outcome.message or "no reason given", outcome.seconds)
            return
        assert outcome.logits is not None
        assert score is not None
        files.write_array(self.folder.predictions_file(live.trial), outcome.logits)
        digests = files.write_folder(self.folder.student_folder(live.trial), outcome.files)
        facts = {key: value for key, value in outcome.record().items() if key not in ("scores", "params", "seconds")}
        facts["digests"] = digests
        self.ledger.complete(live.trial, live.attempt, outcome.scores, trial.params, trial.bytes, trial.flops, outcome.seconds, **facts)
        self.write_front()
        self._follow(live)

    def _fail(self, live: Live, cause: str, message: str, seconds: Mapping[str, float]) -> None:
        self.ledger.failed(live.trial, live.attempt, cause, message, seconds=dict(seconds))
        self._follow(live)

    def _return(self, live: Live, reason: str) -> None:
        self.ledger.returned(live.trial, live.attempt, reason)
        self._follow(live)

    def _runs(self, live: Live) -> bool:
        return self.ledger.state.trials[live.trial].state is State.RUNNING

    def _follow(self, live: Live) -> None:
        """What follows from the end of a trial, once the ledger has it."""
        self.sampler.tell(live.proposal, live.trial)
        self._changed(self, str(self.ledger.state.trials[live.trial].state), live.trial)

    def _lost(self, live: Live) -> None:
        """The worker died without a word: its node, its memory, or the limit on its time."""
        seconds = {"total": time.monotonic() - live.since}
        if seconds["total"] >= self.config.search.trial_timeout:
            self._fail(live, "timeout", f"still running after {seconds['total']:.0f} s and deaf: its process was ended", seconds)
        elif live.attempt >= ATTEMPTS:
            self._fail(live, "lost", f"its process died {live.attempt} times: too little memory, or code that crashes", seconds)
        else:
            self._return(live, "lost")

    def settle(self) -> None:
        """After the last trial: nothing stays RUNNING, the front and the export are up to date."""
        for key in list(self.live):
            live = self.live.pop(key)
            if self._runs(live):
                self._return(live, "interrupted")
        self.write_front()
        self.export()

    def export(self) -> None:
        """study.db, for optuna-dashboard; nothing reads it back."""
        optuna_db.export(self.ledger.state, self.sampler.space, self.folder.optuna_file)

    def write_front(self) -> None:
        files.replace_json(self.folder.front_file, front.document(self.ledger.state, self.manifest))

    def tick(self) -> None:
        """Now and then, whether anything happened or not."""
        self._changed(self, "tick", -1)
        if (now := time.monotonic()) > self._next_export and self.problem is None:
            try:
                self.export()
            except EnvironmentProblem as problem:
                self.problem = problem
            done = time.monotonic()
            self._next_export = done + max(EXPORT_SECONDS, (done - now) / EXPORT_SHARE)
