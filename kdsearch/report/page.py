"""report.html: one file with its style, its script and its data inside; it asks no network for anything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from kdsearch import tasks
from kdsearch.config import yamlfile
from kdsearch.hpo.importance import LEAST, importances
from kdsearch.io import text
from kdsearch.io.text import clock, compact, score, times
from kdsearch.report import tables
from kdsearch.report.facts import Facts
from kdsearch.results import front
from kdsearch.results.choose import retained
from kdsearch.results.record import State

HERE = Path(__file__).parent
DRAWN = 1500  # complete trials in the picture; of more, so many drawn by chance beside the front and the confirmed ones
percent = partial(text.percent, gap="\u00a0")
CURVES = 12  # students of the front whose loss terms are drawn; of more, so many spread over the sizes
KNOBS = 12  # of the importances


def write_page(facts: Facts) -> str:
    """The page's text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "sort_keys": True}
    environment.filters |= {
        "compact": compact,
        "times": times,
        "clock": clock,
        "score": score,
        "percent": percent,
        "signed": signed,
        "points": points,
        "size": size,
        "range": between,
    }
    return environment.get_template("page.html").render(
        css=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        js=Markup((HERE / "page.js").read_text(encoding="utf-8")),
        **context(facts),
    )


def signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")  # noqa: RUF001


def points(value: float) -> str:
    """A difference of scores, in hundredths."""
    return f"{100 * value:+.1f}".replace("-", "−")  # noqa: RUF001


def between(ends: Sequence[float]) -> str:
    """An interval of scores."""
    return f"{ends[0]:.3f} to {ends[1]:.3f}"


def size(count: float) -> str:
    """4005880 -> '4.01 MB'."""
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= 0.9995 * step:
            return f"{count / step:.3g}\u00a0{unit}"
    return f"{count:.0f}\u00a0bytes"


def context(facts: Facts) -> dict[str, Any]:
    """What the page's template reads."""
    document = facts.document
    found = importances(facts.state, document["objectives"])
    families = list(dict.fromkeys(trial.spec["family"] for trial in facts.ended))
    last = max((trial.ended for trial in facts.ended if trial.ended is not None), default=None)
    spent = tables.seconds(facts)
    return {
        "facts": facts,
        "document": document,
        "quality": facts.quality,
        "cost": facts.cost,
        "counts": document["trials"],
        "teacher": document["teacher"],
        "confirmation": facts.confirmation,
        "until": None if last is None else f"{datetime.fromtimestamp(last, UTC):%d %B %Y, %H:%M} UTC",
        "best": tables.best_kept(facts),
        "within": tables.within(facts),
        "rows": tables.front_rows(facts),
        "confirmed": [{**point, "recipe": tables.recipe(facts.state.trials[point["trial"]].spec)} for point in facts.confirmed],
        "on_front": {point["trial"] for point in document["points"]},
        "analyses": [(trial, each) for trial, each in facts.analyses.items()],
        "notes": tables.notes(facts),
        "tallies": [(part, tables.tally(facts, part)) for part in ("strategy", "family")],
        "families": families,
        "pairs": tables.pairs(facts),
        "strategies": sorted({trial.spec["strategy"] for trial in facts.ended}),
        "importances": None if found is None else _leading(found),
        "least": LEAST,
        "failures": tables.failures(facts),
        "seconds": spent,
        "spent": sum(each for _, each in spent),
        "elapsed": tables.elapsed(facts),
        "proposals": {"refused for size": len(facts.state.refused), "answered by an earlier trial": len(facts.state.reused)},
        "unfinished": len(facts.state.having(State.RUNNING)) + len(facts.state.having(State.RETURNED)),
        "simplest": _simplest(facts),
        "guess": tasks.of(facts.study["task"]).simplest,
        "commands": commands(facts),
        "study_file": yamlfile.dump(dict(facts.study)),
        "payload": payload(facts),
    }


def _leading(found: dict[str, dict[str, float]]) -> dict[str, list[tuple[str, float]]]:
    """The hyperparameters that are important enough for a line."""
    return {name: [(knob, value) for knob, value in shares.items() if value >= 0.005][:KNOBS] for name, shares in found.items()}


def _simplest(facts: Facts) -> str:
    task = tasks.of(facts.study["task"])
    return f"{task.baseline} of the {task.simplest} on validation: {facts.manifest['teacher']['baseline']:.4g}"


def commands(facts: Facts) -> list[tuple[str, str]]:
    """(what for, the command), for whoever has this folder."""
    found = [("The front as a table", facts.command("front"))]
    if facts.document["points"]:
        if facts.confirmation is None:
            found.append(("Measure the finalists on the sealed test rows, with intervals", facts.command("confirm")))
        kept = {row["share"] for row in tables.within(facts) if row["point"]}
        if kept:
            fraction = 0.97 if 0.97 in kept else max(kept)
            what = f"Export the smallest student that keeps {100 * fraction:.0f} %"
            found.append((what, facts.command("pick", "--min-retention", fraction, "--onnx", "--int8")))
        found.append(
            ("Export the best one of at most a size", facts.command("pick", "--max-params", _round_size(facts), "--onnx", "--int8"))
        )
    found.append(("Check that every figure can be had again", facts.command("verify")))
    found.append(("Make this report again", facts.command("report")))
    return found


def _round_size(facts: Facts) -> str:
    """A size to ask for as an example: a round one that the front's middle student keeps."""
    points = facts.document["points"]
    params = points[len(points) // 2]["params"]
    step = 10 ** math.floor(math.log10(params))
    return compact(step * math.ceil(params / step))


def payload(facts: Facts) -> dict[str, Any]:
    """What the page's script draws."""
    document, quality = facts.document, facts.quality
    teacher, members = document["teacher"], {point["trial"] for point in document["points"]}
    complete = [trial for trial in facts.state.having(State.COMPLETE) if math.isfinite(front.quality_of(trial, quality))]
    kept = _sampled([trial.number for trial in complete], members | {point["trial"] for point in facts.confirmed})
    trials = [
        {
            "trial": trial.number,
            "x": float(getattr(trial, facts.cost)),
            "y": trial.scores[quality],
            "family": trial.spec["family"],
            "strategy": trial.spec["strategy"],
            "params": trial.params,
            "bytes": trial.bytes,
            "flops": trial.flops,
            "recipe": tables.recipe(trial.spec),
            "front": trial.number in members,
        }
        for trial in complete
        if trial.number in kept
    ]
    return {
        "quality": quality,
        "cost": facts.cost,
        "command": facts.export_command("TRIAL"),
        "teacher": {
            "x": float(teacher[facts.cost]),
            "params": teacher["params"],
            "validation": teacher["validation"][quality],
            "test": (teacher["test"] or {}).get(quality),
        },
        "complete": len(complete),
        "trials": trials,
        "confirmed": [_confirmed(facts, point) for point in facts.confirmed],
        "selected": _selected(facts),
        "growth": tables.growth(facts),
        "ended": len(facts.ended),
        "curves": _curves(facts),
    }


def _sampled(numbers: list[int], wanted: set[int]) -> set[int]:
    others = [number for number in numbers if number not in wanted]
    room = max(0, DRAWN - len(wanted))
    if len(others) > room:
        others = [others[index] for index in np.random.default_rng(0).choice(len(others), room, replace=False)]
    return wanted | set(others)


def _confirmed(facts: Facts, point: dict[str, Any]) -> dict[str, Any]:
    confirmed = point["confirmed"]
    return {
        "trial": point["trial"],
        "test": confirmed["test"][facts.quality],
        "ci95": confirmed["test"]["ci95"],
        "seeds": confirmed["test"]["seeds"],
        "control": None if confirmed["control"] is None else confirmed["control"][facts.quality],
        "retention": retained(facts.document, point)[0],
        "tied": confirmed["tied_with"],
    }


def _selected(facts: Facts) -> int | None:
    """The trial that is shown first: the smallest that keeps 97 %, else the one that keeps most."""
    known = {row["share"]: row["point"] for row in tables.within(facts)}
    best = tables.best_kept(facts)
    chosen = known[0.97] or (best[0] if best else None) or next(iter(facts.document["points"]), None)
    return None if chosen is None else int(chosen["trial"])


def _curves(facts: Facts) -> list[dict[str, Any]]:
    members = [facts.state.trials[point["trial"]] for point in facts.document["points"]]
    histories = [(trial, tables.moved(trial)) for trial in members]
    known = [(trial, history) for trial, history in histories if history is not None]
    indices = sorted({round(at) for at in np.linspace(0, len(known) - 1, min(CURVES, len(known)))})
    return [
        {"trial": known[index][0].number, "params": known[index][0].params, "strategy": known[index][0].spec["strategy"], **known[index][1]}
        for index in indices
    ]
