"""Tests never reach the network, and keep their caches to themselves."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two threads that wait for each other on busy cores take ten times as long


@pytest.fixture(scope="session", autouse=True)
def full_precision() -> Iterator[None]:
    """The same numbers on every machine: no CPU counts as fast in bfloat16, but where a test says so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cpu, "get_capabilities", dict)
        yield


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A teacher's cache for this run of the tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDSEARCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
