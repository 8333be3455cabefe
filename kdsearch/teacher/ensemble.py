"""Several teachers of one study: each is checked by the gate and cached on its own; students learn from the mean of their predictions.

The first is the main one: students start from it, have its tokenizer, and learn from its states. The others only give logits; they may have any
type, size and tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from kdsearch import losses, tasks
from kdsearch.api import LOGITS, Need
from kdsearch.config.schema import StudyConfig
from kdsearch.data.splits import Data
from kdsearch.data.tokens import Table, Tokens, tokenise
from kdsearch.errors import InputError
from kdsearch.io.progress import Progress
from kdsearch.teacher import resolve
from kdsearch.teacher.resolve import Plan, Teacher

POINT = 0.01  # of the study's quality: a note is printed if the mean is worse than the best teacher by more


@dataclass(frozen=True)
class Other:
    """A teacher beside the main one, as known from its files, and the study's rows as its own tokens."""

    plan: Plan
    train_set: dict[str, Tokens]  # by name, as the main teacher's
    validation: Tokens


def inspect(config: StudyConfig, data: Data, tables: Mapping[str, Table]) -> tuple[Other, ...]:
    """The study's teachers beside the main one; () where there is one.

    Args:
        tables: the training set, by part.

    Raises:
        InputError: as resolve.inspect, naming teacher[1].
    """
    length = config.data.max_length
    plans = [resolve.inspect(config, data, index) for index in range(1, len(config.teachers))]
    return tuple(
        Other(
            plan,
            {name: tokenise(table, plan.tokenizer, length) for name, table in tables.items()},
            tokenise(data.validation, plan.tokenizer, length),
        )
        for plan in plans
    )


def resolve_all(
    config: StudyConfig, data: Data, plans: Sequence[Plan], progress: Progress | None = None, *, needs: Sequence[Need]
) -> tuple[Teacher, ...]:
    """Load or fine-tune each teacher and let each pass its gate, in their order.

    needs: the main one's signals that the validation rows need.

    Raises:
        InputError: as resolve.resolve; or two of them are one and the same.
    """
    found: list[Teacher] = []
    for index, plan in enumerate(plans):
        asked = needs if index == 0 else (LOGITS,)
        one = resolve.resolve(config, data, numbered(progress, index, len(plans)), plan=plan, needs=asked)
        for before in found:
            if (one.fingerprint, one.tokenizer_hash) == (before.fingerprint, before.tokenizer_hash):
                raise InputError(f"{one.source}: the same weights as {before.source}: leave one of them out")
        found.append(one)
    return tuple(found)


def mean(logits: Sequence[np.ndarray] | np.ndarray, task: str = "") -> np.ndarray:
    """(N, C) float32 of K teachers' logits, (N, C) each: the logits of the mean of their probabilities, or the mean of their numbers.

    One teacher's are returned unchanged. task: as `losses.mixture`.
    """
    if len(logits) == 1:
        return np.asarray(logits[0])
    each = torch.from_numpy(np.stack([np.asarray(one, np.float64) for one in logits]))
    even = torch.full((len(each),), 1 / len(each), dtype=torch.float64)
    found: np.ndarray = losses.mixture(each, even, task=task).float().numpy()
    return found


def advice(logits: np.ndarray, labels: np.ndarray, task: str, quality: str, keys: Sequence[str]) -> str | None:
    """A note if the mean is worse on validation than one of the teachers alone by more than a point; None otherwise.

    Args:
        logits: (K, N, C) on the validation rows.
        labels: (N,) of them.
        quality: the study's.
        keys: of the teachers in the study file.
    """

    def score(indices: Sequence[int]) -> float:
        return tasks.of(task).scores(mean(logits[list(indices)], task), labels)[quality]

    every = range(len(logits))
    whole, alone = score(every), [score([index]) for index in every]
    best = int(np.argmax(alone))
    if alone[best] - whole <= POINT + 1e-9:
        return None
    without = [score([index for index in every if index != out]) for out in every]
    out = int(np.argmax(without))
    return (
        f"the mean of the teachers is worse than {keys[best]} alone: {quality} {whole:.4f} on validation instead of {alone[best]:.4f}; "
        f"leave {keys[out]} out: without it, it is {without[out]:.4f}"
    )


def respelt(table: Table, theirs: PreTrainedTokenizerBase, own: PreTrainedTokenizerBase) -> Table:
    """Augmented text for another tokenizer: the mask token that it was made with is replaced by the other one's, or removed."""
    old, new = theirs.mask_token, own.mask_token or ""
    if not old or old == new:
        return table

    def spelt(texts: list[str]) -> list[str]:
        return [" ".join(word for word in (new if each == old else each for each in text.split()) if word) for text in texts]

    return replace(table, texts=spelt(table.texts), pairs=None if table.pairs is None else spelt(table.pairs))


def numbered(progress: Progress | None, index: int, count: int) -> Progress | None:
    if progress is None or count == 1:
        return progress
    report = progress
    return lambda what, done, total: report(f"teacher {index + 1} of {count}: {what}", done, total)
