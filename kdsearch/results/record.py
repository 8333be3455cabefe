"""A study's state from its ledger: events in, the state of every trial out. Opens no file; the search and the front both use it."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kdsearch.errors import StateError

VERSION = 1  # of the ledger's events; a reader refuses what is newer than itself


class State(enum.StrEnum):
    """Where a trial stands."""

    RUNNING = "running"
    COMPLETE = "complete"  # trained over the full budget
    STOPPED = "stopped"  # given up at a rung
    FAILED = "failed"
    RETURNED = "returned"  # taken back before its end: it will run again under the same number


# event -> the keys it cannot do without
_KEYS: dict[str, tuple[str, ...]] = {
    "study": ("version",),
    "session": (),
    "started": ("trial", "attempt", "spec", "hash", "knobs", "params", "bytes", "flops"),
    "rung": ("trial", "attempt", "share", "score"),
    "complete": ("trial", "attempt", "scores", "params", "bytes", "flops", "seconds"),
    "stopped": ("trial", "attempt", "share", "score"),
    "failed": ("trial", "attempt", "cause", "message"),
    "returned": ("trial", "attempt", "reason"),
    "refused": ("knobs", "params", "limit"),
    "reused": ("knobs", "trial"),
    "confirmed_run": ("trial", "role", "hash", "seed", "status", "scores"),
    "test_opened": ("time", "why", "rows", "runs"),
    "confirmed": ("opening", "rows", "runs", "teacher", "majority", "share_asked", "finalists"),
}
# the rest belongs to a trial that runs
_STAYS = frozenset({"study", "session", "started", "refused", "reused", "confirmed_run", "test_opened", "confirmed"})


@dataclass
class Rung:
    """A score on the way, of the last attempt."""

    share: float  # of the planned examples seen, 0..1
    score: float  # the study's quality on validation; NaN where the trial had none
    seconds: float  # since the attempt began


@dataclass
class TrialRecord:
    """All that the ledger has about one trial; results are those of its last attempt."""

    number: int
    hash: str  # of the spec without its seed
    spec: dict[str, Any]
    knobs: dict[str, Any]  # as the sampler drew them, under their full names
    params: int
    bytes: int
    flops: int  # of one text at the study's usual length
    state: State = State.RUNNING
    attempts: int = 1
    rungs: list[Rung] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)  # on validation, by metric; empty unless complete
    seconds: dict[str, float] = field(default_factory=dict)  # by part of the work; empty unless complete
    begun: float | None = None  # seconds since 1970, of the last attempt; None where the ledger has no time
    ended: float | None = None
    cause: str = ""  # one word: why it failed or came back
    message: str = ""
    facts: dict[str, Any] = field(default_factory=dict)  # everything else in its last event
    expected: float | None = None  # seconds that it was expected to take; None where nothing expected any


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


@dataclass
class StudyState:
    """A study according to its ledger. `apply` adds one event; an event that cannot follow changes nothing and raises."""

    where: str = "ledger.jsonl"  # for messages
    length: int = 0  # events so far: event n is line n of the file
    header: dict[str, Any] | None = None  # the "study" event
    sessions: list[dict[str, Any]] = field(default_factory=list)
    trials: dict[int, TrialRecord] = field(default_factory=dict)
    by_hash: dict[str, int] = field(default_factory=dict)  # spec hash -> number of the trial that has it
    refused: list[dict[str, Any]] = field(default_factory=list)  # proposals over a limit, never started
    reused: list[dict[str, Any]] = field(default_factory=list)  # proposals answered by an earlier trial
    runs: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)  # (spec hash, seed) -> a finalist trained again, or a control
    openings: list[dict[str, Any]] = field(default_factory=list)  # of the sealed test rows
    confirmations: list[dict[str, Any]] = field(default_factory=list)  # what each use of the test rows gave

    @property
    def confirmed(self) -> dict[int, dict[str, Any]]:
        """Trial -> its results in the last confirmation that had it."""
        return {each["trial"]: each for confirmation in self.confirmations for each in confirmation["finalists"]}

    def digests(self, student: str) -> dict[str, str] | None:
        """File name -> digest of students/<student>, '12' or '12-confirmed'; None in a ledger from before there were digests."""
        number, _, confirmed = student.partition("-")
        known: Mapping[str, Any] = self.confirmed.get(int(number), {}) if confirmed else self.trials[int(number)].facts
        return known.get("digests")

    @property
    def next_number(self) -> int:
        """The number that the next trial gets."""
        return max(self.trials, default=-1) + 1

    def having(self, state: State) -> list[TrialRecord]:
        """Trials in this state, by number."""
        return [trial for _, trial in sorted(self.trials.items()) if trial.state is state]

    def counts(self) -> dict[str, int]:
        """Trials by how they ended; running and returned ones have not."""
        counts = {str(state): 0 for state in (State.COMPLETE, State.STOPPED, State.FAILED)}
        for trial in self.trials.values():
            if trial.state in counts:
                counts[trial.state] += 1
        return counts

    def check(self, record: Mapping[str, Any]) -> None:
        """Whether the event can come next.

        Raises:
            StateError: it cannot; names the line and the reason.
        """

        def wrong(reason: str) -> StateError:
            return StateError(
                f"{self.where}, line {self.length + 1}: {reason}\nThe ledger only grows and is never edited: restore the file from a copy."
            )

        event = record.get("event")
        if event not in _KEYS:
            raise wrong(f"no event is named {event!r}")
        missing = [key for key in _KEYS[event] if key not in record]
        if missing:
            raise wrong(f"the event {event!r} lacks {', '.join(missing)}")
        if event == "study":
            if self.length:
                raise wrong("a study begins once, on line 1")
            version = record["version"]
            if not isinstance(version, int) or version < 1:
                raise wrong(f"version {version!r} is not one")
            if version > VERSION:
                raise StateError(
                    f"{self.where}: written by a newer kdsearch (ledger version {version}, this one reads up to {VERSION}): "
                    "upgrade kdsearch, or choose another folder with --out"
                )
            return
        if self.header is None:
            raise wrong(f"the event {event!r} comes before the study's own")
        if event == "started":
            self._check_start(record, wrong)
        elif event == "reused" and record["trial"] not in self.trials:
            raise wrong(f"reuses trial {record['trial']}, which was never started")
        elif event in ("confirmed_run", "confirmed"):
            self._check_confirmation(record, wrong)
        elif event not in _STAYS:
            number, attempt = record["trial"], record["attempt"]
            trial = self.trials.get(number)
            if trial is None:
                raise wrong(f"{event} for trial {number}, which was never started")
            if trial.attempts != attempt:
                raise wrong(f"{event} for attempt {attempt} of trial {number}, whose last attempt is {trial.attempts}")
            if trial.state is not State.RUNNING:
                raise wrong(f"{event} for trial {number}, which is {trial.state} already")

    def _check_start(self, record: Mapping[str, Any], wrong: Any) -> None:
        number, attempt = record["trial"], record["attempt"]
        trial = self.trials.get(number)
        if not isinstance(number, int) or number < 0:
            raise wrong(f"{number!r} is not a trial's number")
        if trial is not None and trial.hash != record["hash"]:
            raise wrong(f"trial {number} is started with another spec than before: a number belongs to one spec for ever")
        if trial is not None and trial.state is not State.RETURNED:
            raise wrong(f"trial {number} is started again, though it is {trial.state}")
        if attempt != (trial.attempts if trial else 0) + 1:
            raise wrong(f"attempt {attempt} of trial {number} does not follow attempt {trial.attempts if trial else 0}")

    def _check_confirmation(self, record: Mapping[str, Any], wrong: Any) -> None:
        event = record["event"]
        for number in [record["trial"]] if event == "confirmed_run" else [each["trial"] for each in record["finalists"]]:
            trial = self.trials.get(number)
            if trial is None or trial.state is not State.COMPLETE:
                raise wrong(f"{event} for trial {number}, which is {'not complete' if trial else 'not there'}")
        name = record.get("name", "")
        if event == "confirmed_run" and (not isinstance(name, str) or "/" in name or name.startswith(".")):
            raise wrong(f"{name!r} is not a name for the files of a run")
        if event == "confirmed" and not self.openings:
            raise wrong("confirmed, though the test rows were never opened")
        if event == "confirmed_run" and (record["hash"], record["seed"]) in self.runs:
            raise wrong(f"a second run of the spec {record['hash']} with seed {record['seed']}")

    def apply(self, record: Mapping[str, Any]) -> None:
        """Take one event more.

        Raises:
            StateError: it cannot follow; nothing was changed.
        """
        self.check(record)
        self.length += 1
        event = record["event"]
        listed = {"session": self.sessions, "refused": self.refused, "reused": self.reused}
        listed |= {"test_opened": self.openings, "confirmed": self.confirmations}
        if event == "study":
            self.header = dict(record)
        elif event in listed:
            listed[event].append(dict(record))
        elif event == "started":
            self._start(record)
        elif event == "confirmed_run":
            self.runs[record["hash"], record["seed"]] = dict(record)
        else:
            self._advance(self.trials[record["trial"]], event, record)

    def _start(self, record: Mapping[str, Any]) -> None:
        number = record["trial"]
        self.trials[number] = TrialRecord(
            number,
            record["hash"],
            record["spec"],
            record["knobs"],
            record["params"],
            record["bytes"],
            record["flops"],
            attempts=record["attempt"],
            begun=record.get("time"),
            expected=record.get("expected"),
        )
        self.by_hash.setdefault(record["hash"], number)

    def _advance(self, trial: TrialRecord, event: str, record: Mapping[str, Any]) -> None:
        if event == "rung":
            trial.rungs.append(Rung(float(record["share"]), _number(record["score"]), _number(record.get("seconds"))))
            return
        trial.state = State(event)
        trial.ended = record.get("time")
        known = {"event", "time", "trial", "attempt", *_KEYS[event]}
        trial.facts = {key: value for key, value in record.items() if key not in known}
        if event == "complete":
            trial.scores = {name: _number(score) for name, score in record["scores"].items()}
            trial.seconds = dict(record["seconds"])
            trial.params, trial.bytes, trial.flops = record["params"], record["bytes"], record["flops"]
        elif event == "stopped":
            trial.facts |= {"share": record["share"], "score": _number(record["score"])}
        elif event == "failed":
            trial.cause, trial.message = record["cause"], record["message"]
        else:
            trial.cause = record["reason"]


def replay(records: Iterable[Mapping[str, Any]], where: str = "ledger.jsonl") -> StudyState:
    """The state after these events, from nothing else: the same events give the same state.

    Args:
        records: the ledger's lines, in order.
        where: the file's name, for messages.

    Raises:
        StateError: an event cannot follow the ones before it, or the ledger is newer than this program.
    """
    state = StudyState(where)
    for record in records:
        state.apply(record)
    return state
