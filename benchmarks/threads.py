"""Two trials at once on one thread each, against one after the other on two threads: which gives a machine of two cores more trials?

Wall seconds of two equal trials of one epoch, whole, measured from outside; pairs are run in turn and the figure is the median of the pairs' ratios.
Above 1: at once is faster.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from statistics import median
from typing import Any

import torch
import world

from kdsearch.student import trial

FAMILIES = ("transformer", "mlp")
PAIRS = 3


def train(family: str, threads: int) -> None:
    torch.set_num_threads(threads)
    result = trial.run(world.spec(family), world.prepared().assets)
    if result.status != "complete":
        raise RuntimeError(result.message)


def at_once(workers: list[ProcessPoolExecutor], family: str) -> None:
    for waiting in [worker.submit(train, family, 1) for worker in workers]:
        waiting.result()


def in_turn(workers: list[ProcessPoolExecutor], family: str) -> None:
    for worker in workers:
        worker.submit(train, family, 2).result()


def run() -> list[dict[str, Any]]:
    world.prepared()  # the teacher's work is done here, if it is not yet, by all cores
    workers = [ProcessPoolExecutor(1, get_context("spawn")) for _ in range(2)]
    rows = []
    try:
        for family in FAMILIES:
            at_once(workers, family)  # warm
            in_turn(workers, family)
            pairs = [tuple(world.seconds(partial(way, workers, family)) for way in (at_once, in_turn)) for _ in range(PAIRS)]
            rows.append(
                {
                    "family": family,
                    "times_faster_at_once": round(median(turn / once for once, turn in pairs), 3),
                    "at_once_s": median(once for once, _ in pairs),
                    "in_turn_s": median(turn for _, turn in pairs),
                }
            )
    finally:
        for worker in workers:
            worker.shutdown()
    return rows
