"""The Pareto front of a study: dominance, hypervolume, and front.json, recomputed from the ledger at any time to the same bytes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdsearch.errors import StateError
from kdsearch.results.record import State, StudyState, TrialRecord
from kdsearch.tasks import metrics

# The hypervolume's box. x: 0 at 3,162 parameters, 1 at a hundred million. y: 0 without an error, 1 where a balanced coin stands.
_X_ORIGIN, _X_SPAN = 3.5, 4.5


@dataclass(frozen=True)
class Point:
    """A finished trial, as the front sees it."""

    trial: int
    quality: float  # larger is better
    cost: float  # smaller is better


def pareto(points: Iterable[Point]) -> list[Point]:
    """The points that no other dominates (is at least as good in both and better in one), by cost, then by trial.

    Of exact twins, equal in quality and in cost, all are kept: neither dominates the other, and which to prefer is the reader's choice.
    A quality that is not finite never enters.
    """
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.cost, -point.quality, point.trial)):
        if not math.isfinite(point.quality):
            continue
        if not front or point.quality > front[-1].quality or (point.quality, point.cost) == (front[-1].quality, front[-1].cost):
            front.append(point)
    return front


def hypervolume(points: Iterable[tuple[float, float]], quality: str = "accuracy") -> float:
    """The fraction of the unit square that the points dominate, 0..1.

    x = (log10(params) - 3.5) / 4.5; y = error / 0.5, where error is 1 - score for accuracy and macro_f1, (1 - score) / 2 for mcc,
    pearson and spearman; both clipped to [0, 1]; reference (1, 1). The box is the same for every study, so two studies of one task compare.

    Args:
        points: (params, score) of each; any points, dominated ones add nothing.
        quality: the metric that score is.
    """
    rows = [
        ((math.log10(params) - _X_ORIGIN) / _X_SPAN, metrics.error(quality, score) / 0.5)
        for params, score in points
        if math.isfinite(score)
    ]
    if not rows:
        return 0.0
    corners = np.clip(np.asarray(rows, dtype=np.float64), 0.0, 1.0)
    corners = corners[np.lexsort((corners[:, 1], corners[:, 0]))]
    lowest = np.minimum.accumulate(corners[:, 1])  # y reached by any point up to this x
    widths = np.diff(np.append(corners[:, 0], 1.0))
    return float(np.sum(widths * (1.0 - lowest)))


def quality_of(trial: TrialRecord, quality: str) -> float:
    """A complete trial's score on the study's quality; NaN where it has none."""
    return trial.scores.get(quality, math.nan)


def members(state: StudyState, objectives: Sequence[str]) -> list[TrialRecord]:
    """The complete trials on the front, by cost, then by number.

    Args:
        objectives: (quality, cost): a metric's name, and params, bytes or flops.
    """
    quality, cost = objectives
    complete = state.having(State.COMPLETE)
    front = pareto(Point(trial.number, quality_of(trial, quality), float(getattr(trial, cost))) for trial in complete)
    return [state.trials[point.trial] for point in front]


def point_of(state: StudyState, trial: TrialRecord) -> dict[str, Any]:
    """A complete trial as a point of front.json, on the front or not."""
    confirmed = state.confirmed.get(trial.number)
    return {
        "trial": trial.number,
        "family": trial.spec["family"],
        "strategy": trial.spec["strategy"],
        "config": {
            "family": trial.spec["family_config"],
            "strategy": trial.spec["strategy_config"],
            "training": trial.spec["training"],
        },
        "params": trial.params,
        "bytes": trial.bytes,
        "flops": trial.flops,
        "validation": {metric: score if math.isfinite(score) else None for metric, score in trial.scores.items()},
        "student": f"students/{trial.number}",
        "confirmed": None if confirmed is None else {key: value for key, value in confirmed.items() if key not in ("trial", "digests")},
    }


def _confirmation(state: StudyState, front: Sequence[TrialRecord]) -> dict[str, Any]:
    """The results of the last use of the test rows, without the points; finalists that are not on the front are among `others`."""
    last = state.confirmations[-1]
    on_front = {trial.number for trial in front}
    others = [state.trials[number] for number in sorted(state.confirmed) if number not in on_front]
    return {
        "test_used": len(state.openings),
        "rows": last["rows"],
        "majority": last["majority"],
        "share_asked": last["share_asked"],
        "others": [point_of(state, trial) for trial in others],
    }


def document(state: StudyState, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """front.json's content; the same state and manifest give the same bytes.

    Args:
        manifest: of its keys: `name`, the study's; `objectives`, [quality, cost]; `teacher`, {params, bytes, flops, validation, test};
            `teachers`, where there are several: `teacher` is then their mean, with the sizes of all of them.

    Returns:
        as in the interface. `validation` holds every metric recorded. `config` is {family, strategy, training}: the fields of the one, of
        the other, and the training hyperparameters. Points are sorted by cost, then by trial. The hypervolume is on parameters, whatever the cost is.
        `confirmation`, once there was one: how often the test rows were used and how many they are, what the majority class scores there,
        the fraction of bootstraps in which a student must be better to count as better, and the finalists that are not on the front.
        `teachers`, of a study with several: {source, fingerprint, params, validation} of each, the main one first.

    Raises:
        StateError: the manifest lacks a key.
    """
    try:
        name, objectives, teacher = manifest["name"], list(manifest["objectives"]), manifest["teacher"]
        teacher = {**{key: teacher[key] for key in ("params", "bytes", "flops", "validation")}, "test": teacher.get("test")}
        if state.confirmations:
            teacher["test"] = state.confirmations[-1]["teacher"]
        each = [{key: one[key] for key in ("source", "fingerprint", "params", "validation")} for one in manifest.get("teachers", ())]
    except KeyError as lacking:
        raise StateError(f"manifest.json of {Path(state.where).parent}: lacks {lacking}: restore the file from a copy") from lacking
    front = members(state, objectives)
    points = [point_of(state, trial) for trial in front]
    return {
        "study": name,
        "objectives": objectives,
        "teacher": teacher,
        **({"teachers": each} if each else {}),
        "points": points,
        "hypervolume": hypervolume([(trial.params, trial.scores[objectives[0]]) for trial in front], objectives[0]),
        "trials": state.counts(),
        **({"confirmation": _confirmation(state, front)} if state.confirmations else {}),
    }


def confirmed_points(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every confirmed trial as a point, on the front or not, by cost, then by number."""
    others = document["confirmation"]["others"] if "confirmation" in document else []
    found = [point for point in (*document["points"], *others) if point["confirmed"]]
    return sorted(found, key=lambda point: (point[document["objectives"][1]], point["trial"]))


def rows(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The front as a table, a row a point.

    Returns:
        trial, family, strategy, params, bytes, flops; score: the study's quality on validation; retention: score / the teacher's, None
        where that is not above 0; ratio: the teacher's parameters / the student's.
    """
    quality, teacher = document["objectives"][0], document["teacher"]
    best = teacher["validation"].get(quality)
    table = []
    for point in document["points"]:
        score = point["validation"][quality]
        row = {key: point[key] for key in ("trial", "family", "strategy", "params", "bytes", "flops")}
        table.append({**row, "score": score, "retention": metrics.retention(score, best), "ratio": teacher["params"] / point["params"]})
    return table
