"""Texts and labels in; three roles of rows, label names and fingerprints out.

The test rows are sealed: `load` counts them and lets go of them, `open_test` alone returns them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kdsearch import tasks
from kdsearch.config.schema import PACKAGED
from kdsearch.data import cells, sources
from kdsearch.data.faults import Faults
from kdsearch.data.tokens import Table
from kdsearch.errors import InputError
from kdsearch.io.files import digest
from kdsearch.tasks.columns import Columns, missing

if TYPE_CHECKING:
    from kdsearch.config.schema import StudyConfig

REPEATED = 0.1  # of the training rows: if more repeat the text of another, validation and test are carved by text


@dataclass(frozen=True)
class Data:
    """What a search may see of a study's rows."""

    task: str
    labels: tuple[str, ...]  # names of the labels, in their order; () where the task has none
    train: Table
    validation: Table
    unlabelled: Table | None
    test_rows: int  # how many rows are sealed
    dropped: dict[str, int]  # role -> rows dropped as duplicates of a role that is judged by: train, validation, unlabelled
    carved: tuple[str, ...]  # the roles that were carved out of train, of validation and test
    class_counts: dict[str, dict[str, int]]  # role (train, validation) -> name -> rows; {} where labels have no names
    fingerprint: str  # of all rows as they were read, unlabelled ones too; whatever the split
    split_fingerprint: str  # of which labelled row is where, in order, the sealed ones included
    judged: frozenset[str] = frozenset()  # row_keys of the validation rows and of the sealed ones: never trained on
    bad_rows: dict[str, int] = field(default_factory=dict)  # role, as its file has it -> rows dropped because they cannot be used


def load(config: StudyConfig) -> Data:
    """Read a study's rows and split them. The same files, seed and settings give the same rows in the same order.

    A missing validation or test is carved out of train by `data.split_seed`, stratified by class: 15 % of the rows each, but of large sets
    only 1,250 rows or 5 %, whichever is more. Where more than a tenth of the rows repeat a text, each text counts once. Rows whose text (case
    and spacing aside) also stands in a later role of train, validation, test are dropped, as is unlabelled text that stands in any of them.

    Raises:
        InputError: files, columns or rows are not what the study says; names key, file, column and row.
        EnvironmentProblem: the preset's package is not installed.
    """
    return _read(config)[0]


def open_test(config: StudyConfig) -> Table:
    """The sealed test rows, for confirming a finished search and for nothing before.

    Raises:
        InputError, EnvironmentProblem: as `load`.
    """
    return _read(config)[1]


def _read(config: StudyConfig) -> tuple[Data, Table]:
    tables, names, bad_rows = _tables(config)
    fingerprint = digest(config.task, *names, *chain.from_iterable(_content(table) for table in tables.values()))
    unlabelled = tables.pop("unlabelled", None)
    carved = tuple(role for role in ("validation", "test") if role not in tables)
    if carved:
        tables = _carve(tables, carved, names, config)
    train, validation, test = tables["train"], tables["validation"], tables["test"]

    judged = set(row_keys(test))
    validation, lost_validation = _without(validation, judged)
    judged |= set(row_keys(validation))
    whole = train
    train, lost_train = _without(whole, judged)
    for role, table in (("train", train), ("validation", validation)):
        if not len(table):
            raise InputError(
                f"data: every {role} row is also in {'test' if role == 'validation' else 'validation or test'}: nothing is left"
            )
    dropped = {"train": lost_train, "validation": lost_validation}
    _refuse_lost_classes(whole, train, names, config.task, "data: dropping the training rows that are also in validation or test")
    train = _sample(train, names, config)
    if unlabelled is not None:
        unlabelled, dropped["unlabelled"] = _without(unlabelled, judged | set(row_keys(train)))
        if not len(unlabelled):
            raise InputError("data.unlabelled: every row is also in train, validation or test: leave it out")
        most = config.data.max_unlabelled
        if most is not None and most < len(unlabelled):
            unlabelled = unlabelled.rows(np.sort(np.random.default_rng(config.data.split_seed).permutation(len(unlabelled))[:most]))
    counts = {
        role: {name: int(tasks.of(config.task).holds(table.labels, number).sum()) for number, name in enumerate(names)}
        for role, table in (("train", train), ("validation", validation))
        if names
    }
    where = chain.from_iterable((role, *_content(table)) for role, table in (("train", train), ("validation", validation), ("test", test)))
    data = Data(
        config.task,
        names,
        train,
        validation,
        unlabelled,
        len(test),
        dropped,
        carved,
        counts,
        fingerprint,
        digest(config.task, *names, *where),
        frozenset(judged),
        bad_rows,
    )
    return data, test


def _content(table: Table) -> Iterable[bytes | str]:
    return chain(table.texts, table.pairs or (), (table.labels.tobytes(),))


def _tables(config: StudyConfig) -> tuple[dict[str, Table], tuple[str, ...], dict[str, int]]:
    """The rows as they stand in their files: role -> table, the unlabelled ones last; the class names; role -> rows that cannot be used."""
    data, task, faults = config.data, tasks.of(config.task), Faults(config.data.bad_rows == "drop")
    wanted = {key: name for key in ("text", "text_pair", "label") if (name := getattr(data, key)) is not None}
    found = _sources(config, list(wanted.values()), faults)
    faults.unreadable(found)
    for role, source in found.items():
        alone = {role: source}
        for key, name in wanted.items():
            if (role, key) == ("unlabelled", "label"):
                continue
            with faults.collected():
                source.column(key, name)
            if key != "label":
                faults.attempt(alone, partial(_texts, key=key, column=name))
        found[role] = alone[role]
    labelled = {role: source for role, source in found.items() if role != "unlabelled"}
    read = faults.attempt(labelled, partial(task.read, column=data.label)) if "train" in labelled else None
    faults.refuse()
    assert read is not None
    names, labels = read
    tables = {}
    for role, source in (found | labelled).items():
        pairs = None if data.text_pair is None else source.columns[data.text_pair]
        tables[role] = Table(source.columns[data.text], pairs, labels[role] if role in labels else task.unlabelled(source.rows))
    return tables, names, dict(faults.dropped)


def _texts(found: Mapping[str, Columns], key: str, column: str) -> list[str]:
    (source,) = found.values()
    return cells.texts(source, key, column)


def _sources(config: StudyConfig, wanted: Sequence[str], faults: Faults) -> dict[str, Columns]:
    """What can be read of a study's tables: role -> columns, the unlabelled ones last."""
    data = config.data
    if data.preset is not None:
        found = sources.read_preset(data.preset, wanted)
    elif data.hub is not None:
        found = sources.read_hub(data.hub, wanted, data.label)
        found = {role: source for role, source in found.items() if role == "train" or not _without_labels(source, data.label)}
    else:
        assert data.files is not None
        found = {}
        for role in ("train", "validation", "test"):
            if (path := getattr(data.files, role)) is not None:
                with faults.collected():
                    found[role] = sources.read_file(Path(path), f"data.files.{role}", wanted, data.label)
    if data.unlabelled in PACKAGED:
        if data.text_pair is not None:
            raise InputError(
                f"data.unlabelled: {data.unlabelled} has single texts, and data.text_pair asks for pairs: give a file of pairs"
            )
        found["unlabelled"] = sources.read_packaged(data.unlabelled, data.text)
    elif data.unlabelled is not None:
        with faults.collected():
            found["unlabelled"] = sources.read_file(Path(data.unlabelled), "data.unlabelled", wanted[:-1])
    return found


def _without_labels(source: Columns, label: str) -> bool:
    """Public test splits often come with -1 for every label."""
    return all(missing(cell) or cell == -1 for cell in source.columns.get(label, ()))


def _carved_rows(rows: int, classes: int) -> int:
    """15 % of the rows; of large sets 1,250 or 5 %, whichever is more: enough for a score within two points."""
    return max(min(max(1250, math.ceil(0.05 * rows)), math.ceil(0.15 * rows)), classes, 2)


def _carve(tables: dict[str, Table], roles: Sequence[str], names: tuple[str, ...], config: StudyConfig) -> dict[str, Table]:
    from sklearn.model_selection import train_test_split

    train = tables["train"]
    left = _once(train)
    size = _carved_rows(len(left), len(names))
    wanted = " and ".join(roles)
    if len(left) - size * len(roles) < size:
        raise InputError(
            f"data: {len(left)} {'rows' if len(left) == len(train) else 'different texts'} are too few to carve {wanted} out of train: "
            "give these as files of their own, or more rows"
        )
    counts = {name: int(tasks.of(config.task).holds(train.labels[left], number).sum()) for number, name in enumerate(names)}
    rare = [name for name, count in counts.items() if 0 < count <= len(roles)]
    if rare:
        more = f" (and so few have {', '.join(map(repr, rare[1:9]))}{', …' if len(rare) > 9 else ''})" if len(rare) > 1 else ""
        raise InputError(
            f"data: the label {rare[0]!r} has only {counts[rare[0]]} row{'s'[: counts[rare[0]] > 1]}: "
            f"too few to carve {wanted} out of train{more}"
        )
    carved: dict[str, np.ndarray] = {}
    for role in reversed(roles):
        strata = tasks.of(config.task).strata(train.labels[left])
        if strata is not None and np.unique(strata, return_counts=True)[1].min() < 2:
            raise InputError(f"data: some labels have too few rows to carve {wanted} out of train: give these as files of their own")
        left, taken = train_test_split(left, test_size=size, random_state=config.data.split_seed, stratify=strata)
        carved[role] = np.sort(taken)
    rest = train.rows(np.setdiff1d(np.arange(len(train)), np.concatenate(list(carved.values()))))
    _refuse_lost_classes(train, rest, names, config.task, f"data: carving {wanted}")
    return {**tables, **{role: train.rows(taken) for role, taken in carved.items()}, "train": rest}


def _once(train: Table) -> np.ndarray:
    """The rows to carve from. Where many texts stand in several rows, each in its first one: copies on both sides would all be dropped again."""
    first: dict[str, int] = {}
    for row, key in enumerate(row_keys(train)):
        first.setdefault(key, row)
    return np.array(list(first.values())) if len(first) < (1 - REPEATED) * len(train) else np.arange(len(train))


def _refuse_lost_classes(before: Table, after: Table, names: tuple[str, ...], task: str, cause: str) -> None:
    holds = tasks.of(task).holds
    lost = [name for number, name in enumerate(names) if holds(before.labels, number).any() and not holds(after.labels, number).any()]
    if lost:
        raise InputError(f"{cause} leaves train without a row of the label {lost[0]!r}: give more rows of it")


def _sample(train: Table, names: tuple[str, ...], config: StudyConfig) -> Table:
    """At most `data.max_train` rows, each class in proportion, in their order."""
    from sklearn.model_selection import train_test_split

    size = config.data.max_train
    if size is None or size >= len(train):
        return train
    strata = tasks.of(config.task).strata(train.labels)
    if strata is not None:
        present, counts = np.unique(strata, return_counts=True)
        if size < len(present):
            raise InputError(f"data.max_train: {size} rows cannot hold {len(present)} classes")
        if counts.min() < 2:
            row = np.flatnonzero(strata == present[counts.argmin()])
            label = tasks.of(config.task).readable(train.labels[row], names)[0]
            raise InputError(f"data.max_train: the label {label!r} has a single row: give more rows of it")
        # leaving out fewer rows than there are classes cannot be shared out
        strata = strata if len(train) - size >= len(present) else None
    taken = train_test_split(np.arange(len(train)), train_size=size, random_state=config.data.split_seed, stratify=strata)[0]
    sample = train.rows(np.sort(taken))
    _refuse_lost_classes(train, sample, names, config.task, f"data.max_train: {size}")
    return sample


def row_key(text: str, pair: str | None = None) -> str:
    """Equal where two rows are the same text, letter case and spacing aside. A digest: it can leave the seal of a test row, the text cannot."""
    return digest(*(" ".join(part.split()).casefold() for part in (text, pair) if part is not None))


def row_keys(table: Table) -> list[str]:
    if table.pairs is None:
        return [row_key(text) for text in table.texts]
    return [row_key(text, pair) for text, pair in zip(table.texts, table.pairs, strict=True)]


def _without(table: Table, keys: set[str]) -> tuple[Table, int]:
    kept = np.array([position for position, key in enumerate(row_keys(table)) if key not in keys], np.int64)
    return (table, 0) if len(kept) == len(table) else (table.rows(kept), len(table) - len(kept))
