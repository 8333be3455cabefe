"""A word table that holds, while training, only the rows of tokens that occur.

The others get no gradient and no decay, so leaving them out changes nothing but time: a table's gradient, clipping and optimiser step are dense,
and for a small student they are most of the work.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from kdsearch.data.tokens import Tokens


class CompactTable:
    """An embedding whose weight is cut to the tokens in use, until `restore`."""

    def __init__(self, table: nn.Embedding, used: np.ndarray, pad: int) -> None:
        """used: (U,) ids, ascending, with pad among them."""
        self._table, self._used = table, torch.from_numpy(used)
        self._full = table.weight.detach()
        self._padding = table.padding_idx
        self._places = np.zeros(len(self._full), np.int32)
        self._places[used] = np.arange(len(used), dtype=np.int32)
        self.pad = int(self._places[pad])
        table.weight = nn.Parameter(self._full[self._used].clone())
        if self._padding is not None:
            table.padding_idx = int(self._places[self._padding])

    @classmethod
    def of(cls, table: nn.Embedding | None, parts: Sequence[Tokens], pad: int) -> CompactTable | None:
        """None where there is no such table, or where nearly all of it occurs."""
        if table is None:
            return None
        always = [pad] if table.padding_idx is None else [pad, table.padding_idx]
        seen = np.zeros(table.num_embeddings, bool)
        for part in parts:
            seen[part.ids] = True
        seen[always] = True
        used = np.flatnonzero(seen)
        return cls(table, used, pad) if len(used) < 0.9 * table.num_embeddings else None

    def tokens(self, part: Tokens) -> Tokens:
        """The same rows, in the compact table's numbers."""
        return Tokens(self._places[np.asarray(part.ids)], part.offsets, part.types)

    def restore(self) -> None:
        """Put the trained rows back into the whole table."""
        trained = self._table.weight.detach()
        full = self._full.to(trained.device)
        full[self._used.to(trained.device)] = trained
        self._table.weight = nn.Parameter(full)
        self._table.padding_idx = self._padding
