"""Trials without a search: every spec is trained to its end, as many at once as there is room for."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Sequence
from typing import Any

from kdsearch.errors import EnvironmentProblem, InputError
from kdsearch.hpo import ray_session, ray_worker
from kdsearch.space.spec import TrialSpec
from kdsearch.student.assets import Assets
from kdsearch.student.trial import TrialResult

RETRIES = 1  # of a trial whose process dies without a word


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
        task = ray.remote(ray_worker.train).options(num_cpus=cpu, num_gpus=gpu, max_retries=RETRIES)
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
