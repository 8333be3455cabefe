from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from kdsearch.api import ModelInfo, Need, Signal
from kdsearch.data.tokens import Tokens
from kdsearch.errors import EnvironmentProblem, PluginError
from kdsearch.teacher import encoder, signal_cache
from kdsearch.teacher.encoder import Encoder
from kdsearch.teacher.signals import Signals
from kdsearch.training.loop import Rows

LOGITS = Need(Signal.LOGITS)
TOP, TOP_FROM_BOTTOM = Need(Signal.HIDDEN, -1), Need(Signal.HIDDEN, 2)
LENGTHS = (5, 3, 7, 4, 6)  # 25 tokens


@dataclass(frozen=True)
class Known:
    model: PreTrainedModel
    info: ModelInfo
    fingerprint: str = "weights"
    tokenizer_hash: str = "tokenizer"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KDSEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def teacher() -> Known:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
        num_labels=3,
    )
    model = BertForSequenceClassification(config).eval().requires_grad_(False)
    return Known(model, encoder.info(model.config, "classification"))


@pytest.fixture
def tokens() -> Tokens:
    rng = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)]).astype(np.int64)
    return Tokens(rng.integers(1, 50, offsets[-1]).astype(np.int32), offsets, rng.integers(0, 2, offsets[-1]).astype(np.int8))


def get(teacher: Known, tokens: Tokens, *needs: Need, **options: Any) -> signal_cache.Stored:
    return signal_cache.signals(teacher, tokens, needs, max_length=16, **options)


def gathered(teacher: Known, tokens: Tokens, *needs: Need) -> Signals:
    return Signals(get(teacher, tokens, *needs).arrays, tokens.offsets, needs, teacher.info, torch.device("cpu"))


def live(teacher: Known, tokens: Tokens, rows: np.ndarray, *needs: Need) -> Any:
    table = Rows(tokens, np.zeros(len(tokens), np.int64), pad=0, device=torch.device("cpu"))
    with torch.inference_mode():
        return Encoder(teacher.model)(table.batch(rows), needs)


def test_the_cache_lies_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert signal_cache.cache_root() == tmp_path / "cache"
    monkeypatch.delenv("KDSEARCH_CACHE")
    assert signal_cache.cache_root() == tmp_path / "xdg" / "kdsearch"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert signal_cache.cache_root() == tmp_path / ".cache" / "kdsearch"


def test_cached_equals_live_for_every_signal_and_any_batch(teacher: Known, tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal_cache, "TOKENS_PER_BATCH", 10)  # several batches
    needs = (
        LOGITS,
        Need(Signal.POOLED, 0),
        Need(Signal.POOLED, -1),
        Need(Signal.HIDDEN, 1),
        TOP,
        Need(Signal.VALUES, 0),
        Need(Signal.VALUES),
    )
    rows = np.array([3, 0, 2])
    expected = live(teacher, tokens, rows, *needs)
    shown = gathered(teacher, tokens, *needs)
    assert shown.missing == []
    layered = shown.layered(torch.tensor(rows), width=7)
    np.testing.assert_allclose(shown.logits(torch.tensor(rows)), expected.logits.numpy(), atol=1e-5)
    mask = np.arange(7)[None] < np.array([4, 5, 7])[:, None]
    for need in needs[1:]:
        assert need.layer is not None
        wanted = expected.layered[need.signal, need.layer].numpy()
        if need.signal is Signal.HIDDEN:
            wanted = wanted * mask[:, :, None]
        if need.signal is Signal.VALUES:
            assert wanted.shape == (3, 2, 7, 4)
            wanted = wanted * mask[:, None, :, None]
        np.testing.assert_allclose(layered[need.signal, need.layer], wanted, atol=1e-5, err_msg=str(need))


def test_a_token_level_batch_can_be_padded_wider(teacher: Known, tokens: Tokens) -> None:
    padded = gathered(teacher, tokens, TOP).layered(torch.tensor([1, 3]), width=8)[Signal.HIDDEN, -1]
    assert padded.shape == (2, 8, 8)
    assert not padded[0, 3:].any()
    assert not padded[1, 4:].any()
    assert padded[1, 3].any()


def test_a_second_call_runs_no_teacher(teacher: Known, tokens: Tokens) -> None:
    first = get(teacher, tokens, TOP)
    second = get(teacher, tokens, TOP)
    assert (first.forwards, second.forwards) == (5, 0)
    np.testing.assert_array_equal(first.arrays[TOP_FROM_BOTTOM], second.arrays[TOP_FROM_BOTTOM])
    assert not second.arrays[TOP_FROM_BOTTOM].flags.writeable


def test_what_students_learn_from_may_be_bfloat16_what_is_scored_never_is(
    teacher: Known, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    logits = Need(Signal.LOGITS)
    fast = signal_cache.signals(teacher, tokens, [logits], max_length=32, fast=True)
    exact = signal_cache.signals(teacher, tokens, [logits], max_length=32)
    assert fast.forwards == exact.forwards == len(tokens)  # kept apart
    assert not np.array_equal(fast.logits, exact.logits)
    np.testing.assert_allclose(fast.logits, exact.logits, atol=0.05)
    # Now that the exact ones are there, they serve for both.
    again = signal_cache.signals(teacher, tokens, [logits], max_length=32, fast=True)
    np.testing.assert_array_equal(again.logits, exact.logits)


def test_a_signal_asked_for_later_is_added_beside_the_others(teacher: Known, tokens: Tokens, own_cache: Path) -> None:
    get(teacher, tokens)
    logits = next(own_cache.rglob("logits.npy"))
    before = logits.stat().st_mtime_ns
    assert get(teacher, tokens, Need(Signal.POOLED)).forwards == 5
    assert logits.stat().st_mtime_ns == before
    assert sorted(path.name for path in logits.parent.glob("*.npy")) == ["logits.npy", "pooled.2.npy"]


def test_negative_layers_and_their_positive_names_share_a_file(teacher: Known, tokens: Tokens, own_cache: Path) -> None:
    found = get(teacher, tokens, TOP, Need(Signal.HIDDEN, 2), Need(Signal.VALUES, -2))
    assert sorted(path.name for path in own_cache.rglob("*.npy")) == ["hidden.2.npy", "logits.npy", "values.0.npy"]
    assert set(found.arrays) == {LOGITS, Need(Signal.HIDDEN, 2), Need(Signal.VALUES, 0)}


def test_a_layer_that_the_teacher_lacks_is_refused_by_name(teacher: Known, tokens: Tokens) -> None:
    with pytest.raises(PluginError, match=r"the teacher: Need\(Signal.HIDDEN, 3\): this model has 3: use -3 .. 2"):
        get(teacher, tokens, Need(Signal.HIDDEN, 3))
    with pytest.raises(PluginError, match=r"the teacher: Need\(Signal.VALUES, 2\): this model has 2"):
        get(teacher, tokens, Need(Signal.VALUES, 2))


def test_bytes_are_counted_before_anything_runs(teacher: Known, tokens: Tokens) -> None:
    assert signal_cache.bytes_needed([], tokens, teacher.info) == 5 * 3 * 4
    assert signal_cache.bytes_needed([Need(Signal.POOLED)], tokens, teacher.info) == 60 + 5 * 8 * 4
    assert signal_cache.bytes_needed([TOP, Need(Signal.HIDDEN, 2)], tokens, teacher.info) == 60 + 25 * 8 * 4
    assert signal_cache.bytes_needed([Need(Signal.ATTENTION)], tokens, teacher.info) == 60
    assert signal_cache.bytes_needed([TOP], [tokens, tokens], teacher.info) == 2 * 860


def test_only_what_fits_is_cached_in_the_order_of_needs_and_attention_never(teacher: Known, tokens: Tokens) -> None:
    low, values, attention = Need(Signal.HIDDEN, 0), Need(Signal.VALUES), Need(Signal.ATTENTION)
    needs = [attention, values, TOP, low, Need(Signal.POOLED)]
    # logits 60, pooled 160, each token-level signal 800 bytes
    assert signal_cache.plan(needs, [tokens], teacher.info, 1800) == signal_cache.CachePlan(
        (LOGITS, Need(Signal.POOLED), values), (attention, TOP, low), 1020
    )
    assert signal_cache.plan(needs, [tokens], teacher.info, 0) == signal_cache.CachePlan(
        (LOGITS, Need(Signal.POOLED)), (attention, values, TOP, low), 220
    )
    assert signal_cache.plan(needs, [tokens], teacher.info, None).live == (attention,)
    assert signal_cache.plan([TOP], [tokens, tokens], teacher.info, 1000).live == (TOP,)


@pytest.mark.parametrize("part", ["ids", "offsets", "types", "no types", "weights", "tokenizer", "max_length"])
def test_any_change_of_what_decides_the_numbers_misses(teacher: Known, tokens: Tokens, part: str) -> None:
    get(teacher, tokens)
    max_length = 16
    if part == "ids":
        tokens = replace(tokens, ids=tokens.ids.copy())
        tokens.ids[-1] ^= 1
    elif part == "offsets":
        tokens = replace(tokens, offsets=tokens.offsets.copy())
        tokens.offsets[1] += 1
    elif part == "types":
        assert tokens.types is not None
        tokens = replace(tokens, types=tokens.types ^ np.eye(1, 25, 4, dtype=np.int8)[0])
    elif part == "no types":
        tokens = replace(tokens, types=None)
    elif part == "weights":
        teacher = replace(teacher, fingerprint="weightz")
    elif part == "tokenizer":
        teacher = replace(teacher, tokenizer_hash="tokenizes")
    else:
        max_length = 17
    assert signal_cache.stored_logits(teacher, tokens, max_length) is None
    assert signal_cache.signals(teacher, tokens, [], max_length=max_length).forwards == 5


@pytest.mark.parametrize("damage", ["flipped", "cut", "side file cut", "side file of another", "gone"])
def test_a_corrupt_file_is_made_again_with_a_note(teacher: Known, tokens: Tokens, own_cache: Path, damage: str) -> None:
    before = np.array(get(teacher, tokens, TOP).arrays[TOP_FROM_BOTTOM])
    path = next(own_cache.rglob("hidden.2.npy"))
    content = path.read_bytes()
    if damage == "flipped":
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    elif damage == "cut":
        path.write_bytes(content[:-8])
    elif damage == "side file cut":
        path.with_suffix(".json").write_text("{")
    elif damage == "side file of another":
        path.with_suffix(".json").write_text('{"bytes": 1, "blake2b": "00"}')
    else:
        path.unlink()
    found = get(teacher, tokens, TOP)
    assert found.forwards == 5
    assert found.notes == (() if damage == "gone" else (f"{path}: corrupt, made again",))
    np.testing.assert_allclose(found.arrays[TOP_FROM_BOTTOM], before, atol=1e-6)
    again = get(teacher, tokens, TOP)
    assert again.forwards == 0
    assert again.notes == ()


def test_a_file_without_its_checksum_was_never_finished(teacher: Known, tokens: Tokens, own_cache: Path) -> None:
    get(teacher, tokens)
    path = next(own_cache.rglob("logits.npy"))
    path.with_suffix(".json").unlink()
    leftover = path.with_name(".999.logits.npy")
    leftover.write_bytes(b"half")
    found = get(teacher, tokens)
    assert found.forwards == 5
    assert found.notes == ()
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["lock", "logits.json", "logits.npy"]


def test_nothing_is_left_when_the_teacher_is_interrupted(teacher: Known, tokens: Tokens, own_cache: Path) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(teacher, tokens, progress=interrupt)
    assert [path.name for path in own_cache.rglob("*") if path.is_file()] == ["lock"]
    assert get(teacher, tokens).forwards == 5


def test_progress_counts_rows(teacher: Known, tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal_cache, "TOKENS_PER_BATCH", 14)
    seen: list[tuple[str, int, int]] = []
    get(teacher, tokens, progress=lambda *told: seen.append(told))
    assert seen == [("running the teacher", 2, 5), ("running the teacher", 4, 5), ("running the teacher", 5, 5)]


def test_parts_have_entries_of_their_own(teacher: Known, tokens: Tokens) -> None:
    get(teacher, tokens)
    more = Tokens(tokens.ids[:8], tokens.offsets[:3], None)
    assert get(teacher, more).forwards == 2
    assert get(teacher, tokens).forwards == 0


def test_a_part_without_rows_needs_no_disk(teacher: Known, own_cache: Path) -> None:
    nothing = Tokens(np.zeros(0, np.int32), np.zeros(1, np.int64), None)
    found = get(teacher, nothing, TOP)
    assert found.logits.shape == (0, 3)
    assert found.arrays[TOP_FROM_BOTTOM].shape == (0, 8)
    assert found.forwards == 0
    assert not own_cache.exists()


def test_a_disk_too_small_is_told_before_the_teacher_runs(teacher: Known, tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal_cache.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 59})())
    with pytest.raises(EnvironmentProblem, match=r"KDSEARCH_CACHE.*cache\.max_bytes"):
        get(teacher, tokens)


def test_a_disk_that_fills_up_is_one_clear_error(teacher: Known, tokens: Tokens, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(EnvironmentProblem, match="the disk is full: free some space"):
        get(teacher, tokens)
    assert not list(own_cache.rglob("*.npy"))


def test_a_cache_that_cannot_be_written_names_the_variable(
    teacher: Known, tokens: Tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KDSEARCH_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(EnvironmentProblem, match=r"file/below: the cache cannot be written .*: set KDSEARCH_CACHE"):
        get(teacher, tokens)


def test_two_at_a_time_fill_an_entry_once_and_both_read_it_whole(teacher: Known, tokens: Tokens) -> None:
    waiting: list[str] = []
    running = threading.Event()

    def first_told(what: str, done: int, total: int) -> None:
        running.set()
        while not waiting:
            time.sleep(0.01)

    def second_told(what: str, done: int, total: int) -> None:
        waiting.append(what)

    def second() -> signal_cache.Stored:
        assert running.wait(10)
        return get(teacher, tokens, progress=second_told)

    with ThreadPoolExecutor() as pool:  # each opens the lock for itself, as two processes do
        runs = [pool.submit(get, teacher, tokens, progress=first_told), pool.submit(second)]
        one, two = (run.result(timeout=20) for run in runs)
    assert (one.forwards, two.forwards) == (5, 0)
    assert waiting == ["waiting for another process that runs the same teacher on the same text"]
    np.testing.assert_array_equal(one.logits, two.logits)
