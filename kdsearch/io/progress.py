"""Progress of the long steps before a search, for a person."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich import progress
from rich.console import Console

Progress = Callable[[str, int, int], None]  # what is being done, units done, units in all

PLAIN_SECONDS = 15.0  # between lines where there is no terminal to draw in


@contextlib.contextmanager
def teacher_progress(console: Console) -> Iterator[Progress]:
    """A callback (what, done, in all) that draws a bar for each step, or writes a line now and then."""
    if not console.is_terminal:
        last: dict[str, float] = {}

        def plain(what: str, done: int, total: int) -> None:
            now = time.monotonic()
            if what not in last or now - last[what] > PLAIN_SECONDS or done >= total:
                last[what] = now
                console.print(f"{what}: {done:,} of {total:,}", highlight=False)

        yield plain
        return
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=console, transient=True) as bars:
        tasks: dict[str, progress.TaskID] = {}

        def draw(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield draw
