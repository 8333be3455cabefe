"""The columns of a table as they were read, and complaints about their cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kdsearch.errors import InputError, did_you_mean


@dataclass(frozen=True)
class Columns:
    """Columns of one table, unchecked."""

    where: str  # key and file, for messages
    row_one: str  # what counts as row 1
    available: tuple[str, ...]  # every column that the table has
    columns: dict[str, list[Any]]  # the wanted ones among them
    rows: int
    names: tuple[str, ...] | None = None  # class names, where the table has them: its labels are positions in them

    def column(self, key: str, name: str) -> list[Any]:
        """
        Raises:
            InputError: there is no such column; lists what there is.
        """
        if name not in self.columns:
            near = did_you_mean(name, self.available) if self.available else ""
            there = ", ".join(map(repr, self.available[:20])) or "none"
            near = near if "mean" in near else ""
            raise InputError(f"{self.where}: no column {name!r} (data.{key}); columns: {there}.{near}")
        return self.columns[name]

    def problem(self, rows: Sequence[int], column: str, what: str) -> InputError:
        """The complaint about a column's cells, told at the first of rows (counted from 0)."""
        more = f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""
        return InputError(f"{self.where}: row {rows[0] + 1} (row 1 is {self.row_one}), column {column!r}: {what}{more}")


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
    return cells
