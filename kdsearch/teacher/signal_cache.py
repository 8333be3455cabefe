"""The teacher's signals on disk: one forward pass per text ever, kept under a content address, memory-mapped afterwards.

An entry belongs to one part of the data (train, validation, unlabelled): a folder named by the digest of all that decides its numbers.
In it, each signal is an .npy file without padding and a .json file with its checksum, written last: a signal without one does not exist.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from transformers import PreTrainedModel

from kdsearch.api import LOGITS, ModelInfo, Need, Signal
from kdsearch.data.tokens import Tokens
from kdsearch.errors import EnvironmentProblem
from kdsearch.io import files
from kdsearch.io.progress import Progress
from kdsearch.teacher.encoder import Encoder
from kdsearch.teacher.signals import PER_TOKEN, from_bottom, shape
from kdsearch.training.loop import Rows, default_device, fast_bfloat16, in_order, mixed

FORMAT = 1  # part of every key: raise it when the numbers or their layout change
DTYPE = np.dtype("<f4")
TOKENS_PER_BATCH = 2048


class Fingerprinted(Protocol):
    """The part of a teacher that the cache reads."""

    @property
    def model(self) -> PreTrainedModel: ...
    @property
    def info(self) -> ModelInfo: ...
    @property
    def fingerprint(self) -> str: ...  # of all that decides its signals
    @property
    def tokenizer_hash(self) -> str: ...


@dataclass(frozen=True)
class CachePlan:
    """Which needs are kept on disk; the teacher runs live in the trial for the others."""

    cached: tuple[Need, ...]  # as they were declared, logits first
    live: tuple[Need, ...]
    bytes: int  # of the cached ones, over all parts


@dataclass(frozen=True)
class Stored:
    """The signals of one part."""

    arrays: dict[Need, np.ndarray]  # float32, read-only, as signals.shape says; by the need with its layer counted from the bottom
    forwards: int  # rows run through the teacher to get this: 0 when all was there
    seconds: float
    bytes: int
    notes: tuple[str, ...] = ()  # what the user should know, such as a corrupt file that was made again

    @property
    def logits(self) -> np.ndarray:
        """(N, C)."""
        return self.arrays[LOGITS]


def cache_root() -> Path:
    """$KDSEARCH_CACHE, else $XDG_CACHE_HOME/kdsearch, else ~/.cache/kdsearch; made when something is written."""
    if own := os.environ.get("KDSEARCH_CACHE"):
        return Path(own).expanduser().absolute()
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base).expanduser().absolute() / "kdsearch"
    return Path.home() / ".cache" / "kdsearch"


def bytes_needed(needs: Sequence[Need], tokens: Tokens | Sequence[Tokens], info: ModelInfo) -> int:
    """Bytes on disk of the logits and these needs for these parts; ATTENTION counts 0, since it is never kept."""
    parts = [tokens] if isinstance(tokens, Tokens) else tokens
    wanted = {LOGITS} | {from_bottom(need, info) for need in needs if need.signal is not Signal.ATTENTION}
    return sum(DTYPE.itemsize * int(np.prod(shape(need, part, info))) for need in wanted for part in parts)


def plan(needs: Sequence[Need], parts: Sequence[Tokens], info: ModelInfo, max_bytes: int | None) -> CachePlan:
    """Decide for all parts together what is kept: logits and pooled states always; then token-level states, in the order of needs, while
    they fit into what is left of max_bytes (None: no limit); attention never."""
    cached = [LOGITS, *(need for need in needs if need.signal is Signal.POOLED)]
    live = []
    for need in dict.fromkeys(needs):
        if need.signal in PER_TOKEN and (max_bytes is None or bytes_needed([*cached, need], parts, info) <= max_bytes):
            cached.append(need)
        elif need.signal in (*PER_TOKEN, Signal.ATTENTION):
            live.append(need)
    return CachePlan(tuple(dict.fromkeys(cached)), tuple(live), bytes_needed(cached, parts, info))


def signals(
    teacher: Fingerprinted,
    tokens: Tokens,
    needs: Sequence[Need],
    progress: Progress | None = None,
    *,
    max_length: int,
    device: torch.device | str | None = None,
    fast: bool = False,
) -> Stored:
    """The teacher's signals for one part, from disk where they are there, else by one forward pass for all that is missing.

    Args:
        needs: as `plan` has them; logits are always there, attention never.
        progress: called with rows done and rows in all while the teacher runs.
        max_length: tokens at which texts were cut, a part of the key.
        device: where the teacher runs; default a GPU if there is one. The model is back on the CPU afterwards.
        fast: products in bfloat16 where the device is fast at it: for what students learn from, never for what anything is scored on. What is
            already there in full precision is taken as it is.

    Raises:
        EnvironmentProblem: the cache's folder cannot be written, or the disk is too small.
        PluginError: a need names a layer that the teacher does not have.
    """
    begun = time.monotonic()
    planned = plan(needs, [tokens], teacher.info, None)
    wanted = list(dict.fromkeys(from_bottom(need, teacher.info) for need in planned.cached))
    notes: list[str] = []
    forwards = 0
    if not len(tokens):
        found = {need: np.zeros(shape(need, tokens, teacher.info), DTYPE) for need in wanted}
    else:
        device = torch.device(device or default_device())
        fast = fast and fast_bfloat16(device)
        folder = entry(teacher, tokens, max_length)
        fast = fast and not all(
            _file(folder, need).exists() for need in wanted
        )  # files that exist in full precision are completed in full precision
        if fast:
            folder = entry(teacher, tokens, max_length, fast=True)
        found = {need: values for need in wanted if (values := _read(folder, need, tokens, teacher.info, [])) is not None}
        if len(found) < len(wanted):
            with writing():
                folder.mkdir(parents=True, exist_ok=True)
                with lock(folder / "lock", progress, "waiting for another process that runs the same teacher on the same text"):
                    for leftover in folder.glob(".*"):
                        leftover.unlink()
                    for need in wanted:  # the process we waited for may have written them
                        if need not in found and (values := _read(folder, need, tokens, teacher.info, notes)) is not None:
                            found[need] = values
                    missing = [need for need in wanted if need not in found]
                    if missing:
                        _fill(folder, teacher, tokens, missing, progress, device, fast)
                        forwards = len(tokens)
            for need in missing:
                values = _read(folder, need, tokens, teacher.info, notes)
                if values is None:
                    raise EnvironmentProblem(f"{folder}: a file just written there cannot be read back whole: check the disk")
                found[need] = values
    arrays = {need: found[need] for need in wanted}
    return Stored(arrays, forwards, time.monotonic() - begun, planned.bytes, tuple(notes))


def stored_logits(teacher: Fingerprinted, tokens: Tokens, max_length: int) -> np.ndarray | None:
    """(N, C) logits of a part if they are on disk and whole; never runs the teacher."""
    return _read(entry(teacher, tokens, max_length), LOGITS, tokens, teacher.info, []) if len(tokens) else None


def entry(teacher: Fingerprinted, tokens: Tokens, max_length: int, *, fast: bool = False) -> Path:
    """The folder of a part: its name is a digest of the teacher's weights, the tokenizer, max_length, the tokens, dtype, precision and FORMAT."""
    key = files.digest(
        f"signals {FORMAT} {DTYPE.str} {max_length}{' bfloat16' if fast else ''}",
        teacher.fingerprint,
        teacher.tokenizer_hash,
        np.asarray(tokens.ids, "<i4").tobytes(),
        np.asarray(tokens.offsets, "<i8").tobytes(),
        "no types" if tokens.types is None else np.asarray(tokens.types, "<i1").tobytes(),
    )
    return cache_root() / "signals" / key


@contextlib.contextmanager
def lock(path: Path, progress: Progress | None, waiting: str) -> Iterator[None]:
    """Be the only process inside the block; the others wait, and the operating system frees the lock of one that dies."""
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if progress is not None:
                progress(waiting, 0, 0)
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Turn the operating system's error about the cache's folder or disk into one clear line."""
    root = cache_root()
    try:
        with files.disk_problems(root):
            yield
    except EnvironmentProblem as problem:
        cause = problem.__cause__
        if isinstance(cause, OSError) and cause.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise EnvironmentProblem(
                f"{root}: the cache cannot be written ({cause.strerror}): set KDSEARCH_CACHE to another folder"
            ) from problem
        raise


def _file(folder: Path, need: Need) -> Path:
    return folder / f"{need.signal if need.layer is None else f'{need.signal}.{need.layer}'}.npy"


def _read(folder: Path, need: Need, tokens: Tokens, info: ModelInfo, notes: list[str]) -> np.ndarray | None:
    """A signal's values, mapped, or None when it was never written. A file that was changed since adds a note and counts as missing."""
    path = _file(folder, need)
    try:
        record = json.loads(path.with_suffix(".json").read_text())
        whole = record == _record(path)
    except FileNotFoundError:
        return None
    except (ValueError, OSError):
        whole = False
    if whole:
        values = np.load(path, mmap_mode="r")
        if values.shape == shape(need, tokens, info) and values.dtype == DTYPE:
            # Plain ndarray: a memmap's class would be pickled with its own reduction on the way to a worker.
            return np.asarray(values)
    notes.append(f"{path}: corrupt, made again")
    return None


def _record(path: Path) -> dict[str, object]:
    return {"bytes": path.stat().st_size, "blake2b": files.file_digest(path)}


def _fill(
    folder: Path,
    teacher: Fingerprinted,
    tokens: Tokens,
    missing: Sequence[Need],
    progress: Progress | None,
    device: torch.device | str | None,
    fast: bool,
) -> None:
    shapes = {need: shape(need, tokens, teacher.info) for need in missing}
    size = sum(DTYPE.itemsize * int(np.prod(shape)) for shape in shapes.values())
    free = shutil.disk_usage(folder).free
    if size > free:
        raise EnvironmentProblem(
            f"{cache_root()}: the teacher's signals need {size / 1e6:,.0f} MB, the disk has {free / 1e6:,.0f} MB: free some space, "
            "set KDSEARCH_CACHE to a folder on another disk, or lower cache.max_bytes in the study file"
        )
    beside = {need: folder / f".{os.getpid()}.{_file(folder, need).name}" for need in missing}
    try:
        targets = {}
        for need, path in beside.items():
            targets[need] = np.lib.format.open_memmap(path, mode="w+", dtype=DTYPE, shape=shapes[need])
            with path.open("rb+") as stream:
                # Blocks are claimed now: writing to a mapping for which the disk has none left would kill the process.
                os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
        forward(teacher, tokens, targets, progress, device, fast)
        for need, path in beside.items():
            targets.pop(need).flush()
            with path.open("rb+") as stream:
                os.fsync(stream.fileno())
            final = _file(folder, need)
            record = _record(path)
            final.with_suffix(".json").unlink(missing_ok=True)
            os.replace(path, final)
            files.replace_json(final.with_suffix(".json"), record)
    finally:
        for path in beside.values():
            path.unlink(missing_ok=True)


def forward(
    teacher: Fingerprinted,
    tokens: Tokens,
    targets: Mapping[Need, np.ndarray],
    progress: Progress | None = None,
    device: torch.device | str | None = None,
    fast: bool = False,
) -> None:
    """One pass of the teacher over all rows, into targets: arrays as signals.shape says, by the need with its layer from the bottom.

    fast: in mixed precision, where the device is fast at it.
    """
    device = torch.device(device or default_device())
    model = teacher.model
    needs = tuple(targets)
    pad = model.config.pad_token_id or 0
    done = 0
    encoder = Encoder(model)
    try:
        encoder.to(device).eval()
        table = Rows(tokens, np.full(len(tokens), -100, np.int64), pad=pad, device=device)
        with torch.inference_mode(), mixed(device, fast):
            for rows in in_order(tokens.lengths, TOKENS_PER_BATCH):
                batch = table.batch(rows)
                outputs = encoder(batch, needs)
                indices = tokens.offsets[rows][:, None] + np.arange(batch.mask.shape[1])[None]
                mask = batch.mask.cpu().numpy()
                for need, target in targets.items():
                    if need.layer is None:
                        target[rows] = outputs.logits.cpu().numpy()
                        continue
                    values = outputs.layered[need.signal, need.layer]
                    if need.signal is Signal.POOLED:
                        target[rows] = values.cpu().numpy()
                    else:
                        flat = values.transpose(1, 2).flatten(2) if need.signal is Signal.VALUES else values
                        target[indices[mask]] = flat.cpu().numpy()[mask]
                done += len(rows)
                if progress is not None:
                    progress("running the teacher", done, len(tokens))
    finally:
        encoder.to("cpu")
