"""How much of the teacher's accuracy students of 1/1000, 1/50 and 1/10 of its parameters keep on Rotten Tomatoes, split by split and seed by seed.

Resumable: what stands in results/thousandth.jsonl is not run again. Recipes are fixed here, chosen on validation; test rows are scored once, at the
end of each run, and nothing is chosen by them. `python benchmarks/run.py thousandth`; SPLITS=0,1 and SEEDS=0 narrow it.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import world

from kdsearch import cache, config, data, prepare, student, trial, vocabulary
from kdsearch.api import Need, Signal
from kdsearch.prepare import Prepared
from kdsearch.train import Rows
from kdsearch.trial import TrialSpec

TEXT = int(os.environ.get("TEXT", "40000"))  # unlabelled sentences
PURE = {"temperature": 1.0, "alpha": 1.0, "form": "kl", "direction": None}
SOFT = {"temperature": 2.0, "alpha": 0.9, "form": "kl", "direction": None}


def linear(pieces: int, bigrams: int) -> dict[str, Any]:
    return {"vocabulary": pieces, "bigrams": bigrams, "depth": 0, "dimension": 1, "hidden": 0, "start": "random"}


# name -> family, fields, strategy, fields, training, epochs
RECIPES: dict[str, tuple[str, dict[str, Any], str, dict[str, Any], dict[str, float], float]] = {
    "linear 22.7k, labels alone": ("mlp", linear(8000, 14_700), "hard", {}, {"lr": 3e-4}, 5),
    "linear 22.7k, teacher": ("mlp", linear(8000, 14_700), "logit", SOFT, {"lr": 3e-4}, 5),
    "linear 22.7k, teacher and text": ("mlp", linear(8000, 14_700), "logit", PURE, {"lr": 1e-4, "unlabelled": 1.0}, 5),
    "linear 51k, teacher and text": ("mlp", linear(8000, 43_000), "logit", PURE, {"lr": 1e-4, "unlabelled": 1.0}, 5),
}


def _prepared(split: int) -> Prepared:
    sets = [f"data.split_seed={split}", "cache.max_bytes=0", "data.unlabelled=imdb", f"data.max_unlabelled={TEXT}"]
    study = config.load(world.ROOT.parent / "studies" / "quickstart.yaml", sets)
    return prepare.prepare(prepare.inspect(study))


def _test_rows(found: Prepared, size: int) -> tuple[data.Table, Rows]:
    table = data.open_test(found.known.config)
    pruned = found.assets.vocabularies.get(size)
    own = found.teacher.tokenizer if pruned is None else vocabulary.load(pruned.tokenizer, found.teacher.tokenizer)
    tokens = data.tokenise(table, own, found.assets.max_length)
    return table, Rows(tokens, table.labels, pad=own.pad_token_id or 0, device=torch.device("cpu"))


def run() -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    path = world.RESULTS / "thousandth.jsonl"
    kept = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(row["recipe"], row["split"], row["seed"], row["text"]) for row in kept if "split" in row}
    for split in map(int, os.environ.get("SPLITS", "0,1,2,3,4").split(",")):
        wanted = [(name, seed) for name in RECIPES for seed in map(int, os.environ.get("SEEDS", "0,1,2").split(","))]
        wanted = [(name, seed) for name, seed in wanted if (name, split, seed, TEXT) not in done]
        if not wanted:
            continue
        found = _prepared(split)
        assets = found.assets
        table, _ = _test_rows(found, assets.info.vocab)
        tokens = data.tokenise(table, found.teacher.tokenizer, assets.max_length)
        said = cache.signals(found.teacher, tokens, [Need(Signal.LOGITS)], None, max_length=assets.max_length)
        teacher_right = said.columns[Need(Signal.LOGITS)].values.argmax(-1) == table.labels
        for name, seed in wanted:
            family, fields, strategy, soft, training, epochs = RECIPES[name]
            begun = time.monotonic()
            result = trial.run(TrialSpec(family, fields, strategy, soft, training, epochs, seed), assets)
            if result.status != "complete":
                raise SystemExit(f"{name}: {result.message}")
            module = _module(result)
            _, rows = _test_rows(found, fields["vocabulary"])
            right = student.predict(module, rows).argmax(-1) == table.labels
            row = {
                "recipe": name,
                "split": split,
                "seed": seed,
                "text": TEXT,
                "params": result.params,
                "validation": result.scores["accuracy"],
                "test": float(right.mean()),
                "teacher_validation": found.teacher.validation["accuracy"],
                "teacher_test": float(teacher_right.mean()),
                "seconds": round(time.monotonic() - begun, 1),
            }
            world.keep("thousandth", [row])
            kept.append(row)
            np.save(world.RESULTS / f"right-{list(RECIPES).index(name)}-{split}-{seed}-{TEXT}.npy", np.stack([right, teacher_right]))
    return summary([row for row in kept if "split" in row])


def _module(result: trial.TrialResult) -> torch.nn.Module:
    with tempfile.TemporaryDirectory() as folder:
        for name, content in result.files.items():
            (Path(folder) / name).write_bytes(content)
        return student.load_student(folder).module


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each recipe over its splits and seeds: the mean share of the teacher's test accuracy, with the interval of a bootstrap over splits."""
    table = []
    for name in RECIPES:
        own = [row for row in rows if row["recipe"] == name and row["text"] == TEXT]
        if not own:
            continue
        splits = sorted({row["split"] for row in own})
        shares = np.array([np.mean([row["test"] / row["teacher_test"] for row in own if row["split"] == split]) for split in splits])
        rng = np.random.default_rng(0)
        means = rng.choice(shares, (2000, len(shares))).mean(1)
        table.append(
            {
                "recipe": name,
                "params": own[0]["params"],
                "validation": float(np.mean([row["validation"] for row in own])),
                "test": float(np.mean([row["test"] for row in own])),
                "teacher_test": float(np.mean([row["teacher_test"] for row in own])),
                "of_teacher": float(shares.mean()),
                "ci95": f"{np.quantile(means, 0.025):.3f}..{np.quantile(means, 0.975):.3f}" if len(shares) > 1 else "one split",
                "runs": len(own),
                "seconds": float(np.median([row["seconds"] for row in own])),
            }
        )
    return table
