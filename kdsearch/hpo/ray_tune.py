"""The bridge to Ray Tune: Searcher, TrialScheduler, Callback and trainable, each a few lines that hand over to `study_run.StudyRun`.

Tune pickles some of these for snapshots that we never read; what they hand over to therefore stays in this process, under a key.
"""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Callable
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from kdsearch.hpo import ray_worker
from kdsearch.hpo.ray_session import on_this_node
from kdsearch.hpo.ray_sink import Sink
from kdsearch.hpo.study_run import StudyRun
from kdsearch.student.assets import Assets
from kdsearch.student.trial import Report

_running: dict[str, tuple[StudyRun, Any]] = {}  # the sink beside it


class _Here:
    """Keeps the study out of Tune's pickles: only its key is serialised."""

    def __init__(self, key: str) -> None:
        self.key = key

    @property
    def study(self) -> StudyRun:
        return _running[self.key][0]


class _Searcher(_Here, Searcher):  # type: ignore[misc]  # Ray is not typed
    def __init__(self, key: str) -> None:
        Searcher.__init__(self)
        _Here.__init__(self, key)

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        given = self.study.next_trial(trial_id)
        if given is None:
            # Nothing now: wait while trials run (one may be lost and come back), else the search is over.
            return None if self.study.live else Searcher.FINISHED
        return given

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        return None  # the scheduler hears every result; this one is skipped on STOP

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        study, sink = _running[self.key]
        live = study.live.get(trial_id)
        held = None if live is None else ray.get(sink.take.remote((live.trial, live.attempt)))
        study.ended(trial_id, None if held is None else pickle.loads(held))

    def save(self, checkpoint_path: str) -> None:
        return None

    def restore(self, checkpoint_path: str) -> None:
        raise RuntimeError("a study is resumed from its ledger, never from a snapshot")

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        return None


class _Scheduler(_Here, FIFOScheduler):  # type: ignore[misc]
    """Early stopping on the whole front: the verdict comes from the rungs."""

    def __init__(self, key: str) -> None:
        FIFOScheduler.__init__(self)
        _Here.__init__(self, key)

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return True

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        return str(TrialScheduler.STOP if self.study.reported(trial.trial_id, result) else TrialScheduler.CONTINUE)


class _Stopper(_Here, tune.Stopper):  # type: ignore[misc]
    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.study.over()


class _Tick(_Here, tune.Callback):  # type: ignore[misc]
    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self.study.tick()


def _train(config: dict[str, Any], *, assets: Assets, sink: Any, quality: str, timeout: float, threads: int, gpu: float) -> None:
    """What a worker runs. A STOP ends it inside `tune.report`, with SystemExit, which must pass."""

    def report(rung: Report) -> None:
        tune.report({"share": rung.share, "score": rung.scores[quality], "trial_seconds": rung.seconds})

    result = ray_worker.train(config["spec"], assets, timeout, threads, gpu, report)
    # Before the final report: a trial that is stopped there would end without having handed over its student.
    ray.get(sink.put.remote((config["trial"], config["attempt"]), pickle.dumps(result)))
    tune.report({"share": 1.0, "trial_seconds": result.seconds["total"]})


def drive(study: StudyRun, assets: Assets, *, cpu: int, gpu: float, timeout: float, attached: Callable[[], None]) -> None:
    """Search until `study` says that it is over. Ray must be connected.

    attached: called when Ray's own signal handlers can no longer replace the caller's.
    """
    key = str(id(study))
    sink = Sink.options(scheduling_strategy=on_this_node()).remote()  # type: ignore[attr-defined]
    _running[key] = study, sink
    attached()
    with tempfile.TemporaryDirectory(prefix="kdsearch-") as scratch:
        try:
            trainable = tune.with_resources(
                tune.with_parameters(_train, assets=assets, sink=sink, quality=study.quality, timeout=timeout, threads=cpu, gpu=gpu),
                {"cpu": cpu, "gpu": gpu},
            )
            tune.Tuner(
                trainable,
                tune_config=tune.TuneConfig(search_alg=_Searcher(key), scheduler=_Scheduler(key), num_samples=-1, reuse_actors=True),
                run_config=tune.RunConfig(
                    name="search",
                    storage_path=os.path.abspath(scratch),
                    verbose=0,
                    stop=_Stopper(key),
                    callbacks=[_Tick(key)],
                    failure_config=tune.FailureConfig(max_failures=0),
                ),
            ).fit()
        finally:
            del _running[key]
