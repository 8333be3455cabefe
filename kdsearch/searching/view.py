"""What a person sees of a running search: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kdsearch import front
from kdsearch.record import State, TrialRecord
from kdsearch.searching.run import StudyRun


def compact(number: float) -> str:
    """1234567 -> '1.23M'."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= 0.9995 * size:  # 999,999 is 1M, not 1e+03k
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


def times(ratio: float) -> str:
    """7.912 -> '7.91x', 22713.9 -> '22,714x'."""
    return f"{ratio:,.0f}x" if ratio >= 100 else f"{ratio:.3g}x"


def clock(seconds: float) -> str:
    """75 -> '1:15'."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def front_table(document: dict[str, Any], title: str | None = None) -> Table:
    """The front as the table that a person chooses from; once confirmed, test figures take the place of what follows from others."""
    quality = document["objectives"][0]
    confirmed = any(point["confirmed"] for point in document["points"])
    table = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    several = len({point["family"] for point in document["points"]}) > 1
    names: tuple[str, ...] = ("trial", "student", "params", quality, "test, 95 %", "control", "recovered")
    if not confirmed:
        names = ("trial", "family", "strategy", "params", "smaller", "FLOPs", quality, "kept")
    for name in names:
        table.add_column(name, justify="left" if name in ("family", "strategy", "student") else "right", no_wrap=name != "student")
    for row, point in zip(front.rows(document), document["points"], strict=True):
        score, size = f"{row['score']:.4f}", compact(row["params"])
        if confirmed:
            student = f"{row['family']} {row['strategy']}" if several else row["strategy"]
            table.add_row(str(row["trial"]), student, size, score, *_test_cells(point["confirmed"], quality))
        else:
            kept = "" if row["retention"] is None else f"{row['retention']:.1%}"
            sizes = size, times(row["ratio"]), compact(row["flops"])
            table.add_row(str(row["trial"]), row["family"], row["strategy"], *sizes, score, kept)
    teacher = document["teacher"]
    score, size = "" if teacher["validation"].get(quality) is None else f"{teacher['validation'][quality]:.4f}", compact(teacher["params"])
    if confirmed:
        table.add_row("", "teacher", size, score, _with_interval(teacher["test"], quality), style="dim")
    else:
        table.add_row("", "teacher", "", size, "", compact(teacher["flops"]), score, style="dim")
    return table


def _test_cells(confirmed: dict[str, Any] | None, quality: str) -> list[str]:
    """Test score, the control's, the recovered gap; empty where there is none."""
    if not confirmed:
        return ["", "", ""]
    control, share = confirmed["control"], confirmed["recovered"]
    return [
        _with_interval(confirmed["test"], quality),
        "" if control is None else f"{control[quality]:.4f}",
        "" if share is None else f"{share:.0%}",
    ]


def _with_interval(scores: dict[str, Any], quality: str) -> str:
    low, high = scores["ci95"]
    return f"{scores[quality]:.4f} ({low:.3f}-{high:.3f})"


class View:
    """Shows a StudyRun; `changed` is its callback."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.study: StudyRun | None = None
        self._live: Live | None = None
        self._drawn = 0.0
        self._began = time.monotonic()

    def __enter__(self) -> View:
        if self.console.is_terminal:
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *problem: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def changed(self, event: str, trial: int) -> None:
        study = self.study
        if study is None:
            return
        if event not in ("tick", "started", "rung") or (self._live is None and event == "started"):
            self.console.print(self._line(study, event, study.ledger.state.trials[trial]), soft_wrap=True)
        if self._live is not None and (event != "tick" or time.monotonic() - self._drawn > 0.5):
            self._drawn = time.monotonic()
            self._live.update(self._panel(study), refresh=True)

    def _line(self, study: StudyRun, event: str, trial: TrialRecord) -> Text:
        spec = trial.spec
        text = Text(f"[{clock(time.monotonic() - self._began)}] trial {trial.number} ", style="dim" if event == "started" else "")
        text.append(event, style={"complete": "green", "failed": "red", "stopped": "yellow"}.get(event, ""))
        text.append(f"  {spec['family']} + {spec['strategy']}  {compact(trial.params)} params")
        if event == "complete":
            text.append(f"  {study.quality} {trial.scores[study.quality]:.4f}  {trial.seconds['total']:.0f} s")
            if trial.number in {member.number for member in front.members(study.ledger.state, (study.quality, study.cost))}:
                text.append("  on the front", style="bold")
        elif event == "stopped":
            text.append(f"  {study.quality} {trial.facts['score']:.4f} at {trial.facts['share']:.0%}")
        elif event == "failed":
            text.append(f"  {trial.cause}: {trial.message}")
        elif event == "returned":
            text.append(f"  {trial.cause}: it will run again")
        return text

    def _panel(self, study: StudyRun) -> Group:
        counts = study.ledger.state.counts()
        done, total = sum(counts.values()), study.config.search.trials
        head = Table.grid(padding=(0, 2))
        head.add_row(
            Text(study.config.name, style="bold"),
            ProgressBar(total=total, completed=done, width=30),
            f"{done}/{total} trials",
            f"{counts['complete']} complete, {counts['stopped']} stopped, {counts['failed']} failed",
            clock(time.monotonic() - self._began),
        )
        running = Table(header_style="bold", title="running", title_justify="left")
        for name in ("trial", "family", "strategy", "params", "seen", study.quality, "time"):
            running.add_column(name, justify="left" if name in ("family", "strategy") else "right")
        for live in study.live.values():
            trial = study.ledger.state.trials[live.trial]
            seen, score = f"{live.share:.0%}", "" if live.score is None else f"{live.score:.4f}"
            elapsed = clock(time.monotonic() - live.since)
            running.add_row(str(trial.number), trial.spec["family"], trial.spec["strategy"], compact(trial.params), seen, score, elapsed)
        parts: list[Any] = [head, running]
        if study.ledger.state.having(State.COMPLETE):
            parts.append(front_table(front.document(study.ledger.state, study.manifest), "front so far"))
        return Group(*parts)
