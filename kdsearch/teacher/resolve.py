"""The teacher: a classifier as it is, or a backbone that we fine-tune, past the gate that refuses a wrong one."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from kdsearch import tasks
from kdsearch.api import LOGITS, ModelInfo, Need
from kdsearch.config.schema import FineTune, StudyConfig, TeacherConfig
from kdsearch.data.splits import Data
from kdsearch.data.tokens import Table, tokenise
from kdsearch.errors import InputError
from kdsearch.io import files
from kdsearch.io.progress import Progress
from kdsearch.teacher import checkpoint, encoder, gate, signal_cache
from kdsearch.teacher.checkpoint import Checkpoint
from kdsearch.training.loop import NotFinite, Recipe, Rows, default_device, fast_bfloat16, fit, groups, mixed
from kdsearch.training.target_scaling import OWN, Unit

RECORD = "kdsearch-teacher.json"  # in a folder that we tuned: what it was tuned from and on
TUNING = 1  # version of the fine-tuning: raise it when the same inputs give another teacher
SEED = 0  # a teacher does not depend on the search's seed, so that every search on the same data shares it
FIRST_LOOK, SECOND_LOOK = 256, 512  # validation rows after which a teacher may be refused, so that a hopeless one costs seconds


@dataclass(frozen=True)
class Teacher:
    """A teacher that the gate let pass: float32, on the CPU, in eval mode, without gradients, its logits in the data's order of labels."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    tokenizer_files: dict[str, bytes]  # a folder that AutoTokenizer loads
    tokenizer_hash: str  # of the vocabulary and all else that turns text into ids
    labels: tuple[str, ...]  # in the order of the logits, which is the data's; () for a regression
    info: ModelInfo
    fingerprint: str  # content address of configuration, order of labels and weights
    validation: dict[str, float]  # scores on all validation rows
    baseline: float  # there: accuracy of the majority class; mean squared error of the mean
    source: str  # how the study file names it
    tuned: bool  # by us
    reused: bool  # tuned in an earlier run
    seconds: float  # that getting it took now
    forwards: int  # rows run through it to get past the gate; 0 when its validation logits were cached
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What will be done to get a teacher, known from files alone."""

    key: str  # where the study file has it: teacher, or teacher[1] where there are several
    checkpoint: Checkpoint
    info: ModelInfo
    tokenizer: PreTrainedTokenizerFast
    order: tuple[int, ...] | None  # label i is output order[i]; None where a new head is trained
    tuning: FineTune | None


def inspect(config: StudyConfig, data: Data, index: int = 0) -> Plan:
    """Everything about a teacher that is known from its files, checked; no weight is loaded.

    index: which of the study's teachers, the main one being the first.

    Raises:
        InputError: the folder, its labels, its tokenizer or its length do not fit, or it was tuned by us on another split.
        EnvironmentProblem: the preset's package is not installed.
    """
    asked, key = config.teachers[index], f"teacher[{index}]" if len(config.teachers) > 1 else "teacher"
    folder, where = checkpoint.find(asked.model, asked.preset, key)
    found = checkpoint.inspect(folder, where)
    tuning = _tuning(asked, found, key)
    order = None
    if found.classifier:
        order = _order(asked, data, found, key, must_fit=tuning is None)
    elif asked.labels is not None:
        raise InputError(f"{key}.labels: a backbone has no label names yet: leave it out")
    info = replace(encoder.info(found.config, data.task), labels=tasks.of(data.task).outputs(data.labels))
    if config.data.max_length > info.positions:
        which = "the teacher" if key == "teacher" else key
        raise InputError(f"data.max_length: {config.data.max_length} is more than the {info.positions} tokens that {which} reads")
    tokenizer = checkpoint.load_tokenizer(found, info.positions)
    _refuse_other_split(found, tokenizer, data)
    return Plan(key, found, info, tokenizer, order, tuning)


def resolve(
    config: StudyConfig, data: Data, progress: Progress | None = None, *, plan: Plan | None = None, needs: Sequence[Need] = (LOGITS,)
) -> Teacher:
    """Load or fine-tune a teacher and let it pass the gate. Its validation logits are in the cache afterwards.

    Args:
        progress: called with what is being done, units done and units in all.
        needs: what else will be asked of it on the validation rows, which then are run through it once for all.
        plan: what `inspect` gave for this study and teacher; default the main one's.

    Raises:
        InputError: as `inspect`; or the teacher is no better than the simplest guess, has its labels permuted, or diverged in fine-tuning.
        EnvironmentProblem: a package is not installed, or the cache cannot be written.
    """
    begun = time.monotonic()
    plan = plan or inspect(config, data)
    found, tuning = plan.checkpoint, plan.tuning
    reused = False
    notes: tuple[str, ...] = ()
    if tuning is None:
        model = checkpoint.load_model(found, new_head=False, labels=data.labels, task=data.task)
        if plan.order is not None:
            _reorder(model, plan.order)
    else:
        model, reused, notes = _tuned(plan, tuning, config, data, progress)
    _name_outputs(model.config, data)
    order = tuple(range(len(data.labels))) if plan.order is None or tuning is not None else plan.order
    teacher = Teacher(
        model=model,
        tokenizer=plan.tokenizer,
        tokenizer_files=checkpoint.tokenizer_files(plan.tokenizer),
        tokenizer_hash=checkpoint.tokenizer_hash(plan.tokenizer),
        labels=tuple(data.labels),
        info=encoder.info(model.config, data.task),
        fingerprint=fingerprint(model, data.labels),
        validation={},
        baseline=0.0,
        source=found.where,
        tuned=tuning is not None,
        reused=reused,
        seconds=0.0,
        forwards=0,
        notes=notes,
    )
    return replace(_through_gate(teacher, order, plan.key, config, data, progress, needs), seconds=time.monotonic() - begun)


def fingerprint(model: PreTrainedModel, labels: Sequence[str]) -> str:
    """Content address of what decides the logits and signals: configuration, order of labels, every weight."""
    return files.digest(files.canonical(_deciding(model.config)), files.canonical(list(labels)), *_weight_parts(model))


def _tuning(asked: TeacherConfig, found: Checkpoint, key: str) -> FineTune | None:
    if isinstance(asked.finetune, FineTune):
        return asked.finetune
    if found.classifier:
        return None
    if asked.finetune == "never":
        raise InputError(
            f"{found.where}: a backbone without a trained head, and {key}.finetune is never: give a classifier, or let finetune be auto"
        )
    return FineTune()


def _order(asked: TeacherConfig, data: Data, found: Checkpoint, key: str, *, must_fit: bool) -> tuple[int, ...] | None:
    try:
        return tasks.of(data.task).align(found.labels, data.labels, asked.labels, found.where, key)
    except InputError:
        if must_fit or asked.labels is not None:
            raise
        return None


def _refuse_other_split(found: Checkpoint, tokenizer: PreTrainedTokenizerFast, data: Data) -> None:
    path = found.folder / RECORD
    if not path.exists():
        return
    try:
        record = json.loads(path.read_text())
        split, vocabulary, name = record["split"], record["tokenizer"], record["backbone"]
    except (ValueError, KeyError, TypeError) as problem:
        raise InputError(f"{found.where}: {RECORD} cannot be read: without it, its training rows are unknown") from problem
    if split != data.split_fingerprint:
        raise InputError(
            f"{found.where}: tuned by kdsearch on another split of the data (see {RECORD}): it may have been trained on rows that are now "
            f"for validation or test. Use the split it was tuned on (data.*, split_seed, max_train), or tune {name!r} again"
        )
    if vocabulary != checkpoint.tokenizer_hash(tokenizer):
        raise InputError(f"{found.where}: its tokenizer is not the one it was tuned with (see {RECORD}): restore tokenizer.json")


def _tuned(
    plan: Plan, tuning: FineTune, config: StudyConfig, data: Data, progress: Progress | None
) -> tuple[PreTrainedModel, bool, tuple[str, ...]]:
    """(model, whether it was there already, notes). Kept in the cache under everything that decides it."""
    recipe = Recipe(lr=tuning.lr, epochs=tuning.epochs)
    decided: dict[str, object] = {
        "version": TUNING,
        **({"scaling": 2} if tasks.of(data.task).scaling(data.train.labels) else {}),  # in double precision since
        "seed": SEED,
        "task": data.task,
        "labels": list(data.labels),
        "order": plan.order,
        "epochs": recipe.epochs,
        "lr": recipe.lr,
        "batch_size": recipe.batch_size,
        "max_length": config.data.max_length,
        "split": data.split_fingerprint,
        "backbone_weights": plan.checkpoint.digest(),
        "tokenizer": checkpoint.tokenizer_hash(plan.tokenizer),
    }
    # One that was tuned in the other precision, on another machine or before, serves as well: the studies made with it can go on.
    either = [decided | {"precision": "bfloat16"}, decided]
    if not fast_bfloat16(default_device()):
        either.reverse()
    folders = [signal_cache.cache_root() / "teachers" / files.digest(files.canonical(each)) for each in either]
    decided, folder = next((pair for pair in zip(either, folders, strict=True) if pair[1].exists()), (either[0], folders[0]))

    with signal_cache.writing():
        folder.parent.mkdir(parents=True, exist_ok=True)
        waiting = "waiting for another process that fine-tunes the same teacher"
        with signal_cache.lock(folder.with_suffix(".lock"), progress, waiting):
            for leftover in folder.parent.glob(f".{folder.name}.*"):  # of a run that was killed while it wrote
                shutil.rmtree(leftover, ignore_errors=True)
            whole = _whole(folder)
            notes = (f"{folder}: damaged, made again",) if whole is False else ()
            if not whole:
                begun = time.monotonic()
                model = _finetune(plan, recipe, config, data, progress)
                record = {**decided, "backbone": plan.checkpoint.where, "seconds": time.monotonic() - begun}
                files.write_folder(folder, _files(model, plan, record))
    # Read back in every case: the first run and those that reuse it then work on the same bytes.
    kept = checkpoint.inspect(folder, plan.checkpoint.where)
    return checkpoint.load_model(kept, new_head=False, labels=data.labels, task=data.task), bool(whole), notes


def _finetune(plan: Plan, recipe: Recipe, config: StudyConfig, data: Data, progress: Progress | None) -> PreTrainedModel:
    device = default_device()
    tokens = tokenise(data.train, plan.tokenizer, config.data.max_length)
    labels = data.train.labels
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(SEED)
        model = checkpoint.load_model(plan.checkpoint, new_head=True, labels=data.labels, task=data.task)
        if plan.order is not None:
            _reorder(model, plan.order)
        # Trained on standardised targets, whatever their unit: one lr fits all. The head takes the unit back afterwards, exactly.
        scaling = tasks.of(data.task).scaling(labels)
        unit = OWN if scaling is None else Unit(*scaling)
        labels = unit.standard(labels)
        if plan.order is not None and unit != OWN:
            unit.unfold(checkpoint.head(model))
        model.requires_grad_(True)
        module = encoder.Encoder(model).to(device).train()
        rows = Rows(tokens, labels, pad=model.config.pad_token_id or 0, device=device)

        def step(chosen: np.ndarray, _share: float) -> dict[str, torch.Tensor]:
            batch = rows.batch(chosen)
            with mixed(device):
                return {"hard": batch.hard_loss(module(batch).logits)}

        try:
            fit(
                step,
                groups(model, recipe.lr, recipe.weight_decay),
                tokens.lengths,
                recipe,
                seed=SEED,
                progress=None if progress is None else lambda done, total: progress("fine-tuning the teacher", done, total),
            )
        except NotFinite as problem:
            raise InputError(f"{plan.key}.finetune: lr {recipe.lr:g} is too high for this backbone ({problem}): lower it") from problem
    module.to("cpu").eval().requires_grad_(False)
    if unit != OWN:
        unit.fold(checkpoint.head(model))
    return model


def _files(model: PreTrainedModel, plan: Plan, record: dict[str, object]) -> dict[str, bytes]:
    model.config.architectures = [type(model).__name__]
    model.config.dtype = "float32"
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    content = {
        **checkpoint.tokenizer_files(plan.tokenizer),
        "config.json": model.config.to_json_string().encode(),
        checkpoint.WEIGHTS: save(tensors, metadata={"format": "pt"}),
    }
    digests = {name: hashlib.blake2b(data, digest_size=16).hexdigest() for name, data in content.items()}
    content[RECORD] = (json.dumps({**record, "files": digests}, indent=2, ensure_ascii=False) + "\n").encode()
    return content


def _whole(folder: Path) -> bool | None:
    """Whether a folder that we tuned is as it was written; None where there is none."""
    if not folder.exists():
        return None
    try:
        digests = json.loads((folder / RECORD).read_text())["files"]
        return all(files.file_digest(folder / name) == digest for name, digest in digests.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _through_gate(
    teacher: Teacher, order: Sequence[int], key: str, config: StudyConfig, data: Data, progress: Progress | None, needs: Sequence[Need]
) -> Teacher:
    tokens = tokenise(data.validation, teacher.tokenizer, config.data.max_length)
    targets = data.validation.labels

    def evidence(rows: np.ndarray | slice, logits: np.ndarray, final: bool) -> gate.Evidence:
        return gate.check(logits, targets[rows], data.labels, order, data.task, teacher.source, tuned=teacher.tuned, final=final, key=key)

    forwards = 0
    logits = signal_cache.stored_logits(teacher, tokens, config.data.max_length)
    if logits is None and not teacher.tuned and len(targets) > SECOND_LOOK:
        rows = gate.sample(targets, FIRST_LOOK)
        seen = _logits(teacher, data.validation.rows(rows), config.data.max_length)
        if not evidence(rows, seen, False).above_chance:
            more = np.setdiff1d(gate.sample(targets, SECOND_LOOK), rows)
            rows = np.concatenate([rows, more])
            seen = np.concatenate([seen, _logits(teacher, data.validation.rows(more), config.data.max_length)])
            # If even so many rows are not above chance, the rest would cost minutes and change nothing.
            if not evidence(rows, seen, False).above_chance:
                evidence(rows, seen, True)
        forwards = len(rows)
    if logits is None:
        found = signal_cache.signals(teacher, tokens, needs, progress, max_length=config.data.max_length)
        logits = found.logits
        forwards += found.forwards
    verdict = evidence(slice(None), logits, True)
    return replace(teacher, validation=verdict.scores, baseline=verdict.baseline, forwards=forwards)


def _logits(teacher: Teacher, table: Table, max_length: int) -> np.ndarray:
    tokens = tokenise(table, teacher.tokenizer, max_length)
    found = np.empty((len(tokens), teacher.info.labels), np.float32)
    signal_cache.forward(teacher, tokens, {LOGITS: found})
    return found


def _reorder(model: PreTrainedModel, order: Sequence[int]) -> None:
    """Output i of the head becomes what output order[i] was."""
    head = checkpoint.head(model)
    indices = torch.tensor(order)
    head.weight.data = head.weight.data[indices].clone()
    if head.bias is not None:
        head.bias.data = head.bias.data[indices].clone()


def _name_outputs(config: PretrainedConfig, data: Data) -> None:
    config.problem_type = tasks.of(data.task).problem_type
    if data.labels:
        config.id2label = dict(enumerate(data.labels))
        config.label2id = {label: index for index, label in enumerate(data.labels)}


def _deciding(config: PretrainedConfig) -> dict[str, object]:
    ignored = ("_name_or_path", "architectures", "transformers_version", "dtype", "id2label", "label2id", "problem_type")
    return {key: value for key, value in config.to_dict().items() if key not in ignored}


def _weight_parts(model: PreTrainedModel) -> list[bytes | str]:
    parts: list[bytes | str] = []
    for name, tensor in sorted(model.state_dict().items()):
        parts += [f"{name} {tuple(tensor.shape)} {tensor.dtype}", tensor.detach().cpu().contiguous().numpy().tobytes()]
    return parts
