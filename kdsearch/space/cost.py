"""What a student costs, exactly, before it is trained: parameters, bytes of model.safetensors, FLOPs of one text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from kdsearch.api import LOGITS, Batch, Family, ModelInfo

SAFETENSORS_METADATA = {"format": "pt"}  # what transformers expects to find in the header
_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64", torch.int32: "I32", torch.bool: "BOOL"}


@dataclass(frozen=True)
class Cost:
    params: int
    bytes: int  # size of model.safetensors
    flops: int  # matrix products of one text of the study's maximal length, 2 a multiply-add


def price(family: Family, teacher: ModelInfo, length: int) -> Cost:
    """length: tokens of the text that FLOPs are stated for."""
    with torch.device("meta"):
        module = family.build(teacher)
    flops = family.flops(teacher, length)
    return Cost(
        params=family.size(teacher),
        bytes=safetensors_bytes((family.stock(module) or module).state_dict()),
        flops=_built_flops(family, teacher, length) if flops is None else flops,
    )


def safetensors_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Size of the file that `safetensors.torch.save` makes of these tensors, from names, shapes and dtypes alone.

    The header is JSON without spaces, padded to a multiple of 8, after 8 bytes of its length; larger dtypes come first, then names.
    """
    header: dict[str, object] = {"__metadata__": SAFETENSORS_METADATA}
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])):
        size = tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [end, end + size]}
        end += size
    text = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + -(-text // 8) * 8 + end


def _built_flops(family: Family, teacher: ModelInfo, length: int) -> int:
    with torch.random.fork_rng(devices=[]):
        module = family.build(teacher)
    return counted_flops(module, family.stock(module), length)


def counted_flops(module: nn.Module, stock: nn.Module | None, length: int) -> int:
    """Count the matrix products of one forward pass, on the CPU: masks read their values, which the meta device does not have.

    stock: the Hugging Face model inside, if there is one; its fused attention kernels would count as nothing, so the eager ones are
        asked for.
    """
    shape = (1, length)
    batch = Batch(
        ids=torch.zeros(shape, dtype=torch.long),
        mask=torch.ones(shape, dtype=torch.bool),
        labels=torch.zeros(1, dtype=torch.long),
        example=torch.zeros(1, dtype=torch.long),
    )
    kernels = stock.config._attn_implementation if isinstance(stock, PreTrainedModel) else None
    if isinstance(stock, PreTrainedModel):
        stock.set_attn_implementation("eager")
    training = module.training
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module.eval()(batch, (LOGITS,))
    finally:
        module.train(training)
        if isinstance(stock, PreTrainedModel):
            stock.set_attn_implementation(kernels)
    return int(counter.get_total_flops())
