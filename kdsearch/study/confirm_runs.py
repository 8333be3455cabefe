"""What a confirmation trains: finalists and controls with fresh seeds, each in the ledger before anything follows from it."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdsearch.config.schema import StudyConfig
from kdsearch.evaluation import evidence
from kdsearch.hpo.ray_tasks import train_all
from kdsearch.io import files
from kdsearch.results.folder import StudyFolder
from kdsearch.results.ledger import Ledger
from kdsearch.results.record import StudyState, TrialRecord
from kdsearch.student.saved import RECORD
from kdsearch.student.trial import TrialResult
from kdsearch.study.finalists import Role, Run
from kdsearch.study.interrupts import Interrupts
from kdsearch.study.prepared import Prepared

RunPlan = Mapping[int, Mapping[Role, Sequence[Run]]]


class Runs:
    """The runs of one study's confirmations, trained where they are not yet.

    Args:
        report: called with each line for the user.
    """

    def __init__(self, folder: StudyFolder, study: StudyConfig, ledger: Ledger, signals: Interrupts, report: Callable[[str], None]) -> None:
        self.folder, self.study, self.ledger, self.signals, self.report = folder, study, ledger, signals, report
        self.quality = study.search.objectives[0]

    @property
    def state(self) -> StudyState:
        return self.ledger.state

    def _name(self, run: Run) -> str:
        """Of its files: a run that two finalists share has the name it was first recorded under."""
        recorded = self.state.runs.get(run.key)
        return str(recorded["name"]) if recorded else run.name

    def student_folder(self, run: Run) -> Path:
        return self.folder.confirmation / self._name(run)

    def predictions_file(self, run: Run, role: str) -> Path:
        return self.folder.predictions_file(f"{self._name(run)}.{role}")

    def predictions(self, run: Run, role: str) -> np.ndarray:
        return self.folder.predictions(f"{self._name(run)}.{role}")

    def complete(self, runs: Sequence[Run]) -> list[Run]:
        return [run for run in runs if self.state.runs.get(run.key, {}).get("status") == "complete"]

    def median(self, runs: Sequence[Run]) -> Run:
        complete = self.complete(runs)
        return complete[evidence.median_of([self.state.runs[run.key]["scores"][self.quality] for run in complete])]

    def deployed_seed(self, trial: int) -> int | None:
        path = self.folder.confirmed_folder(trial) / RECORD
        try:
            return int(json.loads(path.read_text())["confirmed"]["seed"])
        except (OSError, ValueError, LookupError, TypeError):  # not there, or damaged: it is made again
            return None

    def intact(self, run: Run) -> bool:
        """Whether a finished run's student is there, as it was."""
        path, digests = self.student_folder(run), self.state.runs[run.key].get("digests")
        return path.is_dir() and (digests is None or not files.differing(path, digests))

    def lacks_student(self, run: Run, plan: RunPlan) -> bool:
        """Whether a finished run's student is needed and is not there any more."""
        if self.intact(run):
            return False
        if not self.predictions_file(run, "test").is_file() or not self.predictions_file(run, "validation").is_file():
            return True
        medians = {self.median(roles["student"]).key: trial for trial, roles in plan.items() if self.complete(roles["student"])}
        return run.key in medians and self.deployed_seed(medians[run.key]) != run.spec.seed

    def train(self, runs: Sequence[Run], prepared: Prepared, chosen: Sequence[TrialRecord]) -> None:
        todo = list({run.key: run for run in reversed(runs)}.values())
        if not todo:
            return
        resources, before = self.study.search.resources, {trial.number: trial.seconds.get("total", 0.0) for trial in chosen}
        # the longest first, so that none runs alone at the end
        todo.sort(key=lambda run: (-before[run.trial], run.trial, run.role, run.spec.seed))
        workers = max(1, len(os.sched_getaffinity(0)) // resources.cpu)
        minutes = sum(before[run.trial] for run in todo) / workers / 60
        listed = ", ".join(str(trial.number) for trial in chosen)
        self.report(f"finalists: trials {listed}; {len(todo)} runs to train, controls included: about {max(1, round(minutes))} minutes")
        trained = train_all(
            [run.spec for run in todo],
            prepared.assets,
            cpu=resources.cpu,
            gpu=resources.gpu,
            timeout=self.study.search.trial_timeout,
            object_bytes=prepared.object_bytes,
            attached=self.signals.install,
            check=self.signals.check,
        )
        with self.signals.handing_to(), contextlib.closing(trained):
            for count, (index, result) in enumerate(trained, start=1):
                self._keep(todo[index], result, f"[{count}/{len(todo)}]")
        self.signals.check()

    def _keep(self, run: Run, result: TrialResult, count: str) -> None:
        what = f"{count} trial {run.trial} {run.role}, seed {run.spec.seed}"
        score = result.scores.get(self.quality)
        if result.status == "complete" and (score is None or not np.isfinite(score)):
            result = TrialResult("failed", "not_finite", f"{self.quality} on validation is not a finite number", seconds=result.seconds)
        facts: dict[str, Any] = {"seconds": result.seconds}
        if result.status == "complete":
            assert result.logits is not None
            files.write_array(self.predictions_file(run, "validation"), result.logits)
            digests = files.write_folder(self.student_folder(run), result.files)
            facts = {**result.record(), "digests": digests}
            self.report(f"{what}: {self.quality} {result.scores[self.quality]:.4f} on validation, {result.seconds['total']:.0f} s")
        else:
            facts |= {"cause": result.cause, "message": result.message}
            self.report(f"{what}: failed, {result.message}")
        if run.key not in self.state.runs:
            spec, seed = run.key
            about = {"trial": run.trial, "role": run.role, "name": run.name, "hash": spec, "seed": seed, "spec": run.spec.to_json()}
            facts["scores"] = dict(result.scores) if result.status == "complete" else {}
            self.ledger.append("confirmed_run", status=result.status, time=time.time(), **about, **facts)
