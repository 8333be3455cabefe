"""How much of the teacher's test accuracy students of 1/1000, 1/50 and 1/10 of its parameters keep on Rotten Tomatoes: five splits, three seeds.

The teacher is fine-tuned on each split. Recipes are fixed here, chosen on split 0's validation rows; test rows are scored once, at the end of each
run, and nothing is chosen by them. Intervals are paired: student and teacher answer the same rows. Resumable: what stands in results/retention.jsonl
is not run again. `python benchmarks/run.py retention`; SPLITS=0,1 SEEDS=0 WORKERS=2 RECIPES=1/1000 (how a name begins) narrow it.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import numpy as np
import runs
import world

from kdsearch.space.spec import TrialSpec

TEXT = 40_000  # unlabelled sentences
SPLITS, SEEDS = "0,1,2,3,4", "0,1,2"
DRAWS = 2000  # of the bootstrap
FAMILIES = "[mlp, bilstm]"


def bilstm(pieces: int, dimension: int, hidden: int) -> dict[str, Any]:
    shape = {"vocabulary": pieces, "dimension": dimension, "layers": 1, "hidden": hidden}
    return {**shape, "pooling": "mean_max", "start": "embeddings"}


LINEAR = world.linear(16_000, 6_700)
SMALL, LARGE = bilstm(8000, 40, 64), bilstm(16_000, 96, 128)
TEXTS = {"unlabelled": 1.0}
MOST = world.HALF | {"alpha": 0.7}
# name -> family, fields, strategy, fields, training, epochs
RECIPES: dict[str, tuple[str, dict[str, Any], str, dict[str, Any], dict[str, float], float]] = {
    "1/1000 linear, labels alone": ("mlp", LINEAR, "hard", {}, {"lr": 3e-4}, 5),
    "1/1000 linear, teacher": ("mlp", LINEAR, "logit", world.HALF, {"lr": 3e-4}, 5),
    "1/1000 linear, teacher and text": ("mlp", LINEAR, "logit", world.HALF, {"lr": 1e-4, **TEXTS}, 5),
    "1/50 BiLSTM, labels alone": ("bilstm", SMALL, "hard", {}, {"lr": 5e-4}, 3),
    "1/50 BiLSTM, teacher and text": ("bilstm", SMALL, "logit", MOST, {"lr": 1e-3, **TEXTS}, 3),
    "1/10 BiLSTM, labels alone": ("bilstm", LARGE, "hard", {}, {"lr": 5e-4}, 3),
    "1/10 BiLSTM, teacher and text": ("bilstm", LARGE, "logit", MOST, {"lr": 5e-4, **TEXTS}, 3),
}


@cache
def bench(split: int) -> runs.Bench:
    text = ["data.unlabelled=imdb", f"data.max_unlabelled={TEXT}"]
    return runs.Bench(
        world.quickstart(f"data.split_seed={split}", "cache.max_bytes=0", f"space.families={FAMILIES}", "space.knobs={}", *text)
    )


def one(job: tuple[str, int, int]) -> dict[str, Any]:
    name, split, seed = job
    family, fields, strategy, soft, training, epochs = RECIPES[name]
    found = bench(split)
    run = found.run(TrialSpec(family, fields, strategy, soft, training, epochs * world.SMOKE, seed))
    path = right(job)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.stack([run.test, found.teacher_test]))
    return {"recipe": name, "split": split, "seed": seed, **found.row(run)}


def right(job: tuple[str, int, int]) -> Any:
    """Where student and teacher are right on test: (2, T) bool."""
    name, split, seed = job
    return world.RESULTS / "right" / f"retention-{''.join(letter if letter.isalnum() else '-' for letter in name)}-{split}-{seed}.npy"


def run() -> list[dict[str, Any]]:
    wanted = [name for name in RECIPES if name.startswith(os.environ.get("RECIPES", ""))]
    done = {(row["recipe"], row["split"], row["seed"]) for row in world.kept("retention")}
    jobs = [(n, split, seed) for split in world.numbers("SPLITS", SPLITS) for n in wanted for seed in world.numbers("SEEDS", SEEDS)]
    for _, row in runs.spread(one, [job for job in jobs if job not in done], world.numbers("WORKERS", "1")[0]):
        world.keep("retention", [row])
    return summary(world.kept("retention"))


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each recipe over its splits and seeds: its share of the teacher's test accuracy, with the interval of a bootstrap that draws, in each split,
    seeds and rows, the same rows for student and teacher."""
    table = []
    for name in RECIPES:
        own = [row for row in rows if row["recipe"] == name]
        if not own:
            continue
        pooled = [np.stack([np.load(right((name, split, row["seed"]))) for row in own if row["split"] == split]) for split in splits(own)]
        rng = np.random.default_rng(0)
        shares = [_share([_drawn(part, rng) for part in pooled]) for _ in range(DRAWS)]
        by_split = [_share([part]) for part in pooled]
        table.append(
            {
                "recipe": name,
                "params": own[0]["params"],
                "validation": float(np.mean([row["validation"] for row in own])),
                "test": float(np.mean([row["test"] for row in own])),
                "teacher_test": float(np.mean([row["teacher_test"] for row in own])),
                "of_teacher": _share(pooled),
                "ci95": "{:.3f} .. {:.3f}".format(*np.quantile(shares, (0.025, 0.975))),
                "by_split": f"{min(by_split):.3f} .. {max(by_split):.3f}",
                "runs": len(own),
                "seconds": float(np.median([row["seconds"] for row in own])),
            }
        )
    return table


def splits(rows: list[dict[str, Any]]) -> list[int]:
    return sorted({row["split"] for row in rows})


def _drawn(part: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """part: (seeds, 2, T)."""
    seeds, _, rows = part.shape
    return part[rng.integers(seeds, size=seeds)][:, :, rng.integers(rows, size=rows)]


def _share(parts: list[np.ndarray]) -> float:
    """The students' accuracy over the teacher's, each averaged over splits."""
    student, teacher = (float(np.mean([part[:, which].mean() for part in parts])) for which in (0, 1))
    return student / teacher
