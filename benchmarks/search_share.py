"""The share of a search's wall time that is training: 24 small trials, training seconds / (wall seconds x workers). Target: at least 0.85."""

from __future__ import annotations

import os
import tempfile
import time
from typing import Any

import world

import kdsearch
from kdsearch.io import read_log


def run() -> list[dict[str, Any]]:
    world.prepared()  # the teacher's work is not what is measured
    sets = ["search.trials=24", "search.epochs=1", "cache.max_bytes=0", "space.strategies=[hard, logit]", "search.early_stopping=false"]
    sets += ["space.knobs={transformer.layers: 2, transformer.hidden: {min: 64, max: 128}}"]
    study = world.quickstart(*sets)
    with tempfile.TemporaryDirectory() as folder:
        begun = time.time()
        done = kdsearch.search(study, out=folder)
        ended = time.time()
        records = read_log(done.folder / "ledger.jsonl")
    trials = [record["seconds"] for record in records if record["event"] == "complete"]
    session = next(record["time"] for record in records if record["event"] == "session")
    training = sum(each["training"] for each in trials)
    workers = len(os.sched_getaffinity(0))
    return [
        {
            "trials": len(trials),
            "workers": workers,
            "share_of_search": round(training / ((ended - session) * workers), 3),
            "share_of_command": round(training / ((ended - begun) * workers), 3),
            "validation_share": round(sum(each["validation"] for each in trials) / ((ended - session) * workers), 3),
            "wall_s": round(ended - session, 1),
        }
    ]
