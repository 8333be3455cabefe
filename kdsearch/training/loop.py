"""One plain training loop: length-bucketed batches from arrays, AdamW, linear warm-up and decay, clipping."""

from __future__ import annotations

import functools
import operator
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from kdsearch.api import Batch
from kdsearch.data.tokens import Tokens

POOL = 32  # batches that are sorted by length together: near-equal lengths, and still a shuffle


class NotFinite(ArithmeticError):
    """The loss or a model's logits became NaN or infinite."""


class OutOfTime(TimeoutError):
    """The deadline passed."""


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fast_bfloat16(device: torch.device) -> bool:
    """Whether a transformer's matrix products take much less time there in bfloat16 than in float32: on CUDA, and on a CPU with AVX-512 BF16 or
    AMX (measured on one: a 6-layer teacher's forward pass 3 times, a step of a 2-layer student 1.6 times as fast)."""
    if device.type != "cpu":
        return device.type == "cuda"
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def mixed(device: torch.device, wanted: bool = True) -> torch.autocast:
    """Mixed precision, where it is wanted and fast: products in bfloat16, weights and optimiser in float32 (Micikevicius et al. 2018,
    arXiv:1710.03740; bfloat16 needs no scaling of the loss)."""
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted and fast_bfloat16(device))


@dataclass(frozen=True)
class Recipe:
    """Training hyperparameters. The schedule has the same shape for every trial, so that trials can be compared at rungs."""

    lr: float  # peak of the schedule
    epochs: float = 3.0
    batch_size: int = 32
    weight_decay: float = 0.01
    warmup: float = 0.1  # fraction of all steps
    clip: float = 1.0  # global norm of all trained parameters, projections included
    unlabelled: float = 0.0  # fraction of the study's unlabelled text that each epoch adds to the labelled rows
    augmented: float = 0.0  # the same for augmented text
    dropout: float | None = None  # of the student; None: its family's own
    label_smoothing: float = 0.0  # of the labels' own loss
    layer_decay: float = 1.0  # factor on the learning rate for each layer further down; 1: the same everywhere
    patience: float | None = None  # fraction of the budget without a better validation score after which training ends; None: never


class Rows:
    """Token rows and labels on a device, made into padded batches without any Python per row."""

    def __init__(
        self, tokens: Tokens, labels: np.ndarray, *, pad: int, device: torch.device, label_smoothing: float = 0.0, task: str = ""
    ) -> None:
        self.device, self.pad, self.label_smoothing, self.task = device, pad, label_smoothing, task
        self.lengths = tokens.lengths
        self._ids = as_tensor(tokens.ids).to(device)
        self._offsets = as_tensor(np.asarray(tokens.offsets)).to(device)
        self._types = None if tokens.types is None else as_tensor(tokens.types).to(device)
        self._labels = as_tensor(labels).to(device)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def batch(self, rows: np.ndarray) -> Batch:
        """rows: (B,) int64 row numbers within this set."""
        chosen = torch.from_numpy(rows).to(self.device)
        mask, indices = token_indices(self._offsets, chosen, int(self.lengths[rows].max()), len(self._ids))
        ids = torch.where(mask, self._ids[indices].long(), self.pad)
        types = None if self._types is None else torch.where(mask, self._types[indices].long(), 0)
        return Batch(ids, mask, self._labels[chosen], chosen, types, self.label_smoothing, self.task)


def token_indices(offsets: Tensor, rows: Tensor, width: int, total: int) -> tuple[Tensor, Tensor]:
    """Where the tokens of rows are in a flat array: mask (B, width) bool and indices (B, width) int64; those of padding are valid too."""
    starts = offsets[rows].unsqueeze(1)
    lengths = offsets[rows + 1].unsqueeze(1) - starts
    steps = torch.arange(width, device=offsets.device).unsqueeze(0)
    return steps < lengths, (starts + steps).clamp_max(total - 1)


def as_tensor(array: np.ndarray) -> Tensor:
    """A view of an array that may be read-only (a memory map, Ray's object store): callers must not write into it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.asarray(array))


def bucketed(lengths: np.ndarray, batch_size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """One epoch of shuffled batches (row numbers) whose rows have near-equal lengths."""
    order = rng.permutation(len(lengths))
    batches: list[np.ndarray] = []
    for start in range(0, len(order), POOL * batch_size):
        pool = order[start : start + POOL * batch_size]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches.extend(pool[at : at + batch_size] for at in range(0, len(pool), batch_size))
    for index in rng.permutation(len(batches)):
        yield batches[index]


def in_order(lengths: np.ndarray, tokens_per_batch: int = 4096, *, most: int | None = None) -> Iterator[np.ndarray]:
    """Every row once, longest first, in batches of about equal work and at most `most` rows: for passes without gradients."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, tokens_per_batch // max(1, int(lengths[order[start]])))
        size = size if most is None else min(size, max(1, most))
        yield order[start : start + size]
        start += size


def groups(module: nn.Module, lr: float, weight_decay: float, layer_decay: float = 1.0) -> list[dict[str, object]]:
    """Optimiser groups: matrices decay; vectors and embedding tables do not (decay would move the rows of words that never occur).

    layer_decay: the learning rate is lr * layer_decay ** (layers above); the head has none above it (Howard & Ruder 2018, arXiv:1801.06146,
        section 3.2, "discriminative fine-tuning").
    """
    tables = {id(layer.weight) for layer in module.modules() if isinstance(layer, nn.Embedding | nn.EmbeddingBag)}
    above = layers_above(module) if layer_decay != 1.0 else {}
    found: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for parameter in module.parameters():
        if parameter.requires_grad:
            decays = parameter.ndim >= 2 and id(parameter) not in tables
            found.setdefault((above.get(id(parameter), 0), decays), []).append(parameter)
    return [
        {"params": parameters, "lr": lr * layer_decay**depth, "weight_decay": weight_decay if decays else 0.0}
        for (depth, decays), parameters in found.items()
    ]


def layers_above(module: nn.Module) -> dict[int, int]:
    """id of a parameter -> how many layers are above it: a transformer's layers one by one; below them the embedding tables and what is
    between the first table and the lowest layer, such as their norm and projection. Without layers, the tables below the rest."""
    parts = list(module.modules())
    longest = max((part for part in parts if isinstance(part, nn.ModuleList)), key=len, default=None)
    layers = [] if longest is None else list(longest)
    above = {id(weight): len(layers) - at for at, layer in enumerate(layers) for weight in layer.parameters()}
    tables = [at for at, part in enumerate(parts) if isinstance(part, nn.Embedding | nn.EmbeddingBag)]
    lowest = [parts[at] for at in tables]
    if tables and longest is not None:
        lowest += parts[tables[0] : next(at for at, part in enumerate(parts) if part is longest)]
    for part in lowest:
        for weight in part.parameters(recurse=False):
            above[id(weight)] = len(layers) + 1
    return above


def set_dropout(module: nn.Module, probability: float | None) -> None:
    """Set the probability of every dropout of a module; None leaves them as they are."""
    for part in module.modules():
        if probability is not None and isinstance(part, nn.Dropout):
            part.p = probability


def clip(parameters: Sequence[nn.Parameter], most: float) -> None:
    """Scale the gradients so that their norm together is at most `most`.

    As nn.utils.clip_grad_norm_, which on a CPU multiplies a whole word table by one in every step that needs no clipping.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if norm.device.type != "cpu" or float(norm) > most:  # on a GPU, reading the norm would wait for the device
        nn.utils.clip_grads_with_norm_(parameters, most, norm)


def steps_per_epoch(rows: int, batch_size: int) -> int:
    return -(-rows // batch_size)


def fit(
    step: Callable[[np.ndarray, float], dict[str, Tensor]],
    parameter_groups: Sequence[dict[str, object]],
    lengths: np.ndarray,
    recipe: Recipe,
    *,
    seed: int,
    rungs: Sequence[float] = (),
    on_rung: Callable[[Sequence[float]], bool] | None = None,
    deadline: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, float]]:
    """Train until the recipe's budget is used.

    Args:
        step: (row numbers of a batch, fraction of the budget already used) -> loss terms, whose sum is minimised.
        parameter_groups: for AdamW; each group's "lr" is the peak of its schedule.
        lengths: (N,) tokens of each row.
        seed: of the order of the rows alone; torch's generator is the caller's.
        rungs: fractions of the planned examples, ascending. on_rung is called after a step that passes some, unless it is the last, with those that
            it passes; it returns True to stop here.
        deadline: time.monotonic() after which to give up.
        progress: called with (steps done, steps in all) after each step.

    Returns:
        The mean of each loss term over each twentieth of the budget, with "share" and "seconds" beside them.

    Raises:
        NotFinite: the loss is NaN or infinite.
        OutOfTime: the deadline passed.
    """
    a_pass = steps_per_epoch(len(lengths), recipe.batch_size)
    total = max(1, round(a_pass * recipe.epochs))
    warm = max(1, round(total * recipe.warmup))
    kept = [group for group in parameter_groups if group["params"]]
    trained = [parameter for group in kept for parameter in group["params"]]  # type: ignore[attr-defined]
    optimiser = torch.optim.AdamW(kept, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda at: (at + 1) / warm if at < warm else (total - at) / max(1, total - warm)
    )
    rng = np.random.default_rng(seed)
    waiting = list(rungs)
    history: list[dict[str, float]] = []
    sums: dict[str, Tensor] = {}
    counted = 0
    begun = time.monotonic()
    epoch = bucketed(lengths, recipe.batch_size, rng)
    for at in range(total):
        if deadline is not None and time.monotonic() > deadline:
            raise OutOfTime
        rows = next(epoch, None)
        if rows is None:
            epoch = bucketed(lengths, recipe.batch_size, rng)
            rows = next(epoch)
        terms = step(rows, at / total)
        loss = functools.reduce(operator.add, terms.values())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        clip(trained, recipe.clip)
        optimiser.step()
        schedule.step()
        for name, value in terms.items():
            sums[name] = sums[name] + value.detach() if name in sums else value.detach()
        counted += 1
        if (at + 1) * 20 // total > at * 20 // total:
            means = {name: float(value) / counted for name, value in sums.items()}
            if not np.isfinite(sum(means.values())):
                raise NotFinite(f"the loss is not finite after {at + 1} of {total} steps")
            history.append({"share": (at + 1) / total, "seconds": time.monotonic() - begun, **means})
            sums, counted = {}, 0
        if progress is not None:
            progress(at + 1, total)
        passed = [rung for rung in waiting if rung <= (at + 1) / total]
        waiting = waiting[len(passed) :]
        if passed and at + 1 < total and on_rung is not None and on_rung(passed):
            return history
    return history
