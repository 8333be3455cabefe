"""What the benchmarks share: the quickstart's data and teacher, one fixed student of each family, and where results lie.

SMOKE=0.02 in the environment tries a benchmark out: every run has that share of its epochs, and all its rows go into results/smoke/.
"""

from __future__ import annotations

import csv
import json
import os
import platform
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import torch

from kdsearch.config import study_file
from kdsearch.config.schema import StudyConfig
from kdsearch.io.files import replace_file
from kdsearch.space.spec import TrialSpec
from kdsearch.study import prepare
from kdsearch.study.prepare import Prepared

ROOT = Path(__file__).parent
SMOKE = float(os.environ.get("SMOKE", "1"))  # share of every run's epochs
RESULTS = ROOT / "results" if SMOKE == 1 else ROOT / "results" / "smoke"
DATA = ROOT / "results" / "data"  # tables and teachers that benchmarks make for themselves

# Two layers, 128 wide where it has a meaning, the teacher's own vocabulary: the students that the project states its speeds for.
STUDENTS: dict[str, dict[str, Any]] = {
    "transformer": {"layers": 2, "hidden": 128, "head_size": 32, "ff_ratio": 4, "start": "embeddings"},
    "bilstm": {"vocabulary": 30_522, "dimension": 128, "layers": 2, "hidden": 64, "pooling": "mean_max", "start": "embeddings"},
    "mlp": {"vocabulary": 30_522, "bigrams": 0, "depth": 2, "dimension": 128, "hidden": 128, "start": "embeddings"},
}
LOGIT: dict[str, Any] = {"temperature": 2.0, "alpha": 0.7, "form": "kl", "direction": None}
# The linear student's recipes, chosen on validation: with the training rows alone, and with unlabelled text, where labels have half of the say.
SOFT = {"temperature": 2.0, "alpha": 0.9, "form": "kl", "direction": None}
HALF = {"temperature": 1.0, "alpha": 0.5, "form": "kl", "direction": None}


def linear(pieces: int, bigrams: int) -> dict[str, Any]:
    """The fields of the linear mlp: one weight a feature."""
    return {"vocabulary": pieces, "bigrams": bigrams, "depth": 0, "dimension": 1, "hidden": 0, "start": "random"}


def quickstart(*sets: str) -> StudyConfig:
    """The quickstart's study without its unlabelled text; sets: changes, as `--set` takes them."""
    return study_file.load(
        ROOT.parent / "studies" / "quickstart.yaml", ["data.unlabelled=null", "data.max_unlabelled=null", "search.minutes=null", *sets]
    )


@cache
def prepared(*sets: str) -> Prepared:
    """The quickstart, its teacher fine-tuned and its signals cached: minutes the first time, seconds afterwards."""
    families = f"space.families=[{', '.join(STUDENTS)}]"
    return prepare.prepare(prepare.inspect(quickstart("cache.max_bytes=0", families, *sets)))


def spec(family: str, strategy: str = "logit", *, epochs: float = 1.0, lr: float = 5e-4, seed: int = 0, **changes: Any) -> TrialSpec:
    """A trial of the fixed student; changes: of its fields."""
    fields = {"hard": {}, "logit": LOGIT}[strategy]
    return TrialSpec(family, STUDENTS[family] | changes, strategy, fields, {"lr": lr}, epochs * SMOKE, seed)


def keep(name: str, rows: list[dict[str, Any]]) -> None:
    """Append rows to RESULTS/NAME.jsonl, each with machine and time."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    where = {
        "machine": platform.machine(),
        "cores": torch.get_num_threads(),
        "torch": torch.__version__,
        "at": datetime.now(UTC).isoformat(),
    }
    with (RESULTS / f"{name}.jsonl").open("a") as stream:
        for row in rows:
            stream.write(json.dumps({"benchmark": name, **row, **where}) + "\n")


def kept(name: str) -> list[dict[str, Any]]:
    """The rows of RESULTS/NAME.jsonl, oldest first."""
    path = RESULTS / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def write_csv(path: Path, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """A whole file or none."""
    text = StringIO(newline="")
    csv.writer(text).writerows([columns, *rows])
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, text.getvalue())


def numbers(name: str, default: str) -> list[int]:
    """The environment variable NAME=0,1,2; empty: none."""
    return [int(each) for each in os.environ.get(name, default).split(",") if each]


def seconds(work: Any) -> float:
    """Of one call."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
