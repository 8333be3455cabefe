"""What models read: rows of text with their labels, and the same rows as token ids without padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TOKENISED_AT_ONCE = 1000  # rows


@dataclass(frozen=True)
class Tokens:
    """Rows of token ids without padding, end to end."""

    ids: np.ndarray  # (T,) int32
    offsets: np.ndarray  # (N + 1,) int64: row n is ids[offsets[n]:offsets[n + 1]]
    types: np.ndarray | None  # (T,) int8, None for single texts

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> np.ndarray:
        """(N,) int64 tokens of each row."""
        return np.diff(self.offsets)

    def rows(self, rows: np.ndarray) -> Tokens:
        """These rows alone, in this order. rows: (M,) integer row numbers."""
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        places = np.repeat(self.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Tokens(np.asarray(self.ids)[places], offsets, None if self.types is None else np.asarray(self.types)[places])


def joined(parts: Sequence[Tokens]) -> Tokens:
    """Rows of several parts, end to end; either all of pairs or none."""
    if len(parts) == 1:
        return parts[0]
    starts = np.cumsum([0, *(len(part.ids) for part in parts)])
    offsets = [part.offsets[:-1] + start for part, start in zip(parts, starts[:-1], strict=True)]
    types = None if parts[0].types is None else np.concatenate([part.types for part in parts if part.types is not None])
    return Tokens(np.concatenate([part.ids for part in parts]), np.concatenate([*offsets, starts[-1:]]).astype(np.int64), types)


@dataclass(frozen=True)
class Table:
    """N rows of text with their labels."""

    texts: list[str]
    pairs: list[str] | None  # the second text of each row, None for single texts
    labels: np.ndarray  # (N, ...) as the task has them

    def __len__(self) -> int:
        return len(self.texts)

    def rows(self, positions: np.ndarray) -> Table:
        """The rows at positions, (M,) int64, in their order."""
        pairs = None if self.pairs is None else [self.pairs[position] for position in positions]
        return Table([self.texts[position] for position in positions], pairs, self.labels[positions])


def tokenise(table: Table, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Tokens:
    """Token ids of every row, cut to max_length tokens (special ones included; the longer text of a pair first), unpadded.

    Types are there for pairs alone, and only for a tokenizer whose model reads them.
    """
    typed = table.pairs is not None and "token_type_ids" in tokenizer.model_input_names
    ids, types, lengths = [], [], [np.zeros(1, np.int64)]
    for start in range(0, len(table), _TOKENISED_AT_ONCE):
        rows = slice(start, start + _TOKENISED_AT_ONCE)
        encoded = tokenizer(
            table.texts[rows],
            None if table.pairs is None else table.pairs[rows],
            truncation="longest_first",
            max_length=max_length,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=typed,
        )
        lengths.append(np.array([len(row) for row in encoded["input_ids"]], np.int64))
        ids.append(np.fromiter(chain.from_iterable(encoded["input_ids"]), np.int32))
        if typed:
            types.append(np.fromiter(chain.from_iterable(encoded["token_type_ids"]), np.int8))
    offsets = np.cumsum(np.concatenate(lengths))
    empty = [np.zeros(0, np.int32)]
    return Tokens(np.concatenate(ids or empty), offsets, np.concatenate(types or empty).astype(np.int8) if typed else None)
