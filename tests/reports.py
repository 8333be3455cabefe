"""Studies that were never searched, for the tests of the report: ledger, manifest and study file, with figures one can check by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from kdsearch.io import files
from kdsearch.results.ledger import Ledger

TEACHER = {"params": 20_000_000, "bytes": 80_000_000, "flops": 1_000_000_000, "source": "teacher.preset: minilm", "fingerprint": "ab" * 16}


def manifest(quality: str = "accuracy", score: float = 0.8, labels: tuple[str, ...] = ("negative", "positive")) -> dict[str, Any]:
    scores = {"accuracy": score, "macro_f1": score - 0.01, "mcc": 0.6} if labels else {quality: score, "mse": 0.4}
    return {
        "name": "toy",
        "objectives": [quality, "params"],
        "seed": 0,
        "versions": {"python": "3.11.7", "kdsearch": "0.1.0", "torch": "2.13.0"},
        "plugins": [{"name": "hard", "kind": "strategy", "origin": "plugins/hard.py (built in)", "version": "0.1.0", "hash": "c" * 32}],
        "data": {
            "fingerprint": "d" * 32,
            "split": "e" * 32,
            "rows": {"train": 6000, "validation": 1250, "test": 1250, "unlabelled": 0},
            "carved": ["validation", "test"],
            "dropped": {"train": 3, "validation": 0},
            "labels": list(labels),
        },
        "teacher": {**TEACHER, "tuned": True, "validation": scores, "baseline": 0.5, "test": None},
        "cache": {"bytes": 1_500_000},
    }


STUDY = {
    "name": "toy",
    "seed": 0,
    "task": "classification",
    "data": {"preset": "rotten_tomatoes", "hub": None, "files": None, "split_seed": 0, "max_length": 64},
    "teacher": {"model": None, "preset": "minilm"},
}


def spec(strategy: str = "logit", family: str = "transformer", **fields: Any) -> dict[str, Any]:
    taught = {} if strategy == "hard" else {"temperature": 4.0, "alpha": 0.7, **fields}
    return {
        "family": family,
        "family_config": {"layers": 2, "hidden": 128, "start": "embeddings", "vocabulary": None},
        "strategy": strategy,
        "strategy_config": taught,
        "training": {"lr": 0.000316},
        "epochs": 2.0,
        "seed": 3,
    }


def history(*terms: str, points: int = 20) -> list[dict[str, float]]:
    shares = [(place + 1) / points for place in range(points)]
    return [
        {"share": share, "seconds": 10 * share, **{term: (1 + at) * (1 - 0.6 * share) for at, term in enumerate(terms)}} for share in shares
    ]


def complete(
    ledger: Ledger,
    number: int,
    params: int,
    score: float,
    *,
    strategy: str = "logit",
    family: str = "transformer",
    quality: str = "accuracy",
    knobs: Mapping[str, Any] | None = None,
    terms: tuple[str, ...] = ("hard", "soft"),
    expected: float | None = None,
) -> None:
    """A complete trial of 10 seconds: 7 of training, 2 of validation. expected: seconds."""
    drawn = {"strategy": strategy, "transformer.layers": 2, "lr": 0.000316, **(knobs or {})}
    attempt = ledger.started(number, spec(strategy, family), f"h{number}", drawn, params, 4 * params, 10 * params, expected=expected)
    scores = {quality: score, "macro_f1": score - 0.01} if quality == "accuracy" else {quality: score, "mse": 0.5}
    spent = {"total": 10.0, "training": 7.0, "validation": 2.0}
    ledger.complete(number, attempt, scores, params, 4 * params, 10 * params, spent, history=history(*terms))


def failed(ledger: Ledger, number: int, cause: str, message: str, strategy: str = "feature") -> None:
    attempt = ledger.started(number, spec(strategy), f"h{number}", {"strategy": strategy}, 5_000, 20_000, 1)
    ledger.failed(number, attempt, cause, message, seconds={"total": 3.0})


def confirm(ledger: Ledger, finalists: list[tuple[int, float, float]], teacher: float = 0.79, quality: str = "accuracy") -> None:
    """The finalists (trial, score on test, their control's) measured on test: one opening."""
    runs = []
    for trial, score, _ in finalists:
        told = {"hash": f"h{trial}", "seed": 7, "status": "complete", "scores": {quality: score}, "seconds": {"total": 4.0}}
        ledger.append("confirmed_run", trial=trial, role="student", name=f"{trial}-student-7", spec={}, **told)
        runs.append([f"h{trial}", 7])
    ledger.append("test_opened", time=0.0, why="confirm", rows=1250, runs=runs)

    def line(score: float, seeds: int = 3) -> dict[str, Any]:
        spread = [score - 0.02, score + 0.02]
        return {quality: score, "ci95": spread, "deviation": 0.004, "seeds": seeds, "by_seed": [score] * seeds}

    blocks = [
        {
            "trial": trial,
            "student": f"students/{trial}-confirmed",
            "validation": {quality: score + 0.01, "deviation": 0.003},
            "test": line(score),
            "deployed": {"seed": 7, "validation": {quality: score + 0.01}, "test": line(score, 1)},
            "retention": score / teacher,
            "control": line(control),
            "gain": {"value": score - control, "ci95": [score - control - 0.015, score - control + 0.015]},
            "recovered": 0.5 if score > control else None,
            "recovered_ci95": [0.1, 0.9] if score > control else None,
            "failed": [],
            "tied_with": [finalists[0][0]] if trial != finalists[0][0] else [],
        }
        for trial, score, control in finalists
    ]
    ledger.append(
        "confirmed",
        time=0.0,
        opening=1,
        rows=1250,
        runs=runs,
        teacher={quality: teacher, "ci95": [teacher - 0.02, teacher + 0.02]},
        majority={quality: 0.5},
        share_asked=0.975,
        finalists=blocks,
    )


def analysis(folder: Path, trial: int) -> None:
    """What confirming says of a student besides its score."""
    classes = [{"label": name, "precision": 0.78, "recall": 0.76, "f1": 0.77, "rows": 625} for name in ("negative", "positive")]
    ece = {"ece": 0.09, "temperature": 1.7, "ece_fitted": 0.02}
    lost = {"kind": "words", "slice": "a word that training never saw", "rows": 120, "student": 0.7, "teacher": 0.78, "lost": 0.08}
    content = {
        "trial": trial,
        "on": "test",
        "seed": 7,
        "rows": 1250,
        "agreement": {"labels": 0.91, "kl": 0.05},
        "classes": {"student": classes, "teacher": classes},
        "calibration": {"student": ece, "teacher": ece},
        "slices": [{**lost, "ci95": [0.01, 0.15]}],
        "disagreements": [{"row": row, "label": "negative", "student": "negative", "teacher": "positive"} for row in range(112)],
        "training": {"share": [1.0], "terms": {"hard": [0.3]}, "teacher_drift": {"accuracy": -0.002}},
    }
    (folder / "analysis").mkdir(exist_ok=True)
    (folder / "analysis" / f"{trial}.json").write_text(json.dumps(content))


def keep(folder: Path, facts: Mapping[str, Any] | None = None, study: Mapping[str, Any] | None = None) -> Path:
    """The files beside the ledger."""
    (folder / "manifest.json").write_text(json.dumps(facts or manifest()))
    (folder / "study.yaml").write_text(yaml.safe_dump(dict(study or STUDY)))
    return folder


def plain(folder: Path) -> Path:
    """Five students, three of them on the front, one trial stopped, two failed; the teacher stands at 0.8."""
    with Ledger(folder) as ledger:
        ledger.begin(name="toy")
        ledger.session(teacher_seconds=30.0)
        complete(ledger, 0, 100_000, 0.70)
        complete(ledger, 1, 1_000_000, 0.76)  # keeps 95 %
        complete(ledger, 2, 2_000_000, 0.75)  # beaten by 1
        complete(ledger, 3, 4_000_000, 0.784, strategy="feature")  # keeps 98 %
        complete(ledger, 4, 8_000_000, 0.70, strategy="hard")  # beaten by all
        ledger.stopped(5, ledger.started(5, spec(), "h5", {}, 5, 20, 1), 0.25, 0.5, seconds={"total": 1.0})
        failed(ledger, 6, "not_finite", "the loss is NaN")
        failed(ledger, 7, "not_finite", "the loss is NaN")
    return keep(folder)


def confirmed(folder: Path) -> Path:
    """`plain`, its trials 1 and 3 confirmed, and 2, which is not on the front."""
    plain(folder)
    with Ledger(folder) as ledger:
        confirm(ledger, [(1, 0.75, 0.73), (2, 0.745, 0.73), (3, 0.77, 0.74)])
    analysis(folder, 1)
    analysis(folder, 3)
    return folder


def large(folder: Path, trials: int) -> Path:
    """Many trials of several families and strategies, drawn by chance."""
    rng = np.random.default_rng(0)
    families, strategies = (
        ("bilstm", "cnn", "mlp", "transformer"),
        ("hard", "logit", "feature", "joint", "rkd", "two_stage", "attention", "dkd"),
    )
    with Ledger(folder) as ledger:
        ledger.begin(name="toy")
        ledger.session(teacher_seconds=30.0)
        ledger._log.append = _unsynced(ledger)  # type: ignore[method-assign]  # an fsync a line takes minutes
        for number in range(trials):
            family, strategy = str(rng.choice(families)), str(rng.choice(strategies))
            params = int(10 ** rng.uniform(4.5, 7.2))
            best = 0.62 + 0.045 * (np.log10(params) - 4.5) + 0.02 * (strategy == "logit") + 0.02 * (family == "transformer")
            score = float(np.clip(best - rng.exponential(0.04), 0.5, 0.82))
            kind = rng.uniform()
            knobs = {"family": family, f"{family}.layers": int(rng.integers(1, 5)), "lr": float(10 ** rng.uniform(-4.5, -2.5))}
            if kind < 0.65:
                complete(ledger, number, params, score, strategy=strategy, family=family, knobs=knobs, terms=("hard", "soft", strategy))
            elif kind < 0.95:
                attempt = ledger.started(number, spec(strategy, family), f"h{number}", knobs, params, 4 * params, 10 * params)
                ledger.stopped(number, attempt, 0.25, score - 0.05, seconds={"total": 2.0})
            else:
                failed(ledger, number, "memory" if kind < 0.97 else "not_finite", f"out of memory in {family}", strategy)
    return keep(folder)


def _unsynced(ledger: Ledger) -> Any:
    def append(record: Mapping[str, Any]) -> None:
        stream = ledger._log._stream
        stream.write(files._line(record) + b"\n")

    return append
