"""The columns of a table as they were read, and errors about their cells."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kdsearch.errors import InputError, near

_SHOWN = 4  # rows that an error names besides the first
HALF = "half a character (an emoji that was cut in two?)"
_HALF = re.compile(r"[\ud800-\udfff]")


class BadRows(InputError):
    """Rows that cannot be used, all for one reason; the others of their table still may be."""

    def __init__(self, message: str, source: Columns, rows: Sequence[int]) -> None:
        super().__init__(message)
        self.source, self.rows = source, rows  # rows: counted from 0


@dataclass(frozen=True)
class Columns:
    """Columns of one table, unchecked."""

    where: str  # key and file, for messages
    row_one: str  # what counts as row 1
    available: tuple[str, ...]  # every column that the table has
    columns: dict[str, list[Any]]  # the wanted ones among them
    rows: int
    names: tuple[str, ...] | None = None  # class names, where the table has them: its labels are positions in them
    numbers: Sequence[int] | None = None  # of each row, as the file counts it; None: 1, 2, 3, ...
    broken: Mapping[str, list[int]] = field(default_factory=dict)  # what is wrong -> lines of the file that are no rows for it

    def column(self, key: str, name: str) -> list[Any]:
        """
        Raises:
            InputError: there is no such column; lists what there is.
        """
        if name not in self.columns:
            there = ", ".join(map(repr, self.available[:20])) or "none"
            hint = near(name, self.available) or (" Texts without labels go under data.unlabelled." if key == "label" else "")
            raise InputError(f"{self.where}: no column {name!r} (data.{key}); columns: {there}.{hint}")
        if self.available.count(name) > 1:
            raise InputError(f"{self.where}: {self.available.count(name)} columns are named {name!r} (data.{key}): rename the others")
        return self.columns[name]

    def without(self, rows: Sequence[int]) -> Columns:
        """The table without these rows, counted from 0; the others keep their numbers."""
        left = sorted(set(range(self.rows)).difference(rows))
        numbers = range(1, self.rows + 1) if self.numbers is None else self.numbers
        columns = {name: [cells[row] for row in left] for name, cells in self.columns.items()}
        return replace(self, columns=columns, rows=len(left), numbers=[numbers[row] for row in left])

    def problem(self, rows: Sequence[int], column: str, what: str) -> BadRows:
        """The error about a column's cells, located at the first of rows (counted from 0)."""
        first, *more = [row + 1 if self.numbers is None else self.numbers[row] for row in rows]
        return BadRows(f"{self.where}: row {first} (row 1 is {self.row_one}), column {column!r}: {what}{_also('row', more)}", self, rows)

    def unreadable(self) -> list[str]:
        """The errors about lines that are not rows, one of each kind."""
        return [f"{self.where}, line {first}: {what}{_also('line', more)}" for what, (first, *more) in self.broken.items()]


def _also(what: str, numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:_SHOWN])) + (", …" if len(numbers) > _SHOWN else "")
    return f" (and {len(numbers)} more: {what}{'s'[: len(numbers) > 1]} {shown})" if numbers else ""


def halved(cell: Any) -> bool:
    """Text with half of a character, as of an emoji that was cut in two: no tokenizer or file takes it."""
    return isinstance(cell, str) and _HALF.search(cell) is not None


def missing(cell: Any) -> bool:
    """None, NaN, pandas' missing values and blank text."""
    if isinstance(cell, str):
        return not cell.strip()
    return cell is None or type(cell).__name__ in ("NAType", "NaTType") or (isinstance(cell, float) and math.isnan(cell))


def labels(source: Columns, column: str) -> list[Any]:
    """The cells of the label column.

    Raises:
        InputError: one is missing.
    """
    cells = source.column("label", column)
    empty = [row for row, cell in enumerate(cells) if missing(cell)]
    if empty:
        raise source.problem(empty, column, "the label is missing")
    half = [row for row, cell in enumerate(cells) if halved(cell)]
    if half:
        raise source.problem(half, column, HALF)
    return cells
