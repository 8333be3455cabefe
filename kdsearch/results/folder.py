"""A study's folder: the one module that names its files, reads them, and compares them with the present study."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdsearch.config import study_file, yamlfile
from kdsearch.config.schema import StudyConfig
from kdsearch.errors import InputError, PluginError, StateError
from kdsearch.io import files
from kdsearch.results import front
from kdsearch.results.record import State, StudyState, replay

if TYPE_CHECKING:
    from kdsearch.data.splits import Data
    from kdsearch.student.saved import Student


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise StateError(f"{path}: damaged, or changed by hand: restore the file from a copy") from problem
    if not isinstance(found, dict):
        raise StateError(f"{path}: damaged, or changed by hand: restore the file from a copy")
    return found


@dataclass(frozen=True)
class StudyFolder:
    """studies/<name>. Its files can be moved or sent: none of them holds a path that the study file did not hold.

    Raises (every method that reads):
        StateError: no study is there, or its files are not as a run leaves them.
    """

    path: Path

    @property
    def study_file(self) -> Path:
        """The resolved study, paths as they were written."""
        return self.path / "study.yaml"

    @property
    def manifest_file(self) -> Path:
        """Versions, seeds, plugins, fingerprints."""
        return self.path / "manifest.json"

    @property
    def ledger_file(self) -> Path:
        """The truth: an event a line."""
        return self.path / "ledger.jsonl"

    @property
    def front_file(self) -> Path:
        return self.path / "front.json"

    @property
    def optuna_file(self) -> Path:
        """An export, never read back."""
        return self.path / "study.db"

    @property
    def latency_file(self) -> Path:
        """What `pick` has measured, of one machine."""
        return self.path / "latency.json"

    @property
    def report_files(self) -> tuple[Path, Path, Path]:
        """The page, the picture and the README that `report` writes."""
        return self.path / "report.html", self.path / "front.png", self.path / "README.md"

    @property
    def confirmation(self) -> Path:
        """Students of a confirmation under way."""
        return self.path / "confirmation"

    def student_folder(self, trial: int) -> Path:
        return self.path / "students" / str(trial)

    def confirmed_folder(self, trial: int) -> Path:
        """The median run of a confirmed trial."""
        return self.path / "students" / f"{trial}-confirmed"

    def predictions_file(self, name: int | str) -> Path:
        """Logits (N, C): of a trial on validation; of a run of a confirmation, '<run>.validation' or '<run>.test'."""
        return self.path / "predictions" / f"{name}.npy"

    def analysis_file(self, trial: int) -> Path:
        """What confirming found of a trial besides its score."""
        return self.path / "analysis" / f"{trial}.json"

    def manifest(self) -> dict[str, Any]:
        self._require(self.manifest_file)
        return _object(self.manifest_file)

    def analysis(self, trial: int) -> dict[str, Any] | None:
        """What confirming found of a trial besides its score; None where it was not confirmed."""
        path = self.analysis_file(trial)
        return _object(path) if path.is_file() else None

    def latencies(self) -> dict[str, Any]:
        """What `pick` measured: {"machine", "students"}; {} where nothing was, or it cannot be read: it is then measured again."""
        try:
            found = _object(self.latency_file) if self.latency_file.is_file() else {}
        except StateError:
            return {}
        return found if isinstance(found.get("students"), dict) else {}

    def predictions(self, name: int | str) -> np.ndarray:
        """Logits (N, C); see `predictions_file`."""
        path = self.predictions_file(name)
        try:
            found: np.ndarray = np.load(path, allow_pickle=False)
        except FileNotFoundError as problem:
            raise StateError(f"{path}: is gone: restore it from a copy") from problem
        except (OSError, ValueError, EOFError) as problem:
            raise StateError(f"{path}: damaged: restore it from a copy") from problem
        return found

    def state(self, *, new: bool = False, cut: bool = False) -> StudyState:
        """The study's state, from its ledger.

        Args:
            new: the study may only be about to begin.
            cut: read it even where other files know of more.

        Raises:
            StateError: it is damaged, or front.json, students/ or confirmation/ have what it does not know.
        """
        if not new:
            self._require(self.ledger_file)
        shown, students = ({}, []) if cut else self._known_elsewhere()  # before the ledger is read: a search may be writing both
        found = replay(files.read_log(self.ledger_file), str(self.ledger_file))
        counts = {**found.counts(), "uses of the test rows": len(found.openings)}
        more = [f"{count} {what} of {self.front_file.name}" for what, count in shown.items() if count > counts.get(what, count)]
        for path in students:
            number, *confirmed = path.name.split("-")
            trial = found.trials.get(int(number))
            if trial is None or (confirmed and trial.state is not State.COMPLETE):
                more.append(f"folder {path.relative_to(self.path)}")
        if more:
            raise StateError(f"{self.ledger_file}: knows less than the {more[0]}: it was cut or lost: restore it from a copy")
        return found

    def _known_elsewhere(self) -> tuple[dict[str, int], list[Path]]:
        """What the ledger must know of: the counts of front.json, and the folders of students, whose trials began before they were written."""
        try:
            shown = _object(self.front_file)
            shown = {**shown["trials"], "uses of the test rows": shown.get("confirmation", {}).get("test_used", 0)}
            counts = {what: int(count) for what, count in shown.items()}
        except (StateError, LookupError, TypeError, ValueError, AttributeError):
            counts = {}  # missing or damaged, it is made again from the ledger
        folders = [*(self.path / "students").glob("*"), *self.confirmation.glob("*")]
        return counts, sorted(path for path in folders if path.name.split("-")[0].isdecimal())

    def document(self) -> dict[str, Any]:
        """front.json, recomputed from the ledger and the manifest; nothing is written."""
        manifest = self.manifest()
        return front.document(self.state(), manifest)

    def write_front(self) -> dict[str, Any]:
        """Recompute front.json and replace it at once; returns its content."""
        content = self.document()
        files.replace_json(self.front_file, content)
        return content

    def point(self, trial: int) -> dict[str, Any]:
        """A trial as a point of front.json, whether or not it is on the front.

        Raises:
            InputError: that trial left no student.
        """
        manifest, state = self.manifest(), self.state()
        known = state.trials.get(trial)
        if known is None or known.state is not State.COMPLETE:
            numbers = ", ".join(str(point["trial"]) for point in front.document(state, manifest)["points"])
            why = "there is none" if known is None else f"it is {known.state.value}"
            raise InputError(f"{self.path}: trial {trial} left no student ({why}); on the front are {numbers}")
        return front.point_of(state, known)

    def refuse_damage(self, student: Path, state: StudyState, *, but: Sequence[str] = ()) -> bool:
        """Hold the files of a student's folder against the ledger's digests, those named in `but` aside.

        Returns:
            False where the ledger, written before there were digests, has none.

        Raises:
            StateError: a file is another, is missing, or is one too many.
        """
        digests = state.digests(student.name)
        wrong = [name for name in files.differing(student, digests) if name not in but] if digests is not None else []
        if wrong:
            raise StateError(f"{student / wrong[0]}: not as the ledger says: the student is damaged: restore its folder from a copy")
        return digests is not None

    def load(self, student: Path, plugins: Sequence[str]) -> Student:
        """A student of this study from its folder.

        Raises:
            StateError: it does not load.
            PluginError: the plugin of its family cannot be used.
        """
        from kdsearch.student.saved import load_student

        try:
            return load_student(student, plugins)
        except PluginError:
            raise
        except InputError as problem:
            raise StateError(str(problem).replace("export the student again", "restore the folder from a copy")) from problem

    def student(self, trial: int, sets: Sequence[str] = ()) -> Student:
        """A trained student by its trial's number.

        Raises:
            InputError: that trial left no student.
            StateError: its files are not as the ledger says.
        """
        path = self.student_folder(trial)
        if not path.is_dir():
            raise InputError(f"{self.path}: trial {trial} left no student: `kdsearch front {self.path}` lists those on the front")
        self.refuse_damage(path, self.state())
        return self.load(path, self.config(sets).plugins)

    def config(self, sets: Sequence[str] = ()) -> StudyConfig:
        """The study that this folder was made from.

        Relative paths in it start where the study file stood, as seen from this folder, else at the working directory.

        Args:
            sets: where its files are now, as 'data.files.train=PATH', and what resume allows to differ.

        Raises:
            StateError: sets change what may not change.
        """
        self._require(self.study_file)
        origin = self.manifest().get("origin", ".") if self.manifest_file.is_file() else "."
        made = study_file.load(self.study_file, beside=self.path / origin)
        if not sets:
            return made
        wanted = study_file.load(self.study_file, sets, beside=self.path / origin)
        self.refuse_other_study(wanted, made)
        return wanted

    def refuse_other_study(self, wanted: StudyConfig, made: StudyConfig | None = None) -> None:
        """
        Raises:
            StateError: a key differs that may not. Where its files lie may; what is in them is for `refuse_changes` to judge.
        """
        changed = study_file.differences(study_file.resolved(made or self.config()), study_file.resolved(wanted))
        if changed:
            listed = "\n".join(changed[:7])
            raise StateError(
                f"{self.path}: made from another study, and these keys may not change on resume:\n{listed}\nChoose another name or --out."
            )

    def refuse_changes(
        self, *, data: Data | None = None, teacher: str | None = None, plugins: Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        """Whether what is there now is what the study was begun with, by content.

        Args:
            data: the rows as they are read now; teacher: its fingerprint; plugins: descriptions of some or all of the study's.

        Raises:
            StateError: something is another; names it.
        """
        made = self.manifest()
        pairs: list[tuple[str, Any, Any]] = []
        if data is not None:
            pairs += [
                ("data", made["data"]["fingerprint"], data.fingerprint),
                ("split", made["data"]["split"], data.split_fingerprint),
            ]
        if teacher is not None:
            pairs.append(("teacher", made["teacher"]["fingerprint"], teacher))
        known = {(each["name"], each["kind"]): each["hash"] for each in made["plugins"]}
        for each in plugins or ():
            before = known.get((each["name"], each["kind"]))
            if before is not None:
                pairs.append((f"plugin {each['name']}", before, each["hash"]))
        for what, before, now in pairs:
            if before != now:
                raise StateError(
                    f"{self.path}: its {what} changed since it was begun ({before} -> {now}): restore it, or choose another name or --out"
                )

    def write_study(self, config: StudyConfig) -> None:
        files.replace_file(self.study_file, yamlfile.dump(study_file.resolved(config)))

    def origin(self, config: StudyConfig) -> str:
        """Where relative paths of the study start, as seen from this folder."""
        return os.path.relpath(config.base, self.path)

    def _require(self, path: Path) -> None:
        if not path.is_file():
            raise StateError(f"{self.path}: not a study's folder: it has no {path.name}")
