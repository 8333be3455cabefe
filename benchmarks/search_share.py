"""The share of a search's wall time that is training: 24 small trials, training seconds / (wall seconds x workers). Target: at least 0.85.

Two searches of the same space, of trials of one epoch (a few seconds each, so that the start of the workers and the last trial weigh most) and of
five (some fifteen seconds). EPOCHS=1 measures that one alone.
"""

from __future__ import annotations

import os
import tempfile
import time
from typing import Any

import world

import kdsearch
from kdsearch.io.files import read_log


def searched(epochs: int) -> dict[str, Any]:
    sets = [
        "search.trials=24",
        f"search.epochs={epochs}",
        "cache.max_bytes=0",
        "space.strategies=[hard, logit]",
        "search.early_stopping=false",
    ]
    sets += ["space.knobs={transformer.layers: 2, transformer.hidden: {min: 64, max: 128}}"]
    study = world.quickstart(*sets)
    with tempfile.TemporaryDirectory() as folder:
        begun = time.time()
        done = kdsearch.search(study, out=folder)
        ended = time.time()
        records = read_log(done.folder / "ledger.jsonl")
    trials = [record["seconds"] for record in records if record["event"] == "complete"]
    session = next(record["time"] for record in records if record["event"] == "session")
    started = sorted(record["time"] for record in records if record["event"] == "started")
    first, last = (pick(record["time"] for record in records if record["event"] == "complete") for pick in (min, max))
    training = sum(each["training"] for each in trials)
    workers = len(os.sched_getaffinity(0))
    there = (ended - session) * workers
    return {
        "epochs": epochs,
        "trials": len(trials),
        "workers": workers,
        "trial_s": round(sum(each["total"] for each in trials) / len(trials), 1),
        "share_of_search": round(training / there, 3),
        "share_of_command": round(training / ((ended - begun) * workers), 3),
        "validation_share": round(sum(each["validation"] for each in trials) / there, 3),
        "first_started_s": round(started[0] - session, 1),
        "first_complete_s": round(first - session, 1),
        "after_last_s": round(ended - last, 1),
        "wall_s": round(ended - session, 1),
    }


def run() -> list[dict[str, Any]]:
    world.prepared()  # the teacher's work is not what is measured
    return [searched(epochs) for epochs in world.numbers("EPOCHS", "1,5")]
