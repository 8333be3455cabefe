"""csv and tsv: a file's text in, rows of fields out, every field as the text it is. Lines that are not rows are reported, never repaired."""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Sequence

from kdsearch.errors import InputError
from kdsearch.tasks.columns import Columns

SEPARATORS = {".csv": ",;\t|", ".tsv": "\t,;|"}  # the ending's own first; spreadsheets of much of Europe write semicolons
_CLOSE = 'close it, or double it where it is a letter ("")'
_OPEN = f"a quotation mark opens a text here and none closes it: {_CLOSE}"
_TORN = f"a quotation mark opens a text here, and the next one does not end it: {_CLOSE}"
_SWALLOWS = f"a quotation mark opens a text here and closes rows below, which would all be one text: {_CLOSE}"
_MANY = 20  # lines of one text without labels, each like a row: beyond, they are rows
_MOST = 100  # stray quotation marks: beyond, they are no slips
_NUMBER = re.compile(r"\s*[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?\s*")

_Record = tuple[int, int, list[str]]  # its first line and the one after its last, counted from 0, and its fields


def read(text: str, where: str, ending: str, wanted: Sequence[str], label: str | None) -> Columns:
    """
    Args:
        ending: .csv or .tsv; another separator is taken where it alone gives the wanted columns.
        label: the column of the labels, by which rows that a stray quotation mark swallowed are known.

    Raises:
        InputError: only blank lines, a broken header, or quotation marks all over.
    """
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    end = re.search(r"\r\n?|\n", text)
    if end is not None and end[0] != "\r":  # rows end in line feeds: a bare carriage return belongs to its text. Texts have no NUL
        text = re.sub(r"\r(?!\n)", "\0", text)
    lines = list(io.StringIO(text, newline=""))
    separator = max(SEPARATORS[ending], key=lambda each: len(set(wanted).intersection(_header(lines, each))))
    stray: dict[int, str] = {}
    records = _records(lines, separator, label, stray, where)
    if not records:
        raise InputError(f"{where}: the file is empty (only blank lines)")
    if separator == "\t" and (stray or len(records) < len(_plain(lines))):
        # stray quotes in lines of equally many tabs: this file's quotes are letters, as in GLUE's
        records, stray = _plain(lines) or records, {} if _plain(lines) else stray
    return _columns(records, stray, separator, where, wanted)


def _columns(records: list[_Record], stray: dict[int, str], separator: str, where: str, wanted: Sequence[str]) -> Columns:
    header = records[0][2]
    long = f"more fields than the header's {len(header)}: quote texts that hold {separator!r}, and end no row with one"
    broken: dict[str, list[int]] = defaultdict(list)
    rows, numbers = [], []
    every = sorted([*((begun, fields) for begun, _, fields in records[1:]), *((line, None) for line in stray)], key=lambda each: each[0])
    for number, (begun, fields) in enumerate(every, start=1):
        if fields is None or len(fields) > len(header):
            broken[stray.get(begun, long)].append(begun + 1)
        elif [field.lstrip("\ufeff") for field in fields] == header:
            broken["the header again: delete this line"].append(begun + 1)
        else:
            rows.append(fields)
            numbers.append(number)
    columns = {}
    for name in wanted:
        if name in header:
            place = header.index(name)
            columns[name] = [fields[place].replace("\0", "\r") if place < len(fields) else "" for fields in rows]
    return Columns(where, "the first below the header", tuple(header), columns, len(rows), numbers=numbers, broken=broken)


def _header(lines: list[str], separator: str) -> list[str]:
    try:
        return next((fields for fields in csv.reader(lines, delimiter=separator, strict=True) if not _blank(fields)), [])
    except csv.Error:
        return []


def _records(lines: list[str], separator: str, label: str | None, stray: dict[int, str], where: str) -> list[_Record]:
    """The header and the rows. A line whose quotation mark is astray goes to stray with what is wrong; the lines after it are read on their own."""
    lines = list(lines)
    while True:
        found: list[_Record] = []
        begun = 0
        while begun < len(lines):
            first = begun
            reader = csv.reader((lines[place] for place in range(first, len(lines))), delimiter=separator, strict=True)
            try:
                for fields in reader:
                    if not _blank(fields):
                        found.append((begun, first + reader.line_num, fields))
                    begun = first + reader.line_num
            except csv.Error as problem:
                what = _OPEN if "end of data" in str(problem) else _TORN
                if not found or len(stray) == _MOST:
                    raise InputError(f"{where}, line {begun + 1}: {what}{'; so in 100 more lines' if found else ''}") from problem
                stray[begun], lines[begun] = what, "\n"
        swallowing = _swallowing(lines, found, separator, label)
        if not swallowing:
            return found
        for line in swallowing:
            stray[line], lines[line] = _SWALLOWS, "\n"


def _swallowing(lines: list[str], records: list[_Record], separator: str, label: str | None) -> list[int]:
    """The first lines of records of several lines, each of which is a row by itself: as many fields as the header, and a label of the table."""
    header = records[0][2] if records else []
    place = header.index(label) if label in header else None
    known = {fields[place].strip() for begun, end, fields in records[1:] if end - begun == 1 and place is not None and place < len(fields)}
    numeric = all(map(_NUMBER.fullmatch, known))

    def row(line: str) -> bool:
        fields = line.rstrip("\r\n").split(separator)
        if len(fields) != len(header) or len(header) == 1:
            return False
        return place is None or fields[place].strip() in known or (numeric and _NUMBER.fullmatch(fields[place]) is not None)

    fewest = 2 if known else _MANY
    return [begun for begun, end, _ in records[1:] if end - begun >= fewest and all(map(row, lines[begun:end]))]


def _plain(lines: list[str]) -> list[_Record]:
    """Every line cut at its tabs, where all have as many."""
    found = [(number, number + 1, line.rstrip("\r\n").split("\t")) for number, line in enumerate(lines) if line.strip()]
    return found if len({len(fields) for *_, fields in found}) == 1 else []


def _blank(fields: list[str]) -> bool:
    return not fields or (len(fields) == 1 and fields[0].isspace())
