"""The figures of a report, as plain rows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdsearch import tasks
from kdsearch.errors import VerdictNo
from kdsearch.evaluation import statistics
from kdsearch.report.facts import Facts
from kdsearch.results import front
from kdsearch.results.choose import Rule, choose, retained
from kdsearch.results.front import Point
from kdsearch.results.record import State, TrialRecord

SHARES = (0.99, 0.98, 0.97, 0.95)  # of the teacher's score, that a person may want kept
_MESSAGES = 5  # different ones shown of a cause
_ENOUGH = 8  # trials, for a word on how well their seconds were predicted


def recipe(spec: Mapping[str, Any]) -> list[tuple[str, str]]:
    """[(part, its hyperparameters in words)] of a trial's spec: the student, how it learns, how it is trained."""
    training = {"epochs": spec["epochs"], **spec["training"]} if "epochs" in spec else spec["training"]
    return [
        (spec["family"], _knobs(spec["family_config"])),
        (spec["strategy"], _knobs(spec["strategy_config"])),
        ("training", _knobs(training)),
    ]


def _knobs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {_value(value)}" for name, value in values.items()) or "no hyperparameters"


def _value(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def within(facts: Facts) -> list[dict[str, Any]]:
    """The smallest student that keeps each of SHARES of the teacher's score: what `pick --min-retention` would take.

    Returns:
        share (a fraction), point (None where none does), kept, on (the rows that kept is measured on).
    """
    found: list[dict[str, Any]] = []
    for fraction in SHARES:
        try:
            point = choose(facts.document, Rule(min_retention=fraction)).point
        except VerdictNo:
            found.append({"share": fraction, "point": None, "kept": None, "on": ""})
            continue
        kept, on = retained(facts.document, point)
        found.append({"share": fraction, "point": point, "kept": kept, "on": on})
    return found


def best_kept(facts: Facts) -> tuple[dict[str, Any], float, str] | None:
    """(point, fraction, rows) of the student of the front that keeps most of the teacher's score; None where it is not known.

    Where some were measured on test, it is one of those: scores on the rows that chose a student are a little too good.
    """
    kept = [(point, *retained(facts.document, point)) for point in facts.document["points"]]
    known = [(point, fraction, on) for point, fraction, on in kept if fraction is not None]
    tested = [each for each in known if each[2] == "test"]
    return max(tested or known, key=lambda each: each[1], default=None)


def front_rows(facts: Facts) -> list[dict[str, Any]]:
    """front.rows, with each point's recipe, its latency (None where not measured) and its line on test (None where not confirmed)."""
    found = []
    for row, point in zip(front.rows(facts.document), facts.document["points"], strict=True):
        spec = facts.state.trials[point["trial"]].spec
        confirmed = point["confirmed"]
        extra = {"recipe": recipe(spec), "ms": facts.latencies.get(point["trial"]), "test": confirmed["test"] if confirmed else None}
        found.append({**row, **extra, "command": facts.export_command(point["trial"])})
    return found


def growth(facts: Facts) -> list[tuple[int, float, int]]:
    """(trials ended so far, the front's hypervolume, the trial that changed it), where it changed; the last is the study's own."""
    held: list[Point] = []
    steps = []
    for count, trial in enumerate(facts.ended, start=1):
        quality = front.quality_of(trial, facts.quality)
        if trial.state is not State.COMPLETE or not math.isfinite(quality):
            continue
        held, before = front.pareto([*held, Point(trial.number, quality, float(getattr(trial, facts.cost)))]), held
        if held != before:
            shape = [(facts.state.trials[point.trial].params, point.quality) for point in held]
            steps.append((count, front.hypervolume(shape, facts.quality), trial.number))
    return steps


def tally(facts: Facts, part: str) -> list[dict[str, Any]]:
    """How the trials of each strategy or family ended, the best score first.

    Args:
        part: strategy | family.

    Returns:
        name, complete, stopped, failed, on_front, best (None where none is complete), trial (that has it).
    """
    on_front = {point["trial"] for point in facts.document["points"]}
    groups: dict[str, list[TrialRecord]] = {}
    for trial in facts.ended:
        groups.setdefault(trial.spec[part], []).append(trial)
    rows = []
    for name, trials in groups.items():
        best = _best(trials, facts.quality)
        rows.append(
            {
                "name": name,
                **{str(state): sum(trial.state is state for trial in trials) for state in (State.COMPLETE, State.STOPPED, State.FAILED)},
                "on_front": sum(trial.number in on_front for trial in trials),
                "best": None if best is None else best.scores[facts.quality],
                "trial": None if best is None else best.number,
            }
        )
    return sorted(rows, key=lambda row: (-math.inf if row["best"] is None else -row["best"], row["name"]))


def _best(trials: Sequence[TrialRecord], quality: str) -> TrialRecord | None:
    scored = [trial for trial in trials if trial.state is State.COMPLETE and math.isfinite(front.quality_of(trial, quality))]
    return max(scored, key=lambda trial: trial.scores[quality], default=None)


def pairs(facts: Facts) -> dict[tuple[str, str], float]:
    """(strategy, family) -> the best score, for pairs with a complete trial."""
    groups: dict[tuple[str, str], list[TrialRecord]] = {}
    for trial in facts.ended:
        groups.setdefault((trial.spec["strategy"], trial.spec["family"]), []).append(trial)
    best = {pair: _best(trials, facts.quality) for pair, trials in groups.items()}
    return {pair: trial.scores[facts.quality] for pair, trial in best.items() if trial is not None}


def failures(facts: Facts) -> list[dict[str, Any]]:
    """cause, count, messages [(text, trials)], more (different messages that are not among them); the most frequent cause first."""
    causes: dict[str, dict[str, list[int]]] = {}
    for trial in facts.state.having(State.FAILED):
        causes.setdefault(trial.cause, {}).setdefault(trial.message, []).append(trial.number)
    rows = []
    for cause, messages in causes.items():
        listed = sorted(messages.items(), key=lambda each: (-len(each[1]), each[1]))
        rows.append(
            {
                "cause": cause,
                "count": sum(map(len, messages.values())),
                "messages": listed[:_MESSAGES],
                "more": max(0, len(listed) - _MESSAGES),
            }
        )
    return sorted(rows, key=lambda row: (-row["count"], row["cause"]))


def seconds(facts: Facts) -> list[tuple[str, float]]:
    """(what, seconds) of all the work that the ledger knows of; trials that ran side by side are added up."""
    complete = [trial.seconds for trial in facts.state.having(State.COMPLETE)]
    training, validation, total = (sum(each.get(part, 0.0) for each in complete) for part in ("training", "validation", "total"))

    def lost(state: State) -> float:
        return float(sum(trial.facts.get("seconds", {}).get("total", 0.0) for trial in facts.state.having(state)))

    parts = [
        ("training", training),
        ("validation", validation),
        ("building and saving", max(0.0, total - training - validation)),
        ("stopped trials", lost(State.STOPPED)),
        ("failed trials", lost(State.FAILED)),
        ("teacher", float(sum(session.get("teacher_seconds", 0.0) for session in facts.state.sessions))),
        ("confirmation", float(sum(run.get("seconds", {}).get("total", 0.0) for run in facts.state.runs.values()))),
    ]
    return [(what, spent) for what, spent in parts if spent > 0]


def elapsed(facts: Facts) -> float:
    """Seconds that the search took by the clock, from each session's start to its last trial's end; pauses between sessions left out."""
    starts = sorted(session["time"] for session in facts.state.sessions if session.get("time") is not None)
    ends = sorted(trial.ended for trial in facts.state.trials.values() if trial.ended is not None)
    total = 0.0
    for begun, after in itertools.pairwise([*starts, math.inf]):
        total += max([end for end in ends if begun <= end < after], default=begun) - begun
    return total


def moved(trial: TrialRecord, points: int = 60) -> dict[str, Any] | None:
    """Each loss term over time, thinned to so many points; None where the ledger has no history.

    Returns:
        share: fraction of the budget; terms: name -> its mean since the point before, None where it did not occur.
    """
    history = trial.facts.get("history") or []
    names = list(dict.fromkeys(name for each in history for name in each if name not in ("share", "seconds")))
    if not names:
        return None
    kept = [history[index] for index in sorted({round(at) for at in np.linspace(0, len(history) - 1, min(points, len(history)))})]
    return {"share": [each["share"] for each in kept], "terms": {name: [each.get(name) for each in kept] for name in names}}


def notes(facts: Facts) -> list[str]:
    """How far the figures can be trusted, in sentences."""
    quality, score, confirmation = facts.quality, facts.teacher_score, facts.confirmation
    counts, rows = facts.document["trials"], facts.manifest["data"]["rows"]["validation"]
    found = []
    if counts["complete"] > 1:
        best = statistics.optimism(quality, score, rows, counts["complete"])
        least = statistics.detectable(quality, score, rows)
        found.append(
            f"Scores of the front are on the {rows:,} validation rows, on which {counts['complete']:,} complete students were compared. "
            f"The best of so many equal ones would score about {100 * best:.1f} points too high."
        )
        found.append(f"Two students whose {quality} there differs by less than about {100 * least:.1f} points cannot be distinguished.")
    if confirmation is None:
        found.append(
            f"The {facts.manifest['data']['rows']['test']:,} test rows are still sealed: nothing here has seen them. "
            f"{facts.command('confirm')} trains the finalists again with fresh seeds and measures them there."
        )
    else:
        used = confirmation["test_used"]
        found.append(
            f"The {confirmation['rows']:,} test rows were used {'once' if used == 1 else f'{used} times'} in this study"
            + (": each further use makes them a little less of a test." if used > 1 else ".")
        )
        found.append(
            "Test figures are means over fresh seeds with 95 % intervals over rows and seeds; "
            "the student that is exported is the median run by validation, not the luckiest."
        )
        if len(facts.confirmed) > 1:
            found.append(
                "A student is tied with those that are no larger and that it beats in fewer than "
                f"{100 * confirmation['share_asked']:.1f} % of paired bootstraps: take the smaller one unless you have other reasons."
            )
    task, guess = tasks.of(facts.study["task"]), facts.manifest["teacher"]["baseline"]
    idle = [row["trial"] for row in front.rows(facts.document) if row["score"] <= guess] if quality == task.baseline else []
    if idle:
        which = f"Trial {idle[0]} on the front is" if len(idle) == 1 else f"Trials {', '.join(map(str, idle))} on the front are"
        found.append(f"{which} no better than always predicting {task.always} ({guess:.4g}): only small, not useful.")
    if counts["stopped"]:
        many = "One trial was" if counts["stopped"] == 1 else f"{counts['stopped']:,} trials were"
        found.append(f"{many} stopped early; what was scored by then is no result and is not on the front.")
    complete = facts.state.having(State.COMPLETE)
    late = [trial.seconds["total"] / trial.expected for trial in complete if trial.expected and "total" in trial.seconds]
    if len(late) >= _ENOUGH:
        low, high = np.quantile(late, (0.25, 0.75))
        found.append(f"Half of {len(late):,} trials took between {low:.2g} and {high:.2g} times the seconds that were expected of them.")
    carved = facts.manifest["data"]["carved"]
    if carved:
        seed = facts.study["data"]["split_seed"]
        found.append(f"The data came without {' and '.join(carved)}: carved out of the training rows by split_seed {seed}.")
    return found
