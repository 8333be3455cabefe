"""What a study's rows are like, before anything learns from them: a line each for a dry run, and a note where it should not pass in silence."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from kdsearch import tasks
from kdsearch.data.splits import Data, row_keys
from kdsearch.data.tokens import Table, Tokens, tokenise

SHOWN = 8  # classes, or groups of labels that look alike
COUNTED = 1000  # of the texts as long as max_length, tokenised again to see which were cut
MAJORITY, CUT, CONTRADICTING = 0.8, 0.1, 0.01  # fractions from which a search prints a note


@dataclass(frozen=True)
class Survey:
    lines: tuple[tuple[str, str], ...]  # what, and how it is
    notes: tuple[str, ...]  # printed when a search starts


def survey(data: Data, tokenizer: PreTrainedTokenizerBase, train: Tokens, max_length: int) -> Survey:
    """
    Args:
        tokenizer: the teacher's.
        train: the training rows as it reads them, cut to max_length tokens.
    """
    lines, notes = [], []
    counts = data.class_counts.get("train", {})
    if counts:
        name, most = max(counts.items(), key=lambda each: each[1])
        lines.append(("classes", f"{len(counts)}: {_counted(counts)}; the commonest is {most / len(data.train):.1%} of train"))
        if tasks.of(data.task).exclusive and most >= MAJORITY * len(data.train):
            notes.append(
                f"{most / len(data.train):.0%} of the training rows are {name!r}: search.objectives: [macro_f1, params] tells students "
                "apart that accuracy does not"
            )
    for alike in _alike(counts)[:SHOWN]:
        text = " and ".join(f"{name!r} ({counts[name]:,} rows)" for name in alike)
        lines.append(("labels alike", f"{text}: equal but for letter case or spaces"))
        notes.append(
            f"the labels {text} are equal but for letter case or spaces, and are classes of their own: write them alike if they are one"
        )
    repeats, contradicting, texts = _repeats([data.train, data.validation])
    lines.append(
        ("repeated texts", f"{repeats:,} rows of train and validation repeat another's text; {contradicting:,} texts have several labels")
    )
    if contradicting >= max(1, CONTRADICTING * texts):
        notes.append(
            f"{contradicting:,} of {texts:,} texts stand in several rows with different labels: no student can be right about all of them"
        )
    for what, why, lost in (
        ("dropped", "the same text stands in a later one of unlabelled, train, validation, test", data.dropped),
        ("left out", "they cannot be used (data.bad_rows: drop)", data.bad_rows),
    ):
        if any(lost.values()):
            text = f"{', '.join(f'{count:,} rows of {role}' for role, count in lost.items() if count)}: {why}"
            lines.append((what, text))
            notes.append(f"{what}: {text}")
    cut = _cut(data.train, tokenizer, train, max_length)
    lines.append(("long texts", f"{cut:.1%} of the training texts are longer than data.max_length: {max_length} tokens, and are cut"))
    if cut >= CUT:
        notes.append(f"{cut:.0%} of the training texts are longer than data.max_length: {max_length} tokens, and are cut there")
    return Survey(tuple(lines), tuple(notes))


def _counted(counts: Mapping[str, int]) -> str:
    names = sorted(counts, key=lambda name: -counts[name])
    shown = ", ".join(f"{name} {counts[name]:,}" for name in names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown}, …, {names[-1]} {counts[names[-1]]:,}"


def _alike(names: Iterable[str]) -> list[list[str]]:
    """Names that a reader takes for one: equal but for letter case, spaces, and characters that nobody sees."""
    groups = defaultdict(list)
    for name in names:
        plain = unicodedata.normalize("NFKC", name).casefold()
        groups["".join(letter for letter in plain if not letter.isspace() and unicodedata.category(letter) != "Cf")].append(name)
    return [group for group in groups.values() if len(group) > 1]


def _repeats(tables: Sequence[Table]) -> tuple[int, int, int]:
    """(rows that repeat the text of an earlier one, texts with several labels, different texts)"""
    found: dict[str, set[bytes]] = defaultdict(set)
    for table in tables:
        for key, label in zip(row_keys(table), table.labels, strict=True):
            found[key].add(label.tobytes())
    return sum(map(len, tables)) - len(found), sum(len(labels) > 1 for labels in found.values()), len(found)


def _cut(table: Table, tokenizer: PreTrainedTokenizerBase, tokens: Tokens, max_length: int) -> float:
    """The fraction of rows that are longer than max_length tokens."""
    full = np.flatnonzero(tokens.lengths == max_length)
    some = full[:: len(full) // COUNTED + 1]
    if not len(some):
        return 0.0
    longer = tokenise(table.rows(some), tokenizer, max_length + 1).lengths > max_length
    return float(longer.mean() * len(full) / len(table))
