"""From a study's folder to a folder that serves: choose, export, check, measure, write."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from kdsearch.config import study_file
from kdsearch.config.schema import StudyConfig
from kdsearch.data import splits
from kdsearch.data.splits import Data
from kdsearch.deploy import card, checks, folder, hub, latency, onnx_export
from kdsearch.deploy.latency import Engine, TorchEngine
from kdsearch.errors import EnvironmentProblem, InputError, KdsearchError, StateError
from kdsearch.io import files
from kdsearch.io.check import Check
from kdsearch.io.progress import Progress, teacher_progress
from kdsearch.io.text import first_line
from kdsearch.registry import registry
from kdsearch.results.choose import Choice, Rule, choose, retained
from kdsearch.results.folder import StudyFolder
from kdsearch.results.record import StudyState
from kdsearch.student.saved import WEIGHTS, Student
from kdsearch.teacher import checkpoint, resolve
from kdsearch.teacher.checkpoint import quiet
from kdsearch.teacher.encoder import Encoder


@dataclass(frozen=True)
class Export:
    """What to make of the chosen student."""

    out: Path | None = None  # default deployed/<study>-<trial>
    onnx: bool = False
    int8: bool = False  # includes onnx
    max_drop: float = 1.0  # points of the study's metric that int8 may lose against fp32
    push_to: str | None = None  # a Hub repository
    public: bool = False

    def __post_init__(self) -> None:
        if not self.max_drop >= 0:
            raise InputError(f"--max-drop: {self.max_drop} is not a number of points, 0 or more")
        if self.public and self.push_to is None:
            raise InputError("--public: only has an effect with --push-to-hub: give that too")

    @property
    def graphs(self) -> bool:
        return self.onnx or self.int8


@dataclass(frozen=True)
class Deployed:
    folder: Path
    choice: Choice
    verdict: dict[str, Any]  # verdict.json
    pushed: str | None = None  # its address on the Hub

    @property
    def passed(self) -> bool:
        return bool(self.verdict["passed"])


@dataclass(frozen=True)
class FinishedStudy:
    """A finished study, opened for deploying."""

    folder: StudyFolder
    state: StudyState  # of its ledger
    document: dict[str, Any]  # front.json
    config: StudyConfig
    manifest: dict[str, Any]

    @classmethod
    def open(cls, path: Path, sets: Sequence[str] = ()) -> FinishedStudy:
        """
        Args:
            sets: where the study's files are now, as 'data.files.train=PATH'.

        Raises:
            StateError: the folder is not a study's.
        """
        folder = StudyFolder(path)
        return cls(folder, folder.state(), folder.document(), folder.config(sets), folder.manifest())

    def rows(self) -> Data:
        """The study's data as it was.

        Raises:
            InputError: it cannot be read any more.
            StateError: it is not what the study was searched on.
        """
        found = splits.load(self.config)
        self.folder.refuse_changes(data=found)
        return found

    def refuse_other_plugin(self, point: Mapping[str, Any]) -> None:
        """
        Raises:
            StateError: the family of this student is not the plugin that it was trained with.
        """
        self.folder.refuse_changes(plugins=registry.load([point["family"]], [], self.config.plugins).describe())

    def student_folder(self, point: Mapping[str, Any]) -> Path:
        """Where the student lies: of a confirmed point, the one trained again that confirming chose.

        Raises:
            StateError: it is gone, or its files are not as the ledger says.
        """
        path = (self.folder.confirmed_folder if point["confirmed"] else self.folder.student_folder)(point["trial"])
        if not path.is_dir():
            raise StateError(f"{path}: the student is gone: restore the folder from a copy")
        self.folder.refuse_damage(path, self.state)
        return path

    def student(self, point: Mapping[str, Any]) -> Student:
        with quiet():
            return self.folder.load(self.student_folder(point), self.config.plugins)


def choice(source: FinishedStudy, rule: Rule, progress: Progress) -> Choice:
    """Choose by the rule; a rule on latency measures every student on the front first, once a machine.

    Raises:
        InputError: the trial asked for left no student.
        VerdictNo: nothing fits.
    """
    on_front = {point["trial"] for point in source.document["points"]}
    aside = source.folder.point(rule.trial) if rule.trial is not None and rule.trial not in on_front else None
    latencies = measured(source, progress) if rule.max_latency_ms is not None else None
    return choose(source.document, rule, latencies=latencies, aside=aside)


def measured(source: FinishedStudy, progress: Progress) -> dict[int, float]:
    """Trial -> p50 in milliseconds of its ONNX fp32, batch 1, one thread, without tokenisation, for every student on the front."""
    onnx_export.require_extra()
    from kdsearch.deploy.predict import Predictor

    path, here = source.folder.latency_file, latency.machine()
    key = {name: here[name] for name in ("cpu", "cores", "onnxruntime")}
    known = source.folder.latencies()
    kept: dict[str, Any] = known["students"] if known.get("machine") == key else {}
    points = source.document["points"]
    digests = {point["trial"]: files.file_digest(source.student_folder(point) / WEIGHTS) for point in points}
    missing = [point for point in points if digests[point["trial"]] not in kept]
    if missing:
        rows = source.rows().validation
        with tempfile.TemporaryDirectory() as name:
            engines: dict[str, Engine] = {}
            for number, point in enumerate(missing):
                progress("exporting the front to ONNX", number, len(missing))
                work, student = Path(name) / str(point["trial"]), source.student(point)
                folder.lay_out(source.student_folder(point), student, rows, work, {})
                typed = checks.typed(student, rows)
                onnx_export.export(student.module, work / "onnx" / "model.onnx", typed=typed, rows=len(student.tokenizer))
                engines[digests[point["trial"]]] = Predictor(work, "fp32", latency.THREADS)
            progress("exporting the front to ONNX", len(missing), len(missing))
            found = latency.measure(engines, rows, progress, throughput=False)
        kept = {**kept, **found}
        try:
            files.replace_json(path, {"machine": key, "threads": latency.THREADS, "students": kept})
        except EnvironmentProblem:
            progress(f"{path} cannot be written: measured again next time", 1, 1)
    return {trial: kept[digest]["ms_p50"] for trial, digest in digests.items()}


def pick(path: Path, rule: Rule, export: Export, console: Console, sets: Sequence[str] = ()) -> Deployed:
    """Choose a student of a finished study and write it as a folder that serves, with its verdict.

    Raises:
        InputError, StateError, EnvironmentProblem: see the message.
        VerdictNo: nothing fits the rule.
    """
    from kdsearch.deploy.show import tell_choice

    if export.graphs or rule.max_latency_ms is not None:
        onnx_export.require_extra()
    if export.push_to is not None:
        hub.refuse_offline(export.push_to)
    if export.out is not None:
        folder.refuse_foreign(export.out)
    source = FinishedStudy.open(path, sets)
    with teacher_progress(console) as progress:
        chosen = choice(source, rule, progress)
    target = export.out or Path("deployed") / f"{source.config.name}-{chosen.point['trial']}"
    folder.refuse_foreign(target)
    tell_choice(console, chosen, source.document)
    with teacher_progress(console) as progress, folder.filling(target) as work:
        verdict = _fill(work, source, chosen, export, progress)
    pushed = None
    if export.push_to is not None and verdict["passed"]:
        pushed = hub.push(target, export.push_to, private=not export.public)
    return Deployed(target, chosen, verdict, pushed)


def _fill(work: Path, source: FinishedStudy, chosen: Choice, export: Export, progress: Progress) -> dict[str, Any]:
    """Write the whole folder; returns its verdict."""
    rows, point = source.rows(), chosen.point
    source.refuse_other_plugin(point)
    student = source.student(point)
    quality = source.document["objectives"][0]
    provenance = {"study": source.document["study"], "trial": point["trial"], "by": f"kdsearch {metadata.version('kdsearch')}"}
    folder.lay_out(source.student_folder(point), student, rows.validation, work, provenance)
    progress("the student on the validation rows", 0, 1)
    reference = checks.Reference.of(student, rows.validation, source.config.task, quality)
    progress("the student on the validation rows", 1, 1)
    recorded = (point["confirmed"]["deployed"] if point["confirmed"] else point)["validation"][quality]
    found = [checks.scored(reference, recorded), *checks.loads(work, reference, source.config.plugins)]
    facts: dict[str, Any] = {}
    if export.graphs:
        found += _graphs(work, reference, export, progress, facts)
    notes: list[str] = []
    if source.state.digests(source.student_folder(point).name) is None:
        notes.append("the ledger, of an earlier kdsearch, has no digests of this student: that its files are those trained was not checked")
    engines = _engines(work, source, rows, reference, notes)
    figures = latency.measure(engines, rows.validation, progress)
    here = latency.machine()
    notes += [warning for warning in (latency.busy(here),) if warning]
    record = json.loads((work / "kdsearch.json").read_text())
    verdict = {
        "study": source.document["study"],
        "trial": point["trial"],
        "student": str(source.student_folder(point).relative_to(source.folder.path)),
        "chosen": chosen.reason,
        "next_smaller": _neighbour(chosen.smaller, source.document),
        "next_larger": _neighbour(chosen.larger, source.document),
        "passed": all(check.passed for check in found),
        "checks": [asdict(check) for check in found],
        "onnx": facts.get("onnx"),
        "int8": facts.get("int8"),
        "latency": {"threads": latency.THREADS, "machine": here, "engines": _with_speedup(figures)},
        "sizes": _sizes(work, source.document["teacher"]["bytes"]),
        "notes": notes,
    }
    verdict = folder.write_verdict(work, verdict)
    written = card.card(
        point=point,
        document=source.document,
        manifest=source.manifest,
        study=study_file.resolved(source.config),
        record=record,
        verdict=verdict,
        analysis=source.folder.analysis(point["trial"]) if point["confirmed"] else None,
    )
    (work / folder.CARD).write_text(str(written))
    folder.write_manifest(work)
    return verdict


def _neighbour(point: Mapping[str, Any] | None, document: Mapping[str, Any]) -> dict[str, Any] | None:
    if point is None:
        return None
    kept, on = retained(document, point)
    return {**{key: point[key] for key in ("trial", "params", "bytes", "validation")}, "retention": kept, "retention_on": on}


def _graphs(work: Path, reference: checks.Reference, export: Export, progress: Progress, facts: dict[str, Any]) -> list[Check]:
    """Write the graphs and predict.py, and check them."""
    progress("exporting to ONNX", 0, 1)
    try:
        onnx_export.export(
            reference.student.module, work / "onnx" / "model.onnx", typed=reference.typed, rows=len(reference.student.tokenizer)
        )
    except KdsearchError:
        raise
    except Exception as problem:  # the exporter and the family's own code may raise anything
        return [
            Check(
                "exports to ONNX", False, f"{reference.student.record['family']['name']}: {type(problem).__name__}: {first_line(problem)}"
            )
        ]
    progress("exporting to ONNX", 1, 1)
    from kdsearch.deploy.predict import Predictor

    folder.add_script(work)
    same, facts["onnx"] = checks.parity(Predictor(work, "fp32"), reference, progress)
    found = [same]
    if export.int8:
        verdict, facts["int8"] = checks.int8(work, reference, export.max_drop, progress)
        found.append(verdict)
    found.append(checks.script(work, reference, progress))
    return found


def _engines(work: Path, source: FinishedStudy, rows: Data, reference: checks.Reference, notes: list[str]) -> dict[str, Engine]:
    """The teacher in torch, the student in torch, and the graphs that there are."""
    student, length = reference.student, reference.student.record["max_length"]
    engines: dict[str, Engine] = {}
    try:
        plan = resolve.inspect(source.config, rows)
        # Its speed does not depend on its weights: a backbone tuned by us is neither tuned again nor read from the cache.
        with torch.random.fork_rng(devices=[]):
            model = checkpoint.load_model(plan.checkpoint, new_head=plan.tuning is not None, labels=rows.labels, task=rows.task)
        typed = rows.validation.pairs is not None and "token_type_ids" in plan.tokenizer.model_input_names
        count = len(source.config.teachers)
        if count > 1:
            notes.append(
                f"speed is held against {plan.key}, the main one of the {count} teachers, alone; scores and sizes against all together"
            )
        engines[f"{plan.key}, torch"] = TorchEngine(Encoder(model), plan.tokenizer, source.config.data.max_length, typed=typed)
    except KdsearchError as problem:  # a study that came from another machine can be deployed without its teacher
        notes.append(f"the teacher was not measured: {problem}")
    engines["student, torch"] = TorchEngine(student.module, student.tokenizer, length, typed=reference.typed)
    if (work / "onnx").is_dir():
        from kdsearch.deploy.predict import MODELS, Predictor

        for name, file in MODELS.items():
            if (work / file).exists():
                engines[f"ONNX {name}"] = Predictor(work, name, latency.THREADS)
    return engines


def _with_speedup(figures: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Each engine's p50 against the teacher's, with and without tokenisation; all to four digits."""
    base = next((value for name, value in figures.items() if name.startswith("teacher")), None)
    if base is not None:
        for value in figures.values():
            value["times_faster"] = base["ms_p50"] / value["ms_p50"]
            value["total_times_faster"] = base["total_ms_p50"] / value["total_ms_p50"]
    return {name: {key: float(f"{number:.4g}") for key, number in value.items()} for name, value in figures.items()}


def _sizes(work: Path, teacher_bytes: int) -> dict[str, dict[str, float]]:
    """File -> bytes; with_tokenizer, those of tokenizer.json added; smaller: times, than the teacher's model.safetensors."""
    tokenizer = (work / "tokenizer.json").stat().st_size
    names = [WEIGHTS, "onnx/model.onnx", "onnx/model_quantized.onnx"]
    sizes = {name: (work / name).stat().st_size for name in names if (work / name).exists()}
    return {
        name: {"bytes": size, "with_tokenizer": size + tokenizer, "smaller": float(f"{teacher_bytes / size:.4g}")}
        for name, size in sizes.items()
    }
