from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdsearch.errors import StateError
from kdsearch.io.files import canonical, read_log
from kdsearch.results.ledger import Ledger
from kdsearch.results.record import State, replay

STUDY = {"event": "study", "version": 1}


def started(trial: int = 0, attempt: int = 1, hash: str = "a") -> dict[str, Any]:
    costs = {"params": 1, "bytes": 4, "flops": 2}
    return {"event": "started", "trial": trial, "attempt": attempt, "spec": {}, "hash": hash, "knobs": {}, **costs}


def rung(trial: int = 0, attempt: int = 1, share: float = 0.25, score: float | None = 0.5) -> dict[str, Any]:
    return {"event": "rung", "trial": trial, "attempt": attempt, "share": share, "score": score, "seconds": 1.0}


def complete(trial: int = 0, attempt: int = 1) -> dict[str, Any]:
    costs = {"params": 1, "bytes": 4, "flops": 2}
    return {"event": "complete", "trial": trial, "attempt": attempt, "scores": {"accuracy": 0.7}, "seconds": {"total": 3.0}, **costs}


def stopped(trial: int = 0, attempt: int = 1) -> dict[str, Any]:
    return {"event": "stopped", "trial": trial, "attempt": attempt, "share": 0.5, "score": 0.4}


def failed(trial: int = 0, attempt: int = 1) -> dict[str, Any]:
    return {"event": "failed", "trial": trial, "attempt": attempt, "cause": "memory", "message": "out of memory"}


def returned(trial: int = 0, attempt: int = 1) -> dict[str, Any]:
    return {"event": "returned", "trial": trial, "attempt": attempt, "reason": "interrupted"}


def test_a_trials_life_from_start_to_score() -> None:
    told = replay([STUDY, started(), rung(), rung(share=0.5, score=0.6), complete()])
    trial = told.trials[0]
    assert (trial.state, trial.attempts, trial.scores, trial.seconds) == (State.COMPLETE, 1, {"accuracy": 0.7}, {"total": 3.0})
    assert [(each.share, each.score, each.seconds) for each in trial.rungs] == [(0.25, 0.5, 1.0), (0.5, 0.6, 1.0)]
    assert told.counts() == {"complete": 1, "stopped": 0, "failed": 0}
    assert (told.length, told.next_number, told.by_hash) == (5, 1, {"a": 0})


def test_stopped_and_failed_say_why() -> None:
    told = replay([STUDY, started(0), stopped(0), started(1, hash="b"), failed(1)])
    assert told.trials[0].facts == {"share": 0.5, "score": 0.4}
    assert (told.trials[1].cause, told.trials[1].message) == ("memory", "out of memory")
    assert told.counts() == {"complete": 0, "stopped": 1, "failed": 1}


def test_a_returned_trial_does_not_count_and_starts_afresh_under_its_number() -> None:
    records = [STUDY, started(), rung(), returned()]
    assert replay(records).counts() == {"complete": 0, "stopped": 0, "failed": 0}
    assert replay(records).trials[0].rungs  # what it scored is still known, until it runs again
    told = replay([*records, started(attempt=2), rung(attempt=2, share=0.5), complete(attempt=2)])
    assert (told.trials[0].attempts, [each.share for each in told.trials[0].rungs]) == (2, [0.5])
    assert told.next_number == 1


@pytest.mark.parametrize(
    ("records", "line", "reason"),
    [
        ([STUDY, started(), complete(), complete()], 4, "complete for trial 0, which is complete already"),
        ([STUDY, started(), complete(), failed()], 4, "failed for trial 0, which is complete already"),
        ([STUDY, started(), returned(), complete()], 4, "complete for trial 0, which is returned already"),
        ([STUDY, started(), stopped(), rung()], 4, "rung for trial 0, which is stopped already"),
        ([STUDY, complete()], 2, "complete for trial 0, which was never started"),
        ([STUDY, started(), rung(trial=3)], 3, "rung for trial 3, which was never started"),
        ([STUDY, {"event": "reused", "knobs": {}, "trial": 3}], 2, "reuses trial 3, which was never started"),
        ([STUDY, started(), started()], 3, "trial 0 is started again, though it is running"),
        ([STUDY, started(), failed(), started(attempt=2)], 4, "trial 0 is started again, though it is failed"),
        ([STUDY, started(), returned(), started(attempt=2, hash="b")], 4, "a number belongs to one spec for ever"),
        ([STUDY, started(), returned(), started(attempt=3)], 4, "attempt 3 of trial 0 does not follow attempt 1"),
        ([STUDY, started(attempt=2)], 2, "attempt 2 of trial 0 does not follow attempt 0"),
        ([STUDY, started(), returned(), started(attempt=2), complete()], 5, "attempt 1 of trial 0, whose last attempt is 2"),
        ([STUDY, STUDY], 2, "a study begins once"),
        ([started()], 1, "comes before the study's own"),
        ([STUDY, {"event": "dance"}], 2, "no event is named 'dance'"),
        ([STUDY, {"event": "rung", "trial": 0}], 2, "lacks attempt, share, score"),
        ([{"event": "study", "version": "1"}], 1, "version '1' is not one"),
    ],
)
def test_what_no_run_can_have_written_is_refused_with_its_line(records: list[dict[str, Any]], line: int, reason: str) -> None:
    with pytest.raises(StateError) as refusal:
        replay(records, "studies/x/ledger.jsonl")
    assert str(refusal.value).startswith(f"studies/x/ledger.jsonl, line {line}: ")
    assert reason in str(refusal.value)
    assert refusal.value.exit_code == 3


def test_a_newer_ledger_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_text(canonical({"event": "study", "version": 2}) + "\n" + '{"torn')
    with pytest.raises(StateError, match=r"newer kdsearch \(ledger version 2, this one reads up to 1\): upgrade") as refusal:
        Ledger(tmp_path)
    assert refusal.value.exit_code == 3
    assert path.read_text().endswith('{"torn')


def test_what_is_written_is_what_is_read_and_the_open_ledger_agrees(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.begin(name="toy", objectives=("accuracy", "params"))
        ledger.begin(name="toy")  # a study begins once
        ledger.session(pid=1)
        number = ledger.state.next_number
        attempt = ledger.started(number, {"family": "tiny"}, "a", {"tiny.layers": np.int64(2), "on": True}, 10, 40, 5)
        ledger.rung(number, attempt, 0.25, float(np.float64(0.5)), np.float64(1.5))
        ledger.rung(number, attempt, 0.5, math.nan, 2.5)
        ledger.complete(number, attempt, {"accuracy": 0.7}, 11, 44, 6, {"total": 3.0}, history=[{"loss": math.inf}])
        ledger.refused({"tiny.layers": 9}, 99, "params 99 > 50")
        ledger.reused({"tiny.layers": 2}, number)
        live = ledger.state
    assert (number, attempt) == (0, 1)
    again = replay(read_log(tmp_path / "ledger.jsonl"), str(tmp_path / "ledger.jsonl"))
    assert repr(again) == repr(live)  # as text, for NaN is not equal to itself
    trial = again.trials[0]
    assert math.isnan(trial.rungs[1].score)
    assert (trial.params, trial.bytes, trial.flops, trial.knobs) == (11, 44, 6, {"tiny.layers": 2, "on": True})
    assert trial.facts == {"history": [{"loss": None}]}
    assert [each["limit"] for each in again.refused] == ["params 99 > 50"]
    assert [each["trial"] for each in again.reused] == [0]
    assert again.header is not None
    assert again.header["objectives"] == ["accuracy", "params"]


def test_an_event_that_cannot_follow_is_not_written(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.begin()
        attempt = ledger.started(0, {}, "a", {}, 1, 4, 2)
        ledger.stopped(0, attempt, 0.25, 0.5)
        before = (tmp_path / "ledger.jsonl").read_bytes()
        with pytest.raises(StateError, match="line 4"):
            ledger.complete(0, attempt, {"accuracy": 0.7}, 1, 4, 2, {})
        assert (tmp_path / "ledger.jsonl").read_bytes() == before
        assert ledger.state.length == 3


def test_a_killed_run_leaves_nothing_running(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.begin()
        for number in range(3):
            ledger.started(number, {}, f"h{number}", {}, 1, 4, 2)
        ledger.complete(1, 1, {"accuracy": 0.7}, 1, 4, 2, {})
    with (tmp_path / "ledger.jsonl").open("ab") as stream:  # killed in the middle of a line
        stream.write(b'{"event":"complete","tri')
    with Ledger(tmp_path) as resumed:
        assert resumed.recover() == [0, 2]
        assert [trial.number for trial in resumed.state.having(State.RETURNED)] == [0, 2]
        assert resumed.state.having(State.RUNNING) == []
        assert resumed.recover() == []
        assert resumed.started(2, {}, "h2", {}, 1, 4, 2) == 2
        assert resumed.state.next_number == 3
    assert all(json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines())


def test_any_cut_of_the_file_can_be_resumed(tmp_path: Path) -> None:
    with Ledger(tmp_path / "whole") as ledger:
        ledger.begin()
        for number in range(3):
            attempt = ledger.started(number, {}, f"h{number}", {}, 1, 4, 2)
            ledger.rung(number, attempt, 0.25, 0.5, 1.0)
            ledger.complete(number, attempt, {"accuracy": 0.7}, 1, 4, 2, {})
    content = (tmp_path / "whole" / "ledger.jsonl").read_bytes()
    for cut in range(0, len(content), 37):
        folder = tmp_path / f"cut{cut}"
        folder.mkdir()
        (folder / "ledger.jsonl").write_bytes(content[:cut])
        with Ledger(folder) as resumed:
            resumed.begin()
            resumed.recover()
            acknowledged = content[:cut].count(b'"event":"complete"')
            assert acknowledged - 1 <= resumed.state.counts()["complete"] <= acknowledged
            assert resumed.state.having(State.RUNNING) == []


def test_ten_thousand_records_replay_in_under_a_second() -> None:
    records: list[dict[str, Any]] = [STUDY]
    for number in range(2000):
        shares = (0.25, 0.5, 0.75)
        records += [started(number, hash=str(number)), *(rung(number, share=share) for share in shares), complete(number)]
    begun = time.perf_counter()
    told = replay(records)
    assert time.perf_counter() - begun < 1.0
    assert told.length == 10_001
    assert told.counts()["complete"] == 2000
