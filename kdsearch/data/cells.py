"""The cells of a source's columns, checked: texts, class numbers, regression values. A complaint names file, column and row."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from kdsearch.data.sources import Source, missing
from kdsearch.errors import InputError

_DECIMAL = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")


def texts(source: Source, key: str, column: str) -> list[str]:
    cells = source.column(key, column)
    empty = [row for row, cell in enumerate(cells) if missing(cell)]
    if empty:
        raise source.problem(empty, column, "the text is empty")
    odd = [row for row, cell in enumerate(cells) if not isinstance(cell, str)]
    if odd:
        raise source.problem(odd, column, f"{cells[odd[0]]!r} is not text; is {column!r} the text column (data.{key})?")
    return cells


def _labels(source: Source, column: str) -> list[Any]:
    cells = source.column("label", column)
    empty = [row for row, cell in enumerate(cells) if missing(cell)]
    if empty:
        raise source.problem(empty, column, "the label is missing")
    return cells


def values(found: dict[str, Source], column: str) -> dict[str, np.ndarray]:
    read = {}
    for role, source in found.items():
        cells = _labels(source, column)
        numbers = [_float(cell) for cell in cells]
        odd = [row for row, number in enumerate(numbers) if not math.isfinite(number)]
        if odd:
            raise source.problem(
                odd, column, f"{cells[odd[0]]!r} is not a number: a regression needs numbers (task: classification takes names)"
            )
        read[role] = np.array(numbers, np.float32)
        if role != "test" and read[role].min() == read[role].max():
            raise InputError(f"{source.where}: column {column!r}: every label is {cells[0]}: there is nothing to learn")
    return read


def _float(cell: Any) -> float:
    if isinstance(cell, bool):
        return math.nan
    try:
        number = float(cell)
    except (TypeError, ValueError):
        return math.nan
    return number if abs(number) <= float(np.finfo(np.float32).max) else math.inf


def classes(found: dict[str, Source], column: str) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Class names in label order, and for each role the labels as numbers.

    The order is the source's own where it names its classes, else numbers in their order, else names in the alphabet's.
    """
    written = {role: _class_names(source, column) for role, source in found.items()}
    train = found["train"]
    numeric = train.names is None and all(_DECIMAL.fullmatch(name) for name in written["train"])
    if numeric:
        broken = [row for row, name in enumerate(written["train"]) if _whole(name) is None]
        if broken:
            what = f"{written['train'][broken[0]]} is not a class: whole numbers or names are; for decimal labels set task: regression"
            raise train.problem(broken, column, what)
        written = {role: [name if (whole := _whole(name)) is None else whole for name in column_] for role, column_ in written.items()}
    there = set(written["train"])
    if len(there) < 2:
        raise InputError(f"{train.where}: column {column!r}: only one class, {written['train'][0]!r}: two or more are needed")
    names = train.names or tuple(sorted(there, key=int) if numeric else sorted(there))
    number = {name: position for position, name in enumerate(names)}
    for role, source in found.items():
        strange = [row for row, name in enumerate(written[role]) if name not in there]
        if strange:
            known = ", ".join(map(repr, sorted(there)[:10])) + (", …" if len(there) > 10 else "")
            raise source.problem(strange, column, f"the label {written[role][strange[0]]!r} is not in train, which has {known}")
    return names, {role: np.array([number[name] for name in column_], np.int64) for role, column_ in written.items()}


def _class_names(source: Source, column: str) -> list[str]:
    cells = _labels(source, column)
    if source.names is None:
        odd = [row for row, cell in enumerate(cells) if not isinstance(cell, str | bool | int | float)]
        if odd:
            raise source.problem(odd, column, f"{cells[odd[0]]!r} is not a label: text, whole numbers, true or false are")
        return [str(cell).strip() for cell in cells]
    odd = [row for row, cell in enumerate(cells) if not 0 <= cell < len(source.names)]
    if odd:
        what = f"the label is missing ({cells[odd[0]]}, where 0 to {len(source.names) - 1} are classes)"
        raise source.problem(odd, column, what)
    return [source.names[cell] for cell in cells]


def _whole(name: str) -> str | None:
    """'1.0' and '+1' as '1'; None for what is not a whole number."""
    if re.fullmatch(r"[-+]?\d+", name):
        return str(int(name))
    if _DECIMAL.fullmatch(name) and float(name).is_integer():
        return str(int(float(name)))
    return None
