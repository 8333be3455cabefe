"""The search of a study, from its file to a folder with a front."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from kdsearch import tasks
from kdsearch.config import study_file
from kdsearch.config.schema import StudyConfig
from kdsearch.errors import InputError, Interrupted, StateError, VerdictNo
from kdsearch.evaluation import statistics
from kdsearch.hpo import ray_session
from kdsearch.hpo.early_stopping import Rungs
from kdsearch.hpo.live_view import View
from kdsearch.hpo.sampler import Sampler
from kdsearch.hpo.study_run import StudyRun
from kdsearch.io import files
from kdsearch.io.progress import teacher_progress
from kdsearch.results.folder import StudyFolder
from kdsearch.results.ledger import Ledger
from kdsearch.results.record import State
from kdsearch.student.price import Workload, seconds
from kdsearch.study import prepare
from kdsearch.study.interrupts import Interrupts, interruptible
from kdsearch.study.prepared import Known, Prepared
from kdsearch.study.study import Study
from kdsearch.tasks import metrics


def search(
    study: str | Path | StudyConfig | None = None,
    *,
    out: str | Path = "studies",
    address: str | None = None,
    fresh: bool = False,
    sets: Sequence[str] = (),
    console: Console | None = None,
    **keys: Any,
) -> Study:
    """Search, or go on with a search whose folder exists.

    Args:
        study: a study file, a StudyConfig, or nothing: the keys are then the study's own (name=…, data={…}, teacher={…}, …).
        out: the parent of the study's folder.
        address: a Ray cluster's head, host:port; None: this machine alone.
        fresh: refuse a folder that exists.
        sets: overrides of a study file, "search.trials=10".

    Raises:
        InputError, StateError, EnvironmentProblem: see the message.
        VerdictNo: every trial failed.
        Interrupted: a signal ended it; the same call goes on.
    """
    wanted = as_config(study, sets, keys)
    shown = console or Console(stderr=True)
    place = files.ensure_folder(Path(out)) / wanted.name
    folder = StudyFolder(place)
    _refuse_other(folder, wanted, fresh)  # at the door, and again under the lock, for another search may just have ended
    with contextlib.ExitStack() as held:
        stop = held.enter_context(interruptible())
        held.enter_context(files.owned(place))  # before anything is computed: of two searches of one study, one gets in
        _refuse_other(folder, wanted, fresh)
        folder.state(new=True)  # a ledger that is damaged or was cut is refused before anything is written
        known = prepare.inspect(wanted)
        for note in (*known.survey.notes, *known.exploration.notes):
            shown.print(f"note: {note}", highlight=False, soft_wrap=True)
        with teacher_progress(shown) as progress:
            prepared = prepare.prepare(known, progress)
        manifest = _keep(folder, wanted, prepared)
        _tell_teacher(shown, prepared)
        ledger = held.enter_context(Ledger(place))
        run = _search(known, prepared, manifest, ledger, folder, address, shown, stop)
    return _outcome(run, place, shown)


def as_config(study: str | Path | StudyConfig | None, sets: Sequence[str], keys: Mapping[str, Any]) -> StudyConfig:
    """A validated study from whichever form it was given in."""
    if study is not None and keys:
        raise InputError(f"give a study or its keys, not both: {', '.join(keys)}")
    if isinstance(study, StudyConfig):
        return study
    if study is None:
        return study_file.from_mapping(keys)
    return study_file.load(Path(study), sets)


def _refuse_other(folder: StudyFolder, wanted: StudyConfig, fresh: bool) -> None:
    if fresh and folder.path.exists() and [each.name for each in folder.path.glob("*")] != [files.LOCK]:
        raise StateError(f"{folder.path}: exists already, and --fresh asks for a new study: choose another name or --out")
    if folder.study_file.exists():  # what resume does not allow is refused before anything is computed
        folder.refuse_other_study(wanted)


def _keep(folder: StudyFolder, wanted: StudyConfig, prepared: Prepared) -> dict[str, Any]:
    """Write what the study is made from; on resume, refuse when data, teacher or plugins are others."""
    manifest = prepared.manifest
    if folder.manifest_file.exists():
        folder.refuse_changes(data=prepared.known.data, teacher=manifest["teacher"]["fingerprint"], plugins=manifest["plugins"])
        manifest = folder.manifest()
    manifest["origin"] = folder.origin(wanted)
    files.replace_json(folder.manifest_file, manifest)
    folder.write_study(wanted)
    return manifest


def _tell_teacher(console: Console, prepared: Prepared) -> None:
    for note in prepared.notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True)
    quality = prepared.known.config.search.objectives[0]
    whole, several = prepared.manifest["teacher"], prepared.manifest.get("teachers", [])
    lines = []
    for place, (teacher, facts) in enumerate(zip(prepared.teachers, several or [whole], strict=True)):
        how = "fine-tuned" if teacher.tuned and not teacher.reused else "reused" if teacher.reused else "loaded"
        which = f"teacher[{place}]" if several else "teacher"
        lines.append(f"{which} {how}: {facts['params']:,} params, {quality} {teacher.validation[quality]:.4f} on validation")
    if several:
        lines.append(f"the mean of {len(several)} teachers: {whole['params']:,} params, {quality} {whole['validation'][quality]:.4f}")
    lines[-1] += f"; ran on {prepared.forwards:,} texts now ({prepared.seconds:.0f} s)"
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
    if torch.cuda.is_available() and not prepared.known.config.search.resources.gpu:
        console.print(
            "note: trials run on CPUs: search.resources.gpu: 1, or a fraction of one, gives them a GPU", highlight=False, soft_wrap=True
        )
    trials = prepared.known.config.search.trials
    for line in statistics.foresight(len(prepared.known.data.validation), trials, whole["validation"][quality], quality):
        console.print(f"note: {line}", highlight=False, soft_wrap=True)


def _search(
    known: Known,
    prepared: Prepared,
    manifest: Mapping[str, Any],
    ledger: Ledger,
    folder: StudyFolder,
    address: str | None,
    console: Console,
    stop: Interrupts,
) -> StudyRun:
    study = known.config
    quality, cost = study.search.objectives
    rows = len(prepared.assets.validation.tokens)
    ledger.begin(name=study.name, objectives=list(study.search.objectives))
    ledger.session(
        versions=prepared.manifest["versions"], teacher_forwards=prepared.forwards, teacher_seconds=prepared.seconds, address=address
    )
    for trial in ledger.recover():
        console.print(f"trial {trial} was interrupted: it will run again", highlight=False, soft_wrap=True)
    floor = _floor(known)
    rungs = None
    if study.search.early_stopping:
        staged = [name for name, strategy in known.plugins.strategies.items() if strategy.staged]
        rungs = Rungs(lambda score: metrics.standard_error(quality, score, rows), cost, staged, floor)
    work, end = Workload.of(prepared.assets), time.monotonic() + 60 * (study.search.minutes or math.inf)
    sampler = Sampler(
        study,
        known.plugins,
        prepared.assets.info,
        ledger,
        known.price,
        seconds=lambda candidate: seconds(candidate, work),
        floor=floor,
        remaining=lambda: end - time.monotonic(),
    )
    resources = study.search.resources
    with View(console) as view:
        run = StudyRun(
            study,
            folder,
            manifest,
            ledger,
            sampler,
            rungs,
            places=lambda: ray_session.places(resources.cpu, resources.gpu),
            changed=view.changed,
        )
        try:
            if run.started < study.search.trials or ledger.state.having(State.RETURNED):
                with stop.handing_to(run.interrupt), ray_session.session(address, prepared.object_bytes):
                    from kdsearch.hpo import ray_tune  # imports Ray, which must find the session's settings

                    if run.places() < 1:
                        raise InputError(
                            f"search.resources: no node has {resources.cpu} CPUs and {resources.gpu:g} GPUs for a trial: ask for less"
                        )
                    ray_tune.drive(
                        run,
                        prepared.assets,
                        cpu=resources.cpu,
                        gpu=resources.gpu,
                        timeout=study.search.trial_timeout,
                        attached=stop.install,
                    )
        finally:
            run.settle()
    return run


def _floor(known: Known) -> float | None:
    """The study's quality on validation of the guess that looks at no text; None where it has none."""
    task = tasks.of(known.config.task)
    labels = known.data.validation.labels
    guess = task.guess(known.data.train.labels, (len(labels), known.info.labels))
    score = task.scores(guess, labels)[known.config.search.objectives[0]]
    return score if math.isfinite(score) else None


def _outcome(run: StudyRun, folder: Path, console: Console) -> Study:
    if run.problem is not None:
        raise run.problem
    if run.interrupted is not None:
        raise Interrupted(run.interrupted)
    counts = run.ledger.state.counts()
    if run.sampler.exhausted is not None:
        console.print(f"note: {run.sampler.exhausted}", highlight=False, soft_wrap=True)
    if run.out_of_time() and sum(counts.values()) < run.config.search.trials:
        console.print(
            f"note: the time is used up after {sum(counts.values())} trials; the same command goes on", highlight=False, soft_wrap=True
        )
    if counts["failed"] and not counts["complete"]:
        causes = {trial.message for trial in run.ledger.state.having(State.FAILED)}
        raise VerdictNo(f"{folder}: every trial failed; the first reason: {sorted(causes)[0]}")
    return Study(folder)
