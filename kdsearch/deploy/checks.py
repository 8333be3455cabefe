"""Whether an exported folder is the student: it loads, and its graphs answer as the student does on the study's validation rows."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from kdsearch import tasks
from kdsearch.data.tokens import Table, Tokens, tokenise
from kdsearch.deploy import onnx_export
from kdsearch.errors import KdsearchError
from kdsearch.io.check import Check
from kdsearch.io.progress import Progress
from kdsearch.student.saved import Student, load_student
from kdsearch.teacher.checkpoint import quiet
from kdsearch.training.loop import Rows, in_order

if TYPE_CHECKING:
    from kdsearch.deploy.predict import Predictor

TOLERANCE = 1e-3  # of a logit between torch and ONNX
SLACK = 0.005  # of a score, beside one row, between the machine that trained and this one
BATCHES = (1, 2, 7, 32)
_TOKENS_PER_BATCH = 1024
_ALONE = 2000  # rows at most that int8 answers one at a time


@dataclass(frozen=True)
class Reference:
    """The student in torch, float32, and its logits on the validation rows."""

    student: Student
    rows: Table
    tokens: Tokens
    logits: np.ndarray  # (N, C)
    task: str
    quality: str  # the study's metric

    @classmethod
    def of(cls, student: Student, rows: Table, task: str, quality: str) -> Reference:
        tokens = tokenise(rows, student.tokenizer, student.record["max_length"])
        return cls(student, rows, tokens, student.logits(rows.texts, rows.pairs), task, quality)

    @property
    def typed(self) -> bool:
        return typed(self.student, self.rows)

    @property
    def about(self) -> tasks.Task:
        return tasks.of(self.task)

    def score(self, logits: np.ndarray, rows: np.ndarray | slice = slice(None)) -> float:
        return self.about.scores(logits, self.rows.labels[rows])[self.quality]

    def sample(self, most: int) -> np.ndarray:
        """Row numbers, ascending: all, or `most` drawn with a fixed seed."""
        if len(self.tokens) <= most:
            return np.arange(len(self.tokens))
        return np.sort(np.random.default_rng(0).choice(len(self.tokens), most, replace=False))


def typed(student: Student, rows: Table) -> bool:
    """Whether the student is given token types."""
    return rows.pairs is not None and "token_type_ids" in student.tokenizer.model_input_names


def answers(predictor: Predictor, reference: Reference, rows: np.ndarray, *, alone: bool = False, padding: int = 0) -> np.ndarray:
    """(len(rows), C) logits of a graph for validation rows: in batches of near-equal length, one by one, or with more padding than needed.

    Args:
        padding: columns beyond the longest row of a batch; the rows are then one batch.
    """
    pad = reference.student.tokenizer.pad_token_id or 0
    source = Rows(reference.tokens, np.zeros(len(reference.tokens), np.int64), pad=pad, device=torch.device("cpu"))
    found = np.empty((len(rows), reference.logits.shape[1]), np.float32)
    if alone:
        parts = [np.array([index]) for index in range(len(rows))]
    elif padding:
        parts = [np.arange(len(rows))]
    else:
        parts = list(in_order(source.lengths[rows], _TOKENS_PER_BATCH))
    for part in parts:
        batch = source.batch(rows[part])
        feeds = {"input_ids": batch.ids.numpy(), "attention_mask": batch.mask.long().numpy()}
        if batch.types is not None:
            feeds["token_type_ids"] = batch.types.numpy()
        if padding:
            feeds = {
                name: np.pad(value, ((0, 0), (0, padding)), constant_values=pad * (name == "input_ids")) for name, value in feeds.items()
            }
        found[part] = predictor.run({name: feeds[name] for name in predictor.inputs})
    return found


def loads(folder: Path, reference: Reference, plugins_from: Sequence[str]) -> list[Check]:
    """The folder through kdsearch and, for a stock model, through transformers alone: model, tokenizer, pipeline, label names."""
    found = []
    try:
        with quiet():
            loaded = load_student(folder, plugins_from)
        again = loaded.logits(reference.rows.texts, reference.rows.pairs)
        gap = float(np.abs(again - reference.logits).max())
        found.append(Check("loads with kdsearch", gap <= TOLERANCE, f"load_student; logits differ by at most {gap:.1e}"))
    except KdsearchError as problem:
        found.append(Check("loads with kdsearch", False, str(problem)))
    if reference.student.record["family"]["stock"]:
        found.append(_stock(folder, reference))
    return found


def scored(reference: Reference, recorded: float) -> Check:
    """The student's score on validation against the ledger's. Another machine may predict rows that are nearly tied otherwise."""
    again = reference.score(reference.logits)
    passed = abs(again - recorded) <= SLACK + 1 / len(reference.tokens)
    return Check("scores as recorded", passed, f"{reference.quality} {again:.4f} on validation, recorded {recorded:.4f}")


def _stock(folder: Path, reference: Reference) -> Check:
    what, names, about = "loads with transformers", reference.student.labels, reference.about
    with quiet():
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        classify = pipeline(about.pipeline, model=model, tokenizer=tokenizer, device="cpu")
    named = tuple(model.config.id2label[index] for index in range(model.config.num_labels))
    if names and named != names:
        return Check(what, False, f"config.json names the labels {named}, the study {names}")
    rows = reference.sample(64)
    some = reference.rows.rows(rows)
    texts: list[Any] = list(some.texts)
    if some.pairs is not None:
        texts = [{"text": one, "text_pair": two} for one, two in zip(some.texts, some.pairs, strict=True)]
    results = [{each["label"]: each["score"] for each in row} for row in classify(texts, truncation=True, batch_size=1, top_k=None)]
    logits = reference.logits[rows]
    expected = about.probabilities_of(logits) if about.probabilities else logits
    gaps = np.abs(np.array([[row[name] for name in named] for row in results]) - expected).max(-1)
    if about.probabilities:
        same = int((gaps <= TOLERANCE).sum())
        return Check(what, same == len(rows), f"{type(model).__name__}, pipeline: {same} of {len(rows)} labels the same")
    gap = float(gaps.max())
    return Check(what, gap <= TOLERANCE, f"{type(model).__name__}, pipeline: numbers differ by at most {gap:.1e}")


def parity(predictor: Predictor, reference: Reference, progress: Progress) -> tuple[Check, dict[str, Any]]:
    """The fp32 graph against torch: all validation rows in batches, then shortest, longest and mixed rows at each of BATCHES, some padded."""
    everything = np.arange(len(reference.tokens))
    progress("ONNX fp32 against torch", 0, 2)
    found = answers(predictor, reference, everything)
    gap = float(np.abs(found - reference.logits).max())
    agreed = reference.about.agree(found, reference.logits)
    differ = 0 if agreed is None else int((~agreed).sum())
    progress("ONNX fp32 against torch", 1, 2)
    by_length = np.argsort(reference.tokens.lengths, kind="stable")
    shapes = []
    for size in (size for size in BATCHES if size <= len(by_length)):
        spread = by_length[np.linspace(0, len(by_length) - 1, size).astype(np.int64)]
        for rows in (by_length[:size], by_length[-size:], spread):
            longest = int(reference.tokens.lengths[rows].max())
            for padding in (0, min(5, reference.student.record["max_length"] - longest)):
                logits = answers(predictor, reference, rows, padding=padding)
                shapes.append(
                    {"batch": size, "length": longest + padding, "difference": float(np.abs(logits - reference.logits[rows]).max())}
                )
    progress("ONNX fp32 against torch", 2, 2)
    worst = max([gap, *(shape["difference"] for shape in shapes)])
    lengths = [shape["length"] for shape in shapes]
    same = f"; another label on {differ} rows" if differ else "" if agreed is None else "; the same label on all"
    detail = f"{len(everything):,} rows; batches of {min(BATCHES)} to {max(shape['batch'] for shape in shapes)}, "
    detail += f"lengths {min(lengths)} to {max(lengths)}: logits differ by at most {worst:.1e}{same}"
    facts = {"rows": len(everything), "difference": worst, "other_label": differ, "tolerance": TOLERANCE, "shapes": shapes}
    return Check("ONNX fp32 equals torch", worst <= TOLERANCE and differ == 0, detail), facts


@dataclass(frozen=True)
class Tried:
    """What one variant of int8 gave."""

    variant: str
    bytes: int
    difference: float  # mean, of a logit
    agreement: float | None  # fraction of rows with the label of fp32; None where predictions are values
    score: float  # the study's metric
    drop: float  # points (hundredths of the metric) lost against fp32; negative where it gained
    passed: bool


def _judge(name: str, path: Path, logits: np.ndarray, rows: np.ndarray, reference: Reference, max_drop: float) -> Tried:
    own, size = reference.logits[rows], path.stat().st_size
    agreed = reference.about.agree(logits, own)
    if not np.isfinite(logits).all():
        return Tried(name, size, math.inf, None if agreed is None else 0.0, 0.0, math.inf, False)
    score = reference.score(logits, rows)
    drop = 100 * (reference.score(own, rows) - score)
    agreement = None if agreed is None else float(agreed.mean())
    return Tried(name, size, float(np.abs(logits - own).mean()), agreement, score, drop, drop <= max_drop + 1e-9)


def int8(folder: Path, reference: Reference, max_drop: float, progress: Progress) -> tuple[Check, dict[str, Any]]:
    """Write onnx/model_quantized.onnx: of the variants that lose at most max_drop points the one nearest to fp32; none, if none does.

    Each must pass on all rows in batches, and one row at a time: a scale of int8's activations covers the whole batch, so that company changes an
    answer slightly.
    """
    from kdsearch.deploy.predict import MODELS, Predictor

    target, what, variants = folder / MODELS["int8"], "int8", tuple(onnx_export.Variant)
    rows, some = np.arange(len(reference.tokens)), reference.sample(_ALONE)
    tried: list[tuple[Tried, Tried, Path]] = []  # in batches, one at a time, and its file
    for number, variant in enumerate(variants):
        progress("int8 variants", number, len(variants))
        onnx_export.quantise(folder / MODELS["fp32"], target, variant)
        predictor = Predictor(folder, "int8")
        whole = _judge(variant.value, target, answers(predictor, reference, rows), rows, reference, max_drop)
        alone = _judge(variant.value, target, answers(predictor, reference, some, alone=True), some, reference, max_drop)
        tried.append((whole, alone, target.rename(target.with_name(f"{number}.onnx"))))
    progress("int8 variants", len(variants), len(variants))
    passed = [each for each in tried if each[0].passed and each[1].passed]
    chosen = min(passed, key=lambda each: (-(each[0].agreement or 0.0), each[0].difference), default=None)
    for each in tried:
        if each is chosen:
            each[2].rename(target)
        else:
            each[2].unlink()
    facts: dict[str, Any] = {"max_drop": max_drop, "metric": reference.quality, "fp32": reference.score(reference.logits)}
    facts |= {"rows": len(rows), "chosen": chosen and asdict(chosen[0]), "alone": chosen and asdict(chosen[1])}
    facts["tried"] = [asdict(whole) for whole, _, _ in tried]
    if chosen is None:
        least = min((max(whole, alone, key=lambda one: one.drop) for whole, alone, _ in tried), key=lambda each: each.drop)
        return Check(what, False, f"every variant loses more than {max_drop:g} points of {reference.quality}: {_in_words(least)}"), facts
    whole, alone, _ = chosen
    return Check(what, True, f"{_in_words(whole)}; one at a time {_points(alone)}; at most {max_drop:g} may be lost"), facts


def _in_words(tried: Tried) -> str:
    agrees = "" if tried.agreement is None else f", agrees with fp32 on {tried.agreement:.2%} of rows"
    return f"{tried.variant}: score {tried.score:.4f}, {_points(tried)}{agrees}"


def _points(tried: Tried) -> str:
    return f"{abs(tried.drop):.2f} points {'lost' if tried.drop > 0 else 'gained'}"


def script(folder: Path, reference: Reference, progress: Progress) -> Check:
    """predict.py as a user runs it, in a process of its own, on every validation row that can stand in a line; and its tokens."""
    from kdsearch.deploy.predict import Predictor

    what = "predict.py equals torch"
    texts, pairs = reference.rows.texts, reference.rows.pairs
    lines = texts if pairs is None else [f"{one}\t{two}" for one, two in zip(texts, pairs, strict=True)]
    tabs = 0 if pairs is None else 1
    rows = [n for n, line in enumerate(lines) if not set(line) & set("\r\n") and (pairs is None or line.count("\t") == tabs)]
    progress("predict.py", 0, 1)
    command = [sys.executable, str(folder / "predict.py"), "--model", "fp32"]
    run = subprocess.run(command, input="\n".join(lines[n] for n in rows).encode(), capture_output=True, check=False)
    progress("predict.py", 1, 1)
    if run.returncode != 0:
        return Check(
            what, False, f"exit {run.returncode}: {(run.stderr.decode(errors='replace').strip().splitlines() or ['no message'])[-1]}"
        )
    printed, about, logits = run.stdout.decode().splitlines(), reference.about, reference.logits[rows]
    predictor = Predictor(folder, "fp32")
    for n in rows:
        ids = predictor.tokenise([texts[n]], None if pairs is None else [pairs[n]])["input_ids"][0]
        if not np.array_equal(ids, reference.tokens.ids[reference.tokens.offsets[n] : reference.tokens.offsets[n + 1]]):
            return Check(
                what, False, f"row {n} has other tokens than in training: tokenizer.json does not describe all that the tokenizer does"
            )
    if len(printed) != len(rows):
        return Check(what, False, f"{len(printed)} answers to {len(rows)} lines")
    default = Predictor(folder).model
    expected = about.decode(logits, reference.student.labels)
    if about.probabilities:
        same = sum(one == about.written(other) for one, other in zip(printed, expected, strict=True))
        return Check(what, same == len(rows), f"the same tokens, {same:,} of {len(rows):,} labels the same; without --model: {default}")
    gap = max(abs(float(one) - other) / (1 + abs(other)) for one, other in zip(printed, expected, strict=True))
    return Check(
        what, gap <= TOLERANCE, f"the same tokens, numbers differ by at most {gap:.1e} of 1 + their size; without --model: {default}"
    )
