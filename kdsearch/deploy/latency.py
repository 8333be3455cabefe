"""How long one text takes, and how many texts a second: measured alone, after a warm-up, on real texts, on a stated number of threads."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from kdsearch.api import LOGITS, Batch
from kdsearch.data.tokens import Table
from kdsearch.io.progress import Progress

THREADS = 1
TEXTS = 100  # of the validation rows, drawn with a fixed seed
ROUNDS = 3  # each engine in turn, so that a busy moment of the machine does not fall on one of them alone
WARM_UP = 10  # texts before each round
BATCH = 32
BATCHES = 4  # of BATCH texts, in each round


class Engine(Protocol):
    """A model as it is served."""

    def tokenise(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Any: ...

    def run(self, inputs: Any) -> Any: ...


class TorchEngine:
    """A module that reads a Batch, in torch."""

    def __init__(self, module: nn.Module, tokenizer: PreTrainedTokenizerBase, max_length: int, *, typed: bool) -> None:
        self._module, self._tokenizer, self._length, self._typed = module.eval(), tokenizer, max_length, typed

    def tokenise(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Batch:
        found = self._tokenizer(
            list(texts),
            None if pairs is None else list(pairs),
            truncation="longest_first",
            max_length=self._length,
            padding=True,
            return_tensors="pt",
            return_token_type_ids=self._typed,
        )
        rows = torch.zeros(len(texts), dtype=torch.int64)
        return Batch(found["input_ids"], found["attention_mask"].bool(), rows, rows, found["token_type_ids"] if self._typed else None)

    def run(self, inputs: Batch) -> torch.Tensor:
        with torch.inference_mode():
            logits: torch.Tensor = self._module(inputs, (LOGITS,)).logits
        return logits


def measure(engines: Mapping[str, Engine], rows: Table, progress: Progress, *, throughput: bool = True) -> dict[str, dict[str, float]]:
    """Time every engine on the same texts.

    Args:
        rows: where the texts come from, in their own lengths.
        throughput: whether to time batches of BATCH texts too.

    Returns:
        engine -> ms_p50, ms_p90, ms_p95: the model alone, batch 1; total_ms_p50, ...: with tokenisation; and texts_per_second,
        total_texts_per_second at batch 32.
    """
    chosen = np.random.default_rng(0).choice(len(rows), min(TEXTS, len(rows)), replace=False)
    single = [rows.rows(np.array([row])) for row in chosen]
    drawn = np.resize(np.random.default_rng(1).permutation(len(rows)), (BATCHES, BATCH))
    batches = [rows.rows(some) for some in drawn] if throughput else []
    alone: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
    many: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
    what = f"latency on {THREADS} thread"
    with _threads(THREADS):
        turns = [(name, engine) for _ in range(ROUNDS) for name, engine in engines.items()]
        for number, (name, engine) in enumerate(turns):
            progress(what, number, len(turns))
            for table in single[:WARM_UP]:
                _timed(engine, table)
            alone[name] += [_timed(engine, table) for table in single]
            if batches:
                _timed(engine, batches[0])
                many[name] += [_timed(engine, table) for table in batches]
        progress(what, len(turns), len(turns))
    found = {}
    for name in engines:
        parts = np.array(alone[name])
        figures: dict[str, float] = {}
        for prefix, values in (("", parts[:, 1]), ("total_", parts.sum(1))):
            figures |= {f"{prefix}ms_p{percent}": float(np.percentile(values, percent)) * 1000 for percent in (50, 90, 95)}
        if batches:
            batched = np.array(many[name])
            figures["texts_per_second"] = BATCH / float(np.median(batched[:, 1]))
            figures["total_texts_per_second"] = BATCH / float(np.median(batched.sum(1)))
        found[name] = figures
    return found


def _timed(engine: Engine, table: Table) -> tuple[float, float]:
    """Seconds of tokenising, seconds of the model."""
    begun = time.perf_counter()
    inputs = engine.tokenise(table.texts, table.pairs)
    ready = time.perf_counter()
    engine.run(inputs)
    return ready - begun, time.perf_counter() - ready


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def machine() -> dict[str, Any]:
    """What the figures belong to. load: processes that wanted to run over the last minute, this one included."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("torch", "transformers", "onnxruntime") if find_spec(name)},
    }


def busy(facts: Mapping[str, Any]) -> str | None:
    """A warning where others were running too."""
    if facts["load"] <= max(1.5, 0.75 * facts["cores"]):
        return None
    return f"the machine was busy (load {facts['load']:.1f} on {facts['cores']} cores): latencies are higher than alone"


def _cpu() -> str:
    known = Path("/proc/cpuinfo")
    if known.exists():
        for line in known.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
