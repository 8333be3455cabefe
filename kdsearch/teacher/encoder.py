"""A stock Hugging Face sequence classifier seen through signals: the teacher, and every student that is a transformer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from kdsearch.api import LOGITS, Batch, ModelInfo, Need, Outputs, Signal
from kdsearch.modules import mean_over_tokens


@dataclass(frozen=True)
class Anatomy:
    """Where a model type keeps its parts (module paths inside the sequence classifier)."""

    base: str  # the encoder without its head
    layers: str  # the list of layers
    projections: tuple[str, str, str]  # inside a layer: of queries, keys and values
    head: tuple[str, ...]  # the modules above the encoder, the last linear one at the end
    takes_types: bool = True


_BERT_LAYERS = "encoder.layer"
_BERT_SELF = ("attention.self.query", "attention.self.key", "attention.self.value")
_ROBERTA_HEAD = ("classifier.dense", "classifier.out_proj")
_ROBERTA = Anatomy("roberta", f"roberta.{_BERT_LAYERS}", _BERT_SELF, _ROBERTA_HEAD, takes_types=False)
ANATOMY = {
    "bert": Anatomy("bert", f"bert.{_BERT_LAYERS}", _BERT_SELF, ("bert.pooler", "classifier")),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "electra": Anatomy("electra", f"electra.{_BERT_LAYERS}", _BERT_SELF, _ROBERTA_HEAD),
    "distilbert": Anatomy(
        "distilbert",
        "distilbert.transformer.layer",
        ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        ("pre_classifier", "classifier"),
        takes_types=False,
    ),
}


def info(config: PretrainedConfig, task: str) -> ModelInfo:
    """What a classifier with this configuration is.

    Raises:
        KeyError: its model type is not in ANATOMY.
    """
    anatomy = ANATOMY[config.model_type]
    distilbert = config.model_type == "distilbert"
    # RoBERTa counts positions from padding_idx + 1 on: its table has that many rows more than tokens it can read.
    unused = config.pad_token_id + 1 if anatomy.base == "roberta" else 0
    embedding = config.embedding_size if config.model_type == "electra" else config.hidden_size
    return ModelInfo(
        labels=config.num_labels,
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        vocab=config.vocab_size,
        provides=frozenset(Signal),
        task=task,
        intermediate=config.hidden_dim if distilbert else config.intermediate_size,
        positions=config.max_position_embeddings - unused,
        types=max(1, config.type_vocab_size) if anatomy.takes_types else 1,
        embedding=0 if embedding == config.hidden_size else embedding,
        activation=config.activation if distilbert else config.hidden_act,
        eps=1e-12 if distilbert else config.layer_norm_eps,  # DistilBERT's is written into its code
    )


class Encoder(nn.Module):
    """Wraps a classifier of a type in ANATOMY; `forward` shows any signal of it.

    POOLED is the mean of a state over the row's real tokens: at low states the first token has seen too little of the row to stand for it.
    ATTENTION is computed from queries and keys: the fused kernels never form the probabilities, and the eager ones give them after dropout.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.anatomy = ANATOMY[model.config.model_type]

    def forward(self, batch: Batch, needs: Sequence[Need] = (LOGITS,)) -> Outputs:
        """Outputs with float32 logits and exactly the layered signals in needs.

        Raises:
            IndexError: a need names a layer that the model does not have.
        """
        wanted = {need.signal for need in needs}
        arguments: dict[str, object] = {"input_ids": batch.ids, "attention_mask": batch.mask}
        if batch.types is not None and self.anatomy.takes_types and self.model.config.type_vocab_size > 1:
            arguments["token_type_ids"] = batch.types
        if wanted & {Signal.POOLED, Signal.HIDDEN}:
            arguments["output_hidden_states"] = True
        layers = self.model.get_submodule(self.anatomy.layers)
        last = self.model.get_submodule(self.anatomy.head[-1])
        below: list[Tensor] = []
        projected: dict[tuple[str, int], Tensor] = {}  # (projection, layer) -> (B, S, H)
        hooks = []
        mixed = torch.is_autocast_enabled(batch.ids.device.type)
        if mixed:
            hooks.append(last.register_forward_pre_hook(lambda _module, inputs: below.append(inputs[0])))
        query, key, value = self.anatomy.projections
        kept = [query, key] * (Signal.ATTENTION in wanted) + [value] * (Signal.VALUES in wanted)
        for index, layer in enumerate(layers.children() if kept else ()):
            for name in kept:

                def keep(_module: nn.Module, _inputs: object, output: Tensor, at: tuple[str, int] = (name, index)) -> None:
                    projected[at] = output

                hooks.append(layer.get_submodule(name).register_forward_hook(keep))
        try:
            output = self.model(**arguments)
        finally:
            for hook in hooks:
                hook.remove()
        depth = self.model.config.num_hidden_layers
        layered: dict[tuple[Signal, int], Tensor] = {}
        for need in needs:
            if need.layer is None:
                continue
            at = need.index(depth)
            if need.signal is Signal.HIDDEN:
                found = output.hidden_states[at]
            elif need.signal is Signal.POOLED:
                found = mean_over_tokens(output.hidden_states[at], batch.mask)
            elif need.signal is Signal.ATTENTION:
                found = attention(self._by_head(projected[query, at]), self._by_head(projected[key, at]), batch.mask)
            else:
                found = self._by_head(projected[value, at])
            layered[need.signal, need.layer] = found.float()
        logits = output.logits
        if mixed:
            # In bfloat16 a regression with a large mean would have a few values left, and classes 8 bits.
            with torch.autocast(logits.device.type, enabled=False):
                logits = last(below[0].float())
        return Outputs(logits.float(), layered)

    def _by_head(self, flat: Tensor) -> Tensor:
        """(B, S, H) -> (B, A, S, H/A)."""
        return flat.unflatten(-1, (self.model.config.num_attention_heads, -1)).transpose(1, 2)


def attention(queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
    """Attention probabilities before dropout, (B, A, S, S), of queries and keys (B, A, S, H/A); what mask (B, S) leaves out has none."""
    scores = queries @ keys.mT / math.sqrt(queries.shape[-1])
    return scores.masked_fill(~mask[:, None, None, :], torch.finfo(scores.dtype).min).softmax(-1)
