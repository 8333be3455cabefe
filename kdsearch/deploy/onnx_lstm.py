"""LSTM layers as ONNX has them. The exporter of torch 2.13 unrolls them, or writes a loop that onnxruntime runs step by step."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class OnnxLstm(nn.Module):
    """An nn.LSTM without a given start, as ONNX operators. For exporting alone: it computes nothing in torch."""

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        self.hidden, self.layers, self.batch_first = lstm.hidden_size, lstm.num_layers, lstm.batch_first
        self.both = lstm.bidirectional
        suffixes = ("", "_reverse") if lstm.bidirectional else ("",)
        for layer in range(lstm.num_layers):
            names = [f"_l{layer}{suffix}" for suffix in suffixes]
            for kind, parts in (("w", "weight_ih"), ("r", "weight_hh")):
                stacked = torch.stack([_onnx_order(getattr(lstm, parts + name)) for name in names])
                self.register_buffer(f"{kind}{layer}", stacked)  # (directions, 4 H, I or H)
            if lstm.bias:
                biases = [[_onnx_order(getattr(lstm, part + name)) for part in ("bias_ih", "bias_hh")] for name in names]
                self.register_buffer(f"b{layer}", torch.stack([torch.cat(pair) for pair in biases]))  # (directions, 8 H)

    def forward(self, states: Tensor, start: None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        if start is not None:
            raise NotImplementedError("an LSTM that is given its first state cannot be exported to ONNX here")
        found = states.transpose(0, 1) if self.batch_first else states
        directions = 2 if self.both else 1
        last: list[Tensor] = []
        cells: list[Tensor] = []
        for layer in range(self.layers):
            length, batch = found.shape[0], found.shape[1]
            inputs = [found, self.get_buffer(f"w{layer}"), self.get_buffer(f"r{layer}")]
            inputs += [self.get_buffer(f"b{layer}")] if hasattr(self, f"b{layer}") else []
            steps, hidden, cell = torch.onnx.ops.symbolic_multi_out(
                "LSTM",
                inputs,
                {"hidden_size": self.hidden, "direction": "bidirectional" if self.both else "forward"},
                dtypes=(found.dtype,) * 3,
                shapes=((length, directions, batch, self.hidden), (directions, batch, self.hidden), (directions, batch, self.hidden)),
            )
            found = steps.permute(0, 2, 1, 3).flatten(2)
            last.append(hidden)
            cells.append(cell)
        return found.transpose(0, 1) if self.batch_first else found, (torch.cat(last), torch.cat(cells))


def _onnx_order(weights: Tensor) -> Tensor:
    """torch stacks the gates as input, forget, cell, output; ONNX as input, output, forget, cell."""
    into, forget, cell, out = weights.detach().chunk(4)
    return torch.cat((into, out, forget, cell))


def exportable(module: nn.Module) -> nn.Module:
    """A copy of the module, in eval mode, whose LSTM layers are OnnxLstm; one with projections stays as it is."""
    own = copy.deepcopy(module).eval()
    for path, part in list(own.named_modules()):
        if isinstance(part, nn.LSTM) and part.proj_size == 0:
            if not path:
                return OnnxLstm(part)
            holder, _, name = path.rpartition(".")
            setattr(own.get_submodule(holder), name, OnnxLstm(part))
    return own
