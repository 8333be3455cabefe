"""The cells of a text column, checked. A complaint names file, column and row; labels are for `kdsearch.tasks` to read."""

from __future__ import annotations

from kdsearch.tasks.columns import HALF, Columns, halved, missing


def texts(source: Columns, key: str, column: str) -> list[str]:
    cells = source.column(key, column)
    empty = [row for row, cell in enumerate(cells) if missing(cell)]
    if empty:
        raise source.problem(empty, column, "the text is empty")
    odd = [row for row, cell in enumerate(cells) if not isinstance(cell, str)]
    if odd:
        raise source.problem(odd, column, f"{cells[odd[0]]!r} is not text; is {column!r} the text column (data.{key})?")
    half = [row for row, cell in enumerate(cells) if halved(cell)]
    if half:
        raise source.problem(half, column, HALF)
    return cells
