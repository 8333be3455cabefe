"""A student as a folder: what is written, and how it is loaded again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from kdsearch.api import Family, ModelInfo, Signal
from kdsearch.data.splits import Table, tokenise
from kdsearch.errors import InputError
from kdsearch.registry import registry
from kdsearch.space.cost import SAFETENSORS_METADATA
from kdsearch.student.assets import Assets
from kdsearch.teacher.checkpoint import quiet
from kdsearch.teacher.encoder import Encoder
from kdsearch.training.loop import Rows
from kdsearch.training.predict import predict

RECORD = "kdsearch.json"
WEIGHTS = "model.safetensors"


def files(family: Family, module: nn.Module, assets: Assets, tokenizer: Mapping[str, bytes], record: Mapping[str, Any]) -> dict[str, bytes]:
    """The folder of a trained student, as file name -> content.

    tokenizer: the files of its own tokenizer.
    record: what else kdsearch.json shall say (spec, scores, provenance).
    """
    stock = family.stock(module)
    tensors = {}
    for name, tensor in (stock or module).state_dict().items():
        whole = tensor.detach().cpu().contiguous()
        tensors[name] = whole.float() if whole.is_floating_point() else whole
    content = dict(tokenizer)
    content[WEIGHTS] = save_tensors(tensors, metadata=SAFETENSORS_METADATA)
    if isinstance(stock, PreTrainedModel):
        config = stock.config
        config.architectures = [type(stock).__name__]
        config.dtype = "float32"
        if assets.labels:
            config.id2label = dict(enumerate(assets.labels))
            config.label2id = {label: index for index, label in enumerate(assets.labels)}
        content["config.json"] = config.to_json_string().encode()
    described = {
        **record,
        "task": assets.task,
        "labels": list(assets.labels),
        "max_length": assets.max_length,
        "family": {"name": family.name, "fields": asdict(family), "stock": stock is not None},
        "teacher_info": info_to_json(assets.info),
    }
    content[RECORD] = (json.dumps(described, indent=2, ensure_ascii=False) + "\n").encode()
    return content


def info_to_json(info: ModelInfo) -> dict[str, Any]:
    return {**asdict(info), "provides": sorted(info.provides)}


def info_from_json(values: Mapping[str, Any]) -> ModelInfo:
    return ModelInfo(**{**values, "provides": frozenset(Signal(name) for name in values["provides"])})


class Student:
    """A loaded student: texts in, labels out."""

    def __init__(self, module: nn.Module, tokenizer: PreTrainedTokenizerBase, record: Mapping[str, Any]) -> None:
        self.module, self.tokenizer, self.record = module.eval(), tokenizer, record
        self.labels: tuple[str, ...] = tuple(record["labels"])
        self.params = sum(parameter.numel() for parameter in module.parameters())

    def logits(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> np.ndarray:
        """(N, C) float32, on the CPU. pairs: the second text of each row, for a study of pairs."""
        empty = np.full(len(texts), -100, np.int64)
        tokens = tokenise(Table(list(texts), None if pairs is None else list(pairs), empty), self.tokenizer, self.record["max_length"])
        pad = self.tokenizer.pad_token_id or 0
        return predict(self.module, Rows(tokens, empty, pad=pad, device=torch.device("cpu")))

    def __call__(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[str] | list[float]:
        """A label for each text; for a regression a value."""
        if not len(texts):
            return []
        logits = self.logits(texts, pairs)
        if not self.labels:
            return [float(value) for value in logits[:, 0]]
        return [self.labels[index] for index in logits.argmax(-1)]


def load_student(folder: str | Path, plugins_from: Sequence[str] = ()) -> Student:
    """Load a student's folder.

    Args:
        folder: students/<trial> of a study, or what `kdsearch pick` wrote.
        plugins_from: plugin files or modules, for a student of a family that is neither built in nor installed: code is never taken from
            the student's own folder.

    Raises:
        InputError: the folder is not a student, or is damaged.
    """
    path = Path(folder)
    try:
        record = json.loads((path / RECORD).read_text())
        weights = load_tensors((path / WEIGHTS).read_bytes())
    except FileNotFoundError as problem:
        raise InputError(f"{path}: no {Path(problem.filename).name} in it: not a folder of a student") from problem
    except Exception as problem:
        raise InputError(f"{path}: cannot be read ({problem}): export the student again") from problem
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    if record["family"]["stock"]:
        with quiet():
            model = AutoModelForSequenceClassification.from_pretrained(
                path, local_files_only=True, trust_remote_code=False, dtype=torch.float32
            )
        return Student(Encoder(model), tokenizer, record)
    name = record["family"]["name"]
    family = registry.load([name], [], plugins_from).family(name, record["family"]["fields"])
    module = family.build(info_from_json(record["teacher_info"]))
    module.load_state_dict(weights)
    return Student(module, tokenizer, record)
