"""The word table cut to the tokens in use."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from kdsearch.data.tokens import Tokens
from kdsearch.training.compact_table import CompactTable


def rows(*ids: int) -> Tokens:
    return Tokens(np.array(ids, np.int32), np.array([0, len(ids)], np.int64), None)


def test_the_rows_in_use_are_kept_in_order_and_put_back() -> None:
    table = nn.Embedding(10, 2, padding_idx=0)
    before = table.weight.detach().clone()
    compact = CompactTable.of(table, [rows(7, 3), rows(3, 9)], pad=0)
    assert compact is not None
    assert table.weight.shape == (4, 2)  # 0, 3, 7, 9
    assert compact.tokens(rows(7, 3, 9)).ids.tolist() == [2, 1, 3]
    assert compact.pad == 0
    with torch.no_grad():
        table.weight[2] = 5.0
    compact.restore()
    changed = before.clone()
    changed[7] = 5.0
    assert torch.equal(table.weight, changed)


def test_a_table_in_full_use_is_left_alone() -> None:
    assert CompactTable.of(nn.Embedding(3, 2), [rows(0, 1, 2)], pad=0) is None


def test_training_through_it_is_training_the_whole_table() -> None:
    def trained(cut: bool) -> torch.Tensor:
        torch.manual_seed(0)
        table, head = nn.Embedding(50, 4, padding_idx=0), nn.Linear(4, 2)
        part = rows(3, 5, 3, 0)
        compact = CompactTable.of(table, [part], pad=0) if cut else None
        ids = torch.from_numpy((compact.tokens(part) if compact else part).ids).long()
        optimiser = torch.optim.AdamW([{"params": table.parameters(), "weight_decay": 0.0}, {"params": head.parameters()}], lr=0.1)
        for _ in range(5):
            loss = head(table(ids).mean(0)).logsumexp(0)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_([*table.parameters(), *head.parameters()], 0.5)
            optimiser.step()
        if compact:
            compact.restore()
        return table.weight.detach()

    torch.testing.assert_close(trained(True), trained(False), atol=1e-6, rtol=0)
