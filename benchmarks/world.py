"""What the benchmarks share: the quickstart's data and teacher, and one fixed student of each family."""

from __future__ import annotations

import json
import platform
import time
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch

from kdsearch import config, prepare
from kdsearch.prepare import Prepared
from kdsearch.trial import TrialSpec

ROOT = Path(__file__).parent
RESULTS = ROOT / "results"

# Two layers, 128 wide: the student that the project states its speeds for.
STUDENTS: dict[str, dict[str, Any]] = {
    "transformer": {"layers": 2, "hidden": 128, "head_size": 32, "ff_ratio": 4, "start": "embeddings"},
}
LOGIT = {"temperature": 2.0, "alpha": 0.7, "form": "kl", "direction": None}


@cache
def prepared(*sets: str) -> Prepared:
    """The quickstart, its teacher fine-tuned and its signals cached: minutes the first time, seconds afterwards."""
    study = config.load(ROOT.parent / "studies" / "quickstart.yaml", ["cache.max_bytes=0", *sets])
    return prepare.prepare(prepare.inspect(study))


def spec(family: str, strategy: str = "logit", *, epochs: float = 1.0, lr: float = 5e-4, seed: int = 0, **changes: Any) -> TrialSpec:
    """A trial of the fixed student; changes: of its fields."""
    fields = {"hard": {}, "logit": LOGIT}[strategy]
    return TrialSpec(family, STUDENTS[family] | changes, strategy, fields, {"lr": lr}, epochs, seed)


def keep(name: str, rows: list[dict[str, Any]]) -> None:
    """Append rows to benchmarks/results/NAME.jsonl, each with machine and time."""
    RESULTS.mkdir(exist_ok=True)
    where = {
        "machine": platform.machine(),
        "cores": torch.get_num_threads(),
        "torch": torch.__version__,
        "at": datetime.now(UTC).isoformat(),
    }
    with (RESULTS / f"{name}.jsonl").open("a") as stream:
        for row in rows:
            stream.write(json.dumps({"benchmark": name, **row, **where}) + "\n")


def seconds(work: Any) -> float:
    """Of one call."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
