"""The unit of a regression's predictions while a student trains, and the way back into the labels' unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from kdsearch.api import LOGITS, Batch


@dataclass(frozen=True)
class Unit:
    """The unit of a regression's predictions while a student trains: standardised, so that one learning rate fits labels of any unit.

    Attributes:
        mean, sd: of the labels, in their own unit. 0 and 1, the default, leave everything as it is.
    """

    mean: float = 0.0
    sd: float = 1.0

    def standard(self, values: np.ndarray) -> np.ndarray:
        """From the labels' unit: (values - mean) / sd, float32."""
        return values if self == OWN else ((np.asarray(values, np.float64) - self.mean) / self.sd).astype(np.float32)

    def own(self, values: np.ndarray) -> np.ndarray:
        """Back into the labels' unit: values * sd + mean, float32."""
        return values if self == OWN else (np.asarray(values, np.float64) * self.sd + self.mean).astype(np.float32)

    def fold(self, output: nn.Linear | Rescalable) -> None:
        """Change the layer, which predicted standardised labels, to predict in the labels' unit."""
        _rescale(output, self.sd, self.mean)

    def unfold(self, output: nn.Linear | Rescalable) -> None:
        """Change the layer, which predicted in the labels' unit, to predict standardised labels."""
        _rescale(output, 1 / self.sd, -self.mean / self.sd)


OWN = Unit()  # the labels' own


@runtime_checkable
class Rescalable(Protocol):
    """A module whose logits do not come from one linear map, but which can scale and shift them."""

    def rescale(self, scale: float, shift: float) -> None:
        """Change the module in place, so that it returns scale * logits + shift."""


def _rescale(output: nn.Linear | Rescalable, scale: float, shift: float) -> None:
    if not isinstance(output, nn.Linear):
        output.rescale(scale, shift)
        return
    with torch.no_grad():
        output.weight.mul_(scale)
        output.bias.mul_(scale).add_(shift)


def output_map(module: nn.Module, batch: Batch) -> nn.Linear | Rescalable | None:
    """Where a student's logits come from: its last linear map with a bias that gives just them; else the module itself if it is Rescalable.

    batch: any rows that the module can read; the map whose output equals their logits is the one.
    """
    outputs: dict[nn.Linear, Tensor] = {}

    def keep(linear: nn.Linear, _inputs: object, output: Tensor) -> None:
        outputs[linear] = output

    maps = [part for part in module.modules() if isinstance(part, nn.Linear) and part.bias is not None]
    hooks = [part.register_forward_hook(keep) for part in maps]
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            logits = module(batch, (LOGITS,)).logits
    finally:
        module.train(training)
        for hook in hooks:
            hook.remove()
    found = [linear for linear in maps if linear in outputs and torch.equal(outputs[linear].float(), logits)]
    if found:
        return found[-1]
    return module if isinstance(module, Rescalable) else None
