"""A fine-tuned teacher and few labelled rows: what the teacher is worth, alone and with 20,000 unlabelled sentences, against the labels alone.

Rotten Tomatoes, the quickstart's teacher as a plain classifier's folder, 16, 64 and 256 labelled rows, drawn afresh for each seed. The teacher
has seen more rows than its students: the question is of somebody who is given a teacher. Without text, a student takes as many steps as it would on
all of the training rows, so the labels alone are no short training; its pieces and bigrams are chosen in the study with the text all the same.
Validation and test are whole; nothing is chosen by either.

Resumable: what stands in results/few_shot.jsonl is not run again. results/data/few_shot/ holds the rows and the teacher: after the quickstart's own
teacher changed, remove both. Environment: SEEDS=0,1,2 (empty: the table alone), ROWS=16,64,256, WORKERS=2.
"""

from __future__ import annotations

import json
import tempfile
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import runs
import world
from runs import Bench

from kdsearch.config.schema import StudyConfig
from kdsearch.data import splits
from kdsearch.io.files import write_folder
from kdsearch.space.spec import TrialSpec
from kdsearch.study import prepare
from kdsearch.teacher import resolve
from kdsearch.teacher.checkpoint import quiet
from kdsearch.training.loop import Recipe, steps_per_epoch

TEXT = 20_000
PIECES = 8000
WHOLE = 6030  # training rows of the whole set
SHAPES = {
    "linear": ("mlp", world.linear(PIECES, 14_700), 5.0),  # epochs with text
    "transformer": ("transformer", world.STUDENTS["transformer"] | {"vocabulary": PIECES}, 3.0),
}
# (student, way) -> strategy, its fields, training
RECIPES: dict[tuple[str, str], tuple[str, dict[str, Any], dict[str, float]]] = {
    ("linear", "labels alone"): ("hard", {}, {"lr": 3e-4}),
    ("linear", "teacher"): ("logit", world.SOFT, {"lr": 3e-4}),
    ("linear", "teacher and text"): ("logit", world.HALF | {"alpha": 1.0}, {"lr": 1e-4, "unlabelled": 1.0}),
    ("transformer", "labels alone"): ("hard", {}, {"lr": 5e-4}),
    ("transformer", "teacher"): ("logit", world.LOGIT, {"lr": 5e-4}),
    ("transformer", "teacher and text"): ("logit", world.LOGIT, {"lr": 5e-4, "unlabelled": 1.0}),
}
Job = tuple[int, int, str, str]  # labelled rows, seed, student, way


@cache
def given() -> dict[str, Path]:
    """What the user has: tables by role, unlabelled text, and a teacher's folder, made where they are missing."""
    folder = world.DATA / "few_shot"
    paths = {role: folder / f"{role}.csv" for role in ("train", "validation", "test", "unlabelled")} | {"teacher": folder / "teacher"}
    if all(path.exists() for path in paths.values()):
        return paths
    known = prepare.inspect(world.quickstart("data.unlabelled=imdb", f"data.max_unlabelled={TEXT}"))
    rows = known.data
    assert rows.unlabelled is not None
    for role, table in (("train", rows.train), ("validation", rows.validation), ("test", splits.open_test(known.config))):
        world.write_csv(
            paths[role], ("text", "label"), [(text, rows.labels[label]) for text, label in zip(table.texts, table.labels, strict=True)]
        )
    world.write_csv(paths["unlabelled"], ("text",), [(text,) for text in rows.unlabelled.texts])
    found = resolve.resolve(known.config, rows, plan=known.plan)
    with tempfile.TemporaryDirectory() as saved, quiet():
        found.model.save_pretrained(saved)
        content = {path.name: path.read_bytes() for path in Path(saved).iterdir()}
    write_folder(paths["teacher"], content | found.tokenizer_files)
    return paths


def study(labelled: int, seed: int) -> StudyConfig:
    """seed: of the draw of the labelled rows, since validation and test are files of their own."""
    files = {name: str(path) for name, path in given().items()}
    tables = {"files": {role: files[role] for role in ("train", "validation", "test")}, "unlabelled": files["unlabelled"]}
    return world.quickstart(
        "name=few_shot",
        f"data={json.dumps({**tables, 'max_train': labelled, 'split_seed': seed, 'max_length': 64})}",
        f"teacher={json.dumps({'model': files['teacher'], 'finetune': 'never'})}",
        "cache.max_bytes=0",
        "space.families=[transformer, mlp]",
        "space.strategies=[hard, logit]",
        f"space.knobs={{transformer.vocabulary: {PIECES}, mlp.vocabulary: {PIECES}}}",
    )


@lru_cache(1)
def bench(labelled: int, seed: int) -> Bench:
    return Bench(study(labelled, seed))


def work(job: Job) -> dict[str, Any] | str:
    """The row to keep, or why there is none."""
    labelled, seed, shape, way = job
    here = bench(labelled, seed)
    family, fields, epochs = SHAPES[shape]
    strategy, soft, training = RECIPES[shape, way]
    if "unlabelled" not in training:
        batch = Recipe(lr=0).batch_size
        epochs *= steps_per_epoch(WHOLE, batch) / steps_per_epoch(here.assets.labelled, batch)
    try:
        run = here.run(TrialSpec(family, fields, strategy, soft, training, epochs * world.SMOKE, seed))
    except runs.TrialFailed as problem:
        return str(problem)
    return {"labelled": labelled, "seed": seed, "student": shape, "way": way, **here.row(run)}


def run() -> list[dict[str, Any]]:
    rows = world.kept("few_shot")
    done = {(row["labelled"], row["seed"], row["student"], row["way"]) for row in rows}
    jobs = [
        (size, seed, *key) for size in world.numbers("ROWS", "16,64,256") for seed in world.numbers("SEEDS", "0,1,2") for key in RECIPES
    ]
    jobs = [job for job in jobs if job not in done]
    if jobs:
        given()  # before several processes would make it
    for job, answer in runs.spread(work, jobs, world.numbers("WORKERS", "1")[0]):
        if isinstance(answer, str):
            print(f"{job}: {answer}")
            continue
        world.keep("few_shot", [answer])
        rows.append(answer)
    return summary(rows)


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over the seeds, with their least and greatest test accuracy."""
    table = []
    for labelled in sorted({row["labelled"] for row in rows}):
        for student, way in RECIPES:
            own = [row for row in rows if (row["labelled"], row["student"], row["way"]) == (labelled, student, way)]
            if own:
                tests = [row["test"] for row in own]
                table.append(
                    {
                        "labelled": labelled,
                        "student": student,
                        "way": way,
                        "params": own[0]["params"],
                        "validation": float(np.mean([row["validation"] for row in own])),
                        "test": float(np.mean(tests)),
                        "from_to": f"{min(tests):.3f} .. {max(tests):.3f}",
                        "of_teacher": float(np.mean([row["test"] / row["teacher_test"] for row in own])),
                        "seeds": len(own),
                        "seconds": float(np.median([row["seconds"] for row in own])),
                    }
                )
    return table
