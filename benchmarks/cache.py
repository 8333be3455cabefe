"""One fixed student with the teacher's logits from the cache and with the teacher running in the trial, in turn."""

from __future__ import annotations

from dataclasses import replace
from statistics import median
from typing import Any

import torch
import world

from kdsearch import trial

PAIRS = 3
SHARE = 0.25


def run() -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    assets = world.prepared().assets
    live = replace(assets, learnt=replace(assets.learnt, signals={}))
    spec = world.spec("transformer", epochs=SHARE)
    trial.run(spec, assets)
    pairs = [(trial.run(spec, assets).seconds["training"], trial.run(spec, live).seconds["training"]) for _ in range(PAIRS)]
    cached, running = median(p[0] for p in pairs), median(p[1] for p in pairs)
    return [{"cached_s": cached, "live_s": running, "times_faster": round(median(p[1] / p[0] for p in pairs), 2)}]
