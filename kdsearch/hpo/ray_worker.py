"""What a worker of Ray runs: one trial, on the CPUs and the GPU that it was given, ended even where it hangs."""

from __future__ import annotations

import faulthandler
import json
import sys
import time
from collections.abc import Callable

import torch

from kdsearch.space.spec import TrialSpec
from kdsearch.student import trial
from kdsearch.student.assets import Assets
from kdsearch.student.trial import Report, TrialResult

GRACE = 30.0  # seconds after its timeout that a trial may take to notice; then its process ends itself


def train(
    spec: str, assets: Assets, timeout: float, threads: int, gpu: float, report: Callable[[Report], bool | None] = lambda _: None
) -> TrialResult:
    """Run a trial.

    Args:
        spec: its JSON.
        timeout: seconds after which it has failed; GRACE seconds later its process ends, whatever it is doing.
        threads, gpu: its CPUs and its part of a GPU.
        report: as `trial.run`.
    """
    torch.set_num_threads(threads)
    # Ends the process even where Python itself hangs; the driver then sees how long the trial had run.
    faulthandler.dump_traceback_later(timeout + GRACE, exit=True, file=sys.__stderr__ or sys.stderr)
    try:
        device = None if gpu else torch.device("cpu")  # even where a worker sees a GPU: Ray counts those who asked alone
        return trial.run(TrialSpec.from_json(json.loads(spec)), assets, report, deadline=time.monotonic() + timeout, device=device)
    finally:
        faulthandler.cancel_dump_traceback_later()
