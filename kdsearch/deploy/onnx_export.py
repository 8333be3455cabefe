"""A student as an ONNX graph: in full precision, and with its weights in eight bits."""

from __future__ import annotations

import contextlib
import enum
import importlib.util
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kdsearch.api import LOGITS, Batch
from kdsearch.deploy import onnx_lstm
from kdsearch.errors import EnvironmentProblem

if TYPE_CHECKING:
    import onnx

OPSET = 18
_EXTRA = ("onnx", "onnxruntime", "onnxscript")
_LOGGERS = ("torch.onnx", "torch.onnx._internal.exporter._registration", "onnxscript", "onnx_ir")


def require_extra() -> None:
    """
    Raises:
        EnvironmentProblem: a package of the extra kdsearch[deploy] is not installed.
    """
    missing = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise EnvironmentProblem(f"ONNX needs {', '.join(missing)}, not installed here: pip install 'kdsearch[deploy]'")


class _Graph(nn.Module):
    """Plain tensors in, logits out."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        rows = input_ids.new_zeros(input_ids.shape[0])
        batch = Batch(input_ids, attention_mask.bool(), rows, rows, token_type_ids)
        logits: Tensor = self.module(batch, (LOGITS,)).logits
        return logits


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in (*_LOGGERS, "root")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)


def export(module: nn.Module, path: Path, *, typed: bool, rows: int) -> None:
    """Write a student's module as one ONNX file with any batch and any length.

    Inputs input_ids, attention_mask and, when typed, token_type_ids, (batch, length) int64 each; output logits (batch, C) float32.

    Args:
        typed: whether the student reads token types: a study of pairs, with a tokenizer that gives them.
        rows: size of the vocabulary; the example's ids stay below it.

    Raises:
        EnvironmentProblem: see `require_extra`.
        RuntimeError, torch.onnx.errors.OnnxExporterError: the module does something that ONNX cannot express.
    """
    require_extra()
    import onnx

    # Sizes of 1 would be taken for constants. A padded row, so that a mask is part of the example.
    ids = (torch.arange(14).reshape(2, 7) + 1) % max(2, rows)
    mask = torch.ones(2, 7, dtype=torch.int64)
    mask[1, 5:] = 0
    example = {"input_ids": ids, "attention_mask": mask, **({"token_type_ids": torch.zeros_like(ids)} if typed else {})}
    axes = {0: "batch", 1: "length"}
    own = onnx_lstm.exportable(module)
    for part in own.modules():
        if isinstance(part, PreTrainedModel):
            part.set_attn_implementation("eager")  # the fused kernels have no ONNX form of their own
    path.parent.mkdir(parents=True, exist_ok=True)
    with _quiet(), torch.no_grad():
        torch.onnx.export(
            _Graph(own),
            (),
            str(path),
            kwargs=example,
            dynamo=True,
            external_data=False,
            opset_version=OPSET,
            input_names=list(example),
            output_names=["logits"],
            dynamic_shapes=dict.fromkeys(example, axes),
            verbose=False,
        )
    onnx.save(_plain(onnx.load(str(path))), str(path))


def _plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without the exporter's notes on the source code, paths included, and without shapes of values, which quantising makes stale."""
    del model.graph.value_info[:]
    for thing in (model, model.graph, *model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output):
        del thing.metadata_props[:]
        thing.doc_string = ""
    return model


class Variant(enum.StrEnum):
    """How weights are put into eight bits: embedding tables always, matrices with a scale for each column. What else was tried: docs/deploy.md."""

    NEAREST = "QInt8, per channel"
    # Seven of the eight bits: without VNNI instructions, sums of full products overflow. The matrix that gives the logits stays as it is.
    SAFEST = "QInt8, per channel, reduced range, head in fp32"


def quantise(source: Path, target: Path, variant: Variant) -> None:
    """Write the graph in `source` with weights in eight bits; activations get their scale as they come."""
    require_extra()
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model, safest = onnx.load(str(source)), variant is Variant.SAFEST
    excluded = head_nodes(model) if safest else []
    with _quiet():
        quantize_dynamic(model, str(target), per_channel=True, reduce_range=safest, weight_type=QuantType.QInt8, nodes_to_exclude=excluded)
    onnx.save(_plain(onnx.load(str(target))), str(target))


def head_nodes(model: onnx.ModelProto) -> list[str]:
    """Names of the last matrix product before the logits, [] where there is none; quantize_dynamic splits a Gemm and renames it first."""
    producers = {output: node for node in model.graph.node for output in node.output}
    wave: list[Any] = [producers.get(output.name) for output in model.graph.output]
    seen: set[int] = set()
    while wave:
        node = wave.pop(0)
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if node.op_type in ("MatMul", "Gemm"):
            return [node.name, f"{node.name}_MatMul"]
        wave += [producers.get(name) for name in node.input]
    return []
