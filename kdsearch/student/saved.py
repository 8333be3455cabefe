"""A student as a folder: what is written, and how it is loaded again."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from kdsearch import tasks
from kdsearch.api import Family, ModelInfo, Signal
from kdsearch.data.tokens import Table, tokenise
from kdsearch.errors import InputError, KdsearchError
from kdsearch.io.text import first_line
from kdsearch.registry import registry
from kdsearch.space.cost import SAFETENSORS_METADATA
from kdsearch.student.assets import Assets
from kdsearch.tasks.columns import HALF, halved
from kdsearch.teacher.checkpoint import quiet
from kdsearch.teacher.encoder import Encoder
from kdsearch.training.loop import Rows
from kdsearch.training.predict import predict

RECORD = "kdsearch.json"
WEIGHTS = "model.safetensors"


def files(family: Family, module: nn.Module, assets: Assets, tokenizer: Mapping[str, bytes], record: Mapping[str, Any]) -> dict[str, bytes]:
    """The folder of a trained student, as file name -> content.

    tokenizer: the files of its own tokenizer.
    record: what else goes into kdsearch.json (spec, scores, provenance).
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


Texts = Iterable[str]  # a list, a tuple, an array of numpy, a column of pandas


class Student:
    """A loaded student: texts in, labels out. `student(texts)` is `student.predict(texts)`."""

    def __init__(self, module: nn.Module, tokenizer: PreTrainedTokenizerBase, record: Mapping[str, Any]) -> None:
        self.module, self.tokenizer, self.record = module.eval(), tokenizer, record
        self.labels: tuple[str, ...] = tuple(record["labels"])
        self._task = tasks.of(record["task"])
        self.params = sum(parameter.numel() for parameter in module.parameters())

    def logits(self, texts: Texts, pairs: Texts | None = None, *, batch_size: int | None = None) -> np.ndarray:
        """(N, C) float32, on the CPU.

        Args:
            pairs: the second text of each row, for a study of pairs.
            batch_size: rows of one pass at most; by default as many as have 4,096 tokens.

        Raises:
            InputError: a text that is None, NaN or no text, named by its index; one bare string; or fewer second texts than first ones.
        """
        first, second = _checked(texts, "texts"), None if pairs is None else _checked(pairs, "pairs")
        if second is not None and len(second) != len(first):
            raise InputError(f"pairs: {len(second)} second texts for {len(first)} texts: give one for each")
        if not first:
            return np.zeros((0, self._task.outputs(self.labels)), np.float32)
        empty = self._task.unlabelled(len(first))
        tokens = tokenise(Table(first, second, empty), self.tokenizer, self.record["max_length"])
        pad = self.tokenizer.pad_token_id or 0
        return predict(self.module, Rows(tokens, empty, pad=pad, device=torch.device("cpu")), batch_size)

    def predict(self, texts: Texts, pairs: Texts | None = None, *, batch_size: int | None = None) -> list[str] | list[float]:
        """A label for each text; for a regression a value; [] for no texts. Arguments and errors as `logits`."""
        return self._task.decode(self.logits(texts, pairs, batch_size=batch_size), self.labels)

    __call__ = predict

    def predict_proba(self, texts: Texts, pairs: Texts | None = None, *, batch_size: int | None = None) -> np.ndarray:
        """(N, C) float32 probabilities, in the order of `labels`. Arguments and errors as `logits`.

        Raises:
            InputError: the student of a regression has none.
        """
        if not self._task.probabilities:
            raise InputError("predict_proba: this student gives numbers, not labels: use predict")
        return self._task.probabilities_of(self.logits(texts, pairs, batch_size=batch_size))

    @property
    def _facts(self) -> dict[str, str]:
        spec = self.record.get("spec", {})
        answers = ", ".join(self.labels[:5]) + (f" and {len(self.labels) - 5} more" if len(self.labels) > 5 else "")
        made = " + ".join(part for part in (self.record["family"]["name"], spec.get("strategy")) if part)
        return {"student": made, "parameters": f"{self.params:,}", "answers": answers or "a number"}

    def __repr__(self) -> str:
        return f"<Student {'; '.join(f'{name}: {value}' for name, value in self._facts.items())}>"

    def _repr_html_(self) -> str:
        cells = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in self._facts.items())
        return f"<table>{cells}</table>"


def _checked(texts: Texts, name: str) -> list[str]:
    if isinstance(texts, str):
        raise InputError(f"{name}: one string: give a list, such as [{texts[:20]!r}]")
    found = list(texts)
    for index, text in enumerate(found):
        if not isinstance(text, str):
            raise InputError(f"{name}[{index}]: {text!r} is not a text: leave the row out, or put an empty text there")
        if halved(text):
            raise InputError(f"{name}[{index}]: {HALF}: leave the row out, or put an empty text there")
    return [str(text) for text in found]


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
        raise InputError(f"{path}: cannot be read ({first_line(problem)}): export the student again") from problem
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
            if record["family"]["stock"]:
                model = AutoModelForSequenceClassification.from_pretrained(
                    path, local_files_only=True, trust_remote_code=False, dtype=torch.float32
                )
                return Student(Encoder(model), tokenizer, record)
        name = record["family"]["name"]
        family = registry.load([name], [], plugins_from).family(name, record["family"]["fields"])
        module = family.build(info_from_json(record["teacher_info"]))
        module.load_state_dict(weights)
        return Student(module, tokenizer, record)
    except KdsearchError:
        raise
    except Exception as problem:  # transformers, safetensors and torch each have their own for a damaged file
        raise InputError(f"{path}: cannot be loaded ({first_line(problem)}): export the student again") from problem
