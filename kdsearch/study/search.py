"""A study: its folder, and the search that fills it."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import yaml
from rich.console import Console

from kdsearch.config import study_file
from kdsearch.config.schema import StudyConfig
from kdsearch.errors import InputError, Interrupted, StateError, VerdictNo
from kdsearch.evaluation import metrics, statistics
from kdsearch.hpo import ray_session
from kdsearch.hpo.early_stopping import Rungs
from kdsearch.hpo.live_view import View
from kdsearch.hpo.sampler import Sampler
from kdsearch.hpo.study_run import StudyRun
from kdsearch.io import files
from kdsearch.io.progress import teacher_progress
from kdsearch.results import front
from kdsearch.results.choose import Rule
from kdsearch.results.ledger import Ledger
from kdsearch.results.record import State
from kdsearch.student.saved import Student, load_student
from kdsearch.student.trial import RUNGS
from kdsearch.study import prepare
from kdsearch.study.prepare import Known, Prepared


@dataclass(frozen=True)
class Study:
    """A study's folder."""

    folder: Path

    @property
    def document(self) -> dict[str, Any]:
        """front.json, recomputed from the ledger."""
        return front.read(self.folder)

    def front(self) -> list[dict[str, Any]]:
        """The points of the front, smallest first, as in front.json."""
        points: list[dict[str, Any]] = self.document["points"]
        return points

    def student(self, trial: int) -> Student:
        """A trained student by its trial's number.

        Raises:
            InputError: that trial left no student.
        """
        path = self.folder / "students" / str(trial)
        if not path.is_dir():
            raise InputError(f"{self.folder}: trial {trial} left no student: `kdsearch front {self.folder}` lists those on the front")
        return load_student(path, self.config().get("plugins", ()))

    def config(self) -> dict[str, Any]:
        """study.yaml, the resolved study."""
        loaded: dict[str, Any] = yaml.safe_load((self.folder / "study.yaml").read_text())
        return loaded

    def pick(
        self,
        *,
        trial: int | None = None,
        max_params: int | None = None,
        max_bytes: int | None = None,
        max_latency_ms: float | None = None,
        min_retention: float | None = None,
        knee: bool = False,
    ) -> Student:
        """One student of the front, by the rule of `kdsearch pick`: at most one of these, see choosing.Rule; without any, the best score.

        Raises:
            InputError: more than one rule, or a trial that left no student.
            VerdictNo: nothing fits.
            EnvironmentProblem: a rule on latency needs the extra kdsearch[deploy].
        """
        from kdsearch.deploy.pick import Source, choice

        rule = Rule(trial, max_params, max_bytes, max_latency_ms, min_retention, knee)
        source = Source.open(self.folder)
        return source.student(choice(source, rule, lambda *_: None).point)


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
    folder = files.ensure_folder(Path(out)) / wanted.name
    if fresh and folder.exists():
        raise StateError(f"{folder}: exists already, and --fresh asks for a new study: choose another name or --out")
    _refuse_other_study(folder, wanted)
    with contextlib.ExitStack() as held:
        stop = held.enter_context(_signals())
        if folder.exists():
            held.enter_context(files.owned(folder))
        known = prepare.inspect(wanted)
        for note in known.exploration.notes:
            shown.print(f"note: {note}", highlight=False, soft_wrap=True)
        with teacher_progress(shown) as progress:
            prepared = prepare.prepare(known, progress)
        if not folder.exists():  # only now: a study whose teacher was refused leaves no folder behind
            files.ensure_folder(folder)
            held.enter_context(files.owned(folder))
        manifest = _keep(folder, wanted, prepared)
        _tell_teacher(shown, prepared)
        ledger = held.enter_context(Ledger(folder))
        run = _search(known, prepared, manifest, ledger, folder, address, shown, stop)
    return _outcome(run, folder, shown)


def as_config(study: str | Path | StudyConfig | None, sets: Sequence[str], keys: Mapping[str, Any]) -> StudyConfig:
    """A validated study from whichever form it was given in."""
    if study is not None and keys:
        raise InputError(f"give a study or its keys, not both: {', '.join(keys)}")
    if isinstance(study, StudyConfig):
        return study
    if study is None:
        return study_file.from_mapping(keys)
    return study_file.load(Path(study), sets)


def _refuse_other_study(folder: Path, wanted: StudyConfig) -> None:
    """What resume does not allow is refused before anything is computed."""
    kept = folder / "study.yaml"
    if not kept.exists():
        return
    # Read as a study is read: keys that came later then have the defaults that it was made with.
    before = study_file.resolved(study_file.from_mapping(yaml.safe_load(kept.read_text()), str(kept)))
    changed = study_file.differences(before, study_file.resolved(wanted))
    if changed:
        listed = "\n".join(changed[:7])
        raise StateError(
            f"{folder}: made from another study, and these keys may not change on resume:\n{listed}\nChoose another name or --out."
        )


def _keep(folder: Path, wanted: StudyConfig, prepared: Prepared) -> dict[str, Any]:
    """Write what the study was made from; on resume, refuse when data, teacher or plugins are others."""
    path = folder / "manifest.json"
    manifest = prepared.manifest
    if path.exists():
        before = json.loads(path.read_text())
        for what, one, other in (
            ("data", before["data"]["fingerprint"], manifest["data"]["fingerprint"]),
            ("split", before["data"]["split"], manifest["data"]["split"]),
            ("teacher", before["teacher"]["fingerprint"], manifest["teacher"]["fingerprint"]),
            ("plugins", [_identity(p) for p in before["plugins"]], [_identity(p) for p in manifest["plugins"]]),
        ):
            if one != other:
                raise StateError(
                    f"{folder}: its {what} changed since it was begun ({one} -> {other}): restore it, or choose another name or --out"
                )
        manifest = before
    else:
        files.replace_json(path, manifest)
    files.replace_file(folder / "study.yaml", yaml.safe_dump(study_file.resolved(wanted), sort_keys=False, allow_unicode=True))
    return manifest


def _identity(plugin: Mapping[str, Any]) -> tuple[Any, ...]:
    return plugin["name"], plugin["kind"], plugin["hash"]


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
            "note: trials run on CPUs: search.resources.gpu: 1, or a share of one, gives them a GPU", highlight=False, soft_wrap=True
        )
    trials = prepared.known.config.search.trials
    for line in statistics.foresight(len(prepared.known.data.validation), trials, whole["validation"][quality], quality):
        console.print(f"note: {line}", highlight=False, soft_wrap=True)


class _Stop:
    """Whether a signal came, and whom to tell."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self.run: StudyRun | None = None

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None or self.run is None:
            raise Interrupted(signum)
        self.signum = signum
        self.run.interrupted = signum

    def install(self) -> None:
        """Again after Ray has started, which installs a handler of its own that exits at once."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self)
            signal.signal(signal.SIGTERM, self)


@contextlib.contextmanager
def _signals() -> Iterator[_Stop]:
    stop = _Stop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    stop.install()
    try:
        yield stop
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


def _search(
    known: Known,
    prepared: Prepared,
    manifest: Mapping[str, Any],
    ledger: Ledger,
    folder: Path,
    address: str | None,
    console: Console,
    stop: _Stop,
) -> StudyRun:
    study = known.config
    quality = study.search.objectives[0]
    rows = len(prepared.assets.validation.tokens)
    ledger.begin(name=study.name, objectives=list(study.search.objectives))
    ledger.session(
        versions=prepared.manifest["versions"], teacher_forwards=prepared.forwards, teacher_seconds=prepared.seconds, address=address
    )
    for trial in ledger.recover():
        console.print(f"trial {trial} was interrupted: it will run again", highlight=False, soft_wrap=True)
    rungs = None
    if study.search.early_stopping:
        staged = [name for name, strategy in known.plugins.strategies.items() if strategy.staged]
        rungs = Rungs(lambda score: metrics.standard_error(quality, score, rows), RUNGS, staged=staged)
        cost = study.search.objectives[1]
        rungs.rebuild(ledger.state, {number: getattr(trial, cost) for number, trial in ledger.state.trials.items()})
    sampler = Sampler(study, known.plugins, prepared.assets.info, ledger, known.price)
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
        view.study = stop.run = run
        try:
            if run.started < study.search.trials or ledger.state.having(State.RETURNED):
                with ray_session.session(address, prepared.object_bytes):
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
            stop.run = None
            run.settle()
    return run


def _outcome(run: StudyRun, folder: Path, console: Console) -> Study:
    if run.problem is not None:
        raise run.problem
    if run.interrupted is not None:
        raise Interrupted(run.interrupted)
    counts = run.ledger.state.counts()
    if run.why_over is not None:
        console.print(f"note: {run.why_over}", highlight=False, soft_wrap=True)
    if run.out_of_time() and sum(counts.values()) < run.config.search.trials:
        console.print(
            f"note: the time is used up after {sum(counts.values())} trials; the same command goes on", highlight=False, soft_wrap=True
        )
    if counts["failed"] and not counts["complete"]:
        causes = {trial.message for trial in run.ledger.state.having(State.FAILED)}
        raise VerdictNo(f"{folder}: every trial failed; the first reason: {sorted(causes)[0]}")
    return Study(folder)
