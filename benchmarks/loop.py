"""One epoch of a trial on cached logits against a bare PyTorch loop of the same student, batches and optimiser with hard labels only.

`ratio` is to the loop that anybody would write, which trains the whole word table; a trial trains the rows of words that occur. Target: at most 1.05
for each family. `ratio_same_table` is to the same bare loop on the trial's own small table: what is left of the difference is what a trial does
besides (logits looked up, soft loss, clipping, schedule, history). Both have the trial's precision, which is bfloat16 for a transformer where that
is fast. Runs are made in turn; figures are medians.
"""

from __future__ import annotations

from statistics import median
from typing import Any

import numpy as np
import torch
import world

from kdsearch.api import Need, Signal
from kdsearch.space.spec import TrialSpec
from kdsearch.student import trial
from kdsearch.student.build import Parts
from kdsearch.training.loop import Rows, bucketed, groups, mixed

TURNS = 5
SHARES = {"transformer": 0.25, "bilstm": 0.25, "mlp": 1.0}  # of an epoch: a second of steps to time


def bare(spec: TrialSpec, *, whole: bool) -> float:
    """Seconds of the plain loop: no clipping, no schedule. whole: the whole word table is trained."""
    assets = world.prepared().assets
    own = Parts(spec, assets, torch.device("cpu"))
    rows = own.rows
    if whole and own.table is not None:
        own.table.restore()
        rows = Rows(assets.train_set.tokens, assets.train_set.labels, pad=assets.pad, device=torch.device("cpu"))
    optimiser = torch.optim.AdamW(groups(own.module, 5e-4, 0.01), fused=True)
    batches = list(bucketed(rows.lengths, own.recipe.batch_size, np.random.default_rng(spec.seed)))
    batches = batches[: max(1, round(len(batches) * spec.epochs))]
    own.module.train()

    def loop() -> None:
        for chosen in batches:
            batch = rows.batch(chosen)
            with mixed(torch.device("cpu"), own.family.bfloat16):
                loss = torch.nn.functional.cross_entropy(own.module(batch, (Need(Signal.LOGITS),)).logits, batch.labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    return world.seconds(loop)


def run() -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    assets = world.prepared().assets
    rows = []
    for family, share in SHARES.items():
        spec = world.spec(family, epochs=share)
        trial.run(spec, assets)  # warm
        turns = [(trial.run(spec, assets).seconds["training"], bare(spec, whole=True), bare(spec, whole=False)) for _ in range(TURNS)]
        rows.append(
            {
                "family": family,
                "ratio": round(median(ours / theirs for ours, theirs, _ in turns), 3),
                "ratio_same_table": round(median(ours / theirs for ours, _, theirs in turns), 3),
                "trial_s": median(turn[0] for turn in turns),
                "bare_s": median(turn[1] for turn in turns),
                "bare_same_table_s": median(turn[2] for turn in turns),
            }
        )
    return rows
