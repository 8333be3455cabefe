"""A teacher's signals as arrays without padding: their shapes, and the signals of a batch out of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from kdsearch.api import LOGITS, ModelInfo, Need, Signal
from kdsearch.data.tokens import Tokens
from kdsearch.errors import PluginError
from kdsearch.training.loop import as_tensor, token_indices

PER_TOKEN = (Signal.HIDDEN, Signal.VALUES)


def from_bottom(need: Need, info: ModelInfo) -> Need:
    """The need with its layer counted from the bottom: the same state has one name.

    Raises:
        PluginError: the teacher has no such layer.
    """
    try:
        return need if need.layer is None else Need(need.signal, need.index(info.layers))
    except IndexError as problem:
        raise PluginError(f"the teacher: {problem}") from problem


def shape(need: Need, tokens: Tokens, info: ModelInfo) -> tuple[int, int]:
    """LOGITS (N, C), POOLED (N, H), HIDDEN and VALUES (T, H); values have their heads side by side."""
    if need.signal is Signal.LOGITS:
        return len(tokens), info.labels
    return len(tokens.ids) if need.signal in PER_TOKEN else len(tokens), info.hidden


class Signals:
    """The signals of a part on a device, gathered for rows.

    Args:
        arrays: shaped as by `shape`, by the need with its layer from the bottom.
        offsets: (N + 1,) of the part's tokens.
        needs: as a strategy declares them.

    Attributes:
        missing: the needs that are not among the arrays.
    """

    def __init__(
        self, arrays: Mapping[Need, np.ndarray], offsets: np.ndarray, needs: Sequence[Need], info: ModelInfo, device: torch.device
    ) -> None:
        self.needs = needs
        self._heads = info.heads
        self._offsets = as_tensor(offsets).to(device)
        found = {need: arrays.get(from_bottom(need, info)) for need in needs}
        self.missing = [need for need, array in found.items() if array is None]
        self._arrays = {need: as_tensor(array).to(device) for need, array in found.items() if array is not None}

    def logits(self, rows: Tensor) -> Tensor:
        """(B, C)."""
        return self._arrays[LOGITS][rows]

    def layered(self, rows: Tensor, width: int) -> dict[tuple[Signal, int], Tensor]:
        """Everything but the logits; token-level signals are padded to `width` tokens with zeros."""
        layered: dict[tuple[Signal, int], Tensor] = {}
        for need, array in self._arrays.items():
            if need.layer is None:
                continue
            if need.signal is Signal.POOLED:
                layered[need.signal, need.layer] = array[rows]
            else:
                mask, indices = token_indices(self._offsets, rows, width, len(array))
                found = array[indices] * mask.unsqueeze(-1)
                if need.signal is Signal.VALUES:
                    found = found.unflatten(-1, (self._heads, -1)).transpose(1, 2)
                layered[need.signal, need.layer] = found
        return layered
