"""A model's logits of many rows, without gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from kdsearch.api import LOGITS
from kdsearch.training.loop import Rows, in_order


@contextlib.contextmanager
def _float32_is_float32() -> Iterator[None]:
    """Unasked, cuDNN rounds what convolutions and recurrent layers read in float32 to TF32, which has 10 bits after the point."""
    cudnn: Any = torch.backends.cudnn
    kinds = (cudnn.conv, cudnn.rnn)
    before = [kind.fp32_precision for kind in kinds]
    try:
        for kind in kinds:
            kind.fp32_precision = "ieee"
        yield
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision


def predict(module: nn.Module, rows: Rows, most: int | None = None) -> np.ndarray:
    """Logits (N, C) float32 of every row, in eval mode, in full precision or under the autocast that the caller has set; the module's mode is put
    back."""
    training = module.training
    module.eval()
    found: np.ndarray | None = None
    with torch.inference_mode(), _float32_is_float32():
        for chosen in in_order(rows.lengths, most=most):
            logits = module(rows.batch(chosen), (LOGITS,)).logits.float().cpu().numpy()
            if found is None:
                found = np.empty((len(rows), logits.shape[-1]), np.float32)
            found[chosen] = logits
    module.train(training)
    if found is None:
        raise ValueError("no rows to predict")
    return found
