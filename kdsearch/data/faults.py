"""What is wrong with a study's tables, gathered over all of them and reported at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from kdsearch.errors import InputError
from kdsearch.tasks.columns import BadRows, Columns

_SHOWN = 8
_DROP = "correct these rows, or set data.bad_rows: drop to go on without them"

T = TypeVar("T")


class Faults:
    """The errors so far, and the rows that were left out because of them.

    drop: whether the study goes on without rows that cannot be used (`data.bad_rows`).
    """

    def __init__(self, drop: bool) -> None:
        self.dropped: Counter[str] = Counter()  # role -> rows that cannot be used
        self._drop = drop
        self._rows: list[str] = []
        self._others: list[str] = []

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Record an error that leaving out rows would not solve, and go on."""
        try:
            yield
        except InputError as problem:
            self._others.append(str(problem))

    def attempt(self, found: dict[str, Columns], read: Callable[[dict[str, Columns]], T]) -> T | None:
        """The result of read; rows that it refuses are removed from found. None if the error is about no row, or about every one."""
        while True:
            for source in found.values():
                if not source.rows:
                    self._others += [f"{source.where}: no usable row is left"] * self._drop
                    return None
            try:
                return read(found)
            except BadRows as problem:
                role = next(role for role, source in found.items() if source is problem.source)
                self._leave_out(role, len(problem.rows), str(problem))
                found[role] = problem.source.without(problem.rows)
            except InputError as problem:
                if self._drop or not any(self.dropped[role] for role in found):  # otherwise the rows left out may be the cause
                    self._others.append(str(problem))
                return None

    def unreadable(self, found: dict[str, Columns]) -> None:
        """Count the lines of the tables that are not rows."""
        for role, source in found.items():
            for complaint, lines in zip(source.unreadable(), source.broken.values(), strict=True):
                self._leave_out(role, len(lines), complaint)

    def _leave_out(self, role: str, rows: int, complaint: str) -> None:
        self.dropped[role] += rows
        self._rows.append(complaint)

    def refuse(self) -> None:
        """
        Raises:
            InputError: something is wrong that leaving out rows does not solve, or the study does not leave them out.
        """
        lines = list(dict.fromkeys(self._others if self._drop else [*self._rows, *self._others]))
        if not lines:
            return
        if len(lines) > _SHOWN:
            lines = [*lines[:_SHOWN], f"data: and {len(lines) - _SHOWN} more problems"]
        if self._rows and not self._drop:
            lines = [f"{lines[0]}: {_DROP}"] if len(lines) == 1 else [*lines, f"data: {_DROP}"]
        raise InputError("\n".join(lines))
