"""All that a report is made from, read once."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdsearch.config import study_file
from kdsearch.errors import StateError
from kdsearch.io import files
from kdsearch.results import front
from kdsearch.results.folder import StudyFolder
from kdsearch.results.record import State, StudyState, TrialRecord
from kdsearch.student.saved import WEIGHTS

_ENDED = frozenset({State.COMPLETE, State.STOPPED, State.FAILED})


@dataclass(frozen=True)
class Facts:
    """A study's folder, read."""

    folder: Path  # as it was given: the commands that are printed name it so
    state: StudyState
    manifest: Mapping[str, Any]
    document: Mapping[str, Any]  # front.json
    study: Mapping[str, Any]  # study.yaml
    analyses: Mapping[int, Mapping[str, Any]]  # trial -> what `confirm` wrote of it, analysis/<trial>.json
    latencies: Mapping[int, float]  # trial -> ms: ONNX fp32, batch 1, one thread, p50; of the students that `pick` has measured

    @property
    def quality(self) -> str:
        name: str = self.document["objectives"][0]
        return name

    @property
    def cost(self) -> str:
        name: str = self.document["objectives"][1]
        return name

    @property
    def teacher_score(self) -> float:
        """On validation."""
        score: float = self.document["teacher"]["validation"][self.quality]
        return score

    @property
    def teacher_name(self) -> str:
        given = self.study["teacher"]
        several = given if isinstance(given, list) else [given]
        named = [each["preset"] or each["model"] or self.manifest["teacher"]["source"] for each in several]
        return " and ".join(str(name).rstrip("/").rsplit("/", 1)[-1] for name in named)

    @property
    def data_name(self) -> str:
        """The preset, the Hub id, or the training file."""
        data = self.study["data"]
        return str(data["preset"] or data["hub"] or Path(data["files"]["train"]).name)

    @property
    def confirmation(self) -> Mapping[str, Any] | None:
        """What the last use of the test rows gave; None before the first."""
        found: Mapping[str, Any] | None = self.document.get("confirmation")
        return found

    @property
    def confirmed(self) -> list[dict[str, Any]]:
        """As front.confirmed_points."""
        return front.confirmed_points(self.document)

    @property
    def ended(self) -> list[TrialRecord]:
        """The trials that count, in the order in which they ended."""
        trials = [trial for trial in self.state.trials.values() if trial.state in _ENDED]
        return sorted(trials, key=lambda trial: (trial.ended or 0.0, trial.number))

    def command(self, verb: str, *options: object) -> str:
        """A command on this study, as it is typed."""
        return " ".join(["kdsearch", verb, shlex.quote(str(self.folder)), *map(str, options)])

    def export_command(self, trial: int | str) -> str:
        return self.command("pick", "--trial", trial, "--onnx", "--int8")

    @classmethod
    def read(cls, folder: Path, sets: Sequence[str] = ()) -> Facts:
        """
        Raises:
            StateError: the folder is not a study's, or its files are not as a run leaves them.
        """
        study = StudyFolder(folder)
        state, manifest = study.state(), study.manifest()
        document = front.document(state, manifest)
        missing = [key for key in ("data", "versions", "plugins", "seed", "cache") if key not in manifest]
        if missing:
            raise StateError(f"{study.manifest_file}: lacks {', '.join(missing)}: restore the file from a copy")
        config = study_file.resolved(study.config(sets))
        analyses = {point["trial"]: study.analysis(point["trial"]) for point in front.confirmed_points(document)}
        known = {trial: found for trial, found in analyses.items() if found is not None}
        return cls(folder, state, manifest, document, config, known, _latencies(study, document))


def _latencies(folder: StudyFolder, document: Mapping[str, Any]) -> dict[int, float]:
    known = folder.latencies().get("students", {})
    found = {}
    for point in document["points"]:
        weights = (folder.confirmed_folder if point["confirmed"] else folder.student_folder)(point["trial"]) / WEIGHTS
        measured = known.get(files.file_digest(weights)) if weights.is_file() else None
        if measured is not None:
            found[point["trial"]] = float(measured["ms_p50"])
    return found
