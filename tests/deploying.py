"""Finished studies for the tests of deploying, written by hand: nothing is trained, the teacher's own answers are the labels."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import worlds
import yaml
from safetensors.torch import save_file
from transformers import BertForSequenceClassification, PreTrainedTokenizerFast

from kdsearch import tasks
from kdsearch.api import Family
from kdsearch.config import schema, study_file
from kdsearch.data import splits
from kdsearch.io.files import file_digest
from kdsearch.registry import registry
from kdsearch.results.ledger import Ledger
from kdsearch.space import cost
from kdsearch.student.saved import info_to_json, load_student
from kdsearch.testing import tiny_info, tiny_teacher

NAMES = ["angry", "calm", "sad"]
ROWS = {"train": 30, "validation": 120, "test": 30}


def make(folder: Path, task: str = "classification", *, pairs: bool = False, families: tuple[str, ...] = ()) -> Path:
    """A study with trial 0, a noisy copy of its teacher, and a small random student of each of families, under `folder`/studies/toy."""
    folder.mkdir(parents=True, exist_ok=True)
    classes = 1 if task == "regression" else len(NAMES)
    teacher = tiny_teacher(layers=1, labels=classes, vocab=len(worlds.WORDS))
    lines, _ = worlds.texts(sum(ROWS.values()))
    seconds = worlds.texts(len(lines), seed=7)[0] if pairs else None
    encoded = _tokenizer()(lines, seconds, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = teacher(**encoded).logits
        teacher.classifier.bias -= logits.mean(0)  # no class is rare, and a regression is centred
        logits = logits - logits.mean(0)
    about = tasks.of(task)
    teacher.config.problem_type = about.problem_type
    labels = [about.written(answer) if about.named else answer for answer in about.decode(logits.numpy(), NAMES)]
    if about.named:
        teacher.config.id2label = dict(enumerate(NAMES))
        teacher.config.label2id = {name: index for index, name in enumerate(NAMES)}
    teacher.save_pretrained(folder / "teacher")
    _tokenizer().save_pretrained(folder / "teacher")
    table = pd.DataFrame({"text": lines, **({"other": seconds} if seconds else {}), "label": labels})
    start = 0
    for role, count in ROWS.items():
        table.iloc[start : start + count].to_csv(folder / f"{role}.csv", index=False)
        start += count

    study = study_file.from_mapping(
        {
            "name": "toy",
            "task": task,
            "data": {
                "files": {role: str(folder / f"{role}.csv") for role in ROWS},
                "max_length": 24,
                **({"text_pair": "other"} if pairs else {}),
            },
            "teacher": {"model": str(folder / "teacher")},
            "search": {"objectives": [about.qualities[0], "params"]},
        }
    )
    target = folder / "studies" / "toy"
    (target / "students").mkdir(parents=True)
    (target / "study.yaml").write_text(yaml.safe_dump(study_file.resolved(study)))
    _manifest(target, study, teacher)
    found = splits.load(study)
    with Ledger(target) as ledger:
        ledger.begin(name="toy")
        _copy(target / "students" / "0", teacher, found.labels, task)
        for number, name in enumerate(families, start=1):
            _small(target / "students" / str(number), name, teacher, found.labels, task)
        for number in range(len(families) + 1):
            path = target / "students" / str(number)
            student = load_student(path)
            size = (path / "model.safetensors").stat().st_size
            attempt = ledger.started(number, student.record["spec"], f"h{number}", {}, student.params, size, 1000)
            digests = {file.name: file_digest(file) for file in path.iterdir()}
            rows = found.validation
            scores = tasks.of(task).scores(student.logits(rows.texts, rows.pairs), rows.labels)
            ledger.complete(number, attempt, scores, student.params, size, 1000, {"total": 1.0}, digests=digests)
    return target


def _tokenizer() -> PreTrainedTokenizerFast:
    """One that gives token types, as BERT's does."""
    found = worlds.tokenizer()
    kept = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "model_max_length": 64}
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=found.backend_tokenizer, model_input_names=names, **kept)


def _manifest(target: Path, study: schema.StudyConfig, teacher: BertForSequenceClassification) -> None:
    found = splits.load(study)
    quality = study.search.objectives[0]
    content = {
        "name": "toy",
        "objectives": list(study.search.objectives),
        "versions": {"kdsearch": "0"},
        "plugins": [],
        "data": {
            "fingerprint": found.fingerprint,
            "split": found.split_fingerprint,
            "rows": dict(ROWS),
            "carved": [],
            "dropped": found.dropped,
        },
        "teacher": {
            "source": "teacher",
            "fingerprint": "tiny",
            "params": sum(parameter.numel() for parameter in teacher.parameters()),
            "bytes": cost.safetensors_bytes(teacher.state_dict()),
            "flops": 5000,
            "validation": {quality: 1.0},
            "test": None,
        },
    }
    (target / "manifest.json").write_text(json.dumps(content))


def _record(
    name: str, fields: dict[str, Any], teacher: BertForSequenceClassification, labels: tuple[str, ...], task: str, stock: bool
) -> str:
    spec = {"family": name, "family_config": fields, "strategy": "hard", "strategy_config": {}, "training": {"lr": 1e-3}}
    return json.dumps(
        {
            "spec": {**spec, "epochs": 1.0, "seed": 0},
            "task": task,
            "labels": list(labels),
            "max_length": 24,
            "family": {"name": name, "fields": fields, "stock": stock},
            "teacher_info": info_to_json(tiny_info(teacher)),
        }
    )


def _copy(path: Path, teacher: BertForSequenceClassification, labels: tuple[str, ...], task: str) -> None:
    path.mkdir()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    teacher.save_pretrained(path)
    _tokenizer().save_pretrained(path)
    (path / "kdsearch.json").write_text(_record("transformer", {"layers": 1}, teacher, labels, task, stock=True))


def _small(path: Path, name: str, teacher: BertForSequenceClassification, labels: tuple[str, ...], task: str) -> None:
    family = _family(name, teacher)
    torch.manual_seed(0)
    module = family.build(tiny_info(teacher))
    path.mkdir()
    _tokenizer().save_pretrained(path)
    save_file(module.state_dict(), path / "model.safetensors", metadata={"format": "pt"})
    (path / "kdsearch.json").write_text(_record(name, asdict(family), teacher, labels, task, stock=False))


def _family(name: str, teacher: BertForSequenceClassification) -> Family:
    """The first of what a family suggests: the low end of each range, the first of each choice."""

    class Lowest:
        def real(self, name: str, low: float, high: float, *, log: bool = False) -> float:
            return low

        def integer(self, name: str, low: int, high: int, *, log: bool = False) -> int:
            return low

        def choice(self, name: str, options: Any) -> Any:
            return next(iter(options))

    info = replace(tiny_info(teacher), vocabularies=())
    cls = registry.families()[name]
    return cls(**cls.suggest(Lowest(), info))  # type: ignore[arg-type]


def labels_of(study: Path, trial: int = 0) -> tuple[list[str], list[str] | None, Any]:
    """(texts, second texts, the student's own answers) of the validation rows."""
    found = splits.load(study_file.from_mapping(yaml.safe_load((study / "study.yaml").read_text()))).validation
    return found.texts, found.pairs, np.array(load_student(study / "students" / str(trial))(found.texts, found.pairs))
