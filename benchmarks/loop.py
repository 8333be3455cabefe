"""One epoch of a trial on cached logits against a bare PyTorch loop of the same student, batches and optimiser with hard labels only.

Pairs are run in turn; the figure is the median of the pairs' ratios. Target: at most 1.05.
"""

from __future__ import annotations

from statistics import median
from typing import Any

import numpy as np
import torch
import world

from kdsearch import trial
from kdsearch.api import Need, Signal
from kdsearch.train import Rows, bucketed, groups
from kdsearch.trial import _Trial

PAIRS = 5
SHARE = 0.25  # of an epoch: enough steps to time


def bare(spec: trial.TrialSpec) -> float:
    """Seconds of the loop that anybody would write: the whole word table, no clipping, no schedule."""
    assets = world.prepared().assets
    own = _Trial(spec, assets, torch.device("cpu"))
    if own.table is not None:
        own.table.restore()
    rows = Rows(assets.learnt.tokens, assets.learnt.labels, pad=assets.pad, device=torch.device("cpu"))
    optimiser = torch.optim.AdamW(groups(own.module, 5e-4, 0.01), fused=True)
    batches = list(bucketed(rows.lengths, own.recipe.batch_size, np.random.default_rng(0)))
    batches = batches[: round(len(batches) * spec.epochs)]
    own.module.train()

    def loop() -> None:
        for chosen in batches:
            batch = rows.batch(chosen)
            loss = torch.nn.functional.cross_entropy(own.module(batch, (Need(Signal.LOGITS),)).logits, batch.labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    return world.seconds(loop)


def run() -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    assets = world.prepared().assets
    rows = []
    for family in world.STUDENTS:
        spec = world.spec(family, epochs=SHARE)
        trial.run(spec, assets)  # warm
        pairs = []
        for _ in range(PAIRS):
            ours = trial.run(spec, assets)
            pairs.append((ours.seconds["training"], bare(spec)))
        ratio = median(one / other for one, other in pairs)
        rows.append(
            {"family": family, "ratio": round(ratio, 3), "trial_s": median(p[0] for p in pairs), "bare_s": median(p[1] for p in pairs)}
        )
    return rows
