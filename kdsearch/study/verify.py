"""Whether a study's folder agrees with its ledger: the front, and every student on it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdsearch import tasks
from kdsearch.config import schema
from kdsearch.data import splits
from kdsearch.data.tokens import Table
from kdsearch.errors import KdsearchError
from kdsearch.io.check import Check
from kdsearch.registry import registry
from kdsearch.results import front
from kdsearch.results.folder import StudyFolder
from kdsearch.results.record import StudyState
from kdsearch.student.saved import WEIGHTS

TOLERANCE = 1e-3  # of a logit, or of the spread of a regression's labels: another batch size or number of threads adds up in another order


def verify(path: Path, sets: Sequence[str] = ()) -> Iterator[Check]:
    """Yield each check as it is done.

    Args:
        path: the study's folder.
        sets: where its files are now, as 'data.files.train=PATH'.

    Raises:
        StateError: the folder is not a study's, or its data or plugins have changed.
        InputError: its data cannot be read any more.
    """
    folder = StudyFolder(path)
    state = folder.state(cut=True)
    document = front.document(state, folder.manifest())
    try:
        same = folder.front_file.is_file() and json.loads(folder.front_file.read_bytes()) == document
    except ValueError:  # cut, or no JSON at all
        same = False
    yield Check(
        "front.json", same, "equals the recomputation from the ledger" if same else "differs from the recomputation from the ledger"
    )
    points = document["points"]
    if not points:
        return
    study = folder.config(sets)
    rows = splits.load(study)
    families = sorted({point["family"] for point in points})
    folder.refuse_changes(data=rows, plugins=registry.load(families, [], study.plugins).describe())
    for point in points:
        yield _student(folder, state, point, point["validation"], point["trial"], rows.validation, study)
    for point in front.confirmed_points(document):
        deployed = point["confirmed"]["deployed"]
        run = state.runs.get((state.trials[point["trial"]].hash, deployed["seed"]), {})
        kept = f"{run.get('name')}.validation"
        yield _student(folder, state, point, deployed["validation"], kept, rows.validation, study)


def _student(
    folder: StudyFolder,
    state: StudyState,
    point: Mapping[str, Any],
    validation: Mapping[str, float],
    kept_as: int | str,
    rows: Table,
    study: schema.StudyConfig,
) -> Check:
    """One student's folder: its files, its size, and its answers.

    Args:
        validation: the scores recorded of it.
        kept_as: the name of its predictions on validation: a trial's number, or of a confirmed one its run's.
    """
    path = (folder.student_folder if kept_as == point["trial"] else folder.confirmed_folder)(point["trial"])
    what = f"student {path.name}"
    try:
        note = "" if folder.refuse_damage(path, state) else "; the ledger has no digests of its files"
        student = folder.load(path, study.plugins)
        kept = folder.predictions(kept_as)
    except KdsearchError as problem:
        return Check(what, False, str(problem))
    size = (path / WEIGHTS).stat().st_size
    if student.params != point["params"] or size != point["bytes"]:
        return Check(what, False, f"{student.params:,} params, {size:,} bytes; recorded {point['params']:,} and {point['bytes']:,}")
    logits = student.logits(rows.texts, rows.pairs)
    assert rows.labels is not None
    scores = tasks.of(study.task).scores(logits, rows.labels)
    furthest = float(np.abs(logits - kept).max()) if kept.shape == logits.shape else float("inf")
    quality = study.search.objectives[0]
    again, recorded = scores[quality], validation[quality]
    # One row whose two best logits are nearly equal may fall either way on another machine.
    close = furthest <= TOLERANCE * tasks.of(study.task).spread(rows.labels)
    slack = 1 / len(rows.texts) if close else 0.0
    passed = close and abs(again - recorded) <= slack + 1e-9
    return Check(what, passed, f"{quality} {again:.4f}, recorded {recorded:.4f}; logits differ by at most {furthest:.1e}{note}")
