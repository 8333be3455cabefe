"""What a trial needs on any node: token arrays, labels, teacher signals, teacher weights. Plain arrays and JSON, no paths.

Everything large is a numpy array, so that Ray's object store hands it to each worker without a copy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from kdsearch.api import Batch, ModelInfo, Need, Outputs, Signal
from kdsearch.cache import from_bottom
from kdsearch.data import Tokens
from kdsearch.train import Rows, as_tensor, token_places


@dataclass(frozen=True)
class Part:
    """One role of rows, with what the teacher said of them."""

    tokens: Tokens
    labels: np.ndarray  # (N,) int64 (-100 unlabelled) or float32 (NaN unlabelled)
    first: int  # the study's row number of row 0
    signals: Mapping[Need, np.ndarray] = field(default_factory=dict)  # per row (N, C), (N, H), or per token (T, H); layers from the bottom


@dataclass(frozen=True)
class Assets:
    task: str
    labels: tuple[str, ...]  # class names in the order of the logits; () for a regression
    info: ModelInfo  # the teacher's
    max_length: int
    pad: int  # padding id
    train: Part
    validation: Part
    unlabelled: Part | None
    teacher_config: str  # JSON
    teacher_weights: Mapping[str, np.ndarray]
    teacher_fingerprint: str
    tokenizer: Mapping[str, bytes]  # file name -> content
    plugins: list[dict[str, Any]]  # as Plugins.shipped() gives them

    def teacher(self) -> PreTrainedModel:
        """The teacher on the CPU, in eval mode, without gradients, its weights shared with these arrays: never write into them.

        Kept for the life of the process, because every trial of a study asks for the same one.
        """
        found = _teachers.get(self.teacher_fingerprint)
        if found is None:
            _teachers.clear()
            values = json.loads(self.teacher_config)
            config = AutoConfig.for_model(**values)
            with torch.device("meta"):
                found = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
            found.load_state_dict({name: as_tensor(array) for name, array in self.teacher_weights.items()}, assign=True)
            _fill_buffers(found, config)
            found = found.eval().requires_grad_(False)
            _teachers[self.teacher_fingerprint] = found
        return found


_teachers: dict[str, PreTrainedModel] = {}


def _fill_buffers(model: PreTrainedModel, config: Any) -> None:
    """Buffers are not in the weights' file (position ids): take them from a one-layer model with the same tables, built for real."""
    small = AutoConfig.for_model(**{**config.to_dict(), "num_hidden_layers": 1, "vocab_size": max(2, (config.pad_token_id or 0) + 1)})
    built = AutoModelForSequenceClassification.from_config(small, dtype=torch.float32)
    buffers = dict(built.named_buffers())
    for name, value in list(model.named_buffers()):
        if value.is_meta:
            holder, _, leaf = name.rpartition(".")
            model.get_submodule(holder).register_buffer(leaf, buffers[name].clone(), persistent=False)


class Signals:
    """The cached signals of a part on a device, gathered for a batch."""

    def __init__(self, part: Part, needs: tuple[Need, ...], teacher: ModelInfo, device: torch.device) -> None:
        self._heads = teacher.heads
        self._offsets = as_tensor(np.asarray(part.tokens.offsets)).to(device)
        self._columns: dict[Need, Tensor] = {}
        self.missing: list[Need] = []
        for need in needs:
            column = part.signals.get(from_bottom(need, teacher))
            if column is None:
                self.missing.append(need)
            else:
                self._columns[need] = as_tensor(column).to(device)
        self._first = part.first

    def gather(self, batch: Batch) -> Outputs:
        """The teacher's Outputs for a batch of this part's rows."""
        return Outputs(self._columns[Need(Signal.LOGITS)][batch.example - self._first], self.layered(batch))

    def layered(self, batch: Batch) -> dict[tuple[Signal, int], Tensor]:
        """Everything but the logits."""
        rows = batch.example - self._first
        layered: dict[tuple[Signal, int], Tensor] = {}
        for need, column in self._columns.items():
            if need.layer is None:
                continue
            if need.signal is Signal.POOLED:
                layered[need.signal, need.layer] = column[rows]
            else:
                mask, places = token_places(self._offsets, rows, batch.ids.shape[1], len(column))
                found = column[places] * mask.unsqueeze(-1)
                if need.signal is Signal.VALUES:
                    found = found.unflatten(-1, (self._heads, -1)).transpose(1, 2)
                layered[need.signal, need.layer] = found
        return layered


def rows_of(part: Part, pad: int, device: torch.device) -> Rows:
    return Rows(part.tokens, part.labels, pad=pad, device=device, first=part.first)
