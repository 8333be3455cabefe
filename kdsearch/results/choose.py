"""Which student of a front to take: the rules a person chooses by. Plain Python and numpy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdsearch.errors import InputError, VerdictNo
from kdsearch.tasks import metrics


@dataclass(frozen=True)
class Rule:
    """How to choose one student of a front. At most one of these; with none of them, the best score on validation.

    Raises:
        InputError: more than one is given, or a number makes no sense.
    """

    trial: int | None = None  # that one, on the front or not
    max_params: int | None = None  # the best score within the limit, like the next two
    max_bytes: int | None = None  # of model.safetensors
    max_latency_ms: float | None = None  # p50 of its ONNX fp32, batch 1, one thread
    min_retention: float | None = None  # the smallest that keeps this fraction of the teacher's score
    knee: bool = False  # the most score for its size

    def __post_init__(self) -> None:
        given = [name for name, value in vars(self).items() if value is not None and value is not False]
        if len(given) > 1:
            listed = " and ".join(f"--{name.replace('_', '-')}" for name in given)
            raise InputError(f"{listed}: each of these chooses by itself: give one")
        for name in ("max_params", "max_bytes", "max_latency_ms", "min_retention"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise InputError(f"--{name.replace('_', '-')}: {value} is not greater than 0")
        if self.min_retention is not None and self.min_retention > 2:
            raise InputError(
                f"--min-retention: {self.min_retention:g} is a fraction of the teacher's score: write {self.min_retention / 100:g}"
            )


@dataclass(frozen=True)
class Choice:
    """The chosen point, why, and its neighbours on the front."""

    point: dict[str, Any]
    reason: str
    smaller: dict[str, Any] | None  # the next cheaper point of the front
    larger: dict[str, Any] | None  # the next costlier one


def retained(document: Mapping[str, Any], point: Mapping[str, Any]) -> tuple[float | None, str]:
    """(retention, the role of rows it is on): on test for a confirmed point, else on validation; None where there is none."""
    quality, teacher, confirmed = document["objectives"][0], document["teacher"], point["confirmed"]
    on = "test" if confirmed and (teacher["test"] or {}).get(quality) is not None else "validation"
    score = confirmed["test"][quality] if on == "test" else point["validation"][quality]
    return metrics.retention(score, teacher[on].get(quality)), on


def choose(
    document: Mapping[str, Any],
    rule: Rule,
    *,
    latencies: Mapping[int, float] | None = None,
    aside: Mapping[str, Any] | None = None,
) -> Choice:
    """Choose one student of a front.

    Args:
        document: as front.json.
        latencies: trial -> milliseconds; needed for a rule on latency.
        aside: for a rule on a trial that is not on the front, its point.

    Raises:
        VerdictNo: nothing fits; names the nearest.
    """
    quality, cost = document["objectives"]
    points = document["points"]
    if not points and aside is None:
        raise VerdictNo(f"{document['study']}: no student on the front yet: let `kdsearch search` finish a trial first")

    def best(fitting: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        return min(fitting, key=lambda point: (-point["validation"][quality], point["params"], point["trial"]))

    if rule.trial is not None:
        on_front = [point for point in points if point["trial"] == rule.trial]
        chosen = on_front[0] if on_front else aside
        assert chosen is not None, "the caller gives the point of a trial that is not on the front"
        reason = "asked for by its number"
        if not on_front:
            better = next(
                p for p in reversed(points) if p[cost] <= chosen[cost] and p["validation"][quality] >= chosen["validation"][quality]
            )
            reason += f"; not on the front: trial {better['trial']} is no larger and no worse on validation"
    elif rule.max_params is not None or rule.max_bytes is not None or rule.max_latency_ms is not None:
        chosen, reason = _within(document, rule, latencies or {}, best)
    elif rule.min_retention is not None:
        chosen, reason = _keeps(document, rule.min_retention)
    elif rule.knee:
        chosen = _knee([dict(point) for point in points], quality, cost)
        reason = f"the knee: the most {quality} for its {cost} (on a log scale) between the ends of the front"
    else:
        chosen, reason = best(points), f"the best {quality} on validation"
    smaller = [point for point in points if point[cost] < chosen[cost] and point["trial"] != chosen["trial"]]
    larger = [point for point in points if point[cost] > chosen[cost] and point["trial"] != chosen["trial"]]
    return Choice(dict(chosen), reason, smaller[-1] if smaller else None, larger[0] if larger else None)


def _within(
    document: Mapping[str, Any],
    rule: Rule,
    latencies: Mapping[int, float],
    best: Callable[[Sequence[Mapping[str, Any]]], Mapping[str, Any]],
) -> tuple[Mapping[str, Any], str]:
    points = document["points"]
    if rule.max_latency_ms is not None:
        limit, unit = float(rule.max_latency_ms), "ms at batch 1 (ONNX fp32, one thread, p50)"
        values = {point["trial"]: latencies[point["trial"]] for point in points}
    else:
        key = "params" if rule.max_params is not None else "bytes"
        limit, unit = float(rule.max_params or rule.max_bytes or 0), key
        values = {point["trial"]: float(point[key]) for point in points}
    shown = "{:,.2f}" if rule.max_latency_ms is not None else "{:,.0f}"
    fitting = [point for point in points if values[point["trial"]] <= limit]
    if not fitting:
        nearest = min(points, key=lambda point: values[point["trial"]])
        raise VerdictNo(
            f"{document['study']}: no student on the front has at most {shown.format(limit)} {unit}; "
            f"the nearest is trial {nearest['trial']} with {shown.format(values[nearest['trial']])}"
        )
    chosen = best(fitting)
    has = shown.format(values[chosen["trial"]])
    return chosen, (
        f"the best {document['objectives'][0]} on validation among the front's {len(fitting)} of {len(points)} students with at most "
        f"{shown.format(limit)} {unit}; it has {has}"
    )


def _keeps(document: Mapping[str, Any], fraction: float) -> tuple[Mapping[str, Any], str]:
    """The cheapest point whose retention is at least `fraction`."""
    cost = document["objectives"][1]
    kept = {point["trial"]: retained(document, point) for point in document["points"]}
    known = [(point, *kept[point["trial"]]) for point in document["points"] if kept[point["trial"]][0] is not None]
    if not known:
        raise VerdictNo(
            f"{document['study']}: the teacher's {document['objectives'][0]} is not above 0: there is no fraction of it to keep"
        )
    fitting = [entry for entry in known if (entry[1] or 0.0) >= fraction]
    if not fitting:
        point, most, on = max(known, key=lambda entry: entry[1] or 0.0)
        raise VerdictNo(
            f"{document['study']}: no student on the front keeps {fraction:.1%} of the teacher's {document['objectives'][0]}; "
            f"the nearest is trial {point['trial']} with {most:.1%} on {on} and {point['params']:,} params"
        )
    point, most, on = min(fitting, key=lambda entry: (entry[0][cost], entry[0]["params"], entry[0]["trial"]))
    return (
        point,
        f"the smallest that keeps at least {fraction:.1%} of the teacher's {document['objectives'][0]}; it keeps {most:.1%} on {on}",
    )


def _knee(points: Sequence[dict[str, Any]], quality: str, cost: str) -> dict[str, Any]:
    """The point furthest above the line between the front's ends, in log cost and score; the cheapest of equals."""
    sizes = np.log10([max(1.0, point[cost]) for point in points])
    scores = np.array([point["validation"][quality] for point in points], np.float64)
    across, up = np.ptp(sizes) or 1.0, np.ptp(scores) or 1.0
    above = (scores - scores.min()) / up - (sizes - sizes.min()) / across
    return points[int(np.argmax(above.round(12)))]
