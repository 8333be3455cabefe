"""What a person sees of a running search: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kdsearch.hpo.study_run import StudyRun
from kdsearch.io.text import clock, compact
from kdsearch.results import front
from kdsearch.results.record import State, TrialRecord
from kdsearch.results.table import front_table


class View:
    """Shows a StudyRun; `changed` is its callback."""

    def __init__(self, console: Console) -> None:
        self.console = console
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

    def changed(self, study: StudyRun, event: str, trial: int) -> None:
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
            seen, score = (f"{trial.rungs[-1].share:.0%}", f"{trial.rungs[-1].score:.4f}") if trial.rungs else ("0%", "")
            elapsed = clock(time.monotonic() - live.since)
            running.add_row(str(trial.number), trial.spec["family"], trial.spec["strategy"], compact(trial.params), seen, score, elapsed)
        parts: list[Any] = [head, running]
        if study.ledger.state.having(State.COMPLETE):
            parts.append(front_table(front.document(study.ledger.state, study.manifest), "front so far"))
        return Group(*parts)
