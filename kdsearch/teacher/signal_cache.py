"""The teacher's signals as columns: one forward pass per text ever, kept under a content address, memory-mapped afterwards.

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

from kdsearch.api import ModelInfo, Need, Signal
from kdsearch.data.splits import Tokens
from kdsearch.errors import EnvironmentProblem, PluginError
from kdsearch.io import files
from kdsearch.io.progress import Progress
from kdsearch.teacher.encoder import Encoder
from kdsearch.training.loop import Rows, default_device, fast_bfloat16, in_order, mixed

FORMAT = 1  # part of every key: raise it when the numbers or their layout change
DTYPE = np.dtype("<f4")
TOKENS_PER_BATCH = 2048

_LOGITS = Need(Signal.LOGITS)
_PER_TOKEN = (Signal.HIDDEN, Signal.VALUES)


class Known(Protocol):
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
class Column:
    """One signal of all rows of a part."""

    need: Need  # its layer counted from the bottom
    values: np.ndarray  # float32: LOGITS (N, C), POOLED (N, H), HIDDEN and VALUES (T, H), read-only
    offsets: np.ndarray | None = None  # (N + 1,) int64 for a token-level signal: row n is values[offsets[n]:offsets[n + 1]]
    heads: int = 1  # A, for VALUES

    def rows(self, rows: np.ndarray, width: int | None = None) -> np.ndarray:
        """The signal of a batch, as Signal gives its shape; token-level ones are zero where padded.

        Args:
            rows: (B,) integer row numbers within the part.
            width: S of the batch; default its longest row.
        """
        if self.offsets is None:
            return np.asarray(self.values[rows])
        starts = self.offsets[rows][:, None]
        lengths = self.offsets[rows + 1][:, None] - starts
        steps = np.arange(int(lengths.max()) if width is None else width)[None]
        mask = steps < lengths
        padded = np.zeros((*mask.shape, self.values.shape[1]), self.values.dtype)
        padded[mask] = self.values[(starts + steps)[mask]]
        if self.need.signal is Signal.HIDDEN:
            return padded
        batch, length, hidden = padded.shape
        return np.ascontiguousarray(padded.reshape(batch, length, self.heads, hidden // self.heads).transpose(0, 2, 1, 3))


@dataclass(frozen=True)
class Plan:
    """Which needs are kept on disk; the teacher runs live in the trial for the others."""

    cached: tuple[Need, ...]  # as they were declared, logits first
    live: tuple[Need, ...]
    bytes: int  # of the cached ones, over all parts


@dataclass(frozen=True)
class Signals:
    """What the teacher says of one part."""

    columns: dict[Need, Column]  # by the need as it was declared; Need(HIDDEN, -1) and Need(HIDDEN, top) share a column
    live: tuple[Need, ...]
    forwards: int  # rows run through the teacher to get this: 0 when all was there
    seconds: float
    bytes: int
    notes: tuple[str, ...] = ()  # what the user should know, such as a corrupt file that was made again

    @property
    def arrays(self) -> dict[Need, np.ndarray]:
        """The columns' values by the need with its layer counted from the bottom."""
        return {column.need: column.values for column in self.columns.values()}


def cache_root() -> Path:
    """$KDSEARCH_CACHE, else $XDG_CACHE_HOME/kdsearch, else ~/.cache/kdsearch; made when something is written."""
    if own := os.environ.get("KDSEARCH_CACHE"):
        return Path(own).expanduser().absolute()
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base).expanduser().absolute() / "kdsearch"
    return Path.home() / ".cache" / "kdsearch"


def from_bottom(need: Need, info: ModelInfo) -> Need:
    """The need with its layer counted from the bottom: the same state has one name.

    Raises:
        PluginError: the model has no such layer.
    """
    if need.layer is None:
        return need
    states = info.layers + 1 if need.signal in (Signal.POOLED, Signal.HIDDEN) else info.layers
    if not -states <= need.layer < states:
        raise PluginError(f"Need(Signal.{need.signal.name}, {need.layer}): the teacher has {states}: use {-states} .. {states - 1}")
    return Need(need.signal, need.layer % states)


def bytes_needed(needs: Sequence[Need], tokens: Tokens | Sequence[Tokens], info: ModelInfo) -> int:
    """Bytes on disk of the logits and these needs for these parts; ATTENTION counts 0, since it is never kept."""
    parts = [tokens] if isinstance(tokens, Tokens) else tokens
    wanted = {_LOGITS} | {from_bottom(need, info) for need in needs}
    return sum(DTYPE.itemsize * int(np.prod(_shape(need, part, info))) for need in wanted for part in parts)


def plan(needs: Sequence[Need], parts: Sequence[Tokens], info: ModelInfo, max_bytes: int | None) -> Plan:
    """Decide for all parts together what is kept: logits and pooled states always; then token-level states, in the order of needs, while
    they fit into what is left of max_bytes (None: no limit); attention never."""
    cached = [_LOGITS, *(need for need in needs if need.signal is Signal.POOLED)]
    live = []
    used = bytes_needed(cached, parts, info)
    for need in dict.fromkeys(needs):
        if need.signal in _PER_TOKEN:
            total = bytes_needed([*cached, need], parts, info)
            if max_bytes is None or total <= max_bytes:
                cached.append(need)
                used = total
                continue
        if need.signal in (*_PER_TOKEN, Signal.ATTENTION):
            live.append(need)
    return Plan(tuple(dict.fromkeys(cached)), tuple(live), used)


def signals(
    teacher: Known,
    tokens: Tokens,
    needs: Sequence[Need],
    max_bytes: int | None,
    progress: Progress | None = None,
    *,
    max_length: int,
    device: torch.device | str | None = None,
    fast: bool = False,
) -> Signals:
    """The teacher's signals for one part, from disk where they are there, else by one forward pass for all that is missing.

    Args:
        needs: what strategies declare; logits are always there.
        max_bytes: for this part (see `plan`, to decide over several). None: no limit.
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
    planned = plan(needs, [tokens], teacher.info, max_bytes)
    wanted = list(dict.fromkeys(from_bottom(need, teacher.info) for need in planned.cached))
    notes: list[str] = []
    forwards = 0
    if not len(tokens):
        found = {need: np.zeros(_shape(need, tokens, teacher.info), DTYPE) for need in wanted}
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
    columns = {}
    for need in planned.cached:
        key = from_bottom(need, teacher.info)
        per_token = need.signal in _PER_TOKEN
        columns[need] = Column(
            key, found[key], tokens.offsets if per_token else None, teacher.info.heads if need.signal is Signal.VALUES else 1
        )
    return Signals(columns, planned.live, forwards, time.monotonic() - begun, planned.bytes, tuple(notes))


def stored_logits(teacher: Known, tokens: Tokens, max_length: int) -> np.ndarray | None:
    """(N, C) logits of a part if they are on disk and whole; never runs the teacher."""
    return _read(entry(teacher, tokens, max_length), _LOGITS, tokens, teacher.info, []) if len(tokens) else None


def entry(teacher: Known, tokens: Tokens, max_length: int, *, fast: bool = False) -> Path:
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
    """Turn what an operating system says of the cache's folder or disk into one clear line."""
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


def _shape(need: Need, tokens: Tokens, info: ModelInfo) -> tuple[int, ...]:
    if need.signal is Signal.LOGITS:
        return len(tokens), info.labels
    if need.signal is Signal.POOLED:
        return len(tokens), info.hidden
    if need.signal is Signal.ATTENTION:
        return (0,)
    return len(tokens.ids), info.hidden


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
        if values.shape == _shape(need, tokens, info) and values.dtype == DTYPE:
            # Plain ndarray: a memmap's class would be pickled with its own reduction on the way to a worker.
            return np.asarray(values)
    notes.append(f"{path}: corrupt, made again")
    return None


def _record(path: Path) -> dict[str, object]:
    return {"bytes": path.stat().st_size, "blake2b": files.file_digest(path)}


def _fill(
    folder: Path,
    teacher: Known,
    tokens: Tokens,
    missing: Sequence[Need],
    progress: Progress | None,
    device: torch.device | str | None,
    fast: bool,
) -> None:
    shapes = {need: _shape(need, tokens, teacher.info) for need in missing}
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
    teacher: Known,
    tokens: Tokens,
    targets: Mapping[Need, np.ndarray],
    progress: Progress | None = None,
    device: torch.device | str | None = None,
    fast: bool = False,
) -> None:
    """One pass of the teacher over all rows, into targets: arrays as Column has them, by the need with its layer from the bottom.

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
                places = tokens.offsets[rows][:, None] + np.arange(batch.mask.shape[1])[None]
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
                        target[places[mask]] = flat.cpu().numpy()[mask]
                done += len(rows)
                if progress is not None:
                    progress("running the teacher", done, len(tokens))
    finally:
        encoder.to("cpu")
