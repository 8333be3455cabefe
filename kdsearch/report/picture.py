"""front.png: the front as one picture, for a README or a slide."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from kdsearch.io.text import compact
from kdsearch.report.facts import Facts
from kdsearch.report.page import payload
from kdsearch.results import front
from kdsearch.results.record import State

_ACCENT, _TEST, _GOOD, _FAINT, _INK, _MUTED = "#1f5fc4", "#b4540a", "#2f7d4a", "#8593a6", "#17202b", "#566274"
_NAMES = {"params": "parameters", "bytes": "bytes of model.safetensors", "flops": "FLOPs of one text"}
_NEAR = 0.12  # below the best student; what is further down is left to the report, so that the front can be seen


def front_png(facts: Facts) -> bytes:
    """1600 x 960 pixels: validation scores; once there are confirmed students, their test scores with intervals, validation faint."""
    drawn = payload(facts)
    teacher, tested = drawn["teacher"], bool(drawn["confirmed"])
    level = teacher["test"] if tested else teacher["validation"]
    figure = Figure(figsize=(10, 6), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _style(axes)
    axes.axhspan(level - 0.01, level, color="#d9efe0", lw=0, zorder=0)
    axes.axhspan(level - 0.02, level - 0.01, color="#ecf7ef", lw=0, zorder=0)
    axes.axhline(level, color=_GOOD, lw=1.5, zorder=1)
    name = f"teacher {level:.4f}; bands: −1, −2 points"  # noqa: RUF001
    axes.plot(_at(teacher["x"]), level, "D", color=_GOOD, ms=9, mec="white", mew=1.2, zorder=5, label=name)
    _students(axes, drawn["trials"], faint=tested)
    _tests(axes, drawn)
    low = _limits(axes, drawn, level)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if _narrow(drawn) else (1.0,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    below = sum(front.quality_of(trial, facts.quality) < low for trial in facts.state.having(State.COMPLETE))
    more = f"; {below:,} student{'s lie' if below > 1 else ' lies'} below this picture" if below else ""
    axes.set_xlabel(f"{_NAMES[facts.cost]} (log scale){more}", color=_MUTED)
    axes.set_ylabel(f"{facts.quality} on {'test' if tested else 'validation'}", color=_MUTED)
    axes.set_title(_plain(f"{facts.document['study']}: students of {facts.teacher_name}"), loc="left", color=_INK, fontsize=13, pad=12)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=4, frameon=False, fontsize=9.5, labelcolor=_MUTED)
    stream = BytesIO()
    figure.savefig(stream, format="png", facecolor="white", metadata={"Software": None})
    return stream.getvalue()


def _students(axes: Any, trials: list[dict[str, Any]], *, faint: bool) -> None:
    """On validation: those on the front joined, the others grey."""
    others = [trial for trial in trials if not trial["front"]]
    members = sorted((trial for trial in trials if trial["front"]), key=lambda trial: (trial["x"], trial["trial"]))
    if others:
        style = {"s": 22, "color": _FAINT, "alpha": 0.3 if faint else 0.45, "lw": 0, "zorder": 2}
        axes.scatter([_at(trial["x"]) for trial in others], [trial["y"] for trial in others], label="other students", **style)
    if members:
        across, up, shade = [_at(trial["x"]) for trial in members], [trial["y"] for trial in members], 0.3 if faint else 1.0
        axes.step(across, up, where="post", color=_ACCENT, lw=2, alpha=shade, zorder=3)
        axes.plot(across, up, "o", color=_ACCENT, ms=8, mec="white", mew=1.5, alpha=shade, zorder=4, label="front, on validation")


def _tests(axes: Any, drawn: dict[str, Any]) -> None:
    confirmed = drawn["confirmed"]
    if not confirmed:
        return
    known = {trial["trial"]: trial for trial in drawn["trials"]}
    across, up = [_at(known[each["trial"]]["x"]) for each in confirmed], [each["test"] for each in confirmed]
    spread = [[each["test"] - each["ci95"][0] for each in confirmed], [each["ci95"][1] - each["test"] for each in confirmed]]
    style = {"fmt": "o", "color": _TEST, "ms": 8, "mec": "white", "mew": 1.2, "elinewidth": 1.8, "capsize": 4, "zorder": 6}
    axes.errorbar(across, up, yerr=spread, label="confirmed, on test, 95 %", **style)


def _limits(axes: Any, drawn: dict[str, Any], level: float) -> float:
    """Set the range of scores; returns its lower end."""
    trials = [trial["y"] for trial in drawn["trials"]]
    scores = [level - 0.025, level, *trials, *(end for each in drawn["confirmed"] for end in each["ci95"])]
    low, high = max(min(scores), min(level, max(trials, default=level)) - _NEAR), max(scores)
    end: float = low - 0.06 * (high - low)
    axes.set_ylim(end, high + 0.08 * (high - low))
    return end


def _style(axes: Any) -> None:
    axes.grid(color="#e9edf2", lw=1)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#b9c3d0")
    axes.tick_params(which="both", length=0, colors=_MUTED, labelsize=10.5)


def _at(cost: float) -> float:
    return max(1.0, cost)  # a student without a matrix product has 0 FLOPs


def _narrow(drawn: dict[str, Any]) -> bool:
    every = [drawn["teacher"]["x"], *(trial["x"] for trial in drawn["trials"])]
    return _at(max(every)) / _at(min(every)) < 300


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # matplotlib reads a pair of them as mathematics
