"""Trials without a search: every spec is trained to its end, as many at once as there is room for."""

from __future__ import annotations

import faulthandler
import json
import sys
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch

from kdsearch.errors import EnvironmentProblem, InputError
from kdsearch.hpo import ray_session
from kdsearch.space.spec import TrialSpec
from kdsearch.student import trial
from kdsearch.student.assets import Assets
from kdsearch.student.trial import TrialResult

GRACE = 30.0  # seconds after its timeout that a trial may take to notice; then its process ends itself
RETRIES = 1  # of a trial whose process dies without a word


def _train(spec: str, assets: Assets, timeout: float, threads: int, gpu: float) -> TrialResult:
    """What a worker runs."""
    torch.set_num_threads(threads)
    # Ends the process even where Python itself hangs.
    faulthandler.dump_traceback_later(timeout + GRACE, exit=True, file=sys.__stderr__ or sys.stderr)
    try:
        device = None if gpu else torch.device("cpu")  # even where a worker sees a GPU: Ray counts those who asked alone
        return trial.run(TrialSpec.from_json(json.loads(spec)), assets, deadline=time.monotonic() + timeout, device=device)
    finally:
        faulthandler.cancel_dump_traceback_later()


def train_all(
    specs: Sequence[TrialSpec],
    assets: Assets,
    *,
    cpu: int,
    gpu: float,
    timeout: float,
    object_bytes: int,
    attached: Callable[[], None] = lambda: None,
    check: Callable[[], None] = lambda: None,
) -> Generator[tuple[int, TrialResult], None, None]:
    """Train every spec on this machine, and yield (its place in specs, its result) as each ends. Leaving the loop early ends the rest.

    Args:
        cpu, gpu: of one trial; as many run at once as fit.
        timeout: seconds that a trial may take; then it has failed.
        object_bytes: what the assets take in the object store.
        attached: called when Ray's own signal handlers can no longer replace the caller's.
        check: called at least once a second; what it raises ends all. A signal handler may not raise by itself inside Ray's calls.

    Raises:
        InputError: this machine has less than one trial needs.
        EnvironmentProblem: Ray cannot be started, or a trial's process died twice.
    """
    with ray_session.session(None, object_bytes):
        import ray

        attached()
        if ray_session.places(cpu, gpu) < 1:
            raise InputError(f"search.resources: this machine has no {cpu} CPUs and {gpu:g} GPUs for a trial: ask for less")
        held = ray.put(assets)
        task = ray.remote(_train).options(num_cpus=cpu, num_gpus=gpu, max_retries=RETRIES)
        waiting: dict[Any, int] = {
            task.remote(json.dumps(spec.to_json()), held, timeout, cpu, gpu): place for place, spec in enumerate(specs)
        }
        while waiting:
            ended, _ = ray.wait(list(waiting), timeout=0.5)
            check()
            for reference in ended:
                place = waiting.pop(reference)
                try:
                    result = ray.get(reference)
                except ray.exceptions.RayError as problem:
                    raise EnvironmentProblem(
                        f"the process of a trial died {RETRIES + 1} times ({type(problem).__name__}): too little memory, or code that "
                        "crashes; what is done is kept, the same command goes on"
                    ) from problem
                yield place, result
