"""Confirm a study: finalists trained again with fresh seeds beside their controls, then the sealed test rows, opened once.

Every finished run and every opening of the test rows is in the ledger before anything follows from it, so the same command goes on after
any interruption and repeats nothing.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from kdsearch import tasks
from kdsearch.api import LOGITS
from kdsearch.config.schema import StudyConfig
from kdsearch.data import splits
from kdsearch.data.tokens import Table
from kdsearch.errors import VerdictNo
from kdsearch.evaluation import analysis, evidence, statistics
from kdsearch.evaluation.evidence import Seeds
from kdsearch.io import files
from kdsearch.io.progress import teacher_progress
from kdsearch.results.folder import StudyFolder
from kdsearch.results.ledger import Ledger
from kdsearch.results.record import StudyState, TrialRecord
from kdsearch.student.saved import RECORD
from kdsearch.study import finalists, prepare
from kdsearch.study.confirm_runs import RunPlan, Runs
from kdsearch.study.finalists import Role, Run
from kdsearch.study.interrupts import Interrupts, interruptible
from kdsearch.study.prepared import Known, Prepared

ROLES: tuple[Role, ...] = ("student", "control")  # a run that is both is known as a student's


def confirm(
    folder: str | Path,
    *,
    seeds: int | None = None,
    top: int | None = None,
    texts: bool = False,
    sets: Sequence[str] = (),
    console: Console | None = None,
) -> dict[str, Any]:
    """Confirm a study's finalists; done already, nothing is trained and the test rows stay closed.

    Args:
        folder: the study's.
        seeds: fresh ones for each finalist; default the study's `confirm.seeds`.
        top: finalists at most; default the study's `confirm.top`.
        texts: write the texts of the rows on which student and teacher disagree into analysis/; this opens the test rows again.
        sets: where the study's files are now, as 'data.files.train=PATH'.
        console: for progress.

    Returns:
        front.json's content, which is written too.

    Raises:
        VerdictNo: no trial is complete, or every run of every finalist failed.
        StateError: the folder is no study, is owned by another run, or its data, teacher or plugins have changed.
        InputError, EnvironmentProblem: see the message.
        Interrupted: a signal ended it; the same call goes on.
    """
    place, shown = StudyFolder(Path(folder)), console or Console(stderr=True)
    place.document()
    study = place.config(sets)
    with interruptible() as signals, files.owned(place.path), Ledger(place.path) as ledger:
        known = prepare.inspect(_with_control(study))
        place.refuse_changes(data=known.data, plugins=known.plugins.describe())
        confirmation = _Confirmation(place, study, known, ledger, shown, signals)
        confirmation.run(seeds or study.confirm.seeds, top or study.confirm.top, texts)
        return place.write_front()


def _with_control(study: StudyConfig) -> StudyConfig:
    strategies = study.space.strategies
    if finalists.CONTROL in strategies:
        return study
    return study.model_copy(update={"space": study.space.model_copy(update={"strategies": (*strategies, finalists.CONTROL)})})


class _Confirmation:
    """One call of `confirm`, in an open ledger: what is measured. What is trained for it is `Runs`."""

    def __init__(
        self, folder: StudyFolder, study: StudyConfig, known: Known, ledger: Ledger, console: Console, signals: Interrupts
    ) -> None:
        self.folder, self.study, self.known, self.ledger, self.console = folder, study, known, ledger, console
        self.quality, self.cost = study.search.objectives
        self.runs = Runs(folder, study, ledger, signals, self._tell)

    @property
    def state(self) -> StudyState:
        return self.ledger.state

    def run(self, seeds: int, top: int, texts: bool) -> None:
        chosen = self._finalists(top)
        self._refuse_damage(chosen)
        with teacher_progress(self.console) as progress:
            prepared = prepare.prepare(self.known, progress)
        self.folder.refuse_changes(teacher=prepared.manifest["teacher"]["fingerprint"])
        assets = prepared.assets
        rows = (assets.labelled, assets.unlabelled, assets.augmented)
        plan = finalists.plan(chosen, finalists.fresh_seeds(self.study.seed, seeds), rows)
        runs = [run for role in ROLES for roles in plan.values() for run in roles.get(role, ())]
        if not texts and self._done(plan, runs):
            self._tell("confirmed already: nothing is trained, the test rows stay closed")
            return
        self.runs.train([run for run in runs if run.key not in self.state.runs], prepared, chosen)
        # Files that an earlier confirmation cleared away: the same seed gives the same student.
        self.runs.train([run for run in self.runs.complete(runs) if self.runs.lacks_student(run, plan)], prepared, chosen)
        if not any(self.runs.complete(roles["student"]) for roles in plan.values()):
            first = next(self.state.runs[run.key] for run in runs)
            raise VerdictNo(f"{self.folder.path}: every run of every finalist failed; the first reason: {first['message']}")
        self._measure(plan, runs, prepared, texts)
        shutil.rmtree(self.folder.confirmation, ignore_errors=True)

    def _tell(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)

    def _finalists(self, top: int) -> list[TrialRecord]:
        logits = {}
        rows = self.known.data.validation.labels
        for number in self.state.trials:
            path = self.folder.predictions_file(number)
            if path.is_file():
                logits[number] = self.folder.predictions(number)
        found = finalists.choose(self.state, (self.quality, self.cost), self.study.task, logits, rows, top)
        if not found:
            raise VerdictNo(f"{self.folder.path}: no trial is complete: there is nothing to confirm")
        return found

    def _refuse_damage(self, chosen: Sequence[TrialRecord]) -> None:
        """
        Raises:
            StateError: the student of a finalist, searched or confirmed, is not as the ledger says.
        """
        paths = [self.folder.student_folder(trial.number) for trial in chosen]
        if not self._pending():  # else those confirmed may be the ones that the ledger was about to hear of
            paths += [self.folder.confirmed_folder(trial.number) for trial in chosen]
        for path in paths:
            if path.is_dir():  # of trials off the front they may be deleted
                self.folder.refuse_damage(path, self.state)

    def _pending(self) -> bool:
        """Whether the test rows were opened and nothing came of it yet."""
        last = self.state.confirmations[-1]["opening"] if self.state.confirmations else 0
        return len(self.state.openings) > last

    def _done(self, plan: RunPlan, runs: Sequence[Run]) -> bool:
        if not self.state.confirmations:
            return False
        covered = {(spec, seed) for spec, seed in self.state.confirmations[-1]["runs"]}
        medians = {trial: self.runs.median(roles["student"]) for trial, roles in plan.items() if self.runs.complete(roles["student"])}
        return {run.key for run in runs} <= covered and all(
            self.runs.deployed_seed(trial) == self.state.confirmed[trial]["deployed"]["seed"] for trial in medians
        )

    def _open(self, runs: Sequence[Run]) -> Table:
        """The sealed rows; the ledger records the opening first. One that was interrupted before it gave figures is continued."""
        keys = sorted([spec, seed] for spec, seed in {run.key for run in runs})
        if not (self._pending() and self.state.openings[-1]["runs"] == keys):
            trials = sorted({run.trial for run in runs})
            why = f"confirm trials {', '.join(map(str, trials))}: {len(keys)} runs"
            self.ledger.append("test_opened", time=time.time(), why=why, rows=self.known.data.test_rows, runs=keys)
        used = len(self.state.openings)
        self._tell(f"test rows opened ({self.known.data.test_rows:,}): used {used} time{'s' * (used > 1)} in this study")
        return splits.open_test(self.study)

    def _answers(self, run: Run, table: Table) -> np.ndarray:
        """(N, C) of a run on the test rows, kept."""
        path = self.runs.predictions_file(run, "test")
        if not path.is_file():
            student = self.folder.load(self.runs.student_folder(run), self.study.plugins)
            files.write_array(path, student.logits(table.texts, table.pairs))
        return self.runs.predictions(run, "test")

    def _measure(self, plan: RunPlan, runs: Sequence[Run], prepared: Prepared, texts: bool) -> None:
        table = self._open(runs)
        with teacher_progress(self.console) as progress:
            taught = prepared.taught(table, progress)
        task, quality, labels = self.study.task, self.quality, table.labels
        trained = {
            (trial, role): complete
            for trial, roles in plan.items()
            for role, each in roles.items()
            if (complete := self.runs.complete(each))
        }
        # Finalists of one shape share a control: it is measured once.
        recipes = {tuple(run.key for run in each): [self._answers(run, table) for run in each] for each in trained.values()}
        found = dict(zip(recipes, evidence.judge(task, quality, labels, list(recipes.values())), strict=True))
        judged = {owner: found[tuple(run.key for run in each)] for owner, each in trained.items()}
        teacher = evidence.judge_one(task, quality, labels, taught)
        blocks: list[dict[str, Any]] = []
        for trial, roles in plan.items():
            students = trained.get((trial, "student"))
            if students is None:
                self._tell(f"trial {trial}: every run failed, it is not confirmed")
                continue
            own = Seeds(
                tuple(run.spec.seed for run in students),
                tuple(self.state.runs[run.key]["scores"] for run in students),
                tuple(self._answers(run, table) for run in students),
            )
            mean = judged[trial, "student"]
            control = judged.get((trial, "control")) if "control" in roles else mean  # its own control, where it had no teacher
            alone = evidence.judge_one(task, quality, labels, own.test[own.median(quality)])
            blocks.append(evidence.finalist(trial, quality, own, mean, control, teacher, alone))
            blocks[-1]["failed"] = self._failures(roles)
        state = self.state
        draws = {block["trial"]: judged[block["trial"], "student"].drawn for block in blocks}
        costs = {trial: float(getattr(state.trials[trial], self.cost)) for trial in draws}
        asked = statistics.share_asked(draws, costs)
        ties = statistics.ties(draws, costs, asked)
        for block in blocks:
            block["tied_with"] = ties[block["trial"]]
            deployed = self.runs.median(plan[block["trial"]]["student"])
            block["digests"] = self._deploy(block, deployed)
            self._analyse(block["trial"], deployed, table, taught, prepared, texts)
        self.ledger.append(
            "confirmed",
            time=time.time(),
            opening=len(state.openings),
            rows=len(table),
            runs=sorted([spec, seed] for spec, seed in {run.key for run in runs}),
            teacher={**teacher.means, "ci95": list(teacher.ci95)},
            majority=tasks.of(self.study.task).scores(
                tasks.of(self.study.task).guess(self.known.data.train.labels, taught.shape), table.labels
            ),
            share_asked=asked,
            finalists=blocks,
        )

    def _failures(self, roles: Mapping[Role, Sequence[Run]]) -> list[dict[str, Any]]:
        every = [(role, run, self.state.runs[run.key]) for role, runs in roles.items() for run in runs]
        return [
            {"role": role, "seed": run.spec.seed, "cause": recorded["cause"], "message": recorded["message"]}
            for role, run, recorded in every
            if recorded["status"] != "complete"
        ]

    def _deploy(self, block: Mapping[str, Any], run: Run) -> dict[str, str]:
        """students/<trial>-confirmed: the median run's folder, its test figures added to its record. Returns the digests of its files."""
        target = self.folder.confirmed_folder(block["trial"])
        source = self.runs.student_folder(run)
        if not self.runs.intact(run):  # cleared away by the confirmation that put it there
            source = target
            self.folder.refuse_damage(source, self.state, but=(RECORD,))
        content = {path.name: path.read_bytes() for path in source.iterdir() if not path.name.startswith(".")}
        record = json.loads(content[RECORD])
        record["confirmed"] = {"trial": block["trial"], **block["deployed"]}
        content[RECORD] = (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode()
        return files.write_folder(target, content)

    def _analyse(self, trial: int, run: Run, table: Table, taught: np.ndarray, prepared: Prepared, texts: bool) -> None:
        rows = self.known.data
        validation = (
            self.runs.predictions(run, "validation"),
            np.asarray(prepared.assets.validation.signals[LOGITS]),
            rows.validation.labels,
        )
        found = analysis.compare(
            self.study.task, rows.labels, table, rows.train, self._answers(run, table), taught, validation, texts=texts
        )
        recorded = self.state.runs[run.key]
        moved = {**analysis.moved(recorded.get("history", ())), "teacher_drift": recorded.get("teacher_drift")}
        path = self.folder.analysis_file(trial)
        files.ensure_folder(path.parent)
        files.replace_json(path, {"trial": trial, "on": "test", "seed": run.spec.seed, **found, "training": moved})
