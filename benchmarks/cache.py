"""One fixed student with the teacher's logits from the cache and with the teacher running in the trial, in turn."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import numpy as np
import torch
import world

from kdsearch.api import Batch, Outputs
from kdsearch.space.spec import TrialSpec
from kdsearch.student import trial
from kdsearch.student.assets import Assets
from kdsearch.student.build import Parts
from kdsearch.student.teaching import Teaching
from kdsearch.student.trial import _Trial
from kdsearch.teacher.encoder import Encoder
from kdsearch.training.loop import Rows

PAIRS = 3
SHARE = 0.25


class Running(Teaching):
    """The teacher's answers, worked out at each step."""

    def __init__(self, parts: Parts) -> None:
        assets, device = parts.assets, parts.device
        super().__init__(parts.strategy, assets, parts.family.info(assets.info), device)
        self._teacher = Encoder(assets.teacher())
        self._texts = Rows(assets.train_set.tokens, assets.train_set.labels, pad=assets.pad, device=device)

    def outputs(self, rows: np.ndarray, batch: Batch) -> Outputs:
        with torch.no_grad():
            return self._teacher(self._texts.batch(rows))


def running(spec: TrialSpec, assets: Assets) -> float:
    """Seconds of training."""
    begun = time.monotonic()
    own = Parts(spec, assets, torch.device("cpu"))
    own.teaching = Running(own)
    return _Trial(own).run(lambda _: None, begun, None).seconds["training"]


def run() -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    assets = world.prepared().assets
    spec = world.spec("transformer", epochs=SHARE)
    trial.run(spec, assets)
    pairs = [(trial.run(spec, assets).seconds["training"], running(spec, assets)) for _ in range(PAIRS)]
    cached, live = median(p[0] for p in pairs), median(p[1] for p in pairs)
    return [{"cached_s": cached, "live_s": live, "times_faster": round(median(p[1] / p[0] for p in pairs), 2)}]
