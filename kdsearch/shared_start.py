"""A start worth sharing: one super-student, distilled once on all of a study's text, whose leading corners start every smaller shape.

Its shapes are trained together, the weights of a smaller one being the first rows and columns of every matrix of the largest, which begins as the
teacher's first layers with their most important dimensions, heads and neurons in front. At each step the largest and one drawn smaller shape learn
the teacher's answers and its last pooled state (Yu & Huang 2019, Universally Slimmable Networks, arXiv:1903.05134, section 3.2, the sandwich rule
with its smallest drawn as well; Hou et al. 2020, DynaBERT, arXiv:2004.04037, section 2.1, importance in front). It is made once and kept by content:
any trial of any study with this teacher, text and number of epochs starts from it for nothing.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from safetensors.numpy import load as load_arrays
from safetensors.torch import save
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel

from kdsearch import cache, compact, io, losses
from kdsearch.api import Family, ModelInfo, Need, Signal
from kdsearch.assets import Assets, Shipped
from kdsearch.cache import Progress, from_bottom
from kdsearch.errors import InputError
from kdsearch.plugin_classes import dump
from kdsearch.train import NotFinite, Recipe, Rows, as_tensor, default_device, fast_bfloat16, fit, groups, mixed

VERSION = 1  # raise it when the same inputs give another super-student
SEED = 0  # of no study: every search on the same text and teacher shares it
LR = 3e-4  # before the family's lr_scale
NEEDS = (Need(Signal.LOGITS), Need(Signal.POOLED, -1))
_RECORD, _CONFIG, _WEIGHTS = "kdsearch-start.json", "config.json", "model.safetensors"


@dataclass(frozen=True)
class Made:
    """A super-student and what it took."""

    model: Shipped
    digest: str  # of the weights: the same inputs on another machine may give others
    shapes: int  # that were trained together
    params: int
    seconds: float  # when it was made
    reused: bool  # made by an earlier run
    notes: tuple[str, ...] = ()


def sizes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in module.named_parameters()}


def corner(weights: Mapping[str, Tensor], target: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """For each parameter of a smaller shape, the leading rows and columns of the one of that name, as views that pass gradients on.

    Raises:
        KeyError: target has a parameter that weights lack.
    """
    return {name: weights[name][tuple(slice(length) for length in size)] for name, size in target.items()}


def _hollow(shape: Family, teacher: ModelInfo) -> tuple[nn.Module, dict[str, torch.Size]]:
    """A module that has its buffers and lends its weights from elsewhere, and their sizes: many shapes at once would not fit the memory."""
    module = shape.build(teacher).requires_grad_(False)
    kept = sizes(module)
    for parameter in module.parameters():
        parameter.data = parameter.data.new_empty(0)
    return module, kept


def make(assets: Assets, family: type[Family], epochs: float, progress: Progress | None = None) -> Made:
    """The super-student of a family, from the cache if it is there.

    Args:
        assets: with the teacher's logits and last pooled state of all learnt rows.
        epochs: over all learnt rows: training, unlabelled and augmented text, which is split for pieces as the teacher does.

    Raises:
        InputError: the training diverges.
        EnvironmentProblem: the cache cannot be written.
    """
    shapes = family.shared_shapes(assets.info)
    tokens = assets.learnt.tokens
    decided = {
        "version": VERSION,
        "family": family.name,
        "shapes": [dump(shape) for shape in shapes],
        "epochs": epochs,
        "lr": LR,
        "precision": "bfloat16" if fast_bfloat16(default_device()) else "float32",
        "teacher": assets.teacher_fingerprint,
        "text": io.digest(np.asarray(tokens.ids, "<i4").tobytes(), np.asarray(tokens.offsets, "<i8").tobytes()),
        "logits": io.digest(np.ascontiguousarray(assets.learnt.signals[NEEDS[0]], "<f4").tobytes()),
    }
    address = io.digest(io.canonical(decided))
    folder = cache.cache_root() / "starts" / address

    def files() -> dict[str, bytes]:
        begun = time.monotonic()
        model = _distilled(shapes, assets, epochs, progress)
        tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        content = {_CONFIG: model.config.to_json_string(use_diff=False).encode(), _WEIGHTS: save(tensors, metadata={"format": "pt"})}
        digests = {name: hashlib.blake2b(each, digest_size=16).hexdigest() for name, each in content.items()}
        record = {**decided, "seconds": time.monotonic() - begun, "files": digests}
        return {**content, _RECORD: (json.dumps(record, indent=2) + "\n").encode()}

    reused, notes = cache.kept_folder(folder, _RECORD, files, progress, "waiting for another process that makes the same super-student")
    weights = load_arrays((folder / _WEIGHTS).read_bytes())
    record = json.loads((folder / _RECORD).read_text())
    model = Shipped((folder / _CONFIG).read_text(), weights, address)
    params = shapes[0].size(assets.info)
    return Made(model, record["files"][_WEIGHTS], len(shapes), params, float(record["seconds"]), reused, notes)


def _distilled(shapes: tuple[Family, ...], assets: Assets, epochs: float, progress: Progress | None) -> PreTrainedModel:
    device = default_device()
    largest, part = shapes[0], assets.learnt
    recipe = Recipe(lr=LR, epochs=epochs)
    drawn = np.random.default_rng(SEED)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(SEED)
        module = largest.build(assets.info)
        largest.start_from(module, assets.teacher())
        table = compact.CompactTable.of(largest.word_table(module), (part.tokens,), assets.pad)
        tokens, pad = (part.tokens, assets.pad) if table is None else (table.tokens(part.tokens), table.pad)
        rows = Rows(tokens, part.labels, pad=pad, device=device)
        module.to(device).train()
        smaller = [(hollow.to(device).train(), kept) for hollow, kept in (_hollow(shape, assets.info) for shape in shapes[1:])]
        # One map for all widths, of which a student w wide uses the first w columns; nothing keeps it afterwards.
        into = nn.Linear(largest.info(assets.info).hidden, assets.info.hidden, bias=False, device=device)
        logits, pooled = (as_tensor(part.signals[from_bottom(need, assets.info)]).to(device) for need in NEEDS)

        def step(chosen: np.ndarray, _share: float) -> dict[str, Tensor]:
            batch = rows.batch(chosen)
            weights = dict(module.named_parameters())
            with mixed(device):
                answers = [module(batch, NEEDS)]
                if smaller:
                    target, kept = smaller[int(drawn.integers(len(smaller)))]
                    answers.append(functional_call(target, corner(weights, kept), (batch, NEEDS)))
            terms: dict[str, Tensor] = {}
            for name, answer in zip(("largest", "smaller"), answers, strict=False):
                state = answer.layered[Signal.POOLED, -1]
                mapped = state @ into.weight[:, : state.shape[-1]].T
                terms[f"{name} answer"] = losses.soft_loss(answer.logits, logits[batch.example], 1.0)
                terms[f"{name} state"] = losses.scaled_mse(mapped, pooled[batch.example])
            return terms

        told = None if progress is None else lambda done, total: progress("making the shared start", done, total)
        lr = LR * largest.lr_scale
        trained = [*groups(module, lr, recipe.weight_decay), *groups(into, lr, recipe.weight_decay)]
        try:
            fit(step, trained, rows.lengths, recipe, seed=SEED, progress=told)
        except NotFinite as problem:
            raise InputError(f"space.shared_start: its training diverges on this teacher ({problem}): leave it out") from problem
    if table is not None:
        table.restore()
    found = largest.stock(module.to("cpu").eval())
    assert isinstance(found, PreTrainedModel)
    return found


def asking(families: Mapping[str, type[Family]], teacher: ModelInfo) -> list[type[Family]]:
    """Those that have a shared start.

    Raises:
        InputError: none of them.
    """
    found = [family for family in families.values() if family.shared_shapes(teacher)]
    if not found:
        raise InputError(
            f"space.shared_start: no family of {', '.join(families)} has one: add transformer to space.families, or leave it out"
        )
    return found
