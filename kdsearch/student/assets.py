"""What a trial needs on any node: token arrays, labels, teacher signals, teacher weights. Plain arrays and JSON, no paths.

Everything large is a numpy array, so that Ray's object store hands it to each worker without a copy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from kdsearch.api import ModelInfo, Need
from kdsearch.data.tokens import Tokens
from kdsearch.data.vocabulary import Vocabulary
from kdsearch.io import files
from kdsearch.teacher.encoder import ANATOMY
from kdsearch.training.loop import as_tensor


@dataclass(frozen=True)
class Part:
    """The training set or the validation rows, with the teacher's signals."""

    tokens: Tokens
    labels: np.ndarray  # (N,) int64 (-100 unlabelled) or float32 (NaN unlabelled)
    signals: Mapping[Need, np.ndarray] = field(default_factory=dict)  # per row (N, C), (N, H), or per token (T, H); layers from the bottom


@dataclass(frozen=True)
class Several:
    """The logits of each of several teachers, the main one first; `Part.signals` has their mean."""

    train_set: np.ndarray | None  # (K, N, C) logits; None where no strategy of the study asks
    validation: np.ndarray  # (K, M, C)

    @property
    def nbytes(self) -> int:
        return self.validation.nbytes + (0 if self.train_set is None else self.train_set.nbytes)


@dataclass(frozen=True)
class Assets:
    task: str
    quality: str  # the study's: the score that is to be large
    labels: tuple[str, ...]  # class names in the order of the logits; () for a regression
    info: ModelInfo  # the teacher's
    max_length: int
    pad: int  # padding id
    train_set: Part  # the labelled rows, then unlabelled text, then augmented text
    labelled: int  # how many of them have a label; they come first
    unlabelled: int
    augmented: int
    validation: Part
    teacher_config: str  # JSON
    teacher_weights: Mapping[str, np.ndarray]
    teacher_fingerprint: str
    tokenizer: Mapping[str, bytes]  # the teacher's, file name -> content
    vocabularies: Mapping[int, Vocabulary]  # the pruned ones, by size
    plugins: list[dict[str, Any]]  # as Plugins.shipped() gives them
    several: Several | None = None  # where the study has several teachers: all else that is the teacher's is the main one's, logits aside

    def teacher(self, vocabulary: Vocabulary | None = None) -> PreTrainedModel:
        """The teacher on the CPU, in eval mode, without gradients, its weights shared with these arrays: never write into them.

        Kept for the life of the process, because every trial of a study asks for the same ones.

        vocabulary: the word table then has only its subwords, in its order.
        """
        subwords = None if vocabulary is None else vocabulary.subwords
        key = (self.teacher_fingerprint, "" if subwords is None else files.digest(np.asarray(subwords, "<i8").tobytes()))
        found = _teachers.get(key)
        if found is None:
            if any(fingerprint != self.teacher_fingerprint for fingerprint, _ in _teachers):
                _teachers.clear()
            values = json.loads(self.teacher_config)
            weights = dict(self.teacher_weights)
            if subwords is not None:
                table = f"{ANATOMY[values['model_type']].base}.embeddings.word_embeddings.weight"
                weights[table] = weights[table][subwords]
                values |= {"vocab_size": len(subwords), "pad_token_id": vocabulary.pad if vocabulary else 0}
            config = AutoConfig.for_model(**values)
            with torch.device("meta"):
                found = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
            found.load_state_dict({name: as_tensor(array) for name, array in weights.items()}, assign=True)
            _fill_buffers(found, config)
            found = found.eval().requires_grad_(False)
            _teachers[key] = found
        return found


_teachers: dict[tuple[str, str], PreTrainedModel] = {}  # by fingerprint and digest of the pruned vocabulary's subwords, empty for its own


def _fill_buffers(model: PreTrainedModel, config: Any) -> None:
    """Buffers are not in the weights' file (position ids): take them from a one-layer model with the same tables, built for real."""
    small = AutoConfig.for_model(**{**config.to_dict(), "num_hidden_layers": 1, "vocab_size": max(2, (config.pad_token_id or 0) + 1)})
    built = AutoModelForSequenceClassification.from_config(small, dtype=torch.float32)
    buffers = dict(built.named_buffers())
    for name, value in list(model.named_buffers()):
        if value.is_meta:
            holder, _, leaf = name.rpartition(".")
            model.get_submodule(holder).register_buffer(leaf, buffers[name].clone(), persistent=False)
