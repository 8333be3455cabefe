"""Students started from the teacher: which of its layers, and which slice of each.

Everything is worked out on the teacher's weights under BERT's own names ("embeddings.word_embeddings.weight",
"encoder.layer.0.attention.self.query.weight", ...), whatever the teacher's model type calls them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

_DISTILBERT = {
    "attention.q_lin": "attention.self.query",
    "attention.k_lin": "attention.self.key",
    "attention.v_lin": "attention.self.value",
    "attention.out_lin": "attention.output.dense",
    "sa_layer_norm": "attention.output.LayerNorm",
    "ffn.lin1": "intermediate.dense",
    "ffn.lin2": "output.dense",
    "output_layer_norm": "output.LayerNorm",
}


def bert_names(teacher: PreTrainedModel) -> dict[str, Tensor]:
    """The teacher's weights under BERT's names; DistilBERT's missing token types come as zeros.

    Raises:
        KeyError: the teacher's model type is not one of bert, roberta, xlm-roberta, camembert, electra, distilbert.
    """
    kind = teacher.config.model_type
    source = {name: tensor.detach() for name, tensor in teacher.state_dict().items()}
    if kind == "bert":
        return {name.removeprefix("bert."): tensor for name, tensor in source.items()}
    weights: dict[str, Tensor] = {}
    if kind == "distilbert":
        for name, tensor in source.items():
            name = name.removeprefix("distilbert.").replace("transformer.layer.", "encoder.layer.")
            for theirs, berts in _DISTILBERT.items():
                name = name.replace(theirs, berts)
            weights[name.replace("pre_classifier.", "pooler.dense.")] = tensor
        weights["embeddings.token_type_embeddings.weight"] = torch.zeros(1, teacher.config.hidden_size)
        return weights
    if kind not in ("roberta", "xlm-roberta", "camembert", "electra"):
        raise KeyError(kind)
    for name, tensor in source.items():
        name = name.removeprefix("roberta.").removeprefix("electra.")
        name = name.replace("classifier.dense.", "pooler.dense.").replace("classifier.out_proj.", "classifier.")
        if name == "embeddings.position_embeddings.weight" and kind != "electra":
            tensor = tensor[teacher.config.pad_token_id + 1 :]
        weights[name] = tensor
    return weights


def layer_map(student_layers: int, teacher_layers: int, kind: str) -> list[int]:
    """Which teacher layer each student layer goes with, 1-based, for any two depths: state 0 (the embedding) goes with state 0.

    first: 1, 2, 3, ... (the top one repeated when the student is deeper) · last: ..., L - 1, L · uniform: evenly spaced, ending at L.

    Raises:
        ValueError: another kind.
    """
    if kind == "first":
        return [min(layer, teacher_layers) for layer in range(1, student_layers + 1)]
    if kind == "last":
        return [max(1, teacher_layers - student_layers + layer) for layer in range(1, student_layers + 1)]
    if kind == "uniform":
        return [max(1, round(layer * teacher_layers / student_layers)) for layer in range(1, student_layers + 1)]
    raise ValueError(f"no layer map {kind!r}: first, uniform or last")


def state_pairs(student_layers: int, teacher_layers: int, kind: str) -> list[tuple[int, int]]:
    """(student's state, teacher's state) for any two depths: the embeddings, then each of the student's layers with the one that `layer_map`
    of this kind gives it."""
    return [(0, 0), *enumerate(layer_map(student_layers, teacher_layers, kind), start=1)]


def top_directions(table: Tensor, width: int) -> Tensor:
    """The right singular vectors of a table (V, H) with the largest singular values: (H, width), by way of the H x H Gram matrix."""
    _, vectors = torch.linalg.eigh(table.T @ table)
    return vectors[:, -width:].flip(-1)


@dataclass(frozen=True)
class Slice:
    """Which of the teacher's residual dimensions a narrower student keeps: the same in every layer, or the stream would be torn."""

    keep: Tensor  # (H student,) int64, ascending

    @classmethod
    def by_importance(cls, weights: Mapping[str, Tensor], layers: int, width: int) -> Slice:
        """The dimensions that the layers read most: squared norms of the columns of query, key, value and intermediate, times the squared
        gain of the layer norm before them, summed over layers (first-order magnitude importance; needs no data)."""
        gain = weights["embeddings.LayerNorm.weight"].square()
        importance = torch.zeros_like(gain)
        for layer in range(layers):
            at = f"encoder.layer.{layer}."
            for name in ("query", "key", "value"):
                importance += weights[f"{at}attention.self.{name}.weight"].square().sum(0) * gain
            gain = weights[f"{at}attention.output.LayerNorm.weight"].square()
            importance += weights[f"{at}intermediate.dense.weight"].square().sum(0) * gain
            gain = weights[f"{at}output.LayerNorm.weight"].square()
        return cls(_highest(importance, width).sort().values)


def _highest(importance: Tensor, count: int) -> Tensor:
    """Where the highest values stand, the highest first; of equal ones the first."""
    return importance.argsort(descending=True, stable=True)[:count]


def _attention_rows(weights: Mapping[str, Tensor], at: str, teacher_heads: int, heads: int, size: int) -> tuple[Tensor, Tensor]:
    """Rows of query and key, and rows of value (columns of the output), that the student's heads take over: (heads * size,) each.

    Heads in order of ||W_o W_v||; inside a head the dimensions in order of the product of the norms that meet there. When the student has
    more (smaller) heads than the teacher, a teacher head is split among several.
    """
    query, key, value = (
        weights[f"{at}attention.self.{name}.weight"].unflatten(0, (teacher_heads, -1)) for name in ("query", "key", "value")
    )
    output = weights[f"{at}attention.output.dense.weight"].unflatten(1, (teacher_heads, -1))  # (H, A, d)
    teacher_size = query.shape[1]
    by_qk = query.norm(dim=2) * key.norm(dim=2)  # (A, d)
    by_vo = value.norm(dim=2) * output.norm(dim=0)
    strength = torch.stack([(output[:, head] @ value[head]).norm() for head in range(teacher_heads)])
    best = _highest(strength, max(1, min(heads, teacher_heads))).tolist()
    rows_qk, rows_vo = [], []
    for head in range(heads):
        source, part = best[head % len(best)], head // len(best)
        chosen = slice(part * size, (part + 1) * size)
        rows_qk.append(source * teacher_size + by_qk[source].argsort(descending=True)[chosen].sort().values)
        rows_vo.append(source * teacher_size + by_vo[source].argsort(descending=True)[chosen].sort().values)
    return torch.cat(rows_qk), torch.cat(rows_vo)


def _fill(target: nn.Parameter | Tensor, source: Tensor) -> None:
    with torch.no_grad():
        target.copy_(source)


def widened(weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The weights with embedding tables of the teacher's full width, where an ELECTRA's are narrower and a projection follows them.

    With e the narrow embedding, c it less its mean, P the projection, g and b the layer norm's gain and bias: the teacher's first state is
    P (g c / std(c) + b) + p. The tables become those of P (g c), the bias P b + p; a layer norm over them divides by their own spread, and the
    gain gives back what it is in units of std(c), on average over the words: uniform, because P has mixed the dimensions already.
    """
    if "embeddings_project.weight" not in weights:
        return weights
    found = {name: tensor for name, tensor in weights.items() if not name.startswith("embeddings_project.")}
    project, shift = weights["embeddings_project.weight"], weights["embeddings_project.bias"]
    gain, bias = weights["embeddings.LayerNorm.weight"], weights["embeddings.LayerNorm.bias"]
    for table in ("word", "position", "token_type"):
        name = f"embeddings.{table}_embeddings.weight"
        found[name] = (weights[name] - weights[name].mean(1, keepdim=True)) @ (project * gain).T
    narrow, wide = (each["embeddings.word_embeddings.weight"].std(1, correction=0) for each in (weights, found))
    found["embeddings.LayerNorm.weight"] = torch.full_like(shift, float((wide / narrow.clamp_min(1e-6)).mean()))
    found["embeddings.LayerNorm.bias"] = project @ bias + shift
    return found


def start_embeddings(student: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Project the teacher's three embedding tables on the top singular directions of its word table (SVD); its own tables when widths agree.

    student: the student's parameters under BERT's names, changed in place.
    """
    width = student["embeddings.word_embeddings.weight"].shape[1]
    if weights["embeddings.word_embeddings.weight"].shape[1] < width:
        weights = widened(weights)
    words = weights["embeddings.word_embeddings.weight"]
    if words.shape[1] != width:
        basis = top_directions(words, width)
        _start_tables(student, weights, lambda rows: rows @ basis)
    else:
        _start_tables(student, weights, lambda rows: rows)
        for part in ("weight", "bias"):
            _fill(student[f"embeddings.LayerNorm.{part}"], weights[f"embeddings.LayerNorm.{part}"])


def _start_tables(student: Mapping[str, Tensor], weights: Mapping[str, Tensor], narrowed: Callable[[Tensor], Tensor]) -> None:
    """narrowed: rows of a teacher's table as wide as the student's."""
    for table in ("word", "position", "token_type"):
        name = f"embeddings.{table}_embeddings.weight"
        rows = min(len(student[name]), len(weights[name]))
        _fill(student[name][:rows], narrowed(weights[name][:rows]))


def _start_factorised(student: Mapping[str, Tensor], weights: Mapping[str, Tensor], residual: Tensor) -> None:
    """Tables of a low rank and the projection back into the residual stream, so that their product is the teacher's first state as nearly as may be.

    The layer norm stands between the two, in the narrow space: with e the teacher's embedding, z = e B its projection and LN without gain,
    LN(e) = e / rms(e) and LN(z) = z / rms(z), so LN(e) is about B LN(z) times sqrt(H / r) |z| / |e|; the gain and bias follow it.
    """
    words = weights["embeddings.word_embeddings.weight"]
    rank = student["embeddings.word_embeddings.weight"].shape[1]
    basis = top_directions(words, rank)
    _start_tables(student, weights, lambda rows: rows @ basis)
    kept = ((words @ basis).norm(dim=1) / words.norm(dim=1).clamp_min(1e-6)).mean()
    scale = (words.shape[1] / rank) ** 0.5 * kept
    gain, bias = weights["embeddings.LayerNorm.weight"], weights["embeddings.LayerNorm.bias"]
    _fill(student["embeddings_project.weight"], (gain[:, None] * basis * scale)[residual])
    _fill(student["embeddings_project.bias"], bias[residual])


def start_layers(
    student: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    *,
    layers: int,
    heads: int,
    teacher_layers: int,
    teacher_heads: int,
    kind: str,
) -> None:
    """Copy the teacher's layers `kind` (first | uniform | last), its embeddings and its head, cut to the student's width, heads and
    feed-forward width by importance. Equal shapes give equal answers.

    student: the student's parameters under BERT's names, changed in place.
    """
    width = len(student["pooler.dense.bias"])
    narrow, weights = weights, widened(weights)
    residual = Slice.by_importance(weights, teacher_layers, width).keep
    if "embeddings_project.weight" in student:
        if narrow is not weights and len(narrow["embeddings.LayerNorm.bias"]) == len(student["embeddings.LayerNorm.bias"]):
            start_embeddings(student, narrow)
            for part in ("weight", "bias"):
                _fill(student[f"embeddings_project.{part}"], narrow[f"embeddings_project.{part}"][residual])
        else:
            _start_factorised(student, weights, residual)
    else:
        _start_tables(student, weights, lambda rows: rows[:, residual])
        for part in ("weight", "bias"):
            _fill(student[f"embeddings.LayerNorm.{part}"], weights[f"embeddings.LayerNorm.{part}"][residual])
    for index, above in enumerate(layer_map(layers, teacher_layers, kind)):
        to, at = f"encoder.layer.{index}.", f"encoder.layer.{above - 1}."
        size = width // heads
        qk, vo = _attention_rows(weights, at, teacher_heads, heads, size)
        for name, kept in (("query", qk), ("key", qk), ("value", vo)):
            _fill(student[f"{to}attention.self.{name}.weight"], weights[f"{at}attention.self.{name}.weight"][kept][:, residual])
            _fill(student[f"{to}attention.self.{name}.bias"], weights[f"{at}attention.self.{name}.bias"][kept])
        _fill(student[f"{to}attention.output.dense.weight"], weights[f"{at}attention.output.dense.weight"][residual][:, vo])
        up, down = weights[f"{at}intermediate.dense.weight"], weights[f"{at}output.dense.weight"]
        neurons = len(student[f"{to}intermediate.dense.bias"])
        taken = _highest(up.norm(dim=1) * down.norm(dim=0), min(neurons, len(up))).sort().values
        count = len(taken)
        _fill(student[f"{to}intermediate.dense.weight"][:count], up[taken][:, residual])
        _fill(student[f"{to}intermediate.dense.bias"][:count], weights[f"{at}intermediate.dense.bias"][taken])
        _fill(student[f"{to}output.dense.weight"][:, :count], down[residual][:, taken])
        for name in ("attention.output.dense.bias", "output.dense.bias"):
            _fill(student[to + name], weights[at + name][residual])
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            for part in ("weight", "bias"):
                _fill(student[f"{to}{name}.{part}"], weights[f"{at}{name}.{part}"][residual])
    if "pooler.dense.weight" in weights:
        _fill(student["pooler.dense.weight"], weights["pooler.dense.weight"][residual][:, residual])
        _fill(student["pooler.dense.bias"], weights["pooler.dense.bias"][residual])
    _fill(student["classifier.weight"], weights["classifier.weight"][:, residual])
    _fill(student["classifier.bias"], weights["classifier.bias"])
